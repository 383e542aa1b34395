"Clips hold the frames they promise, in every mode and from every odd file; what fails is told and leaves nothing behind."
import json
import os
import random
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
from typer.testing import CliRunner
from videos import KINDS, encode, frames, make, remux

from crosssuck import extraction
from crosssuck.cli import app
from crosssuck.core import UserError, read_table
from crosssuck.extraction import DAMAGED, LEAST_S, MODES, PAD_S, clip_span, compare_modes, extract, frame_times, plan_clips, plan_summary, recipe_path
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
    assert (table.status == "ok").all(), table.error.tolist()
    assert "open_gop" in path.name or table.error.tolist() == [""] * 4  # ffmpeg misses the frames before an open group, and says so
    for clip, event_s in zip(table.itertuples(), offsets, strict=True):
        shown = [read_number(f) for _, f in iter_frames(tmp_path / clip.clip_path)]
        assert shown == list(range(shown[0], shown[0] + len(shown))), "a frame is missing or twice"
        at_event = read_number(read_frames(tmp_path / clip.clip_path, [clip.clip_event_offset_s])[0][0])
        assert abs(true_s[at_event] - event_s) <= np.abs(true_s - event_s).min() + 0.003
        assert true_s[shown[0]] <= max(0, event_s - PAD_S) + 0.13 and true_s[shown[-1]] >= event_s + 3 + PAD_S - 0.13
        assert probe(tmp_path / clip.clip_path).start_s == pytest.approx(0, abs=1e-3)
        if mode != "copy":
            assert true_s[shown[0]] >= event_s - PAD_S - 1e-3 and clip.clip_duration_s >= LEAST_S - 0.13


@pytest.fixture(scope="module", params=["constant", "variable", "b_frames", "late_start", "nasty", "open_gop", "hevc"])
def two_files(request, tmp_path_factory):
    "Frames 0 to 149 in one file, 150 to 239 in the next; the true times of all on the first one's timeline, and where it ends."
    folder = tmp_path_factory.mktemp(request.param) / "it's a drive"
    folder.mkdir()
    (first, true_s), (second, more_s) = make(folder, request.param, 150), make(folder, request.param, 90, first=150)
    end_s = probe(first).duration_s
    return first, second, np.concatenate([true_s, end_s + more_s]), end_s


@pytest.mark.parametrize("mode", MODES)
def test_an_event_across_two_files(two_files, mode, tmp_path):
    first, second, true_s, end_s = two_files
    starts = (end_s - 1, end_s - 5, end_s + 0.5)
    table = extract(events((0, "tail", starts[0], 2), (1, "tail", starts[1], 0), (2, "ear", starts[2], 0), video=first, following=second), tmp_path, mode=mode)
    assert (table.status == "ok").all(), table.error.tolist()
    for clip, event_s in zip(table.itertuples(), starts, strict=True):
        got = list(iter_frames(tmp_path / clip.clip_path))
        shown, times_s = [read_number(f) for _, f in got], np.array([t for t, _ in got])
        assert shown == list(range(shown[0], shown[0] + len(shown)))
        assert np.abs(times_s - clip.clip_event_offset_s - (true_s[shown] - event_s)).max() < 0.07
        assert (max(shown) >= 150) == (event_s + clip.duration_sec + 1 + PAD_S > end_s)
        at_event = read_number(read_frames(tmp_path / clip.clip_path, [clip.clip_event_offset_s])[0][0])
        assert abs(at_event - np.abs(true_s - event_s).argmin()) <= 1


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


def test_a_folder_holds_one_mode(cut):
    tmp, _, table = cut
    before = stamps(tmp / "clips")
    with pytest.raises(UserError, match="holds clips of mode 'proxy'; give another folder for 'archive'"):
        extract(table, tmp / "clips", mode="archive")
    assert stamps(tmp / "clips") == before and (tmp / "clips/clips.csv").exists()


@posix
def test_a_table_goes_before_its_first_clip_is_replaced(cut, monkeypatch):
    tmp, _, table = cut
    more = pd.concat([table, table.tail(1).assign(event_idx=4)], ignore_index=True)
    fake_ffmpeg(tmp, monkeypatch, 'echo "No space left on device" >&2; exit 1')
    with pytest.raises(UserError, match="disk is full"):
        extract(more, tmp / "clips")
    assert (tmp / "clips/clips.csv").exists(), "a clip was added; what the table says of the others is still true"
    with pytest.raises(UserError, match="disk is full"):
        extract(table.assign(event_offset_sec=table.event_offset_sec + 1), tmp / "clips")
    assert not (tmp / "clips/clips.csv").exists()


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


@pytest.fixture(scope="module")
def with_a_hole(tmp_path_factory):
    "A video of 20 s in which the second half of one frame's bytes, 9 s after its start, is noise."
    import av
    rng = np.random.default_rng(0)
    noisy = (np.concatenate([rng.integers(0, 255, (40, 160, 3)).astype(np.uint8), f[40:]]) for f in frames(300))
    path = write_video(tmp_path_factory.mktemp("hole") / "hole.mp4", noisy, 15, gop=30)
    with av.open(str(path)) as container:
        packet = next(p for p in container.demux(video=0) if p.pts is not None and p.pts * p.time_base >= 9)
        at, size = packet.pos + packet.size // 2, packet.size // 2
    data = path.read_bytes()
    path.write_bytes(data[:at] + rng.integers(0, 255, size).astype(np.uint8).tobytes() + data[at + size:])
    return path


@pytest.mark.parametrize("mode", ["archive", "proxy"])
def test_a_picture_with_a_hole_is_not_passed_on_as_whole(with_a_hole, mode, tmp_path):
    table = events((0, "ear", 1, 1), (1, "tail", 8, 1), (2, "ear", 14, 1), video=with_a_hole)
    made = extract(table, tmp_path, mode=mode)
    assert made.status.tolist() == ["ok", "failed", "ok"]
    assert "corrupt decoded frame" in made.error[1] and "hole.mp4" in made.error[1]  # ffmpeg's own words
    before = stamps(tmp_path)
    kept = extract(table, tmp_path, mode=mode, keep_damaged=True)
    assert kept.status.tolist() == ["ok"] * 3 and DAMAGED in kept.error[1] and "corrupt decoded frame" in kept.error[1]
    assert {n: t for n, t in stamps(tmp_path).items() if n in before} == before, "what is whole is not cut again"
    assert extract(table, tmp_path, mode=mode).status.tolist() == ["ok", "failed", "ok"]


def test_a_file_without_an_index_is_refused_not_misread(tmp_path):
    path, _ = make(tmp_path, "b_frames")
    stream = remux(path, tmp_path / "stream.ts")
    for mode in MODES:
        made = extract(events((0, "ear", 7.3, 2), video=stream), tmp_path / mode, mode=mode)
        if made.status[0] == "ok":
            at_event = read_number(read_frames(tmp_path / mode / made.clip_path[0], [made.clip_event_offset_s[0]])[0][0])
            assert abs(at_event - 7.3 * 15) <= 1
        else:
            assert "late" in made.error[0] or "no key frame" in made.error[0]


def test_a_file_that_begins_behind_its_key_frame(tmp_path):
    "As ffmpeg -ss … -c copy leaves it: the first frames are in the file, but not to be shown."
    path, _ = make(tmp_path, "b_frames")
    later = remux(path, tmp_path / "later.mp4", "-ss", "1.4")
    table = events((0, "ear", 1, 1), (1, "tail", 9, 1), video=later)
    for mode in MODES:
        made = extract(table, tmp_path / mode, mode=mode)
        good = made[made.status == "ok"]
        assert good.event_idx.tolist() == ([1] if mode == "copy" else [0, 1])
        for clip in good.itertuples():
            at_event = read_number(read_frames(tmp_path / mode / clip.clip_path, [clip.clip_event_offset_s])[0][0])
            assert abs(at_event / 15 - 1.4 - clip.event_offset_sec) <= 1 / 15
        if mode == "copy":
            assert "no key frame at or before it; use archive or proxy" in made.error[0]


def test_a_camera_with_the_full_range_of_grey_keeps_its_light(tmp_path):
    path = encode(tmp_path / "full.mp4", frames(150), "libx264", "yuvj420p", g=30, crf=10)
    seen = read_frames(path, [4.0])[0][0].astype(int)
    for mode in MODES:
        clip = extract(events((0, "ear", 4, 0), video=path), tmp_path / mode, mode=mode).iloc[0]
        shown = read_frames(tmp_path / mode / clip.clip_path, [clip.clip_event_offset_s])[0][0].astype(int)
        assert abs(seen - shown).mean() < 3 and abs(seen.mean() - shown.mean()) < 1, mode


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
    ('"$REAL" "$@"; truncate -s 3000 "${!#}"', "cannot be read as video|has [0-9]+ of 135 frames"),
    ('"$REAL" "${@/#135/99}"', "has 99 of 135 frames"),
    ('"$REAL" "${@/#135/99}"; echo "a word of ffmpeg" >&2', r"has 99 of 135 frames \(a word of ffmpeg\)"),
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


def test_the_command_shows_a_plan_in_every_mode(cut):
    tmp, path, table = cut
    lab = table.assign(group=1, day=1, date="7/6/2024", start_time="12:00:00", end_time="12:00:02")
    lab.loc[3, "video_path"] = str(tmp / "lost.mp4")
    lab.to_csv(tmp / "linked.csv", index=False)
    said = CliRunner().invoke(app, ["extract", str(tmp / "linked.csv"), "--out", str(tmp / "clips"), "--dry-run"])
    assert said.exit_code == 0 and not (tmp / "copy").exists()
    for words in ("mode", "video_hours", "gigabytes", "hours", "copy", "archive", "proxy", "lost.mp4: no such file", "3 of the 3 clips are already there"):
        assert words in said.output, said.output
    plans = compare_modes(table)
    assert plans.index.tolist() == list(MODES) and (plans.clips == 4).all() and plans.hours["archive"] > plans.hours["proxy"] > plans.hours["copy"] > 0


def test_the_bar_counts_seconds_of_video_and_failures(cut, monkeypatch, capsys):
    tmp, path, table = cut
    (tmp / "half.mp4").write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    table = table.assign(video_path=[str(path)] * 3 + [str(tmp / "half.mp4")], event_offset_sec=[0, 3, 6, 12])
    monkeypatch.setenv("CROSSSUCK_PROGRESS", "1")
    total_s = round(plan_clips(table).length_s.sum())
    made = extract(table, tmp / "again")
    last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert (made.status == "failed").sum() == 1 and f"{total_s}/{total_s} [" in last and "s of video" in last and "failed=1" in last


def test_exit_code_and_words_of_the_command(cut):
    tmp, path, table = cut
    lab = table.assign(group=1, day=1, date="7/6/2024", start_time="12:00:00", end_time="12:00:02")
    lab.to_csv(tmp / "linked.csv", index=False)
    assert CliRunner().invoke(app, ["extract", str(tmp / "linked.csv"), "--out", str(tmp / "good")]).exit_code == 0
    lab.loc[1, "video_path"] = str(tmp / "lost.mp4")
    lab.to_csv(tmp / "linked.csv", index=False)
    said = CliRunner().invoke(app, ["extract", str(tmp / "linked.csv"), "--out", str(tmp / "bad")])
    assert said.exit_code == 1 and "3 clips of 4" in said.output and "lost.mp4: no such file" in said.output
    assert len(list((tmp / "bad").glob("*.mp4"))) == 3 and "note:" not in said.output
    lab.assign(behavior="tail").head(1).to_csv(tmp / "linked.csv", index=False)
    said = CliRunner().invoke(app, ["extract", str(tmp / "linked.csv"), "--out", str(tmp / "bad")])
    assert said.exit_code == 0 and "note: 3 other clips lie there" in said.output


KILLED = """
import sys
import pandas as pd
from crosssuck.extraction import extract
extract(pd.read_csv(sys.argv[1]), sys.argv[2], mode="archive", workers=2)
"""


def parts(folder: Path) -> set[str]:
    "Names of the clips that are being written."
    return {p.name for p in folder.glob(".evt_*.part.mp4")}


def whole(folder: Path) -> list[str]:
    "Names of the clips that a second call would take as they are; each must decode to the last frame that its recipe promises."
    done = []
    for recipe in sorted(folder.glob("evt_*.recipe.json")):
        clip, facts = folder / recipe.name.replace(".recipe.json", ".mp4"), json.loads(recipe.read_text())
        times_s = [t for t, _ in iter_frames(clip)]
        assert len(times_s) == probe(clip).n_frames >= 80 and abs(times_s[-1] - facts["clip_duration_s"]) < 0.2
        assert read_number(read_frames(clip, [facts["clip_event_offset_s"]])[0][0]) == 3 * int(clip.name[4:8])
        done.append(clip.name)
    return done


@posix
@pytest.mark.parametrize("kills, n", [(3, 24), pytest.param(20, 80, marks=pytest.mark.long)])
def test_a_killed_extraction_leaves_nothing_that_is_taken_for_whole(kills, n, tmp_path, root):
    "Killed the moment that it begins its first, second or third new clip, however fast the machine; the last call completes the set."
    video = write_video(tmp_path / "v.mp4", frames(300, size=(480, 270)), 15, preset="ultrafast")
    table = events(*[(i, "ear", 0.2 * i, 1) for i in range(n)], video=video)
    table.to_csv(tmp_path / "linked.csv", index=False)
    clips, moments, done = tmp_path / "clips", random.Random(1), [[]]
    for _ in range(kills):
        job = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "linked.csv"), str(clips)], start_new_session=True, cwd=root, stderr=subprocess.DEVNULL)
        old, new, wanted, until = parts(clips), set(), moments.randint(1, 3), time.monotonic() + 120
        while len(new) < wanted and job.poll() is None and time.monotonic() < until:
            new |= parts(clips) - old
            time.sleep(0.002)
        assert len(new) >= wanted and job.poll() is None, "it ended before it could be killed"
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        done.append(whole(clips))
        assert set(done[-2]) <= set(done[-1]) and not (clips / "clips.csv").exists()
    assert len(done[-1]) < n and parts(clips), "it was killed in the middle of a clip"
    before = {n: t for n, t in stamps(clips).items() if n in done[-1]}
    made = extract(table, clips, mode="archive")
    assert (made.status == "ok").all() and len(whole(clips)) == n and not list(clips.glob(".*"))
    assert {n: stamps(clips)[n] for n in before} == before, "what was whole was not cut again"


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
