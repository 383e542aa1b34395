"What n can show: the quick simulation gives the verdicts and intervals of `summarise`, and its power; parts, page, faults."
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import studies
from calling import call
from crosssuck.core import UserError, write_csv
from crosssuck.eval import MET, decide
from crosssuck.metrics import MIN_UNITS, summarise
from crosssuck.planning import (
    COLUMNS,
    Assumed,
    Part,
    Resamples,
    enlarge,
    find_parts,
    judge_auc,
    judge_recall,
    lab_lines,
    part_of,
    plan_sentences,
    plan_size,
    plan_table,
    row_sentence,
    simulate_noise,
    simulate_part,
)
from crosssuck.simulation import tiny_events
from crosssuck.splits import split_events, split_folds, write_split

AUC = Assumed("roc_auc", 0.75, 0.5)


def lab_like(structure, seed=0) -> Part:
    "A part with the lab's numbers of events, bouts and tail events."
    is_tail, bout = studies.labels(structure, np.random.default_rng(seed))
    return Part("test", is_tail, bout)


def table_of(part: Part, score: np.ndarray) -> pd.DataFrame:
    table = studies.as_table(part.is_tail, part.bout, norm.cdf(score / 2 - 1))
    return table.assign(bout_id=[f"b{b:04d}" for b in part.bout])  # names that sort as the numbers do


@pytest.mark.parametrize("structure, auc, n", [(studies.OOD, 0.75, 25), (studies.VALIDATION, 0.60, 12)], ids=["OOD", "validation"])
def test_every_study_gets_the_verdict_and_the_interval_of_the_product(structure, auc, n):
    part, rng = lab_like(structure), np.random.default_rng(5)
    scores = simulate_noise(part, n, rng) + np.sqrt(2) * norm.ppf(auc) * part.is_tail
    better, ends = judge_auc(Resamples(part, n_boot=2000, n_perm=1000), scores)
    full = [summarise(table_of(part, s)) for s in scores]
    assert better.tolist() == [f["call"] == "above_chance" for f in full]
    assert 0 < better.sum() < n, "studies of either verdict"
    np.testing.assert_allclose(ends, [[f["intervals"]["roc_auc"][e] for e in ("low", "high")] for f in full], atol=1e-6)
    called = scores / 2 - 1 > 0
    above, ends = judge_recall(Resamples(part, n_boot=2000), called, line=0.35)
    np.testing.assert_allclose(ends, [[f["intervals"]["recall_tail"][e] for e in ("low", "high")] for f in full], atol=1e-6)
    assert above.tolist() == [decide(f["intervals"]["recall_tail"], over=0.35) == MET for f in full]


def test_studies_without_scatter_get_the_interval_of_the_product():
    part = lab_like(studies.OOD)
    scores = np.vstack([np.where(part.is_tail, 3.0, -3.0) + simulate_noise(part, 1, np.random.default_rng(1))[0] / 100])
    better, ends = judge_auc(Resamples(part), scores)
    assert better.all() and ends[0, 1] == 1 and 0.5 < ends[0, 0] < 1
    above, ends = judge_recall(Resamples(part), np.ones((1, len(part.bout)), bool), 0.35)
    assert above.all() and ends[0, 1] == 1 and 0.35 < ends[0, 0] < 1


@pytest.mark.parametrize("auc, least, most", [(0.60, 0.04, 0.15), (0.75, 0.48, 0.67)])
def test_power_of_twelve_tail_events(auc, least, most):
    "Full studies: 9 % at ROC AUC 0.60 and 57 % at 0.75; bounds of four standard errors of 400 studies."
    shown, ends = simulate_part([lab_like(studies.OOD, s) for s in range(4)], Assumed("roc_auc", auc, 0.5), 400)
    assert least < shown.mean() < most
    assert 0.30 < np.nanmean(ends[:, 1] - ends[:, 0]) < 0.50


def test_a_model_without_skill_is_seldom_shown_to_have_any():
    "One-sided, 2.5 % nominal: the bound of this project for half of 5 %."
    shown, _ = simulate_part([lab_like(studies.OOD, s) for s in range(4)], Assumed("roc_auc", 0.5, 0.5), 400)
    assert shown.sum() <= studies.at_most(0.035, 400)
    shown, _ = simulate_part([lab_like(studies.VALIDATION)], Assumed("recall_tail", 0.35, 0.35), 400)
    assert shown.sum() <= studies.at_most(0.035, 400)


def test_recall_has_the_assumed_value_and_the_true_auc_is_that_of_the_population():
    part = lab_like(studies.VALIDATION)
    noise = simulate_noise(part, 400, np.random.default_rng(2), icc=0.4)
    assert (noise > norm.ppf(1 - 0.6))[:, part.is_tail].mean() == pytest.approx(0.6, abs=0.02)
    first, second = noise[:, :-1], noise[:, 1:]
    same = part.bout[:-1] == part.bout[1:]
    assert (first * second)[:, same].mean() == pytest.approx(0.4, abs=0.03)
    assert (first * second)[:, ~same].mean() == pytest.approx(0.0, abs=0.03)


def test_more_events_come_in_whole_bouts_with_ears_in_proportion():
    part = lab_like(studies.VALIDATION)
    for more in (1, 50, 100):
        larger = enlarge(part, more, np.random.default_rng(more))
        assert larger.n_tail == part.n_tail + more
        assert larger.is_tail.mean() == pytest.approx(part.is_tail.mean(), abs=0.02)
        assert (larger.bout[:len(part.bout)] == part.bout).all() and len(np.unique(larger.bout)) == larger.bout.max() + 1
        assert larger.bout[len(part.bout):].min() == part.bout.max() + 1, "no event is added to a bout of the part"
    shown = [simulate_part([p], AUC, 100)[0].mean() for p in (lab_like(studies.OOD), enlarge(lab_like(studies.OOD), 50, np.random.default_rng(0)))]
    assert shown[1] > shown[0] + 0.2


def test_few_bouts_decide_nothing():
    "Six tail events in one bout, whatever the model."
    part = Part("few", np.arange(60) < 6, np.r_[np.zeros(6, int), np.arange(1, 55)])
    assert part.tail_bouts == 1 < MIN_UNITS
    shown, ends = simulate_part([part], Assumed("roc_auc", 0.99, 0.5), 20)
    assert not shown.any() and np.isnan(ends).all()
    shown, ends = simulate_part([part], Assumed("recall_tail", 0.99, 0.35), 20)
    assert not shown.any() and np.isnan(ends).all()
    ears = Part("ears", np.zeros(30, bool), np.arange(30))
    assert np.isnan(simulate_part([ears], AUC, 20)[1]).all()


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "linked.csv"
    write_csv(path, tiny_events(600, seed=1))
    return path


def test_parts_of_a_table_a_split_and_folds(linked, tmp_path):
    events = tiny_events(600, seed=1)
    parts = find_parts(linked)
    assert [p.name for p in parts.main] == ["validation", "test (groups 4, 5)"] and parts.enlarged
    assert [p.name for p in parts.groups] == [f"group {g} left out" for g in range(1, 7)]
    split = split_events(events)
    assert parts.main[1].n_tail == (split.test_ood.behavior == "tail").sum()
    assert sum(p.n_tail for p in parts.groups) == (events.behavior == "tail").sum()
    same = find_parts(write_split(split, tmp_path / "one"))
    assert [(p.name, p.n_tail, p.tail_bouts) for p in same.main] == [(p.name, p.n_tail, p.tail_bouts) for p in parts.main]
    folds = find_parts(write_split(split_folds(events), tmp_path / "logo"))
    assert "g1: test (group 1)" in [p.name for p in folds.main] and not folds.groups and not folds.enlarged
    none = find_parts(linked, ood_groups=())
    assert [p.name for p in none.main] == ["validation"] and "--ood" in none.notes[0]
    boosted = split_events(events, "intra_video_boosted").train
    assert len(part_of("train", boosted).bout) == (boosted["copy"] == 0).sum(), "repeats count once"


def test_table_sentences_page(linked, tmp_path):
    found = plan_size(linked, tmp_path / "out", aucs=(0.75,), recalls=(0.35, 0.6), more=(50,), studies=20, simulated=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["plan_size.csv", "plan_size.html"]
    table, html = pd.read_csv(tmp_path / "out/plan_size.csv"), (tmp_path / "out/plan_size.html").read_text()
    assert tuple(table.columns) == COLUMNS and len(table) == 3 * (2 + 2 + 6)
    assert "data:image/png" in html and "Simulated cohort" in html and "not selected on the validation events" in html
    assert found["sentences"] == plan_sentences(found["table"]) and all(s in html for s in found["sentences"][:3])
    wide = plan_table(found["table"])
    assert wide.columns.tolist() == ["part", "events", "tail events", "bouts with tail", "AUC 0.75", "recall 0.35 > 0.35", "recall 0.60 > 0.35"]
    assert wide["part"].tolist() == list(dict.fromkeys(found["table"]["part"]))
    again = plan_size(linked, aucs=(0.75,), recalls=(0.35, 0.6), more=(50,), studies=20)
    pd.testing.assert_frame_equal(found["table"], again["table"])


def test_sentences_say_what_was_counted():
    row = {"part": "test (groups 4, 5)", "tail_events": 12, "tail_bouts": 11, "metric": "roc_auc", "true_value": 0.75, "line": 0.5, "power": 0.57,
           "ci_width": 0.312, "note": ""}
    assert row_sentence(row) == ("Test (groups 4, 5): with 12 tail events in 11 bouts a model of true ROC AUC 0.75 is shown to be better than chance in 57 of "
                                 "100 studies; the expected 95 % CI is 0.31 wide.")
    recall = row | {"metric": "recall_tail", "true_value": 0.6, "line": 0.35}
    assert "true tail recall 0.60 is shown to exceed 0.35 in 57 of 100" in row_sentence(recall)
    assert "is shown, wrongly, to exceed 0.35" in row_sentence(recall | {"true_value": 0.35})
    none = row | {"note": "no CI can be computed: 5 bouts decide it, fewer than 8", "tail_events": 6, "tail_bouts": 5}
    assert row_sentence(none) == ("Test (groups 4, 5): with 6 tail events in 5 bouts no CI can be computed: 5 bouts decide it, fewer than 8. No verdict is "
                                  "possible, whatever the model.")


@pytest.mark.parametrize("part", ["validation", "validation, 50 more tail events", "g1: validation"])
def test_power_on_validation_is_said_to_need_a_checkpoint_not_selected_there(part):
    row = {"part": part, "tail_events": 38, "tail_bouts": 24, "true_value": 0.6, "power": 0.3, "ci_width": 0.2, "note": ""}
    for more in ({"metric": "roc_auc", "line": 0.5}, {"metric": "recall_tail", "line": 0.35}):
        assert row_sentence(row | more).endswith("This holds for a checkpoint that was not selected on these events.")
        assert "not selected" not in row_sentence(row | more | {"part": "test (groups 4, 5)"})


def test_the_lines_are_those_of_the_labs_criteria(linked, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    assert lab_lines() == (0.60, 0.35, "No file of criteria was found: 0.60 for the ROC AUC (default) and 0.35 for the tail recall on test (default).")
    (tmp_path / "configs").mkdir()
    rules = tmp_path / "configs/criteria_lab.yaml"
    rules.write_text("useful_roc_auc: 0.65\nmetrics:\n  - {name: x, part: test, metric: recall_tail, above: 0.40}\n")
    found = plan_size(linked, more=(), studies=20)
    values = found["table"].groupby("metric").true_value.unique().map(sorted).to_dict()
    assert values == {"roc_auc": [0.65, 0.75, 0.85], "recall_tail": [0.40, 0.60]}
    assert set(found["table"][found["table"].metric == "recall_tail"].line) == {0.40}
    assert "The lab's lines (criteria_lab.yaml): 0.65 for the ROC AUC and 0.40 for the tail recall on test." in found["notes"]
    rules.write_text("useful_roc_auc: 0.65\n")
    assert lab_lines()[2].endswith("0.65 for the ROC AUC and 0.35 for the tail recall on test (default).")


@pytest.mark.parametrize("spoil, words", [
    (lambda t: t[t.behavior == "ear"], "no tail event among"),
    (lambda t: t[t.behavior == "tail"], "no ear event among"),
    (lambda t: t.drop(columns="start_time"), "no column 'start_time'"),
    (lambda t: t.assign(duration_sec=t.duration_sec.astype(object).where(t.index != 3, "long")), "line 5"),
    (lambda t: t.iloc[:0], "no ear event among 0"),
])
def test_bad_tables_are_one_line_and_write_nothing(tmp_path, spoil, words):
    bad = tmp_path / "bad.csv"
    write_csv(bad, spoil(tiny_events(600, seed=1)))
    said = call("plan-size", bad, "--out", tmp_path / "out", code=1)
    assert words in said and "bad.csv" in said and len(said.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option, value, words", [
    ("--auc", "1.2", "--auc: 1.2 is not between 0 and 1"), ("--auc", "none", "--auc: no value"), ("--recall", "x", "--recall: 'x' is no list of numbers"),
    ("--recall-line", "0", "--recall-line: 0.0 is not between 0 and 1"), ("--icc", "1", "--icc: 1.0 is not from 0 to below 1"),
    ("--more", "-5", "--more: -5 is not 1 or more"), ("--studies", "3", "--studies: 3 is fewer than 20"), ("--ood", "9", "group 9 holds no"),
])
def test_bad_options_are_one_line_and_write_nothing(linked, tmp_path, option, value, words):
    said = call("plan-size", linked, "--out", tmp_path / "out", option, value, code=1)
    assert words in said and len(said.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_folder_without_a_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="no split.json"):
        plan_size(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("structure, auc", [(studies.OOD, 0.60), (studies.OOD, 0.75), (studies.VALIDATION, 0.60)], ids=["OOD 0.60", "OOD 0.75", "validation 0.60"])
def test_power_agrees_with_full_studies(structure, auc):
    "2,000 studies through `summarise`, whose bouts are drawn anew each time, beside 2,000 of this module."
    rng, shown, width = np.random.default_rng([11, int(100 * auc)]), [], []
    for _ in range(studies.LONG):
        s = summarise(studies.study(structure, auc, rng), n_boot=1000, n_perm=500)
        shown.append(s["call"] == "above_chance")
        if ends := s["intervals"].get("roc_auc"):
            width.append(ends["high"] - ends["low"])
    quick, ends = simulate_part([lab_like(structure, k) for k in range(20)], Assumed("roc_auc", auc, 0.5), studies.LONG)
    error = np.sqrt(2 * 0.25 / studies.LONG)
    print(f"{np.mean(shown):.3f} of full studies, {quick.mean():.3f} of quick ones; CI {np.mean(width):.3f} and {np.nanmean(ends[:, 1] - ends[:, 0]):.3f} wide")
    assert abs(np.mean(shown) - quick.mean()) < 0.03 + 2 * error
    assert np.nanmean(ends[:, 1] - ends[:, 0]) == pytest.approx(np.mean(width), abs=0.02)


@pytest.mark.lab
@pytest.mark.long
def test_the_labs_table_in_under_a_minute(lab, tmp_path):
    from time import process_time
    begin = process_time()
    found = plan_size(lab / "MASTER_LINKED_v4.csv", tmp_path)
    seconds = process_time() - begin
    print(f"{seconds:.0f} s of processor time\n{plan_table(found['table']).to_string(index=False)}")
    power = found["table"].set_index(["part", "metric", "true_value"]).power
    assert 0.03 < power["test (groups 4, 5)", "roc_auc", 0.60] < 0.18 and 0.45 < power["test (groups 4, 5)", "roc_auc", 0.75] < 0.69
    assert found["table"].drop_duplicates("part").set_index("part").tail_events.filter(like="left out").tolist() == [104, 13, 41, 6, 6, 55]
    assert seconds < 60
