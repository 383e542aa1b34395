"""Reading a training window (16 frames at 12 fps): from a proxy and from an archive clip, by our reader and by others, the same frames.

    .venv/bin/python benchmarks/reading.py [--rounds 5] [--folder data/benchmark] [--no-decord]

The first call draws the 4K segment and cuts one event of it (some minutes). Each reader works in a process of its own, whose peak memory is taken; all
work at the same time. decord is no requirement of this project: it is fetched into the folder, or left out where it cannot be. Prints the tables as Markdown.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FRAMES, WINDOW_FPS, SHORT_SIDE = 16, 12, 256
STARTS = {"proxy": (1.0067, 4.54, 8.54), "archive": (4.54,)} # s; where in a clip of 11 s the windows begin; no time midway between two frames


def window(start_s: float) -> list[float]:
    return [start_s + n / WINDOW_FPS for n in range(FRAMES)]


def crosssuck(path, times_s, short_side, threads):
    from crosssuck.video import read_frames
    return read_frames(path, times_s, short_side_px=short_side, threads=threads)[0]


def pytorchvideo(path, times_s, short_side, threads):
    import torch
    from pytorchvideo.data.encoded_video import EncodedVideo
    torch.set_num_threads(max(1, threads))
    clip = EncodedVideo.from_path(str(path), decode_audio=False).get_clip(times_s[0] - 0.05, times_s[-1] + 0.05)["video"]
    first = -(-(times_s[0] - 0.05) * 15 // 1)  # number of the first frame in it
    taken = clip[:, [round(t * 15 - first) for t in times_s]]
    if short_side:
        from torch.nn.functional import interpolate
        scale = short_side / min(taken.shape[-2:])
        taken = interpolate(taken.transpose(0, 1), scale_factor=scale, mode="area").transpose(0, 1)
    return taken.permute(1, 2, 3, 0).byte().numpy()


def opencv(path, times_s, short_side, threads):
    import cv2
    import numpy as np
    cv2.setNumThreads(max(1, threads))
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    wanted = [round(t * video.get(cv2.CAP_PROP_FPS)) for t in times_s]
    video.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
    frames, at, frame = [], wanted[0] - 1, None
    for number in wanted:
        while at < number:
            video.grab()
            at += 1
            frame = None
        if frame is None:
            frame = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
            if short_side:
                scale = short_side / min(frame.shape[:2])
                frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        frames.append(frame)
    return np.stack(frames)


def decord(path, times_s, short_side, threads):
    from decord import VideoReader, cpu
    size = dict(width=round(short_side * 16 / 9), height=short_side) if short_side else {}
    video = VideoReader(str(path), ctx=cpu(0), num_threads=threads, **size)
    return video.get_batch([round(t * video.get_avg_fps()) for t in times_s]).asnumpy()


READERS = {"crosssuck": crosssuck, "PyTorchVideo": pytorchvideo, "OpenCV": opencv, "decord": decord}
IMPORTS = {"crosssuck": ["crosssuck.video"], "PyTorchVideo": ["torch", "pytorchvideo.data.encoded_video"], "OpenCV": ["cv2", "numpy"], "decord": ["decord"]}


def resident_mb(what: str) -> float:
    "VmHWM: the most this process has held; VmRSS: what it holds."
    return int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))) / 1024


def child(reader: str, path: str, short_side: int, threads: int) -> None:
    "Read the windows in this process; print seconds, memory and the numbers in the frames as JSON."
    import importlib
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    for name in IMPORTS[reader]:
        importlib.import_module(name)
    base_mb, seconds, work_s, got = resident_mb("VmRSS"), [], [], []
    for start_s in STARTS[Path(path).parent.name]:
        began, before_s = time.perf_counter(), time.process_time()
        frames = READERS[reader](path, window(start_s), short_side, threads)
        seconds.append(time.perf_counter() - began)
        work_s.append(time.process_time() - before_s)
        got.append(frames[:, -frames.shape[1] // 20:, :frames.shape[2] // 5].copy())  # the corner with the number
        shape = frames.shape
        del frames
    peak_mb = resident_mb("VmHWM")
    from segment import number_of_corner
    numbers = [[number_of_corner(corner, shape[1]) for corner in corners] for corners in got]
    print(json.dumps(dict(seconds=seconds, work_s=work_s, base_mb=base_mb, peak_mb=peak_mb, shape=shape, numbers=numbers)))


def run(reader: str, path: Path, short_side: int, threads: int, decord_at: Path) -> dict:
    paths = os.pathsep.join([str(decord_at), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, __file__, "--child", reader, str(path), str(short_side), str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(max(1, threads))})
    if done.returncode:
        raise SystemExit(f"{reader} on {path.name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def fetch_decord(folder: Path) -> str:
    "Put decord beside the segment; gives why not, if not."
    if (folder / "decord/decord").exists():
        return ""
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "decord"), "decord==0.6.0"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def clips_of(folder: Path) -> dict[str, Path]:
    "Cut one event of the segment as an archive clip and as a proxy."
    import pandas as pd
    from segment import make_segment

    from crosssuck.extraction import extract
    event = pd.DataFrame([dict(event_idx=0, behavior="ear", duration_sec=4, event_offset_sec=40, video_path=str(make_segment(folder)))])
    return {mode: folder / mode / extract(event, folder / mode, mode=mode).clip_path[0] for mode in ("proxy", "archive")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-decord", action="store_true")
    parser.add_argument("--readers", default=",".join(READERS), help="which, with commas between")
    parser.add_argument("--clips", default="proxy,archive", help="which, with commas between")
    parser.add_argument("--all-cores", action="store_true", help="also let each reader use all cores")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        reader, path, short_side, threads = args.child
        return child(reader, path, int(short_side), int(threads))
    from segment import default_folder, machine, markdown, shows
    folder, about = args.folder or default_folder(), machine()
    clips = {mode: path for mode, path in clips_of(folder).items() if mode in args.clips.split(",")}
    missing = "not wanted" if args.no_decord else fetch_decord(folder)
    readers = [r for r in READERS if r in args.readers.split(",") and (r != "decord" or not missing)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    tables = [(mode, short, threads) for threads in (1, *([cores] if args.all_cores else [])) for short in (SHORT_SIDE, 0) for mode in clips]
    taken = {(reader, *key): [] for key in tables for reader in readers}
    first = 40 * 15 - 3 * 15  # number of the first frame of the clips
    for n in range(args.rounds):
        for key in tables:
            mode, short, threads = key
            with ThreadPoolExecutor(len(readers) if threads == 1 else 1) as pool:  # on one core each, all at the same time: what disturbs one disturbs all
                all_got = list(pool.map(lambda r, k=key: run(r, clips[k[0]], k[1], k[2], folder / "decord"), readers))
            for reader, got in zip(readers, all_got, strict=True):
                for start_s, numbers in zip(STARTS[mode], got["numbers"], strict=True):
                    true = [(t, first + t * 15) for t in window(start_s)]
                    wrong = [(x, due) for x, (_, due) in zip(numbers, true, strict=True) if abs(x - due) > 0.51]
                    if wrong:
                        raise SystemExit(f"{reader} on {mode}: frame {wrong[0][0]} where {wrong[0][1]:.1f} was due")
                taken[reader, *key].append(got)
        print(f"  round {n + 1} of {args.rounds}", flush=True)
    def ms(reader, *key): return 1000 * statistics.median(statistics.median(g["work_s" if key[-1] == 1 else "seconds"]) for g in taken[reader, *key])
    def mb(reader, *key, what="peak_mb"): return statistics.median(g[what] for g in taken[reader, *key])
    print(f"\nSource: {shows(folder / 'segment.mp4')}. One event of 5 s, its clip of 11 s as `proxy` (short side 320) and as `archive` (4K, CRF 20). A window is {FRAMES} frames at {WINDOW_FPS} fps, in the middle of the clip "
          f"(of the proxy also early and late in it); each reader opens the file for each window, in a process of its own on one core, all readers at the same time, {args.rounds} times; medians. On one core the processor's time is given, which other work on the machine disturbs least; on all cores the clock's. Every reader's frames were checked by the number in them.\n\n{about}\n")
    if missing:
        print(f"decord is left out: {missing}\n")
    rows = []
    for what, short, threads in () if len(clips) < 2 or "crosssuck" not in readers else (("as training reads: scaled to a short side of 256", SHORT_SIDE, 1), ("whole frames", 0, 1)):
        fast, slow = (("crosssuck", m, short, threads) for m in ("proxy", "archive"))
        grown = [mb(*k) - mb(*k, what="base_mb") for k in (fast, slow)]
        rows.append([what, f"{ms(*fast):.0f} ms", f"{ms(*slow):.0f} ms", f"**{ms(*slow) / ms(*fast):.0f} ×**", f"{mb(*fast):.0f} MB", f"{mb(*slow):.0f} MB", f"{mb(*fast) / mb(*slow):.2f}",
                     f"{grown[0]:.0f} MB", f"{grown[1]:.0f} MB", f"**{grown[0] / grown[1]:.3f}**"])
    if rows:
        print(markdown(["our reader, one core", "proxy", "archive", "times as fast", "peak, proxy", "peak, archive", "share", "above the imports, proxy", "archive", "share"], rows), "\n")
    rows = []
    for mode, short, threads in tables:
        key = (mode, short, threads)
        cells = [f"{ms(r, *key):.0f} ms, {mb(r, *key):.0f} MB" for r in readers]
        best = min(readers, key=lambda r: ms(r, *key))
        rows.append([mode, "short side 256" if short else "whole frames", "one" if threads == 1 else f"all {threads}", *cells, best])
    print(markdown(["clip", "frames", "cores", *readers, "fastest"], rows))


if __name__ == "__main__":
    main()
