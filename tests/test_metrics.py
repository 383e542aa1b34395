"Metrics against scikit-learn, intervals against closed forms, scipy and simulation, and E1's own table."
import json
import time
import tracemalloc
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from crosssuck import manifest, metrics
from crosssuck.core import UserError, read_json, write_csv, write_json
from crosssuck.metrics import (
    METHOD,
    METHOD_EDGE,
    METRICS,
    Live,
    Scorer,
    bca,
    between_share,
    between_test,
    coin_scores,
    deciding,
    exchange_bouts,
    intervals,
    leave_one_out,
    left_out_scores,
    metadata_baseline,
    not_computed,
    paired_difference,
    permutation_null,
    permutation_test,
    point_metrics,
    read_left_out,
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
    assert set(point_metrics(y, p)) == {"accuracy", "precision_ear", "recall_ear", "f1_ear", "precision_tail", "ece", "adaptive_ece", "brier"}
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
    assert never["f1_tail"]["low"] == 0 and 0 < never["f1_tail"]["high"] < .35 and never["macro_f1"]["method"] == METHOD


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
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    better = paired_difference(y, p, np.random.default_rng(1).random(len(p)), b, n_boot=500)
    assert better["low"] < better["value"] < better["high"] and better["value"] == pytest.approx(
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


@pytest.mark.parametrize(("between", "share"), [(0.0, 0.0), (1.0, 0.5), (3.0, 0.9)])
def test_share_between_cells_is_found(between, share):
    rng = np.random.default_rng(1)
    cell = np.repeat(np.arange(200), 4)
    assert between_share(between * rng.normal(size=200)[cell] + rng.normal(size=800), cell) == pytest.approx(share, abs=0.07)


def test_moving_bouts_is_an_honest_test_of_videos():
    rng = np.random.default_rng(2)
    p = np.array([between_test(rng.normal(size=60), np.repeat(np.arange(12), 5), n_perm=99)["p_value"] for _ in range(150)])
    assert (p <= .05).mean() < .1 and between_test(np.ones(4), np.arange(4))["share"] is None


def test_a_widget_is_a_picture_where_there_is_no_hand(monkeypatch):
    import ipywidgets
    live = Live(ipywidgets.IntSlider(), b"png", "a slider")
    monkeypatch.setenv("IN_TEST", "1")
    assert sorted(live._repr_mimebundle_()) == ["image/png", "text/plain"]
    monkeypatch.delenv("IN_TEST")
    shown = live._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown and shown["text/plain"] == "a slider" and "image/png" in shown


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
    assert first(good).startswith("Better than chance: this model tells tail-sucking from ear-sucking better than a coin (it puts the tail event first in 9")
    assert "of 100 tail–ear pairs: ROC AUC 0.9" in first(good) and "and better than hour" in first(good)
    assert first(coin).startswith("At chance") and ("no better than a coin" in first(coin) or "not shown to tell" in first(coin))
    assert first(bad).startswith("Worse than a coin: this model has tail-sucking and ear-sucking the wrong way round")
    assert f"over {val.bout_id.nunique()} bouts, {(val.behavior == 'tail').sum()} tail events" in first(good)


def test_a_model_that_only_reads_the_clock(events):
    e = events.assign(behavior=np.where(events.start_s.between(8 * 3600, 10 * 3600), "tail", "ear"))
    val, train = e.iloc[1::2], e.iloc[::2]
    s = summarise(read_predictions(tiny_predictions(val, auc=.8, seed=0), val), train=train, n_boot=400, n_perm=200)
    assert s["call"] == "not_beyond_metadata"
    assert first(s).startswith("Not shown to see the behaviour: ") and "but not better than hour, day" in first(s)
    alone = summarise(read_predictions(tiny_predictions(val, auc=.8, seed=0), val), n_boot=400, n_perm=200)
    assert alone["call"] == "above_chance" and "no training table was given" in first(alone) and not alone["differences"]


def test_small_and_one_sided_tables(events):
    ears = events[events.behavior == "ear"]
    s = summarise(read_predictions(tiny_predictions(ears), ears))
    assert first(s).startswith("Cannot be told: no tail event among the") and s["permutation"] is None and "roc_auc" not in s["metrics"]
    assert s["absent"]["roc_auc"] == "no tail event" and s["metrics"]["recall_ear"] > 0
    ten = pd.concat([ears.head(7), events[events.behavior == "tail"].head(3)])
    s = summarise(read_predictions(tiny_predictions(ten, auc=.99), ten))
    assert first(s).startswith("Cannot be told: with 3 tail events and 7 ear events") and "no interval" in first(s)
    unknown = summarise(read_predictions(tiny_predictions(events)).drop(columns="bout_id"))
    assert first(unknown).startswith("Cannot be told yet: the bouts are not known; give the events with --manifest") and not unknown["intervals"] and unknown["metrics"]["roc_auc"] > .7


def test_a_wide_interval_does_not_condemn():
    y, p, b = study(60, .5, np.random.default_rng(6), tail=.2)
    s = summarise(as_table(y, p, b), n_boot=400, n_perm=200)
    assert s["call"] == "at_chance" and s["intervals"]["roc_auc"]["high"] >= .7
    assert first(s).startswith("At chance, as far as ") and "nor is a useful model ruled out" in first(s)


@pytest.mark.parametrize(("low", "high", "p", "words"), [
    (.40, .62, .39, "no better than a coin ("), (.40, .75, .39, "nor is a useful model ruled out"), (.49, .68, .013, "in only 1.3 % of the shuffles: it stays open"),
    (.49, .75, .013, "nor is a useful model ruled out"), (.40, .66, .049, "in only 4.9 % of the shuffles"), (.51, .66, .03, "though the interval lies above 0.5: it stays open")])
def test_no_better_than_a_coin_is_said_only_where_it_is_shown(predictions, low, high, p, words):
    s = summarise(predictions, n_boot=50, n_perm=20)
    s["intervals"]["roc_auc"] |= {"low": low, "high": high}
    s["permutation"]["p_value"] = p
    assert metrics.call(s) == "at_chance" and words in verdict(s) and ("no better than a coin" in verdict(s)) == (p == .39 and high < .7) == metrics.ruled_out(s)


def test_one_probability_for_all_is_a_call_of_its_own(predictions):
    flat = predictions.assign(prob_tail=.3, prob_ear=.7)
    for t in (flat, flat.drop(columns="bout_id")):
        s = summarise(t, n_boot=50, n_perm=20)
        assert s["call"] == "constant" and s["n_scores"] == 1 and first(s).startswith("One answer for all") and "calls them all ear" in first(s)
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
    assert metrics.call(s) == "at_chance" and "hour, day and camera alone reach 0.610" in verdict(s)


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
    return summarise(read_predictions(lab / "E1" / "predictions_val.csv", lab / "val_v4.csv"), train=lab / "train_v4.csv")


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
    assert e1["call"] == "at_chance" and first(e1).startswith("At chance: this model tells tail-sucking from ear-sucking no better than a coin "
                                                              "(it puts the tail event first in 49 of 100 tail–ear pairs: ROC AUC 0.490, 95 % interval 0.3")
    assert "over 176 bouts, 38 tail events); hour, day and camera alone reach 0.7" in first(e1)
    assert e1["baselines"]["metadata_deployable"]["roc_auc"] > .65 and e1["permutation"]["p_value"] > .2
    assert "The higher of the two lies inside its interval." in e1["verdict"] and "It found 8 of 38 tail events and called 40 of 323 ear events tail." in e1["verdict"]


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
