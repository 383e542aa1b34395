"The command: fast help, examples that parse, exit codes, and each verb on real small input."
import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from calling import call
from crosssuck.cli import app, checkup, given, made, numbers, predict_table, root_map
from crosssuck.core import UserError
from crosssuck.simulation import tiny_drive, tiny_events, tiny_predictions, tiny_study

COMMAND = typer.main.get_command(app)
VERBS = [n for n, c in COMMAND.commands.items() if not c.hidden]
DESIGN = ["simulate", "manifest", "import-boris", "export-boris", "scan", "link", "verify-cameras", "extract", "extract-array", "split", "audit-split", "plan-size", "run", "evaluate", "calibrate", "confounds", "curves", "compare", "ensemble",
          "predict", "status", "cancel", "resume", "clean", "report", "progress-report", "reproduce", "doctor"]


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drive") / "drive"
    shutil.copytree(tiny_drive(), folder)
    return folder


@pytest.fixture(scope="module")
def linked(drive):
    "A simulated drive taken to linked.csv by the verbs themselves."
    work = drive.parent
    call("manifest", drive / "workbook.xlsx", "--out", work / "manifest")
    call("scan", drive / "videos", "--cameras", drive / "cameras.yaml", "--out", work / "inventory.csv")
    call("link", work / "manifest/events.csv", work / "inventory.csv", "--cameras", drive / "cameras.yaml", "--out", work / "linked.csv")
    return work / "linked.csv"


def test_all_verbs_of_the_design_are_there_with_an_example_that_parses():
    assert sorted(VERBS) == sorted(DESIGN)
    for name in VERBS:
        command = COMMAND.commands[name]
        example = re.search(r"Example:\s+crosssuck (.*)", command.epilog)[1].strip()
        words = shlex.split(example)
        assert words[0] == name and command.help
        with command.make_context(name, words[1:]) as context:  # parses options and their types
            assert context.params is not None
        help_text = call(name, "--help")
        assert "Example:" in help_text and name in help_text


def test_help_is_fast_and_brings_in_nothing_heavy():
    code = "import sys; from crosssuck.cli import main; sys.argv = ['crosssuck', '--help']; main()"
    best = min(_timed([sys.executable, "-c", code]) for _ in range(5))
    assert best < 1.0
    loaded = subprocess.run([sys.executable, "-c", "import sys, crosssuck.cli; print(*sys.modules)"], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas", "numpy", "matplotlib", "papermill", "pydantic"} & set(loaded)


def _timed(words):
    begun = time.perf_counter()
    subprocess.run(words, capture_output=True, check=True)
    return time.perf_counter() - begun


@pytest.mark.parametrize("fault, code, words", [
    (UserError("no column 'x'", where="a.csv", remedy="add it"), 1, "crosssuck: a.csv: no column 'x'; add it"),
    (OSError(errno.ENOSPC, "No space left on device", "out.csv"), 1, "crosssuck: out.csv: the disk is full; free some space"),
    (PermissionError(errno.EACCES, "Permission denied", "out.csv"), 1, "crosssuck: out.csv: permission denied"),
    (KeyboardInterrupt(), 130, "interrupted")])
def test_faults_are_one_line_and_have_their_exit_code(monkeypatch, fault, code, words):
    import crosssuck.experiments

    def broken(*args):
        raise fault

    monkeypatch.setattr(crosssuck.experiments, "watch_runs", broken)
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == code and result.stderr.startswith(words) and len(result.stderr.strip().splitlines()) == 1 and result.stdout == ""


def test_fault_of_the_program_keeps_its_traceback(monkeypatch):
    import crosssuck.experiments
    monkeypatch.setattr(crosssuck.experiments, "watch_runs", lambda runs: 1 / 0)
    assert isinstance(CliRunner().invoke(app, ["status"]).exception, ZeroDivisionError)
    monkeypatch.setattr(crosssuck.experiments, "watch_runs", lambda runs: (_ for _ in ()).throw(UserError("x")))
    monkeypatch.setenv("CROSSSUCK_DEBUG", "1")
    assert isinstance(CliRunner().invoke(app, ["status"]).exception, UserError)


@pytest.mark.parametrize("words", [["nosuchverb"], ["split", "a.csv", "--nosuch", "1"], ["manifest"], ["extract", "a.csv", "--out", "b", "--workers", "0"]])
def test_a_command_line_that_makes_no_sense_is_2(words):
    call(*words, code=2)


def test_small_readers():
    assert numbers("0,1, 2", "--seeds") == (0, 1, 2) and numbers("none", "--ood") == ()
    with pytest.raises(UserError, match="no list of whole numbers"):
        numbers("1;2", "--seeds")
    assert root_map([r"Q:\a=/b"]) == {"Q:\\a": "/b"}
    with pytest.raises(UserError, match="no OLD=NEW"):
        root_map(["nonsense"])


def test_paths_are_looked_for_here_then_at_the_root(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "configs").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("CROSSSUCK_ROOT", str(root))
    monkeypatch.chdir(tmp_path / "here")
    assert given(Path("configs")) == root / "configs"
    (tmp_path / "here/configs").mkdir()
    assert given(Path("configs")) == tmp_path / "here/configs"
    assert given(None, "runs") == root / "runs" and given(Path("new")) == tmp_path / "here/new"
    (root / "reports").mkdir()
    assert made(Path("reports")) == tmp_path / "here/reports" and made(None, "reports") == root / "reports" and made(None) is None


def test_from_workbook_to_clips(drive, linked):
    work = drive.parent
    assert {p.name for p in (work / "manifest").iterdir()} == {"events.csv", "quarantine.csv", "hard_negatives.csv", "nighttime.csv", "manifest.json"}
    assert (work / "linked_unlinked.csv").exists() and len(pd.read_csv(linked)) > 0
    assert "clips" in call("extract", linked, "--out", work / "planned", "--dry-run") and not (work / "planned").exists()
    call("extract", linked, "--out", work / "clips", "--mode", "copy")
    clips = pd.read_csv(work / "clips/clips.csv")
    assert (clips.status == "ok").all() and all((work / "clips" / p).exists() for p in clips.clip_path)
    call("verify-cameras", linked, "--out", work / "sheets", "-n", "1", "--cameras", drive / "cameras.yaml")  # the inventory lies beside it
    assert len(list((work / "sheets").glob("*.png"))) == 1
    (work / "elsewhere").mkdir()
    assert "give --inventory" in call("verify-cameras", shutil.copy(linked, work / "elsewhere"), "--out", work / "none", code=1) and not (work / "none").exists()


def test_extract_says_with_its_exit_code_that_a_clip_failed(drive, linked, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(drive / "videos", videos)
    table = pd.read_csv(linked, dtype=str, keep_default_na=False)
    name = table.video_filename[0]
    broken = next(videos.rglob(name))
    broken.write_bytes(broken.read_bytes()[:2000])
    said = call("extract", linked, "--out", tmp_path / "clips", "--mode", "copy", "--root", f"{drive / 'videos'}={videos}", code=1)
    clips = pd.read_csv(tmp_path / "clips/clips.csv")
    assert (clips[clips.video_filename == name].status == "failed").all() and "event " in said
    assert not [p for p in (tmp_path / "clips").iterdir() if ".part" in p.name]


def test_audit_ends_with_1_where_something_leaks(tmp_path):
    tiny_events(240).to_csv(tmp_path / "linked.csv", index=False)
    call("split", tmp_path / "linked.csv", "--out", tmp_path / "bout")
    assert "no leak" in call("audit-split", tmp_path / "bout")
    train = pd.read_csv(tmp_path / "bout/train.csv")
    pd.concat([pd.read_csv(tmp_path / "bout/val.csv"), train.tail(1)]).to_csv(tmp_path / "val.csv", index=False)
    said = call("audit-split", tmp_path / "bout/train.csv", tmp_path / "val.csv", tmp_path / "bout/test_ood.csv", code=1)
    assert "LEAK" in said
    call("audit-split", tmp_path / "bout/train.csv", tmp_path / "val.csv", code=1)
    call("split", tmp_path / "linked.csv", "--scheme", "logo", "--out", tmp_path / "logo")
    assert len(list((tmp_path / "logo").glob("*/split.json"))) == 6


def test_judging_verbs_write_their_pages(tmp_path):
    events = tiny_events(240)
    events.to_csv(tmp_path / "linked.csv", index=False)
    call("split", tmp_path / "linked.csv", "--out", tmp_path / "bout")
    val = pd.read_csv(tmp_path / "bout/val.csv")
    for name, auc in (("good", 0.95), ("coin", 0.5)):
        tiny_predictions(val, auc).to_csv(tmp_path / f"{name}.csv", index=False)
    where = ["--manifest", tmp_path / "bout/val.csv", "--simulated"]
    said = call("evaluate", tmp_path / "good.csv", *where, "--train", tmp_path / "bout/train.csv", "--out", tmp_path / "judged")
    facts = pd.read_json(tmp_path / "judged/metrics.json", typ="series")
    assert facts["verdict"] in said and facts["n"] == len(val)
    call("calibrate", tmp_path / "good.csv", *where, "--out", tmp_path / "calibrated")
    call("compare", tmp_path / "good.csv", tmp_path / "coin.csv", *where, "--out", tmp_path / "compared")
    for page in ("judged/report.html", "calibrated/calibration.html", "compared/comparison.html"):
        assert "nothing about calves" in (tmp_path / page).read_text(), page


@pytest.mark.lab
def test_verbs_read_the_labs_own_files(lab, tmp_path):
    said = call("evaluate", lab / "E1/predictions_val.csv", "--manifest", lab / "val_v4.csv", "--train", lab / "train_v4.csv", "--out", tmp_path / "e1")
    metrics = pd.read_json(tmp_path / "e1/metrics.json", typ="series")["metrics"]
    assert (round(metrics["macro_f1"], 3), round(metrics["roc_auc"], 3)) == (0.538, 0.490) and "chance" in said
    assert call("curves", lab / "E1/training_history.json", "--out", tmp_path / "curves")
    assert call("split", lab / "MASTER_LINKED_v4.csv", "--scheme", "bout", "--out", tmp_path / "bout")
    facts = pd.read_json(tmp_path / "bout/split.json", typ="series")["counts"]
    assert facts["test_ood"]["ear"] + facts["test_ood"]["tail"] == 141 and facts["train"]["bouts"] + facts["val"]["bouts"] == 858
    assert "1897 events" in call("manifest", lab / "final_manifest.xlsx", "--out", tmp_path / "manifest")


def tiny_model():
    from crosssuck.core import make_config
    from crosssuck.model import build_model
    study = tiny_study()
    config = make_config({"experiment": "x", "data": {"split_dir": str(study / "split"), "clips": str(study / "clips/clips.csv")}, "optim": {"lr": 1e-3, "epochs": 1, "batch_size": 4},
                          "window": {"num_frames": 4, "sample_fps": 5.0, "views": 1}, "geometry": {"policy": "squash", "size_px": 32},
                          "model": {"backbone": "r2plus1d_tiny", "weights": "none"}, "loader": {"workers": 0}})
    return study, config, build_model(config)


def test_damaged_weights_score_nothing(tmp_path):
    "Weights that are no numbers, or not those that DONE vouches for: one line, exit status 1, no table."
    import torch

    from crosssuck.core import RunFolder
    from crosssuck.model import save_checkpoint
    study, config, model = tiny_model()
    run = RunFolder(tmp_path / "s0")
    ask = ("predict", run / "best.ckpt", study / "split/val.csv", "--out", tmp_path / "p.csv", "--workers", "0")
    with torch.no_grad():
        model.head[-1].bias[0] = float("nan")
    run.path.mkdir()
    save_checkpoint(run / "best.ckpt", model, config, epoch=1)
    assert re.search(r"best.ckpt: 1 of 2 weights of 'head.\d.bias' are no finite numbers; take another", call(*ask, code=1))
    assert not (tmp_path / "p.csv").exists()
    model.head[-1].bias.data.zero_()
    save_checkpoint(run / "best.ckpt", model, config, epoch=1)
    run.finish()
    model.head[-1].bias.data[0] = 0.5
    save_checkpoint(run / "best.ckpt", model, config, epoch=1)
    assert re.search(r"best.ckpt: its SHA-256 \w{12}… differs from the one in DONE, \w{12}…: .*; copy it again", call(*ask, code=1))
    assert not (tmp_path / "p.csv").exists()


def test_weights_that_overflow_write_no_table(tmp_path, monkeypatch):
    from crosssuck.model import save_checkpoint
    study, config, model = tiny_model()
    model.head[-1].weight.data.fill_(3e38)                      # finite, and their sums are not
    model.head[-1].bias.data.copy_(torch_tensor([3e38, -3e38]))
    save_checkpoint(tmp_path / "best.ckpt", model, config, epoch=1)
    said = call("predict", tmp_path / "best.ckpt", study / "split/val.csv", "--out", tmp_path / "p.csv", "--workers", "0", code=1)
    assert "no finite probability for" in said and "the first is event" in said and not (tmp_path / "p.csv").exists()


def torch_tensor(values):
    import torch
    return torch.tensor(values)


def test_a_table_that_was_changed_after_its_run_is_refused(tmp_path):
    from crosssuck.core import RunFolder
    run, val = RunFolder(tmp_path / "s0"), pd.read_csv(tiny_study() / "split/val.csv")
    run.path.mkdir()
    table = tiny_predictions(val, 0.8)
    table.to_csv(run / "predictions_agg.csv", index=False)
    run.finish()
    table.assign(prob_tail=0.5, prob_ear=0.5, pred_label="tail").to_csv(run / "predictions_agg.csv", index=False)
    for verb in ("evaluate", "calibrate"):
        said = call(verb, run / "predictions_agg.csv", "--manifest", tiny_study() / "split/val.csv", "--out", tmp_path / "out", code=1)
        assert "predictions_agg.csv: its SHA-256" in said and "differs from the one in DONE" in said


def test_predictions_of_a_checkpoint(tmp_path):
    from crosssuck.model import save_checkpoint
    study, config, model = tiny_model()
    save_checkpoint(tmp_path / "best.ckpt", model, config, epoch=0)
    call("predict", tmp_path / "best.ckpt", study / "split/test_ood.csv", "--views", "2", "--out", tmp_path / "p.csv", "--workers", "0")
    found, rows = pd.read_csv(tmp_path / "p.csv"), pd.read_csv(study / "split/test_ood.csv")
    assert found.event_idx.tolist() == rows.event_idx.tolist() and found.true_label.tolist() == rows.behavior.tolist() and (found.n_views == 2).all()
    again = predict_table(tmp_path / "best.ckpt", study / "clips/clips.csv", workers=0)  # clips.csv itself is a table of events too
    both = again.set_index("event_idx").loc[found.event_idx]
    assert len(again) > len(found) and both.n_views.eq(1).all()
    call("predict", tmp_path / "best.ckpt", study / "split/test_ood.csv", "--aggregate", "max", "--out", tmp_path / "q.csv", code=1)
    assert not (tmp_path / "q.csv").exists()


def test_doctor_tells_what_is_missing(monkeypatch):
    table = checkup().set_index("what")
    assert table.fine[["python", "torch", "ffmpeg"]].eq("yes").all() and "weights of mvit_v2_s" in table.index
    monkeypatch.setenv("CROSSSUCK_FFMPEG", "/nowhere/ffmpeg")
    assert "no program at '/nowhere/ffmpeg'" in call("doctor", code=1)


def test_entry_point_is_the_app():
    assert "crosssuck = crosssuck.cli:main" in (Path(__file__).parents[1] / "setup.py").read_text()
    done = subprocess.run([sys.executable, "-c", "from crosssuck.cli import main; main()", "split", "nowhere.csv", "--out", "x"], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and "nowhere.csv" in done.stderr


def test_scoring_the_test_is_counted_by_every_verb_that_does_it(tmp_path, monkeypatch):
    from crosssuck.simulation import tiny_events, tiny_predictions
    from crosssuck.splits import read_part, split_events, write_split
    from crosssuck.splits import test_looks as looks
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    split = write_split(split_events(tiny_events(600, seed=1)), tmp_path / "split")
    table = {side: tiny_predictions(read_part(split / f"{side}.csv"), 0.8, seed=1) for side in ("val", "test_ood")}
    for side, t in table.items():
        t.to_csv(tmp_path / f"{side}.csv", index=False)
    call("evaluate", tmp_path / "val.csv", "--manifest", split / "val.csv", "--out", tmp_path / "a")
    assert looks(split)[0] == 0, "validation is no look at the test"
    said = call("evaluate", tmp_path / "test_ood.csv", "--manifest", split / "test_ood.csv", "--out", tmp_path / "b")
    assert "The test events of this split have been scored once through this folder." in said
    said = call("calibrate", tmp_path / "val.csv", "--test", tmp_path / "test_ood.csv", "--manifest", split / "val.csv", "--out", tmp_path / "c")
    assert "scored 2 times through this folder, always by the same checkpoint or table." in said and looks(split)[:2] == (2, 1)


def test_split_records_the_criteria_and_plan_size_plans(tmp_path, monkeypatch):
    from crosssuck.simulation import tiny_events
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    tiny_events(600, seed=1).to_csv(tmp_path / "linked.csv", index=False)
    said = call("split", tmp_path / "linked.csv", "--out", tmp_path / "split")
    assert "criteria in force: none, configs/criteria_lab.yaml does not exist" in said
    (tmp_path / "mine.yaml").write_text("useful_roc_auc: 0.7\n")
    said = call("split", tmp_path / "linked.csv", "--out", tmp_path / "split", "--criteria", tmp_path / "mine.yaml")
    assert "criteria in force: mine.yaml, SHA-256 " in said
    said = call("plan-size", tmp_path / "split", "--out", tmp_path / "plan", "--auc", "0.75", "--recall", "none", "--more", "none", "--studies", "20", "--simulated")
    assert "is shown to be better than chance in" in said and "AUC 0.75" in said
    assert sorted(p.name for p in (tmp_path / "plan").iterdir()) == ["plan_size.csv", "plan_size.html"]
