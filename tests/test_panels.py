"What the panels of notebook 02 write, without a browser: choices into cameras.yaml, boxes into boxes.csv, a still picture where nobody can click."
import datetime as dt
import io
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from crosssuck import cameras as c
from crosssuck.core import UserError, write_csv, write_text
from crosssuck.inputs import read_boxes
from crosssuck.manifest import read_workbook
from crosssuck.simulation import tiny_events

DAY = dt.date(2026, 3, 1)


@pytest.fixture(scope="module")
def linked(drive, inventory):
    return c.link(read_workbook(drive / "workbook.xlsx").events, inventory, c.read_cameras(drive / "cameras.yaml"))[0]


# --- a choice, written into a file that is somebody's work ------------------------------------------------------------

FLOW = "# barn\ngroups:\n  1: {cameras: [8, 9, 7], never: [10]}  # ten is outdoors\n  2: {cameras: [16]}\n"
BLOCK = "groups:\n  1:\n    cameras:   # in this order\n    - 8   # main\n    - 9\n    - 7\n    never: [10]\n  '2': {cameras: [16]}\n"
EVIDENCE = ["", "evidence: []\n", "evidence:\n", "evidence:\n  - said once  # by whom?\n", "evidence: [a, b]  # two\n", "evidence:\n- >-\n  a long\n  tale\n- |\n  another\n",
            "evidence:\n  - {date: 2026-02-01, event_idx: 3, group: 1, camera: 8, before: 8}\n# the end\n", "evidence:\n  - date: 2026-02-01\n    event_idx: 3\n    group: 1\n    camera: 8\n    before: 8\n",
            "evidence:\n  - no newline at the end"]


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("text", [FLOW, BLOCK])
@pytest.mark.parametrize("eol, between", [("\n", False), ("\n", True), ("\r\n", False)])
def test_a_choice_changes_its_places_and_nothing_else(tmp_path, text, evidence, eol, between):
    whole = (evidence + ("\n" if not evidence.endswith("\n") else "") + text if between else text + evidence).replace("\n", eol)
    path = tmp_path / "cameras.yaml"
    path.write_bytes(whole.encode())
    before = yaml.safe_load(whole)
    seen = c.write_choice(path, 1, 7, event_idx=12, today=DAY)
    after, now = path.read_bytes().decode(), yaml.safe_load(path.read_text())
    assert now["evidence"][:-1] == (before.get("evidence") or []) and now["evidence"][-1] == {"date": DAY, "event_idx": 12, "group": 1, "camera": 7, "before": 8}
    assert now["groups"][1] == {"cameras": [7, 8, 9], "never": [10]} and list(now["groups"].values())[1] == {"cameras": [16]}
    comments = [x.partition("#")[2] for x in whole.splitlines() if "#" in x]
    assert [x.partition("#")[2] for x in after.splitlines() if "#" in x] == comments          # every comment stays where it was
    assert after.count("\r") == (after.count("\n") if eol == "\r\n" else 0)
    assert c.read_cameras(path).evidence[-1] == seen and [p.name for p in tmp_path.iterdir()] == ["cameras.yaml"]
    lines = set(after.splitlines()) ^ set(whole.splitlines())
    assert len(lines) <= 7


def test_choices_add_up(tmp_path):
    path = write_text(tmp_path / "cameras.yaml", FLOW)
    for k, (camera, first) in enumerate([(9, True), (8, False), (7, True), (9, True)]):
        c.write_choice(path, 1, camera, event_idx=k, first=first, today=DAY)
    got = c.read_cameras(path)
    assert got.groups[1].cameras == (9, 7, 8) and [(e.event_idx, e.camera, e.before) for e in got.evidence] == [(0, 9, 8), (1, 8, 9), (2, 7, 9), (3, 9, 7)]
    assert path.read_text().startswith("# barn\n") and "# ten is outdoors" in path.read_text()


@pytest.mark.parametrize("text", [FLOW, BLOCK])
def test_a_camera_that_was_not_in_the_list_is_put_there(tmp_path, text):
    path = write_text(tmp_path / "cameras.yaml", text)
    c.write_choice(path, 1, 3, event_idx=1, today=DAY)
    assert c.read_cameras(path).groups[1].cameras == (3, 8, 9, 7)


@pytest.mark.parametrize("text, group, camera, words", [
    (FLOW, 1, 10, "camera 10 is never to be used for group 1"), (FLOW, 5, 8, "group 5 is not in the file"), ("groups: {1: &a {cameras: [8, 9]}, 2: *a}\n", 1, 9, "left as it is"),
    ("a: 1\n", 1, 9, "unknown key 'a'"), ("groups: {1: {cameras: [8, 9]}}\nevidence: [a, ]\n", 1, 9, "left as it is")])
def test_what_cannot_be_written_leaves_the_file(tmp_path, text, group, camera, words):
    path = write_text(tmp_path / "cameras.yaml", text)
    with pytest.raises(UserError, match=words) as e:
        c.write_choice(path, group, camera, event_idx=1)
    assert path.read_text() == text and "\n" not in str(e.value) and "cameras.yaml" in str(e.value) and len(list(tmp_path.iterdir())) == 1


def test_the_shipped_file_takes_a_choice(root, tmp_path):
    path = shutil.copy(root / "configs" / "cameras_lab.yaml", tmp_path / "cameras.yaml")
    old = c.read_cameras(path)
    c.write_choice(path, 4, 5, event_idx=7, today=DAY)
    new = c.read_cameras(path)
    assert new.groups[4].cameras == (5, 3, 10) and new.evidence[:-1] == old.evidence and new.pattern == old.pattern
    assert {g: x for g, x in new.groups.items() if g != 4} == {g: x for g, x in old.groups.items() if g != 4}


# --- the panel for cameras --------------------------------------------------------------------------------------------

def test_the_camera_panel_steps_plays_and_writes(tmp_path, drive, inventory, linked):
    from PIL import Image
    path = shutil.copy(drive / "cameras.yaml", tmp_path / "cameras.yaml")
    panel = c.CameraPanel(linked, inventory, path, n=3, short_side_px=90)
    head, film, choice, first, buttons, tally, said = panel.widget.children
    back, on, save = buttons.children
    shown = Image.open(io.BytesIO(film.value))
    assert shown.format == "WEBP" and shown.n_frames == 15 and "1 of 3" in head.value and back.disabled
    was, before = film.value, path.read_text()
    on.click()
    assert "2 of 3" in head.value and film.value != was and path.read_text() == before     # stepping writes nothing
    assert save.description == f"save: camera 8 shows event {panel.event.event_idx} best"
    choice.value = 9
    assert save.description.endswith("best, and comes first for group 1")
    first.value = False
    assert save.description == f"save: camera 9 shows event {panel.event.event_idx} best"
    save.click()
    got = c.read_cameras(path)
    assert got.groups[1].cameras[0] == 8 and got.evidence[-1] == c.Seen(dt.date.today(), int(panel.event.event_idx), 1, 9, 8)
    assert "written to cameras.yaml" in said.value and "camera 9 best 1 time" in tally.value
    first.value = True
    choice.value = 9
    save.click()
    assert c.read_cameras(path).groups[1].cameras == (9, 8, 7) and "link again" in said.value and "camera 9 best 2 times" in tally.value
    on.click()
    assert on.disabled and choice.options[0] == ("camera 9 (first now)", 9)


def test_a_fault_is_a_line_in_the_panel(tmp_path, drive, inventory, linked):
    path = shutil.copy(drive / "cameras.yaml", tmp_path / "cameras.yaml")
    panel = c.CameraPanel(linked, inventory.assign(path="Q:/gone.mp4").drop_duplicates("path"), path, n=2, short_side_px=90)
    said, save = panel.widget.children[6], panel.widget.children[4].children[2]
    write_text(path, broken := "groups: {1: {cameras: [8, 8]}}")
    save.click()
    assert "not written" in said.value and "names camera 8 twice" in said.value and path.read_text() == broken


def test_views_of_a_moment_say_what_is_missing(drive, inventory, linked):
    cams = c.read_cameras(drive / "cameras.yaml")
    views = c.moment_views(linked.iloc[0], c.segment_table(inventory, cams), cams, short_side_px=90, n_frames=4)
    assert [(v.camera, v.words, v.chosen) for v in views] == [(8, "chosen", True), (9, "", False), (7, "no file covers this moment", False)]
    assert views[0].frames.shape == (4, 90, 160, 3) and c.tile_views(views).shape == (4, 90 + 2 * 24, 320, 3)
    assert c.tile_views([v._replace(frames=None) for v in views]).shape == (1, 3 * 24, 480, 3)
    assert c.tile_views([*views, *views]).shape == (4, 2 * (90 + 24) + 2 * 24, 320, 3)


def test_never_used_cameras_are_marked(drive, inventory, linked):
    cams = c.Cameras(groups={1: {"cameras": [8], "never": [9]}})
    assert [v.words for v in c.moment_views(linked.iloc[0], c.segment_table(inventory, cams), cams, short_side_px=90, n_frames=2)] == ["chosen", "never used"]


# --- picking and drawing ----------------------------------------------------------------------------------------------

def test_the_pick_is_spread_and_does_not_depend_on_the_order_of_rows():
    pool = tiny_events(1900, seed=3)
    pick = c.spread_events(pool, 200)
    assert len(pick) == 200 and pick.event_idx.is_unique and set(pick.behavior) == {"ear", "tail"}
    assert pick.event_idx.tolist() == c.spread_events(pool.sample(frac=1, random_state=5), 200).event_idx.tolist()
    assert pick.event_idx.tolist() != c.spread_events(pool, 200, seed=1).event_idx.tolist()
    strata = ["behavior", "group", "camera_id", "pen_location"]
    there, got = (t[t.behavior.isin(["ear", "tail"])].groupby(strata).size() for t in (pool, pick))
    assert set(there.index) == set(got.index)                                              # every class, group, camera and place
    most = got.max()
    assert ((got >= most - 1) | (got == there[got.index])).all()                           # as even as the numbers allow
    early = c.spread_events(pool, 200).head(len(there))
    assert not early.duplicated(strata).any()                                              # whoever stops early has each once


def test_the_pick_leaves_out_duplicates_and_takes_what_there_is():
    pool = tiny_events(60)
    twice = pd.concat([pool.assign(duplicate_of=""), pool.head(9).assign(event_idx=lambda t: t.event_idx + 1000, duplicate_of=lambda t: t.event_idx.astype(str))], ignore_index=True)
    pick = c.spread_events(twice, 200)
    assert sorted(pick.event_idx) == sorted(pool.event_idx[pool.behavior.isin(["ear", "tail"])])


def test_boxes_are_what_the_inputs_read(tmp_path):
    path = write_text(tmp_path / "boxes.csv", "event_idx,time_s,x_px,y_px,w_px,h_px,by\n3,,10,20,30,40,ann\n5,0.5,1,1,9,9,ann\n5,1.5,11,1,9,9,ann\n")
    assert c.box_of(c.read_box_table(path), 5) == (1, 1, 19, 9) and c.box_of(c.read_box_table(path), 4) is None
    assert c.write_box(path, 5, (100, 50, 20, 10)) == 2 and c.write_box(path, 4, (7, 8, 9, 10)) == 0
    assert read_boxes(path) == {3: (10, 20, 30, 40), 4: (7, 8, 9, 10), 5: (100, 50, 20, 10)}
    assert path.read_text().splitlines()[0] == "event_idx,time_s,x_px,y_px,w_px,h_px,by" and "3,,10,20,30,40,ann" in path.read_text()
    before = path.read_text()
    for wrong in ((0, 0, 0, 5), (-1, 0, 5, 5)):
        with pytest.raises(UserError, match="boxes.csv"):
            c.write_box(path, 6, wrong)
    assert path.read_text() == before and [p.name for p in tmp_path.iterdir()] == ["boxes.csv"]
    with pytest.raises(UserError, match="no column 'x_px'"):
        c.write_box(write_text(tmp_path / "other.csv", "event_idx,time_s\n1,\n"), 6, (1, 1, 5, 5))


def test_the_box_panel_steps_draws_and_writes(tmp_path, linked):
    path = tmp_path / "boxes.csv"
    panel = c.BoxPanel(linked, path, n=4, short_side_px=90)
    head, canvas, buttons, tally, said = panel.widget.children
    back, skip, clear, save = buttons.children
    assert "1 of 4" in head.value and save.disabled and (canvas.width_px, canvas.height_px) == (320, 180) and not path.exists()
    first = int(panel.event.event_idx)
    canvas.box = [10, 20, 100, 80]
    assert save.description == "save 100 × 80 px at 10, 20, and go on"
    clear.click()
    assert canvas.box == [] and save.disabled
    canvas.box = [12, 20, 100, 80]
    save.click()
    assert read_boxes(path) == {first: (12, 20, 100, 80)} and "2 of 4" in head.value and canvas.box == [] and tally.value.startswith("1 of 4 have a box")
    back.click()
    assert canvas.box == [12, 20, 100, 80]
    canvas.box = [0, 0, 50, 60]
    save.click()
    assert read_boxes(path) == {first: (0, 0, 50, 60)} and "in place of 1" in said.value
    assert c.BoxPanel(linked, path, n=4).at == 1                                           # goes on where something is left to do


def test_a_video_that_is_not_here_is_a_line_in_the_panel(tmp_path, linked):
    panel = c.BoxPanel(linked.assign(video_path="Q:/gone.mp4"), tmp_path / "boxes.csv", n=2)
    assert "no such file" in panel.widget.children[4].value and panel.frames(0).shape[0] == 1


def test_panels_of_nothing_are_refused(tmp_path, drive, inventory, linked):
    with pytest.raises(UserError, match="no linked event"):
        c.CameraPanel(linked.iloc[:0], inventory, drive / "cameras.yaml")
    with pytest.raises(UserError, match="no linked ear or tail event"):
        c.BoxPanel(linked.assign(behavior="teat"), tmp_path / "boxes.csv")


# --- on paper ---------------------------------------------------------------------------------------------------------

def test_stills_are_pictures(tmp_path, drive, inventory, linked):
    from PIL import Image
    for panel in (c.CameraPanel(linked, inventory, drive / "cameras.yaml", n=2, short_side_px=90), c.BoxPanel(linked, tmp_path / "boxes.csv", n=2, short_side_px=90)):
        picture = np.asarray(Image.open(io.BytesIO(panel.still())).convert("RGB"))
        assert min(picture.shape[:2]) > 100 and picture.std() > 20


@pytest.mark.parametrize("in_test", ["1", ""])
def test_an_executed_notebook_shows_a_picture_and_no_blank_widget(tmp_path, drive, inventory, linked, monkeypatch, in_test):
    "Executed by a job, with and without the mark of the project's own launcher, and turned into HTML."
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter
    monkeypatch.setenv("IN_TEST", in_test)
    write_csv(tmp_path / "inventory.csv", inventory)
    write_csv(tmp_path / "linked.csv", linked)
    shutil.copy(drive / "cameras.yaml", tmp_path / "cameras.yaml")
    cells = ["from crosssuck import cameras as c\nfrom crosssuck.manifest import read_events\nlinked = read_events('linked.csv')",
             "c.CameraPanel(linked, c.read_inventory('inventory.csv'), 'cameras.yaml', n=2, short_side_px=90)", "c.BoxPanel(linked, 'boxes.csv', n=2, short_side_px=90)"]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(x) for x in cells])
    NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    html = HTMLExporter().from_notebook_node(nb)[0]
    assert html.count('src="data:image/jpeg;base64,') == 2 and "widget-view" not in html and not nb.metadata.get("widgets")
