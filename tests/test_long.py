"""The long tier (`make check`): twins that must be called at chance, a shortcut that must be noticed, work that is killed and goes on.

The figures it takes are printed, and written to benchmarks/check.json with the date and the versions; benchmarks/README.md shows them.
"""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from crosssuck.core import config_dict, load_config, provenance, read_json, write_csv, write_json

pytestmark = pytest.mark.long
CLI = [str(Path(sys.executable).parent / "crosssuck")]


def crosssuck(*words, code=0, **env):
    done = subprocess.run([*CLI, *map(str, words)], env={**os.environ, "OMP_NUM_THREADS": "1", **env}, capture_output=True, text=True)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def prepare(folder: Path, *options) -> Path:
    "From nothing to clips and a split, with the same verbs as the demo."
    crosssuck("simulate", folder / "cohort", "--demo", *options)
    crosssuck("manifest", folder / "cohort/workbook.xlsx", "--out", folder / "manifest")
    crosssuck("scan", folder / "cohort/videos", "--out", folder / "inventory.csv")
    crosssuck("link", folder / "manifest/events.csv", folder / "inventory.csv", "--cameras", folder / "cohort/cameras.yaml", "--out", folder / "linked.csv")
    crosssuck("extract", folder / "linked.csv", "--mode", "proxy", "--out", folder / "clips", "--workers", "2")
    crosssuck("split", folder / "linked.csv", "--scheme", "bout", "--out", folder / "split")
    return folder


@pytest.fixture(scope="session")
def study(root, tmp_path_factory) -> Path:
    "The demo's own study where it has been made, else a new one."
    made = root / "data/demo"
    if (made / "clips/clips.csv").exists() and (made / "split/split.json").exists():
        return made
    return prepare(tmp_path_factory.mktemp("study"), "--seed", "1")


@pytest.fixture(scope="session")
def figures(root):
    "What the long tier measured; kept for benchmarks/README.md."
    taken: dict = {}
    yield taken
    if taken:
        path = root / "benchmarks/check.json"
        write_json(path, {**(read_json(path) if path.exists() else {}), **taken, "taken": provenance()["libraries"] | {"date": time.strftime("%Y-%m-%d")}})


def config_for(root, out: Path, name: str, study: Path, split: Path, clips: Path, **sections) -> Path:
    facts = config_dict(load_config(root / "configs/demo_v4_roi.yaml"))
    facts |= {"experiment": name, **{k: {**facts[k], **v} for k, v in sections.items()}}
    facts["data"] |= {"split_dir": str(split), "clips": str(clips), "boxes": str(study / "cohort/boxes.csv")}
    path = out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


def shuffle_labels(study: Path, out: Path, seed: int) -> tuple[Path, Path]:
    "Copy split and clips table with the labels exchanged at random inside each side: as many of each class as before."
    rng, label = np.random.default_rng(seed), {}
    split = out / f"split_{seed}"
    shutil.copytree(study / "split", split)
    facts = read_json(split / "split.json")
    for side in ("train", "val", "test_ood"):
        table = pd.read_csv(split / f"{side}.csv", dtype=str, keep_default_na=False)
        table["behavior"] = rng.permutation(table["behavior"].to_numpy())
        label |= dict(zip(table["event_idx"], table["behavior"], strict=True))
        write_csv(split / f"{side}.csv", table)
    from crosssuck.core import sha256_file
    if "files" in facts:
        facts["files"] = {k: sha256_file(split / k) if (split / k).exists() else v for k, v in facts["files"].items()}
    write_json(split / "split.json", facts)
    clips = study / "clips" / f"clips_shuffled_{seed}.csv"
    table = pd.read_csv(study / "clips/clips.csv", dtype=str, keep_default_na=False)
    table["behavior"] = [label.get(i, b) for i, b in zip(table["event_idx"], table["behavior"], strict=True)]
    write_csv(clips, table)
    return split, clips


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_model_of_shuffled_labels_is_called_at_chance(root, study, tmp_path, figures, seed):
    split, clips = shuffle_labels(study, tmp_path, seed)
    try:
        config = config_for(root, tmp_path, f"shuffled_{seed}", study, split, clips)
        crosssuck("run", config, "--seeds", seed, "--runs", tmp_path / "runs")
    finally:
        clips.unlink()
    run = tmp_path / f"runs/shuffled_{seed}/s{seed}"
    for part in ("metrics", "test_metrics"):
        facts = read_json(run / f"metrics/{part}.json")
        i = facts["intervals"]["roc_auc"]
        print(f"\nshuffled labels, seed {seed}, {part}: ROC AUC {facts['metrics']['roc_auc']:.3f} ({i['low']:.2f} to {i['high']:.2f}), {facts['n']} events. {facts['verdict'].split('.')[0]}")
        figures[f"shuffled_{seed}_{part}"] = {"roc_auc": facts["metrics"]["roc_auc"], **{k: i[k] for k in ("low", "high", "n_units")}, "n": facts["n"], "call": facts["call"]}
        assert facts["call"] in ("at_chance", "not_beyond_metadata") and (part == "metrics" or facts["call"] == "at_chance"), facts["verdict"]


def test_nothing_but_the_behaviour_tells_the_label_of_the_demos_cohort(study, figures):
    from crosssuck.simulation import leak_probes
    probes = leak_probes(study / "cohort")
    for r in probes.itertuples():
        print(f"\nlinear probe on unseen groups, {r.what}: ROC AUC {r.auc:.3f} ({r.low:.2f} to {r.high:.2f}), {r.n_events} events, {r.n_bouts} bouts")
        figures[f"probe: {r.what}"] = {"roc_auc": round(r.auc, 3), "low": round(r.low, 3), "high": round(r.high, 3), "n": int(r.n_events), "n_units": int(r.n_bouts)}
    assert (probes.auc < 0.6).all()


def test_the_panel_notices_a_shortcut(root, tmp_path, figures):
    folder = prepare(tmp_path / "study", "--seed", "2", "--shortcut", "1.0")
    config = config_for(root, tmp_path, "shortcut", folder, folder / "split", folder / "clips/clips.csv", optim={"epochs": 8, "cosine_epochs": 8})
    crosssuck("run", config, "--seeds", "0", "--runs", tmp_path / "runs")
    run = tmp_path / "runs/shortcut/s0"
    crosssuck("confounds", run / "predictions_agg.csv", "--train", folder / "split/train.csv", "--val", folder / "split/val.csv", "--run", run, "--out", tmp_path / "panel", "--simulated")
    panel = json.loads((tmp_path / "panel/confounds.json").read_text())
    rows = {r["what"]: r for r in (panel if isinstance(panel, list) else panel["rows"])}
    for what, r in rows.items():
        print(f"\nshortcut on: {what}: {r['figure']} ({r.get('low')} to {r.get('high')}) {r['means']}")
    colour = next(r for what, r in rows.items() if "colour" in what.lower() or "light" in what.lower())
    metadata = next(r for what, r in rows.items() if "metadata" in what.lower())
    figures["shortcut"] = {name: {k: r[k] for k in ("figure", "low", "high", "n", "means")} for name, r in (("colour", colour), ("metadata", metadata))}
    assert colour["doubt"] and "a shortcut" in colour["means"] and colour["figure"] > 0.7 and metadata["low"] > 0.6


def at(run: Path) -> tuple[int, int]:
    "Epochs finished and batches of the next one, as `last.ckpt` has them."
    import torch
    path = run / "last.ckpt"
    if not path.exists():
        return 0, 0
    saved = torch.load(path, weights_only=True)
    return saved["epoch"], saved["step"]


def kill_all(job: subprocess.Popen) -> list[str]:
    "SIGKILL a command and all that it started (workers and kernels live in sessions of their own); give their command lines."
    top = psutil.Process(job.pid)
    tree = [top, *top.children(recursive=True)]
    lines = [" ".join(p.cmdline()) for p in tree]
    for p in tree:
        p.kill()
    job.wait()
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree):
        time.sleep(0.05)
    return lines


def test_a_killed_training_ends_in_the_same_weights(root, study, tmp_path):
    "Killed while the first epoch is scored, in the midst of the second epoch, and while the second is scored."
    import torch
    epochs = 3
    config = config_for(root, tmp_path, "killed", study, study / "split", study / "clips/clips.csv", optim={"epochs": epochs, "cosine_epochs": epochs})
    crosssuck("run", config, "--seeds", 0, "--runs", tmp_path / "undisturbed")
    whole, torn = (tmp_path / d / "killed/s0" for d in ("undisturbed", "disturbed"))
    an_epoch_s = read_json(whole / "training_history.json")["seconds"][1]
    before = (0, 0)
    for reached, wait_s in (((0, 1), 0), ((1, 0), 0.3 * an_epoch_s), ((1, 1), 0)):
        words = [*CLI, "run", str(config), "--seeds", "0", "--runs", str(tmp_path / "disturbed"), "--resume"]
        job = subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            while at(torn) < reached:
                assert job.poll() is None, f"it ended with {job.returncode} before {reached}"
                time.sleep(0.1)
            time.sleep(wait_s)
        finally:
            lines = kill_all(job) if job.poll() is None else []
        there = at(torn)
        print(f"\nkilled {there[0]} epochs and {there[1]} batches after its beginning, with {len(lines)} processes")
        assert any("ipykernel" in line for line in lines) and not (torn / "DONE").exists(), lines      # a kernel was at work,
        assert before < there and reached <= there < (epochs, 0), there                                # it had gone on since the last kill, and it was still training
        assert len(read_json(torn / "training_history.json")["epoch"]) == there[0] if there[0] else not (torn / "training_history.json").exists()
        time.sleep(2)
        assert at(torn) == there        # nothing of it is left running
        before = there
    crosssuck("run", config, "--seeds", 0, "--runs", tmp_path / "disturbed", "--resume")
    a, b = (torch.load(run / "last.ckpt", weights_only=True) for run in (whole, torn))
    assert a["model"].keys() == b["model"].keys() and all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
    assert {k: v for k, v in a["history"].items() if k != "seconds"} == {k: v for k, v in b["history"].items() if k != "seconds"}
