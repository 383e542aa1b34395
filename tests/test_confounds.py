"09_confounds: a shortcut that is there is found, one that is not there is not, and what cannot be done says why."

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from crosssuck.confounds import (
    COLUMNS,
    PICTURES,
    RULE,
    Shown,
    all_events,
    around_row,
    auc_row,
    ask_again,
    background_draws,
    background_row,
    colour_row,
    confounds,
    duplicate_row,
    error_rows,
    follow_row,
    follow_rows,
    film_row,
    film_rows,
    film_verdict,
    forest,
    free_stretches,
    group_rows,
    judge,
    leak_row,
    logo_rows,
    over_bouts,
    panel_page,
    panel_words,
    probe_rows,
    purity_row,
    rank_auc,
    repeat_row,
    second_row,
    shown_panel,
    within_rows,
)
from crosssuck.core import UserError, make_config, open_run, read_json, write_csv, write_json
from crosssuck.metrics import read_predictions
from crosssuck.simulation import tiny_events, tiny_predictions, tiny_study
from studies import at_most, panel_of, placed_study, planted, train_side


def two_sides(n=800, seed=2):
    every = tiny_events(n, seed=seed)
    every = every[every.behavior.isin(["ear", "tail"]) & ~every.group.isin([4, 5])].reset_index(drop=True)
    held = pd.factorize(every.bout_id)[0] % 3 == 0
    return every[~held].reset_index(drop=True), every[held].reset_index(drop=True)


@pytest.fixture(scope="module")
def sides():
    return two_sides()


# the lab's own table

@pytest.mark.lab
def test_january_diagnostics_of_e1(lab, tmp_path):
    panel = confounds(lab / "E1/predictions_val.csv", lab / "train_v4.csv", lab / "val_v4.csv", tmp_path, n_boot=300).set_index("what")
    assert panel.figure["the model, all pairs"] == pytest.approx(0.490, abs=5e-4)
    assert panel.figure["probabilities three times or more (4 decimals)"] == 2 and not panel.doubt["probabilities three times or more (4 decimals)"]
    assert panel.figure["metadata baseline (whole hours, day, camera)"] == pytest.approx(0.650, abs=5e-4)
    assert panel.figure["time of day to the second (check of the split)"] == pytest.approx(0.718, abs=5e-4)
    assert not panel.doubt[panel.index.str.startswith(("metadata", "time of day", "group "))].any()  # descriptions
    from crosssuck.eval import error_source
    record = error_source(read_predictions(lab / "E1/predictions_val.csv", lab / "val_v4.csv"))
    alarms = panel.loc["false alarms by group"]
    assert alarms.doubt and alarms.means in record["sentence"] and alarms.means.startswith("32 of the 40 false alarms come from group 6")
    assert "not shown to differ" in panel.means["share of tails, largest minus smallest group"]
    assert panel.doubt["leaks between training and validation"]  # the lab's bouts end where a file ends
    assert panel.n["the model, all pairs"] == 361
    assert panel.figure["events repeated word for word"] == 8 and not panel.doubt["events repeated word for word"]
    assert panel.figure["validation events during the other behaviour"] == pytest.approx(6 / 361)
    assert [w for w in panel.index if w.startswith("group ") and "accuracy at" in w] == [f"group {g}: accuracy at 0.5, beside always ear" for g in (1, 2, 3, 6)]
    page = (tmp_path / "confounds.html").read_text()
    events = pd.read_csv(lab / "val_v4.csv", dtype=str)
    assert not [w for w in {*events.video_filename, *events.video_path} if w in page]


@pytest.mark.lab
def test_every_group_of_the_lab_is_left_out(lab):
    from crosssuck.splits import read_part
    every = all_events(read_part(lab / "train_v4.csv"), read_part(lab / "val_v4.csv"), lab / "test_ood_v4.csv")
    rows = {r["what"]: r for r in logo_rows(every, None, 200)}
    assert len(every) == 1876 and [rows[f"group {g} left out: metadata"]["n"] for g in range(1, 7)] == [666, 227, 331, 68, 73, 511]
    assert rows["group 4 left out: metadata"]["low"] is None and rows["group 4 left out: metadata"]["figure"] is not None  # six tails are a point, not an interval
    assert 0.5 < rows["each group left out: metadata, pairs of one group"]["figure"] < 0.7


# the statistics

@pytest.mark.parametrize("seed", range(5))
def test_rank_auc_is_scikit_learns_ties_included(seed):
    rng = np.random.default_rng(seed)
    y, score = rng.random(60) < 0.3, rng.integers(0, 8, 60) / 8
    assert rank_auc(y, score) == pytest.approx(roc_auc_score(y, score))


def test_pairs_within_a_cell_forget_the_cell():
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(10), 30)
    y = rng.random(300) < np.linspace(0.05, 0.9, 10)[cell]
    assert rank_auc(y, cell.astype(float)) > 0.7
    assert rank_auc(y, cell.astype(float), cell) == 0.5
    assert np.isnan(rank_auc(np.ones(5, bool), np.arange(5.0)))


def test_interval_over_bouts_is_wider_than_over_events():
    rng = np.random.default_rng(0)
    bout = np.repeat(np.arange(60), 5)
    x = rng.normal(size=60)[bout] + 0.3 * rng.normal(size=300)
    width = [np.diff(over_bouts(b, lambda i: x[i].mean(), 300))[0] for b in (bout, np.arange(300))]
    assert width[0] > 1.6 * width[1]


@pytest.mark.parametrize("seed", range(20))
def test_free_stretches_touch_no_event(seed):
    rng = np.random.default_rng(seed)
    spans = [(s, s + d) for s, d in zip(rng.uniform(-3, 12, 4), rng.uniform(0, 4, 4), strict=True)]
    free = free_stretches(10, spans, 0.5)
    for low, high in free:
        assert 0 <= low < high <= 10
        assert all(high <= a - 0.5 + 1e-9 or low >= b + 0.5 - 1e-9 for a, b in spans)
    times = np.linspace(0, 9.999, 500)
    inside = np.array([any(low <= t <= high for low, high in free) for t in times])
    near = np.array([any(a - 0.5 < t < b + 0.5 for a, b in spans) for t in times])
    assert (inside ^ near).mean() > 0.99  # every moment is one or the other


def test_repeats_agree_with_the_report(sides):
    from crosssuck.metrics import repeated_values
    table = tiny_predictions(sides[1], 0.6).assign(prob_tail=lambda t: 0.45 + t.prob_tail / 20)
    row, facts = repeat_row(table, sides[1]), repeated_values(table.prob_tail)
    assert row["figure"] == facts["repeated"] and f"gives {facts['expected']:.1f} by chance" in row["means"]


def test_leaks_and_purity_are_seen(sides):
    train, val = sides
    assert leak_row(train, val)["figure"] == 0 and not leak_row(train, val)["doubt"]
    assert leak_row(train, pd.concat([val, train[:5]], ignore_index=True))["doubt"]
    whole = val.assign(video_filename="one.mp4")
    assert purity_row(whole)["figure"] == 0 and not purity_row(whole)["doubt"]


def test_duplicates_cast_doubt_only_across_the_sides(sides):
    train, val = sides
    twice = val.iloc[[0]].assign(event_idx=90_001)
    within, across = duplicate_row(train, pd.concat([val, twice], ignore_index=True)), duplicate_row(pd.concat([train, twice], ignore_index=True), val)
    assert (within["figure"], within["doubt"]) == (1, False) and across["figure"] >= 1 and across["doubt"]


def test_the_rate_on_the_page_is_the_rate_that_was_measured(root):
    row = next(r for r in (root / "benchmarks/README.md").read_text().splitlines() if "anything is doubted" in r)
    *_, rate, studies, _ = (x.strip() for x in row.split("|"))
    assert f"{float(rate):.0%}".replace("%", " %") in RULE and f"of {studies} studies" in RULE and "at most" not in RULE and int(studies) >= 200


def test_a_clean_model_is_rarely_doubted():
    rng = np.random.default_rng(5)
    doubted = [panel_of(placed_study(0.85, rng), train_side(rng), rng).doubt.any() for _ in range(15)]
    assert sum(doubted) <= at_most(0.10, 15)


@pytest.mark.parametrize("name", ["camera", "hour", "place in the pen"])
def test_scores_that_leak_a_share_are_found(name):
    rng, found = np.random.default_rng(6), 0
    for _ in range(5):
        train = train_side(rng)
        found += panel_of(placed_study(0.85, rng, planted(name, train, 0.4)), train, rng).doubt[f"scores follow the {name}'s share of tails in training"]
    assert found >= 4


def test_the_errors_of_the_panel_are_those_of_the_evaluation_page():
    from crosssuck.eval import error_source
    t = placed_study(0.85, np.random.default_rng(1), lambda c, is_tail: np.where(c.group == 6, 1.5, 0))
    means = [r["means"] for r in error_rows(t) if r["figure"] is not None]
    assert means and all(m.split(" The cell with")[0] in error_source(t)["sentence"] for m in means)


def test_tests_are_corrected_together_and_say_what_they_would_find():
    from crosssuck.confounds import row
    rows = [row("a", 0.3, "x.", p=0.02, se=0.1, doubt=True, scale="correlation"), row("b", 0.6, "x.", p=0.5, se=0.05), row("c", 0.5, "x."),
            row("d", 0.5, "x.", p=0.001, p_holm=0.004, doubt=True)]
    panel = judge(pd.DataFrame(rows, columns=COLUMNS))
    assert panel.p_holm[:2].tolist() == [0.04, 0.5] and panel.doubt.tolist() == [True, False, False, True]
    assert panel.would_find.tolist() == ["correlation 0.28", "ROC AUC 0.64", "", ""]
    panel = judge(pd.DataFrame([*rows, row("e", 0.6, "x.", p=0.9)], columns=COLUMNS))
    assert not panel.doubt[0] and panel.means[0].endswith("Not significant after Holm correction.")


def test_the_second_of_the_day_is_a_check_of_the_split(sides):
    r = second_row(read_predictions(tiny_predictions(sides[1], 0.8), sides[1]), *sides, n_boot=100)
    assert not r["doubt"] and "With whole hours" in r["means"] and "difference" in r["means"]
    assert "rank" in r["means"] and "The second identifies" not in r["means"]


def test_skill_on_the_selecting_events_is_said_to_be_not_corrected(sides):
    t = read_predictions(tiny_predictions(sides[1], 0.95), sides[1])
    rows = within_rows(t, sides[1], 200)
    assert rows[0]["low"] > 0.5 and rows[0]["means"] == ("Over all pairs the model ranks tail above ear "
                                                        "(CI not corrected for a selection of the epoch on these events).")
    assert all("(CI not corrected" in r["means"] for r in rows if (r["low"] or 0) > 0.5)
    words = panel_words(judge(pd.DataFrame(rows)))
    assert "skill" not in words and "above chance" not in words


def test_scores_that_follow_a_share_are_an_association():
    rng = np.random.default_rng(0)
    t = pd.DataFrame({"bout_id": np.arange(90).astype(str), "true_label": np.where(np.arange(90) % 5 == 0, "tail", "ear"), "prob_tail": rng.random(90)})
    follows, other = (follow_row("x", "camera", t, share, 199) for share in (t.prob_tail.to_numpy(), rng.random(90)))
    assert follows["doubt"] and follows["means"].startswith(
        "Among events of one true label, P(tail) follows the camera's share of tails in training, or something that goes with it (")
    assert "is not shown to follow the camera's share" in other["means"]


def test_hours_that_are_not_known_leave_a_reason(sides):
    train, val = sides
    lost = train.assign(start_s=train.start_s.astype(float).where(train.index > 2))
    rows = follow_rows(read_predictions(tiny_predictions(val, 0.8), val), lost, val, 19)
    assert rows[1]["means"] == "Not done: the time of 3 events is not known."


def film_study(auc, change, seed=0):
    t = tiny_predictions(two_sides()[1], auc, seed=seed)
    return film_row("one frame, repeated", t, change(t), "motion", 300)


def test_a_still_that_scores_like_the_film_is_no_evidence_of_motion():
    same = film_study(0.9, lambda t: t.prob_tail.to_numpy())
    assert same["means"].startswith("Motion is not shown to be used: one frame, repeated has ROC AUC") and "is used:" not in same["means"]
    lost = film_study(0.9, lambda t: np.random.default_rng(0).random(len(t)))
    assert lost["means"].startswith("The score is higher with the whole window than with one repeated frame: ROC AUC 0.") and "95 % CI" in lost["means"]
    assert lost["means"].endswith("The epoch was selected with whole windows on these events, which favours them; a frozen clip is also an "
                                  "unusual input, so this does not prove that motion is used.") and "Motion is used" not in lost["means"]
    assert len(lost["means"]) < 400 and "single frame suffices" not in str(panel_page(judge(pd.DataFrame([lost | {"section": "x"}])), True)[:2])
    perfect = film_study(0.9, lambda t: (t.true_label == "tail").to_numpy(float))
    assert "not shown to be used" in perfect["means"]
    none = film_study(0.5, lambda t: t.prob_tail.to_numpy())
    assert none["means"].startswith("Not shown: ")
    panel = judge(pd.DataFrame([same | {"section": "x"}]))
    assert film_verdict(panel) == same["means"] == film_verdict(panel.to_dict("records")) and same["means"] in panel_words(panel)


def test_the_verdict_on_motion_reaches_the_evaluation_page(tmp_path):
    from crosssuck.core import RunFolder
    from crosssuck.eval import film_words, with_film
    run = RunFolder(tmp_path / "runs/a/s0")
    write_json(tmp_path / "pages/confounds/confounds.json", {"film": "Motion is not shown to be used.", "run": "a/s0", "simulated": True})
    words = film_words(run, tmp_path / "pages/evaluate")
    assert words == ("From the confound panel (validation): Motion is not shown to be used. "
                     "Scores of simulated calves are no evidence about real ones.")
    assert film_words(RunFolder(tmp_path / "runs/b/s0"), tmp_path / "pages/evaluate") == "" == film_words(None, tmp_path)
    assert with_film(["! verdict", "# next", "x"], words) == ["! verdict", words, "# next", "x"]


def pairs_table(n_cells, rng, mixed=None):
    "Cells of six bouts, one of them with a tail in the first `mixed` cells, scores of nothing."
    cell, bout = np.repeat(np.arange(n_cells), 12), np.repeat(np.arange(6 * n_cells), 2)
    tail = (bout % 6 == 0) & (cell < (n_cells if mixed is None else mixed))
    score = rng.normal(size=6 * n_cells)[bout] + 0.5 * rng.normal(size=len(bout))
    return pd.DataFrame({"true_label": np.where(tail, "tail", "ear"), "bout_id": bout.astype(str), "prob_tail": 1 / (1 + np.exp(-score))}), pd.Series(cell)


def test_pairs_within_a_cell_are_counted_where_both_behaviours_are():
    table, cell = pairs_table(30, np.random.default_rng(0), mixed=7)
    few = auc_row("x", table, table.prob_tail, "clear", "unclear", within=cell, n_boot=200)
    assert few["figure"] is not None and few["low"] is None and few["unit"] == "7 bouts with a tail, 7 cells" and few["n"] == 84 and not few["doubt"]
    assert few["means"] == "Only 7 bouts with a tail lie in a cell that holds both behaviours, fewer than 8: no interval."
    table, cell = pairs_table(30, np.random.default_rng(0), mixed=20)
    enough = auc_row("x", table, table.prob_tail, "clear", "unclear", within=cell, n_boot=200)
    assert enough["unit"] == "20 bouts with a tail, 20 cells" and enough["low"] < enough["figure"] < enough["high"]
    right = auc_row("x", table, table.true_label == "tail", "clear", "unclear", within=cell, n_boot=100)
    assert right["figure"] == 1 and right["high"] == pytest.approx(1) and 0.8 < right["low"] < 0.9 and right["means"] == "clear"  # 20 of 20, Wilson
    place = auc_row("x", table, cell, "clear", "unclear", within=cell, n_boot=100)
    assert place["figure"] == place["low"] == place["high"] == 0.5 and not place["doubt"]


def test_ranks_within_cells_are_those_of_each_cell_alone():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n = int(rng.integers(1, 60))
        y, score, cell = rng.random(n) < 0.3, rng.integers(0, 6, n) / 6, rng.integers(0, 5, n)
        won = pairs = 0.0
        for c in set(cell):
            d = score[(cell == c) & y][:, None] - score[(cell == c) & ~y]
            won, pairs = won + (d > 0).sum() + (d == 0).sum() / 2, pairs + d.size
        assert rank_auc(y, score, cell) == pytest.approx(won / pairs if pairs else np.nan, nan_ok=True)


def test_pairs_within_a_cell_rarely_cry_wolf():
    rng, alarms = np.random.default_rng(1), []
    for _ in range(120):
        table, cell = pairs_table(20, rng)
        alarms.append((auc_row("x", table, table.prob_tail, "", "", within=cell, n_boot=300)["low"] or 0) > 0.5)
    assert np.mean(alarms) <= 0.05


@pytest.mark.lab
def test_pairs_of_one_video_in_e1_rest_on_twenty_tail_bouts(lab):
    panel = confounds(lab / "E1/predictions_val.csv", lab / "train_v4.csv", lab / "val_v4.csv", n_boot=100).set_index("what")
    assert panel.unit["the model, pairs of one video"].startswith("20 bouts with a tail, ") and panel.n["the model, pairs of one video"] == 87
    assert panel.unit["the model, pairs of one group"] == "31 bouts with a tail, 4 groups" and panel.unit["the model, all pairs"] == "176 bouts"


# group by group

def test_a_group_is_set_against_its_own_class_balance(sides):
    val = sides[1]
    sure = tiny_predictions(val, 0.99, seed=1)
    flat = sure.assign(prob_tail=0.9, prob_ear=0.1)
    for r, (_, part) in zip(group_rows(flat, val, 200), val.groupby("group"), strict=True):
        share = (part.behavior == "tail").mean()
        assert r["figure"] == pytest.approx(share) and r["line"] == pytest.approx(max(share, 1 - share))
    assert not any(r["doubt"] for t in (flat, sure) for r in group_rows(t, val, 200))  # accuracy at one threshold is a description
    ears = val[(val.group != 1) | (val.behavior == "ear")].reset_index(drop=True)
    assert "No tail event" in group_rows(tiny_predictions(ears, 0.9), ears, 50)[0]["means"]


def test_folds_without_a_class_or_a_run_are_named(sides, tmp_path):
    every = all_events(*sides, None)
    every = every[~((every.group == 2) & (every.behavior == "tail"))].reset_index(drop=True)
    for g, part in every[every.group != 6].groupby("group"):
        for s in (0, 1):
            write_csv(tmp_path / f"g{g}/s{s}/test_predictions.csv", tiny_predictions(part, 0.95, seed=s))
    rows = {r["what"]: r for r in logo_rows(every, tmp_path, 200)}
    assert rows["group 2 left out: the model"]["means"] == rows["group 2 left out: metadata"]["means"] == "Not done: group 2 has no tail event."
    assert rows["group 6 left out: the model"]["means"] == "Not done: no finished run of this fold." and rows["group 6 left out: metadata"]["figure"] is not None
    assert rows["each group left out: the model, pairs of one group"]["low"] > 0.7
    with pytest.raises(UserError, match="no fold with predictions"):
        logo_rows(every, tmp_path / "nowhere", 50)


def test_scores_of_six_models_are_never_pooled(sides, tmp_path):
    "Each model is good, and each has its own level of scores; over all pairs that would look like noise."
    every = all_events(*sides, None)
    for k, (g, part) in enumerate(every.groupby("group")):
        t = tiny_predictions(part, 0.95, seed=g)
        p = t.prob_tail / 10 + 0.2 * k
        write_csv(tmp_path / f"g{g}/s0/test_predictions.csv", t.assign(prob_tail=p, prob_ear=1 - p, pred_label=np.where(p >= 0.5, "tail", "ear")))
    assert {r["what"]: r for r in logo_rows(every, tmp_path, 100)}["each group left out: the model, pairs of one group"]["figure"] > 0.9


# pictures: a study in which only the colour tells the label, or nothing does

def coloured_study(folder, red, bright_side=False):
    "Sixty training and sixty validation events of noise; tail clips are redder by `red` grey levels; one side of the pen may be brighter."
    from crosssuck.video import write_video
    rng = np.random.default_rng(0)
    every = tiny_events(900, seed=4)
    every = every[every.group.isin([1, 2])].drop_duplicates("bout_id").groupby("behavior").head(60).query("behavior in ('ear', 'tail')")
    every = every.groupby("behavior").head(40).reset_index(drop=True).assign(duration_sec=2, end_s=lambda t: t.start_s + 3)
    rows = []
    for e in every.itertuples():
        frames = rng.integers(80, 120, (45, 32, 48, 3)).astype(np.uint8)
        frames[..., 0] += np.uint8(red * (e.behavior == "tail"))
        frames[:, :, 24:] += np.uint8(100 * bright_side)
        name = f"evt_{e.event_idx:04d}_{e.behavior}.mp4"
        write_video(folder / "clips" / name, frames, 5)
        rows.append((name, 3.0, 9.0, 5.0, 48, 32, 48, 32, "proxy", "test", "ok", ""))
    more = pd.DataFrame(rows, columns=["clip_path", "clip_event_offset_s", "clip_duration_s", "clip_fps", "clip_width_px", "clip_height_px", "source_width_px",
                                       "source_height_px", "clip_mode", "recipe", "status", "error"])
    write_csv(folder / "clips" / "clips.csv", pd.concat([every.drop(columns="bout_id"), more], axis=1))
    side = np.arange(len(every)) % 2
    for k, name in enumerate(("train", "val", "test_ood")):
        write_csv(folder / "split" / f"{name}.csv", every[side == k % 2])
    write_json(folder / "split" / "split.json", {"scheme": "bout", "split_seed": 42})
    return every[side == 0], every[side == 1]


def fitted_run(folder, policy="squash", **data):
    "A run whose head was fitted on the training side's features: it knows whatever the features hold."
    import torch
    from sklearn.linear_model import LogisticRegression

    from crosssuck.inputs import eval_batches, load_events
    from crosssuck.model import build_model, input_spec, save_checkpoint
    torch.manual_seed(0)
    config = make_config({"experiment": "test", "data": {"split_dir": str(folder / "split"), "clips": str(folder / "clips" / "clips.csv"), "simulated": True, **data},
                          "optim": {"lr": 1e-3, "epochs": 1, "batch_size": 16}, "window": {"num_frames": 4, "sample_fps": 5.0, "views": 1},
                          "geometry": {"policy": policy, "size_px": 32}, "loader": {"workers": 0}, "model": {"backbone": "r2plus1d_tiny", "weights": "none"}})
    model = build_model(config).eval()
    events = load_events(config, "train", spec=input_spec(config))
    with torch.inference_mode():
        seen = torch.cat([model.backbone(b.video) for b in eval_batches(events, config, views=1)]).numpy()
    scale = seen.std(0) + 1e-6
    fit = LogisticRegression(C=1.0, max_iter=1000).fit((seen - seen.mean(0)) / scale, events.label)
    weight = torch.tensor(fit.coef_[0] / scale, dtype=torch.float32)
    bias = float(fit.intercept_[0] - (fit.coef_[0] / scale) @ seen.mean(0))
    last = model.head[-1]
    with torch.no_grad():
        last.weight[:] = torch.stack([-weight / 2, weight / 2])
        last.bias[:] = torch.tensor([-bias / 2, bias / 2])
    run = open_run(folder / "runs", config, seed=0)
    save_checkpoint(run / "best.ckpt", model, config, epoch=1)
    return run


@pytest.fixture(scope="module", params=[0, 40], ids=["nothing tells", "colour tells"])
def study(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coloured")
    train, val = coloured_study(folder, request.param)
    return request.param, train, val, fitted_run(folder)


def test_a_colour_shortcut_is_found_and_none_is_invented(study):
    red, train, val, run = study
    shown = Shown(run, "cpu")
    colour, around, background = colour_row(shown, 300), around_row(shown, 300), background_row(shown, 300)
    film = {r["what"]: r for r in film_rows(shown, 300)}
    assert colour["n"] == around["n"] == background["n"] == len(val)
    assert colour["doubt"] == (red > 0), colour
    assert (around["low"] > 0.5) == (red > 0) and not around["doubt"], around  # the padding of the own clip is as red as the event
    assert not background["doubt"] and abs(background["figure"] - 0.5) < 0.25, background  # clips of other bouts know nothing of this event
    if red:
        assert colour["figure"] == 1 and "shortcut" in colour["means"] and "frames is not shown to be used" in film["frames in another order"]["means"]


def test_the_background_comes_from_other_bouts_of_the_same_camera(study):
    red, train, val, run = study
    shown = Shown(run, "cpu")
    events = shown.events("val", cached=False)
    from crosssuck.splits import read_part
    lent, draws = background_draws(events, read_part(run.path.parents[2] / "clips" / "clips.csv"))
    own = {e.event_idx: (e, r) for e, r in zip(events.events, events.table.itertuples(), strict=True)}
    by_path = {str(e.path): r for e, r in own.values()}
    assert len(lent) == 3 * len(events) and len(draws) == len(lent)
    for e, d in zip(lent, draws, strict=True):
        mine, donor = own[e.event_idx][1], by_path[str(e.path)]
        assert (donor.group, donor.camera_id) == (mine.group, mine.camera_id) and donor.bout_id != mine.bout_id
        assert e.region == own[e.event_idx][0].region and e.label == own[e.event_idx][0].label
        span = (d.start_s, d.start_s + 3 / 5)
        at = donor.clip_event_offset_s
        assert span[1] <= at - 0.5 + 1e-6 or span[0] >= at + donor.duration_sec + 1 + 0.5 - 1e-6  # outside the donor's event


def test_a_box_that_tells_the_label_is_found_by_the_background(tmp_path):
    "Nothing moves and nothing differs between clips, but the boxes of tails lie on the bright side of the pen."
    train, val = coloured_study(tmp_path, 0, bright_side=True)
    boxes = pd.concat([train, val, pd.read_csv(tmp_path / "split/test_ood.csv")]).drop_duplicates("event_idx")
    tail = (boxes.behavior == "tail").to_numpy()
    write_csv(tmp_path / "boxes.csv", pd.DataFrame({"event_idx": boxes.event_idx, "time_s": "", "x_px": np.where(tail, 30, 2), "y_px": 8, "w_px": 14, "h_px": 14}))
    shown = Shown(fitted_run(tmp_path, policy="roi", boxes=str(tmp_path / "boxes.csv")), "cpu")
    r = background_row(shown, 300)
    assert r["doubt"] and r["figure"] > 0.9 and "the box" in r["means"]


def test_probes_read_what_is_there_and_guess_elsewhere(study):
    red, train, val, run = study
    rows = probe_rows(Shown(run, "cpu"), 200)
    assert [r["what"].split()[4] for r in rows] == ["group", "camera", "video"]
    assert all(r["line"] == pytest.approx(1 / 2) for r in rows[:2]) and rows[0]["figure"] == pytest.approx(rows[1]["figure"])
    assert all(r["low"] is None or r["low"] <= r["figure"] <= r["high"] for r in rows)
    assert all(r["means"].startswith("Chance level among ") for r in rows if r["figure"] is not None)
    assert not [r for r in rows if "guess" in r["means"] or "knows" in r["means"]]
    assert all("can be decoded from the features" in r["means"] for r in rows if r["low"] is not None)


def test_the_whole_panel_of_a_run(study, tmp_path):
    red, train, val, run = study
    panel = confounds(ask_again(Shown(run, "cpu")), train, val, tmp_path, run=run.path, simulated=True, device="cpu", n_boot=200)
    assert panel.columns.tolist() == [*COLUMNS, "section"] and not panel.means.str.contains("needs a run").any()
    assert panel.set_index("what").figure["a probe reads the group from the features"] is not None
    assert ("colour and brightness" in panel_words(panel)) == (red > 0)
    assert len(forest(panel).axes[0].get_yticklabels()) == (panel.figure.notna() & panel.line.notna() & (panel.scale != "count")).sum()
    assert len(read_json(tmp_path / "confounds.json")["rows"]) == len(panel) == len(pd.read_csv(tmp_path / "confounds.csv"))
    assert "nothing about calves" in (tmp_path / "confounds.html").read_text()


# what cannot be done

def test_without_a_run_every_picture_check_says_why(sides):
    panel = confounds(tiny_predictions(sides[1], 0.8), *sides, n_boot=200)
    undone = panel[panel.what.isin(PICTURES)]
    assert len(undone) == len(PICTURES) and undone.figure.isna().all() and undone.means.str.startswith("Not done: it needs a run").all()
    assert f"{panel.figure.isna().sum()} rows could not be done" in panel_words(panel)
    assert (shown_panel(panel)["figure (95 % CI)"] == "–").sum() == panel.figure.isna().sum()


def test_a_run_without_checkpoint_leaves_reasons_not_a_crash(sides, tmp_path):
    study = tiny_study()
    config = make_config({"experiment": "test", "data": {"split_dir": str(study / "split"), "clips": str(study / "clips" / "clips.csv")},
                          "optim": {"lr": 1e-3, "epochs": 1, "batch_size": 8}, "window": {"num_frames": 4, "sample_fps": 5.0, "views": 1},
                          "geometry": {"policy": "squash", "size_px": 32}, "loader": {"workers": 0}, "model": {"backbone": "r2plus1d_tiny", "weights": "none"}})
    run = open_run(tmp_path, config, seed=0)
    panel = confounds(tiny_predictions(sides[1], 0.8), *sides, run=run.path, n_boot=100)
    assert "no such file" in panel.set_index("what").means["one frame, and frames in another order"]


def test_a_memorising_model_falls_within_videos_and_an_honest_one_does_not(sides):
    from crosssuck.splits import video_key
    train, val = (t.assign(video_filename=[f"h{int(s // 14400)}.mp4" for s in t.start_s]) for t in two_sides(1500, 1))
    share = (val.behavior == "tail").groupby(video_key(val)).transform("mean")
    memory = 0.05 + 0.7 * share + 0.2 * np.random.default_rng(0).random(len(val))[pd.factorize(video_key(val))[0]]
    table = tiny_predictions(val, 0.85).assign(prob_tail=memory, prob_ear=1 - memory, pred_label=np.where(memory >= 0.5, "tail", "ear"))
    doubts = {name: confounds(t, train, val, n_boot=200).set_index("what").doubt for name, t in (("memory", table), ("honest", tiny_predictions(val, 0.85)))}
    assert doubts["memory"]["false alarms by video"] and not doubts["honest"]["false alarms by video"]
    assert not doubts["memory"]["the model, pairs of one video"]  # a description


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.assign(true_label=np.where(t.true_label == "ear", "tail", "ear")), "true_label is"),
    (lambda t: t.assign(event_idx=t.event_idx + 10_000), "is not in"),
])
def test_predictions_of_other_events_are_refused(sides, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        confounds(change(tiny_predictions(sides[1], 0.8)), *sides, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_class_leaves_reasons(sides):
    ears = sides[1][sides[1].behavior == "ear"]
    panel = confounds(tiny_predictions(ears, 0.8), sides[0], ears, n_boot=100)
    assert panel.set_index("what").means["the model, all pairs"] == "Not done: no pair of an ear and a tail event."
