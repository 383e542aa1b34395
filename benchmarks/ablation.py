"""What each of E1's faults costs, on simulated calves: the same small network with the design's inputs and with each fault put back, three seeds each.

    .venv/bin/python benchmarks/ablation.py --study data/demo --out benchmarks

The study is what `make demo` leaves behind (`data/demo`). Fifteen trainings of a minute or two; those whose predictions are already in --runs are not repeated.
Writes ablation.json (costs with intervals, every seed) and, with --picture, a figure of them.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--study", type=Path, default=ROOT / "data/demo", help="folder with split/, clips/ and cohort/boxes.csv")
    p.add_argument("--config", default="demo_v4_roi", help="experiment whose faultless twin this is")
    p.add_argument("--seeds", default="0,1,2")
    p.add_argument("--runs", type=Path, default=ROOT / "runs/ablation", help="where the runs go")
    p.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="where ablation.json goes")
    p.add_argument("--picture", type=Path, help="a png of the costs")
    p.add_argument("--epochs", type=int, help="fewer epochs, to try the script")
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--one", nargs=2, metavar=("FAULT", "SEED"), help=argparse.SUPPRESS)
    return p.parse_args()


def experiment(o: argparse.Namespace, fault: str):
    from crosssuck.core import load_config
    from crosssuck.train import with_fault
    config = load_config(ROOT / "configs" / f"{o.config}.yaml")
    data = replace(config.data, split_dir=str(o.study.resolve() / "split"), clips=str(o.study.resolve() / "clips/clips.csv"), boxes=str(o.study.resolve() / "cohort/boxes.csv"))
    optim = replace(config.optim, epochs=o.epochs, cosine_epochs=max(o.epochs, 2)) if o.epochs else config.optim
    loader = replace(config.loader, cache_mb=0, disk_mb=20_000, disk_dir=str(o.runs.resolve() / "cache"))     # fifteen runs decode once
    config = replace(config, data=data, optim=optim, loader=loader, experiment="ablation_none")
    return config if fault == "none" else with_fault(config, fault)


def one_run(o: argparse.Namespace, fault: str, seed: int) -> None:
    "Train one network and score the groups that training never saw."
    from crosssuck.core import open_run, write_csv
    from crosssuck.inputs import eval_batches, load_events
    from crosssuck.model import input_spec, load_checkpoint, predict
    from crosssuck.train import fit
    config = experiment(o, fault)
    run = open_run(o.runs, config, seed, resume=True)
    fit(config, run, seed, device="cpu")
    model, _, _ = load_checkpoint(run / "best.ckpt")
    events = load_events(config, "test_ood", spec=input_spec(config))
    write_csv(run / "test_predictions.csv", predict(model, eval_batches(events, config), events))


def table(o: argparse.Namespace, fault: str, seed: int) -> Path:
    return o.runs / f"ablation_{fault}" / f"s{seed}" / "test_predictions.csv"


def spoken(o: argparse.Namespace, fault: str, seeds: list[int]) -> str:
    "Say which guards of the training spoke, and with how many seeds."
    names = [g["guard"] for s in seeds for g in json.loads((table(o, fault, s).parent / "training_history.json").read_text())["guards"]]
    return ", ".join(f"{name} ({names.count(name)} of {len(seeds)})" for name in dict.fromkeys(names)) or "none"


def main() -> None:
    o = options()
    if o.one:
        return one_run(o, o.one[0], int(o.one[1]))
    import pandas as pd

    from crosssuck.core import figure_png, provenance, write_json
    from crosssuck.train import FAULTS, cost_figure, fault_costs
    seeds, names = [int(s) for s in o.seeds.split(",")], ["none", *FAULTS]
    begun = time.monotonic()

    def work(job):
        fault, seed = job
        if not table(o, fault, seed).exists():
            words = [sys.executable, __file__, *sys.argv[1:], "--one", fault, str(seed)]
            subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        print(f"{fault}, seed {seed}: done after {time.monotonic() - begun:.0f} s", flush=True)
    with ThreadPoolExecutor(o.jobs) as pool:
        list(pool.map(work, [(f, s) for s in seeds for f in names]))
    costs = fault_costs({f: [pd.read_csv(table(o, f, s)) for s in seeds] for f in names})
    costs["guards"] = [spoken(o, f, seeds) for f in costs.index]
    rows = json.loads(costs.reset_index().round(4).to_json(orient="records"))
    facts = {"what": "change of ROC AUC on groups never seen in training, fault put back minus design's inputs; paired by event, bout and seed",
             "interval": "95 %: BCa bootstrap over bouts of the mean over seeds, widened by Student's t over the differences of the seeds",
             "config": o.config, "seeds": seeds, "costs": rows, "taken": provenance()["libraries"] | {"cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}}
    write_json(o.out / "ablation.json", facts)
    if o.picture:
        o.picture.write_bytes(figure_png(cost_figure(costs)))
    for row in rows:
        print(f"{row['fault']}: ROC AUC {row['roc_auc_with']:.3f} instead of {row['roc_auc_without']:.3f}, {row['cost']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}), seeds {row['seeds']}")


if __name__ == "__main__":
    main()
