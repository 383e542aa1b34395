"Metrics against scikit-learn, intervals against closed forms, scipy and simulation, and E1's own table."
import json
import re
import time
import tracemalloc
from functools import cache
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn import metrics as sk
from studies import at_least, at_most, placed_study

import studies
from crosssuck import core, manifest, metrics
from crosssuck.core import UserError, read_json, sha256_file, write_csv, write_json
from crosssuck.metrics import (
    ECE_METRICS,
    ECE_WORDS,
    METHOD_ECE,
    METHOD_EDGE,
    METRICS,
    Live,
    Scorer,
    bca,
    bin_noise,
    bout_codes,
    calibration_gaps,
    cells_test,
    coin_scores,
    deciding,
    ece_intervals,
    error_tests,
    error_words,
    exchange_bouts,
    exchange_within,
    holm,
    intervals,
    leave_one_out,
    left_out_scores,
    metadata_baseline,
    metadata_table,
    not_computed,
    paired_difference,
    permutation_null,
    permutation_test,
    point_metrics,
    read_left_out,
    equal_bins,
    read_predictions,
    repeated_values,
    resample,
    risk_coverage,
    roc_band,
    summarise,
    trivial_scores,
    verdict,
)
from crosssuck.simulation import tiny_events, tiny_predictions
from crosssuck.splits import read_part


def study(n_bouts, shift, rng, tail=.13, alike=.6):
    "A validation set of known truth: scores normal with variance 1, of which bouts share `alike`."
    bout = np.repeat(np.arange(n_bouts), rng.geometric(.48, n_bouts))
    is_tail = (rng.random(n_bouts) < tail)[bout]
    score = np.sqrt(alike) * rng.normal(size=n_bouts)[bout] + np.sqrt(1 - alike) * rng.normal(size=len(bout)) + shift * is_tail
    return is_tail, 1 / (1 + np.exp(1 - score)), bout


def as_table(is_tail, prob, bout) -> pd.DataFrame:
    return pd.DataFrame({"true_label": np.where(is_tail, "tail", "ear"), "prob_tail": prob, "bout_id": np.asarray(bout).astype(str)})


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    e = tiny_events(600, seed=1)
    return e[e.behavior.isin(["ear", "tail"])].reset_index(drop=True)


@pytest.fixture(scope="module")
def predictions(events) -> pd.DataFrame:
    return tiny_predictions(events, auc=.8, seed=1)


# ---- the metrics themselves

def plain(y, p) -> dict:
    "Every metric by scikit-learn or by its definition."
    call, sure = p >= .5, np.maximum(p, 1 - p)
    box = np.minimum((sure * 10).astype(int), 9)
    out = {"accuracy": sk.accuracy_score(y, call), "macro_f1": sk.f1_score(y, call, average="macro", zero_division=0), "roc_auc": sk.roc_auc_score(y, p),
           "average_precision": sk.average_precision_score(y, p), "brier": np.mean((p - y) ** 2),
           "ece": sum(abs(np.mean((call == y)[box == b]) - np.mean(sure[box == b])) * np.mean(box == b) for b in np.unique(box))}
    bins = np.minimum((p * 10).astype(int), 9)
    out["ece_tail"] = sum(
        abs(np.mean(y[bins == b]) - np.mean(p[bins == b])) * np.mean(bins == b) for b in np.unique(bins))
    code = np.array([(p < x).sum() for x in p]) * max(1, min(10, len(p) // 10)) // len(p)
    out["adaptive_ece"] = sum(abs(np.mean(y[code == b]) - np.mean(p[code == b])) * np.mean(code == b) for b in np.unique(code))
    for k, c in enumerate(("ear", "tail")):
        out |= {f"recall_{c}": sk.recall_score(y, call, pos_label=k), f"f1_{c}": sk.f1_score(y, call, pos_label=k, zero_division=0)}
        if (call == bool(k)).any():
            out[f"precision_{c}"] = sk.precision_score(y, call, pos_label=k)
    return out


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 3)), min_size=2, max_size=30))
def test_weights_are_repeats(rows):
    y, p = np.array([r[0] for r in rows]), np.array([r[1] / 20 for r in rows])
    times = np.array([r[2] for r in rows])
    yy, pp = np.repeat(y, times), np.repeat(p, times)
    if len(set(yy)) < 2:
        return
    got = {m: v[0] for m, v in Scorer(y, p, np.arange(len(y)))(times[None].astype(float)).items()}
    for m, want in plain(yy, pp).items():
        if m != "adaptive_ece":  # its bins are those of the table, not of the resample
            assert got[m] == pytest.approx(want), m
    point = point_metrics(yy, pp)
    assert point == pytest.approx(plain(yy, pp)) and set(point) | set(not_computed(yy, pp)) == set(METRICS)


def test_the_order_of_rows_and_a_monotone_change_of_score():
    y, p, b = study(100, 1, np.random.default_rng(0))
    mix = np.random.default_rng(1).permutation(len(y))
    assert point_metrics(y[mix], p[mix]) == pytest.approx(point_metrics(y, p))
    a, _ = intervals(y, p, b, n_boot=200)
    c, _ = intervals(y[mix], p[mix], b[mix], n_boot=200)
    assert {m: v["low"] for m, v in a.items()} == pytest.approx({m: v["low"] for m, v in c.items()})
    assert point_metrics(y, p**3)["roc_auc"] == pytest.approx(point_metrics(y, p)["roc_auc"])
    assert point_metrics(y, 1 - p)["roc_auc"] == pytest.approx(1 - point_metrics(y, p)["roc_auc"])


def test_what_cannot_be_computed_is_absent_with_a_reason():
    y, p = np.array([False] * 6), np.linspace(.1, .9, 6)
    assert set(point_metrics(y, p)) == {"accuracy", "precision_ear", "recall_ear", "f1_ear", "precision_tail", "ece", "ece_tail", "adaptive_ece", "brier"}
    assert not_computed(y, p)["roc_auc"] == "no tail event"
    assert not_computed(~y, p)["recall_ear"] == "no ear event"
    assert not_computed(np.array([True, False]), np.array([.1, .2])) == {"precision_tail": "no event was called tail"}
    assert point_metrics(y[:0], p[:0]) == {} and set(not_computed(y[:0], p[:0]).values()) == {"no event"}


# ---- intervals

def test_blocks_do_not_change_the_draws(monkeypatch):
    y, p, b = study(60, 1, np.random.default_rng(0))
    scorer = Scorer(y, p, b)
    whole, jack = resample(scorer, 50, 3), leave_one_out(scorer)
    monkeypatch.setattr(metrics, "BLOCK", 1000)
    parts, jack_parts = resample(scorer, 50, 3), leave_one_out(scorer)
    for m in METRICS:
        np.testing.assert_allclose(whole[m], parts[m], rtol=1e-12)
        np.testing.assert_allclose(jack[m], jack_parts[m], rtol=1e-12)
    assert not np.array_equal(whole["roc_auc"], resample(scorer, 50, 4)["roc_auc"])


def test_leaving_a_bout_out_is_scoring_without_it():
    y, p, b = study(40, 1, np.random.default_rng(2))
    jack = leave_one_out(Scorer(y, p, b))
    for k in (0, 7, 39):
        rest = point_metrics(y[b != k], p[b != k])
        assert {m: jack[m][k] for m in rest} == pytest.approx(rest)


def test_bins_of_equal_size_do_not_depend_on_the_order_of_rows():
    p = np.random.default_rng(0).integers(0, 30, 200) / 30  # many ties
    mix = np.random.default_rng(1).permutation(200)
    assert (metrics.equal_bins(p)[mix] == metrics.equal_bins(p[mix])).all()
    assert pd.Series(metrics.equal_bins(p)).groupby(p).nunique().eq(1).all() and len(set(metrics.equal_bins(np.arange(200.0)))) == 10
    assert np.bincount(metrics.equal_bins(np.arange(200.0))).tolist() == [20] * 10 and set(metrics.equal_bins(np.full(50, .4))) == {0}


def test_against_scipys_bootstrap_over_whole_bouts():
    "scipy can resample bouts where the metric is a ratio of sums by bout."
    from scipy.stats import bootstrap
    y, p, b = study(150, 1.2, np.random.default_rng(5))
    hit, ear = np.bincount(b, ~y & (p < .5)), np.bincount(b, ~y)
    theirs = bootstrap((hit, ear), lambda h, e, axis=-1: h.sum(axis) / e.sum(axis), paired=True, vectorized=True, n_resamples=9999, rng=np.random.default_rng(0), method="BCa")
    scorer = Scorer(y, p, b)
    assert resample(scorer, 9999, 0)["recall_ear"].std() == pytest.approx(theirs.standard_error, rel=.04)
    k = int((ear > 0).sum())
    low, high = bca(hit.sum() / ear.sum(), resample(scorer, 9999, 0)["recall_ear"], leave_one_out(scorer)["recall_ear"], 10**9)  # without the widening for few bouts
    assert (low, high) == (pytest.approx(theirs.confidence_interval.low, abs=.006), pytest.approx(theirs.confidence_interval.high, abs=.006)) and k > 100


def test_against_closed_forms_of_the_scatter():
    "The sandwich error of a recall over bouts, and DeLong's error of the ROC AUC over independent events."
    y, p, b = study(200, 1.2, np.random.default_rng(6))
    tails, hits = np.bincount(b, y), np.bincount(b, y & (p >= .5))
    recall = hits.sum() / tails.sum()
    sandwich = np.sqrt(((hits - recall * tails) ** 2).sum()) / tails.sum()
    assert resample(Scorer(y, p, b), 6000, 0)["recall_tail"].std() == pytest.approx(sandwich, rel=.08)
    tail, ear = p[y], p[~y]
    v10, v01 = (tail[:, None] > ear).mean(1), (tail[:, None] > ear).mean(0)
    delong = np.sqrt(v10.var(ddof=1) / len(tail) + v01.var(ddof=1) / len(ear))
    assert resample(Scorer(y, p, np.arange(len(y))), 6000, 0)["roc_auc"].std() == pytest.approx(delong, rel=.08)


def test_against_scipys_bootstrap_on_independent_events():
    from scipy.stats import bootstrap
    y, p, _ = study(400, 1.2, np.random.default_rng(3), alike=0)
    right = ((p >= .5) == y).astype(float)
    theirs = bootstrap((right,), np.mean, n_resamples=9999, rng=np.random.default_rng(0), method="BCa").confidence_interval
    ours = intervals(y, p, np.arange(len(y)), n_boot=9999)[0]["accuracy"]
    assert (ours["low"], ours["high"]) == (pytest.approx(theirs.low, abs=.006), pytest.approx(theirs.high, abs=.006))


def test_a_mean_has_its_textbook_interval():
    x = np.random.default_rng(0).normal(size=60)
    draws = x[np.random.default_rng(1).integers(0, 60, (20_000, 60))].mean(1)
    low, high = bca(x.mean(), draws, (x.sum() - x) / 59, 60)
    half = 2.001 * x.std(ddof=1) / np.sqrt(60)
    assert (low, high) == (pytest.approx(x.mean() - half, abs=.015), pytest.approx(x.mean() + half, abs=.015))


def test_repeating_every_row_adds_no_knowledge():
    y, p, _ = study(150, 1, np.random.default_rng(4), alike=0)
    one, five = (intervals(np.repeat(y, k), np.repeat(p, k), np.repeat(np.arange(len(y)), k), n_boot=400)[0] for k in (1, 5))
    for m in one:
        assert (five[m]["low"], five[m]["high"]) == (pytest.approx(one[m]["low"]), pytest.approx(one[m]["high"]))
    rows = intervals(np.repeat(y, 5), np.repeat(p, 5), np.arange(5 * len(y)), n_boot=400)[0]["roc_auc"]
    assert rows["high"] - rows["low"] < .6 * (one["roc_auc"]["high"] - one["roc_auc"]["low"])


def test_where_nothing_scatters_wilson_speaks():
    y = np.arange(60) < 20
    found, none = intervals(y, np.where(y, .9, .1), np.arange(60) // 2, n_boot=200)
    low = 10 / (10 + NormalDist().inv_cdf(.975) ** 2)  # ten bouts of two, all right
    assert found["recall_tail"]["method"] == METHOD_EDGE and found["recall_tail"]["low"] == pytest.approx(low, abs=1e-4) and found["recall_tail"]["high"] == 1
    assert found["roc_auc"]["low"] == pytest.approx(low, abs=1e-4) and (found["roc_auc"]["n_units"], found["roc_auc"]["n_deciding"]) == (30, 10)
    assert all(v["low"] < v["high"] for v in found.values())
    never, _ = intervals(y, np.full(60, .1) + np.arange(60) / 1000, np.arange(60) // 2, n_boot=200)
    assert never["f1_tail"]["low"] == 0 and 0 < never["f1_tail"]["high"] < .35 and METHOD_EDGE in never["macro_f1"]["method"]


def test_too_few_bouts_give_points_only():
    y = np.arange(100) < 30
    found, none = intervals(y, np.random.default_rng(0).random(100), np.where(y, np.arange(100) % 7, np.arange(100)), n_boot=200)
    assert none["recall_tail"] == none["roc_auc"] == "7 bouts decide it, fewer than 8"
    assert "recall_ear" in found and not set(found) & set(none)


def test_what_decides_a_metric():
    y, call = np.array([True, True, False, False, False]), np.array([True, False, True, True, False])
    assert deciding("recall_tail", y, call).tolist() == y.tolist() == deciding("roc_auc", y, call).tolist()
    assert deciding("precision_tail", y, call).tolist() == call.tolist() and deciding("precision_ear", y, call).tolist() == (~call).tolist()
    assert deciding("accuracy", y, call).all() and deciding("average_precision", ~y, call).tolist() == y.tolist()


def test_ten_thousand_resamples_of_361_events():
    y, p, b = study(176, .5, np.random.default_rng(0))
    y, p, b = (np.resize(x, 361) for x in (y, p, b))
    intervals(y, p, b, n_boot=10)
    tracemalloc.start()
    begin = time.process_time()
    found, _ = intervals(y, p, b, n_boot=10_000)
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == len(METRICS) and seconds < 10 and peak < 150e6


def coverage(n_bouts, shift, n, **kw) -> pd.Series:
    cdf = NormalDist().cdf
    truth = {"roc_auc": cdf(shift / 2**.5), "recall_tail": cdf(shift - 1), "recall_ear": cdf(1)}
    hits, rng = {m: [] for m in truth}, np.random.default_rng(n_bouts)
    for _ in range(n):
        y, p, b = study(n_bouts, shift, rng, **kw)
        found, _ = intervals(y, p, b, n_boot=400)
        for m in [m for m in truth if m in found]:
            hits[m].append(found[m]["low"] <= truth[m] <= found[m]["high"])
    return pd.Series({m: np.mean(v) for m, v in hits.items()})


def test_intervals_hold_the_truth():
    assert coverage(180, 1.2, 120).between(.89, 1).all()


@pytest.mark.long
@pytest.mark.parametrize("n_bouts, shift", [(180, 0), (180, 1.2), (180, 2.5), (80, 1.2)])
def test_intervals_hold_the_truth_in_many_studies(n_bouts, shift):
    held = coverage(n_bouts, shift, 600)
    assert held.between(.915, 1).all(), held


def test_the_same_model_differs_by_nothing():
    y, p, b = study(100, 1, np.random.default_rng(0))
    same = paired_difference(y, p, p, b, n_boot=200)
    assert (same["value"], same["low"], same["high"]) == (0, None, None)
    assert same["reason"] == "the difference is the same in every resample"
    better = paired_difference(y, p, np.random.default_rng(1).random(len(p)), b, n_boot=500)
    assert better["reason"] == "" and better["low"] < better["value"] < better["high"] and better["value"] == pytest.approx(
        point_metrics(y, p)["roc_auc"] - point_metrics(y, np.random.default_rng(1).random(len(p)))["roc_auc"])


def test_macro_f1_counts_the_scatter_of_a_class_whose_f1_is_zero():
    "No tail found: no resample finds one, and macro F1 would take its interval from the ears alone."
    y, p, b = study(150, 1, np.random.default_rng(0))
    found, _ = intervals(y, np.where(y, 0.1, p), b, n_boot=300)
    tail, ear, macro = (found[m] for m in ("f1_tail", "f1_ear", "macro_f1"))
    point = point_metrics(y, np.where(y, 0.1, p))
    assert point["f1_tail"] == 0 and tail["high"] > 0.05 and "Wilson" in macro["method"]
    assert macro["high"] - point["macro_f1"] == pytest.approx(np.hypot(tail["high"], ear["high"] - point["f1_ear"]) / 2)


def test_two_perfect_models_differ_by_zero_with_an_interval_that_is_not_zero():
    y, p, b = study(100, 1, np.random.default_rng(0))
    one, other = y * 0.8 + 0.1 * p, y * 0.7 + 0.2 * p
    d = paired_difference(y, one, other, b, n_boot=100)
    assert d["value"] == 0 and d["low"] < -0.02 and d["high"] > 0.02 and "Wilson" in d["method"]


def few_bouts_of_ears():
    "20 tail events in 20 bouts, 40 ear events in three."
    y, b = np.arange(60) < 20, np.r_[np.arange(20), 20 + np.arange(40) % 3]
    return y, np.random.default_rng(0).random(60) / 2 + y / 3, b


def test_both_classes_must_lie_in_enough_bouts():
    y, p, b = few_bouts_of_ears()
    found, none = intervals(y, p, b, n_boot=50)
    for m in ("roc_auc", "average_precision", "macro_f1"):
        assert m not in found and none[m] == "3 bouts decide it, fewer than 8"
    assert found["recall_tail"]["n_deciding"] == 20
    d = paired_difference(y, p, p[::-1], b, n_boot=50)
    assert (d["low"], d["high"], d["reason"]) == (None, None, "3 bouts decide it, fewer than 8")


def test_a_difference_without_a_ci_is_not_shown(predictions, events):
    s = summarise(read_predictions(predictions.iloc[1::2], events), train=events.iloc[::2], n_boot=100, n_perm=50)
    s["intervals"]["roc_auc"] |= {"low": .60, "high": .90}
    s["permutation"]["p_value"] = .001
    for d in s["differences"].values():
        d |= {"low": None, "high": None, "value": .1, "reason": "3 bouts decide it, fewer than 8"}
    assert metrics.call(s) == "not_beyond_metadata"
    assert "difference +0.10 (no CI: 3 bouts decide it, fewer than 8)" in verdict(s)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_an_old_verdict_of_chance_is_worded_anew(part):
    now = facts_with(.40, .60)
    old = {k: v for k, v in now.items() if k not in ("part", "selection")} | {"verdict": "Indistinguishable from chance."}
    said = metrics.reworded(old, part)
    assert said["verdict"].startswith("No evidence of skill") and said["call"] == "at_chance" and said["part"] == part
    assert metrics.reworded(old | {"selection": None}, part)["verdict"] == "Indistinguishable from chance."
    bare = {"verdict": "Indistinguishable from chance.", "metrics": {"roc_auc": .5}}
    assert metrics.reworded(bare, part) == bare and metrics.reworded({}, part) == {}


def test_the_roc_band_agrees_with_the_area():
    y, p, b = study(150, 1.2, np.random.default_rng(0))
    band = roc_band(y, p, b, n_boot=200, points=1001)
    assert np.trapezoid(band.tpr, band.fpr) == pytest.approx(point_metrics(y, p)["roc_auc"], abs=2e-3)
    assert (band.low <= band.tpr + 1e-9).mean() > .97 and (band.tpr <= band.high + 1e-9).mean() > .97
    flat = roc_band(y, np.full(len(y), .5), b, n_boot=20)
    assert np.abs(flat.tpr - flat.fpr).max() < 1e-9


# ---- abstaining, unfamiliar behaviours, repeated values

def test_risk_and_coverage_end_at_the_error_and_ignore_the_order_of_rows():
    y, p, b = study(120, 1.5, np.random.default_rng(0))
    curve = risk_coverage(y, p, b, n_boot=50)
    assert curve.risk.iloc[-1] == pytest.approx(((p >= .5) != y).mean()) and curve.always_ear.iloc[-1] == pytest.approx(y.mean())
    mix = np.random.default_rng(1).permutation(len(y))
    pd.testing.assert_frame_equal(curve, risk_coverage(y[mix], p[mix], b[mix], n_boot=50))
    half = np.argsort(-np.abs(p - .5))[:len(y) // 2]
    assert curve.risk[curve.coverage == .5].iloc[0] == pytest.approx(((p >= .5) != y)[half].mean(), abs=.01)
    assert (curve.low <= curve.risk + 1e-9).mean() > .9 and (curve.risk <= curve.high + 1e-9).mean() > .9


def left_out(n, spread, seed=0):
    odds = np.random.default_rng(seed).normal(0, spread, n)
    t = pd.DataFrame({"true_label": ["teat", "other"] * (n // 2), "prob_tail": 1 / (1 + np.exp(-odds)), "logit_ear": -odds / 2, "logit_tail": odds / 2})
    return t.assign(prob_ear=1 - t.prob_tail)


def test_unfamiliar_behaviours_are_set_apart_or_are_not(predictions):
    unsure = pd.DataFrame(left_out_scores(predictions, left_out(60, .1), n_boot=200))
    assert set(unsure.behaviour) == {"teat", "other", "all of them"} and set(unsure.score) == {"maximum probability", "energy"}
    assert (unsure.low > .5).all() and (unsure.roc_auc > .8).all()
    same = predictions.sample(60, random_state=0).assign(true_label="teat", bout_id="")
    blind = pd.DataFrame(left_out_scores(predictions, same, n_boot=300))
    assert ((blind.low < .5) & (blind.high > .5)).all()


def test_left_out_tables_are_checked(predictions, tmp_path):
    few = pd.DataFrame(left_out_scores(predictions, read_left_out(left_out(6, .1)), n_boot=50))
    assert few.low.isna().all() and few.note.str.contains("fewer than 8").all()
    assert not any("energy" == r["score"] for r in left_out_scores(predictions, left_out(20, .1).drop(columns="logit_ear"), n_boot=20))
    for change, words in ((lambda t: t.assign(true_label="tail"), "holds tail events"), (lambda t: t.assign(prob_ear=.9), "line 2: .* no two probabilities"),
                          (lambda t: t.drop(columns="prob_tail"), "no column 'prob_tail'")):
        with pytest.raises(UserError, match=words):
            read_left_out(write_csv(tmp_path / "l.csv", change(left_out(10, .3))))


def test_repeats_expected_by_chance_match_a_simulation():
    rng = np.random.default_rng(0)
    seen = [(np.unique(rng.normal(0.5, 0.03, 400).round(4), return_counts=True)[1] >= 3).sum() for _ in range(300)]
    assert repeated_values(rng.normal(0.5, 0.03, 400))["expected"] == pytest.approx(np.mean(seen), rel=0.25)


def test_false_alarms_of_repeated_values_are_rare():
    rng = np.random.default_rng(1)
    alarms = [repeated_values(rng.normal(0.5, 0.03, 300))["p_value"] < 0.025 for _ in range(60)]
    assert np.mean(alarms) < 0.1


def test_saturated_values_are_counted_apart():
    facts = repeated_values([0.0] * 50 + [1.0] * 50 + list(np.linspace(0.2, 0.8, 50)))
    assert facts["saturated"] == 100 and facts["repeated"] == 0
    assert repeated_values([1.0] * 20)["expected"] is None


# ---- where the errors come from

def group_lift(cells, is_tail, alarm=0.35, rest=0.05):
    "True ears of group 6 exceed 0.5 in 35 % of cases, those of the other groups in 5 %."
    norm = NormalDist()
    return np.where(is_tail, 0, 1.2 + np.where(cells.group == 6, norm.inv_cdf(alarm), norm.inv_cdf(rest)))


def of(errors, level, kind):
    return next(t for t in errors["tests"] if (t["level"], t["kind"]) == (level, kind))


def errors_of_studies(n, shift=None, seed=3):
    rng = np.random.default_rng(seed)
    return [error_tests(placed_study(0.85, rng, shift), n_perm=199) for _ in range(n)]


def test_clean_studies_are_rarely_said_to_have_errors_in_a_place():
    called = [min(t["p_holm"] for t in e["tests"] if t["p"] is not None) < 0.05 for e in errors_of_studies(30)]
    assert sum(called) <= at_most(0.07, 30)


def test_a_group_with_many_false_alarms_is_found():
    found = [of(e, "group", "false alarms") for e in errors_of_studies(15, group_lift)]
    assert sum(t["p_holm"] < 0.05 and t["worst"] == "group 6" for t in found) >= at_least(0.9, 15)


def test_false_alarms_and_misses_do_not_cancel():
    "All scores of one group are too high: false alarms there, misses elsewhere, and no difference in the sum of errors."
    lifted = errors_of_studies(6, lambda c, is_tail: np.where(c.group == 6, 1.5, 0))
    assert sum(of(e, "group", "false alarms")["p_holm"] < 0.05 for e in lifted) >= 4
    assert all(of(e, "group", "misses")["worst"] != "group 6" for e in lifted)


def test_levels_that_cannot_be_tested_say_so_with_numbers():
    t = placed_study(0.85, np.random.default_rng(0))
    e, cells = error_tests(t, n_perm=99), t.groupby("video_filename").bout_id.nunique()
    assert of(e, "camera", "misses")["note"] == "each group has one camera, so that the two cannot be separated"
    assert of(e, "video", "false alarms")["note"] == f"{(cells == 1).sum()} of {len(cells)} videos hold one bout"
    assert f"videos ({(cells == 1).sum()} of {len(cells)} videos hold one bout)" in e["sentence"]
    assert t.video_filename[0] not in json.dumps(e)  # no file name is written
    assert "names no groups" in error_tests(t.drop(columns="group"))["sentence"]
    few = t[(t.true_label == "ear") | (t.group == 2)].reset_index(drop=True)
    assert "with a true tail" in of(error_tests(few, n_perm=99), "group", "misses")["note"]


@pytest.mark.parametrize("unknown", [3, None])
def test_hours_are_not_tested_where_the_time_is_not_known(unknown):
    t = placed_study(0.85, np.random.default_rng(0))
    t.loc[t.index[:unknown], "start_s"] = np.nan
    e = error_tests(t, n_perm=99)
    assert of(e, "hour", "false alarms")["p"] is None and of(e, "group", "false alarms")["p"] is not None
    assert f"hours (the time of {unknown or len(t)} events is not known)" in e["sentence"]
    one = error_tests(t.assign(start_s=np.r_[np.nan, np.arange(1.0, len(t))]), n_perm=99)
    assert of(one, "hour", "misses")["note"] == "the time of 1 event is not known"
    assert of(error_tests(t.assign(start_s=""), n_perm=99), "hour", "misses")["p"] is None


def test_the_headline_of_the_errors_agrees_with_its_counts():
    t = {"level": "group", "kind": "false alarms", "note": "", "p": 0.001, "p_holm": 0.002, "worst": "group 1",
         "mean_worst_and_rest": [0.46, 0.31], "cells": {"group 1": [1, 100], "group 2": [20, 100]}}
    assert error_words(t) == (
        "P(tail) of true ears differs by group, most in group 1 (false alarms by group: 1/100, 20/100; "
        "mean P(tail) of its true ears 0.46, of the others 0.31; permutation p = 0.002).")
    assert error_words(t | {"cells": {"group 1": [20, 100], "group 2": [1, 100]}}).startswith("20 of the 21 false alarms come from group 1 (by group: 20/100, 1/100;")
    assert error_words(t | {"cells": {"group 1": [0, 100], "group 2": [0, 100]}}).startswith("P(tail) of true ears differs")
    assert error_words(t | {"cells": {"group 1": [10, 100], "group 2": [10, 100]}}).startswith("P(tail) of true ears differs")


def test_bouts_are_exchanged_within_strata_of_about_their_size():
    rng = np.random.default_rng(0)
    size, stratum = rng.integers(1, 4, 80), np.repeat(["a", "b"], 40)
    for source in exchange_within(size, stratum, 20, rng):
        assert sorted(source) == list(range(80)) and (stratum[source] == stratum).all()
    assert (size[exchange_within(np.repeat([1, 9], 20), np.zeros(40), 5, rng)] <= 3).all()
    cell = np.repeat(np.arange(12), 10)
    assert cells_test(np.repeat(rng.normal(size=12), 10), cell, np.zeros(120), np.arange(120), n_perm=99) == 0.01


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests
    p = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    assert len(holm([])) == 0
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, None]), [0.04, 0.09, 0.09, np.nan])


@pytest.mark.lab
def test_the_false_alarms_of_e1_come_from_group_6(lab):
    e = error_tests(read_predictions(lab / "E1/predictions_val.csv", lab / "val_v4.csv"))
    t = of(e, "group", "false alarms")
    assert list(t["cells"].values()) == [[5, 116], [1, 48], [2, 72], [32, 87]] and t["worst"] == "group 6" and t["p"] < 0.002
    assert e["sentence"].startswith("32 of the 40 false alarms come from group 6 (by group: 5/116, 1/48, 2/72, 32/87;")
    assert "130 of 152 videos hold one bout" in e["sentence"] and "behaviour" not in e["sentence"] and e["n_tests"] == 4


def test_a_widget_is_a_picture_where_there_is_no_hand(monkeypatch):
    import ipywidgets
    live = Live(ipywidgets.IntSlider(), b"png", "a slider")
    monkeypatch.setenv("IN_TEST", "1")
    assert sorted(live._repr_mimebundle_()) == ["image/png", "text/plain"]
    monkeypatch.delenv("IN_TEST")
    shown = live._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown and shown["text/plain"] == "a slider" and "image/png" in shown


# ---- ECE: three definitions, one piece of code, an interval that holds

def population(auc, share, slope, offset, rng, n=400_000):
    "A large sample sorted by P(tail): is_tail and P(tail), log-odds = offset + slope * true log-odds."
    is_tail = rng.random(n) < share
    shift = np.sqrt(2) * NormalDist().inv_cdf(auc)
    prob = bent(rng.standard_normal(n) + shift * is_tail, shift, share, slope, offset)
    order = np.argsort(prob)
    return is_tail[order], prob[order]


def bent(score, shift, share, slope, offset):
    "P(tail) of a latent score: the true posterior, its log-odds stretched and shifted."
    return expit(offset + slope * (logit(share) + shift * score - shift**2 / 2))


def true_ece(metric, is_tail, prob, seen):
    "The population's ECE with fixed bins; for equal-size bins those of the study `seen`."
    if metric != "adaptive_ece":
        gap, box = calibration_gaps(metric, is_tail, prob)
        return np.abs(np.bincount(box, gap)).sum() / len(prob)
    box = equal_bins(seen)
    edges = [seen[box == b].min() for b in range(1, box.max() + 1)]
    sums = np.r_[0, np.cumsum(prob - is_tail)][np.r_[0, np.searchsorted(prob, edges), len(prob)]]
    return np.abs(np.diff(sums)).sum() / len(prob)


def ece_studies(structure, auc, slope, offset, n, n_boot=300, seed=0):
    "One row a study and metric: estimate, truth, by_chance, and whether the interval holds the truth."
    rng, share = np.random.default_rng(seed), structure.n_tail / structure.n_events
    whole, shift = population(auc, share, slope, offset, rng), np.sqrt(2) * NormalDist().inv_cdf(auc)
    fixed = {m: true_ece(m, *whole, None) for m in ("ece", "ece_tail")}
    rows = []
    for k in range(n):
        y, bout = studies.labels(structure, rng)
        p = bent(studies.latent(y, bout, auc, rng)[0], shift, share, slope, offset)
        scorer = Scorer(y, p, bout)
        point, (ends, _) = scorer(np.ones((1, bout.max() + 1))), ece_intervals(scorer, n_boot, seed=k)
        for m in ECE_METRICS:
            truth = fixed[m] if m in fixed else true_ece(m, *whole, p)
            i = ends[m]
            rows.append((m, float(point[m][0]), truth, i["by_chance"],
                         i["low"] <= truth <= i["high"], i["high"] - i["low"], i["high"] < 0.20))
    return pd.DataFrame(rows, columns=["metric", "estimate", "truth", "by_chance", "held", "width",
                                       "below"]).groupby("metric")


ECE_CASES = {"calibrated": (0.75, 1, 0), "no skill, calibrated": (0.5001, 1, 0),
             "shifted as by balanced sampling": (0.75, 1, 2), "overconfident": (0.9, 2, 0),
             "flat and shifted": (0.9, 0.5, 1.5), "skilled, calibrated": (0.97, 1, 0),
             "almost perfect, overconfident": (0.999, 3, 0)}


@pytest.mark.parametrize("structure", [studies.VALIDATION, studies.OOD], ids=["361/176/38", "141/87/12"])
@pytest.mark.parametrize("case", ["calibrated", "shifted as by balanced sampling"])
def test_the_interval_of_an_ece_holds_the_truth(structure, case):
    n = studies.QUICK
    held = ece_studies(structure, *ECE_CASES[case], n, n_boot=200)["held"].sum()
    assert held.min() >= studies.at_least(0.93, n), held


@pytest.mark.long
@pytest.mark.parametrize("structure", [studies.VALIDATION, studies.OOD], ids=["361/176/38", "141/87/12"])
@pytest.mark.parametrize("case", ECE_CASES)
def test_the_interval_of_an_ece_holds_the_truth_in_93_of_100(structure, case):
    found = ece_studies(structure, *ECE_CASES[case], studies.LONG)
    table = found[["estimate", "truth", "by_chance", "held", "width", "below"]].mean()
    print(f"\n{structure.n_events} events, {case}\n{table.round(3)}")
    assert table["held"].min() >= 0.93, table


def test_by_chance_is_what_a_calibrated_model_scores():
    found = ece_studies(studies.OOD, 0.75, 1, 0, 100, n_boot=200)[["estimate", "by_chance"]].mean()
    assert found["estimate"].to_numpy() == pytest.approx(found["by_chance"].to_numpy(), rel=0.15)
    assert (found["estimate"] > 0.02).all()  # though the truth is 0


def test_an_ece_has_no_interval_with_too_few_bouts_of_a_class():
    y, bout = np.arange(60) < 7, np.arange(60)
    p = np.linspace(0.2, 0.8, 60)
    ends, none = intervals(y, p, bout, n_boot=100)
    assert not set(ECE_METRICS) & set(ends)
    assert none["ece_tail"] == "7 bouts with tail events, fewer than 8"
    assert intervals(~y, p, bout, n_boot=100)[1]["ece"] == "7 bouts with ear events, fewer than 8"


def test_errors_that_did_not_occur_widen_the_interval_of_an_ece():
    "A model that is certain and right scores 0 in every resample; up to 3 in n bouts may still be wrong."
    y, bout = np.arange(120) < 30, np.arange(120)
    ends = intervals(y, y.astype(float), bout, n_boot=100)[0]["ece_tail"]
    assert (ends["low"], ends["high"], ends["method"]) == (0, 3 / 120, METHOD_ECE)


def test_three_definitions_differ_and_each_has_its_words():
    y, p = np.tile(np.arange(100) < 10, 3), np.repeat([0.45, 0.45, 0.55], 100)
    point = point_metrics(y, p)
    assert [round(point[m], 3) for m in ECE_METRICS] == [0.083, 0.383, 0.383]
    assert len(set(ECE_WORDS.values())) == 3 and "the lab's" in ECE_WORDS["ece_tail"]
    assert {m for m in ECE_METRICS if m in metrics.DEFINITIONS} == set(ECE_METRICS)
    noise = bin_noise(Scorer(y, p, bout_codes(np.arange(300))), 50, 0)
    assert all(noise[m].shape == (50,) and (noise[m] >= 0).all() for m in ECE_METRICS)


@pytest.mark.lab
def test_the_ece_of_the_labs_plan_on_e1s_validation(lab):
    table = read_predictions(lab / "E1/predictions_val.csv", lab / "val_v4.csv")
    y, p = (table.true_label == "tail").to_numpy(), table.prob_tail.to_numpy()
    assert round(point_metrics(y, p)["ece_tail"], 3) == 0.350
    ends = intervals(y, p, table.bout_id)[0]["ece_tail"]
    assert 0.20 < ends["low"] < 0.350 < ends["high"] < 0.45 and ends["n_deciding"] == table.bout_id[y].nunique()


# ---- baselines

@pytest.mark.parametrize("n_tail, n, rate", [(38, 361, .5), (38, 361, .13), (3, 12, .3)])
def test_the_coin_by_simulation(n_tail, n, rate):
    y, rng = np.arange(n) < n_tail, np.random.default_rng(0)
    toss = rng.random((20_000, n)) < rate
    tp, fp = (toss & y).sum(1), (toss & ~y).sum(1)
    tail, ear = 2 * tp / (n_tail + tp + fp), 2 * (n - n_tail - fp) / (2 * (n - n_tail) - fp + n_tail - tp)
    coin = coin_scores(y, rate)
    assert coin["macro_f1"] == pytest.approx(((tail + ear) / 2).mean(), abs=.003) and coin["f1_tail"] == pytest.approx(tail.mean(), abs=.003)
    assert coin["accuracy"] == pytest.approx(((toss == y).mean(1)).mean(), abs=.003)
    if rate == .5:
        assert coin["ece_tail"] == pytest.approx(point_metrics(y, np.full(n, .5))["ece_tail"])
        assert coin["ece"] == pytest.approx(np.abs((toss == y).mean(1) - .5).mean(), abs=.003)


def test_trivial_scores_of_the_labs_validation():
    t = trivial_scores(np.arange(361) < 38)
    assert round(t["always_ear"]["macro_f1"], 3) == .472 and "precision_tail" not in t["always_ear"]
    assert t["always_tail"]["f1_tail"] == pytest.approx(2 * 38 / (361 + 38)) and t["always_ear"]["roc_auc"] == .5
    assert "precision_tail" not in coin_scores(np.arange(10) < 3, 0) and "precision_ear" not in coin_scores(np.arange(10) < 3, 1)
    assert "roc_auc" not in trivial_scores(np.zeros(5, bool))["coin"]


def test_metadata_knows_only_what_it_is_given(events):
    e = events.assign(behavior=np.where(events.pen_location == "back", "tail", "ear"))
    old, new = e.iloc[::2], e.iloc[1::2]
    auc = {d: point_metrics(new.behavior == "tail", metadata_baseline(old, new, deployable=d)[0])["roc_auc"] for d in (True, False)}
    assert auc[False] > .97 and auc[True] < .7
    assert metadata_baseline(old, new, deployable=True)[1] == ["hour", "day", "camera_id"]
    assert metadata_baseline(old, new)[1] == ["hour", "day", "camera_id", "group", "pen_location", "duration_sec"]


def test_the_baseline_takes_whole_hours_and_cannot_name_a_bout():
    "Each bout has its own minute and its own label: a time to the second names the bout, a whole hour does not."
    rng = np.random.default_rng(0)
    bout = np.repeat(np.arange(240), 2)
    e = pd.DataFrame({"event_idx": np.arange(480), "bout_id": bout.astype(str), "day": 1, "camera_id": "8",
                      "start_s": 6 * 3600 + bout * 180 + np.tile([0, 10], 240),
                      "behavior": np.where(rng.random(240) < 0.3, "tail", "ear")[bout]})
    e["true_label"] = e.behavior
    old, new = e.iloc[::2], e.iloc[1::2]
    auc = [point_metrics(new.behavior == "tail", metadata_baseline(old, new, exact_time=x)[0])["roc_auc"] for x in (False, True)]
    assert auc[0] < 0.7 and auc[1] > auc[0] + 0.1
    assert (metadata_table(e).hour == e.start_s // 3600).all() and metadata_table(e, exact_time=True).hour.nunique() == 480


@pytest.mark.lab
def test_whole_hours_of_the_lab(lab):
    "E1's validation: 0.650 in whole hours and 0.718 to the second."
    train, val = read_part(lab / "train_v4.csv"), read_part(lab / "val_v4.csv")
    tail = (val.behavior == "tail").to_numpy()
    auc = [point_metrics(tail, metadata_baseline(train, val, deployable=True, exact_time=x)[0])["roc_auc"] for x in (False, True)]
    assert auc == pytest.approx([0.650, 0.718], abs=5e-4)


def test_metadata_is_fitted_on_training_alone(events):
    old, new = events.iloc[::2], events.iloc[1::2]
    first, _ = metadata_baseline(old, new)
    flipped, _ = metadata_baseline(old, new.assign(behavior=np.where(new.behavior == "ear", "tail", "ear"), true_label="ear"))
    np.testing.assert_array_equal(first, flipped)
    boosted = pd.concat([old.assign(copy=0), old[old.behavior == "tail"].assign(copy=1)])
    np.testing.assert_array_equal(first, metadata_baseline(boosted, new)[0])
    assert np.isfinite(metadata_baseline(old, new.assign(camera_id=99, group=99))[0]).all()  # a camera never seen
    with pytest.raises(UserError, match="scored events are in the training table too"):
        metadata_baseline(events, new)
    with pytest.raises(UserError, match="nothing to learn from"):
        metadata_baseline(old[old.behavior == "ear"], new)


# ---- permutation

@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=2, max_size=40), st.integers(0, 5))
def test_bouts_exchange_labels_whole(bouts, seed):
    unit = np.repeat(np.arange(len(bouts)), [s for s, _ in bouts])
    is_tail = np.array([t for _, t in bouts])[unit]
    labels = exchange_bouts(is_tail, unit, 5, np.random.default_rng(seed), least=3)
    assert pd.DataFrame(labels.T).groupby(unit).nunique().eq(1).all(axis=None)  # pure bouts stay pure
    given_bouts = pd.DataFrame(labels.T).groupby(unit).first().sum()
    assert (given_bouts == sum(t for _, t in bouts)).all()                      # and as many bouts are tail
    if len({s for s, _ in bouts}) == 1:
        assert (labels.sum(1) == is_tail.sum()).all()


def test_exchange_does_not_depend_on_where_the_rows_stand():
    y, _, b = study(50, 0, np.random.default_rng(0))
    mix = np.random.default_rng(1).permutation(len(y))
    a = exchange_bouts(y, b, 3, np.random.default_rng(2))
    np.testing.assert_array_equal(a[:, mix], exchange_bouts(y[mix], b[mix], 3, np.random.default_rng(2)))


def test_permutation_null_is_a_roc_auc():
    y, p, b = study(60, 0, np.random.default_rng(0))
    labels = exchange_bouts(y, b, 4, np.random.default_rng(0))
    assert permutation_null(y, p, b, n_perm=4, seed=0) == pytest.approx([sk.roc_auc_score(x, p) for x in labels])


def test_p_values_are_honest():
    rng = np.random.default_rng(7)
    p = np.array([permutation_test(*study(100, 0, rng, alike=.8), n_perm=99)["p_value"] for _ in range(250)])
    assert (p <= .05).mean() < .085 and .42 < p.mean() < .58 and p.min() >= .01
    y, score, b = study(100, 3, rng)
    null = permutation_null(y, score, b, n_perm=199)
    assert permutation_test(y, score, b, n_perm=199) == {"metric": "roc_auc", "p_value": 1 / 200, "n": 199, "mean": pytest.approx(null.mean())} and abs(null.mean() - .5) < .05


# ---- tables in

def test_a_table_without_ids_needs_every_label(predictions, events, tmp_path):
    lab = predictions[["clip_id", "true_label", "pred_label", "prob_ear", "prob_tail", "logit_ear", "logit_tail", "msp"]]
    path = write_csv(tmp_path / "p.csv", lab)
    t = read_predictions(path, write_csv(tmp_path / "m.csv", events))
    assert t.event_idx.tolist() == events.event_idx.tolist() and t.bout_id.tolist() == events.bout_id.tolist()
    assert {"group", "day", "start_s", "camera_id", "video_filename", "pen_location", "duration_sec"} <= set(t)
    swapped = events.copy()
    i, j = events.index[events.behavior == "ear"][0], events.index[events.behavior == "tail"][0]
    swapped.iloc[[i, j]] = events.iloc[[j, i]].to_numpy()
    with pytest.raises(UserError, match="true_label is .* the manifest says"):
        read_predictions(path, swapped)
    with pytest.raises(UserError, match=f"{len(lab)} predictions, but {len(lab) - 1} events"):
        read_predictions(path, events.iloc[:-1])


def test_ids_join_in_any_order_and_to_more_events(predictions, events):
    part = predictions.sample(100, random_state=0)
    t = read_predictions(part, events)
    assert t.event_idx.tolist() == part.event_idx.tolist()
    assert t.start_s.tolist() == events.set_index("event_idx").start_s[part.event_idx].tolist()
    with pytest.raises(UserError, match="line 2: event .* is not in the manifest"):
        read_predictions(part, events[events.event_idx != part.event_idx.iloc[0]])
    with pytest.raises(UserError, match="true_label is"):
        read_predictions(part, events.assign(behavior="ear"))


def test_bouts_of_the_whole_study_win(predictions, events):
    own = predictions.assign(bout_id="g9d9b00" + (predictions.group % 2).astype(str))
    assert read_predictions(own, events).bout_id.tolist() == own.bout_id.tolist()
    assert read_predictions(own.assign(bout_id=""), events).bout_id.tolist() == events.bout_id.tolist()


@pytest.mark.parametrize("change, words", [
    (lambda t: t.assign(prob_tail=t.prob_tail.where(t.index != 3, 1.2)), "line 5: prob_tail is 1.2: is no probability"),
    (lambda t: t.assign(prob_tail=t.prob_tail.where(t.index != 3)), "line 5: prob_tail is nan: is missing"),
    (lambda t: t.assign(prob_ear=t.prob_ear.where(t.index != 3, -.1)), "line 5: prob_ear is -0.1"),
    (lambda t: t.assign(prob_ear=t.prob_ear * .9), "do not sum to 1"),
    (lambda t: t.assign(true_label=t.true_label.where(t.index != 3, "teat")), "line 5: true_label is 'teat': is neither ear nor tail"),
    (lambda t: t.assign(pred_label="tail"), "pred_label is not the label of the larger probability"),
    (lambda t: t.assign(prob_teat=.1), "a third class, 'prob_teat'"),
    (lambda t: t.drop(columns=["prob_ear", "prob_tail"]), "no column 'prob_tail'; give a probability of tail"),
    (lambda t: t.drop(columns="true_label"), "no column 'true_label'; add it, or add event_idx and give the events"),
    (lambda t: t.assign(logit_tail=t.logit_tail.where(t.index != 3)), "line 5: logit_tail is nan: is missing"),
    (lambda t: t.assign(logit_ear=t.logit_ear.where(t.index != 3, np.inf)), "line 5: logit_ear is inf: is no finite number"),
    (lambda t: t.assign(event_idx=7), "event_idx is 7: stands there twice"),
    (lambda t: t.head(0), "no predictions in it"),
    (lambda t: t.assign(prob_tail=t.prob_tail.astype(str).where(t.index != 3, "high")), "prob_tail is 'high', not a number"),
])
def test_faults_of_a_table(predictions, tmp_path, change, words):
    path = write_csv(tmp_path / "p.csv", change(predictions.reset_index(drop=True)))
    with pytest.raises(UserError, match=words) as e:
        read_predictions(path)
    assert "\n" not in str(e.value) and "p.csv" in str(e.value)


def test_what_may_be_missing(predictions, tmp_path):
    bare = predictions[["true_label", "prob_ear", "prob_tail", "event_idx"]].round(4)
    t = read_predictions(write_csv(tmp_path / "p.csv", bare))
    assert (t.pred_label == np.where(t.prob_tail >= .5, "tail", "ear")).all() and t.clip_id.is_unique
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path / "none.csv")


def test_two_columns_of_another_tool_suffice(predictions, events, tmp_path):
    two = write_csv(tmp_path / "tool.csv", predictions[["event_idx", "prob_tail"]].sample(frac=1, random_state=0))
    t = read_predictions(two, events).set_index("event_idx").loc[predictions.event_idx]
    assert t.true_label.tolist() == predictions.true_label.tolist() and t.prob_ear.to_numpy() == pytest.approx(1 - predictions.prob_tail.to_numpy())
    assert point_metrics(t.true_label == "tail", t.prob_tail) == pytest.approx(point_metrics(predictions.true_label == "tail", predictions.prob_tail))
    with pytest.raises(UserError, match="line 2: event 99999 is not in the manifest"):
        read_predictions(pd.DataFrame({"event_idx": [99999], "prob_tail": [.5]}), events)
    teat = pd.DataFrame({"event_idx": [7], "prob_tail": [.5]})
    with pytest.raises(UserError, match="true_label is 'teat': is neither ear nor tail"):
        read_predictions(teat, events.head(8).assign(behavior="teat"))


# ---- verdict

def first(s: dict) -> str:
    return s["verdict"].split(" At the threshold")[0]


def test_the_first_sentence(events):
    val, train = events.iloc[1::2], events.iloc[::2]
    good, coin, bad = (summarise(read_predictions(tiny_predictions(val, auc=a, seed=2), val), train=train, n_boot=400, n_perm=200) for a in (.9, .5, .1))
    n = f"; {val.bout_id.nunique()} bouts, {(val.behavior == 'tail').sum()} tail events)"
    assert re.match(r"Better than chance: ROC AUC 0\.9\d\d \(95 % CI 0\.\d\d–0\.9\d; ", first(good)) and n in first(good)
    assert "; chance level 0.50, metadata baseline (whole hours, day" in first(good) and ", difference +0." in first(good)
    assert first(coin).startswith("No evidence of skill: ROC AUC 0.") and "Values above 0." in first(coin)
    assert first(bad).startswith("Inverted ranking: ROC AUC 0.") and "; the whole CI lies below chance level, 0.50." in first(bad)


def test_a_model_that_only_reads_the_clock(events):
    e = events.assign(behavior=np.where(events.start_s.between(8 * 3600, 10 * 3600), "tail", "ear"))
    val, train = e.iloc[1::2], e.iloc[::2]
    s = summarise(read_predictions(tiny_predictions(val, auc=.8, seed=0), val), train=train, n_boot=400, n_perm=200)
    assert s["call"] == "not_beyond_metadata"
    assert first(s).startswith("Not shown to exceed the metadata baseline: ROC AUC") and "chance level, 0.50, is exceeded, metadata baseline (whole hours, day" in first(s)
    alone = summarise(read_predictions(tiny_predictions(val, auc=.8, seed=0), val), n_boot=400, n_perm=200)
    assert alone["call"] == "above_chance" and "no training table was given" in first(alone) and not alone["differences"]


def test_small_and_one_sided_tables(events):
    ears = events[events.behavior == "ear"]
    s = summarise(read_predictions(tiny_predictions(ears), ears))
    assert first(s).startswith("Cannot be told: no tail event among the") and s["permutation"] is None and "roc_auc" not in s["metrics"]
    assert s["absent"]["roc_auc"] == "no tail event" and s["metrics"]["recall_ear"] > 0
    ten = pd.concat([ears.head(7), events[events.behavior == "tail"].head(3)])
    s = summarise(read_predictions(tiny_predictions(ten, auc=.99), ten))
    assert re.match(r"Cannot be told: ROC AUC \d\.\d{3} without a CI \(\d bouts decide it.*\); 3 tail events, 7 ear events\.$", first(s))
    unknown = summarise(read_predictions(tiny_predictions(events)).drop(columns="bout_id"))
    assert "without a CI (the bouts are not known; give the events with --manifest)" in first(unknown) and not unknown["intervals"] and unknown["metrics"]["roc_auc"] > .7


def facts_with(low, high, p=.39, auc=None, **more) -> dict:
    "Facts whose ROC AUC has this CI."
    y, prob, b = study(60, .5, np.random.default_rng(6), tail=.2)
    s = summarise(as_table(y, prob, b), n_boot=50, n_perm=20)
    s["metrics"]["roc_auc"] = (low + high) / 2 if auc is None else auc
    s["intervals"]["roc_auc"] |= {"low": low, "high": high}
    s["permutation"]["p_value"] = p
    return metrics.judged(s | more)


@pytest.mark.parametrize(("low", "high", "p", "useful", "heading", "words"), [
    (.36, .617, .39, .60, "No evidence of skill", "Values above 0.62 are excluded; the lab's line of usefulness, 0.60, is not."),
    (.36, .58, .39, .60, "No evidence of skill", "Values above 0.58 are excluded, and with them the lab's line of usefulness, 0.60."),
    (.36, .597, .39, .60, "No evidence of skill", "Values above 0.597 are excluded, and with them the lab's line of usefulness, 0.60."),
    (.36, .62, .39, None, "No evidence of skill", "Values above 0.62 are excluded."),
    (.49, .68, .013, .60, "Inconclusive", "The CI includes chance level, but the permutation test over bouts gives p = 0.013 (one-sided)."),
    (.504, .66, .03, .60, "Inconclusive", "(95 % CI 0.504–0.66; "),
    (.51, .66, .03, .60, "Inconclusive", "The CI lies above chance level, but the permutation test over bouts gives p = 0.030 (one-sided; 0.025 is needed)."),
    (.40, .66, .049, .60, "No evidence of skill", "Values above 0.66 are excluded; the lab's line of usefulness, 0.60, is not."),
])
def test_an_exclusion_names_the_value_and_follows_the_ci(low, high, p, useful, heading, words):
    s = facts_with(low, high, p, **({} if useful is None else {"useful_roc_auc": useful}))
    assert s["call"] == "at_chance" and s["verdict"].startswith(f"{heading}: ROC AUC") and words in first(s)
    assert metrics.line_excluded(s) == (useful is not None and high < useful)
    assert ("usefulness" in s["verdict"]) == (useful is not None)
    assert not re.search(r"coin|guess|ruled out|no better", s["verdict"])


@pytest.mark.parametrize(("low", "high", "words"), [
    (.61, .8, "The whole CI lies above the lab's line of usefulness, 0.60."),
    (.52, .8, "The CI includes the lab's line of usefulness, 0.60."),
    (.51, .59, "The lab's line of usefulness, 0.60, is excluded.")])
def test_skill_is_set_beside_the_line_of_usefulness(low, high, words):
    s = facts_with(low, high, .001, useful_roc_auc=.60)
    assert s["call"] == "above_chance" and first(s).startswith("Better than chance: ROC AUC") and words in first(s)
    assert "usefulness" not in facts_with(low, high, .001)["verdict"]


RECORD = {"epochs": 18, "select_by": "macro_f1", "n_perm": 1000, "chance": {"roc_auc": {"mean": .58, "high": .66}, "macro_f1": {"mean": .57, "high": .61}},
          "p_value": {"roc_auc": .004, "macro_f1": .2}, "note": ""}


def test_validation_alone_gives_no_verdict_of_skill():
    s = facts_with(.60, .80, .001, auc=.71, part="validation", selection=RECORD)
    assert s["call"] == "selected" and first(s) == (
        "No verdict from validation: these events also selected the checkpoint (best of 18 epochs by macro F1). "
        f"ROC AUC 0.710 (95 % CI 0.60–0.80, not corrected for a selection; {s['intervals']['roc_auc']['n_units']} bouts, {s['support']['tail']} tail events); "
        "a model without skill reaches 0.58 on average after the same selection (97.5 % quantile 0.66); permutation p = 0.004 with the selection repeated. "
        "See the test groups for a verdict.")
    assert "a model without skill reaches 0.57 on average after the same selection (97.5 % quantile 0.61)" in s["verdict"].split(" At the threshold")[1]
    low = facts_with(.52, .74, .001, auc=.63, part="validation", selection=RECORD)
    assert "; the score lies within that range." in first(low)


@pytest.mark.parametrize(("selection", "words"), [
    ({"selection": RECORD | {"chance": {}, "p_value": {}, "note": "the predictions of each epoch are not stored."}},
     "how much a selection raised it cannot be computed (the predictions of each epoch are not stored)."),
    ({}, "it is not known whether these events also selected the checkpoint (give --part test if they did not)."),
])
def test_an_optimism_that_is_not_known_is_said_to_be_unknown(selection, words):
    s = facts_with(.60, .80, .001, part="validation", **selection)
    assert s["call"] == "selected" and first(s).startswith("No verdict from validation: ") and words in first(s)
    bad = facts_with(.36, .62, part="validation", **selection)
    assert bad["call"] == "at_chance" and "only raise the score on average" in bad["verdict"].replace("only \n", "only ")


def test_events_that_selected_nothing_give_a_verdict():
    for more in ({}, {"part": "test", "selection": None}, {"part": "test"}, {"part": "validation", "selection": None}):
        s = facts_with(.60, .80, .001, **more)
        assert s["call"] == "above_chance" and "selection" not in s["verdict"]


def test_a_negative_result_on_validation_stands():
    s = facts_with(.36, .62, part="validation", selection=RECORD)
    assert first(s).endswith("This holds although the epoch was selected on these events, which can only raise the score on average.")
    assert facts_with(.1, .3, .999, part="validation", selection=RECORD)["call"] == "worse"


def test_a_verdict_is_split_for_a_page():
    word, text, rest = metrics.verdict_parts(facts_with(.36, .62)["verdict"])
    assert word == "No evidence of skill:" and text.startswith("ROC AUC 0.490") and text.endswith("are excluded.") and rest.startswith("At the threshold 0.5, macro F1")
    assert metrics.verdict_parts("Splendid.") == ("", "Splendid.", "")


# ---- how often the sentences are wrong

@cache
def ends_of(structure: str, auc: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    "CI (n, 2) of the ROC AUC of studies of one true AUC, and the p values of the permutation test."
    shape, rng, out = getattr(studies, structure), np.random.default_rng(int(100 * auc)), []
    for _ in range(n):
        is_tail, bout = studies.labels(shape, rng)
        prob = 1 / (1 + np.exp(1.2 - studies.latent(is_tail, bout, auc, rng)[0]))
        scorer = studies.AucOnly(is_tail, prob, bout)
        k = len(np.unique(bout[is_tail]))
        low, high = metrics.bca(scorer.value, scorer.draws(400, rng), scorer.jack(), k)
        p = metrics.permutation_test(is_tail, prob, bout, n_perm=200, seed=int(rng.integers(1e6)))["p_value"] if low > .5 else 1.0
        out.append((low, high, p))
    ends = np.array(out)
    return ends[:, :2], ends[:, 2]


def check_sentences(structure: str, n: int):
    "At the line itself, it is falsely excluded, or falsely said to be exceeded, in 2.5 % of studies; likewise skill at chance level."
    ends, _ = ends_of(structure, .60, n)
    false_exclusion, false_met = (ends[:, 1] < .60).sum(), (ends[:, 0] > .60).sum()
    null, p = ends_of(structure, .50, n)
    false_skill = ((null[:, 0] > .5) & (p <= .025)).sum()
    print(f"\n{structure}, {n} studies: line falsely excluded {false_exclusion / n:.1%}, falsely met {false_met / n:.1%}, skill falsely found {false_skill / n:.1%}")
    most = studies.at_most(.035, n, .99 if n < 1000 else .5)
    assert max(false_exclusion, false_met, false_skill) <= most


@pytest.mark.parametrize("structure", ["VALIDATION", "OOD"])
def test_what_a_verdict_excludes_is_seldom_true(structure):
    check_sentences(structure, 100)


@pytest.mark.long
@pytest.mark.parametrize("structure", ["VALIDATION", "OOD"])
def test_what_a_verdict_excludes_is_true_in_25_of_1000(structure):
    check_sentences(structure, studies.LONG)


def test_the_quick_auc_is_the_auc(predictions):
    y, p, u = (predictions.true_label == "tail").to_numpy(), predictions.prob_tail.to_numpy(), metrics.bout_codes(predictions.bout_id)
    assert studies.AucOnly(y, p, u).value == pytest.approx(point_metrics(y, p)["roc_auc"])
    np.testing.assert_allclose(studies.AucOnly(y, p, u).jack(), leave_one_out(Scorer(y, p, u))["roc_auc"])


# ---- the criteria of a lab

def test_the_labs_own_criteria_are_read_with_their_hash():
    lab, source = metrics.read_criteria()
    assert lab.useful_roc_auc == lab.seeds.roc_auc_above == .60 and [c.metric for c in lab.metrics if c.part == "test"] == ["recall_tail", "roc_auc", "ece_tail"]
    assert source == {"name": "criteria_lab.yaml", "sha256": sha256_file(core.at_root(core.CRITERIA))}


@pytest.mark.parametrize(("text", "words"), [
    ("usefull_roc_auc: 0.6", "unknown key 'usefull_roc_auc'; correct its spelling or remove it"),
    ("metrics: [{name: x, part: test, metric: recall_tail, above: 0.3, below: 0.4}]", "metrics.0: above and below given; give one of above"),
    ("metrics: [{name: x, part: test, metric: recall_tail}]", "metrics.0: no line given"),
    ("metrics: [{name: x, part: test, metric: recall, above: 0.3}]", "metrics.0: unknown metric 'recall'"),
    ("metrics: [{name: x, part: ood, metric: recall_tail, above: 0.3}]", "part is 'ood': input should be 'validation' or 'test'"),
    ("useful_roc_auc: 1.6", "useful_roc_auc is 1.6: input should be less than or equal to 1"),
    ("seeds: {least: 3}", "no value for 'seeds.roc_auc_above'"),
])
def test_a_fault_in_the_criteria_is_one_line(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as e:
        metrics.read_criteria(tmp_path / "c.yaml")
    assert words in str(e.value) and str(e.value).startswith(str(tmp_path / "c.yaml")) and "\n" not in str(e.value)


def test_a_project_without_criteria_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    assert metrics.read_criteria() == (None, None)
    with pytest.raises(UserError, match="no such file"):
        metrics.read_criteria("configs/mine.yaml")


def test_one_probability_for_all_is_a_call_of_its_own(predictions):
    flat = predictions.assign(prob_tail=.3, prob_ear=.7)
    for t in (flat, flat.drop(columns="bout_id")):
        s = summarise(t, n_boot=50, n_perm=20)
        assert s["call"] == "constant" and s["n_scores"] == 1 and first(s).startswith("Constant score: each of the ") and "is called ear; such a score cannot rank events" in first(s)
    nearly = flat.assign(prob_tail=flat.prob_tail.where(flat.index != flat.index[0], .31))
    assert summarise(nearly, n_boot=50, n_perm=20)["call"] != "constant"


# ---- the other behaviour at the same time

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 60), st.integers(0, 15), st.sampled_from(["ear", "tail", "teat"])), max_size=25), st.sampled_from([0.0, 3.0]))
def test_the_other_behaviour_is_measured_as_the_manifest_does(rows, pad_s):
    t = pd.DataFrame(rows, columns=["group", "start_s", "duration_sec", "behavior"]).assign(day=1)
    t = t.assign(start_s=t.start_s.astype(float), end_s=t.start_s + t.duration_sec + 1.0)
    np.testing.assert_allclose(metrics.other_class_overlap(t, pad_s), manifest.other_class_overlap(t, pad_s))


def test_a_manifest_that_does_not_say_it_is_asked_for_its_times(predictions, events):
    bare = predictions.drop(columns="other_class_overlap_s")
    silent = events.drop(columns="other_class_overlap_s")
    every = read_predictions(bare, silent)
    own = manifest.other_class_overlap(events).set_axis(events.event_idx)
    assert every.other_class_overlap_s.tolist() == own[every.event_idx].tolist() and (every.other_class_overlap_s > 0).any()
    assert read_predictions(bare, events).other_class_overlap_s.tolist() == events.set_index("event_idx").other_class_overlap_s[bare.event_idx].tolist()  # said: taken
    assert read_predictions(predictions.assign(other_class_overlap_s=7.0), silent).other_class_overlap_s.eq(7).all()


def test_metrics_json_is_json_and_tells_the_same(predictions, events, tmp_path):
    s = summarise(read_predictions(predictions.iloc[1::2], events), train=events.iloc[::2], n_boot=200, n_perm=50)
    back = read_json(write_json(tmp_path / "metrics.json", s))
    assert back == json.loads(json.dumps(s)) and verdict(back) == s["verdict"]
    assert {"n", "support", "metrics", "confusion_matrix", "intervals", "baselines", "permutation", "verdict"} <= set(back)
    assert {"low", "high", "level", "method", "unit", "n_units"} <= set(back["intervals"]["recall_tail"]) and back["intervals"]["recall_tail"]["unit"] == "bout"
    assert {"always_ear", "always_tail", "coin", "metadata_deployable", "metadata_all"} <= set(back["baselines"])
    assert sum(map(sum, back["confusion_matrix"])) == back["n"] and sum(back["confusion_matrix"][1]) == back["support"]["tail"]
    assert summarise(read_predictions(predictions.iloc[1::2], events), train=events.iloc[::2], n_boot=200, n_perm=50) == s


def test_at_chance_names_the_metadata_that_reach_most(predictions, events):
    s = summarise(read_predictions(predictions.iloc[1::2], events), train=events.iloc[::2], n_boot=100, n_perm=50)
    s["intervals"]["roc_auc"] |= {"low": .30, "high": .65}
    for name, auc, low in (("metadata_all", .55, -.40), ("metadata_deployable", .61, -.10)):
        s["baselines"][name]["roc_auc"] = auc
        s["differences"][name]["low"] = low
    assert metrics.call(s) == "at_chance" and "chance level 0.50, metadata baseline (whole hours, day, camera) 0.61." in verdict(s)


def calls(auc: float, n: int) -> pd.Series:
    rng, shift = np.random.default_rng(int(100 * auc)), 2**.5 * NormalDist().inv_cdf(auc)
    return pd.Series([summarise(as_table(*study(170, shift, rng)), n_boot=300, n_perm=199)["call"] for _ in range(n)]).value_counts(normalize=True)


def test_chance_is_called_chance_and_skill_skill():
    assert calls(.5, 60).get("at_chance", 0) >= .9
    assert calls(.85, 40).get("above_chance", 0) >= .97


@pytest.mark.long
def test_chance_is_called_chance_in_95_of_100():
    assert calls(.5, 600)["at_chance"] >= .95
    assert calls(.85, 200)["above_chance"] >= .98


# ---- E1

@pytest.fixture(scope="module")
def e1(lab) -> dict:
    return summarise(read_predictions(lab / "E1" / "predictions_val.csv", lab / "val_v4.csv"), train=lab / "train_v4.csv", useful=.60)


@pytest.mark.lab
def test_the_february_table(e1):
    m = e1["metrics"]
    assert e1["support"] == {"ear": 323, "tail": 38} and e1["confusion_matrix"] == [[283, 40], [30, 8]]
    assert f"{m['accuracy']:.1%}" == "80.6%" and f"{m['macro_f1']:.3f}" == "0.538" and f"{m['recall_ear']:.1%}" == "87.6%"
    assert f"{m['recall_tail']:.1%}" == "21.1%" and f"{m['f1_tail']:.3f}" == "0.186" and f"{m['precision_tail']:.1%}" == "16.7%"


@pytest.mark.lab
def test_what_the_february_table_did_not_say(e1):
    assert f"{e1['metrics']['roc_auc']:.3f}" == "0.490" and f"{e1['baselines']['always_ear']['macro_f1']:.3f}" == "0.472"
    i = e1["intervals"]["roc_auc"]
    assert .33 < i["low"] < .40 and .58 < i["high"] < .65 and (i["n_units"], i["n_deciding"]) == (176, 31)
    assert e1["call"] == "at_chance" and first(e1).startswith("No evidence of skill: ROC AUC 0.490 (95 % CI 0.3")
    assert "; 176 bouts, 38 tail events); chance level 0.50, metadata baseline (whole hours, day, camera) 0.65" in first(e1)
    assert re.search(r"Values above 0\.6\d are excluded; the lab's line of usefulness, 0\.60, is not\.$", first(e1))
    assert e1["baselines"]["metadata_deployable"]["roc_auc"] == pytest.approx(.650, abs=5e-4) and e1["permutation"]["p_value"] > .2
    assert "The CI includes the higher of these baselines." in e1["verdict"] and e1["verdict"].endswith("8 of 38 tail events were found, and 40 of 323 ear events were called tail.")


@pytest.mark.lab
def test_ear_recall_of_e1_has_a_design_effect(lab):
    t = read_predictions(lab / "E1" / "predictions_val.csv", lab / "val_v4.csv")
    y, p = (t.true_label == "tail").to_numpy(), t.prob_tail.to_numpy()
    bouts, rows = (resample(Scorer(y, p, u), 4000, 0)["recall_ear"].var() for u in (metrics.bout_codes(t.bout_id), np.arange(len(t))))
    assert bouts / rows == pytest.approx(2.8, abs=.3)


@pytest.mark.lab
def test_e1_does_not_join_another_table(lab):
    with pytest.raises(UserError, match="361 predictions, but 141 events"):
        read_predictions(lab / "E1" / "predictions_val.csv", lab / "test_ood_v4.csv")


# ---- the selected epoch

@pytest.mark.parametrize("select_by", metrics.SELECTORS)
def test_the_selection_is_repeated_with_the_trainings_own_rule_and_metrics(select_by):
    "Every metric of every epoch as `point_metrics` computes it, to the last bit where counts decide; the first of equals."
    import studies
    rng = np.random.default_rng(0)
    y, bout = studies.labels(studies.VALIDATION, rng)
    probs = np.round(studies.epochs(y, bout, 0.6, rng, 6), 2)   # with ties between events
    probs = np.concatenate([probs, probs])                     # and between epochs
    rows = np.vstack([y, metrics.exchange_bouts(y, bout, 4, rng)])
    for row, chosen in zip(rows, metrics.selected_scores(rows, probs, select_by)["epoch"], strict=True):
        plain = [metrics.point_metrics(row, p) for p in probs]
        assert chosen == int(np.argmax([s[select_by] for s in plain])) < 6
        for metric in metrics.AFTER_SELECTION:
            assert metrics.epoch_scores(row[None], probs, metric)[0].tolist() == [s[metric] for s in plain]
            assert metrics.selected_scores(row[None], probs, select_by)[metric][0] == plain[chosen][metric]


def test_a_record_of_a_selection_follows_the_contract(monkeypatch):
    import studies
    rng = np.random.default_rng(1)
    y, bout = studies.labels(studies.VALIDATION, rng)
    probs = studies.epochs(y, bout, 0.8, rng, 5)
    record = metrics.selection_record(y, bout, probs, select_by="roc_auc", n_perm=99)
    assert {"epochs", "select_by", "n_perm", "chance", "p_value", "note"} <= set(record)
    assert set(record["chance"]) == set(record["p_value"]) == {"roc_auc", "macro_f1", "average_precision", "recall_tail", "f1_tail"}
    assert record["p_value"]["roc_auc"] == 0.01 and 0.5 < record["chance"]["roc_auc"]["mean"] < record["chance"]["roc_auc"]["high"] < record["observed"]["roc_auc"]
    one = metrics.selection_record(y, bout, probs[:1], n_perm=200)
    plain = metrics.permutation_test(y, probs[0], bout, n_perm=200)   # one epoch: nothing was selected
    assert (one["chance"]["roc_auc"]["mean"], one["p_value"]["roc_auc"]) == pytest.approx((plain["mean"], plain["p_value"]))
    monkeypatch.setattr(metrics, "BLOCK", 5_000)
    assert metrics.selection_record(y, bout, probs, select_by="roc_auc", n_perm=99)["chance"]["roc_auc"]["mean"] == pytest.approx(record["chance"]["roc_auc"]["mean"], abs=0.02)


def test_too_few_bouts_or_unknown_bouts_give_no_test_and_say_so():
    y = np.arange(40) < 7
    probs = np.random.default_rng(0).random((3, 40))
    few, unknown = metrics.selection_record(y, np.arange(40), probs), metrics.selection_record(y, None, probs)
    assert few["p_value"] == few["chance"] == {} and "7 bouts hold events of the rarer class, fewer than 8" in few["note"]
    assert unknown["p_value"] == {} and unknown["epochs"] == 3 and unknown["note"] == metrics.NO_BOUTS
    said = metrics.selection_sentence(few, "macro_f1", "macro F1")
    assert "best of 3 evaluations on the same validation events" in said and "fewer than 8" in said


def test_without_skill_the_test_with_the_selection_in_it_keeps_its_level_and_the_naive_one_does_not():
    import studies
    from selecting import rates
    found = rates(studies.VALIDATION, 50, "roc_auc", n=80, n_perm=79)
    assert found["naive"] >= 0.25
    assert max(found[k] for k in metrics.AFTER_SELECTION) * 80 <= studies.at_most(0.035, 80)


def test_a_collapse_is_all_events_called_by_one_class():
    past = {"epoch": [1, 2, 3, 4, 5, 6], "val_tail_recall": [0, 0, 1, 1, 0.5, None], "val_tail_f1": [0, 0, 76 / 399, 76 / 398, 0.3, None],
            "val_macro_f1": [323 / 684, 322 / 683, 38 / 399, 38 / 398 + 1 / 324, 0.6, None]}
    support = {"ear": 323, "tail": 38}
    assert metrics.class_collapse(past, support) == ["ear", "", "tail", "", "", None]
    assert metrics.class_collapse(past) == [None, None, "tail", "", "", None]
    known = past | {"val_predicted_tail": [0, 1, 361, 360, 40, 361], "val_n_ear": [323] * 6, "val_n_tail": [38] * 6}
    assert metrics.class_collapse(known) == ["ear", "", "tail", "", "", "tail"]
