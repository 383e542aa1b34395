"Files to events: what a name says, what a file holds, which camera is taken; and the lab's own links."
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from crosssuck import cameras as c
from crosssuck.core import UserError, write_csv, write_text
from crosssuck.manifest import read_events, read_workbook
from crosssuck.simulation import tiny_drive


@pytest.fixture(scope="module")
def drive():
    return tiny_drive()


@pytest.fixture(scope="module")
def inventory(drive):
    return c.scan(drive / "videos")


@pytest.fixture(scope="module")
def events(drive):
    return read_workbook(drive / "workbook.xlsx").events


@pytest.fixture(scope="module")
def cams(drive):
    return c.read_cameras(drive / "cameras.yaml")


def events_at(*times, group=1, day=1, date="1/1/2024", duration=2):
    t = pd.DataFrame({"event_idx": range(len(times)), "group": group, "day": day, "date": date, "start_s": [float(s) for s in times]})
    text = [f"{int(s) // 3600}:{int(s) // 60 % 60:02d}:{int(s) % 60:02d}" for s in times]
    return t.assign(start_time=text, end_time=text, duration_sec=duration, behavior="ear", end_s=t.start_s + duration + 1)


# --- names ------------------------------------------------------------------------------------------------------------

STEM = "REC1_ch8_main_20240706060002_20240706063002.mp4"


@pytest.mark.parametrize("path, group, day, camera", [
    (f"Group 1 Day 4/Cam 8/{STEM}", 1, 4, 8), (rf"Q:\barn videos\Group 12 Day 1\Cam 8\{STEM}", 12, 1, 8), (f"Group 1 Day 4/{STEM}", 1, 4, 8), (f"/scratch/a/Group 1 Day 4/x/y/{STEM}", 1, 4, 8),
    (f"later/Group 1 Week 2/Cam 8/{STEM}", None, None, 8), (STEM, None, None, 8)])
def test_names_in_either_world(path, group, day, camera):
    got = c.parse_names([path]).iloc[0]
    assert [None if pd.isna(x) else int(x) for x in (got.group, got.day, got.camera_id)] == [group, day, camera]
    assert (got.recorder, got.start, got.end) == ("REC1", "2024-07-06T06:00:02", "2024-07-06T06:30:02")


@pytest.mark.parametrize("name", ["holiday.mp4", "REC1_ch8_main_20241306060002_20240706063002.mp4", "REC1_ch8_main_20240706063002_20240706060002.mp4", "REC1_chX_main_20240706060002_20240706063002.mp4"])
def test_a_name_that_says_nothing_or_nonsense_gives_nothing(name):
    got = c.parse_names([f"Group 1 Day 1/{name}"]).iloc[0]
    assert pd.isna(got.camera_id) and got.start == got.end == ""


def test_no_names_give_an_empty_table_of_the_same_types():
    assert c.parse_names([]).dtypes.to_dict() == c.parse_names([STEM]).dtypes.to_dict()


# --- scan -------------------------------------------------------------------------------------------------------------

def test_scan_tells_what_a_file_holds(drive, inventory):
    assert len(inventory) == 4 and inventory.valid.all() and not inventory.path.str.contains(r"\._").any()
    assert inventory.attrs == {"opened": 4, "unreadable": 0, "unnamed": 0, "residue": 4}
    assert (inventory.fps != inventory.fps.round()).all()               # 15 fps is not 15
    assert np.allclose(inventory.nframes / inventory.fps, inventory.duration_s, atol=0.2)
    assert inventory["size"].tolist() == [os.path.getsize(p) for p in inventory.path]


def test_a_second_scan_opens_only_what_is_new_or_changed(drive, tmp_path, monkeypatch):
    shutil.copytree(drive / "videos", tmp_path / "videos")
    first = c.scan(tmp_path / "videos")
    write_csv(tmp_path / "inventory.csv", first)
    opened = []
    real = c.probe
    monkeypatch.setattr(c, "probe", lambda p: opened.append(p.name) or real(p))
    known = c.read_inventory(tmp_path / "inventory.csv")
    again = c.scan(tmp_path / "videos", known=known)
    assert opened == []
    pd.testing.assert_frame_equal(again, first)
    changed = sorted((tmp_path / "videos").rglob("SIM*.mp4"))[1]
    changed.write_bytes(changed.read_bytes()[:2000])
    third = c.scan(tmp_path / "videos", known=known)
    assert opened == [changed.name] and third.attrs["unreadable"] == 1 and third.valid.sum() == 3
    c.scan(tmp_path / "videos", known=third)
    assert opened == [changed.name] * 2                                  # a broken file is tried again


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        c.scan(tmp_path / "nowhere")
    (tmp_path / "._a.mp4").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no video in this folder \(1 files beginning with ._") as e:
        c.scan(tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("pattern, words", [("(", "no regular expression"), (r"(?P<start>\d+)", "has no part 'group'")])
def test_a_broken_pattern_is_refused(drive, pattern, words):
    with pytest.raises(UserError, match=words):
        c.scan(drive / "videos", pattern)


def test_the_labs_five_columns_are_an_inventory(inventory, tmp_path, events, cams):
    path = write_csv(tmp_path / "five.csv", inventory[["path", "nframes", "fps", "size", "valid"]])
    short = c.read_inventory(path)
    assert short[["group", "day", "camera_id", "start", "end"]].equals(inventory[["group", "day", "camera_id", "start", "end"]])
    for table in (short, pd.read_csv(path), pd.read_csv(path, dtype=str)):
        linked = c.link(events, table.astype({"nframes": "float64", "fps": "float64"}), cams)[0]
        assert linked.video_path.tolist() == c.link(events, inventory, cams)[0].video_path.tolist()
    with pytest.raises(UserError, match="no column 'valid'"):
        c.read_inventory(write_csv(tmp_path / "four.csv", inventory[["path", "nframes", "fps", "size"]]))


# --- cameras.yaml -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, words", [
    ("groups: {1: {cameras: []}}", "group 1 has no camera"), ("groups: {1: {cameras: [8, 8]}}", "names camera 8 twice"), ("groups: {1: {cameras: [8], never: [8]}}", "names camera 8 twice"),
    ("groups: {1: {camera: [8]}}", "unknown key 'groups.1.camera'"), ("groups: {one: {cameras: [8]}}", "groups.one"), ("groups: {1: {cameras: [left]}}", "'left'"), ("pattern: x", "no value for 'groups'"),
    ("groups: {1: {cameras: [8]}}\npattern: '('", "no regular expression"), ("groups: {1: {cameras: [8]}}\nclock_offset_s: {9: 1}", "names '9', which no group uses"), ("group: 1", "unknown key 'group'")])
def test_a_broken_cameras_file_is_named(tmp_path, text, words):
    with pytest.raises(UserError, match=re.escape(words)) as e:
        c.read_cameras(write_text(tmp_path / "cameras.yaml", text))
    assert "cameras.yaml" in str(e.value) and "\n" not in str(e.value)


def test_a_clock_of_group_and_camera_goes_before_one_of_the_camera(tmp_path):
    got = c.read_cameras(write_text(tmp_path / "c.yaml", "groups: {1: {cameras: [8]}, 2: {cameras: [8, 9]}}\nclock_offset_s: {8: 3, 2/8: -1.5}"))
    assert [got.offset_s(1, 8), got.offset_s(2, 8), got.offset_s(2, 9)] == [3.0, -1.5, 0.0]


def test_the_shipped_file_is_the_table_of_the_lab(root):
    got = c.read_cameras(root / "configs" / "cameras_lab.yaml")
    assert {g: (x.cameras[0], x.never) for g, x in got.groups.items()} == {1: (8, (10,)), 2: (16, (10,)), 3: (12, (8,)), 4: (3, (8,)), 5: (1, (8,)), 6: (12, (8,))}
    assert got.pattern == c.PATTERN and got.clock_offset_s == {} and got.evidence


# --- linking ----------------------------------------------------------------------------------------------------------

def brute(start, end, key, of_key, at):
    hits = [i for i in range(len(start)) if key[i] == of_key and start[i] <= at < end[i]]
    return max(hits, key=lambda i: (start[i], i)) if hits else -1


def test_the_search_agrees_with_trying_every_segment():
    rng = np.random.default_rng(0)
    for _ in range(60):
        t = pd.DataFrame({"key": rng.integers(0, 3, 25), "start": rng.integers(0, 100, 25)})
        t["end"] = t.start + rng.integers(1, 30, 25)
        t = t.sort_values(["key", "start", "end"], ignore_index=True)
        key, start, end = (t[x].to_numpy() for x in t)
        of, at = rng.integers(-1, 4, 80), rng.integers(-5, 140, 80)
        got = c.find_cover(key, start, end, of, at)
        want = [brute(start, end, key, k, a) for k, a in zip(of, at, strict=True)]
        same = (got == want) | ((got >= 0) & (np.take(start, got) == np.take(start, want)))
        assert same.all()


@pytest.mark.parametrize("at, expected", [(0, 0), (59.999, 0), (60, 1), (119, 1), (120, None)])
def test_segments_are_half_open(at, expected):
    inv = c.invent_segments(2)
    linked, unlinked = c.link(events_at(at), inv, c.Cameras(groups={1: {"cameras": [8]}}))
    assert linked.video_path.tolist() == ([] if expected is None else [inv.path[expected]]) and len(linked) + len(unlinked) == 1
    if expected is not None:
        assert linked.event_offset_sec.item() == pytest.approx(at - 60 * expected)


def test_cameras_are_tried_in_order_and_never_is_never():
    inv = pd.concat([c.invent_segments(1, camera=9), c.invent_segments(2, camera=8), c.invent_segments(5, camera=10)], ignore_index=True)
    linked, unlinked = c.link(events_at(30, 90, 200), inv, c.Cameras(groups={1: {"cameras": [9, 8], "never": [10]}}))
    assert linked.camera_id.tolist() == [9, 8] and linked.camera_rank.tolist() == [0, 1]
    assert unlinked.reason.tolist() == ["no file of the group's cameras covers this time"]


def test_a_file_that_cannot_be_read_or_is_too_short_is_passed_over():
    inv = pd.concat([c.invent_segments(2, camera=8), c.invent_segments(1, camera=9)], ignore_index=True)
    inv.loc[0, "nframes"] = 20 * 15      # the name says 60 s, the file holds 20
    inv.loc[1, ["valid", "nframes", "fps"]] = [False, -1, -1.0]
    linked, unlinked = c.link(events_at(10, 21.5, 40, 70), inv, c.Cameras(groups={1: {"cameras": [8]}}))
    assert linked.start_s.tolist() == [10, 21.5] and (linked.doubt_s == 40).all() and (linked.next_video_path == "").all()
    assert unlinked.reason.tolist() == ["the file that covers it ends before the event", "the file that covers it cannot be read"]
    linked, _ = c.link(events_at(10, 40), inv, c.Cameras(groups={1: {"cameras": [8, 9]}}))
    assert linked.camera_id.tolist() == [8, 9]


def test_every_unlinked_event_has_its_reason():
    inv = pd.concat([c.invent_segments(1, camera=8), c.invent_segments(1, group=2, camera=3)], ignore_index=True)
    ev = pd.concat([events_at(10, group=7), events_at(10, day=4), events_at(10, group=2), events_at(10, date="1/2/2024")], ignore_index=True)
    linked, unlinked = c.link(ev, inv, c.Cameras(groups={1: {"cameras": [8]}, 2: {"cameras": [5, 6]}}))
    assert linked.empty and list(unlinked.columns[-2:]) == ["linked", "reason"] and not unlinked.linked.any()
    assert unlinked.reason.tolist() == ["group 7 is not in cameras.yaml", "the inventory has no file of group 1, day 4",
                                        "the inventory has no file of the group's cameras 5, 6 on that day", "no file of the group's cameras covers this time"]
    assert list(linked.columns[-len(c.LINKS):]) == list(c.LINKS) and str(linked.camera_id.dtype) == "int64"


def test_the_clock_moves_the_place_and_may_change_the_file():
    inv = c.invent_segments(3)
    plain, ahead = (c.link(events_at(10, 55), inv, c.Cameras(groups={1: {"cameras": [8]}}, clock_offset_s=o))[0] for o in ({}, {"1/8": 7.5}))
    assert plain.event_offset_sec.tolist() == [10, 55] and ahead.event_offset_sec.tolist() == [17.5, 2.5]
    assert ahead.video_path.tolist() == [inv.path[0], inv.path[1]] and ahead.start_s.tolist() == plain.start_s.tolist()


def test_the_next_segment_must_follow_at_once():
    inv = pd.concat([c.invent_segments(2), c.invent_segments(5).iloc[4:]], ignore_index=True)   # 0-60, 60-120, 240-300
    linked, _ = c.link(events_at(10, 70, 250), inv, c.Cameras(groups={1: {"cameras": [8]}}))
    assert linked.next_video_path.tolist() == [inv.path[1], "", ""]


def test_the_same_name_under_two_roots_links_the_same(inventory, events, cams):
    there = inventory.assign(path=[r"Q:\barn" + "\\" + "\\".join(p.split("/")[-3:]) for p in inventory.path])
    a, b = c.link(events, inventory, cams)[0], c.link(events, there, cams)[0]
    assert a.video_filename.tolist() == b.video_filename.tolist() and a.event_offset_sec.tolist() == b.event_offset_sec.tolist()


def test_linking_again_replaces_the_old_links(inventory, events, cams, tmp_path):
    linked, unlinked = c.link(events, inventory, cams)
    path = c.write_links(linked, unlinked, tmp_path / "out" / "linked.csv")
    assert sorted(p.name for p in path.parent.iterdir()) == ["linked.csv", "linked_unlinked.csv"]
    again, _ = c.link(read_events(path), inventory, cams)
    pd.testing.assert_frame_equal(again, linked)


def test_nights_and_leap_days_by_the_local_clock():
    inv = c.invent_segments(60 * 24 * 2)
    for date, s, minute in (("1/1/2024", 0, 0), ("1/1/2024", 86399, 1439), ("1/2/2024", 0, 1440)):
        assert c.link(events_at(s, date=date), inv, c.Cameras(groups={1: {"cameras": [8]}}))[0].video_path.item() == inv.path[minute]


# --- sheets -----------------------------------------------------------------------------------------------------------

def test_a_sheet_shows_every_camera_and_marks_the_chosen(inventory, events, cams, tmp_path):
    linked, _ = c.link(events, inventory, cams)
    paths = c.verify_cameras(linked, inventory, tmp_path / "sheets", n=3, cameras=cams)
    assert len(paths) == 3 and all(p.read_bytes()[:4] == b"\x89PNG" for p in paths)
    assert sorted(p.name for p in (tmp_path / "sheets").iterdir()) == sorted(p.name for p in paths)
    figure, seen = c.camera_sheet(linked.iloc[0], c.segment_table(inventory), short_side_px=90)
    titles = [a.get_title() for a in figure.axes]
    assert seen == 2 and titles[0].startswith("camera 8, chosen") and titles[1].startswith("camera 9, ")
    framed = [a.spines["top"].get_visible() for a in figure.axes]
    assert framed == [True, False]


def test_a_sheet_uses_roots_and_says_what_is_missing(inventory, events, cams, tmp_path, drive):
    there = inventory.assign(path=["Q:\\barn\\" + "\\".join(p.split("/")[-3:]) for p in inventory.path])
    linked, _ = c.link(events, there, cams)
    with pytest.raises(UserError, match="root map"):
        c.verify_cameras(linked, there, tmp_path / "a", n=2)
    assert not (tmp_path / "a").exists()
    assert len(c.verify_cameras(linked, there, tmp_path / "b", n=2, roots={r"q:\BARN": str(drive / "videos")})) == 2
    alone = there[there.camera_id == 8]
    figure, seen = c.camera_sheet(linked.iloc[0], c.segment_table(there.assign(path=there.path.where(there.camera_id == 8, "Q:\\gone.mp4"))),
                                  roots={"Q:\\barn": str(drive / "videos")}, short_side_px=90)
    assert seen == 1 and "no such file" in figure.axes[1].get_title() and len(alone) == 2


def test_events_are_drawn_over_groups_and_days():
    t = pd.DataFrame({"event_idx": range(100), "group": [1] * 90 + [2] * 5 + [3] * 5, "day": 1})
    assert sorted(c.choose_events(t, 3).group) == [1, 2, 3] and c.choose_events(t, 6, seed=1).event_idx.tolist() == c.choose_events(t, 6, seed=1).event_idx.tolist()
    assert c.choose_events(t, 6, seed=1).event_idx.tolist() != c.choose_events(t, 6, seed=2).event_idx.tolist()


def test_no_linked_event_no_sheet(inventory, events, cams, tmp_path):
    linked, _ = c.link(events, inventory, cams)
    with pytest.raises(UserError, match="no linked event"):
        c.verify_cameras(linked.iloc[:0], inventory, tmp_path / "x")


# --- the lab's own inventory and links --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def lab_cams(root):
    return c.read_cameras(root / "configs" / "cameras_lab.yaml")


@pytest.mark.lab
def test_lab_links_equal_the_master_table_where_the_inventory_reaches(lab, lab_cams):
    master, inv = read_events(lab / "MASTER_LINKED_v4.csv"), c.read_inventory(lab / "video_inventory.csv")
    linked, unlinked = c.link(read_workbook(lab / "final_manifest.xlsx").events, inv, lab_cams)
    both = linked.merge(master, on="event_idx", suffixes=("", "_lab"))
    assert len(linked) == len(both) == 910 and len(unlinked) == 987
    for column in ("camera_id", "video_filename", "video_path", "event_offset_sec"):
        assert (both[column] == both[f"{column}_lab"]).all(), column
    assert sorted(set(zip(linked.group, linked.day, strict=True))) == [(1, 1), (1, 4), (2, 4), (3, 4)] and (linked.camera_rank == 0).all()
    assert linked.doubt_s.max() <= 1.2 and linked[linked.event_idx.isin([388, 888])].event_offset_sec.tolist() == [0, 0]
    assert unlinked.reason.str.startswith("the inventory has no file of group").all()


@pytest.mark.lab
def test_lab_all_events_link_by_the_names_of_the_208_segments(lab, lab_cams):
    master = read_events(lab / "MASTER_LINKED_v4.csv")
    names = pd.DataFrame({"path": master.video_path.unique(), "nframes": -1, "fps": -1.0, "size": 1, "valid": True, "duration_s": np.nan})
    linked, unlinked = c.link(master, names, lab_cams)
    assert (len(linked), len(unlinked), linked.video_filename.nunique()) == (1897, 0, 208)
    for column in ("camera_id", "video_filename", "video_path", "event_offset_sec"):
        assert (linked[column] == master[column]).all(), column
    assert dict(linked.groupby("group").camera_id.first()) == {1: 8, 2: 16, 3: 12, 4: 3, 5: 1, 6: 12}
    when = c.parse_names(linked.video_path)
    length = (pd.to_datetime(when.end) - pd.to_datetime(when.start)).dt.total_seconds()
    past = linked.event_offset_sec + linked.end_s - linked.start_s - length
    assert (past > 1).sum() == 8 and past.max() == 58


@pytest.mark.lab
def test_lab_inventory_is_read_whole(lab):
    inv = c.read_inventory(lab / "video_inventory.csv")
    mac = inv.path.str.contains(r"\._", regex=True)
    assert (len(inv), int(inv.valid.sum()), int(mac.sum())) == (2203, 1760, 441) and not inv.valid[mac].any() and (inv["size"][mac] == 4096).all()
    good = inv[inv.valid]
    assert abs(good.fps.median() - 14.99) < 0.01 and (good.start != "").all() and good.group.isna().sum() == 981
    short = (pd.to_datetime(good.end) - pd.to_datetime(good.start)).dt.total_seconds() - good.duration_s
    assert 46 < short.max() < 48
    seg = c.segment_table(inv)
    assert len(seg) == 779 + (~inv.valid & ~mac & inv.group.notna()).sum() and (seg.next >= 0).mean() > 0.9
