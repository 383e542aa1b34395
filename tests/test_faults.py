"Bad input through the real command: one line that names the place and the remedy, an exit code that is not 0, nothing half-written."
import os
import shutil
import subprocess
import sys
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from crosssuck.core import write_text
from crosssuck.experiments import TINY_CONFIG, tiny_notebooks
from crosssuck.simulation import tiny_drive, tiny_workbook

MAIN = [sys.executable, "-c", "from crosssuck.cli import main; main()"]


def run(*words, cwd=None, file_limit=None, **env):
    "Call the command in a process of its own."
    limit = None
    if file_limit is not None:
        import resource

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([*MAIN, *map(str, words)], capture_output=True, text=True, cwd=cwd, preexec_fn=limit, env={**os.environ, "PYTHONPATH": path, **env}, timeout=300)


def refused(done, *words):
    "Assert that the command said in one line what to mend, and left with 1."
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert len(lines) == 1 and lines[0].startswith("crosssuck: "), done.stderr
    assert all(w in lines[0] for w in words), lines[0]
    assert ";" in lines[0], f"no remedy in: {lines[0]}"
    return lines[0]


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    "A drive of our own, taken to linked.csv."
    work = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_drive(), work / "drive")
    for words in (("manifest", "drive/workbook.xlsx", "--out", "manifest"), ("scan", "drive/videos", "--cameras", "drive/cameras.yaml", "--out", "inventory.csv"),
                  ("link", "manifest/events.csv", "inventory.csv", "--cameras", "drive/cameras.yaml", "--out", "linked.csv")):
        done = run(*words, cwd=work)
        assert done.returncode == 0, done.stderr
    return work


@pytest.fixture
def project(tmp_path):
    return tiny_notebooks(tmp_path / "project")


def spoilt(path, change):
    "Change a workbook in place."
    tiny_workbook(path)
    book = openpyxl.load_workbook(path)
    change(book)
    book.save(path)
    return path


def test_workbook_without_its_sheet(tmp_path):
    def rename(book):
        book["Final CS bouts"].title = "Sheet 1"
    path = spoilt(tmp_path / "events.xlsx", rename)
    refused(run("manifest", path, "--out", tmp_path / "out"), "events.xlsx", "Final CS bouts")
    assert not (tmp_path / "out").exists()


def test_workbook_without_a_column(tmp_path):
    def rename(book):
        sheet = book["Final CS bouts"]
        next(c for c in sheet[1] if str(c.value).strip().lower().startswith("behavi")).value = "What"
    path = spoilt(tmp_path / "events.xlsx", rename)
    refused(run("manifest", path, "--out", tmp_path / "out"), "events.xlsx", "Behavior")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"not a workbook at all", b"PK\x03\x04 torn"])
def test_workbook_that_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / "events.xlsx").write_bytes(content)
    refused(run("manifest", tmp_path / "events.xlsx", "--out", tmp_path / "out"), "events.xlsx")
    assert not (tmp_path / "out").exists()


def test_folder_without_videos(tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive/._a.mp4").write_bytes(b"\0" * 4096)
    refused(run("scan", tmp_path / "drive", "--out", tmp_path / "inventory.csv"), "drive")
    refused(run("scan", tmp_path / "nowhere", "--out", tmp_path / "inventory.csv"), "nowhere")
    assert not (tmp_path / "inventory.csv").exists()


def test_unreadable_video(linked, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(linked / "drive/videos", videos)
    table = pd.read_csv(linked / "linked.csv", dtype=str, keep_default_na=False)
    name = table.video_filename[0]
    next(videos.rglob(name)).write_bytes(b"no video")
    done = run("extract", linked / "linked.csv", "--out", tmp_path / "clips", "--root", f"{linked / 'drive/videos'}={videos}", "--root", f"drive/videos={videos}", cwd=linked)
    assert done.returncode == 1 and "Traceback" not in done.stderr and name in done.stdout + done.stderr
    clips = pd.read_csv(tmp_path / "clips/clips.csv")
    here = set(p.name for p in (tmp_path / "clips").glob("*.mp4"))
    assert here == {Path(p).name for p in clips[clips.status == "ok"].clip_path} and (clips[clips.video_filename == name].status == "failed").all()


def test_missing_ffmpeg(linked, tmp_path):
    refused(run("extract", linked / "linked.csv", "--out", tmp_path / "clips", cwd=linked, CROSSSUCK_FFMPEG="/nowhere/ffmpeg"), "/nowhere/ffmpeg", "CROSSSUCK_FFMPEG")
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize("text, words", [("optimm: {lr: 1}", ["unknown key 'optimm'", "did you mean 'optim'"]), ("augment: {use_mixup: true}", ["unknown key 'augment.use_mixup'"]),
                                         ("optim: {lr: 1e-4}", ["optim.lr", "write 1.0e-4"]), ("data: [", ["not valid YAML"]),
                                         ("model: {backbone: resnet}", ["model.backbone: 'resnet' is no backbone", "mvit_v2_s"]), ("window: {views: 0}", ["window.views: is 0, not 1 or more"]),
                                         ("data: {}", ["the key 'data' stands there twice"]), ("experiment: other", ["experiment is 'other'"])])
def test_config_that_is_wrong(project, text, words):
    base = TINY_CONFIG if not text.startswith("optim:") else TINY_CONFIG.replace("lr: 0.001", "lr: 1e-4")
    write_text(project / "configs/wrong.yaml", base + ("" if text.startswith("optim:") else text + "\n"))
    refused(run("run", "configs/wrong.yaml", cwd=project, CROSSSUCK_ROOT=str(project)), "wrong.yaml", *words)
    assert not (project / "runs").exists()


def test_run_folder_that_exists(project):
    write_text(project / "runs/tiny/s42/config.yaml", TINY_CONFIG)
    before = sorted(p for p in project.rglob("*"))
    refused(run("run", "configs/tiny.yaml", cwd=project, CROSSSUCK_ROOT=str(project)), "runs/tiny/s42", "the run exists", "--resume")
    assert sorted(p for p in project.rglob("*")) == before


def test_failed_notebook_is_one_line_too(project):
    tiny_notebooks(project, fault="from crosssuck.core import UserError; raise UserError('event 7 has no clip', where='clips.csv', remedy='extract it')")
    write_text(project / "runs/tiny/s1/config.yaml", "")
    (project / "runs/tiny/s1/config.yaml").unlink()
    done = run("run", "configs/tiny.yaml", "--seeds", "1", cwd=project, CROSSSUCK_ROOT=str(project))
    refused(done, "1 of 1 runs did not finish", "tiny/s1 at evaluate", "clips.csv: event 7 has no clip; extract it", "--resume")
    assert "[tiny/s1] train: done" in done.stdout and not (project / "runs/tiny/s1/DONE").exists()


@pytest.fixture
def full_disk(tmp_path):
    "A disk of 64 kB, if this user may mount one; else a limit on the size of a file."
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode == 0
    try:
        yield disk, None if mounted else 16_000
    finally:
        if mounted:
            subprocess.run(["umount", disk], check=True)


def many_events(path):
    from crosssuck.simulation import tiny_events
    tiny_events(600).to_csv(path, index=False)
    return path


def test_full_disk(full_disk, tmp_path):
    disk, limit = full_disk
    refused(run("split", many_events(tmp_path / "linked.csv"), "--out", disk / "split", file_limit=limit), "the disk is full", "free some space")
    assert not [p for p in disk.rglob("*") if ".part" in p.name], "a temporary file was left"
    assert not (disk / "split/split.json").exists(), "half a split must not look like a whole one"


@pytest.mark.parametrize("verb", ["link", "manifest"])
def test_a_full_disk_keeps_files_that_belong_together_together(verb, full_disk, linked, tmp_path):
    disk, limit = full_disk
    events = many_events(tmp_path / "events.csv")
    words, name = {"link": (("link", events, linked / "inventory.csv", "--cameras", linked / "drive/cameras.yaml", "--out", disk / "l.csv"), "l.csv"),
                   "manifest": (("manifest", tiny_workbook(tmp_path / "events.xlsx"), "--out", disk), "manifest.json")}[verb]
    for p in ("l.csv", "l_unlinked.csv") if verb == "link" else ("events.csv", "manifest.json"):
        (disk / p).write_text("old\n")
    if verb == "manifest":
        limit = limit and 2_000
        (disk / "filler").write_bytes(b"x" * (48_000 if limit is None else 1))
    before = {p.name: p.read_bytes() for p in disk.iterdir()}
    line = refused(run(*words, cwd=linked, file_limit=limit), f"{name}: the disk is full", "free some space")
    assert ".part" not in line and {p.name: p.read_bytes() for p in disk.iterdir()} == before


def test_a_folder_in_place_of_a_file(linked, tmp_path):
    before = sorted(p for p in tmp_path.rglob("*"))
    refused(run("link", "manifest/events.csv", "inventory.csv", "--cameras", "drive/cameras.yaml", "--out", tmp_path, cwd=linked), f"{tmp_path}: a folder", "give the name of a file")
    assert sorted(p for p in tmp_path.rglob("*")) == before and not tmp_path.with_name(f"{tmp_path.name}_unlinked.csv").exists()


@pytest.mark.parametrize("change, words", [(lambda rows: [rows[0], *(r + "," for r in rows[1:])], None), (lambda rows: [*rows[:-1], rows[-1][:40]], "cut off"), (lambda rows: [rows[0] + ",behavior", *(r + ",ear" for r in rows[1:])], "two columns are called 'behavior'")])
def test_tables_of_events_out_of_shape(linked, tmp_path, change, words):
    for verb, table, more in (("split", many_events(tmp_path / "many.csv"), ("--out", tmp_path / "split")), ("link", linked / "manifest/events.csv", (linked / "inventory.csv", "--cameras", linked / "drive/cameras.yaml", "--out", tmp_path / "l.csv")),
                              ("extract", linked / "linked.csv", ("--out", tmp_path / "clips", "--dry-run"))):
        write_text(tmp_path / "odd.csv", "\n".join(change(Path(table).read_text().splitlines())))
        done = run(verb, tmp_path / "odd.csv", *more, cwd=linked)
        if words is None:
            assert done.returncode == 0, done.stderr
        else:
            refused(done, "odd.csv, line ", words)
    assert words is None or {p.name for p in tmp_path.iterdir()} == {"many.csv", "odd.csv"}


def test_a_config_is_no_checkpoint(tmp_path):
    write_text(tmp_path / "config.yaml", TINY_CONFIG)
    refused(run("predict", tmp_path / "config.yaml", many_events(tmp_path / "test.csv"), "--out", tmp_path / "p.csv"), "config.yaml: not a readable checkpoint", "best.ckpt")
    assert not (tmp_path / "p.csv").exists()


def test_full_disk_leaves_the_old_file_whole(full_disk, tmp_path):
    disk, limit = full_disk
    (disk / "inventory.csv").write_text("path,nframes,fps,size,valid\n")
    (disk / "filler").write_bytes(b"x" * (60_000 if limit is None else 1))
    long_name = "a" * 150
    folder = tmp_path / "drive/Group 1 Day 1/Cam 8"
    folder.mkdir(parents=True)
    from crosssuck.simulation import tiny_drive
    clip = next(tiny_drive().rglob("*_main_*.mp4"))
    for k in range(40 if limit is None else 120):
        shutil.copy(clip, folder / f"{long_name}{k}_ch8_main_202407060{k // 60}{k % 60:02}00_202407060{k // 60}{k % 60:02}30.mp4")
    refused(run("scan", tmp_path / "drive", "--out", disk / "inventory.csv", file_limit=limit), "the disk is full")
    assert (disk / "inventory.csv").read_text() == "path,nframes,fps,size,valid\n" and {p.name for p in disk.iterdir()} - {".inventory.csv.journal"} == {"filler", "inventory.csv"}
    (disk / "filler").unlink()
    assert run("scan", tmp_path / "drive", "--out", disk / "inventory.csv").returncode == 0, "with room again, the scan goes on from its journal"
    assert sorted(p.name for p in disk.iterdir()) == ["inventory.csv"] and len(pd.read_csv(disk / "inventory.csv")) == len(list(folder.iterdir()))


def test_full_disk_while_cutting_clips(full_disk, linked):
    disk, limit = full_disk
    done = run("extract", linked / "linked.csv", "--out", disk / "clips", "--mode", "copy", cwd=linked, file_limit=limit)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not [p for p in disk.rglob("*") if ".part" in p.name]
