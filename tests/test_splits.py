"Bouts, schemes, folders and the audit: properties, planted leaks, and the lab's own tables."
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calling import call
from crosssuck import splits
from crosssuck.core import UserError
from crosssuck.manifest import read_events
from crosssuck.simulation import tiny_events
from crosssuck.splits import (
    GAP_S,
    SIDES,
    UNIT_AND_STRATA,
    Split,
    assign_bouts,
    audit_split,
    bout_timeline,
    draw_units,
    effective_n,
    find_leaks,
    near_pairs,
    read_folds,
    read_part,
    read_split,
    share_interval,
    split_events,
    split_folds,
    tail_carriers,
    video_key,
    write_split,
)

one_event = st.tuples(st.integers(1, 2), st.sampled_from([1, 4]), st.integers(0, 900), st.integers(0, 90), st.sampled_from(["ear", "ear", "tail", "teat"]))
some_events = st.lists(one_event, min_size=1, max_size=40)


def table(rows) -> pd.DataFrame:
    t = pd.DataFrame(rows, columns=["group", "day", "start_s", "duration_sec", "behavior"])
    t["event_idx"] = range(len(t))
    t["end_s"] = t["start_s"] + t["duration_sec"] + 1
    t["camera_id"] = 8
    t["video_filename"] = "file" + (t["start_s"] // 300).astype(str)
    return t


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    return tiny_events(600, seed=1)


def ear_tail(t: pd.DataFrame) -> pd.DataFrame:
    return t[t.behavior.isin(["ear", "tail"])]


def near(t: pd.DataFrame, gap_s: float) -> np.ndarray:
    "All pairs by the plainest means: (n, n) bool."
    start, end = t.start_s.to_numpy(), t.end_s.to_numpy()
    key = (t.group * 10 + t.day).to_numpy()
    return (key[:, None] == key) & (np.maximum(start[:, None], start) < np.minimum(end[:, None], end) + gap_s)


# ---- bouts

@settings(max_examples=50, deadline=None)
@given(some_events)
def test_a_bout_is_what_near_pairs_connect(rows):
    t = table(rows)
    bout = assign_bouts(t)
    t, bout = ear_tail(t), bout[t.behavior.isin(["ear", "tail"])].to_numpy()
    reach = near(t, GAP_S) | np.eye(len(t), dtype=bool)
    for _ in range(7):
        reach = (reach.astype(int) @ reach.astype(int)) > 0  # 2**7 steps: all that is connected
    assert ((bout[:, None] == bout) == reach).all()


@settings(max_examples=30, deadline=None)
@given(some_events, st.randoms(use_true_random=False))
def test_bouts_do_not_depend_on_the_order_of_rows(rows, random):
    t = table(rows)
    order = list(range(len(t)))
    random.shuffle(order)
    for within in (False, True):
        pd.testing.assert_series_equal(assign_bouts(t.iloc[order], within_file=within).sort_index(), assign_bouts(t, within_file=within))


@settings(max_examples=30, deadline=None)
@given(some_events)
def test_the_labs_rule_only_divides_our_bouts(rows):
    t = ear_tail(table(rows))
    parts = pd.DataFrame({"ours": assign_bouts(t), "labs": assign_bouts(t, within_file=True), "file": t.video_filename})
    assert (parts.groupby("labs").ours.nunique() == 1).all() and (parts.groupby("labs").file.nunique() == 1).all()


def test_bout_ids_follow_the_clock_and_skip_other_behaviours():
    t = table([(1, 1, 500, 0, "ear"), (1, 1, 0, 0, "tail"), (1, 1, 250, 0, "teat"), (2, 4, 9, 0, "ear")])
    assert assign_bouts(t).tolist() == ["g1d1b002", "g1d1b001", "", "g2d4b001"]


@pytest.mark.parametrize("gap, bouts", [(29, 1), (30, 2)])
def test_thirty_seconds_end_a_bout(gap, bouts):
    assert assign_bouts(table([(1, 1, 0, 4, "ear"), (1, 1, 5 + gap, 4, "ear")])).nunique() == bouts


def test_a_long_event_holds_a_bout_together():
    t = table([(1, 1, 0, 100, "ear"), (1, 1, 10, 1, "ear"), (1, 1, 120, 1, "ear")])
    assert assign_bouts(t).nunique() == 1  # 108 s after the end before it, 19 s after the latest end


# ---- near pairs, shares

@settings(max_examples=50, deadline=None)
@given(some_events, st.sampled_from([0.0, 30.0]))
def test_near_pairs_are_all_pairs(rows, gap_s):
    t = table(rows)
    i, j = near_pairs(t, gap_s)
    assert {frozenset(p) for p in zip(i.tolist(), j.tolist(), strict=True)} == {frozenset(p) for p in zip(*np.nonzero(np.triu(near(t, gap_s), 1)), strict=True)}
    assert (t.start_s.to_numpy()[i] <= t.start_s.to_numpy()[j]).all()


def test_effective_number_between_bouts_and_events():
    hit = np.repeat([1, 0, 0, 0], 25).astype(bool)
    assert effective_n(hit, np.arange(100)) == pytest.approx(99)
    assert effective_n(hit, np.arange(100) // 5) == pytest.approx(19)
    assert effective_n(np.ones(10, bool), np.repeat([0, 1], 5)) == pytest.approx(2)       # nothing scatters: bouts count
    assert effective_n(np.ones(10, bool), [0] * 9 + [1]) == pytest.approx(100 / 82)       # and a long one does not count for nine
    low, high = share_interval(np.ones(20, bool), np.arange(20))
    assert (low, high) == (pytest.approx(20 / (20 + 1.959964**2)), 1)


# ---- schemes

@settings(max_examples=25, deadline=None)
@given(st.lists(one_event, min_size=12, max_size=60), st.sampled_from(sorted(UNIT_AND_STRATA)), st.integers(0, 3), st.randoms(use_true_random=False))
def test_every_event_on_one_side_whatever_the_order(rows, scheme, seed, random):
    t = table(rows)
    order = list(range(len(t)))
    random.shuffle(order)
    try:
        split = split_events(t, scheme, split_seed=seed, ood_groups=())
    except UserError as e:
        assert "holds no" in str(e)  # too few bouts of a class: said, never papered over
        return
    again = split_events(t.iloc[order], scheme, split_seed=seed, ood_groups=())
    for side in SIDES:
        pd.testing.assert_frame_equal(split.sides[side], again.sides[side], check_dtype=False)
    assert sorted(split.table.event_idx) == sorted(ear_tail(t).event_idx)
    assert all(set(x.behavior) == {"ear", "tail"} for x in (split.train, split.val))
    unit = {"bout": lambda x: x.bout_id, "video": video_key}.get(scheme, lambda x: x.event_idx)
    assert not set(unit(split.train)) & set(unit(split.val))
    if scheme == "bout":
        assert not audit_split(**split.sides, scheme=scheme).leak.any()


@pytest.mark.parametrize("scheme", sorted(UNIT_AND_STRATA))
def test_share_seed_and_ood(events, scheme):
    split, other = split_events(events, scheme), split_events(events, scheme, split_seed=7)
    assert split_events(events, scheme, ood_groups=()).facts["notes"] == ["test_ood is empty: no group is kept apart, and nothing tells how a model does in another pen"]
    assert set(split.test_ood.group) == {4, 5} and not {4, 5} & (set(split.train.group) | set(split.val.group))
    rest = ear_tail(events)[~ear_tail(events).group.isin([4, 5])]
    for behavior in ("ear", "tail"):
        assert (split.val.behavior == behavior).sum() == pytest.approx(.2 * (rest.behavior == behavior).sum(), abs=6)
    assert set(split.val.event_idx) != set(other.val.event_idx)
    pd.testing.assert_frame_equal(split.test_ood, other.test_ood)


def test_long_bouts_are_as_likely_to_validate_as_short_ones():
    size = np.r_[[12] * 10, [1] * 200]
    unit = pd.Series(np.repeat(np.arange(210), size))
    luck = np.zeros(210)
    for seed in range(300):
        drawn = draw_units(unit, unit * 0, unit < -1, .2, np.random.default_rng(seed))
        luck[list(drawn)] += 1 / 300
    assert abs(luck[:10].mean() - .2) < .03 and abs(luck[10:].mean() - .2) < .01


def test_a_shuffle_does_not_depend_on_the_order_of_units():
    strata = pd.Series(["a", "b", "b"] * 8, index=[f"u{k:02d}" for k in range(24)])
    row = splits.interleave(strata, np.random.default_rng(0))
    assert list(row) == list(splits.interleave(strata.sample(frac=1, random_state=1), np.random.default_rng(0)))
    assert sorted(row) == sorted(strata.index) and all(abs((strata[row[:n]] == "a").sum() - n / 3) <= 1 for n in range(25))


def test_intra_video_spreads_each_video(events):
    split = split_events(events, "intra_video", ood_groups=())
    t = split.table.assign(video=lambda x: video_key(x))
    large = t[t.groupby("video").event_idx.transform("size") >= 10]
    share = (large.side == "val").groupby(large.video).mean()
    assert len(share) >= 3 and share.between(.08, .4).all()


def test_boost_repeats_training_alone(events):
    plain, boosted = split_events(events, "intra_video"), split_events(events, "intra_video_boosted")
    pd.testing.assert_frame_equal(boosted.val, plain.val)
    assert (boosted.train.behavior == "tail").mean() == pytest.approx(.3, abs=.005)
    assert set(boosted.train.event_idx) == set(plain.train.event_idx)
    repeats = boosted.train[boosted.train["copy"] > 0]
    assert set(repeats.behavior) == {"tail"} and not boosted.train.duplicated(["event_idx", "copy"]).any()
    n = boosted.train[boosted.train.behavior == "tail"].groupby("event_idx").size()
    assert n.max() - n.min() <= 1
    assert boosted.facts["counts"]["train"]["tail"] == (boosted.train.behavior == "tail").sum()


@pytest.mark.parametrize("scheme, column", [("logo", "group"), ("lodo", "day")])
def test_folds_leave_one_out(events, scheme, column):
    folds = split_folds(events, scheme)
    assert [f.facts["fold"] for f in folds.values()] == list(folds) == [f"{column[0]}{v}" for v in sorted(events[column].unique())]
    for fold, split in folds.items():
        assert set(split.test_ood[column]) == {int(fold[1:])} and int(fold[1:]) not in set(split.train[column]) | set(split.val[column])
        assert not audit_split(**split.sides, scheme=scheme).leak.any()
        assert all(set(x.behavior) == {"ear", "tail"} for x in (split.train, split.val))
    assert sum(len(f.test_ood) for f in folds.values()) == len(ear_tail(events))


def test_a_fold_without_tail_is_named_or_refused(events):
    few = events[(events.group != 2) | (events.behavior != "tail")]
    assert split_folds(few)["g2"].facts["notes"] == ["test_ood holds no tail event: what needs both classes cannot be computed on it"]
    with pytest.raises(UserError, match="train holds no tail event"):
        split_folds(events[(events.group == 2) | (events.behavior != "tail")])


@pytest.mark.parametrize("call, words", [
    (lambda e: split_events(e, "boot"), "'boot' is no scheme"),
    (lambda e: split_events(e, val_share=20), "val_share is 20"),
    (lambda e: split_events(e, ood_groups=(4, 9)), "group 9 holds no ear or tail event"),
    (lambda e: split_events(pd.concat([e, e.head(1)])), "stands there twice"),
    (lambda e: split_events(e.assign(video_filename=""), "video"), "have no video"),
    (lambda e: split_events(e.drop(columns="camera_id"), "video"), "no column 'camera_id'"),
    (lambda e: split_folds(e, "bout"), "makes no folds"),
])
def test_faults_are_one_line(events, call, words):
    with pytest.raises(UserError, match=words) as e:
        call(events)
    assert "\n" not in str(e.value)


# ---- files

def test_a_split_survives_its_folder(events, tmp_path):
    for scheme in ("bout", "intra_video_boosted"):
        split = split_events(events, scheme)
        back = read_split(write_split(split, tmp_path / scheme))
        assert back.facts == split.facts | {"criteria": splits.hash_criteria()}
        for side in SIDES:
            same = [c for c in split.sides[side] if c in back.sides[side]]
            assert len(same) == len(split.sides[side].columns)
            pd.testing.assert_frame_equal(back.sides[side][same].astype(str), split.sides[side][same].assign(
                end_s=back.sides[side].end_s, start_s=back.sides[side].start_s).astype(back.sides[side][same].dtypes.to_dict()).astype(str))


def test_the_source_is_recorded(events, tmp_path):
    path = splits.write_csv(tmp_path / "linked.csv", events)
    split = split_events(path)
    assert split.facts["source"] == {"name": "linked.csv", "sha256": splits.sha256_file(path)}
    assert split.val.event_idx.tolist() == split_events(events).val.event_idx.tolist()


def test_a_write_cut_short_leaves_no_split(events, tmp_path, monkeypatch):
    split = split_events(events)
    write_split(split, tmp_path)
    real, calls = splits.write_csv, []

    def dies(path, t):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(path, t)
    monkeypatch.setattr(splits, "write_csv", dies)
    with pytest.raises(KeyboardInterrupt):
        write_split(split_events(events, split_seed=1), tmp_path)
    with pytest.raises(UserError, match="no finished split"):
        read_split(tmp_path)


def finished(folder) -> list[str]:
    return sorted(p.parent.name for p in folder.glob("*/split.json"))


def test_folds_of_an_earlier_split_do_not_mix_with_new_ones(events, tmp_path):
    write_split(split_folds(events), tmp_path)
    (tmp_path / "g1/notes.txt").write_text("mine")
    write_split(split_folds(events, "lodo"), tmp_path)
    assert finished(tmp_path) == list(read_folds(tmp_path)) == ["d1", "d4"]
    write_split(split_folds(events[events.group < 4]), tmp_path)
    assert finished(tmp_path) == list(read_folds(tmp_path)) == ["g1", "g2", "g3"]
    assert (tmp_path / "g1/notes.txt").read_text() == "mine" and set(splits.audit_files(tmp_path).fold) == {"g1", "g2", "g3"}


@pytest.mark.parametrize("n", [1, 8, 18])
def test_a_full_disk_half_way_leaves_no_mixture_of_folds(events, tmp_path, monkeypatch, n):
    write_split(split_folds(events), tmp_path)
    real, calls = splits.write_csv, []

    def full(path, t):
        calls.append(path)
        if len(calls) == n:
            raise UserError("the disk is full, nothing was written", where=path)
        return real(path, t)
    monkeypatch.setattr(splits, "write_csv", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_split(split_folds(events, split_seed=1), tmp_path)
    assert finished(tmp_path) == []
    with pytest.raises(UserError, match="no finished split"):
        read_folds(tmp_path)


def test_folds_of_two_splits_are_refused_however_they_came_together(events, tmp_path):
    write_split(split_folds(events), tmp_path / "a")
    write_split(split_folds(events, "lodo"), tmp_path / "b")
    write_split(split_folds(events, split_seed=1), tmp_path / "c")
    write_split(split_folds(events.assign(start_s=events.start_s + 1, end_s=events.end_s + 1)), tmp_path / "d")
    for other, name, words in (("b", "d1", "folds d1 and g1 differ in scheme .lodo and logo.: they are of two splits"), ("c", "g6", "folds g1 and g6 differ in split_seed .42 and 1."),
                               ("d", "g4", "folds g1 and g4 differ in source: they are of two splits; remove the folder, then split again")):
        both = shutil.copytree(tmp_path / "a", tmp_path / f"a{other}")
        shutil.copytree(tmp_path / other / name, both / name, dirs_exist_ok=True)
        with pytest.raises(UserError, match=words):
            read_folds(both)
    shutil.rmtree(tmp_path / "a/g3")
    with pytest.raises(UserError, match="no finished fold g3; remove the folder"):
        read_folds(tmp_path / "a")


def test_splits_of_both_kinds_in_a_folder_are_refused(events, tmp_path):
    write_split(split_folds(events), tmp_path / "a")
    one = write_split(split_events(events), tmp_path / "one")
    shutil.copy(one / "split.json", tmp_path / "a/split.json")
    with pytest.raises(UserError, match="split.json is no fold, and lies beside g1, g2"):
        read_folds(tmp_path / "a")
    shutil.copytree(one, tmp_path / "folder/bout")
    before = sorted(p for p in (tmp_path / "folder").rglob("*"))
    with pytest.raises(UserError, match="another split lies there; give the folds a folder of their own"):
        write_split(split_folds(events), tmp_path / "folder")
    assert sorted(p for p in (tmp_path / "folder").rglob("*")) == before and read_split(tmp_path / "folder/bout")


def test_changed_tables_and_fold_folders_are_refused(events, tmp_path):
    write_split(split_folds(events), tmp_path / "logo")
    with pytest.raises(UserError, match="name a fold: g1, g2, g3, g4, g5, g6"):
        read_split(tmp_path / "logo")
    g1 = tmp_path / "logo" / "g1"
    assert read_split(g1).facts["left_out"] == {"group": 1}
    (g1 / "val.csv").write_text((g1 / "val.csv").read_text().replace(",ear,", ",tail,", 1))
    with pytest.raises(UserError, match="val.csv: not the table that split.json describes"):
        read_split(g1)


def test_one_call_for_the_command(events, tmp_path):
    splits.make_split(events, tmp_path / "bout", ood_groups=(6,), split_seed=3)
    assert read_split(tmp_path / "bout").facts["ood_groups"] == [6]
    splits.make_split(events, tmp_path / "logo", "logo")
    with pytest.raises(UserError, match="logo leaves each group out in turn"):
        splits.make_split(events, tmp_path / "x", "logo", ood_groups=(4,))
    audit = splits.audit_files(tmp_path / "logo")
    assert sorted(set(audit.fold)) == ["g1", "g2", "g3", "g4", "g5", "g6"] and not audit.leak.any()
    one = splits.audit_files(tmp_path / "bout")
    three = splits.audit_files(*(tmp_path / "bout" / f"{s}.csv" for s in SIDES))
    pd.testing.assert_frame_equal(one, three)
    assert list(read_folds(tmp_path / "logo")) == ["g1", "g2", "g3", "g4", "g5", "g6"] and list(read_folds(tmp_path / "bout")) == [""]
    with pytest.raises(UserError, match="logo: the folds g1, g2, g3, g4, g5, g6 lie there; give the split a folder of its own"):
        splits.make_split(events, tmp_path / "logo")
    with pytest.raises(UserError, match="bout: another split lies there; give the folds a folder of their own"):
        splits.make_split(events, tmp_path / "bout", "lodo")
    for wrong in ((), (tmp_path, tmp_path)):
        with pytest.raises(UserError, match="give one split folder, or three CSV files"):
            splits.audit_files(*wrong)
    with pytest.raises(UserError, match="no finished split"):
        splits.audit_files(tmp_path / "none")


def test_repeats_need_a_copy_column(events, tmp_path):
    twice = pd.concat([events, events.head(1)])
    with pytest.raises(UserError, match="event_idx"):
        read_part(splits.write_csv(tmp_path / "a.csv", twice))
    assert len(read_part(splits.write_csv(tmp_path / "b.csv", twice.assign(copy=[0] * len(events) + [1])))) == len(twice)


# ---- the audit finds what was planted

def audit(train, val, **kw):
    a = audit_split(train, val, val.head(0), **kw)
    return a[a.leak].set_index("check")


@pytest.fixture(scope="module")
def clean(events) -> Split:
    return split_events(events)


def test_no_leak_in_a_bout_split(clean):
    assert audit(clean.train, clean.val, scheme="bout").empty


def test_the_same_event_in_two(clean):
    found = audit(clean.train, pd.concat([clean.val, clean.train.head(3)]))
    assert found.n["event in two"] == 3 and "duplicate in two" not in found.index


def test_a_duplicate_in_two(clean):
    copy = clean.train.head(1).assign(event_idx=99_999)
    found = audit(clean.train, pd.concat([clean.val, copy]))
    assert found.n["duplicate in two"] == 1 and "event in two" not in found.index


def test_a_bout_in_two_within_and_across_files(clean):
    last = clean.train[clean.train.start_s == clean.train.groupby(["group", "day"]).start_s.transform("max")].iloc[[0]]
    near_by = last.assign(event_idx=99_999, start_s=last.end_s + 29, end_s=last.end_s + 33, initiator_id=1)
    found = audit(clean.train, pd.concat([clean.val, near_by]))
    assert found.n["bout in two, within a file"] == 1 and found.n["near pair"] >= 1
    found = audit(clean.train, pd.concat([clean.val, near_by.assign(video_filename="the_next_file.mp4")]))
    assert found.n["bout in two, across files"] == 1 and "bout in two, within a file" not in found.index
    far = near_by.assign(start_s=last.end_s + 30, end_s=last.end_s + 33)
    assert audit(clean.train, pd.concat([clean.val, far])).empty


def test_two_answers_for_one_picture(clean):
    ear = clean.train[clean.train.behavior == "ear"].iloc[[0]]
    found = audit(clean.train, pd.concat([clean.val, ear.assign(event_idx=99_999, behavior="tail", initiator_id=1)]))
    assert found.n["other class in the same seconds"] >= 1 and "duplicate in two" not in found.index


def test_a_broken_promise_is_a_leak(events, clean):
    video = split_events(events, "video")
    assert not audit_split(**video.sides, scheme="video").query("check == 'video in both'").leak.any()
    assert audit(clean.train, clean.val, scheme="video").index.tolist() == ["video in both"]
    moved = audit_split(clean.train, clean.val, pd.concat([clean.test_ood, clean.val.head(1)]), scheme="bout")
    assert moved[(moved.check == "group in both") & (moved.sides == "train · test_ood")].leak.item()


def test_audit_works_without_video_and_calves(clean):
    bare = ["event_idx", "group", "day", "behavior", "start_s", "end_s"]
    a = audit_split(*(t[bare] for t in clean.sides.values()))
    assert not a.leak.any() and "video in both" not in set(a.check)
    with pytest.raises(UserError, match="no column 'start_s'"):
        audit_split(*(t[["event_idx", "group", "day", "behavior", "end_s"]] for t in clean.sides.values()))


def test_repeats_of_a_boosted_split_are_no_leak_of_their_own(events):
    plain, boosted = (split_events(events, s) for s in ("intra_video", "intra_video_boosted"))
    pd.testing.assert_frame_equal(audit_split(**plain.sides), audit_split(**boosted.sides))


def test_no_sentence_names_an_animal_or_a_file(clean):
    words = " ".join(audit_split(**clean.sides).sentence)
    ids = {str(i) for i in pd.concat([clean.train.initiator_id, clean.train.receiver_id])}
    assert not any(i in words.replace(",", "") for i in ids) and ".mp4" not in words
    assert tail_carriers(clean.train, "dyad").sum() == (clean.train.behavior == "tail").sum()


def test_timeline_draws_every_group_day(clean):
    import matplotlib.pyplot as plt
    fig = bout_timeline(clean)
    assert len(fig.axes[0].get_yticks()) == clean.table.groupby(["group", "day"]).ngroups
    bars = sum(len(c.get_paths()) for c in fig.axes[0].collections)
    assert bars == clean.table.bout_id.nunique()
    plt.close(fig)


def test_a_hundred_thousand_events():
    small = tiny_events(2000, seed=2)
    big = pd.concat([small.assign(group=small.group + 10 * k, event_idx=small.event_idx + 2000 * k) for k in range(50)], ignore_index=True)
    split = split_events(big)
    found = audit_split(**split.sides, scheme="bout")
    assert len(big) == 100_000 and not found.leak.any()


# ---- one fault a table: what the audit must find, and nothing else

def far_apart() -> dict[str, pd.DataFrame]:
    "Three sides without any fault: events an hour apart, each side with its own group, day, camera, video and calves."
    sides = {}
    for k, side in enumerate(SIDES):
        t = pd.DataFrame({"group": k + 1, "day": k + 1, "start_s": 3600.0 * np.arange(20), "duration_sec": 4, "behavior": ["tail" if i % 5 == 0 else "ear" for i in range(20)]})
        t["event_idx"], t["end_s"] = 100 * k + np.arange(20), t.start_s + t.duration_sec + 1
        t["camera_id"], t["video_filename"] = k + 1, [f"v{k}_{i // 2}.mp4" for i in range(20)]
        t["initiator_id"], t["receiver_id"] = [f"{k}{i}" for i in range(20)], [f"{k}{i + 50}" for i in range(20)]
        sides[side] = t.assign(date="7/6/2024", ended_by="initiator", pen_location="back")
    return sides


def with_fault(row: dict, side: str = "val") -> dict[str, pd.DataFrame]:
    "The faultless sides, and one more event: the first of training with `row` put in."
    sides = far_apart()
    sides[side] = pd.concat([sides[side], sides["train"].head(1).assign(event_idx=999, initiator_id="77", receiver_id="78").assign(**row)], ignore_index=True)
    return sides


def found_in(sides, **kw) -> dict[str, int]:
    a = audit_split(**sides, **kw)
    return {r.check: r.n for r in a[a.leak].itertuples()}


def test_the_tables_without_a_fault_have_none():
    sides = far_apart()
    a = audit_split(**sides)
    assert not a.leak.any() and len(find_leaks(**sides)) == 0
    shared = a[a.check.str.endswith("in both")]
    assert set(shared.check) == {f"{u} in both" for u in ("group", "day", "group-day", "camera", "video", "calf", "dyad")} and (shared.n == 0).all() and (shared.share == 0).all()


def test_the_audit_counts_videos_of_the_union_and_those_with_tail_on_both_sides():
    "Four videos: one on both sides with tail on both, one on both with tail in train only, one on each side alone."
    sides = {s: t.assign(video_filename="own " + s) for s, t in far_apart().items()}
    train, val = sides["train"], sides["val"]
    tails, more = (t[t.behavior == "tail"].index for t in (train, val))
    ears, other = (t[t.behavior == "ear"].index for t in (train, val))
    train.loc[tails[0], "video_filename"] = val.loc[more[0], "video_filename"] = "both with tail"
    train.loc[tails[1], "video_filename"] = val.loc[other[0], "video_filename"] = "both, tail in train"
    for t in (train, val):
        t[["camera_id", "group", "day"]] = ["8", 1, 1]
        t["video_path"] = t.video_filename
    for scheme in ("", "intra_video", "bout", "video"):
        found = audit_split(**sides, scheme=scheme).query("sides == 'train · val'").set_index("check").sentence
        assert found["videos on both sides"] == "2 of the 4 videos of train and val together are on both sides"
        assert found["videos with tail on both sides"].startswith("1 of the ")


IN_FILE, NEXT_FILE = {"video_filename": "v0_0.mp4"}, {"video_filename": "v0_1.mp4"}

@pytest.mark.parametrize("fault, want, pairs", [
    ({"event_idx": 0, "initiator_id": "00", "receiver_id": "050"}, {"event in two": 1, "bout in two, within a file": 1}, {"event in two": 1}),
    ({"initiator_id": "00", "receiver_id": "050"}, {"duplicate in two": 1, "bout in two, within a file": 1, "near pair": 1}, {"duplicate in two": 1, "near pair": 1}),
    ({"start_s": 5.0 + 29, "end_s": 5.0 + 34, **IN_FILE}, {"bout in two, within a file": 1, "near pair": 1}, {"near pair": 1}),
    ({"start_s": 5.0 + 29, "end_s": 5.0 + 34, **NEXT_FILE}, {"bout in two, across files": 1, "near pair": 1}, {"near pair": 1}),
    ({"start_s": 5.0 + 30, "end_s": 5.0 + 35, **IN_FILE}, {}, {}),
    ({"start_s": 3.0, "end_s": 8.0, "behavior": "ear", **NEXT_FILE}, {"bout in two, across files": 1, "near pair": 1, "other class in the same seconds": 1}, {"near pair": 1, "other class in the same seconds": 1}),
    ({"start_s": 5.0, "end_s": 8.0, "behavior": "ear", **NEXT_FILE}, {"bout in two, across files": 1, "near pair": 1}, {"near pair": 1}),
])
def test_one_fault_is_found_and_no_other(fault, want, pairs):
    for side in ("val", "test_ood"):
        sides = with_fault(fault, side)
        assert found_in(sides) == want
        leaks = find_leaks(**sides)
        assert leaks.check.value_counts().to_dict() == pairs
        assert set(leaks.side_a) <= {"train"} and set(leaks.side_b) <= {side} and set(leaks.event_a) <= {0} and set(leaks.event_b) <= {fault.get("event_idx", 999)}
        near_by = leaks[leaks.check == "near pair"]
        assert near_by.apart_s.tolist() == [fault.get("start_s", 0.0) - 5.0] * len(near_by) and (near_by.same_file == ("v0_0.mp4" == fault.get("video_filename", "v0_0.mp4"))).all()


def test_a_bout_that_a_third_event_holds_together_is_found_on_its_far_end():
    sides = with_fault({"start_s": 60.0, "end_s": 61.0, **NEXT_FILE})
    assert found_in(sides) == {}
    middle = sides["train"].head(1).assign(event_idx=998, start_s=20.0, end_s=40.0, behavior="tail")  # 20 s to either side
    sides["train"] = pd.concat([sides["train"], middle], ignore_index=True)
    assert found_in(sides) == {"bout in two, across files": 1, "near pair": 1}


@pytest.mark.parametrize("unit, row", [
    ("video", {"start_s": 70_000.0, "end_s": 70_005.0}), ("camera", {"start_s": 70_000.0, "end_s": 70_005.0, "video_filename": "new.mp4"}),
    ("group", {"day": 9, "camera_id": 9, "start_s": 70_000.0, "end_s": 70_005.0}), ("day", {"group": 9, "camera_id": 9}),
    ("calf", {"day": 9, "camera_id": 9, "initiator_id": "00"}), ("dyad", {"day": 9, "camera_id": 9, "initiator_id": "00", "receiver_id": "050"})])
def test_what_both_sides_share_is_counted(unit, row):
    a = audit_split(**with_fault(row)).set_index(["check", "sides"])
    assert not a.leak.any()
    shared, n = a.loc[(f"{unit} in both", "train · val")], {"video": 11, "camera": 2, "group": 2, "day": 2, "calf": 42, "dyad": 21}[unit]
    assert shared.n == (2 if unit == "calf" and "receiver_id" in row else 1) and shared.share == pytest.approx(shared.n / n)
    assert f"{shared.n} of the {n}" in shared.sentence
    assert a.loc[(f"{unit} in both", "train · test_ood")].n == 0


def test_class_balance_has_an_interval_over_bouts():
    sides = far_apart()
    a = audit_split(**sides).set_index(["check", "sides"])
    for side in SIDES:
        words = a.loc[("class balance", side)].sentence
        low, high = share_interval((sides[side].behavior == "tail").to_numpy(), np.arange(20))
        assert words == f"4 of 20 events are tail: 20.0%, 95 % interval {low:.1%} to {high:.1%} over 20 bouts" and low < .2 < high
    t = sides["train"]
    sides["train"] = pd.concat([t.assign(start_s=t.start_s + 6 * k, end_s=t.end_s + 6 * k, event_idx=t.event_idx + 1000 * k) for k in range(5)])
    clustered = audit_split(**sides).set_index(["check", "sides"]).loc[("class balance", "train")].sentence
    assert "20 of 100 events" in clustered and "over 20 bouts" in clustered
    assert re.search(r"interval (.*) over", clustered)[1] == re.search(r"interval (.*) over", a.loc[("class balance", "train")].sentence)[1]  # five times the events, not one more bout


def test_those_who_carry_most_of_the_tail_events_are_counted(tmp_path):
    sides = far_apart()
    t = sides["val"]
    t.loc[t.behavior == "tail", "initiator_id"] = ["a", "a", "a", "b"]
    t.loc[t.behavior == "tail", "video_filename"] = ["x.mp4", "y.mp4", "x.mp4", "z.mp4"]
    a = audit_split(**sides).set_index(["check", "sides"])
    assert a.loc[("tail by calf", "val")].sentence == "half of the tail events come from 1 of the 2 calves that suck a tail; the first alone has 75%"
    assert a.loc[("tail by video", "val")].sentence == "half of the tail events come from 1 of the 3 videos that hold any; the first alone has 50%"
    assert a.loc[("tail by calf", "val")].n == 1 and a.loc[("tail by calf", "val")].share == .75
    linked = [splits.write_csv(tmp_path / f"{k}.csv", v.assign(start_time=[m_time(s) for s in v.start_s], end_time="0:00:00")) for k, v in sides.items()]
    out = splits.write_audit(tmp_path / "audit", *linked)
    carriers = pd.read_csv(out / "carriers.csv", dtype={"name": str})
    first = carriers[(carriers.side == "val") & (carriers.by == "calf")].iloc[0]
    assert (first["name"], first.tail_events) == ("2/a", 3) and len(pd.read_csv(out / "leaks.csv")) == 0
    assert pd.read_csv(out / "audit.csv").sentence.tolist() == splits.audit_files(*linked).sentence.tolist()


def m_time(s: float) -> str:
    return f"{int(s) // 3600}:{int(s) // 60 % 60:02d}:{int(s) % 60:02d}"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(one_event, st.sampled_from(SIDES)), min_size=3, max_size=40), st.integers(0, 5))
def test_every_pair_that_leaks_is_listed(rows, repeated):
    t = table([r for r, _ in rows]).assign(side=[s for _, s in rows], initiator_id="1", receiver_id="2")
    t.loc[t.index[:repeated], "event_idx"] = t.event_idx.iloc[-1]  # the same event several times
    t = ear_tail(t).reset_index(drop=True)
    t = t.drop_duplicates(["event_idx", "side"]).reset_index(drop=True)
    if t.empty:
        return
    found = find_leaks(*(t[t.side == s] for s in SIDES))
    side, idx = t.side.to_numpy(), t.event_idx.to_numpy()
    apart = (side[:, None] != side) & np.triu(np.ones((len(t), len(t)), bool), 1)
    assert (found.check == "near pair").sum() == (apart & near(t, GAP_S) & (idx[:, None] != idx)).sum()
    assert (found.check == "event in two").sum() == (apart & (idx[:, None] == idx)).sum()
    kind = t.behavior.to_numpy()
    assert (found.check == "other class in the same seconds").sum() == (apart & near(t, 0.0) & (idx[:, None] != idx) & (kind[:, None] != kind)).sum()
    assert set(found.side_a) | set(found.side_b) <= set(SIDES) and (found.side_a != found.side_b).all()


@settings(max_examples=15, deadline=None)
@given(st.lists(one_event, min_size=20, max_size=80), st.sampled_from(["logo", "lodo"]), st.integers(0, 3), st.randoms(use_true_random=False))
def test_folds_hold_every_event_once_in_the_test_and_both_classes_where_a_model_learns(rows, scheme, seed, random):
    t = table(rows)
    order = list(range(len(t)))
    random.shuffle(order)
    try:
        folds = split_folds(t, scheme, split_seed=seed)
    except UserError as e:
        assert "holds no" in str(e)
        return
    again = split_folds(t.iloc[order], scheme, split_seed=seed)
    assert sorted(i for f in folds.values() for i in f.test_ood.event_idx) == sorted(ear_tail(t).event_idx)
    for name, f in folds.items():
        assert sorted(f.table.event_idx) == sorted(ear_tail(t).event_idx)
        assert all(set(x.behavior) == {"ear", "tail"} for x in (f.train, f.val))
        missing = {"ear", "tail"} - set(f.test_ood.behavior)
        assert bool(f.facts["notes"]) == bool(missing) and all(m in f.facts["notes"][0] for m in missing)
        assert not set(f.train.bout_id) & set(f.val.bout_id)
        for side in SIDES:
            assert again[name].sides[side].event_idx.tolist() == f.sides[side].event_idx.tolist()


# ---- the lab's own files

@pytest.mark.lab
def test_the_labs_bouts(lab):
    master = read_events(lab / "MASTER_LINKED_v4.csv")
    inside = master[master.group.isin([1, 2, 3, 6]) & master.behavior.isin(["ear", "tail"])]
    assert assign_bouts(inside).nunique() == 858
    assert assign_bouts(inside, within_file=True).nunique() == 871


@pytest.mark.lab
def test_the_labs_gaps_are_as_notebook_04_says(lab, root):
    t = read_events(lab / "MASTER_LINKED_v4.csv").sort_values(["group", "day", "start_s", "end_s"])
    t["written_end_s"] = t.start_s + t.duration_sec
    told = []
    for by in (["group", "day", "video_filename"], ["group", "day"]):
        before = t.groupby(by)[["written_end_s", "start_s"]].shift()
        told += [f"{100 * (t.start_s - before[c]).dropna().lt(30).mean():.0f} %" for c in before]
    prose = (root / "nbs" / "04_splits.ipynb").read_text(encoding="utf-8")
    assert told == ["54 %", "47 %", "49 %", "43 %"]
    assert f"Within a file {told[0]} of the gaps" in prose and f"and {told[1]} of those" in prose and f"(across files {told[2]} and {told[3]})" in prose


@pytest.mark.lab
def test_the_labs_master_splits(lab, tmp_path):
    split = read_split(write_split(split_events(lab / "MASTER_LINKED_v4.csv"), tmp_path))
    n = split.facts["counts"]
    assert n["test_ood"] == {"ear": 129, "tail": 12, "bouts": 87}
    assert n["train"]["bouts"] + n["val"]["bouts"] == 858 and n["train"]["ear"] + n["val"]["ear"] == 1522
    assert split.facts["behaviors_left_out"] == {"other": 9, "teat": 12}
    assert not audit_split(**split.sides, scheme="bout").leak.any()
    within = split_events(lab / "MASTER_LINKED_v4.csv", within_file=True).facts["counts"]
    assert within["train"]["bouts"] + within["val"]["bouts"] == 871
    folds = split_folds(lab / "MASTER_LINKED_v4.csv")
    assert [f.facts["counts"]["test_ood"]["tail"] for f in folds.values()] == [104, 13, 41, 6, 6, 55]


V4 = {  # every total that notebook 04 tells of the lab's split, and the words in which it does
    "checked by the lab": [("bout in two, within a file", "train · val", 0)],
    "Two bouts, of 11 events": [("bout in two, across files", "train · val", 2), ("near pair", "train · val", 2)],
    "All 152 videos": [("video in both", "train · val", 152), ("group in both", "train · val", 4), ("camera in both", "train · val", 4), ("group-day in both", "train · val", 8),
                       ("dyad in both", "train · val", 48), ("calf in both", "train · val", 17), *((f"{u} in both", "train · test_ood", 0) for u in ("video", "camera", "calf", "dyad", "group"))],
    "Eight events stand there twice": [("duplicate within", "train", 6), ("duplicate within", "val", 2), ("duplicate within", "test_ood", 0), ("duplicate in two", "train · val", 0)],
    "Ten pairs of an ear and a tail": [("other class at once", "train", 7), ("other class at once", "val", 3), ("other class at once", "test_ood", 0),
                                       ("other class in the same seconds", "train · val", 0)],
    "Tail is 12.7 %": [("class balance", "train", 175), ("class balance", "val", 38), ("class balance", "test_ood", 12)],
    "Few videos and animals": [("tail by video", "train", 19), ("tail by calf", "train", 4), ("tail by video", "val", 12), ("tail by calf", "val", 2),
                               ("tail by video", "test_ood", 4), ("tail by calf", "test_ood", 2)],
}
V4_SENTENCES = ["(11 events)", "they touch 2 events of val", "152 of the 152 videos", "48 of the 51 dyads", "17 of the 20 calves", "0 of the 41 videos", "0 of the 2 cameras", "0 of the 6 calves",
                "0 of the 9 dyads", "12.7%, 95 % interval 10.4% to 15.5% over 684 bouts", "10.5%, 95 % interval 7.2% to 15.2% over 176 bouts", "8.5%, 95 % interval 4.6% to 15.3% over 87 bouts",
                "19 of the 81 videos", "4 of the 16 calves that suck", "12 of the 31 videos", "2 of the 11 calves that suck a tail; the first alone has 29%", "4 of the 10 videos",
                "2 of the 4 calves that suck a tail; the first alone has 42%"]


@pytest.mark.lab
def test_what_the_audit_says_of_v4(lab):
    found = splits.audit_files(*(lab / f"{s}_v4.csv" for s in SIDES))
    assert {(r.check, r.sides): r.n for r in found[found.leak].itertuples()} == {("bout in two, across files", "train · val"): 2, ("near pair", "train · val"): 2}
    n = found.set_index(["check", "sides"]).n
    for told in V4.values():
        for check, sides, total in told:
            assert n[(check, sides)] == total, (check, sides)
    told = " | ".join(found.sentence)
    assert not [w for w in V4_SENTENCES if w not in told]


@pytest.mark.lab
def test_a_document_that_counts_the_labs_train_otherwise_is_named(lab):
    found = splits.audit_files(*(lab / f"{s}_v4.csv" for s in SIDES)).query("check == 'document'")
    assert found.sentence.tolist() == [
        "Contradiction: February report, sections 2.1, 3.3 and 10, states 1,207 ear and 167 tail events in train; "
        "the data give 1,199 and 175."]


def dated(path, folder):
    "A copy whose blank dates are taken from the names of the videos."
    t = pd.read_csv(path, dtype=str, keep_default_na=False)
    begun = t.video_filename.str.extract(r"_(\d{4})(\d{2})(\d{2})\d{6}_")
    t["date"] = t.date.where(t.date != "", begun[0] + "-" + begun[1] + "-" + begun[2])
    t.to_csv(folder / path.name, index=False)
    return folder / path.name


@pytest.mark.lab
def test_the_figures_of_januarys_plan(lab, tmp_path):
    train, val = (read_part(dated(lab / f"january/{s}_intravideo_20260105_162028.csv", tmp_path)) for s in ("train", "val"))
    found = audit_split(train, val, val.iloc[:0], scheme="intra_video").set_index("check")
    assert found.sentence["videos on both sides"] == "76 of the 87 videos of train and val together are on both sides"
    assert found.n["videos with tail on both sides"] == 23
    assert found.sentence["video in both"].startswith("76 of the 76 videos of val are in train too")


@pytest.mark.lab
def test_the_calves_that_only_validation_has_are_suspect_ids(lab):
    from crosssuck.manifest import suspect_ids
    train, val = (read_part(lab / f"{s}_v4.csv") for s in ("train", "val"))
    calves = [{(g, i) for r in ("initiator_id", "receiver_id") for g, i in zip(t.group, t[r], strict=True)} for t in (train, val)]
    suspects = set(suspect_ids(read_events(lab / "MASTER_LINKED_v4.csv"))["id"])
    assert len(calves[1] - calves[0]) == 3 and {i for _, i in calves[1] - calves[0]} <= suspects


@pytest.mark.lab
def test_the_pairs_that_leak_in_v4_lie_across_files(lab):
    leaks = find_leaks(*(read_part(lab / f"{s}_v4.csv") for s in SIDES))
    assert leaks.check.tolist() == ["near pair"] * 2 and not leaks.same_file.any() and (leaks.apart_s < 30).all()


def test_notebook_04_tells_the_totals_of_v4_in_prose_and_needs_no_file_of_the_labs(root):
    import nbformat
    cells = nbformat.read(root / "nbs" / "04_splits.ipynb", as_version=4).cells
    prose = next(c.source for c in cells if c.cell_type == "markdown" and "the lab's own v4 split" in c.source.splitlines()[0])
    assert not [w for w in V4 if w not in prose]
    numbers = set(re.findall(r"\d[\d,.]*\d|\d", prose.replace(",", "")))
    for words in V4_SENTENCES:
        assert set(re.findall(r"\d[\d.]*\d|\d", words.replace("95 % interval", ""))) <= numbers | {"0", "1"}, words
    assert not any("v4.csv" in c.source or "MASTER" in c.source for c in cells if c.cell_type == "code")


# ---- the verbs

def test_the_verbs_of_splits(events, tmp_path):
    few = events[(events.group != 2) | (events.behavior != "tail")]
    path = splits.write_csv(tmp_path / "linked.csv", few)
    said = call("split", path, "--scheme", "logo", "--out", tmp_path / "logo")
    assert said.count("note:") == 1 and "note: test_ood holds no tail event" in said and all(f"g{k}\n" in said for k in range(1, 7))
    assert "no leak" in call("audit-split", tmp_path / "logo")
    assert "logo leaves each group out in turn" in call("split", path, "--scheme", "logo", "--ood", "4,5", "--out", tmp_path / "x", code=1)
    call("split", path, "--scheme", "random", "--out", tmp_path / "random")
    said = call("audit-split", tmp_path / "random", "--out", tmp_path / "audit", code=1)
    leaks = pd.read_csv(tmp_path / "audit" / "leaks.csv")
    near_by = leaks[(leaks.check == "near pair") & (leaks.side_a.isin(["train", "val"])) & (leaks.side_b.isin(["train", "val"]))]
    assert f"LEAK  near pair (train · val): {len(near_by):,} pairs nearer than 30 s" in said and said.strip().splitlines()[-1].endswith("leaks")
    both = pd.concat([pd.read_csv(tmp_path / "random" / f"{s}.csv").assign(side=s) for s in SIDES]).set_index("event_idx").side
    assert (both[leaks.event_a].to_numpy() == leaks.side_a).all() and (both[leaks.event_b].to_numpy() == leaks.side_b).all()


@pytest.mark.lab
def test_the_verb_finds_the_leaks_of_v4(lab, tmp_path):
    said = call("audit-split", *(lab / f"{s}_v4.csv" for s in SIDES), "--out", tmp_path, code=1)
    assert [line for line in said.splitlines() if line.startswith("LEAK")] == [
        "LEAK  bout in two, across files (train · val): 2 bouts divided between train and val at the boundary of two files (11 events)",
        "LEAK  near pair (train · val): 2 pairs nearer than 30 s with one event in train and one in val; they touch 2 events of val"]
    carriers = pd.read_csv(tmp_path / "carriers.csv")
    assert carriers[carriers.by == "calf"].groupby("side").tail_events.sum().to_dict() == {"train": 175, "val": 38, "test_ood": 12}


# ---- criteria in force, and how often the test was scored

def test_a_split_records_the_criteria_in_force(events, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    rules, split = tmp_path / "configs/criteria_lab.yaml", split_events(events)
    none = write_split(split, tmp_path / "none")
    assert splits.read_json(none / "split.json")["criteria"] is None and splits.criteria_note(none) == ""
    rules.parent.mkdir()
    rules.write_text("useful_roc_auc: 0.60\n")
    assert splits.criteria_note(none) == ("The criteria changed after the split was made: there were none then, and criteria_lab.yaml is in force now.")
    out = write_split(split, tmp_path / "out")
    assert splits.read_json(out / "split.json")["criteria"] == {"name": "criteria_lab.yaml", "sha256": splits.sha256_file(rules)}
    assert splits.criteria_note(out) == splits.criteria_note("out") == ""
    for fold in write_split(split_folds(events), tmp_path / "logo").glob("*/split.json"):
        assert splits.criteria_note(fold.parent) == ""
    rules.write_text("useful_roc_auc: 0.55\n")
    assert re.fullmatch(r"The criteria changed after the split was made: criteria_lab\.yaml is not the file that was in force "
                        r"\(SHA-256 \w{12} then, \w{12} now\)\.", splits.criteria_note(out))
    assert "\n" not in splits.criteria_note(out) and str(tmp_path) not in splits.criteria_note(out)
    from crosssuck.metrics import read_criteria
    assert splits.hash_criteria() == read_criteria()[1], "one record under one set of keys"
    rules.unlink()
    gone = "The criteria changed after the split was made: criteria_lab.yaml is no longer there."
    assert splits.criteria_note(out) == gone
    facts = splits.read_json(out / "split.json")
    facts["criteria"]["file"] = facts["criteria"].pop("name")  # as version 0.1 wrote it
    splits.write_json(out / "split.json", facts)
    assert splits.criteria_note(out) == gone


def test_criteria_of_another_file_and_of_older_splits(events, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    own = tmp_path / "mine.yaml"
    own.write_text("useful_roc_auc: 0.70\n")
    out = splits.make_split(events, tmp_path / "out", criteria=own)
    assert splits.criteria_note(out, own) == ""
    with pytest.raises(UserError, match="nowhere.yaml: no such file; give the YAML file of the criteria"):
        splits.make_split(events, tmp_path / "other", criteria=tmp_path / "nowhere.yaml")
    assert not (tmp_path / "other").exists(), "nothing is half written"
    facts = splits.read_json(out / "split.json")
    del facts["criteria"]
    splits.write_json(out / "split.json", facts)
    assert splits.criteria_note(out, own) == "It is not known which criteria were in force when the split was made."
    assert splits.criteria_note(tmp_path / "nowhere") == ""


@pytest.fixture
def ledger(events, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path / "project"))
    return write_split(split_events(events), tmp_path / "split")


def scored(folder, value=0.25, side="test_ood") -> pd.DataFrame:
    return read_part(folder / f"{side}.csv")[["event_idx"]].assign(prob_tail=value)


def test_scorings_of_the_test_are_counted(ledger, tmp_path):
    assert splits.test_looks(ledger) == (0, 0, "The test events of this split have not been scored yet through this folder.")
    assert not splits.log_test_look(ledger, scored(ledger, side="val")), "validation is no look at the test"
    weights = [tmp_path / f"{k}.ckpt" for k in range(2)]
    for k, path in enumerate(weights):
        path.write_bytes(bytes([k]))
    assert splits.log_test_look(ledger, scored(ledger, 0.1), run="a/s0", checkpoint=weights[0])
    assert splits.test_looks(ledger)[2] == "The test events of this split have been scored once through this folder."
    splits.log_test_look(ledger, scored(ledger, 0.2), run="a/s0", checkpoint=weights[0])  # more views: other scores, the same weights
    splits.log_test_look(ledger, scored(ledger, 0.2).sample(frac=1, random_state=0), run="table.csv")  # the same scores, weights unknown
    assert splits.test_looks(ledger) == (3, 1, "The test events of this split have been scored 3 times through this folder, always by the same checkpoint or table.")
    splits.log_test_look(ledger, scored(ledger, 0.3), run="a/s1", checkpoint=weights[1])
    assert splits.test_looks(ledger) == (4, 2, "The test events of this split have been scored 4 times through this folder (2 distinct checkpoints or tables); each look makes the best of "
                                               "them more optimistic.")
    assert read_split(ledger).facts["scheme"] == "bout", "the split is still whole"
    write_split(split_events(read_events_of(ledger), split_seed=1, ood_groups=(1,)), ledger)
    assert splits.test_looks(ledger)[0] == 0, "other test events"


def test_a_second_folder_of_the_same_split_is_counted_apart_and_the_sentence_says_so(ledger, tmp_path):
    other = write_split(split_events(read_events_of(ledger)), tmp_path / "again")
    assert splits.sha256_file(other / "test_ood.csv") == splits.sha256_file(ledger / "test_ood.csv")
    splits.log_test_look(ledger, scored(ledger), run="a/s0")
    assert "scored once through this folder" in splits.test_looks(ledger)[2]
    assert splits.test_looks(other)[2] == "The test events of this split have not been scored yet through this folder."


def read_events_of(folder) -> pd.DataFrame:
    return pd.concat([read_part(folder / f"{s}.csv") for s in SIDES]).drop(columns="bout_id")


def _look(args):
    folder, k = args
    splits.log_test_look(folder, scored(folder, k / 100), run=f"array/s{k}")


def test_scorings_at_the_same_time_lose_no_line(ledger):
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_look, [(ledger, k) for k in range(48)]))
    assert splits.test_looks(ledger)[:2] == (48, 48)
    assert not list((ledger / splits.LOOKS).glob("*.part*"))


def test_a_ledger_holds_no_path_no_host_and_no_user(ledger, monkeypatch):
    monkeypatch.setenv("USER", "somebody")
    splits.log_test_look(ledger, scored(ledger), run="/home/somebody/runs/a/s0")
    line = next((ledger / splits.LOOKS).glob("*.json")).read_text()
    assert "somebody" not in line and "/home" not in line and str(ledger) not in line
    assert set(splits.read_json(next((ledger / splits.LOOKS).glob("*.json")))) == {"time", "run", "checkpoint", "predictions", "events", "test"}


def test_a_split_that_cannot_be_written_to_is_counted_in_the_project(ledger):
    (ledger / splits.LOOKS).write_text("in the way of the folder")
    splits.log_test_look(ledger, scored(ledger), run="a/s0")
    n, distinct, words = splits.test_looks(ledger)
    assert (n, distinct) == (1, 1) and words.endswith("only scorings from this project folder are counted.")


def test_a_ledger_that_cannot_be_written_is_a_warning_and_no_fault(ledger, tmp_path):
    (ledger / splits.LOOKS).write_text("in the way of the folder")
    (tmp_path / "project").write_text("in the way of the project's ledger")
    splits._warned.clear()
    with pytest.warns(UserWarning, match="was not recorded"):
        assert splits.log_test_look(ledger, scored(ledger), run="a/s0")
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits.log_test_look(ledger, scored(ledger), run="a/s0")  # once is enough
    splits.log_test_look(tmp_path / "nowhere", scored(ledger).assign(event_idx=-1))  # no split: no fault either
    assert splits.test_looks(tmp_path / "nowhere") == (0, 0, "")


def test_a_line_that_cannot_be_read_is_a_look_all_the_same(ledger):
    splits.log_test_look(ledger, scored(ledger), run="a/s0")
    (ledger / splits.LOOKS / "odd.json").write_text("{")
    assert splits.test_looks(ledger)[:2] == (2, 2)


def test_the_split_of_a_run_is_found(ledger, tmp_path):
    run = tmp_path / "runs/a/s0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(f"data: {{split_dir: {ledger}}}\n")
    assert splits.split_of(None, run / "test_predictions.csv") == splits.split_of(run) == splits.split_of(ledger / "val.csv") == ledger
    assert splits.split_of(None, tmp_path) is None


def test_a_scoring_is_recorded_from_any_working_folder(tmp_path, monkeypatch, recwarn):
    "A split that is named from the working folder is not looked for from the project's root."
    (tmp_path / "split").mkdir()
    (tmp_path / "split/split.json").write_text("{}")
    (tmp_path / "split/test_ood.csv").write_text("event_idx,behavior\n1,ear\n2,tail\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path / "elsewhere"))
    folder = splits.split_of("split/val.csv")
    table = pd.DataFrame({"event_idx": [1, 2], "prob_tail": [0.1, 0.9]})
    assert splits.log_test_look(folder, table) and not recwarn.list
    assert splits.test_looks(tmp_path / "split")[0] == 1
