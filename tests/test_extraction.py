"Clips hold the frames they promise, in every mode and from every odd file; what fails is told and leaves nothing behind."
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from videos import KINDS, frames, make

from crosssuck import extraction
from crosssuck.core import UserError, read_table
from crosssuck.extraction import LEAST_S, MODES, PAD_S, clip_span, extract, frame_times, plan_clips, plan_summary, recipe_path
from crosssuck.video import iter_frames, probe, read_frames, read_number, write_video

posix = pytest.mark.skipif(os.name != "posix", reason="uses a shell script in ffmpeg's place")


def events(*rows, video, following=""):
    "A linked table: rows of (event_idx, behavior, offset_s, duration_s)."
    table = pd.DataFrame(rows, columns=["event_idx", "behavior", "event_offset_sec", "duration_sec"])
    return table.assign(video_path=str(video), next_video_path=str(following))


@pytest.fixture(scope="module", params=KINDS)
def odd(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("mode", MODES)
def test_the_event_is_where_the_table_says(odd, mode, tmp_path):
    path, true_s = odd
    offsets = (0, 1, 7.3, 12)
    table = extract(events(*[(i, "ear", s, 2) for i, s in enumerate(offsets)], video=path), tmp_path, mode=mode)
    assert table.error.tolist() == [""] * 4
    for clip, event_s in zip(table.itertuples(), offsets, strict=True):
        shown = [read_number(f) for _, f in iter_frames(tmp_path / clip.clip_path)]
        assert shown == list(range(shown[0], shown[0] + len(shown))), "a frame is missing or twice"
        at_event = read_number(read_frames(tmp_path / clip.clip_path, [clip.clip_event_offset_s])[0][0])
        assert abs(true_s[at_event] - event_s) <= np.abs(true_s - event_s).min() + 0.003
        assert true_s[shown[0]] <= max(0, event_s - PAD_S) + 0.13 and true_s[shown[-1]] >= event_s + 3 + PAD_S - 0.13
        assert probe(tmp_path / clip.clip_path).start_s == pytest.approx(0, abs=1e-3)
        if mode != "copy":
            assert true_s[shown[0]] >= event_s - PAD_S - 1e-3 and clip.clip_duration_s >= LEAST_S - 0.13


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["b_frames", "nasty"])
def test_an_event_across_two_files(kind, mode, tmp_path):
    folder = tmp_path / "it's a drive"
    folder.mkdir()
    (first, true_s), (second, _) = make(folder, kind, 150), make(folder, kind, 90, first=150)
    end_s = probe(first).duration_s
    table = extract(events((0, "tail", end_s - 1, 2), (1, "tail", end_s - 5, 0), (2, "ear", end_s + 0.5, 0), video=first, following=second), tmp_path, mode=mode)
    assert table.error.tolist() == [""] * 3
    for clip, (_, event_s) in zip(table.itertuples(), ((0, end_s - 1), (1, end_s - 5), (2, end_s + 0.5)), strict=True):
        got = list(iter_frames(tmp_path / clip.clip_path))
        shown, times_s = [read_number(f) for _, f in got], np.array([t for t, _ in got])
        assert shown == list(range(shown[0], shown[0] + len(shown)))
        timeline_s = np.concatenate([true_s, end_s + true_s[:90]])[shown] - event_s
        assert np.abs(times_s - clip.clip_event_offset_s - timeline_s).max() < 0.07
        assert (max(shown) >= 150) == (event_s + clip.duration_sec + 1 + PAD_S > end_s)


def test_without_a_next_file_the_clip_says_what_is_missing(tmp_path):
    path, _ = make(tmp_path, "constant", 150)
    table = extract(events((0, "ear", 8, 7), (1, "ear", 11, 1), video=path), tmp_path)
    assert table.status.tolist() == ["ok", "failed"]
    assert table.error[0] == "the recording ends 6.0 s before the event does" and "starts at 11.0 s of a segment of 10.0 s" in table.error[1]
    assert table.clip_duration_s[0] == pytest.approx(LEAST_S, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_span_properties(seed):
    rng = np.random.default_rng(seed)
    for _ in range(300):
        segment_s, next_s = rng.uniform(1, 40), rng.choice([0, rng.uniform(1, 40)])
        event_s = rng.uniform(0, segment_s)
        end_s = event_s + rng.integers(1, 60)
        from_s, to_s, next_to_s = clip_span(event_s, end_s, segment_s, next_s)
        assert 0 <= from_s < to_s <= segment_s and 0 <= next_to_s <= next_s + 1e-9
        assert from_s <= max(0, event_s - PAD_S) + 1e-9
        length_s = to_s - from_s + next_to_s
        assert length_s >= min(LEAST_S, segment_s + next_s) - 1e-6
        assert to_s + next_to_s >= min(end_s + PAD_S, segment_s + next_s) - 1e-6
        assert next_to_s == 0 or to_s == segment_s


@pytest.mark.parametrize("size, expected", [((640, 480), (426, 320)), ((480, 640), (320, 426)), ((322, 200), (322, 200)), ((1000, 322), (994, 320))])
def test_proxy_is_never_larger_than_its_source(tmp_path, size, expected):
    path = write_video(tmp_path / "v.mp4", frames(95, size=size), 15, preset="ultrafast")
    clip = extract(events((0, "ear", 2, 0), video=path), tmp_path).iloc[0]
    assert (clip.clip_width_px, clip.clip_height_px) == expected and (clip.source_width_px, clip.source_height_px) == size
    assert read_number(read_frames(tmp_path / clip.clip_path, [clip.clip_event_offset_s])[0][0]) == 30
    times, keys = frame_times(tmp_path / clip.clip_path)
    assert np.diff(times[keys]).max() <= 1.01


@pytest.fixture
def cut(tmp_path):
    "A folder with a video of 20 s and four clips of it."
    path, _ = make(tmp_path, "constant")
    table = events(*[(i, "ear", 3 * i, 1) for i in range(4)], video=path)
    extract(table, tmp_path / "clips")
    return tmp_path, path, table


def stamps(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.mp4")}


def test_resume_cuts_only_what_is_not_whole(cut):
    tmp, _, table = cut
    before, csv = stamps(tmp / "clips"), (tmp / "clips" / "clips.csv").read_bytes()
    extract(table, tmp / "clips")
    assert stamps(tmp / "clips") == before and (tmp / "clips" / "clips.csv").read_bytes() == csv
    names = sorted(before)
    (tmp / "clips" / names[0]).unlink()
    os.truncate(tmp / "clips" / names[1], 2000)
    recipe_path(tmp / "clips" / names[2]).write_text("{half")
    (tmp / "clips" / ".evt_0003_ear.zzz.part.mp4").write_bytes(b"left by a killed job")
    extract(table, tmp / "clips")
    after = stamps(tmp / "clips")
    assert [n for n in names if after[n] != before[n]] == names[:3]
    assert (tmp / "clips" / "clips.csv").read_bytes() == csv and not list((tmp / "clips").glob(".*"))


def test_what_makes_a_clip_anew(cut):
    tmp, path, table = cut
    before = stamps(tmp / "clips")
    extract(table.assign(duration_sec=[1, 2, 1, 1]), tmp / "clips")
    changed = stamps(tmp / "clips")
    assert [n for n in sorted(before) if before[n] != changed[n]] == ["evt_0001_ear.mp4"]
    moved = tmp / "elsewhere" / path.name
    moved.parent.mkdir()
    shutil.copyfile(path, moved)
    extract(table.assign(duration_sec=[1, 2, 1, 1], video_path=rf"F:\x\{path.name}"), tmp / "clips", roots={"F:\\x": str(moved.parent)})
    assert stamps(tmp / "clips") == changed, "the same file on another drive is the same file"
    again = extract(table, tmp / "clips", mode="archive")
    assert set(again.clip_mode) == {"archive"} and all(changed[n] != t for n, t in stamps(tmp / "clips").items())


def test_clips_csv_can_be_read_back(cut):
    tmp, _, table = cut
    clips = read_table(tmp / "clips" / "clips.csv", need=[*table, *extraction.CLIP_COLUMNS.columns], number=["clip_event_offset_s"])
    assert clips.clip_path.tolist() == [f"evt_{i:04d}_ear.mp4" for i in range(4)] and (clips.status == "ok").all()
    assert clips.clip_event_offset_s.tolist() == pytest.approx([0, 3, 3, 3])


def test_one_bad_event_does_not_stop_the_others(tmp_path):
    path, _ = make(tmp_path, "constant", 150)
    (tmp_path / "half.mp4").write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    table = events((0, "ear", 3, 1), (1, "tail", 9, 1), (2, "ear", 3, 1), (3, "ear", np.nan, 1), (4, "ear", -1, 1), (5, "ear", 4, 1), video=path)
    table["video_path"] = [str(path), str(tmp_path / "half.mp4"), str(tmp_path / "none.mp4"), str(path), str(path), ""]
    made = extract(table, tmp_path / "clips", workers=3)
    assert made.status.tolist() == ["ok"] + ["failed"] * 5
    for error, words in zip(made.error[1:], ("half.mp4.*damaged", "none.mp4: no such file", "not linked", "starts at -1.0 s", "not linked"), strict=True):
        assert pd.Series([error]).str.contains(words, regex=True).all(), error
    assert [p.name for p in (tmp_path / "clips").glob("*.mp4")] == ["evt_0000_ear.mp4"] and (made.clip_path[1:] == "").all()


def fake_ffmpeg(tmp_path, monkeypatch, script):
    "Put a shell script in ffmpeg's place; $REAL is the real one, ${!#} the file to write."
    path = tmp_path / "fake_ffmpeg"
    path.write_text("#!/bin/bash\nREAL=" + extraction.find_ffmpeg() + "\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CROSSSUCK_FFMPEG", str(path))


@posix
@pytest.mark.parametrize("script, words", [
    ('echo "x264 [error]: out of luck" >&2; exit 3', "code 3: x264 .error.: out of luck"),
    ("kill -9 $$", "code -9: no words"),
    ("exit 0", "cannot be read as video|is empty"),
    ('"$REAL" "$@"; truncate -s 3000 "${!#}"', "cannot be read as video"),
    ('"$REAL" "${@/#135/99}"', "has 99 of 135 frames"),
])
def test_a_failing_ffmpeg_is_quoted_and_leaves_nothing(tmp_path, monkeypatch, script, words):
    path, _ = make(tmp_path, "constant")
    fake_ffmpeg(tmp_path, monkeypatch, script)
    made = extract(events((0, "ear", 5, 2), video=path), tmp_path / "clips")
    assert made.status[0] == "failed" and made.error.str.contains(words, regex=True)[0], made.error[0]
    assert [p.name for p in (tmp_path / "clips").iterdir()] == ["clips.csv"]


@posix
def test_a_full_disk_ends_everything(tmp_path, monkeypatch):
    path, _ = make(tmp_path, "constant")
    fake_ffmpeg(tmp_path, monkeypatch, 'echo "av_interleaved_write_frame(): No space left on device" >&2; exit 1')
    with pytest.raises(UserError, match="the disk is full"):
        extract(events(*[(i, "ear", 2, 2) for i in range(6)], video=path), tmp_path / "clips")
    assert list((tmp_path / "clips").iterdir()) == []


def test_refusals_before_any_work(tmp_path, monkeypatch):
    path, _ = make(tmp_path, "constant", 150)
    good = events((0, "ear", 2, 2), video=path)
    for table, mode, words in ((good, "proxi", "no mode 'proxi'"), (good.drop(columns="video_path"), "proxy", "no column video_path"), (good.head(0), "proxy", "no events"),
                               (pd.concat([good, good]), "proxy", "event 0 stands in 2 rows"), (good.assign(video_path=r"Q:\none.mp4"), "proxy", "none of the 1 videos is there")):
        with pytest.raises(UserError, match=words):
            extract(table, tmp_path / "clips", mode=mode)
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(1, 1, 10))
    with pytest.raises(UserError, match="GB are free"):
        extract(good, tmp_path / "clips")
    monkeypatch.setenv("CROSSSUCK_FFMPEG", "/no/ffmpeg")
    with pytest.raises(UserError, match="no program at"):
        extract(good, tmp_path / "clips")
    assert not list(tmp_path.glob("clips/*"))


def test_a_dry_run_writes_nothing_and_estimates_well(cut):
    tmp, path, table = cut
    plan = extract(table, tmp / "dry", dry_run=True)
    assert not (tmp / "dry").exists() and plan_summary(plan)["clips"] == 4
    big = write_video(tmp / "big.mp4", frames(120, size=(640, 360)), 15)
    for mode in MODES:
        one = events((0, "ear", 4, 2), video=big)
        size = (tmp / mode / extract(one, tmp / mode, mode=mode).clip_path[0]).stat().st_size
        assert 0.2 < plan_clips(one, mode).bytes_estimate[0] / size < 10


KILLED = """
import sys
import pandas as pd
from crosssuck.extraction import extract
extract(pd.read_csv(sys.argv[1]), sys.argv[2], mode="archive", workers=2)
"""


@posix
def test_a_killed_extraction_leaves_nothing_that_is_taken_for_whole(tmp_path, root):
    video = write_video(tmp_path / "v.mp4", frames(150, size=(480, 270)), 15, preset="ultrafast")
    table = events(*[(i, "ear", 3 * i, 1) for i in range(3)], video=video)
    table.to_csv(tmp_path / "linked.csv", index=False)
    job = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "linked.csv"), str(tmp_path / "clips")], start_new_session=True, cwd=root, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(p.stat().st_size > 0 for p in tmp_path.glob("clips/.evt_*.part.mp4")):
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert list(tmp_path.glob("clips/.evt_*.part.mp4")), "it was killed in the middle of a clip"
    for clip in tmp_path.glob("clips/evt_*.mp4"):
        assert probe(clip).n_frames >= 80
    made = extract(table, tmp_path / "clips", mode="archive")
    assert (made.status == "ok").all() and not list(tmp_path.glob("clips/.*"))
    for clip in made.itertuples():
        path = tmp_path / "clips" / clip.clip_path
        assert len(list(iter_frames(path))) == probe(path).n_frames
        assert read_number(read_frames(path, [clip.clip_event_offset_s])[0][0]) == 45 * clip.event_idx


@pytest.mark.lab
def test_the_lab_table_is_a_valid_plan(lab, tmp_path):
    table = read_table(lab / "MASTER_LINKED_v4.csv", integer=["event_idx"], number=["event_offset_sec", "duration_sec"])
    with pytest.raises(UserError, match="none of the 208 videos is there.*--root"):
        plan_clips(table, "proxy")
    first = table.video_path.map(lambda p: p.replace("\\", "/").rsplit("/", 3)[-3:])
    root = table.video_path[0][:table.video_path[0].index(first[0][0])].rstrip("\\")
    there = Path(tmp_path, *first[0])
    there.parent.mkdir(parents=True)
    shutil.copyfile(make(tmp_path, "constant", 150)[0], there)
    plan = plan_clips(table, "proxy", {root: str(tmp_path)})
    assert len(plan) == 1897 and plan.fault.str.contains("no such file").sum() == (table.video_path != table.video_path[0]).sum()
