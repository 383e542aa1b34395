"08_calibration: fitted on validation, told on test, and refused where it would only hide that nothing was learnt."
import json
import re
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
import studies
from browsing import jupyterlab, open_and_run, write_notebook

from crosssuck.calibration import (
    TARGETS,
    Scaling,
    Target,
    adaptive_ece,
    at_threshold,
    calibrate,
    changed_sides,
    choose_threshold,
    cliff,
    comparison_table,
    counts_at,
    february_contradictions,
    february_table,
    fit_scaling,
    log_loss,
    loss_change,
    optimal_log_odds,
    prior_correction,
    read_target,
    reliability,
    target_interval,
    target_table,
    threshold_slider,
    threshold_table,
)
from crosssuck.core import UserError, read_json, stated
from crosssuck.metrics import ECE_WORDS, NO_BOUTS
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
def test_e1_in_the_shape_of_section_7(lab, tmp_path):
    table = pd.read_csv(lab / "E1/predictions_val.csv")
    printed = february_table(table).set_index("Threshold")
    assert printed.index.tolist() == ["0.10–0.35", "0.40", "0.45", "0.50", "0.55", "0.60+"]
    assert printed.loc["0.50"].tolist() == ["21%", "0.89", "0.538"] and printed.loc["0.10–0.35"].tolist() == ["100%", "0.00", "0.095"] and printed.loc["0.60+"].tolist() == ["0%", "0.94", "0.472"]
    result = calibrate(lab / "E1/predictions_val.csv", out=tmp_path, manifest=lab / "val_v4.csv", n_boot=200)
    assert result["sentences"][1].startswith("On validation: a cliff: between the thresholds 0.42 and 0.49")
    page = (tmp_path / "calibration.html").read_text()
    assert page.index("Leave the scores as they are") < page.index("What every threshold gives") < page.index("0.10–0.35")
    assert all(c["refused"] for c in result["targets"]) and len(result["targets"]) == 4


def test_the_february_table_of_groups_4_and_5_to_its_digits():
    "The report's figures fix the counts at each threshold; a table with these counts prints the report's table."
    counts = {"tail": (3, 6, 3), "ear": (25, 66, 38)}
    table = pd.DataFrame([(c, p) for c, n in counts.items() for p, k in zip((0.44, 0.47, 0.51), n, strict=True) for _ in range(k)], columns=["true_label", "prob_tail"])
    assert february_table(table).to_numpy().tolist() == [["0.10–0.40", "100%", "0.00", "0.078"], ["0.45", "75%", "0.32", "0.231"], ["0.50", "25%", "0.79", "0.454"], ["0.55+", "0%", "0.96", "0.478"]]
    assert "cliff" in cliff(table)["sentence"]
    assert set(february_table(table[table.true_label == "ear"])["Tail Recall"]) == {"–"}  # absent, not 0


def february(ears):
    "A table with the counts of groups 4 and 5; `ears` at 0.44, 0.47, 0.51 and 0.57."
    counts = {"tail": (3, 6, 3, 0), "ear": ears}
    return pd.DataFrame([(c, p) for c, n in counts.items() for p, k in zip((0.44, 0.47, 0.51, 0.57), n, strict=True)
                         for _ in range(k)], columns=["true_label", "prob_tail"])


def test_a_row_of_the_february_report_that_its_data_contradict_is_named(tmp_path):
    "The report's row 0.55+ holds from 0.60 on: at 0.55 two ears are still called tail."
    table = february((25, 66, 36, 2))
    said = ("Contradiction: February report, section 7, states tail recall 0 %, ear F1 0.96, macro F1 0.478 from 0.55 to "
            "0.90; the data give tail recall 0 %, ear F1 0.95, macro F1 0.474 at 0.55.")
    assert february_contradictions(table) == [said]
    result = calibrate(table, out=tmp_path, n_boot=50)
    assert said in result["sentences"] and said in (tmp_path / "calibration.html").read_text()
    assert february_contradictions(february((25, 66, 38, 0))) == []      # it agrees
    assert february_contradictions(february((25, 65, 37, 2))) == []      # another model of these events
    assert february_contradictions(table.iloc[1:]) == []                 # other events


def test_without_the_labs_file_nothing_is_compared(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    assert stated("february_sweep") == {} and february_contradictions(february((25, 66, 36, 2))) == []


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


# a threshold for a purpose

@pytest.mark.parametrize("text", TARGETS)
def test_a_target_is_served_best_on_validation(halves, text):
    target, table = read_target(text), halves[0]
    cut = choose_threshold(table, target)
    got = target.figure(*counts_at(table, cut))[0]
    every = target.figure(*counts_at(table, np.linspace(0, 1, 2001)))
    if target.kind == "recall":
        reached = np.linspace(0, 1, 2001)[every >= target.value]
        alarms = [counts_at(table, c)[1][0] for c in (cut, reached.max())]
        assert got >= target.value and alarms[0] <= alarms[1]  # the fewest false alarms that reach it
    else:
        assert got <= np.nanmin(every) + 1e-12 if target.kind == "cost" else got >= np.nanmax(every) - 1e-12


def test_counts_are_those_of_the_table(halves):
    for cut in (0, 0.2, 0.5, 0.9, 1):
        call, y = halves[0].prob_tail >= cut, halves[0].true_label == "tail"
        assert [int(x[0]) for x in counts_at(halves[0], cut)] == [(call & y).sum(), (call & ~y).sum(), (~call & y).sum(), (~call & ~y).sum()]


def test_dearer_misses_lower_the_threshold(halves):
    cuts = [choose_threshold(halves[0], Target("cost", c)) for c in (0.2, 1, 5, 50)]
    assert cuts == sorted(cuts, reverse=True) and cuts[0] > cuts[-1]
    assert choose_threshold(halves[0], Target("f_beta", 4)) <= choose_threshold(halves[0], Target("f_beta", 0.25))


def test_f_beta_agrees_with_scikit_learn(halves):
    from sklearn.metrics import fbeta_score
    for beta in (0.5, 1, 2):
        assert Target("f_beta", beta).figure(*counts_at(halves[0], 0.4))[0] == pytest.approx(fbeta_score(halves[0].true_label == "tail", halves[0].prob_tail >= 0.4, beta=beta))


@pytest.mark.parametrize("text", ["recall=1.2", "recall", "cost=0", "f_beta=-1", "macro_f1=2", "accuracy", "cost=much"])
def test_what_is_no_target(text):
    with pytest.raises(UserError, match="is no target; use macro_f1, f_beta=2"):
        read_target(text)


def test_the_interval_of_a_target_holds_the_truth():
    "Many studies from one law: how often does the interval of the recall at a threshold hold the true recall?"
    rng, hits = np.random.default_rng(0), []
    truth = NormalDist().cdf(0.2)
    for _ in range(150):
        bout = np.repeat(np.arange(160), rng.geometric(0.48, 160))
        tail = (rng.random(160) < 0.25)[bout]
        score = 0.7 * rng.normal(size=160)[bout] + 0.714 * rng.normal(size=len(bout)) + 1.2 * tail - 1.0
        t = pd.DataFrame({"true_label": np.where(tail, "tail", "ear"), "prob_tail": 1 / (1 + np.exp(-score)), "bout_id": bout.astype(str)})
        ends = target_interval(t, 0.5, Target("recall", 0.8), n_boot=300)
        hits.append(ends[0] <= truth <= ends[1])
    assert np.mean(hits) > 0.89


def test_intervals_of_targets_need_bouts(halves):
    few = halves[0][halves[0].bout_id.isin(halves[0].bout_id[halves[0].true_label == "tail"].unique()[:6])]
    assert target_interval(few, 0.5, Target("recall", 0.8), n_boot=50) is None
    low, high = target_interval(halves[0], 0.5, Target("cost", 5), n_boot=200)
    assert low < Target("cost", 5).figure(*counts_at(halves[0], 0.5))[0] < high


def test_targets_are_chosen_on_validation_and_told_on_test(halves, tmp_path):
    result = calibrate(*halves, tmp_path, targets=("recall=0.9", "cost=3"), n_boot=200)
    first = result["targets"][0]
    assert result["threshold"] == first["value"] == choose_threshold(halves[0], Target("recall", 0.9)) and result["sentences"][0].startswith(f"The threshold {first['value']:.2f} (tail recall at least 0.9)")
    assert first["aimed"]["validation"]["value"] >= 0.9 and first["aimed"]["test"]["low"] <= first["aimed"]["test"]["value"] <= first["aimed"]["test"]["high"]
    assert target_table(result)["gives on test"].str.contains(" to ").all() and "tail recall at least 0.9" in (tmp_path / "calibration.html").read_text()


# the prior

@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8])
def test_the_prior_correction_undoes_a_change_of_the_mix(events, kept):
    "Take ears away at random, as balanced sampling does: the posterior moves by exactly the prior's log-odds."
    table = tiny_predictions(events, 0.9, seed=1)
    rng = np.random.default_rng(0)
    honest = table.assign(true_label=np.where(rng.random(len(table)) < table.prob_tail, "tail", "ear"))
    true = (honest.true_label == "tail").mean()
    drawn = true / (true + kept * (1 - true))
    odds = honest.prob_tail / (1 - honest.prob_tail) / kept  # what a model trained on that mix would say
    moved = honest.assign(prob_tail=odds / (1 + odds), prob_ear=1 / (1 + odds))
    assert np.allclose(prior_correction(drawn, true)(moved).prob_tail, honest.prob_tail)
    assert prior_correction(0.5, 0.5).offset == 0
    with pytest.raises(UserError, match="the true share of tails is 1"):
        prior_correction(0.5, 1)


CROSS_ENTROPY = "loss: {focal_gamma: 0.0, label_smoothing: 0.0, balanced_sampling: true}\naugment: {mixup_alpha: 0.0}"


def with_loss(table, folder, text):
    "Write predictions with the config of their run beside them."
    table.to_csv(folder / "predictions_agg.csv", index=False)
    (folder / "config.yaml").write_text(text)
    return folder / "predictions_agg.csv"


def test_the_prior_correction_is_refused_where_no_config_names_the_loss(halves, tmp_path):
    halves[0].to_csv(tmp_path / "predictions_agg.csv", index=False)
    for val in (halves[0], tmp_path / "predictions_agg.csv"):
        prior = calibrate(val, drawn_share=0.5, n_boot=50)["corrections"]["prior"]
        assert "it is not known which loss trained this model" in prior["refused"] and prior["after"] == {}


@pytest.mark.parametrize(("text", "words"), [
    ("loss:\naugment:\n", "focal loss (γ = 2)"),                  # the defaults of the config
    ("loss: {focal_gamma: 0.0}\naugment:\n", ""), ("loss: {focal_gama: 0.0}", "not known which loss"),
    ("loss: [1, 2]", "not known which loss"), ("loss: {focal_gamma: much}", "not known which loss"), ("augment: 3", "not known which loss"),
    ("- a list", "not known which loss"), ("", "not known which loss")])
def test_a_config_with_empty_or_unknown_sections_is_no_fault(halves, tmp_path, text, words):
    prior = calibrate(with_loss(halves[0], tmp_path, text), drawn_share=0.5, n_boot=50)["corrections"]["prior"]
    assert words in prior["refused"] and bool(prior["refused"]) == bool(words)


def test_the_prior_needs_to_know_what_training_drew(halves, tmp_path):
    table = with_loss(halves[0], tmp_path, "loss: {balanced_sampling: false, focal_gamma: 0.0}")
    known = calibrate(table, n_boot=100)["corrections"]["prior"]
    assert known["after"] == {} and "what training drew is not known" in known["refused"]
    given = calibrate(with_loss(halves[0], tmp_path, CROSS_ENTROPY), halves[1], drawn_share=0.5, n_boot=100)
    share = (halves[0].true_label == "tail").mean()
    assert given["corrections"]["prior"]["offset"] == pytest.approx(np.log(share / (1 - share)))
    assert any(s.startswith("Prior correction (shift ") for s in given["sentences"])
    for text, drawn in (
        ("loss: {balanced_sampling: true, focal_gamma: 0.0, class_weights: none}", 0.5),
        ("loss: {balanced_sampling: true, class_weights: inv_sqrt}", None), ("loss: {balanced_sampling: false}", None)):
        (tmp_path / "config.yaml").write_text(text)
        assert calibrate(tmp_path / "predictions_agg.csv", n_boot=50)["corrections"]["prior"].get("drawn_share") == drawn


LAB_LOSS = "loss: {focal_gamma: 2.0, label_smoothing: 0.05, balanced_sampling: true}"


@pytest.mark.parametrize(("text", "words"), [
    (LAB_LOSS, "focal loss (γ = 2) and label smoothing (0.05); with this loss the optimal log-odds are 0.35"),
    ("loss: {balanced_sampling: true}", "focal loss (γ = 2)"),  # the default of the config
    ("loss: {focal_gamma: 0.0, label_smoothing: 0.1}", "label smoothing (0.1)"),
    ("loss: {focal_gamma: 0.0}\naugment: {mixup_alpha: 0.4}", "Mixup (α = 0.4)"),
    ("loss: {focal_gamma: 0.0, class_weights: inv_freq}", "class weights"),
    ("loss: {focal_gamma: 0.0}", "")])
def test_the_prior_correction_is_refused_where_the_loss_is_not_proper(halves, tmp_path, text, words):
    halves[0].to_csv(tmp_path / "predictions_agg.csv", index=False)
    (tmp_path / "config.yaml").write_text(text)
    result = calibrate(tmp_path / "predictions_agg.csv", drawn_share=0.5, n_boot=50)
    prior = result["corrections"]["prior"]
    assert words in prior["refused"] and bool(prior["refused"]) == bool(words)
    if words:
        assert prior["after"] == {} and "Use temperature or Platt scaling" in prior["sentence"]


def test_the_optimal_log_odds_minimise_the_focal_loss_of_training():
    "The closed form against the loss of training, minimised over a grid."
    import torch

    from crosssuck.train import focal_loss, soft_targets
    grid = np.linspace(-8, 8, 3201)
    logits = torch.tensor(np.column_stack([np.zeros_like(grid), grid]))
    for gamma, smoothing in ((0.0, 0.0), (2.0, 0.0), (2.0, 0.05), (1.0, 0.15)):
        ear, tail = (focal_loss(logits, soft_targets(torch.full((len(grid),), k), smoothing).double(),
                                gamma=gamma).numpy() for k in (0, 1))
        for odds in (-3.0, -1.0, 0.5, 2.0):
            share = 1 / (1 + np.exp(-odds))
            best = grid[(share * tail + (1 - share) * ear).argmin()]
            assert optimal_log_odds(odds, gamma, smoothing) == pytest.approx(best, abs=0.006)
    assert optimal_log_odds(2.0, 2.0, 0.05) / 2 == pytest.approx(0.34, abs=0.005)


@pytest.fixture(scope="module")
def focal_study():
    "Validation and test tables whose scores minimise the lab's loss, balanced draws, 11 % tail events."
    rng, tables = np.random.default_rng(0), []
    for _ in range(2):
        y, bout = studies.labels(studies.VALIDATION, rng)
        shift = np.sqrt(2) * NormalDist().inv_cdf(0.85)
        balanced = shift * studies.latent(y, bout, 0.85, rng)[0] - shift**2 / 2
        prob = 1 / (1 + np.exp(-optimal_log_odds(balanced, 2.0, 0.05)))
        tables.append(studies.as_table(y, bout, prob))
    return tables


def test_a_correction_that_loses_all_tail_recall_says_so(focal_study, tmp_path):
    "With a wrong config the prior's shift praises itself by the log loss; the recall stands beside it."
    val, test = focal_study
    result = calibrate(with_loss(val, tmp_path, CROSS_ENTROPY), test, drawn_share=0.5, n_boot=200)
    prior, was = result["corrections"]["prior"], result["before"]["test"]
    now = prior["after"]["test"]
    assert now["log_loss"] < was["log_loss"] - 0.1 and was["recall_tail"] > 0.6 and now["recall_tail"] == 0
    assert f"the tail recall at 0.5 from {was['recall_tail']:.3f} to 0.000" in prior["sentence"]
    assert "no tail event is called tail at 0.5 any more" in prior["sentence"]
    for kind in ("temperature", "platt"):
        assert "tail recall at 0.5 from" in result["corrections"][kind]["sentence"]
    assert {"log loss", "tail recall at 0.5"} <= set(comparison_table(result))


def test_figures_on_validation_are_called_optimistic(halves):
    alone, both = (calibrate(*t, n_boot=100)["corrections"]["platt"]["sentence"] for t in (halves[:1], halves))
    assert "may also have selected the epoch: figures on them are optimistic" in alone and "optimistic" not in both


def test_the_page_states_which_ece_it_prints(halves, tmp_path):
    result = calibrate(*halves, tmp_path, n_boot=200)
    page = (tmp_path / "calibration.html").read_text()
    for words in list(ECE_WORDS.values())[1:]:
        assert words in comparison_table(result) and words.replace("'", "&#39;") in page or words in page
    assert "sampling noise alone contributes about" in page and "perfectly calibrated" not in page
    assert "says what it means" not in page and "Does 30 %" not in page


def test_the_change_of_the_log_loss_is_a_difference_with_an_interval(halves):
    fit = fit_scaling(halves[0], "platt")
    change = loss_change(halves[1], fit(halves[1]), 300)
    assert change["value"] == pytest.approx(log_loss(fit(halves[1])) - log_loss(halves[1])) and change["low"] < change["value"] < change["high"]
    assert loss_change(halves[1], halves[1], 50) == {"value": 0, "low": None, "high": None}


def test_a_correction_that_may_not_help_is_said_to(halves):
    few = halves[1][halves[1].bout_id.isin(halves[1].bout_id.unique()[:40])]
    for test in (halves[1], few):
        result = calibrate(halves[0], test, n_boot=200)
        for kind, name in (("temperature", "Temperature ("), ("platt", "Platt scaling (")):
            gain, words = result["corrections"][kind]["gain"]["test"], next(s for s in result["sentences"] if s.startswith(name))
            assert ("do not use it" in words) == (gain["value"] > 0) and ("whether it helps there is not known" in words) == (gain["value"] <= 0 and gain["low"] is not None and gain["high"] >= 0)


# the slider

def test_the_slider_moves_the_matrix_and_names_who_changed_sides(halves, monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")
    live = threshold_slider(halves[0])
    slider, picture, words = live.widget.children
    before = picture.value
    slider.value = 0.2
    moved = changed_sides(halves[0], 0.5, 0.2)
    assert len(moved) == halves[0].prob_tail.between(0.2, 0.5, inclusive="left").sum() and set(moved["now called"]) == {"tail"}
    assert f"<b>{len(moved)} events changed sides" in words.value and picture.value != before
    right = (moved["true"] == "tail").sum()
    assert f"{right} are right now, {len(moved) - right} are wrong now" in words.value
    slider.value = 0.5
    assert set(changed_sides(halves[0], 0.2, 0.5)["now called"]) == {"ear"} and f"<b>{len(moved)} events" in words.value
    assert sorted(live._repr_mimebundle_()) == ["image/png", "text/plain"]
    monkeypatch.delenv("IN_TEST")
    assert "application/vnd.jupyter.widget-view+json" in live._repr_mimebundle_()


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
    assert "are not shown to rank tail above ear" in result["sentences"][0] and "so nothing is fitted to them" in result["sentences"][0] and "refused" in (tmp_path / "calibration.html").read_text()


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


@pytest.mark.parametrize("label", ["ear", "tail"])
def test_no_cliff_is_denied_where_none_was_looked_for(halves, label):
    other, one = "tail" if label == "ear" else "ear", halves[0][halves[0].true_label == label]
    said = " ".join(calibrate(one, n_boot=100)["sentences"])
    assert "There is no cliff" not in said and f"Whether there is a cliff on validation was not computed: it holds no {other} event." in said
    both = " ".join(calibrate(halves[0], one.assign(event_idx=one.event_idx + 9000), n_boot=100)["sentences"])
    assert "There is no cliff on validation" in both and "Whether there is a cliff on test was not computed" in both


def test_a_constant_model_is_no_cliff_between_a_number_and_itself(halves, tmp_path):
    flat = halves[0].assign(prob_tail=0.5, prob_ear=0.5, pred_label="tail")
    result = calibrate(flat, out=tmp_path, n_boot=100)
    said = " ".join(result["sentences"])
    assert result["temperature"] is None and result["threshold"] is None and "between the thresholds" not in said
    assert result["sentences"][0] == "Leave the scores as they are, and recommend no threshold: every event has the same score, so there is nothing to correct and nothing to choose."
    assert f"all {len(flat)} scores are 0.50: up to that threshold everything is called tail, above it everything ear" in said


def test_the_manifest_serves_the_test_table_too(events, halves, tmp_path):
    events = events[events.end_s < 86_400]
    halves = [t[t.event_idx.isin(events.event_idx)] for t in halves]
    bare = [t.drop(columns="bout_id") for t in halves]
    for name, table in (("val", bare[0]), ("test", bare[1]), ("two", bare[1][["event_idx", "prob_tail"]])):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    events.to_csv(tmp_path / "all.csv", index=False)
    events[events.event_idx.isin(bare[0].event_idx)].to_csv(tmp_path / "some.csv", index=False)
    for test in ("test.csv", "two.csv"):
        joined = calibrate(tmp_path / "val.csv", tmp_path / test, manifest=tmp_path / "all.csv", n_boot=200)
        assert not [x for x in joined["sentences"] if "names no bouts" in x]
        assert joined["before"]["test"]["intervals"]["roc_auc"]["n_units"] == halves[1].bout_id.nunique()
    some = calibrate(tmp_path / "val.csv", tmp_path / "test.csv", manifest=tmp_path / "some.csv", n_boot=100)["sentences"][-1]
    none = calibrate(tmp_path / "val.csv", tmp_path / "test.csv", n_boot=100)["sentences"][-1]
    assert some == "The table of test names no bouts, and its events are not in the manifest that was given: there are no CIs for it. Give a manifest that holds them too."
    assert none == "The tables of validation and test name no bouts: there are no CIs for them. Give the events with --manifest."


def test_without_bouts_no_interval_is_printed_and_nothing_recommended(halves, tmp_path):
    bare = [t.drop(columns="bout_id") for t in halves]
    none = calibrate(*bare, tmp_path / "none", n_boot=100)
    page = (tmp_path / "none/calibration.html").read_text()
    for q in (*none["before"].values(), *(q for f in none["corrections"].values() for q in f["after"].values())):
        assert q["intervals"] == {} and q["no_interval"]["roc_auc"] == NO_BOUTS
    assert none["temperature"] is None and none["threshold"] is None and "no CI: the bouts are not known" in none["sentences"][0]
    assert "There are no CIs: " in page and "too narrow" not in page and not re.search(r"\d \(-?\d+\.\d+ to ", page)
    assert all(c["aimed"]["test"]["low"] is None for c in none["targets"]) and none["corrections"]["platt"]["gain"]["test"]["low"] is None
    half = calibrate(halves[0], bare[1], tmp_path / "half", n_boot=100)
    assert half["temperature"] and "low" not in half["before"]["test"]["intervals"] and half["before"]["validation"]["intervals"]
    assert f"(no CI: {NO_BOUTS})" in half["sentences"][0] and any(", no CI)" in s for s in half["sentences"])


def test_the_adaptive_error_has_its_interval(halves):
    ends = calibrate(halves[0], n_boot=200)["before"]["validation"]["intervals"]["adaptive_ece"]
    assert ends["low"] < adaptive_ece(halves[0]) < ends["high"] and ends["unit"] == "bout"


def test_missing_and_broken_tables_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        calibrate(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("true_label,prob_ear,prob_tail\near,0.5,0.7\n")
    with pytest.raises(UserError, match="do not sum to 1"):
        calibrate(tmp_path / "bad.csv", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# in JupyterLab: the slider is moved and the failures are gone through by hand

CELLS = ["from crosssuck.metrics import read_predictions\nfrom crosssuck.simulation import tiny_events, tiny_predictions\n"
         "events = tiny_events(300, seed=3)\ntable = read_predictions(tiny_predictions(events, 0.8), events[events.behavior.isin(['ear', 'tail'])].reset_index(drop=True))",
         "from crosssuck.calibration import threshold_slider\nthreshold_slider(table)", "from crosssuck.eval import failure_browser\nfailure_browser(table)"]


@pytest.fixture(scope="module")
def page(chrome, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hand")
    write_notebook(folder / "hand.ipynb", CELLS)
    with jupyterlab(folder, tmp_path_factory.mktemp("home")) as url:
        page = chrome.new_page(viewport={"width": 1400, "height": 1700})
        page.set_default_timeout(180_000)
        open_and_run(page, url, "hand.ipynb")
        page.get_by_text("previous", exact=True).wait_for()
        yield page


def test_the_slider_and_the_browser_work_in_jupyterlab(page):
    slider, browser = (page.locator(".jp-CodeCell").nth(k).locator(".jp-OutputArea") for k in (1, 2))
    slider.get_by_text("0 events changed sides").wait_for()
    before = slider.locator("img").first.get_attribute("src")
    slider.locator(".widget-readout").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("0.3")
    page.keyboard.press("Enter")
    slider.get_by_text("from 0.50 to 0.30").wait_for()
    slider.locator("table").wait_for()  # by name: the events that changed sides
    page.wait_for_function("([k, was]) => document.querySelectorAll('.jp-CodeCell')[k].querySelector('.jp-OutputArea img').src !== was", arg=[1, before])
    browser.get_by_text("1 of").wait_for()
    browser.get_by_role("button", name="next").click()
    browser.get_by_text("2 of").wait_for()
    browser.get_by_role("button", name="ears called tail").click()
    browser.get_by_text("true ear").wait_for()
    browser.get_by_text("1 of").wait_for()  # another kind begins at its first
