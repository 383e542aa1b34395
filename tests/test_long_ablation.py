"""The long tier: what each of E1's faults costs on the simulated cohort, by the script that made benchmarks/ablation.json.

Fifteen trainings of a minute or two. No score is asserted, only that the study is whole and paired, and that its twin without faults has learnt something to lose.
"""
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from crosssuck.core import read_json

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "benchmarks" / "ablation.json"


@pytest.mark.long
def test_the_ablation_that_explains_e1(tmp_path):
    study = ROOT / "data" / "demo"
    if not (study / "clips" / "clips.csv").exists():
        pytest.skip("the demo's study is not here: run make demo")
    from crosssuck.train import FAULTS
    words = [sys.executable, str(ROOT / "benchmarks" / "ablation.py"), "--study", str(study), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--picture", str(tmp_path / "costs.png"),
             "--jobs", str(max(1, (os.cpu_count() or 2) // 2))]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "IN_TEST": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    print("\n" + "\n".join(line for line in done.stdout.splitlines() if "ROC AUC" in line))
    facts = read_json(tmp_path / "ablation.json")
    rows = {r["fault"]: r for r in facts["costs"]}
    assert set(rows) == set(FAULTS) and facts["seeds"] == [0, 1, 2] and (tmp_path / "costs.png").stat().st_size > 5000
    tables = {f: [pd.read_csv(tmp_path / f"runs/ablation_{f}/s{s}/test_predictions.csv") for s in (0, 1, 2)] for f in ("none", *FAULTS)}
    assert {tuple(t.event_idx) for v in tables.values() for t in v} == {tuple(tables["none"][0].event_idx)} and set(tables["none"][0].group) == {4, 5}
    for r in rows.values():
        assert len(r["seeds"]) == 3 and r["low"] <= r["cost"] <= r["high"] and r["cost"] == pytest.approx(sum(r["seeds"]) / 3, abs=2e-4)
        assert r["roc_auc_without"] == rows["window_anywhere"]["roc_auc_without"] > 0.6


def test_the_committed_figures_are_those_of_the_study():
    from crosssuck.train import FAULTS
    facts = read_json(COMMITTED)
    assert {r["fault"] for r in facts["costs"]} == set(FAULTS) and facts["seeds"] == [0, 1, 2] and facts["config"] == "demo_v4_roi"
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for r in facts["costs"]:
        assert r["low"] <= r["cost"] <= r["high"] and f"{r['cost']:+.3f} ({r['low']:+.3f} to {r['high']:+.3f})" in text, r["fault"]
    assert "benchmarks/ablation.py" in text
