"A newcomer with other folders, names, sheets, columns and words gets from workbook to clips by editing two YAML files; and the lab's Windows paths are found on a cluster."
import datetime as dt
import os
import re
import subprocess
import sys

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calling import call
from crosssuck.cli import root_map
from crosssuck.core import UserError, map_path, read_yaml, same_file
from crosssuck.manifest import read_events
from crosssuck.video import probe, read_frames, read_number, write_video
from videos import frames

FPS, LENGTH_S = 10, 60
PENS = {"links": dt.date(2025, 3, 10), "rechts": dt.date(2025, 3, 12)}
AT_S = (2, 5, 38, 42, 77, 80, 113, 116)     # seconds after eight o'clock; the fifth and later lie in the second file
WORDS = ("Ohr", "Schwanz")
TITLES = ["Bucht", "Datum", "Uhrzeit", "Dauer", "Verhalten", "Saugendes Kalb", "Besaugtes Kalb", "Ort", "Bemerkung", "Wetter"]


@pytest.fixture(scope="module")
def barn(tmp_path_factory):
    "Another lab's drive and workbook: one file a minute, numbered frames; of the left pen's first camera the second minute is missing."
    home = tmp_path_factory.mktemp("newcomer")
    for pen, day in PENS.items():
        for camera in ("tuer", "trog"):
            for minute in range(2):
                if (pen, camera, minute) != ("links", "tuer", 1):
                    folder = home / "stall" / f"bucht_{pen}" / day.isoformat()
                    folder.mkdir(parents=True, exist_ok=True)
                    write_video(folder / f"{camera}_08-{minute:02d}-00.mp4", frames(FPS * LENGTH_S, FPS * LENGTH_S * minute), FPS)
    book = openpyxl.Workbook()
    book.active.title = "Beobachtungen"
    book.active.append(["Saugverhalten 2025"])
    book.active.append([])
    book.active.append(TITLES)
    for pen, day in PENS.items():
        for k, at_s in enumerate(AT_S):
            clock = (dt.datetime.combine(day, dt.time(8)) + dt.timedelta(seconds=at_s)).time()
            lasts = (2, dt.time(0, 0, 2))[k == 3]
            book.active.append([pen, day if k % 2 else f"{day.day}.{day.month}.{day.year}", clock if k % 3 else clock.isoformat(), lasts, WORDS[k % 2], 100 + k % 3, 100 + (k + 1) % 3,
                                ("Tränke", "Liegefläche ")[k % 2], None, "Regen"])
    book.save(home / "beobachtungen.xlsx")
    return home


def edited(text: str, **changes: str) -> str:
    "A YAML text with the right-hand sides of some keys replaced, as a person would in an editor."
    for key, value in changes.items():
        line = re.compile(rf"(?m)^(\s*){re.escape(key)}:(?: [^#\n]*)?(?=#|$)")
        assert line.search(text), key
        text = line.sub(lambda m, key=key, value=value: f"{m[1]}{key}: {value} ", text, count=1)
    return text


def own_rules(root) -> str:
    text = (root / "configs" / "workbook_lab.yaml").read_text(encoding="utf-8")
    text = edited(text, events="Beobachtungen", hard_negatives="null", nighttime="null", header_row="3", day_first="true", date="Datum", initiator_id="Saugendes Kalb",
                  receiver_id="Besaugtes Kalb", start_time="Uhrzeit", end_time="null", duration_sec="Dauer", notes="[Bemerkung]")
    text = text.replace("  group: Cohort ", "  group: Bucht ").replace("  day: Day ", "  day: null ").replace("  group: {}", "  group: {links: 1, rechts: 2}")
    text = text.replace("  behavior: Behavior", "  behavior: Verhalten").replace("  ended_by: Ended.by.initiator.or.receiver.", "  ended_by: null").replace("  pen_location: Pen.location", "  pen_location: Ort")
    return text.replace("  ear: ear", "  ohr: ear").replace("  tail: tail", "  schwanz: tail").replace("  middle: middle", "  liegefläche: middle").replace("  front.*: front", "  tränke: front")


def own_cameras(root) -> str:
    text = (root / "configs" / "cameras_lab.yaml").read_text(encoding="utf-8")
    text = edited(text, pattern=r"'^bucht_(?P<group>[a-z]+)/(?P<date>\d{4}-\d\d-\d\d)/(?P<camera>[a-z]+)_(?P<start>\d\d-\d\d-\d\d)\.mp4$'", time_format="'%Y-%m-%d%H-%M-%S'",
                  numbers="{group: {links: 1, rechts: 2}, camera: {tuer: 1, trog: 2}}")
    return re.sub(r"(?m)^  1: \{cameras.*\n(^  \d: \{cameras.*\n)+", "  1: {cameras: [1, 2]}\n  2: {cameras: [2, 1]}\n", text)


def crosssuck(*words, cwd, code=0) -> str:
    "The command as a process of its own, in a folder that is not the project's."
    environment = {k: v for k, v in os.environ.items() if k != "CROSSSUCK_ROOT"}
    done = subprocess.run([sys.executable, "-c", "from crosssuck.cli import main; main()", *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def travelled(barn, root):
    "From workbook to clips by the real command line; the two YAML files are all that was written."
    (barn / "workbook.yaml").write_text(own_rules(root), encoding="utf-8")
    (barn / "cameras.yaml").write_text(own_cameras(root), encoding="utf-8")
    said = {"manifest": crosssuck("manifest", "beobachtungen.xlsx", "--rules", "workbook.yaml", "--out", "data/manifest", cwd=barn),
            "scan": crosssuck("scan", "stall", "--cameras", "cameras.yaml", "--out", "data/inventory.csv", cwd=barn),
            "link": crosssuck("link", "data/manifest/events.csv", "data/inventory.csv", "--cameras", "cameras.yaml", "--out", "data/linked.csv", cwd=barn),
            "extract": crosssuck("extract", "data/linked.csv", "--mode", "proxy", "--out", "data/clips", cwd=barn),
            "split": crosssuck("split", "data/linked.csv", "--ood", "none", "--out", "data/split", cwd=barn),
            "audit-split": crosssuck("audit-split", "data/split", cwd=barn)}
    return barn / "data", said


def test_the_workbook_is_read_whole(travelled):
    data, said = travelled
    e = read_events(data / "manifest" / "events.csv")
    assert "16 events, 0 hard negatives, 0 at night;" in said["manifest"] and "left out" not in said["manifest"] and "not read in sheet 'Beobachtungen': Wetter" in said["manifest"]
    assert e[["group", "day"]].values.tolist() == [[1, 1]] * 8 + [[2, 1]] * 8
    assert e.start_s.tolist() == [8 * 3600 + s for s in AT_S] * 2 and (e.duration_sec == 2).all() and e.behavior.tolist() == ["ear", "tail"] * 8
    assert e.date.tolist() == ["3/10/2025"] * 8 + ["3/12/2025"] * 8 and e.pen_location.tolist() == ["front", "middle"] * 8 and (e.ended_by == "").all()
    q = pd.read_csv(data / "manifest" / "quarantine.csv", keep_default_na=False)
    assert set(q.kind) == {"repaired"} and set(q.reason) == {"text where a date should be", "text where a time should be", "another word for a behaviour", "another type where a number should be",
                                                            "blanks around the text"}


def test_the_files_are_found_and_a_missing_camera_falls_to_the_next(travelled):
    data, said = travelled
    linked = read_events(data / "linked.csv")
    assert "16 of 16 events linked" in said["link"] and "7 files, 7 readable" in said["scan"] and "0 unnamed" in said["scan"]
    left = linked[linked.group == 1]
    assert left.camera_id.tolist() == [1] * 4 + [2] * 4 and left.camera_rank.tolist() == [0] * 4 + [1] * 4 and (linked[linked.group == 2].camera_id == 2).all()
    assert linked.event_offset_sec.tolist() == [s % LENGTH_S for s in AT_S] * 2


def test_each_clip_shows_the_frames_of_its_event(travelled):
    data, _ = travelled
    clips = pd.read_csv(data / "clips" / "clips.csv")
    assert (clips.status == "ok").all() and len(clips) == 16
    for clip in clips.itertuples():
        path = data / "clips" / clip.clip_path
        picture = read_frames(path, np.array([clip.clip_event_offset_s + 0.5 / FPS]))[0][0]
        want = FPS * round(clip.start_s - 8 * 3600)  # the frames are numbered on from file to file
        assert abs(read_number(picture) - want) <= 1 and probe(path).duration_s >= 6 - 1 / FPS


def test_the_split_is_clean(travelled):
    data, said = travelled
    assert "no leak" in said["audit-split"] and len(pd.read_csv(data / "split" / "train.csv")) + len(pd.read_csv(data / "split" / "val.csv")) == 16


def test_nothing_but_two_yaml_files_was_edited(root):
    for name, text in (("workbook_lab.yaml", own_rules(root)), ("cameras_lab.yaml", own_cameras(root))):
        shipped = (root / "configs" / name).read_text(encoding="utf-8").splitlines()
        keys = lambda lines: [line.split(":")[0].strip() for line in lines if re.match(r"\s*[a-z_]+:", line)]  # noqa: E731
        mine = text.splitlines()
        words = {"ear", "tail", "middle", "ohr", "schwanz", "liegefläche", "tränke"}
        assert [k for k in keys(mine) if k not in words] == [k for k in keys(shipped) if k not in words]


# --- what a newcomer meets on the way: each step says what to do next

@pytest.mark.parametrize("step, words", [
    (lambda t, root: (root / "configs/workbook_lab.yaml").read_text(), ["beobachtungen.xlsx: no sheet 'Final CS bouts'", "name it under sheets in the rules (copy configs/workbook_lab.yaml", "--rules",
                                                                        "the workbook has 'Beobachtungen'"]),
    (lambda t, root: edited((root / "configs/workbook_lab.yaml").read_text(), events="Beobachtungen"), ["sheet 'Beobachtungen': no column 'Date' (columns.date)", "and 8 more",
                                                                                                       "row 3 looks like the titles: write header_row: 3"]),
    (lambda t, root: t.replace("date: Datum", "date: Tag"), ["no column 'Tag' (columns.date)", "row 3 has 'Bucht', 'Datum'"]), (lambda t, root: t.replace("[Bemerkung]", "[Notizen]"), ["no column 'Notizen' (notes)"]),
    (lambda t, root: t.replace("{links: 1, rechts: 2}", "{}"), ["Bucht is 'links' (in 16 of 16 rows: cannot be read); map it under numbers.group in the rules"]),
    (lambda t, root: t.replace("  ohr: ear", "  auge: ear").replace("  schwanz: tail", "  x: tail"), ["Verhalten is 'Ohr' (in 16 of 16 rows: cannot be read); map it under behavior in the rules"]),
    (lambda t, root: t.replace("  ohr: ear", "  ohr: ohr"), ["workbook.yaml: behavior: 'ohr' counts as 'ohr'; use one of ear, tail, teat, other"]),
    (lambda t, root: t.replace("duration_sec: Dauer", "duration_sec: null"), ["workbook.yaml: columns: neither end_time nor duration_sec has a column"]),
    (lambda t, root: t.replace("day_first:", "dayfirst:"), ["workbook.yaml: unknown key 'dayfirst'"]), (lambda t, root: t.replace("header_row: 3", "header_row: three"), ["workbook.yaml: header_row is 'three'"])])
def test_a_fault_in_the_rules_names_file_key_and_remedy(barn, root, tmp_path, step, words):
    (tmp_path / "workbook.yaml").write_text(step(own_rules(root), root), encoding="utf-8")
    said = call("manifest", barn / "beobachtungen.xlsx", "--rules", tmp_path / "workbook.yaml", "--out", tmp_path / "out", code=1)
    assert len(said.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
    for w in words:
        assert w in said, said


def test_rows_that_a_rule_leaves_out_are_counted_aloud(barn, root, tmp_path):
    (tmp_path / "workbook.yaml").write_text(own_rules(root).replace("day_first: true", "day_first: false"), encoding="utf-8")
    said = call("manifest", barn / "beobachtungen.xlsx", "--rules", tmp_path / "workbook.yaml", "--out", tmp_path / "out")
    assert "8 events" in said and "8 rows left out" in said and "set day_first in the rules" in said


def test_names_that_no_pattern_fits_are_said_at_the_scan_and_at_the_link(travelled, barn, root, tmp_path):
    data, _ = travelled
    said = call("scan", barn / "stall", "--out", tmp_path / "inventory.csv", code=1)
    assert "7 unnamed" in said and "write a pattern that fits 'bucht_links/2025-03-10/trog_08-00-00.mp4'" in said and "configs/cameras_lab.yaml" in said and "--cameras" in said
    said = call("link", data / "manifest/events.csv", tmp_path / "inventory.csv", "--cameras", barn / "cameras.yaml", "--out", tmp_path / "linked.csv", code=1)
    assert "0 of 16 events linked" in said and "compare the pattern and the groups of cameras.yaml with the inventory" in said
    (tmp_path / "cameras.yaml").write_text(re.sub(r"numbers: \{.*\}", "numbers: {}", own_cameras(root)), encoding="utf-8")
    said = call("scan", barn / "stall", "--cameras", tmp_path / "cameras.yaml", "--out", tmp_path / "other.csv", code=1)
    assert "group 'links' is no number; give it one in cameras.yaml, e.g. numbers: {group: {links: 1}}" in said
    said = call("split", data / "linked.csv", "--out", tmp_path / "split", code=1)
    assert "the table has groups [1, 2]: keep others apart (--ood 1,2) or none (--ood none)" in said and not (tmp_path / "split").exists()


def test_what_was_coded_in_boris_travels_the_same_way(travelled, barn, tmp_path):
    data, _ = travelled
    for form in ("aggregated", "tabular"):
        call("export-boris", data / "linked.csv", "--out", tmp_path / f"{form}.csv", "--form", form)
        call("import-boris", tmp_path / f"{form}.csv", "--rules", barn / "workbook.yaml", "--cameras", barn / "cameras.yaml", "--out", tmp_path / form)
        call("link", tmp_path / form / "events.csv", data / "inventory.csv", "--cameras", barn / "cameras.yaml", "--out", tmp_path / f"{form}_linked.csv")
        again, first = read_events(tmp_path / f"{form}_linked.csv"), read_events(data / "linked.csv")
        same = ["event_idx", "group", "day", "date", "start_s", "duration_sec", "behavior", "initiator_id", "receiver_id", "camera_id", "video_path", "event_offset_sec"]
        assert again[same].astype(str).values.tolist() == first[same].astype(str).values.tolist()


# --- the lab's Windows paths on a cluster, and back, by configuration

def on_windows(path: str, home) -> str:
    return "V:\\Study\\" + os.path.relpath(path, home).replace("/", "\\")


def test_windows_paths_are_cut_on_a_cluster_by_a_file_of_roots(travelled, barn, tmp_path):
    data, _ = travelled
    linked = pd.read_csv(data / "linked.csv", keep_default_na=False, dtype=str)
    windows = linked.assign(video_path=[on_windows(p, barn) for p in linked.video_path]).head(3)
    windows.to_csv(tmp_path / "windows.csv", index=False)
    (tmp_path / "roots.yaml").write_text(f"'V:\\Study': {barn}\n'V:\\Study\\old': /gone\n", encoding="utf-8")
    said = call("extract", tmp_path / "windows.csv", "--mode", "copy", "--out", tmp_path / "without", code=1)
    assert "1 videos is there" in said and "--root" in said
    assert "3 clips of 3" in call("extract", tmp_path / "windows.csv", "--mode", "copy", "--out", tmp_path / "clips", "--root", tmp_path / "roots.yaml")
    back = {new: old for old, new in root_map([str(tmp_path / "roots.yaml")]).items()}
    assert [map_path(p, back) for p in linked.video_path.head(3)] == windows.video_path.tolist()
    assert "2 sheets" in call("verify-cameras", tmp_path / "windows.csv", "--inventory", data / "inventory.csv", "--cameras", barn / "cameras.yaml", "--out", tmp_path / "sheets", "-n", "2",
                              "--root", tmp_path / "roots.yaml")


def test_roots_are_pairs_or_files_of_pairs(root, tmp_path):
    shipped = root / "configs" / "roots_example.yaml"
    assert root_map([str(shipped)]) == read_yaml(shipped) == {"D:\\videos": "/scratch/videos"}
    assert root_map([str(shipped), r"E:\x=/y"]) == {"D:\\videos": "/scratch/videos", "E:\\x": "/y"}
    (tmp_path / "roots.yaml").write_text("'D:\\videos':\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"--root: 'D:\\\\videos' is no OLD=NEW"):
        root_map([str(tmp_path / "roots.yaml")])


part = st.text(st.sampled_from("abcXYZ 019._-()äé"), min_size=1, max_size=8).map(lambda s: "p" + s.strip(" .") + "q")


@settings(max_examples=200, deadline=None)
@given(st.lists(part, min_size=1, max_size=4), st.lists(part, min_size=1, max_size=3), st.sampled_from("CDEV"), st.lists(part, max_size=2))
def test_a_path_maps_there_and_back(tail, there, drive, head):
    lab, cluster = "\\".join([f"{drive}:", *head]) if head else f"{drive}:\\", "/" + "/".join(there)
    path = lab.rstrip("\\") + "\\" + "\\".join(tail)
    mapped = map_path(path, {lab: cluster})
    assert mapped == "/".join([cluster, *tail])
    assert same_file(map_path(mapped, {cluster: lab}), path)
    assert map_path(path.swapcase(), {lab: cluster}).lower() == mapped.lower() and map_path(path.replace("\\", "/"), {lab: cluster}) == mapped
    assert map_path(path, {"Q:\\elsewhere": "/x"}) == path


@pytest.mark.lab
def test_every_path_of_the_lab_maps_to_a_cluster_and_back(lab, tmp_path):
    master = read_events(lab / "MASTER_LINKED_v4.csv")
    drive = os.path.commonprefix(master.video_path.tolist()).rsplit("\\", 1)[0]
    (tmp_path / "roots.yaml").write_text(f"'{drive}': /scratch/videos\n", encoding="utf-8")
    roots = root_map([str(tmp_path / "roots.yaml")])
    mapped = [map_path(p, roots) for p in master.video_path]
    assert all(p.startswith("/scratch/videos/Group ") and "\\" not in p for p in mapped) and len(set(mapped)) == master.video_path.nunique() == 208
    assert [map_path(p, {new: old for old, new in roots.items()}) for p in mapped] == master.video_path.tolist()
