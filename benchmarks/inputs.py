"""Windows a second into the loop: this project's batches against PyTorchVideo's LabeledVideoDataset, on the same files, with the same output.

    .venv/bin/python benchmarks/inputs.py --study data/demo --out benchmarks

Both give batches of (16, 3, 16, 224, 224) float32, normalised, short side 256, centre 224, flipped half of the time, through two worker processes. Ours is shown
*cold* (every window decoded from its clip) and *with the cache* (the second epoch, in memory and on disk); the files themselves are in the system's page cache for all.
The rounds alternate; the median of the rounds counts.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
FRAMES, PX, SHORT, BATCH = 16, 224, 256, 16
MEAN, STD = (0.45,) * 3, (0.225,) * 3


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--study", type=Path, default=ROOT / "data/demo", help="folder with split/ and clips/")
    p.add_argument("--windows", type=int, default=160, help="windows a round")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--out", type=Path, help="folder for inputs.json")
    return p.parse_args()


def config(study: Path, **loader):
    from crosssuck.core import make_config
    return make_config({"experiment": "benchmark", "data": {"split_dir": str(study.resolve() / "split"), "clips": str(study.resolve() / "clips/clips.csv")},
                        "window": {"num_frames": FRAMES, "sample_fps": 12.0}, "geometry": {"policy": "center", "size_px": PX, "short_side_px": SHORT},
                        "augment": {"trivial": False, "colour": 0.0, "hflip": 0.5}, "optim": {"lr": 1e-4, "epochs": 1, "batch_size": BATCH}, "loader": loader})


def ours(study: Path, windows: int, cache, **loader):
    from crosssuck.inputs import InputSpec, load_events
    c = config(study, **loader)
    events = load_events(c, "train", spec=InputSpec(FRAMES, PX, MEAN, STD), cache=cache)
    return events.subset(range(min(windows, len(events)))), c


def pytorchvideo_loader(paths: list[Path], workers: int):
    import torchvision.transforms.functional as functional
    sys.modules.setdefault("torchvision.transforms.functional_tensor", types.ModuleType("torchvision.transforms.functional_tensor"))
    for name in ("rgb_to_grayscale",):
        setattr(sys.modules["torchvision.transforms.functional_tensor"], name, getattr(functional, name))
    from pytorchvideo.data import LabeledVideoDataset
    from pytorchvideo.data.clip_sampling import RandomClipSampler
    from pytorchvideo.transforms import ApplyTransformToKey, Normalize, ShortSideScale, UniformTemporalSubsample
    from torchvision.transforms import CenterCrop, Compose, Lambda, RandomHorizontalFlip
    transform = ApplyTransformToKey("video", Compose([UniformTemporalSubsample(FRAMES), Lambda(lambda x: x / 255.0), Normalize(MEAN, STD),
                                                      ShortSideScale(SHORT), CenterCrop(PX), RandomHorizontalFlip(0.5)]))
    labelled = [(str(p), {"label": int("tail" in p.name)}) for p in paths]
    data = LabeledVideoDataset(labelled, RandomClipSampler(clip_duration=FRAMES / 12), transform=transform, decode_audio=False)
    return torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=workers)


def rate(batches, video) -> tuple[float, torch.Tensor]:
    "Go through all batches once; windows a second, and the last batch."
    begun, n, last = time.perf_counter(), 0, None
    for batch in batches:
        last = video(batch)
        n += len(last)
    return n / (time.perf_counter() - begun), last


def main() -> None:
    o = options()
    torch.set_num_threads(1)
    from crosssuck.core import provenance, write_json
    from crosssuck.inputs import FrameCache, train_batches
    with tempfile.TemporaryDirectory() as folder:
        caches = {"cold": FrameCache(0), "cache in memory": FrameCache(4000), "cache on disk": FrameCache(0, 8000, Path(folder))}
        sets = {name: ours(o.study, o.windows, cache, workers=o.workers, cache_mb=0) for name, cache in caches.items()}
        paths = [e.path for e in sets["cold"][0].events]
        for p in paths:
            p.read_bytes()
        filled = {}
        for name, (events, _) in sets.items():
            begun = time.perf_counter()
            events.warm_cache()
            filled[name] = time.perf_counter() - begun
        runs = {name: (lambda e, epoch, ev=events, c=c: rate(train_batches(ev, c, 0, epoch), lambda b: b.video)) for name, (events, c) in sets.items()}
        runs["PyTorchVideo"] = lambda e, epoch: rate(pytorchvideo_loader(paths, o.workers), lambda b: b["video"])
        found: dict[str, list[float]] = {name: [] for name in runs}
        for k in range(o.rounds):
            for name, run in runs.items():
                speed, last = run(None, k)
                assert last.shape[1:] == (3, FRAMES, PX, PX) and last.dtype == torch.float32, (name, last.shape, last.dtype)
                assert abs(float(last.mean())) < 2 and float(last.std()) > 0.1, name
                found[name].append(speed)
                print(f"round {k + 1}, {name}: {speed:.1f} windows a second", flush=True)
    median = {name: statistics.median(v) for name, v in found.items()}
    theirs = median["PyTorchVideo"]
    facts = {"windows_a_second": {name: {"median": round(median[name], 1), "rounds": [round(x, 1) for x in v], "over_pytorchvideo": round(median[name] / theirs, 2)} for name, v in found.items()},
             "filling_the_cache_s": {k: round(v, 1) for k, v in filled.items() if k != "cold"}, "windows": len(paths), "workers": o.workers, "batch": [BATCH, 3, FRAMES, PX, PX],
             "clips": "proxies, " + "x".join(map(str, sets["cold"][0].table[["clip_width_px", "clip_height_px"]].iloc[0].astype(int))) + " px",
             "taken": provenance()["libraries"] | {"cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}}
    print(json.dumps(facts["windows_a_second"], indent=1))
    if o.out:
        write_json(o.out / "inputs.json", facts)


if __name__ == "__main__":
    main()
