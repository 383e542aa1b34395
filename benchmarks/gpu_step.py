"""A training step of MViTv2-S on a GPU: this project's loop against torchvision's reference step, side by side in one run.

    .venv/bin/python benchmarks/gpu_step.py --out benchmarks          (needs a GPU; about five minutes)
    .venv/bin/python benchmarks/gpu_step.py --smoke                   (a small network on a CPU: does the script work?)

Both train mvit_v2_s with two classes on the same 16 x 3 x 16 x 224 x 224 clips, in the same precision, with the same loss (cross-entropy) and AdamW.
The reference is a step as in torchvision's video references: eager, autocast, GradScaler, optimiser as it comes. Ours is `train.train_step`, once for each
means alone and once with all of them. Shown: clips a second (median of the rounds, which alternate), peak memory, the share of the card's own bf16 rate
(measured here with a matrix product; 385 GFLOP a clip, forward and backward), and the loss of 50 steps beside the noise of two eager runs.
"""
import argparse
import contextlib
import functools
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
FORWARD_AND_BACK = 3    # operations of a training step over those of a forward pass
WAYS = {"loop, plain": {}, "fused attention": {"attention": "fused"}, "channels last": {"attention": "fused", "channels_last": True},
        "compiled": {"attention": "fused", "compile": True}, "compiled, channels last": {"attention": "fused", "compile": True, "channels_last": True}}


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--smoke", action="store_true", help="a small network on the CPU, to try the script")
    p.add_argument("--steps", type=int, default=20, help="timed steps a round")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--losses", type=int, default=50, help="steps whose losses are compared")
    p.add_argument("--ways", default=",".join(WAYS), help="which of ours")
    p.add_argument("--out", type=Path, help="folder for gpu_step.json")
    return p.parse_args()


class Bench:
    "What both sides share: the config, the clips, the device."
    def __init__(self, smoke: bool):
        from crosssuck.core import make_config
        from crosssuck.inputs import load_events, train_batches
        from crosssuck.model import choose_machine, input_spec
        from crosssuck.simulation import tiny_study
        self.smoke, study = smoke, tiny_study()
        frames, px, clips, backbone = (8, 32, 2, "mvit_tiny") if smoke else (16, 224, 16, "mvit_v2_s")
        self.config = make_config({"experiment": "bench", "data": {"split_dir": str(study / "split"), "clips": str(study / "clips/clips.csv")}, "window": {"num_frames": frames, "sample_fps": 12.0},
                                   "geometry": {"policy": "squash", "size_px": px}, "augment": {"trivial": False, "colour": 0.0, "mixup_alpha": 0.0},
                                   "model": {"backbone": backbone, "weights": "none", "head_dropout": 0.0, "attention": "plain"}, "loss": {"focal_gamma": 0.0},
                                   "optim": {"lr": 2e-5, "epochs": 1, "batch_size": clips}, "loader": {"workers": 0, "cache_mb": 2000, "transforms": "device"}})
        self.machine = choose_machine("cpu" if smoke else "cuda")
        self.events = load_events(self.config, "train", spec=input_spec(self.config))
        self.batches = [b.to(self.machine.device) for k in range(4) for b in train_batches(self.events, self.config, 0, k, device=self.machine.device) if len(b) == clips]

    def ours(self, attention: str = "plain", compile: bool = False, channels_last: bool = False, seed: int = 0):
        "A step of the loop, and its loss."
        from crosssuck.core import RunFolder
        from crosssuck.train import start_loop, train_step
        config = replace(self.config, model=replace(self.config.model, attention=attention), optim=replace(self.config.optim, compile=compile, channels_last=channels_last))
        with patched_compile() if self.smoke else contextlib.nullcontext():
            loop = start_loop(config, RunFolder(Path(tempfile.mkdtemp())), 0, self.machine.device.type)
        loop.seed = seed    # of dropout and stochastic depth; the weights are those of seed 0
        loop.model.train()

        def step(k: int) -> float:
            loop.seen = {name: [] for name in loop.seen}
            train_step(loop, [self.batches[k % len(self.batches)]])
            return statistics.mean(loop.seen["loss"])
        return step

    def reference(self, seed: int = 0):
        "torchvision's reference step: eager, autocast, GradScaler."
        from crosssuck.model import build_model
        torch.manual_seed(0)
        model = build_model(self.config).to(self.machine.device).train()
        optimiser, criterion = torch.optim.AdamW(model.parameters(), lr=5e-7, weight_decay=0.05), torch.nn.CrossEntropyLoss()
        optimiser.param_groups[0]["lr"] = 2e-5
        scaler = torch.amp.GradScaler(self.machine.device.type, enabled=self.machine.device.type == "cuda")
        torch.manual_seed(seed + 1)

        def step(k: int) -> float:
            batch = self.batches[k % len(self.batches)]
            with self.machine.autocast():
                loss = criterion(model(batch.video), batch.label)
            optimiser.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimiser)
            scaler.update()
            return loss.item()
        return step

    def wait(self) -> None:
        if self.machine.device.type == "cuda":
            torch.cuda.synchronize()

    def time(self, step, n: int) -> float: # clips a second
        self.wait()
        begun = time.perf_counter()
        for k in range(n):
            step(k)
        self.wait()
        return n * self.config.optim.batch_size / (time.perf_counter() - begun)


@contextlib.contextmanager
def patched_compile():
    "Compile without a compiler, for the smoke run."
    real = torch.compile
    torch.compile = functools.partial(real, backend="aot_eager")
    try:
        yield
    finally:
        torch.compile = real


def card_rate(device: str) -> float: # operations a second
    "The card's own bf16 rate: a product of two square matrices."
    n = 8192 if device == "cuda" else 256
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    speeds = []
    for _ in range(13):
        if device == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        speeds.append(2 * n**3 / (time.perf_counter() - begun))
    return statistics.median(speeds[3:])


def peak_gb(bench: Bench, step) -> float | None:
    if bench.machine.device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()  # clips, and weights and optimisers of all sides
    step(0)
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def compare_losses(bench: Bench, n: int, ways: list[str]) -> dict[str, dict[str, float]]:
    "Mean distance of the losses of n steps from an eager run's, in windows of ten; the noise is that of another eager run."
    def losses(step):
        values = torch.tensor([step(k) for k in range(n)])
        return values.unfold(0, min(10, n), 1).mean(1)
    first = losses(bench.reference(0))
    out = {"eager, another seed": {"distance": float((losses(bench.reference(100)) - first).abs().mean())}}
    for way in ways:
        out[way] = {"distance": float((losses(bench.ours(**WAYS[way])) - first).abs().mean())}
    return {k: {"distance": round(v["distance"], 5)} for k, v in out.items()}


def main() -> None:
    o = options()
    if not o.smoke and not torch.cuda.is_available():
        raise SystemExit("no GPU here: the measurement is not taken; --smoke tries the script on the CPU")
    o.steps, o.rounds, o.losses = (2, 2, 4) if o.smoke else (o.steps, o.rounds, o.losses)
    from crosssuck.core import provenance, write_json
    from crosssuck.model import count_flops
    bench, ways = Bench(o.smoke), [w.strip() for w in o.ways.split(",") if w.strip()] if o.ways != ",".join(WAYS) else list(WAYS)
    torch.backends.cudnn.benchmark = not o.smoke
    steps = {"torchvision's reference": bench.reference(), **{w: bench.ours(**WAYS[w]) for w in ways}}
    memory, found = {}, {name: [] for name in steps}
    for name, step in steps.items():
        begun = time.perf_counter()
        for k in range(3):
            step(k)
        bench.wait()
        print(f"{name}: ready after {time.perf_counter() - begun:.0f} s", flush=True)
        memory[name] = peak_gb(bench, step)
    for _ in range(o.rounds):
        for name, step in steps.items():
            found[name].append(bench.time(step, o.steps))
    rate, work = card_rate(bench.machine.device.type), FORWARD_AND_BACK * count_flops(bench.config)
    base = statistics.median(found["torchvision's reference"])
    table = {name: {"clips_a_second": round(statistics.median(v), 2), "rounds": [round(x, 2) for x in v], "over_reference": round(statistics.median(v) / base, 3),
                    "peak_gb_of_a_step": memory[name] and round(memory[name], 2), "share_of_bf16_rate": round(statistics.median(v) * work / rate, 3)} for name, v in found.items()}
    del steps
    facts = {"device": torch.cuda.get_device_name() if bench.machine.device.type == "cuda" else "cpu (smoke)", "computes_on": str(bench.machine), "batch": [bench.config.optim.batch_size, 3, bench.config.window.num_frames,
             bench.config.geometry.size_px, bench.config.geometry.size_px], "ways": table, "card_bf16_tflops": round(rate / 1e12, 1), "losses_of_steps": o.losses,
             "losses": compare_losses(bench, o.losses, ways), "taken": provenance()["libraries"] | {"date": time.strftime("%Y-%m-%d")}}
    print(json.dumps(facts, indent=1))
    if o.out:
        write_json(o.out / "gpu_step.json", facts)


if __name__ == "__main__":
    main()
