"08_calibration: fitted on validation, told on test, and refused where it would only hide that nothing was learnt."
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from crosssuck.calibration import (
    Scaling,
    adaptive_ece,
    at_threshold,
    calibrate,
    choose_threshold,
    cliff,
    fit_scaling,
    log_loss,
    reliability,
    threshold_table,
)
from crosssuck.core import UserError, read_json
from crosssuck.simulation import tiny_events, tiny_predictions


def squeezed(table, centre=0.455, spread=0.04):
    prob = centre + spread * (table.prob_tail - table.prob_tail.mean()) / table.prob_tail.std()
    return table.assign(prob_tail=prob, prob_ear=1 - prob, pred_label=np.where(prob >= 0.5, "tail", "ear"))


@pytest.fixture(scope="module")
def events():
    return tiny_events(800, seed=3)


@pytest.fixture(scope="module")
def halves(events):
    table = tiny_predictions(events, 0.9, seed=1)
    first = pd.factorize(table.bout_id)[0] % 2 == 0
    return table[first].reset_index(drop=True), table[~first].reset_index(drop=True)


# the lab's own table

@pytest.mark.lab
def test_e1_has_a_cliff_and_no_calibration(lab, tmp_path):
    result = calibrate(lab / "E1/predictions_val.csv", out=tmp_path, manifest=lab / "val_v4.csv", n_boot=300)
    steep = result["cliff"]["validation"]
    assert 0.40 < steep["start"] < 0.45 < steep["end"] < 0.51 and steep["width"] < 0.1
    assert result["temperature"] is None and result["threshold"] is None
    assert result["sentences"][0].startswith("Leave the scores as they are") and "cliff" in result["sentences"][1]
    table = pd.DataFrame(result["threshold_table"]["validation"]).set_index("threshold")
    assert len(table) == 17 and (table.tail_recall[:0.35] == 1).all() and (table.tail_recall[0.55:] == 0).all()
    assert table.tail_recall[0.5] == pytest.approx(8 / 38) and table.macro_f1[0.5] == pytest.approx(0.538, abs=5e-4)
    assert "cliff" in (tmp_path / "calibration.html").read_text()


@pytest.mark.lab
def test_e1_without_its_events_says_that_bouts_are_unknown(lab):
    result = calibrate(lab / "E1/predictions_val.csv", n_boot=200)
    assert "names no bouts" in result["sentences"][-1] and result["threshold"] is None


# the sweep

@pytest.mark.parametrize("seed", range(4))
def test_sweep_agrees_with_scikit_learn(events, seed):
    table = tiny_predictions(events.sample(60, random_state=seed), 0.7, seed=seed)
    y = table.true_label == "tail"
    for r in threshold_table(table, [0.1, 0.3, 0.5, 0.7]).itertuples():
        call = table.prob_tail >= r.threshold
        assert r.tail_recall == pytest.approx(recall_score(y, call, zero_division=np.nan), nan_ok=True)
        assert r.tail_precision == pytest.approx(precision_score(y, call, zero_division=np.nan), nan_ok=True)
        assert r.macro_f1 == pytest.approx(f1_score(y, call, average="macro", zero_division=0))


def test_sweep_of_one_class_has_holes_and_no_zeros(events):
    ears = tiny_predictions(events).query("true_label == 'ear'")
    assert threshold_table(ears).tail_recall.isna().all()


@pytest.mark.parametrize(("auc", "spread", "steep"), [(0.5, 0.04, True), (0.55, 0.04, True), (0.95, None, False), (0.5, 0.15, False)])
def test_cliff_is_narrow_and_blind(events, auc, spread, steep):
    table = tiny_predictions(events, auc)
    assert (cliff(table if spread is None else squeezed(table, spread=spread)) is not None) == steep


@pytest.mark.parametrize("tails", [5, 50, 400])
def test_a_sure_and_right_model_has_no_cliff_however_rare_tails_are(tails):
    label = np.array(["tail"] * tails + ["ear"] * 800)
    table = pd.DataFrame({"true_label": label, "prob_tail": np.where(label == "tail", 0.95, 0.02)})
    assert cliff(table) is None


# the fits

@pytest.fixture(scope="module")
def honest(events):
    table = tiny_predictions(events, 0.9, seed=1)
    return table.assign(true_label=np.where(np.random.default_rng(0).random(len(table)) < table.prob_tail, "tail", "ear"))


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.0, 4.0])
def test_temperature_is_found_again(honest, temperature):
    own = 1 / fit_scaling(honest).slope
    found = 1 / fit_scaling(Scaling("temperature", temperature, 0.0, False)(honest)).slope
    assert found == pytest.approx(own * temperature, rel=0.02)


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 2.0), (0.5, -1.0), (2.0, 0.5)])
def test_platt_undoes_slope_and_shift(honest, slope, shift):
    bent = Scaling("platt", slope, shift, False)(honest)
    assert log_loss(fit_scaling(bent, "platt")(bent)) == pytest.approx(log_loss(fit_scaling(honest, "platt")(honest)), abs=1e-4)
    assert log_loss(fit_scaling(bent, "platt")(bent)) <= log_loss(fit_scaling(bent)(bent)) + 1e-9


def test_corrections_never_change_the_ranking(halves):
    fit = fit_scaling(halves[0], "platt")
    y = halves[1].true_label == "tail"
    assert roc_auc_score(y, fit(halves[1]).prob_tail) == pytest.approx(roc_auc_score(y, halves[1].prob_tail))


def test_threshold_moved_to_one_half_is_the_same_threshold(halves):
    cut = choose_threshold(halves[0])
    moved = threshold_table(at_threshold(halves[1], cut), [0.5]).drop(columns="threshold")
    pd.testing.assert_frame_equal(moved, threshold_table(halves[1], [cut]).drop(columns="threshold"))


def test_chosen_threshold_beats_every_other_on_validation(halves):
    best = threshold_table(halves[0], [choose_threshold(halves[0])]).macro_f1[0]
    assert best >= threshold_table(halves[0], np.linspace(0, 1, 501)).macro_f1.max() - 1e-12


def test_certain_probabilities_are_no_error():
    table = pd.DataFrame({"true_label": ["ear", "tail"] * 20, "prob_tail": [0.0, 1.0] * 20})
    assert np.isfinite(log_loss(table)) and np.isfinite(fit_scaling(table).slope)


def test_bins_hold_every_event_once(honest):
    for bins in (1, 7, 10):
        assert reliability(honest, bins).n.sum() == len(honest)
    assert len(reliability(honest.head(12), 10)) == 1
    assert adaptive_ece(honest) < 0.06 < adaptive_ece(honest.assign(prob_tail=0.5))


# the whole

def test_nothing_is_fitted_on_test(halves):
    turned = halves[1].assign(true_label=np.where(halves[1].true_label == "ear", "tail", "ear"))
    a, b = (calibrate(halves[0], t, n_boot=100) for t in (halves[1], turned))
    assert a["temperature"] == b["temperature"] and a["threshold"] == b["threshold"]
    assert a["before"]["test"]["log_loss"] != b["before"]["test"]["log_loss"]


def test_a_useful_model_is_calibrated_and_told_on_test(halves, tmp_path):
    result = calibrate(*halves, tmp_path, simulated=True, n_boot=200)
    assert result["temperature"] and result["threshold"] and not result["corrections"]["platt"]["refused"]
    assert "on test" in result["sentences"][0]
    page = (tmp_path / "calibration.html").read_text()
    assert "nothing about calves" in page and page.count("<img") == 2
    assert json.loads((tmp_path / "calibration.json").read_text())["threshold"] == result["threshold"]


def test_a_blind_model_is_refused_though_its_ece_would_shine(events, tmp_path):
    blind = squeezed(tiny_predictions(events, 0.5))
    result = calibrate(blind, out=tmp_path, n_boot=200)
    assert adaptive_ece(fit_scaling(blind, "platt")(blind)) < adaptive_ece(blind) / 3
    assert all(f["refused"] for f in result["corrections"].values()) and result["threshold"] is None
    assert "could only hide that" in result["sentences"][0] and "refused" in (tmp_path / "calibration.html").read_text()


def test_a_fit_at_its_bound_is_refused(halves):
    rank = halves[0].prob_tail.rank(pct=True)
    perfect = np.where(halves[0].true_label == "tail", 0.501 + rank / 1000, 0.499 - rank / 1000)
    table = halves[0].assign(prob_tail=perfect, prob_ear=1 - perfect, pred_label=np.where(perfect >= 0.5, "tail", "ear"))
    result = calibrate(table, n_boot=200)
    assert result["temperature"] is None and "ran into its bound" in result["corrections"]["temperature"]["refused"]


@pytest.mark.parametrize("rows", ["ear", "tail", "few"])
def test_too_little_to_fit_on_is_said(halves, tmp_path, rows):
    table = halves[0].head(30) if rows == "few" else halves[0][halves[0].true_label == rows]
    result = calibrate(table, halves[1], tmp_path, n_boot=100)
    assert result["temperature"] is None and result["threshold"] is None
    assert read_json(tmp_path / "calibration.json")["sentences"]


def test_missing_and_broken_tables_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        calibrate(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("true_label,prob_ear,prob_tail\near,0.5,0.7\n")
    with pytest.raises(UserError, match="do not sum to 1"):
        calibrate(tmp_path / "bad.csv", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
