"07_eval: reports that cannot be misread, criteria decided with intervals, comparisons without winners inside the noise."
import json

import numpy as np
import pandas as pd
import pytest

from crosssuck.core import UserError, make_config, open_run, read_json
from crosssuck.eval import (
    NEXT,
    WORKS,
    align,
    answers,
    bout_weights,
    breakdown,
    compare,
    criteria,
    curve_points,
    decide,
    evaluate,
    evaluate_run,
    event_shares,
    expectations,
    flip_test,
    headline,
    judge_pairs,
    most_wrong,
    next_step,
    paired,
    repeated_values,
)
from crosssuck.metrics import point_metrics, read_predictions
from crosssuck.simulation import tiny_events, tiny_predictions, tiny_study

QUICK = {"n_boot": 200, "n_perm": 99}


@pytest.fixture(scope="module")
def sides():
    every = tiny_events(800, seed=2)
    every = every[every.behavior.isin(["ear", "tail"]) & ~every.group.isin([4, 5])].reset_index(drop=True)
    held = pd.factorize(every.bout_id)[0] % 3 == 0
    return every[~held].reset_index(drop=True), every[held].reset_index(drop=True)


@pytest.fixture(scope="module")
def good(sides):
    return read_predictions(tiny_predictions(sides[1], 0.9, seed=1), sides[1])


@pytest.fixture(scope="module")
def coin(sides):
    return read_predictions(tiny_predictions(sides[1], 0.5, seed=2), sides[1])


# the lab's own table

@pytest.mark.lab
def test_february_report_is_reproduced_and_called_at_chance(lab, tmp_path):
    facts = evaluate(lab / "E1/predictions_val.csv", lab / "val_v4.csv", lab / "train_v4.csv", tmp_path, **QUICK)
    m = facts["metrics"]
    assert facts["confusion_matrix"] == [[283, 40], [30, 8]]
    assert [round(m[k], 3) for k in ("accuracy", "macro_f1", "f1_tail", "precision_tail", "roc_auc")] == [0.806, 0.538, 0.186, 0.167, 0.490]
    assert facts["verdict"].startswith("At chance")
    assert round(facts["baselines"]["always_ear"]["macro_f1"], 3) == 0.472
    assert facts["repeated_values"]["repeated"] == 2 and 3.5 < facts["repeated_values"]["expected"] < 4.5
    page = (tmp_path / "report.html").read_text()
    first = page[page.index("</h1>"):]
    assert first.index("At chance") < first.index("<table>") and "0.490" in first
    assert json.loads((tmp_path / "metrics.json").read_text())["verdict"] == facts["verdict"]


@pytest.mark.lab
def test_criteria_of_e1(lab):
    facts = evaluate(lab / "E1/predictions_val.csv", lab / "val_v4.csv", **QUICK)
    answer = criteria(facts, None, read_json(lab / "E1/training_history.json")).set_index("criterion").answer
    assert answer["tail recall on test"].startswith("cannot be told")
    assert answer["no clustered probabilities on validation"] == "met"
    assert answer["training without NaN or collapse"] == "met"
    assert answer["tail recall on validation by epoch 8"] == "not met"
    assert answer["macro F1 on validation (E1b)"] == "cannot be told from n = 38 tail events"


@pytest.mark.lab
def test_report_names_no_animal_and_no_drive(lab, tmp_path):
    evaluate(lab / "E1/predictions_val.csv", lab / "val_v4.csv", lab / "train_v4.csv", tmp_path, **QUICK)
    text = (tmp_path / "report.html").read_text() + (tmp_path / "metrics.json").read_text()
    text = text[:text.index("data:image")] + "".join(part.split('"', 1)[1] for part in text.split("data:image/png")[1:])
    events = pd.read_csv(lab / "val_v4.csv", dtype=str)
    words = {w for w in (*events.video_filename, *events.video_path) if isinstance(w, str)}
    assert not [w for w in words if w in text] and "E:\\" not in text


# the page

def test_report_says_the_verdict_first_and_marks_small_cells(sides, good, tmp_path):
    facts = evaluate(good, sides[1], sides[0], tmp_path, simulated=True, **QUICK)
    page = (tmp_path / "report.html").read_text()
    assert page.index("nothing about calves") < page.index('class="verdict"') < page.index("Does it work?") < page.index("Headline")
    assert page.count("<img") == 2 and ">small<" in page
    assert set(facts) >= {"n", "support", "metrics", "confusion_matrix", "intervals", "baselines", "permutation", "verdict", "repeated_values"}


def test_rows_in_another_order_change_nothing(sides, good):
    again = good.sample(frac=1, random_state=0).reset_index(drop=True)
    a, b = (evaluate(t, sides[1], **QUICK) for t in (good, again))
    assert a["metrics"] == pytest.approx(b["metrics"]) and a["confusion_matrix"] == b["confusion_matrix"]


def test_test_groups_are_told_from_the_training_groups(good, sides, tmp_path):
    evaluate(good.assign(group=4), None, sides[0].assign(event_idx=lambda t: t.event_idx + 9000), tmp_path, **QUICK)
    assert "groups that training never saw" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("rows", [slice(0, 10), slice(0, 1)])
def test_few_events_get_an_answer_and_a_page(good, tmp_path, rows):
    few = good[rows]
    facts = evaluate(few, out=tmp_path, **QUICK)
    assert facts["verdict"].startswith("Cannot be told")
    assert (tmp_path / "report.html").stat().st_size > 1000
    assert len(answers(facts)) == 5


@pytest.mark.parametrize("label", ["ear", "tail"])
def test_one_class_alone_is_never_a_zero(good, tmp_path, label):
    facts = evaluate(good[good.true_label == label].head(40), out=tmp_path, **QUICK)
    assert "roc_auc" not in facts["metrics"] and "roc_auc" in facts["absent"]
    assert headline(facts).set_index("metric")["this model"]["ROC AUC"] == "–"
    assert criteria(facts).answer.str.startswith("cannot be told").sum() >= 6


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.assign(prob_tail=t.prob_tail.where(t.index != 3, 1.5)), "is no probability"),
    (lambda t: t.assign(prob_tail=t.prob_tail.where(t.index != 3)), "prob_tail is nan"),
    (lambda t: t.assign(true_label=t.true_label.where(t.index != 3, "teat")), "neither ear nor tail"),
    (lambda t: t.assign(prob_teat=0.0), "third class"),
    (lambda t: t.assign(true_label=np.where(t.true_label == "ear", "tail", "ear")), "true_label is"),
])
def test_bad_tables_are_refused_and_leave_no_half_report(sides, good, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        evaluate(change(good), sides[1], out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_every_call_has_its_words():
    assert set(WORKS) | {"above_chance, roughly", "above_chance, test"} == set(NEXT)
    wide = {"call": "above_chance", "support": {"tail": 12}, "intervals": {"roc_auc": {"low": 0.55, "high": 0.9}}}
    assert "12 of them" in next_step(wide) and "0.35" in next_step(wide)


def test_cells_hold_every_event_once_and_small_ones_no_figure(good):
    table = breakdown(good, 100)
    assert (table.groupby("by").events.sum() == len(good)).all()
    small = table[table.remark == "small"]
    assert len(small) and (small[["tail recall", "ear recall", "ROC AUC"]] == "").all(axis=None)
    assert ((small["events"] < 10) | (small["tail"] < 5)).all()


def test_curves_end_where_they_must_and_their_area_is_the_auc(good):
    grid = np.linspace(0, 1, 2001)
    roc, pr = curve_points(good, np.ones((1, len(good)), int), grid)
    assert roc[0, -1] == 1 and (np.diff(roc[0]) >= 0).all()
    assert pr[0, -1] == pytest.approx((good.true_label == "tail").mean(), abs=0.15)
    is_tail = (good.true_label == "tail").to_numpy()
    assert np.trapezoid(roc[0], grid) == pytest.approx(point_metrics(is_tail, good.prob_tail)["roc_auc"], abs=2e-3)
    tied = curve_points(good.assign(prob_tail=0.4), np.ones((1, len(good)), int), grid)[0]
    assert np.allclose(tied[0], grid)  # one score for all: a coin


def test_bouts_are_drawn_whole(good):
    weight = bout_weights(good.bout_id, 50)
    assert (pd.DataFrame(weight.T).groupby(good.bout_id.to_numpy()).nunique() == 1).all(axis=None)


def test_most_wrong_are_wrong_and_in_order(good):
    worst = most_wrong(good, 5)
    assert worst.wrong_by.is_monotonic_decreasing
    rest = good.drop(worst.index)
    assert np.where(rest.true_label == "tail", rest.prob_ear, rest.prob_tail).max() <= worst.wrong_by.min()


# repeated values

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


# criteria

@pytest.mark.parametrize(("low", "high", "answer"), [(0.36, 0.9, "met"), (0.1, 0.34, "not met"), (0.1, 0.9, "cannot be told from n = 12")])
def test_criteria_are_decided_with_the_interval(low, high, answer):
    assert decide({"low": low, "high": high}, over=0.35, n="n = 12") == answer
    assert decide({"low": 1 - high, "high": 1 - low}, under=0.65, n="n = 12") == answer


def history(recall, loss=0.5):
    n = len(recall)
    return {"epoch": list(range(1, n + 1)), "train_loss": [0.5] * (n - 1) + [loss], "val_loss": [0.5] * n, "val_tail_recall": recall,
            "val_macro_f1": [0.47 if r in (0, 1) else 0.5 + r / 4 for r in recall]}


@pytest.mark.parametrize(("past", "answer", "words"), [
    (history([0.2, 0.5, 0.4]), "met", "lowest tail recall 0.20"),
    (history([0.0, 0.5, 0.4]), "met", "epoch 1 had one class and recovered"),
    (history([0.2, 0.5, 0.0]), "not met", "one class alone in 1 epochs from epoch 3"),
    (history([0.2, 1.0, 1.0]), "not met", "one class"),
    (history([0.2, 0.5, 0.4], loss=None), "not met", "epoch 3 is not a number"),
    (history([0.2, 0.5, 0.4], loss=float("nan")), "not met", "epoch 3 is not a number"),
    (None, "cannot be told: no training history", ""),
])
def test_training_criterion(past, answer, words):
    row = criteria(None, None, past).set_index("criterion").loc["training without NaN or collapse"]
    assert row.answer == answer and words in row.found


def test_seeds_need_three():
    def seed(auc):
        return {"n": 10, "support": {"tail": 5}, "metrics": {"roc_auc": auc}, "intervals": {}}
    def answer(aucs):
        return criteria(None, None, seeds=[seed(a) for a in aucs]).answer.iloc[-1]
    assert answer([0.9, 0.9]) == "cannot be told from n = 2 seeds"
    assert answer([0.9, 0.7, 0.61]) == "met" and answer([0.9, 0.7, 0.59]) == "not met"


def test_all_criteria_are_always_listed(sides, good):
    facts = evaluate(good, sides[1], **QUICK)
    names = [tuple(c.criterion) for c in (criteria(None), criteria(facts, facts, history([0.2, 0.5])))]
    assert len(names[0]) == len(names[1]) == 9
    assert criteria(None).answer.str.startswith("cannot be told").all()


def test_january_expected_only_of_its_three():
    assert len(expectations("train_binary_v4_mvit_isaac", None)) == 0
    assert expectations("train_binary_baseline_old_split", None).came.tolist() == ["not scored"] * 3


# comparison

def test_a_model_against_itself_differs_by_nothing(good):
    d = paired(good, good, n_boot=100, n_perm=100)
    assert all(v["difference"] == v["low"] == v["high"] == 0 for k, v in d.items() if k != "mcnemar")
    assert d["mcnemar"]["p_value"] == 1 and d["roc_auc"]["p_value"] == 1


def test_differences_change_sign_with_the_order(good, coin):
    ab, ba = paired(good, coin, n_boot=200, n_perm=200), paired(coin, good, n_boot=200, n_perm=200)
    for m in ("roc_auc", "recall_tail", "brier"):
        assert ab[m]["difference"] == pytest.approx(-ba[m]["difference"])
        assert ab[m]["p_value"] == pytest.approx(ba[m]["p_value"], abs=0.02)
    assert ab["mcnemar"]["only_a_right"] == ba["mcnemar"]["only_b_right"]


def test_shares_of_events_add_up_to_the_metric(good):
    is_tail = (good.true_label == "tail").to_numpy()
    shares, point = event_shares(is_tail, good.prob_tail.to_numpy()), point_metrics(is_tail, good.prob_tail)
    for m in ("roc_auc", "recall_tail", "recall_ear", "brier"):
        assert shares[m].sum() == pytest.approx(point[m])


def test_sign_flip_keeps_its_word_where_bouts_are_alike():
    rng = np.random.default_rng(0)
    alarms = []
    for k in range(200):
        code = np.repeat(np.arange(40), 5)
        shares = rng.normal(size=40)[code] + 0.2 * rng.normal(size=200)  # events of a bout go together
        alarms.append(flip_test(shares, code, 199, seed=k) <= 0.05)
    assert np.mean(alarms) < 0.1


def test_compare_names_a_winner_only_outside_the_noise(sides, good, coin, tmp_path):
    other = read_predictions(tiny_predictions(sides[1], 0.88, seed=5), sides[1])
    clear = compare({"good": good, "coin": coin}, tmp_path, simulated=True, n_boot=300, n_perm=300)
    assert clear["parts"]["events"]["winner"] == "good"
    close = compare({"good": good, "other": other}, n_boot=300, n_perm=300)
    assert close["parts"]["events"]["winner"] is None and "No winner" in close["sentences"][0]
    assert "would have shown" in close["parts"]["events"]["pairs"][0]["sentence"]
    assert read_json(tmp_path / "comparison.json")["parts"]["events"]["winner"] == "good"
    assert "nothing about calves" in (tmp_path / "comparison.html").read_text()


def test_the_better_of_two_blind_models_wins_nothing(coin):
    blind = coin.assign(prob_tail=1 - coin.prob_tail)
    pairs = [{"a": "a", "b": "b", "differences": {"roc_auc": {"difference": 0.1, "low": 0.05, "high": 0.2, "p_value": 0.001, "detectable": 0.1}}}]
    _, winner, words = judge_pairs(pairs, {"a": False, "b": False})
    assert winner is None and "not shown to be above a coin" in words
    assert compare({"coin": coin, "blind": blind}, n_boot=200, n_perm=200)["parts"]["events"]["winner"] is None


def test_another_tool_enters_by_event_idx(sides, good, tmp_path):
    mine = tmp_path / "runs" / "x" / "s0"
    mine.mkdir(parents=True)
    good.to_csv(mine / "predictions_agg.csv", index=False)
    theirs = tiny_predictions(sides[1], 0.6, seed=4).sample(frac=0.8, random_state=0)
    theirs[["event_idx", "true_label", "prob_ear", "prob_tail"]].to_csv(tmp_path / "tool.csv", index=False)
    result = compare([mine, tmp_path / "tool.csv"], n_boot=200, n_perm=200)["parts"]["validation"]
    assert result["n"] == len(theirs) and set(result["left_out"].values()) == {0, len(good) - len(theirs)}


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.drop(columns="event_idx"), "no column 'event_idx'"),
    (lambda t: pd.concat([t, t[:1]]), "stands there twice"),
    (lambda t: t.assign(event_idx=t.event_idx + 100_000), "no event that all of them scored"),
    (lambda t: t.assign(true_label="ear"), "true label 'ear', elsewhere 'tail'"),
])
def test_tables_that_do_not_fit_are_refused(good, change, words):
    with pytest.raises(UserError, match=words):
        align({"good": good, "other": change(good)})


def test_comparison_without_bouts_is_refused(good):
    with pytest.raises(UserError, match="bouts of these events are not known"):
        align({n: good.drop(columns="bout_id") for n in "ab"})


def test_one_class_cannot_be_compared(good):
    ears = good[good.true_label == "ear"]
    result = compare({"a": ears, "b": ears}, n_boot=100, n_perm=100)
    assert result["parts"]["events"]["sentence"].startswith("No comparison")


# a run

@pytest.fixture()
def run(tmp_path):
    from crosssuck.model import build_model, save_checkpoint
    study = tiny_study()
    config = make_config({"experiment": "test", "data": {"split_dir": str(study / "split"), "clips": str(study / "clips" / "clips.csv"), "simulated": True},
                          "optim": {"lr": 1e-3, "epochs": 1, "batch_size": 8}, "window": {"num_frames": 4, "sample_fps": 5.0, "views": 2},
                          "geometry": {"policy": "squash", "size_px": 32}, "loader": {"workers": 0}, "model": {"backbone": "r2plus1d_tiny", "weights": "none"}})
    run = open_run(tmp_path, config, seed=0)
    save_checkpoint(run / "best.ckpt", build_model(config), config, epoch=1)
    return run


def test_a_run_gets_the_labs_files_and_every_event(run):
    result = evaluate_run(run, device="cpu", **QUICK)
    for part, table, facts in (("validation", "predictions_agg.csv", "metrics.json"), ("test", "test_predictions.csv", "test_metrics.json")):
        written = pd.read_csv(run / table)
        assert written.columns[:8].tolist() == ["clip_id", "true_label", "pred_label", "prob_ear", "prob_tail", "logit_ear", "logit_tail", "msp"]
        assert len(written) == written.event_idx.nunique() == 12 and (written.n_views == 2).all()
        assert read_json(run / "metrics" / facts)["n"] == 12 == len(result[part][0])


def test_a_checkpoint_of_another_config_is_refused(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("num_frames: 4", "num_frames: 6"))
    with pytest.raises(UserError, match="another 'window' section"):
        evaluate_run(run, device="cpu", **QUICK)


@pytest.mark.parametrize("name", ["07_eval", "08_calibration"])
def test_run_notebooks_declare_their_parameters_once(root, name):
    notebook = json.loads((root / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    lines = "".join(tagged[0]["source"]).splitlines()
    assert lines[0] == "#| run" and [x.split(" =")[0] for x in lines[1:]] == ["experiment", "fold", "seed", "run_dir", "overrides", "smoke"]
    begin = next(k for k, c in enumerate(notebook["cells"]) if "".join(c["source"]).startswith("# Run"))
    assert all("".join(c["source"]).startswith("#| run") for c in notebook["cells"][begin:] if c["cell_type"] == "code")


def test_a_baseline_counts_as_beaten_only_with_its_interval(sides, good, coin):
    from crosssuck.eval import beaten
    for table, words in ((good, "always answering ear"), (coin, "none of these")):
        facts = evaluate(table, sides[1], sides[0], **QUICK)
        assert words in beaten(facts)
        assert ("all metadata" in beaten(facts).split("; not than")[0]) == (facts["differences"]["metadata_all"]["low"] > 0)


@pytest.mark.parametrize(("recall", "answer"), [(0.9, "met"), (0.03, "not met"), (0.3, "cannot be told from n = 40 tail events")])
def test_recall_at_epoch_eight_is_a_share_with_an_interval(recall, answer):
    val = {"n": 300, "support": {"ear": 260, "tail": 40}, "metrics": {}, "intervals": {}}
    row = criteria(val, None, history([0.2] * 7 + [recall] + [0.2] * 3)).set_index("criterion").loc["tail recall on validation by epoch 8"]
    assert row.answer == answer and ("above that range" in row.found) == (recall == 0.9)
