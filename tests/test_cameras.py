"Files to events: what a name says, what a file holds, which camera is taken; and the lab's own links."
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from crosssuck import cameras as c
from crosssuck.core import UserError, write_csv, write_text
from crosssuck.manifest import read_events, read_workbook
from crosssuck.video import VideoInfo


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
    assert inventory.attrs == {"opened": 4, "unreadable": 0, "unnamed": 0, "residue": 4, "why_unreadable": []}
    assert (inventory.fps != inventory.fps.round()).all()               # 15 fps is not 15
    assert np.allclose(inventory.nframes / inventory.fps, inventory.duration_s, atol=0.2)
    assert inventory["size"].tolist() == [os.path.getsize(p) for p in inventory.path]


def test_scan_names_the_first_five_that_cannot_be_read_and_why(drive, tmp_path):
    videos = shutil.copytree(drive / "videos", tmp_path / "videos")
    good = sorted(videos.rglob("SIM*.mp4"))
    good[1].write_bytes(good[1].read_bytes()[:2000])
    good[2].write_bytes(b"")
    rel = [p.relative_to(videos).as_posix() for p in good]
    table = c.update_inventory(videos, tmp_path / "inventory.csv")
    one, two = table.attrs["why_unreadable"]
    assert one.startswith(f"{rel[1]}: cannot be read as video (") and two == f"{rel[2]}: the file is empty"
    assert c.update_inventory(videos, tmp_path / "inventory.csv").attrs["why_unreadable"] == table.attrs["why_unreadable"]
    for k in range(6):
        (videos / f"a{k}.mp4").write_bytes(b"none")
    said = c.scan(videos).attrs["why_unreadable"]
    assert len(said) == 6 and said[-1] == "and 3 more, where `valid` is False" and len({s.split(":")[0] for s in said}) == 6


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


@pytest.mark.parametrize("pattern, words", [("(", "no regular expression"), (r"(?P<start>\d+)", "has no part 'camera'"), (r"(?P<camera>\d+)", "has no part 'start'")])
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


def drive_of(root, n, first=0):
    "Names of a drive, with files of a few bytes."
    for k, path in enumerate(c.invent_segments(n).path):
        if k >= first:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"x" * (100 + k % 7))


def test_a_second_scan_of_2200_files_touches_only_the_new_ones(tmp_path, monkeypatch):
    drive_of(tmp_path / "drive", 2200)
    opened = []

    def counted(path):
        opened.append(path)
        return VideoInfo(str(path), 3840, 2160, 14.99, 60.0, 0.0, 899, "h264")
    monkeypatch.setattr(c, "probe", counted)
    first = c.update_inventory(tmp_path / "drive", tmp_path / "inventory.csv")
    assert len(opened) == len(first) == 2200
    again = c.update_inventory(tmp_path / "drive", tmp_path / "inventory.csv")
    assert len(opened) == 2200 and again.attrs["opened"] == 0
    pd.testing.assert_frame_equal(again, first)
    drive_of(tmp_path / "drive", 2205, first=2200)
    later = c.update_inventory(tmp_path / "drive", tmp_path / "inventory.csv")
    assert [p.name for p in opened[2200:]] == [p.rsplit("/", 1)[1] for p in c.invent_segments(2205).path[2200:]] and len(later) == 2205
    os.utime(opened[7], (10**9, 10**9))                                 # changed in place, of the same size
    c.update_inventory(tmp_path / "drive", tmp_path / "inventory.csv")
    assert opened[2205:] == [opened[7]]
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["inventory.csv"]


def test_a_scan_that_was_broken_off_goes_on_and_the_old_inventory_stands_until_then(tmp_path, monkeypatch):
    drive_of(tmp_path / "drive", 40)
    info = VideoInfo("", 3840, 2160, 14.99, 60.0, 0.0, 899, "h264")
    opened = []

    def breaks(path):
        opened.append(path)
        if len(opened) == 25:
            raise KeyboardInterrupt
        return info
    write_text(tmp_path / "inventory.csv", (before := "path,nframes,fps,size,valid\n"))
    monkeypatch.setattr(c, "probe", breaks)
    with pytest.raises(KeyboardInterrupt):
        c.update_inventory(tmp_path / "drive", tmp_path / "inventory.csv", workers=1)
    assert (tmp_path / "inventory.csv").read_text() == before
    journal = tmp_path / ".inventory.csv.journal"
    journal.write_text(journal.read_text() + '["cut off whi')
    table = c.update_inventory(tmp_path / "drive", tmp_path / "inventory.csv", workers=1)
    assert table.attrs["opened"] == 40 - 24 and len(table) == 40 and table.valid.all() and not journal.exists()


OTHER = dict(pattern=r"(?P<group>[^/]+)/(?P<date>\d{4}-\d\d-\d\d)/(?P<camera>[a-z]+) (?P<start>\d\d-\d\d-\d\d)\.mp4$", time_format="%Y-%m-%d%H-%M-%S",
             numbers={"group": {"left pen": 1, "right pen": 2}, "camera": {"door": 1, "feeder": 2}})


def test_another_barns_drive_is_scanned_and_linked_by_its_yaml_alone(tmp_path, drive):
    source = sorted((drive / "videos").rglob("SIM*.mp4"))[0]
    for name in ("left pen/2024-07-06/door 06-00-00", "left pen/2024-07-06/door 06-00-46", "right pen/2024-07-06/feeder 06-00-00"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "videos" / f"{name}.mp4")
    (tmp_path / "videos" / "left pen" / "readme.mp4").write_bytes(b"x")
    yml = write_text(tmp_path / "cameras.yaml", yaml.safe_dump({**OTHER, "groups": {1: {"cameras": [2, 1]}, 2: {"cameras": [2]}}}))
    cams = c.read_cameras(yml)
    inv = c.update_inventory(tmp_path / "videos", tmp_path / "inventory.csv", cams)
    named = inv[inv.valid]
    assert inv.attrs["unnamed"] == 1 and named.group.tolist() == [1, 1, 2] and named.camera_id.tolist() == [1, 1, 2] and named.day.isna().all()
    length = (pd.to_datetime(named.end) - pd.to_datetime(named.start)).dt.total_seconds()
    assert (length >= named.duration_s).all() and (length < named.duration_s + 1).all()         # a name without an end: as long as the file
    ev = pd.concat([events_at(21600 + 5, 21600 + 44, 21600 + 50, date="7/6/2024"), events_at(21600 + 5, group=2, day=3, date="7/6/2024").assign(event_idx=9)], ignore_index=True)
    linked, unlinked = c.link(ev, c.read_inventory(tmp_path / "inventory.csv", cams), cams)
    assert unlinked.empty and linked.camera_id.tolist() == [1, 1, 1, 2] and linked.event_offset_sec.tolist() == [5, 44, 4, 5]
    assert linked.camera_note.tolist() == ["camera 2: no file of this group and day"] * 3 + [""]
    assert linked.past_end_s.gt(0).tolist() == [False, True, False, False] and linked.next_video_path.ne("").tolist() == [True, True, False, False]
    assert len(c.verify_cameras(linked, inv, tmp_path / "sheets", n=2, cameras=cams)) == 2


def test_names_without_groups_leave_them_to_the_cameras(tmp_path):
    flat = c.Cameras(pattern=r"cam(?P<camera>\d+)_(?P<start>\d{8}T\d{6})\.mp4$", time_format="%Y%m%dT%H%M%S", groups={1: {"cameras": [3]}, 2: {"cameras": [4, 3]}})
    inv = pd.DataFrame({"path": ["cam3_20240101T000000.mp4", "cam4_20240101T000000.mp4", "cam5_20240101T000000.mp4"], "nframes": 900, "fps": 15.0, "size": 1, "valid": True})
    ev = pd.concat([events_at(5), events_at(5, group=2, day=4).assign(event_idx=1), events_at(5, group=3).assign(event_idx=2)], ignore_index=True)
    linked, unlinked = c.link(ev, inv, flat)
    assert linked.video_path.tolist() == inv.path.tolist()[:2] and unlinked.reason.tolist() == ["group 3 is not in cameras.yaml"]
    seen = c.same_moment(linked.iloc[1], c.segment_table(inv, flat), flat)
    assert seen.camera_id.tolist() == [4, 3] and seen.chosen.tolist() == [True, False]         # camera 5 belongs to another pen


def test_a_word_without_a_number_is_named():
    with pytest.raises(UserError, match=r"roof 06-00-00.mp4: camera 'roof' is no number; give it one in cameras.yaml, e.g. numbers: \{camera: \{roof: 1\}\}"):
        c.parse_names(["left pen/2025-03-01/roof 06-00-00.mp4"], c.Naming(**OTHER))


# --- cameras.yaml -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, words", [
    ("groups: {1: {cameras: []}}", "group 1 has no camera"), ("groups: {1: {cameras: [8, 8]}}", "names camera 8 twice"), ("groups: {1: {cameras: [8], never: [8]}}", "names camera 8 twice"),
    ("groups: {1: {camera: [8]}}", "unknown key 'groups.1.camera'"), ("groups: {one: {cameras: [8]}}", "groups.one"), ("groups: {1: {cameras: [left]}}", "'left'"), ("pattern: x", "no value for 'groups'"),
    ("groups: {1: {cameras: [8]}}\npattern: '('", "no regular expression"), ("groups: {1: {cameras: [8]}}\nclock_offset_s: {9: 1}", "names '9', which no group uses"), ("group: 1", "unknown key 'group'"),
    ("groups: {1: {cameras: [8]}}\nclock_offset_s: {8: .nan}", "clock_offset_s.8 is nan: input should be a finite number"), ("groups: {1: {cameras: [8]}}\nclock_offset_s: {1/8: .inf}", "is inf"),
    ("groups: {1: {cameras: [8]}}\nevidence: []\ngroups: {2: {cameras: [9]}}", "line 3: not valid YAML (the key 'groups' stands there twice"),
    ("groups: {1: {cameras: [8]}, 1: {cameras: [9]}}", "the key '1' stands there twice"),
    ("groups: {1: {cameras: [8]}}\ntime_format: '%H:%M'", "does not hold day and time"), ("groups: {1: {cameras: [8]}}\nnumbers: {pen: {a: 1}}", "pen"),
    ("groups: {1: {cameras: [8]}}\nevidence: [{date: 2026-01-01, event_idx: 1, group: 1, kamera: 8, before: 8}]", "kamera")])
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

def test_a_file_that_spans_all_others_costs_nothing():
    n = 20_000
    start = np.r_[0, np.arange(n) * 10]
    end = np.r_[10 * n + 5, np.arange(n) * 10 + 1]
    at = np.arange(n) * 10 + 5                                            # always in a gap of the short ones
    assert (c.find_cover(np.zeros(n + 1, "int64"), start, end, np.zeros(n, "int64"), at) == 0).all()


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
    assert unlinked.reason.tolist() == ["cameras 9, 8: no file covers this time"]
    assert linked.camera_note.tolist() == ["", "camera 9: no file covers this time"]      # a camera that was passed over is said


def test_a_file_that_cannot_be_read_or_is_too_short_is_passed_over():
    inv = pd.concat([c.invent_segments(2, camera=8), c.invent_segments(1, camera=9)], ignore_index=True)
    inv.loc[0, "nframes"] = 20 * 15      # the name says 60 s, the file holds 20
    inv.loc[1, ["valid", "nframes", "fps"]] = [False, -1, -1.0]
    linked, unlinked = c.link(events_at(10, 21.5, 40, 70), inv, c.Cameras(groups={1: {"cameras": [8]}}))
    assert linked.start_s.tolist() == [10, 21.5] and (linked.doubt_s == 40).all() and (linked.next_video_path == "").all()
    assert unlinked.reason.tolist() == ["camera 8: its file ends before the event", "camera 8: its file cannot be read"]
    linked, unlinked = c.link(events_at(10, 40, 70), inv, c.Cameras(groups={1: {"cameras": [8, 7, 9]}}))
    assert linked.camera_id.tolist() == [8, 9] and linked.camera_rank.tolist() == [0, 2]
    assert linked.camera_note.tolist() == ["", "camera 8: its file ends before the event; camera 7: no file of this group and day"]
    assert unlinked.reason.tolist() == ["camera 8: its file cannot be read; camera 7: no file of this group and day; camera 9: no file covers this time"]
    said = " ".join(c.link_sentences(linked, unlinked))
    assert "2 of 3 events linked" in said and "1 event shown by a later camera of the list; camera 8: its file ends before the event; camera 7" in said


def test_every_unlinked_event_has_its_reason():
    inv = pd.concat([c.invent_segments(1, camera=8), c.invent_segments(1, group=2, camera=3)], ignore_index=True)
    ev = pd.concat([events_at(10, group=7), events_at(10, day=4), events_at(10, group=2), events_at(10, date="1/2/2024")], ignore_index=True)
    linked, unlinked = c.link(ev, inv, c.Cameras(groups={1: {"cameras": [8]}, 2: {"cameras": [5, 6]}}))
    assert linked.empty and list(unlinked.columns[-2:]) == ["linked", "reason"] and not unlinked.linked.any()
    assert unlinked.reason.tolist() == ["group 7 is not in cameras.yaml", "the inventory has no file of group 1, day 4",
                                        "cameras 5, 6: no file of this group and day", "camera 8: no file covers this time"]
    assert list(linked.columns[-len(c.LINKS):]) == list(c.LINKS) and str(linked.camera_id.dtype) == "int64"


def test_the_clock_moves_the_place_and_may_change_the_file():
    inv = c.invent_segments(3)
    plain, ahead = (c.link(events_at(10, 55), inv, c.Cameras(groups={1: {"cameras": [8]}}, clock_offset_s=o))[0] for o in ({}, {"1/8": 7.5}))
    assert plain.event_offset_sec.tolist() == [10, 55] and ahead.event_offset_sec.tolist() == [17.5, 2.5]
    assert ahead.video_path.tolist() == [inv.path[0], inv.path[1]] and ahead.start_s.tolist() == plain.start_s.tolist()


def test_the_next_segment_must_follow_at_once():
    inv = pd.concat([c.invent_segments(2), c.invent_segments(5).iloc[4:]], ignore_index=True)   # 0-60, 60-120, 240-300
    linked, _ = c.link(events_at(10, 70, 250), inv, c.Cameras(groups={1: {"cameras": [8]}}))
    assert linked.next_video_path.tolist() == [inv.path[1], "", ""] and linked.next_starts_s.fillna(-1).tolist() == [60, -1, -1]


def test_an_event_across_two_files_stays_one_row_with_the_next_file_beside_it():
    inv = c.invent_segments(3)
    linked, unlinked = c.link(events_at(10, 55, 175, duration=20), inv, c.Cameras(groups={1: {"cameras": [8]}}))
    assert len(linked) == 3 and unlinked.empty and linked.past_end_s.tolist() == [0, 16, 16]
    assert linked.next_video_path.tolist() == [inv.path[1], inv.path[1], ""] and linked.next_starts_s.tolist()[:2] == [60, 60]
    assert "2 events past the end of the file, by up to 16.0 s; 1 of them with a next file that goes on" in c.link_sentences(linked, unlinked)


@pytest.mark.parametrize("missing_s, flagged", [(0, False), (1.9, False), (2.1, True), (47, True), (-3, True)])
def test_a_file_that_does_not_fill_its_name_makes_offsets_doubtful(missing_s, flagged, tmp_path):
    inv = pd.concat([c.invent_segments(1), c.invent_segments(3).iloc[1:]], ignore_index=True)
    inv["nframes"] = inv.nframes.astype(float)
    inv.loc[0, "nframes"] = (60 - missing_s) * 15
    ev = events_at(5, 65).assign(flags=["suspect_id", ""])
    linked, unlinked = c.link(ev, inv, c.Cameras(groups={1: {"cameras": [8]}}))
    assert linked["flags"].tolist() == ["suspect_id;doubtful_offset" if flagged else "suspect_id", ""]
    assert linked.doubt_s.tolist() == [pytest.approx(abs(missing_s)), 0]
    assert any("flagged doubtful_offset" in x for x in c.link_sentences(linked, unlinked)) == flagged
    assert c.summarise_links(linked, unlinked).doubtful.tolist() == [int(flagged)]
    write_csv(tmp_path / "linked.csv", linked)
    again, _ = c.link(read_events(tmp_path / "linked.csv"), c.invent_segments(3), c.Cameras(groups={1: {"cameras": [8]}}))
    assert again["flags"].tolist() == ["suspect_id", ""]                     # a better inventory takes the flag away, and no other


def test_files_of_unknown_length_are_said(tmp_path):
    inv = c.invent_segments(2).assign(nframes=-1, fps=-1.0, duration_s=np.nan)
    linked, unlinked = c.link(events_at(5, 65, duration=100), inv, c.Cameras(groups={1: {"cameras": [8]}}))
    assert linked.doubt_s.isna().all() and linked.past_end_s.tolist() == [46, 46] and "2 events in files of unknown length" in " ".join(c.link_sentences(linked, unlinked))


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
    assert not linked["flags"].str.contains("doubtful_offset").any() and "flagged" not in " ".join(c.link_sentences(linked, unlinked))
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
