"Bouts, schemes, folders and the audit: properties, planted leaks, and the lab's own tables."
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    near_pairs,
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

@settings(max_examples=40, deadline=None)
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
        assert back.facts == split.facts
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


def test_a_hundred_thousand_events_in_seconds():
    small = tiny_events(2000, seed=2)
    big = pd.concat([small.assign(group=small.group + 10 * k, event_idx=small.event_idx + 2000 * k) for k in range(50)], ignore_index=True)
    begin = time.perf_counter()
    split = split_events(big)
    found = audit_split(**split.sides, scheme="bout")
    assert len(big) == 100_000 and not found.leak.any()
    assert time.perf_counter() - begin < 20


# ---- the lab's own files

@pytest.mark.lab
def test_the_labs_bouts(lab):
    master = read_events(lab / "MASTER_LINKED_v4.csv")
    inside = master[master.group.isin([1, 2, 3, 6]) & master.behavior.isin(["ear", "tail"])]
    assert assign_bouts(inside).nunique() == 858
    assert assign_bouts(inside, within_file=True).nunique() == 871


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


@pytest.mark.lab
def test_what_the_audit_says_of_v4(lab):
    found = splits.audit_files(*(lab / f"{s}_v4.csv" for s in SIDES)).set_index(["check", "sides"])
    leaks = found[found.leak]
    assert dict(leaks.n) == {("bout in two, across files", "train · val"): 2, ("near pair", "train · val"): 2}
    assert "(11 events)" in leaks.sentence.iloc[0] and "touch 2 events of val" in leaks.sentence.iloc[1]
    n = found.n.xs("train · val", level="sides")
    assert (n["bout in two, within a file"], n["video in both"], n["group-day in both"], n["dyad in both"]) == (0, 152, 8, 48)
    assert found.share[("video in both", "train · val")] == 1
    assert [found.n[("duplicate within", s)] for s in SIDES] == [6, 2, 0]
    assert [found.n[("other class at once", s)] for s in SIDES] == [7, 3, 0]
    assert [found.n[("class balance", s)] for s in SIDES] == [175, 38, 12]
    assert "10.4% to 15.5% over 684 bouts" in found.sentence[("class balance", "train")]
    assert "from 2 of the 11 calves" in found.sentence[("tail by calf", "val")] and "29%" in found.sentence[("tail by calf", "val")]
    assert found.n.xs("train · test_ood", level="sides")[["group in both", "camera in both", "video in both", "calf in both", "dyad in both"]].sum() == 0
