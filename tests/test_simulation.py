"The simulated cohort: same seed, same bytes; the lab's formats and quirks; the label only in the behaviour."
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from crosssuck import simulation as s
from crosssuck.core import UserError, read_json, sha256_file
from crosssuck.manifest import read_workbook
from crosssuck.video import probe, read_frames

FEW = s.SimulationSettings.demo(seed=3, events=24, groups=(2, 4), width_px=128, height_px=72, fps=4.0)
DEMO = s.SimulationSettings.demo()


def hashes(folder):
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return s.simulate_cohort(tmp_path_factory.mktemp("sim") / "cohort", FEW, workers=1)


@pytest.fixture(scope="module")
def recordings():
    return s.plan_recordings(DEMO)


# ---- fixtures of all lessons

def test_tiny_events_are_a_linked_table_of_six_groups():
    events = s.tiny_events(120, seed=4)
    assert len(events) == 120 and set(events.group) == set(range(1, 7))
    assert list(events.columns[:12]) == s.LAB_COLUMNS and (events.event_idx == np.arange(120)).all()
    assert (events.end_s == events.start_s + events.duration_sec + 1).all()
    for _, part in events.groupby("bout_id"):
        latest = part.end_s.cummax().shift()
        assert not ((part.start_s - latest) >= 30).any()
    pd.testing.assert_frame_equal(events, s.tiny_events(120, seed=4))
    assert not events.equals(s.tiny_events(120, seed=5))


@pytest.mark.parametrize("auc", [0.5, 0.7, 0.95])
def test_tiny_predictions_have_the_quality_asked_for(auc):
    table = s.tiny_predictions(s.tiny_events(400, seed=1), auc=auc)
    assert roc_auc_score(table.true_label == "tail", table.prob_tail) == pytest.approx(auc, abs=.03)
    assert np.allclose(table.prob_ear + table.prob_tail, 1) and ((table.prob_tail >= .5) == (table.pred_label == "tail")).all()


def test_tiny_workbook_holds_each_quirk(tmp_path):
    sheets = pd.read_excel(s.tiny_workbook(tmp_path / "w.xlsx"), sheet_name=None, header=None, dtype=str, keep_default_na=False)
    first = sheets[s.SHEETS[0]]
    body = first.iloc[1:].set_axis(first.iloc[0].tolist(), axis=1)
    assert set(body["Group"]) == {"1"} and set(body["Cohort"]) == set("123456")
    assert {"mouth", "teat", "tail/teat", "ear", "tail"} == set(body["Behavior"])
    assert body["Date"].str.contains("/").any() and body["Date"].str.contains("00:00:00").any()
    assert body["Pen.location"].str.endswith(" ").any() and body["Ended.by.initiator.or.receiver."].str.contains("reciever").any()
    assert body.duplicated().sum() == 1 and (body["Duration"] == "0").any() and (body["End.time"] == "00:00:00").sum() == 1
    assert (sheets[s.SHEETS[1]].iloc[1:] == "").all(axis=1).sum() == 4 and sheets[s.SHEETS[2]].iloc[0, 0].isdigit()


def test_parallel_builders_of_a_fixture_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(s.tempfile, "tempdir", str(tmp_path))
    def build(folder):
        (folder / "half").write_text("1")
        time.sleep(.2)
        (folder / "whole").write_text("2")
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: s._cached("lesson", 1, build), range(3)))
    assert len(set(folders)) == 1 and sorted(p.name for p in folders[0].iterdir()) == ["half", "whole"]
    assert list(tmp_path.iterdir()) == [folders[0]] and s._cached("lesson", 2, build) != folders[0]
    with pytest.raises(ZeroDivisionError):
        s._cached("broken", 1, lambda folder: 1 / 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_tiny_study_and_drive_fit_their_tables():
    study, drive = s.tiny_study(), s.tiny_drive()
    clips = pd.read_csv(study / "clips/clips.csv")
    boxes = pd.read_csv(study / "boxes.csv").set_index("event_idx")
    assert set(clips.event_idx) == set(boxes.index) and len(clips) == 48
    info = probe(study / "clips" / clips.clip_path[0])
    assert (info.width_px, info.height_px, info.fps) == (160, 90, 10.0) and info.duration_s == pytest.approx(clips.clip_duration_s[0], abs=.11)
    assert (boxes.x_px >= 0).all() and (boxes.x_px + boxes.w_px <= 640).all() and (boxes.y_px >= 0).all() and (boxes.y_px + boxes.h_px <= 360).all()
    events = read_workbook(drive / "workbook.xlsx").events
    assert len(events) == 8 and ((events.start_s < 6 * 3600 + 45) & (events.end_s > 6 * 3600 + 45)).sum() == 1


# ---- settings, camera, calf

@pytest.mark.parametrize("key, value", [("shortcut", 1.2), ("groups", (7,)), ("groups", ()), ("events", 0), ("ears_per_tail", 0), ("width_px", 100), ("height_px", 91), ("fps", 100), ("seed", -1)])
def test_settings_that_cannot_be_drawn_are_refused(key, value):
    with pytest.raises(UserError, match=f"{key} is"):
        s.SimulationSettings(**{key: value})


def test_the_class_is_as_unbalanced_as_the_lab_and_the_demo_says_what_it_is():
    assert s.SimulationSettings().ears_per_tail == 7.0 and s.SimulationSettings.demo().ears_per_tail == 3.0
    assert s.SimulationSettings(groups=[1, 2]) == s.SimulationSettings(groups=(1, 2))


def test_ground_point_inverts_project():
    rng = np.random.default_rng(0)
    for group in s.PENS:
        view = s.view_of(group, 0, DEMO)
        for point in rng.uniform([-2, -1.5, 0], [2, 1.5, 1], (10, 3)):
            assert np.allclose(s.ground_point(view, s.project(view, point)[0], point[2]), point)
        assert np.allclose(view.axes @ view.axes.T, np.eye(3)) and np.linalg.det(view.axes) == pytest.approx(1)
        assert s.project(view, np.zeros(3))[0] == pytest.approx([320, 180])
        assert s.project(view.scaled(320, 180), np.array([1.0, .5, .3]))[0] * 2 == pytest.approx(s.project(view, np.array([1.0, .5, .3]))[0])


def test_a_lying_calf_is_lower_and_a_turned_neck_moves_the_head():
    stand, lie, look = s.still(0, 0, .3), s.still(0, 0, .3, lie=1), s.still(0, 0, .3, turn=1.5)
    assert lie.muzzle[0, 2] < stand.muzzle[0, 2] and s.at_body(lie, .3, 0, .6)[0, 2] < s.at_body(stand, .3, 0, .6)[0, 2]
    assert np.linalg.norm(look.muzzle - stand.muzzle) > .4


def test_every_camera_has_its_own_odd_rate_and_view():
    rates = {(g, k): s.camera_fps(g, k, DEMO) for g in s.PENS for k in range(4)}
    assert all(r != 10 and abs(r / 10 - 1) <= .0205 for r in rates.values()) and len(set(rates.values())) > 20
    assert len({s.view_of(g, k, DEMO) for g in s.PENS for k in range(3)}) == 18


# ---- plan and scene

def test_the_plan_has_the_numbers_of_the_brief(recordings):
    acts = pd.DataFrame([(r.group, a[2], a[1] - a[0]) for r in recordings for a in r.acts], columns=["group", "act", "length_s"])
    sucks, unseen = acts[acts.act.isin(s.CLASSES)], acts[acts.group.isin((4, 5))]
    assert len(sucks) == 560 and (sucks.group.isin((1, 2, 3, 6))).sum() == 450
    assert (sucks.act == "tail").sum() == 140 and (unseen.act == "tail").sum() >= 24
    assert 3.3 < sucks.length_s.mean() < 5 and (sucks.length_s < 1).mean() > .06 and {"flank", "mouth", "teat"} <= set(acts.act)
    assert sum(r.length_s for r in recordings) < 6000    # what bounds the time to draw it


def test_recordings_are_bouts_of_their_own_and_some_are_cut(recordings):
    for key in {(r.group, r.day) for r in recordings}:
        mine = [r for r in recordings if (r.group, r.day) == key]
        assert all(b.start_s - (a.start_s + a.length_s) >= 30 for a, b in zip(mine, mine[1:], strict=False)) and mine[-1].start_s < 22 * 3600
    cut = [r for r in recordings if r.cut_s]
    on_it = [r for r in cut if any(int(a[0]) == r.cut_s for a in r.acts)]
    across = [r for r in cut if any(a[0] < r.cut_s < a[1] for a in r.acts)]
    assert on_it and across and all(0 < r.cut_s < r.length_s for r in cut)


@pytest.mark.parametrize("seed", range(4))
def test_circumstances_do_not_know_the_label(seed):
    bouts = s.plan_bouts(s.SimulationSettings.demo(seed=seed))
    rows = bouts.loc[bouts.index.repeat(bouts["size"])]
    for name in ("light", "hour", "across", "down"):
        assert abs(roc_auc_score(rows.behavior == "tail", rows[name]) - .5) < .08, name
    cheat = s.plan_bouts(s.SimulationSettings.demo(seed=seed, shortcut=1.0))
    for name in ("light", "hour", "across"):
        assert roc_auc_score(cheat.behavior == "tail", cheat[name]) == 1.0
    share = cheat.groupby("group").apply(lambda b: np.average(b.behavior == "tail", weights=b["size"]))
    assert share[[1, 4, 6]].min() > 2 * share[[2, 3, 5]].max()


def test_bout_sizes_are_alike():
    bouts = pd.concat([s.plan_bouts(s.SimulationSettings.demo(seed=k, ears_per_tail=1)) for k in range(5)])
    means = bouts.groupby("behavior")["size"].mean()
    assert abs(means['ear'] - means['tail']) < .25


def test_a_muzzle_is_at_its_place_during_an_act_and_not_before(recordings):
    for recording in recordings[::20]:
        scripts, acts, who = s.stage(recording, DEMO)
        assert sorted(who) == [0, 1, 2, 3, 4]
        for act in (a for a in acts if a.behavior in s.CLASSES):
            times = np.linspace(act.on_s, act.off_s, 20)
            poses = s.perform(scripts, acts, times)
            gap = np.linalg.norm(poses[act.initiator][0].muzzle - s.contact_point(poses[act.receiver][0], act.behavior, act.side), axis=1)
            assert np.median(gap) < .12 and gap.max() < .3
            if act.behavior == "tail":
                assert np.linalg.norm(poses[act.receiver][0].tail - poses[act.initiator][0].muzzle, axis=1).max() < .05
        first = min(acts, key=lambda a: a.on_s)
        before = s.perform(scripts, acts, np.array([first.on_s - 3.0]))
        assert np.linalg.norm(before[first.initiator][0].muzzle - s.contact_point(before[first.receiver][0], first.behavior, first.side)) > .2


def test_sucking_is_rhythmic_and_nosing_is_slow(recordings):
    recording = next(r for r in recordings if any(a[2] == "flank" for a in r.acts))
    _, acts, _ = s.stage(recording, DEMO)
    assert all(1.3 < a.rate_hz < 2.7 for a in acts if a.behavior in s.CLASSES) and all(a.rate_hz < 1 for a in acts if a.behavior == "flank")


def test_no_trunks_cross_at_rest(recordings):
    for recording in recordings[::12]:
        scripts, acts, _ = s.stage(recording, DEMO)
        poses = s.perform(scripts, acts, np.array([(acts[0].on_s + acts[0].off_s) / 2]))
        trunks = [s.spine(p)[:5] for p, _ in poses]
        gaps = [np.linalg.norm(a[:, None] - b, axis=-1).min() for k, a in enumerate(trunks) for b in trunks[k + 1:]]
        assert min(gaps) > .3


def test_annotations_enclose_the_act_and_boxes_lie_in_the_picture(recordings):
    table = pd.concat([s.act_table(r, DEMO) for r in recordings[::6]])
    assert ((table.on_s >= table.start_s) & (table.off_s < table.start_s + table.duration_sec + 1)).all()
    assert (table.x_px >= 0).all() and (table.y_px >= 0).all() and (table.x_px + table.w_px <= 640).all() and (table.y_px + table.h_px <= 360).all()
    sucks = table[table.act.isin(s.CLASSES)]
    inside = (sucks.contact_x_px - sucks.x_px).between(0, sucks.w_px) & (sucks.contact_y_px - sucks.y_px).between(0, sucks.h_px)
    assert inside.mean() > .97 and 100 < sucks.w_px.median() < 200
    assert (table.initiator_id != table.receiver_id).all()


# ---- pictures

def test_frames_follow_the_seed(recordings):
    moments = np.array([5.0, 5.5])
    shots = [[f.copy() for f in s.film(recordings[3], settings, times=moments, size_px=(160, 90))] for settings in (DEMO, DEMO, replace(DEMO, seed=2))]
    assert np.array_equal(shots[0], shots[1]) and not np.array_equal(shots[0], shots[2])
    assert shots[0][0].shape == (90, 160, 3) and not np.array_equal(shots[0][0], shots[0][1])


def test_an_infrared_camera_sees_no_colour(recordings):
    recording = next(r for r in recordings if r.group == 4)
    frame = next(s.film(recording, DEMO, times=np.array([5.0]), size_px=(160, 90))).astype(int)
    assert np.abs(frame - frame.mean(-1, keepdims=True)).max() <= 2 * s.PENS[4].noise


def test_a_second_file_begins_with_a_frame_at_the_cut(recordings):
    recording = next(r for r in recordings if r.cut_s)
    times = s.frame_times(recording, 9.87)
    assert recording.cut_s in times and (np.diff(times) > 0).all() and np.diff(times).max() < 1 / 9.87 + 1e-9 and times[-1] < recording.length_s


# ---- the cohort on disk

def test_workers_do_not_change_a_byte(cohort, tmp_path):
    assert hashes(s.simulate_cohort(tmp_path / "again", FEW, workers=2)) == hashes(cohort)


def test_an_interrupted_cohort_is_completed(cohort, tmp_path):
    copy = shutil.copytree(cohort, tmp_path / "copy")
    truth = read_json(copy / "simulation.json")
    (copy / "simulation.json").rename(copy / ".simulation.json")
    gone = sorted(copy.glob("videos/*/*/S*.mp4"))[1]
    kept = {p: p.stat().st_mtime_ns for p in copy.glob("videos/*/*/S*.mp4") if p != gone}
    gone.unlink()
    s.simulate_cohort(copy, FEW, workers=1)
    assert hashes(copy) == hashes(cohort) and read_json(copy / "simulation.json") == truth
    twin = {p for p, t in kept.items() if p.stat().st_mtime_ns != t}
    assert all(p.parent == gone.parent for p in twin) and len(twin) <= 1     # at most the other half of the same recording


def test_a_whole_cohort_is_left_alone_and_another_refused(cohort, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in cohort.rglob("*")}
    s.simulate_cohort(cohort, FEW)
    assert {p: p.stat().st_mtime_ns for p in cohort.rglob("*")} == before
    with pytest.raises(UserError, match="holds a cohort with seed 3, not 4"):
        s.simulate_cohort(cohort, replace(FEW, seed=4))
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no cohort"):
        s.simulate_cohort(tmp_path, FEW)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_a_full_disk_is_said_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(UserError, match="are free"):
        s.simulate_cohort(tmp_path / "c", FEW)
    assert not (tmp_path / "c").exists()


def test_folders_files_and_rates_are_those_of_the_recorder(cohort):
    truth = read_json(cohort / "simulation.json")
    residue = list(cohort.rglob("._*"))
    assert residue and all(p.stat().st_size == 4096 and p.name.endswith(".mp4") for p in residue)
    assert {p.name for p in (cohort / "videos/Group 4 Day 1").iterdir() if p.is_dir()} == {"Cam 3", "Cam 5", "Cam 10", "Cam 8"}
    for recording in truth["recordings"]:
        for file in recording["files"]:
            info, camera = probe(cohort / file["path"]), f"{recording['group']}/{s.CAMERAS[recording['group']][0]}"
            assert info.fps == pytest.approx(truth["cameras"][camera]["fps"], rel=1e-3) and info.duration_s == pytest.approx(file["to_s"] - file["from_s"], abs=1 / FEW.fps)
    late = [p for p in (cohort / "videos/Group 2 Day 1/Cam 12").glob("S*.mp4")][0].name
    first = next(r for r in truth["recordings"] if (r["group"], r["day"]) == (2, 1))
    assert s.clock(first["start_s"] + 15).replace(":", "").zfill(6) in late     # the clock that is 15 s ahead


def test_the_reader_finds_the_slips_that_were_made(cohort):
    truth, manifest = read_json(cohort / "simulation.json"), read_workbook(cohort / "workbook.xlsx")
    events = manifest.events
    assert len(events) == len(truth["events"]) and len(manifest.nighttime) == 12 and 0 < len(manifest.hard_negatives) <= 9
    assert events.event_idx[events["flags"].str.contains("time_conflict")].tolist() == sorted(truth["faults"]["conflicting_end"])
    for row, event in zip(truth["events"], events.itertuples(), strict=True):
        assert event.event_idx == row["event_idx"] and event.behavior == {"mouth": "other"}.get(row["act"], row["act"])
        assert event.start_s <= row["on_s"] and row["off_s"] < event.end_s
    assert set(pd.read_csv(cohort / "boxes.csv").event_idx) == set(events.event_idx)
    assert truth["counts"]["ear"] + truth["counts"]["tail"] == FEW.events and truth["ears_per_tail_of_the_lab"] == 7.3


def test_the_demo_has_duplicates_and_mistyped_calves_that_the_reader_names(recordings, tmp_path):
    events, negatives, night, faults = s.plan_workbook(recordings, DEMO)
    found = read_workbook(s.write_workbook(tmp_path / "w.xlsx", events, negatives, night, DEMO.seed)).events
    assert len(faults["duplicate"]) == 5 and len(negatives) == 9
    assert set(found.event_idx[found["flags"].str.contains("suspect_id")]) == set(faults["mistyped_calf"])
    assert (found["flags"].str.contains("duplicate")).sum() >= len(faults["duplicate"])
    assert found.event_idx[found["flags"].str.contains("time_conflict")].tolist() == sorted(faults["conflicting_end"])
    assert {"tail/teat", "mouth", "teat"} <= set(found.behavior_raw) and found.other_class_overlap_s.max() > 0


def test_the_night_sheet_has_the_labs_words_and_no_row_is_lost(recordings, tmp_path):
    "The twelve events of the night are drawn among all acts; with many acts at the mouth some are always among them."
    words = {"ear", "tail", "teat", "mouth"}
    nights = []
    for seed in range(12):
        events, negatives, night, _ = s.plan_workbook(recordings, replace(DEMO, seed=seed))
        assert set(night.behavior_raw) | set(events.behavior_raw) <= words | {"tail/teat"} and set(negatives.behavior_raw) <= {"ear", "tail", "tailhead"}
        nights.append("mouth" in set(night.behavior_raw))
    assert any(nights)
    found = read_workbook(s.write_workbook(tmp_path / "w.xlsx", *s.plan_workbook(recordings, replace(DEMO, seed=nights.index(True)))[:3]))
    assert len(found.nighttime) == 12 and found.totals["rejected_rows"] == 0 and "other" in set(found.nighttime.behavior)


def test_the_pattern_reads_the_names(cohort):
    pattern = re.compile(yaml.safe_load((cohort / "cameras.yaml").read_text())["pattern"])
    files = [p for p in cohort.glob("videos/*/*/*.mp4")]
    assert files and all(pattern.search(p.as_posix()) and pattern.search(p.as_posix().replace("/", "\\")) for p in files)


def test_no_real_name_is_used(cohort):
    text = json.dumps(sorted(hashes(cohort))) + (cohort / "cameras.yaml").read_text() + (cohort / "simulation.json").read_text()
    assert s.RECORDER in text and "884" not in s.RECORDER and all(i < 5600 for g in s.PENS for i in s.calf_ids(g))


# ---- leaks

def test_within_auc_counts_pairs_of_one_group():
    tail, group = np.array([1, 0, 1, 0], bool), np.array([1, 1, 2, 2])
    assert s.within_auc(tail, np.array([1.0, 0.0, 11.0, 10.0]), group) == 1.0
    assert s.within_auc(tail, np.array([0.0, 10.0, 100.0, 200.0]), group) == 0.0
    assert s.within_auc(tail, np.zeros(4), group) == .5 and np.isnan(s.within_auc(tail[:1], np.zeros(1), group[:1]))


def test_a_probe_finds_a_leak_that_is_there():
    rng = np.random.default_rng(0)
    tail, group = rng.random(300) < .3, rng.integers(1, 5, 300)
    noise = rng.normal(size=(300, 4)) + group[:, None] * 10
    assert abs(s.within_auc(tail, s._scores_unseen(noise, tail, group), group) - .5) < .12
    assert s.within_auc(tail, s._scores_unseen(noise + tail[:, None] * [2, 0, 0, 0], tail, group), group) > .85


def test_probes_read_the_frames_of_their_events(cohort):
    events, features = s.probe_features(cohort)
    assert len(events) == FEW.events and all(len(x) == len(events) and np.isfinite(x).all() for x in features.values()) and len(features) == 5
    event, frames = next(s.event_frames(cohort))
    recording = next(r for r in read_json(cohort / "simulation.json")["recordings"] if r["number"] == event.recording)
    middle = (event.on_s + event.off_s) / 2 - recording["start_s"]
    file = next(f for f in recording["files"] if f["from_s"] <= middle < f["to_s"])
    again, _ = read_frames(cohort / file["path"], [middle - file["from_s"] - .2], beyond="clamp")
    assert np.array_equal(again[0], frames[0])


@pytest.mark.long
def test_in_the_demo_nothing_but_the_behaviour_tells_the_label(tmp_path):
    cohort = s.simulate_cohort(tmp_path / "demo", DEMO, workers=2)
    probes = s.leak_probes(cohort)
    assert probes.auc.between(.4, .6).all(), probes.to_string()


@pytest.mark.long
def test_with_the_shortcut_everything_tells_it(tmp_path):
    settings = s.SimulationSettings.demo(seed=1, events=120, width_px=320, height_px=180, fps=5.0, other_cameras_share=0.0, shortcut=1.0)
    probes = s.leak_probes(s.simulate_cohort(tmp_path / "c", settings, workers=2)).set_index("what").auc
    assert probes["colours of the whole picture"] > .9 and probes["hour, day, duration, place in the pen"] > .9 and probes["place and size of the box"] > .8
