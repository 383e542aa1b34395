"The launcher, the state of runs, the pages and the submissions, on practice notebooks that train nothing."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from crosssuck.core import SIMULATED, RunFolder, UserError, read_json, write_json, write_page, write_text
from crosssuck.experiments import (ENDED, NO_FETCH, PAGE_LIMIT, STAGES, TINY_CONFIG, Planned, Seen, ask_scheduler, batch_file, begin_run, cancel_runs, claim, clean_runs, code_hash, collect_runs, execute,
                                   data_blocks, find_folds, find_runs, how_far, is_held, judge, launch_local, leftovers, machine_fault, pick_runs, plan_runs, plan_waves,
                                   progress_report, read_site, redact_tree, render_notebook, reproduce, resume_runs, run_experiments, run_for, run_parts, run_stages, run_state, slots, stale_reasons,
                                   task_list, tiny_notebooks, watch_runs, worker_command, worker_environment, write_reports)

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ["configs/tiny.yaml"]


def quiet(line):
    pass


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project of practice notebooks, and the root of everything."
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    return tiny_notebooks(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A project with two finished runs, made once."
    root = tiny_notebooks(tmp_path_factory.mktemp("finished"))
    shutil.copy(ROOT / "configs/criteria_lab.yaml", root / "configs")
    before = os.environ.get("CROSSSUCK_ROOT")
    os.environ["CROSSSUCK_ROOT"] = str(root)
    try:
        run_experiments(CONFIG, [0, 1], jobs=2, say=quiet)
    finally:
        os.environ.pop("CROSSSUCK_ROOT") if before is None else os.environ.update(CROSSSUCK_ROOT=before)
    return root


@pytest.fixture
def runs(finished, tmp_path, monkeypatch):
    "A copy of the finished project, to be spoilt."
    root = tmp_path / "project"
    shutil.copytree(finished, root)
    monkeypatch.setenv("CROSSSUCK_ROOT", str(root))
    return root


# ---- running -----------------------------------------------------------------------------------------------

def test_finished_run_holds_all_it_owes_and_done_comes_last(runs):
    for run in find_runs():
        owed = [f for _, files in STAGES.values() for f in files] + [f"{nb}.ipynb" for nb, _ in STAGES.values()] + ["config.yaml", "provenance.json"]
        assert all((run / f).exists() for f in owed) and run.done and run_state(run) == "done"
        last = max(p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file() and p.name != "DONE")
        assert (run / "DONE").stat().st_mtime_ns >= last
        assert set(read_json(run / "DONE")) >= {f for f in owed if not f.endswith(".ipynb")}


def test_parameters_reach_the_notebook_and_nothing_private_stays_in_it(runs, finished):
    text = (runs / "runs/tiny/s1/07_eval.ipynb").read_text()
    nb = nbformat.reads(text, as_version=4)
    injected = next(c for c in nb.cells if "injected-parameters" in c.metadata.get("tags", []))
    assert "seed = 1" in injected.source and 'experiment = "tiny"' in injected.source and "smoke = False" in injected.source
    assert str(finished) not in text and os.uname().nodename not in re.sub(r"[^\w.-]+", " ", text).split()


def test_undeclared_parameter_is_refused_before_anything_runs(project):
    path = project / "nbs/06_train.ipynb"
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        cell.source = cell.source.replace("smoke = False", "smokey = False")
    nbformat.write(nb, path)
    with pytest.raises(UserError, match="1 of 1 runs did not finish"):
        run_experiments(CONFIG, [0], say=quiet)
    assert not (project / "runs/tiny/s0/06_train.ipynb").exists()


def test_stripped_parameters_tag_is_refused(project):
    "nbdev_clean strips tags unless settings.ini allows them; papermill would then run the defaults and exit with 0."
    path = project / "nbs/06_train.ipynb"
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        cell.metadata = {}
    nbformat.write(nb, path)
    from crosssuck.experiments import prepare_notebook
    with pytest.raises(UserError, match="0 cells tagged 'parameters'"):
        prepare_notebook(path, {"seed": 1})


def test_failure_keeps_the_notebook_stops_no_other_run_and_resume_goes_on_behind_it(project):
    tiny_notebooks(project, fault="if seed == 0: raise ValueError('event 7 has no clip')")
    with pytest.raises(UserError, match="1 of 2 runs did not finish; tiny/s0 at evaluate: ValueError: event 7 has no clip; .*--resume"):
        run_experiments(CONFIG, [0, 1], say=quiet)
    run, other = RunFolder(project / "runs/tiny/s0"), RunFolder(project / "runs/tiny/s1")
    assert run_state(run) == "failed" and not run.done and run.facts()["error"] == "ValueError: event 7 has no clip" and run_state(other) == "done"
    assert "event 7 has no clip" in (run / "07_eval.ipynb").read_text() and not (run / "metrics").exists()
    trained = (run / "06_train.ipynb").stat().st_mtime_ns
    tiny_notebooks(project)
    with pytest.raises(UserError, match="the run exists; add --resume"):
        run_experiments(CONFIG, [0], say=quiet)
    run_experiments(CONFIG, [0], resume=True, say=quiet)
    assert run.done and run.facts()["error"] is None and (run / "06_train.ipynb").stat().st_mtime_ns == trained


def test_finished_run_is_left_alone(runs):
    before = {p: p.stat().st_mtime_ns for p in (runs / "runs").rglob("*") if p.is_file()}
    said = []
    run_experiments(CONFIG, [0, 1], resume=True, say=said.append)
    after = {p: p.stat().st_mtime_ns for p in (runs / "runs").rglob("*") if p.is_file()}
    assert before == after and all("finished before" in line for line in said)


def test_stage_that_leaves_a_file_out_has_failed(project):
    path = project / "nbs/08_calibration.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].source = "#| run\npass"
    nbformat.write(nb, path)
    run = begin_run(project / "runs", plan_runs(CONFIG, [0])[0])
    run.say(finished={"train": 1.0, "evaluate": 1.0})
    assert run_stages(run.path) == 1 and run.facts()["error"] == "08_calibration.ipynb ended without leaving calibration/calibration.json" and not run.done


def test_signal_ends_kernel_and_asks_for_the_queue(project):
    tiny_notebooks(project, fault="import time; print('asleep', flush=True); time.sleep(120)")
    run = begin_run(project / "runs", plan_runs(CONFIG, [0])[0])
    run.say(finished={"train": 1.0, "calibrate": 1.0})
    with subprocess.Popen(worker_command(run, "nbs"), stdout=subprocess.PIPE, text=True, env=worker_environment(), cwd=project) as worker:
        for line in worker.stdout:
            if "asleep" in line:
                break
        kernels = [int(p) for p in subprocess.run(["pgrep", "-P", str(worker.pid)], capture_output=True, text=True).stdout.split()]
        worker.send_signal(signal.SIGUSR1)
        begun = time.monotonic()
        assert worker.wait(timeout=100) == 75 and time.monotonic() - begun < 100  # the cell would sleep longer
    assert run.facts()["state"] == "interrupted" and run_state(run) == "incomplete" and not run.done
    assert kernels and not any(Path(f"/proc/{pid}/cmdline").exists() and b"ipykernel" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in kernels)
    tiny_notebooks(project)
    assert run_stages(run.path, nbs=project / "nbs") == 0 and run.done


def test_everything_is_looked_at_before_a_folder_is_made(project):
    write_text(project / "configs/second.yaml", TINY_CONFIG + "optimm: {}\n")
    for configs, seeds, more, words in ((["configs/tiny.yaml", "configs/second.yaml"], [0], {}, "unknown key 'optimm'; did you mean 'optim'"),
                                        (CONFIG, [0, 0], {}, "asked for twice"), ([], [0], {}, "nothing to run"),
                                        (CONFIG, [0], {"overrides": ["data.boxes=data/none.csv"]}, "data.boxes is 'data/none.csv', which does not exist"),
                                        (CONFIG, [0], {"overrides": ["optim.lr=1e-4x"]}, "optim.lr"), (["configs/none.yaml"], [0], {}, "no such file"),
                                        (CONFIG, [0], {"launcher": "slurm"}, "no site profile")):
        with pytest.raises(UserError, match=re.escape(words)):
            run_experiments(configs, seeds, say=quiet, **more)
        assert not (project / "runs").exists(), words


def test_smoke_and_real_runs_never_share_a_folder(runs):
    with pytest.raises(UserError, match="smoke run and a real one"):
        plan_runs(CONFIG, [0], resume=True, smoke=True)


def test_folder_of_folds_becomes_a_run_a_fold(project):
    for fold in ("g1", "g10", "g2"):
        write_text(project / f"data/logo/{fold}/split.json", "{}")
    plan = plan_runs(CONFIG, [3], overrides=["data.split_dir=data/logo"])
    assert [p.name for p in plan] == ["tiny/g1/s3", "tiny/g10/s3", "tiny/g2/s3"]
    assert {p.config.data.split_dir for p in plan} == {"data/logo/g1", "data/logo/g10", "data/logo/g2"}
    run = begin_run(project / "runs", plan[0], overrides=["data.split_dir=data/logo"])
    assert run.name == "tiny/g1/s3" and stale_reasons(run) == []
    write_text(project / "data/logo/g3 $(x)/split.json", "{}")
    with pytest.raises(UserError, match=r"'g3 \$\(x\)' is no name for a folder"):
        plan_runs(CONFIG, [4], overrides=["data.split_dir=data/logo"])
    assert list(find_folds(plan[0].config)) == [""]


def test_worker_that_dies_without_a_word_is_not_done(project, monkeypatch):
    run = begin_run(project / "runs", plan_runs(CONFIG, [0])[0])
    monkeypatch.setattr("crosssuck.experiments.worker_command", lambda run, nbs: [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert launch_local([run], say=quiet) == [-9] and run_state(run) == "incomplete"


SMOKE = """data: {{split_dir: {study}/split, clips: {study}/clips/clips.csv, simulated: true}}
window: {{num_frames: 4, sample_fps: 5.0, views: 2}}
geometry: {{policy: squash, size_px: 48}}
model: {{backbone: r2plus1d_tiny, weights: none, head_dropout: 0.1}}
optim: {{lr: 0.001, epochs: 2, batch_size: 4, amp: false}}
loader: {{workers: 0}}
"""


NOTE = "Jane says that the calf by the gate was ill"


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    "Notebooks 06, 07 and 08 through the real launcher: one epoch of a real network on real clips, in a home of somebody's, on tables with an annotator's note."
    import pandas as pd

    from crosssuck.simulation import tiny_study
    home = tmp_path_factory.mktemp("home") / "jdoe"
    shutil.copytree(tiny_study(), home / "study")
    for path in (*(home / "study/split").glob("*.csv"), home / "study/clips/clips.csv"):
        pd.read_csv(path, dtype=str, keep_default_na=False).assign(note=NOTE, comments=NOTE).to_csv(path, index=False)
    facts = read_json(home / "study/split/split.json")
    text = SMOKE.format(study=home / "study").replace("simulated: true", f"simulated: true, scheme: {facts['scheme']}, split_seed: {facts['split_seed']}").replace("epochs: 2", "epochs: 1")
    config, said = write_text(home / "real.yaml", text), []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CROSSSUCK_ROOT": ROOT, "HOME": home, "USER": "jdoe", "LOGNAME": "jdoe"}.items():
            patch.setenv(name, str(value))
        try:
            run, = run_experiments([config], [3], runs=home / "runs", say=said.append)
        except UserError as e:
            raise AssertionError("\n".join([*said, str(e)])) from e
        index = write_reports(home / "runs", home / "reports")
        progress = progress_report(pick_runs(["real/s3"], home / "runs"), home / "reports/progress.html")
    return home, run, index, progress


def test_real_notebooks_become_pages(real_run):
    home, run, index, _ = real_run
    assert run.done and run_state(run) == "done"
    for name in ("06_train", "07_eval", "08_calibration"):
        nb = nbformat.read(run / f"{name}.ipynb", as_version=4)
        cells = [c for c in nb.cells if c.cell_type == "code"]
        assert not any(o.output_type == "error" for c in cells for o in c.outputs)
        assert any("image/png" in o.get("data", {}) for c in cells for o in c.outputs), f"{name} shows no figure"
    assert "1 run: 1 finished" in index.read_text()
    for page in (home / "reports/real_s3").glob("*.html"):
        html = page.read_text()
        assert page.stat().st_size < PAGE_LIMIT and SIMULATED in html and "<script" not in html and "data:image/png" in html
        assert not re.search(r"(src|href)=[\"']https?://", html) and "#| export" not in html


def test_nothing_that_is_shared_names_a_home_a_user_or_a_note(real_run):
    home, run, index, progress = real_run
    shared = [*run.path.glob("*.ipynb"), *(home / "reports").rglob("*.html"), *(home / "reports").rglob("*.ipynb"), run / "provenance.json", run / "manifests_used.txt"]
    assert len(shared) > 10 and NOTE in (home / "study/clips/clips.csv").read_text()
    for path in shared:
        words = re.sub(r"base64,[A-Za-z0-9+/=\\n]+|\"image/png\": \"[^\"]+\"", " ", path.read_text())
        for private in (str(home), "jdoe", "Jane", "by the gate", str(ROOT), *([os.uname().nodename] if len(os.uname().nodename) > 3 else [])):
            assert private not in words, f"{path.name} holds {private}"


def test_an_ensemble_stands_in_the_index_and_goes_out_of_date_with_its_members(real_run, tmp_path, monkeypatch):
    import pandas as pd

    from crosssuck.eval import ensemble
    monkeypatch.setenv("CROSSSUCK_ROOT", str(ROOT))
    members = [RunFolder(Path(shutil.copytree(real_run[1].path, tmp_path / f"runs/real/s{k}"))) for k in (3, 4)]
    for name in ("predictions_agg.csv", "test_predictions.csv"):  # another seed: tail-sucking a little likelier everywhere
        table = pd.read_csv(members[1] / name)
        prob = 0.9 * table.prob_tail + 0.05
        table.assign(prob_tail=prob, prob_ear=1 - prob).drop(columns=["logit_ear", "logit_tail", "msp", "pred_label"]).to_csv(members[1] / name, index=False)
    members[1].say(seed=4)
    members[1].finish()
    ensemble([r.path for r in members], tmp_path / "runs/real_mean/s0", n_boot=100, n_perm=50)
    mean = RunFolder(tmp_path / "runs/real_mean/s0")
    assert [r.name for r in find_runs(tmp_path / "runs")] == ["real/s3", "real/s4", "real_mean/s0"] and stale_reasons(mean) == []
    page = write_reports(tmp_path / "runs", tmp_path / "reports").read_text()
    facts, row = read_json(mean / "metrics/test_metrics.json"), page.split('data-run="real_mean/s0"')[1].split("</tbody>")[0]
    assert "3 runs: 3 finished" in page and "mean of 2" in row and "mean probability of real/s3, real/s4" in row and f"{facts['metrics']['macro_f1']:.3f}" in row
    for link in re.findall(r'href="([^"]+)"', row):
        assert (tmp_path / "reports" / link).exists()
    assert row.count("href=") == 2 and "cannot be told" in page.split("The lab&#39;s criteria" if "The lab&#39;s criteria" in page else "The lab's criteria")[1]
    report = progress_report(pick_runs([], tmp_path / "runs"), tmp_path / "progress.html").read_text()
    assert "3 finished runs: real/s3, real/s4, real_mean/s0." in report and report.count("real_mean/s0") > 3
    with pytest.raises(UserError, match="name its members too"):
        progress_report([mean], tmp_path / "alone.html")
    with pytest.raises(UserError, match="no training to repeat"):
        reproduce(mean)
    assert resume_runs([mean], tmp_path / "runs", say=quiet) == []
    (members[0] / "predictions_agg.csv").write_text((members[1] / "predictions_agg.csv").read_text())
    assert stale_reasons(mean) == ["its member real/s3 was scored anew"]
    (members[0] / "DONE").unlink()
    assert stale_reasons(mean) == ["its member real/s3 is incomplete"]
    shutil.rmtree(members[0].path)
    table = collect_runs(tmp_path / "runs").set_index("run")
    assert table.stale["real_mean/s0"] == "its member real/s3 is gone" and not table.pipe(lambda t: t.stale.eq(""))["real_mean/s0"]
    assert "its member real/s3 is gone: run it again to compare it" in write_reports(tmp_path / "runs", tmp_path / "reports").read_text()


NAMES = {"train": "06_train", "evaluate": "07_eval", "calibrate": "08_calibration"}


@pytest.mark.parametrize("stage", NAMES)
def test_by_hand_a_notebook_without_data_runs_on_practice_calves(tmp_path, monkeypatch, stage):
    "Restart and Run All on a fresh checkout; the cells before `# Run` are run by nbdev_test."
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert execute(ROOT / f"nbs/{NAMES[stage]}.ipynb", tmp_path / "out.ipynb", {}) == (0, "")
    words = (tmp_path / "out.ipynb").read_text()
    assert "There is nothing here yet of demo_v4_roi, seed 42" in words and "practice/s42" in words and sorted(p.name for p in tmp_path.iterdir()) == [*before, "out.ipynb"]


def test_by_hand_a_notebook_leaves_a_finished_run_as_it_is(real_run, tmp_path, monkeypatch):
    home, run, _, _ = real_run
    monkeypatch.setenv("CROSSSUCK_ROOT", str(home))
    def state():
        return {p: p.stat().st_mtime_ns for p in sorted((home / "runs").rglob("*")) if p.name != ".lock"}
    before = state()
    for name in NAMES.values():
        assert execute(ROOT / f"nbs/{name}.ipynb", tmp_path / "out.ipynb", {"experiment": "real", "seed": 3}) == (0, "")
        assert "This is a copy of real/s3, which is finished" in (tmp_path / "out.ipynb").read_text()
    assert state() == before
    with claim(run.path), pytest.raises(UserError, match="a worker is at it"):
        run_for("train", "", "real", seed=3)


def test_names_are_left_in_when_asked_for(project, monkeypatch):
    monkeypatch.setenv("CROSSSUCK_UNREDACTED", "1")
    tiny_notebooks(project, fault="print(run.resolve())")
    run, = run_experiments(CONFIG, [0], say=quiet)
    assert str(project) in (run / "07_eval.ipynb").read_text()


def test_progress_report_of_a_real_run_has_the_sections_of_the_labs_own(real_run):
    _, run, _, progress = real_run
    page = progress.read_text()
    facts, history = read_json(run / "metrics/test_metrics.json"), read_json(run / "training_history.json")
    parts = dict(zip(re.findall(r"<h2>(.*?)</h2>", page), re.split(r"<h2>.*?</h2>", page)[1:], strict=True))
    assert "48 events" in parts["Data"] and "Durations: mean" in parts["Data"] and "no leak found" in parts["Splits"]
    assert "r2plus1d_tiny" in parts["Model and training"] and all(f"{n:,} " in parts["Model and training"] for n in read_json(run / "provenance.json")["training"]["parameters"].values())
    assert f"{facts['metrics']['macro_f1']:.3f}" in next(v for k, v in parts.items() if k.startswith("Results on test")) and len(history["epoch"]) == 1
    assert "data:image/png" in parts["Learning curves"] and "1 epochs" not in page and all(s in page.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">") for s in read_json(run / "calibration/calibration.json")["sentences"][:1])
    assert progress.stat().st_size < PAGE_LIMIT and "<script" not in page


@pytest.mark.long
def test_real_run_is_reproduced_to_the_last_bit(real_run, monkeypatch):
    home, run, *_ = real_run
    monkeypatch.setenv("CROSSSUCK_ROOT", str(ROOT))
    _, found = reproduce(run, say=quiet)
    assert [d for d in found if d.kind == "result"] == []


# ---- state and pages -----------------------------------------------------------------------------------------

def test_states_and_stale_are_read_from_files(runs):
    begin_run(runs / "runs", Planned(plan_runs(CONFIG, [0], resume=True)[0].config, "", 5))
    smoke = begin_run(runs / "runs", Planned(plan_runs(CONFIG, [0], resume=True)[0].config, "", 6), smoke=True)
    smoke.finish()
    failed = begin_run(runs / "runs", Planned(plan_runs(CONFIG, [0], resume=True)[0].config, "", 7))
    failed.say(state="failed", stage="train", error="UserError: <script>alert(1)</script>")
    table = collect_runs()
    assert dict(zip(table.seed, table.state, strict=True)) == {0: "done", 1: "done", 5: "incomplete", 6: "smoke", 7: "failed"}
    assert (table.stale == "").all()
    facts = read_json(runs / "runs/tiny/s0/metrics/metrics.json")
    row = table[table.seed == 0].iloc[0]
    assert row.val_roc_auc == facts["metrics"]["roc_auc"] and row.val_roc_auc_low == facts["intervals"]["roc_auc"]["low"] and row.val_n == 60
    write_json(runs / "runs/tiny/s0/metrics/test_metrics.json", read_json(runs / "runs/tiny/s0/metrics/test_metrics.json") | {"verdict": "Splendid."})
    assert "metrics/test_metrics.json was changed after the run" in collect_runs().stale[0]
    write_text(runs / "configs/tiny.yaml", TINY_CONFIG.replace("0.001", "0.01"))
    assert "its config has changed" in stale_reasons(RunFolder(runs / "runs/tiny/s1"))


def test_only_finished_runs_are_compared_and_all_is_escaped(runs):
    config = plan_runs(CONFIG, [0], resume=True)[0].config
    begin_run(runs / "runs", Planned(config, "", 7)).say(state="failed", stage="train", error="<script>alert(1)</script>")
    begin_run(runs / "runs", Planned(config, "", 6), smoke=True).finish()
    path = runs / "runs/tiny/s0/metrics/metrics.json"
    write_json(path, read_json(path) | {"verdict": "A behaviour named <script>alert(2)</script>."})
    RunFolder(runs / "runs/tiny/s0").finish()
    write_json(runs / "runs/tiny/s1/metrics/metrics.json", read_json(runs / "runs/tiny/s1/metrics/metrics.json") | {"verdict": "Splendid."})
    page = write_reports(extras=[]).read_text()
    compared, _, apart = page.partition("<h2>Not compared</h2>")
    assert "tiny_s0/evaluate.html" in compared and "alert(1)" not in compared and page.count('<tbody class="run"') == 1
    for k, why in ((7, "&lt;script&gt;alert(1)"), (6, "a few steps only"), (1, "metrics/metrics.json was changed after the run: run it again")):
        assert f"tiny/s{k}" in apart and why in apart and f"tiny/s{k}" not in compared and f"tiny_s{k}" not in compared, k
    assert page.count("<script>") == 1 and "&lt;script&gt;alert(2)" in page
    assert SIMULATED in page and "1 of the finished is out of date" in page
    facts = read_json(path)["metrics"]
    assert f"<b>{facts['roc_auc']:.3f}</b>" in page and "always ear 0.400" in page and "cannot be told" in page
    first = (runs / "reports/tiny_s0/evaluate.html").read_text().partition("</h1>")[2].partition("<details")[0]
    assert "On validation: A behaviour named &lt;script&gt;" in first and "On test: ROC AUC" in first  # the verdict is met before anything else
    for k in (0, 1):
        assert (runs / f"reports/tiny_s{k}/train.html").exists() and (runs / f"reports/tiny_s{k}/06_train.ipynb").exists()


@pytest.mark.parametrize("change, words", [("data/clips.csv", "clips.csv has changed"), ("data/split/split.json", "split.json has changed"), ("nbs/07_eval.ipynb", "the code of 07_eval has changed"),
                                           ("configs/tiny.yaml", "its config has changed"), ("runs/tiny/s0/calibration/calibration.json", "calibration/calibration.json was changed")])
def test_a_change_of_code_config_data_or_result_makes_a_run_stale(runs, change, words):
    run, path = RunFolder(runs / "runs/tiny/s0"), runs / change
    assert stale_reasons(run) == []
    text = path.read_text()
    write_text(path, {".ipynb": lambda: text.replace("rng.uniform(-0.08", "rng.uniform(-0.09"), ".yaml": lambda: text.replace("0.001", "0.002"), ".csv": lambda: text + "7\n"}.get(path.suffix, lambda: text.replace("}", " }"))())
    assert path.read_text() != text and any(words in reason for reason in stale_reasons(run))
    write_text(path, text)
    assert stale_reasons(run) == []


def test_code_is_the_same_whatever_is_said_about_it(runs):
    before, path = code_hash("07_eval"), runs / "nbs/07_eval.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].source = nb.cells[-1].source.replace("#| run", "#| run\n# a word about it\n")
    nb.cells[0].source = "# Another heading"
    nbformat.write(nb, path)
    assert code_hash("07_eval") == before and code_hash("metrics") and code_hash("nowhere") == ""


def test_index_is_the_same_when_rebuilt_and_links_lead_somewhere(runs):
    write_page(runs / "pages/compare/comparison.html", "A & B", ["! No difference."])
    first = write_reports(out="reports", extras=["pages"]).read_text()
    shutil.rmtree(runs / "reports")
    assert write_reports(out="reports", extras=["pages"]).read_text() == first
    links = re.findall(r'href="([^"]+)"', first.partition("<script>")[0])
    assert "pages/pages/compare/comparison.html" in links and "<b>compare</b>" in first and "A &amp; B" in first
    assert all((runs / "reports" / href).exists() for href in links if href != "data:,")
    assert str(runs) not in first and NO_FETCH.split(";")[0] in first.replace("&#39;", "'")


def test_no_runs_give_a_page_all_the_same(project):
    (project / "runs").mkdir()
    page = write_reports().read_text()
    assert "0 runs: none." in page and "No run is finished yet" in page


def notebook(tmp_path, *outputs, prose=""):
    v4 = nbformat.v4
    cells = [v4.new_code_cell("library_secret = 1", outputs=[v4.new_output("stream", text="library output")]), v4.new_markdown_cell("# Run\nThe library is above."), v4.new_markdown_cell(prose),
             v4.new_code_cell("#| run\nwork()", outputs=list(outputs))]
    path = tmp_path / "executed.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def test_page_of_a_notebook_hides_the_library_and_folds_code(tmp_path):
    page = render_notebook(notebook(tmp_path, nbformat.v4.new_output("stream", text="found 3 < 4")), tmp_path / "a.html", simulated=True).read_text()
    assert "library" not in page and "#| run" not in page and "<details" in page and "found 3 &lt; 4" in page and SIMULATED in page
    assert not re.search(r"https?://", page) and "<script" not in page


def test_nothing_in_a_page_can_act_or_fetch(tmp_path):
    bad = "<script>alert(1)</script><img src='http://elsewhere/x.png'><img src=x onerror=alert(2)><iframe src='http://elsewhere'></iframe><a href='javascript:alert(3)'>x</a>"
    out = nbformat.v4.new_output("display_data", data={"text/html": bad, "application/javascript": "alert(4)"})
    page = render_notebook(notebook(tmp_path, out, prose=bad), tmp_path / "a.html").read_text()
    tags = re.findall(r"<[a-zA-Z][^>]*>", page)
    assert not [t for t in tags if re.match(r"<(script|iframe)", t) or "onerror" in t or "javascript:" in t or re.search(r"src=\W*http", t)]


def test_too_large_a_page_leaves_pictures_out_and_says_so(tmp_path):
    import base64
    big = [nbformat.v4.new_output("display_data", data={"image/png": base64.b64encode(os.urandom(n)).decode()}) for n in (3_000_000, 2_000_000, 1_000)]
    page = render_notebook(notebook(tmp_path, *big), tmp_path / "a.html").read_text()
    assert len(page) < PAGE_LIMIT and "a picture of 4.0 MB is left out" in page and page.count("<img") == 2


def test_redaction_spares_pictures(project):
    tree = {"outputs": [{"data": {"image/png": str(project), "text/plain": f"{project}/runs"}}], "html": f"<img src='data:image/png;base64,AAAA'>{project}"}
    clean = redact_tree(tree)
    assert clean["outputs"][0]["data"] == {"image/png": str(project), "text/plain": "./runs"} and clean["html"].endswith(">.")


def test_pages_open_by_double_click_without_a_word_on_the_console(runs, chrome):
    begin_run(runs / "runs", Planned(plan_runs(CONFIG, [0], resume=True)[0].config, "", 7)).say(state="failed", stage="train", error="<b>no</b>")
    index, said = write_reports(), []
    progress_report(pick_runs(["tiny"]))
    page = chrome.new_page()
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: said.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    for path in (index, *sorted((runs / "reports").rglob("*.html"))):
        page.goto(path.as_uri())
        assert page.locator("h1").count() == 1 and path.stat().st_size < PAGE_LIMIT
    assert not said, said
    page.goto(index.as_uri())
    assert len(page.pdf()) > 5000  # it prints
    page.close()


def test_index_sorts_and_filters(runs, chrome):
    config = plan_runs(CONFIG, [0], resume=True)[0].config
    begin_run(runs / "runs", Planned(config, "", 7)).say(state="failed", stage="train", error="no clip of event 9")
    page = chrome.new_page()
    page.goto(write_reports().as_uri())
    shown = lambda: [e.get_attribute("data-run") for e in page.locator("[data-run]").all() if e.is_visible()]  # noqa: E731
    auc = {f"tiny/s{k}": read_json(runs / f"runs/tiny/s{k}/metrics/metrics.json")["metrics"]["roc_auc"] for k in (0, 1)}
    test = {f"tiny/s{k}": read_json(runs / f"runs/tiny/s{k}/metrics/test_metrics.json")["metrics"]["roc_auc"] for k in (0, 1)}
    assert shown() == ["tiny/s0", "tiny/s1", "tiny/s7"]
    page.get_by_role("button", name="ROC AUC").click()
    assert shown()[:2] == sorted(auc, key=auc.get, reverse=True) and page.locator("th[aria-sort=descending]").count() == 1
    page.get_by_role("button", name="ROC AUC").click()
    assert shown()[:2] == sorted(auc, key=auc.get)
    page.get_by_label("Sort scores by").select_option("test")
    assert shown()[:2] == sorted(test, key=test.get, reverse=True)
    page.get_by_role("button", name="seed").click()
    assert shown()[:2] == ["tiny/s0", "tiny/s1"]
    page.get_by_label("Filter").fill("tiny/s7 clip")
    assert shown() == ["tiny/s7"] and "1 of 3 runs shown" in page.locator("#count").inner_text()
    page.get_by_label("Filter").fill("")
    page.get_by_label("State").select_option("done")
    assert sorted(shown()) == ["tiny/s0", "tiny/s1"]
    page.close()


# ---- the progress report, reproduction, the state of runs -----------------------------------------------------

def test_progress_report_takes_its_numbers_from_files(runs):
    path = runs / "runs/tiny/s0/metrics/test_metrics.json"
    first = progress_report(pick_runs(["tiny"])).read_text()
    facts = read_json(path)
    assert f"{facts['metrics']['roc_auc']:.3f}" in first and facts["verdict"] in first and first.count("<h2>") >= 9
    for words in ("Data", "Splits", "Model and training", "Results on validation", "Results on test", "Learning curves", "Calibration", "What next"):
        assert f"<h2>{words}" in first, words
    facts["metrics"]["roc_auc"], facts["verdict"] = 0.7654321, "A <script>alert(1)</script> verdict."
    write_json(path, facts)
    second = progress_report(pick_runs(["tiny"])).read_text()
    assert "0.765" in second and "0.765" not in first and "<script>" not in second and "&lt;script&gt;alert(1)" in second
    assert "Out of date, told all the same: tiny/s0 (metrics/test_metrics.json was changed after the run)" in second


def test_progress_report_escapes_what_the_tables_hold(runs):
    import pandas as pd
    pd.DataFrame({"event_idx": [0, 1], "behavior": ["<script>alert(1)</script>", "ear"], "group": 1, "day": 1, "duration_sec": 3}).to_csv(runs / "data/clips.csv", index=False)
    page = progress_report(pick_runs(["tiny/s0"])).read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page and "2 events in clips.csv" in page
    assert "50.0 %" in str(data_blocks(plan_runs(CONFIG, [0], resume=True)[0].config)[1])


def test_reproduction_finds_nothing_or_names_what_differs(runs):
    second, found = reproduce(RunFolder(runs / "runs/tiny/s1"), say=quiet)
    assert [d for d in found if d.kind == "result"] == [] and read_json(second / "reproduction.json")["same_results"] is True
    assert [r.name for r in find_runs()] == ["tiny/s0", "tiny/s1"] and collect_runs().state.tolist() == ["done"] * 2
    nb = nbformat.read(runs / "nbs/07_eval.ipynb", as_version=4)
    nb.cells[-1].source = nb.cells[-1].source.replace("center + rng", "0.01 + center + rng")
    nbformat.write(nb, runs / "nbs/07_eval.ipynb")
    _, found = reproduce(RunFolder(runs / "runs/tiny/s1"), say=quiet)
    assert {d.what for d in found if d.kind == "origin"} >= {"code of 07_eval"} and any(d.what.startswith("metrics/metrics.json: metrics.roc_auc") for d in found)
    begin_run(runs / "runs", Planned(plan_runs(CONFIG, [0], resume=True)[0].config, "", 7))
    with pytest.raises(UserError, match="it is incomplete, not finished"):
        reproduce(RunFolder(runs / "runs/tiny/s7"))


BEGUN = {"state": "running", "attempts": [{}]}
BETWEEN = {"state": "running", "attempts": [{"stage": "train", "code": 0}], "finished": {"train": 5.0}}  # trained, and its evaluation is a job that waits


@pytest.mark.parametrize("facts, more, state, why", [
    ({}, {}, "planned", ""), ({"state": "planned"}, {"job": Seen("PENDING", "", "Priority")}, "queued", "Priority"), ({"state": "planned"}, {"submitted": True}, "failed", "never began"),
    (BEGUN, {"job": Seen("RUNNING", "1:00:00")}, "running", ""), (BEGUN, {"job": Seen("COMPLETING")}, "running", ""), (BEGUN, {"held": True}, "running", ""),
    (BEGUN, {}, "failed", "without a word"), (BEGUN, {"job": Seen("PENDING", "", "BeginTime")}, "preempted", "BeginTime"), (BEGUN | {"state": "interrupted"}, {"job": Seen("REQUEUED")}, "preempted", ""),
    ({"state": "failed", "error": "no clip"}, {"job": Seen("FAILED")}, "failed", "no clip"), ({"state": "failed", "error": "no clip"}, {"job": Seen("PENDING")}, "queued", ""),
    *[(BEGUN, {"job": Seen(s)}, "failed", ENDED[s]) for s in ENDED], (BEGUN, {"printed": "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***"}, "failed", "limit of time"),
    (BEGUN, {"printed": "error: Detected 1 oom-kill event(s)"}, "failed", "out of memory"), (BEGUN | {"state": "interrupted", "error": "TERM came"}, {}, "interrupted", "TERM came"),
    (BEGUN | {"state": "interrupted"}, {"job": Seen("CANCELLED")}, "interrupted", "cancelled"),
    (BETWEEN, {"job": Seen("PENDING", "", "Dependency")}, "queued", "Dependency"), (BETWEEN, {"job": Seen("CANCELLED")}, "failed", "cancelled"), (BETWEEN, {"submitted": True}, "failed", "never began"), (BETWEEN, {}, "failed", "without a word"), ({"state": "done"}, {"done": True, "job": Seen("FAILED")}, "done", ""), ({"smoke": True}, {"done": True}, "smoke", ""),
    ({"state": "done"}, {"job": Seen("COMPLETED")}, "failed", "left no DONE")])
def test_state_is_decided_from_evidence(facts, more, state, why):
    found, words = judge(facts, **more)
    assert found == state and why in words


def fake(folder, **programs):
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\necho \"$@\" >> {folder}/{name}.log\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def test_scheduler_is_asked_once_for_all_and_not_again_for_a_while(tmp_path, monkeypatch):
    folder = fake(tmp_path / "bin", squeue="echo '7_0|RUNNING|1:00|None'; echo '7_1|PENDING|1:00|Priority'; echo '99|RUNNING|1|None'", sacct="echo '8_0|CANCELLED by 12'; echo '8_1|OUT_OF_MEMORY'")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    kept = tmp_path / "kept.json"
    asked = [ask_scheduler(["7_0", "7_1", "8_0", "8_1", "8_2"], kept) for _ in range(20)]
    assert asked[0] == asked[-1] == {"7_0": Seen("RUNNING", "1:00", "None"), "7_1": Seen("PENDING", "1:00", "Priority"), "8_0": Seen("CANCELLED"), "8_1": Seen("OUT_OF_MEMORY")}
    count = lambda name: len((folder / f"{name}.log").read_text().splitlines())  # noqa: E731
    assert count("squeue") == count("sacct") == 1 and "--jobs=8" in (folder / "sacct.log").read_text()
    os.utime(kept, (time.time() - 31, time.time() - 31))
    ask_scheduler(["7_0"], kept)
    assert count("squeue") == 2 and count("sacct") == 1
    ask_scheduler(["7_0", "8_0"], kept)  # a job that was not asked for
    assert count("squeue") == 3
    fake(folder, squeue="exit 1", sacct="exit 1")
    assert ask_scheduler(["7_0"], kept, patience_s=0) is None and ask_scheduler([], kept) == {}
    before = count("squeue")
    assert [ask_scheduler(["7_0"], kept) for _ in range(5)] == [None] * 5 and count("squeue") == before, "one that is silent is not asked again and again"
    os.utime(kept, (time.time() - 31, time.time() - 31))
    fake(folder, squeue="echo '7_0|RUNNING|1:00|None'")
    assert ask_scheduler(["7_0"], kept) == {"7_0": Seen("RUNNING", "1:00", "None")}


def test_a_run_that_cannot_be_read_hides_no_other(runs):
    spoilt = runs / "runs/tiny/s1/config.yaml"
    spoilt.write_text(spoilt.read_text().replace("geometry:\n", "geometry:\n  older_key: 1\n"))
    for seed, name in ((5, "training_history.json"), (6, "status.json")):
        run = begin_run(runs / "runs", Planned(plan_runs(CONFIG, [0], resume=True)[0].config, "", seed))
        (run / name).write_text('{"epoch": [1, ')
    table = collect_runs().set_index("run")
    assert table.state.to_dict() == {"tiny/s0": "done", "tiny/s1": "unreadable", "tiny/s5": "unreadable", "tiny/s6": "unreadable"}
    assert "older_key" in table.error["tiny/s1"] and "training_history.json" in table.error["tiny/s5"] and "status.json" in table.error["tiny/s6"]
    seen = watch_runs().set_index("run")
    assert seen.state["tiny/s0"] == "done" and seen.state["tiny/s5"] == seen.state["tiny/s6"] == "unreadable" and "training_history.json" in seen.why["tiny/s5"] and seen.attempts.dtype == int
    page = write_reports("runs", "reports").read_text()
    assert "4 runs: 1 finished, 3 not to be read." in page and "older_key" in page.split("Not compared")[1] and "tiny_s0/evaluate.html" in page


def test_a_folder_that_is_not_there_is_no_empty_report(project):
    for ask in (collect_runs, watch_runs, pick_runs_of, leftovers, write_reports):
        with pytest.raises(UserError, match="no such folder; give the folder that holds the runs"):
            ask("rnus")


def pick_runs_of(runs):
    return pick_runs([], runs)


def test_more_than_four_runs_stand_below_each_other_in_the_criteria(runs):
    for k in range(3, 6):
        copy = RunFolder(Path(shutil.copytree(runs / "runs/tiny/s0", runs / f"runs/tiny/s{k}")))
        copy.say(seed=k)
        copy.finish()
    page = write_reports("runs", "reports").read_text()
    table = page.split('<table class="criteria">')[1].split("</table>")[0]
    assert table.count("<tr>") == 6 and table.count("<th>") == 10 and "<td>tiny/s5</td>" in table and "cannot be told" in table


def test_the_verdict_of_test_comes_first_and_validation_has_its_note(runs):
    folder = runs / "runs/tiny/s0"
    for name, part, record in (("metrics.json", "validation", {"known": True}), ("test_metrics.json", "test", None)):
        facts = read_json(folder / f"metrics/{name}") | {"part": part, "selection": record}
        write_json(folder / f"metrics/{name}", facts)
    RunFolder(folder).finish()
    row = write_reports().read_text().split('data-run="tiny/s0"')[1].split("</tbody>")[0]
    assert row.index("<td>test</td>") < row.index("<td>validation</td>") and row.count("these events selected the checkpoint") == 1
    assert row.index("<td>validation</td>") < row.index("these events selected the checkpoint")
    facts = read_json(folder / "metrics/metrics.json") | {"selection": {"known": False}}
    write_json(folder / "metrics/metrics.json", facts)
    assert [p["note"] for p in run_parts(RunFolder(folder))] == ["", ""]
    page = progress_report(pick_runs(["tiny"])).read_text()
    assert page.index("<h2>Results on test") < page.index("<h2>Results on validation: groups that training knows; these events also selected the checkpoint")
    first = (runs / "reports/tiny_s0/evaluate.html").read_text().partition("</h1>")[2]
    assert first.index("On test: ") < first.index("On validation: ")


def test_a_verdict_of_skill_from_an_old_validation_file_is_taken_back(runs, tmp_path):
    from crosssuck.eval import evaluate
    from crosssuck.experiments import scored
    from crosssuck.simulation import tiny_events, tiny_predictions
    events = tiny_events(400, seed=1)
    events = events[events.behavior.isin(["ear", "tail"])]
    old = evaluate(tiny_predictions(events, 0.9, seed=1), events, part="test", n_boot=100, n_perm=50)
    assert old["call"] == "above_chance"
    for name in ("metrics.json", "test_metrics.json"):
        write_json(runs / f"runs/tiny/s0/metrics/{name}", {k: v for k, v in old.items() if k not in ("selection", "part")})
    found = scored(RunFolder(runs / "runs/tiny/s0"))
    assert found["val"]["call"] == "selected" and found["val"]["verdict"].startswith("No verdict from validation: it is not known whether")
    assert found["test"]["call"] == "above_chance"


def test_a_project_without_criteria_has_pages_without_them(runs):
    (runs / "configs/criteria_lab.yaml").unlink()
    assert "criteria" not in write_reports().read_text().partition("<body>")[2].partition("<script>")[0]
    assert "criteri" not in progress_report(pick_runs(["tiny"])).read_text()


def test_second_runs_of_reproduce_can_be_cleaned(runs):
    folder = runs / "runs/.again/20260101-000000/tiny/s0"
    shutil.copytree(runs / "runs/tiny/s0", folder)
    assert (runs / "runs/.again/20260101-000000", "a second run of crosssuck reproduce") in leftovers(runs / "runs")
    with claim(folder):
        assert not [p for p, _ in leftovers(runs / "runs") if ".again" in p.parts]


FORWARD = """set -euo pipefail
scontrol() { echo "asked: $*"; }
squeue() { echo RUNNING; }
SLURM_JOB_ID=7
source %s
forward %s
"""


@pytest.mark.parametrize("command, codes", [("sleep 60", 75), ("bash -c 'trap \"exit 3\" TERM; sleep 60 >/dev/null 2>&1 & wait'", 3), ("bash -c 'trap \"exit 75\" TERM; sleep 60 >/dev/null 2>&1 & wait'", 75)])
def test_a_command_that_is_told_to_end_before_it_listens_comes_back(project, command, codes):
    with subprocess.Popen(["bash", "-c", FORWARD % (ROOT / "slurm/env.sh", command)], stdout=subprocess.PIPE, text=True, cwd=project, env={**os.environ, "CROSSSUCK_ROOT": str(project)}) as p:
        time.sleep(1)  # of 60
        p.send_signal(signal.SIGUSR1)
        said, _ = p.communicate(timeout=50)
    assert p.returncode == codes and ("asked: requeue 7" in said) == (codes == 75)


def test_a_disk_that_fills_up_under_a_run_is_named(project, tmp_path):
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only an administrator can mount a small disk")
    tiny_notebooks(project, fault="(run / 'big.bin').write_bytes(b'x' * 3_000_000)")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    said = []
    try:
        with pytest.raises(UserError, match="the disk is full"):
            run_experiments(CONFIG, [0], runs=disk / "runs", say=said.append)
        assert not any("Traceback" in line for line in said) and not [p for p in (disk / "runs").rglob("*.ipynb") if p.stat().st_size == 0]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_status_tells_how_far_a_run_is(project):
    run = begin_run(project / "runs", plan_runs(CONFIG, [0], overrides=["optim.epochs=10"])[0])
    assert how_far(run) == {} and watch_runs().state.tolist() == ["planned"]
    write_json(run / "training_history.json", {"epoch": [1, 2], "val_macro_f1": [0.5, None], "seconds": [60.0, 120.0]})
    run.say(state="running", stage="train", attempts=[{"stage": "train"}])
    with claim(run.path):
        row = watch_runs().iloc[0]
        assert is_held(run) and (row.state, row.epoch, row.best, row.left) == ("running", "2/10", "0.500 at 1", "12 min")
    row = watch_runs().iloc[0]
    assert (row.state, row.why) == ("failed", "its process ended without a word") and not is_held(run)


def test_a_run_that_a_worker_holds_is_left_alone(project):
    run = begin_run(project / "runs", plan_runs(CONFIG, [0])[0])
    before, said = (run / "status.json").read_bytes(), []
    with claim(run.path):
        run_experiments(CONFIG, [0], resume=True, say=said.append)
        assert said == ["[tiny/s0] a worker is at it, left alone"] and (run / "status.json").read_bytes() == before
        code = "import sys; from crosssuck.experiments import claim\ntry:\n    with claim(sys.argv[1], wait_s=0.3): pass\nexcept Exception as e: print(e)"
        assert "another process is at it" in subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, env=worker_environment()).stdout


def test_resume_goes_on_with_what_is_unfinished_and_clean_spares_results(project):
    tiny_notebooks(project, fault="if seed == 0: 1 / 0")
    with pytest.raises(UserError):
        run_experiments(CONFIG, [0, 1], say=quiet)
    config = plan_runs(CONFIG, [0], resume=True)[0].config
    begin_run(project / "runs", Planned(config, "", 6), smoke=True).finish()
    tiny_notebooks(project)
    write_text(project / "configs/tiny.yaml", TINY_CONFIG.replace("0.001", "0.009"))  # resume trusts the run's own config
    assert [r.name for r in resume_runs(find_runs(), say=quiet)] == ["tiny/s0"] and watch_runs().state.tolist() == ["done", "done", "smoke"]
    write_text(project / "runs/tiny/s1/last.ckpt", "x")
    write_text(project / "runs/tiny/s1/.metrics.7.part.json", "{")
    write_text(project / "runs/.jobs/20260101-000000-aaaa/train.sbatch", "")
    before = {p for p in (project / "runs").rglob("*") if p.is_file()}
    found = leftovers()
    assert {p.relative_to(project / "runs").as_posix() for p, _ in found} == {"tiny/s6", "tiny/s1/last.ckpt", "tiny/s1/.metrics.7.part.json", ".jobs/20260101-000000-aaaa"}
    assert {p for p in (project / "runs").rglob("*") if p.is_file()} == before  # listing removes nothing
    clean_runs(found)
    assert leftovers() == [] and all(run.done for run in find_runs()) and len(find_runs()) == 2


def test_second_stage_starts_behind_its_first_and_not_without_it(project):
    write_text(project / "configs/tiny_s2.yaml", TINY_CONFIG + "model: {init_from: tiny}\n")
    with pytest.raises(UserError, match="tiny_s2/s1 starts from the weights of tiny/s1, which are not there"):
        plan_runs(["configs/tiny_s2.yaml"], [1])
    assert not (project / "runs").exists()
    tiny_notebooks(project, fault="if seed == 1: 1 / 0", stage="06_train")
    with pytest.raises(UserError, match="2 of 4 runs did not finish"):
        run_experiments(["configs/tiny_s2.yaml", *CONFIG], [0, 1], jobs=2, say=quiet)
    first, second = (RunFolder(project / f"runs/{n}/s0").facts()["attempts"] for n in ("tiny", "tiny_s2"))
    assert second[0]["begun"] >= first[-1]["ended"] and "starts from did not finish" in RunFolder(project / "runs/tiny_s2/s1").facts()["error"]
    assert [p.name for p in plan_runs(["configs/tiny_s2.yaml"], [0], resume=True)] == ["tiny_s2/s0"]


def test_waves_give_every_second_stage_the_place_of_its_first(project):
    for name in ("a2", "b2"):
        write_text(project / f"configs/{name}.yaml", TINY_CONFIG + "model: {init_from: tiny}\n")
    write_text(project / "configs/a3.yaml", TINY_CONFIG + "model: {init_from: a2}\n")
    waves = plan_waves(plan_runs(["configs/a3.yaml", "configs/b2.yaml", "configs/a2.yaml", "configs/tiny.yaml"], [4, 5]))
    place = {name: (k, task, w.after) for k, w in enumerate(waves) for task, name in w.tasks.items()}
    assert len(waves) == 4 and [place[f"tiny/s{s}"] for s in (4, 5)] == [(0, 0, None), (0, 1, None)]
    for child, parent in (("a2", "tiny"), ("b2", "tiny"), ("a3", "a2")):
        for s in (4, 5):
            (_, task, after), (wave, place_of_first, _) = place[f"{child}/s{s}"], place[f"{parent}/s{s}"]
            assert (task, after) == (place_of_first, wave)
    assert task_list([3]) == "3" and task_list([0, 1, 2]) == "0-2" and task_list([0, 2]) == "0,2"


# ---- the local launcher ---------------------------------------------------------------------------------------

def test_each_run_gets_its_gpu(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tiny_notebooks(project, fault="import os, time; time.sleep(1); print('sees', os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'], flush=True)")
    said = []
    run_experiments(CONFIG, [0, 1], say=said.append)
    seen = [line.split("sees ")[1] for line in said if "sees " in line]
    assert sorted(s.split()[0] for s in seen) == ["3", "5"] and {s.split()[1] for s in seen} == {str(max(1, (os.cpu_count() or 1) // 2))}
    assert slots(None, []) == [{}] and [s["CUDA_VISIBLE_DEVICES"] for s in slots(5, ["a", "b"])] == ["a", "b", "a", "b", "a"]


def test_a_gpu_that_is_not_there_is_said_before_anything_begins(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = []
    assert "1 GPU asked for, 0 visible" in machine_fault(1, said.append) and machine_fault(0, said.append) == "" and "torch 2." in said[0]
    run = begin_run(project / "runs", plan_runs(CONFIG, [0])[0])
    assert run_stages(run.path, gpus=1) == 1 and "1 GPU asked for" in run.facts()["error"] and not (run / "06_train.ipynb").exists()


def test_ctrl_c_leaves_no_process_and_a_run_that_goes_on(project):
    tiny_notebooks(project, fault="import time; print('asleep', flush=True); time.sleep(120)")
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background job would ignore it, and hand that down
    code = listen + "from crosssuck.experiments import run_experiments; run_experiments(['configs/tiny.yaml'], [0, 1, 2], jobs=2)"
    with subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=worker_environment(), cwd=project, start_new_session=True) as p:
        asleep = 0
        for line in p.stdout:
            asleep += "asleep" in line
            if asleep == 2:
                break
        os.killpg(p.pid, signal.SIGINT)  # what a terminal does
        begun = time.monotonic()
        assert p.wait(timeout=100) != 0 and time.monotonic() - begun < 100
    def left():
        return [q for q in Path("/proc").glob("[0-9]*/environ") if str(project).encode() in _bytes(q)]
    while left() and time.monotonic() - begun < 110:
        time.sleep(0.2)
    assert not left() and not any(is_held(r) for r in find_runs())
    assert sorted(watch_runs().state) == ["interrupted", "interrupted", "planned"]
    tiny_notebooks(project)
    run_experiments(CONFIG, [0, 1, 2], resume=True, jobs=2, say=quiet)
    assert (watch_runs().state == "done").all()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_that_comes_before_the_kernel_still_ends_it(project, name):
    tiny_notebooks(project, fault="import time; time.sleep(120)")
    run = begin_run(project / "runs", plan_runs(CONFIG, [0])[0])
    code = f"import sys; from crosssuck.experiments import run_stages; sys.exit(run_stages({str(run.path)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=worker_environment(), cwd=project) as p:
        assert "train: begun" in p.stdout.readline()  # nothing is started yet
        p.send_signal(getattr(signal, name))
        assert p.wait(timeout=100) == 75
    assert run.facts()["state"] == "interrupted" and f"{name} came" in run.facts()["error"]


def _bytes(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


# ---- the cluster ---------------------------------------------------------------------------------------------

FAKE = """#!/bin/bash
printf '%s\\0' "$@" >> "{log}"; printf '\\n' >> "{log}"
n=$(( $(wc -l < "{log}") + 100 ))
if [ "$n" -ge {refuse_from} ]; then echo "sbatch: error: Invalid qos specification" >&2; exit 1; fi
echo "$n;cluster"
"""


@pytest.fixture
def cluster(project, tmp_path, monkeypatch):
    "A PATH with an sbatch that writes down what it was given."
    def make(refuse_from=10_000):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name in ("sbatch", "scancel"):
            (folder / name).write_text(FAKE.format(log=tmp_path / f"{name}.log", refuse_from=refuse_from if name == "sbatch" else 10_000))
            (folder / name).chmod(0o755)
        fake(folder, squeue="exit 0", sacct="exit 0")
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        shutil.copytree(ROOT / "slurm", project / "slurm", dirs_exist_ok=True)
        return project
    return make


def calls(path):
    return [line.split("\0")[:-1] for line in path.read_text().splitlines()] if path.exists() else []


def test_three_submissions_each_behind_the_other(cluster, tmp_path, monkeypatch):
    cluster()
    monkeypatch.setenv("CROSSSUCK_ACCOUNT", "lab-account")
    monkeypatch.setenv("SCRATCHDIR", str(tmp_path / "scratch"))
    said = []
    folders = run_experiments(CONFIG, [0, 1, 2], launcher="slurm", site="slurm/sites/isaac-ng.yaml", say=said.append)
    train, evaluate, report = calls(tmp_path / "sbatch.log")
    files = [{line.removeprefix("#SBATCH ") for line in Path(c[k]).read_text().splitlines() if line.startswith("#SBATCH ")} for c, k in ((train, -2), (evaluate, -2), (report, -3))]
    assert {"--array=0-2%4", "--account=lab-account", "--partition=campus-gpu", "--qos=campus-gpu", "--gres=gpu:1", "--mem=65536M", "--cpus-per-task=8", "--time=24:00:00", "--requeue",
            "--open-mode=append", "--signal=B:USR1@300"} <= files[0]
    assert {"--dependency=aftercorr:101", "--array=0-2%4", "--kill-on-invalid-dep=yes"} <= files[1] and {"--dependency=afterany:102"} <= files[2]
    assert [Path(c[k]).name for c, k in ((train, -2), (evaluate, -2), (report, -3))] == ["train.sbatch", "evaluate.sbatch", "report.sbatch"]
    assert Path(train[-1]).read_text().splitlines() == [str(r.path) for r in folders]
    assert all(Path(r.path).is_relative_to(tmp_path / "scratch") for r in folders) and {k: read_json(folders[1] / "job.json")[k] for k in ("train", "evaluate", "report")} == {"train": "101_1", "evaluate": "102_1", "report": "103"}
    assert any("squeue -j 101,102,103" in line for line in said) and [run_state(r) for r in folders] == ["incomplete"] * 3
    with pytest.raises(UserError, match="the run exists"):
        run_experiments(CONFIG, [0, 1, 2], launcher="slurm", site="slurm/sites/isaac-ng.yaml", say=quiet)
    assert len(calls(tmp_path / "sbatch.log")) == 3


def test_cancelled_job_that_never_began_is_called_cancelled_though_the_scheduler_forgot_it(cluster, tmp_path):
    root = cluster()
    run, other = run_experiments(CONFIG, [0, 1], launcher="slurm", site="slurm/sites/local.yaml", say=quiet)
    fake(tmp_path / "bin", squeue="echo '101_0|PENDING||Priority'; echo '102_0|PENDING||Dependency'")
    assert cancel_runs([run, other], root / "runs") == [run.name] and calls(tmp_path / "scancel.log") == [["101_0", "102_0"]]
    fake(tmp_path / "bin", squeue="exit 0")
    why = watch_runs(root / "runs", patience_s=0).set_index("run").why
    assert why[run.name] == "cancelled" and "never began" in why[other.name]
    resume_runs([run], root / "runs", say=quiet)
    fake(tmp_path / "bin", squeue=f"echo '{read_json(run / 'job.json')['train']}|PENDING||Priority'")
    assert "cancelled" not in read_json(run / "job.json") and watch_runs(root / "runs", patience_s=0).set_index("run").state[run.name] == "queued"


def test_dry_run_submits_and_makes_nothing(cluster, project, tmp_path):
    cluster()
    before = sorted(project.rglob("*"))
    said = []
    run_experiments(CONFIG, [0], launcher="slurm", site="slurm/sites/local.yaml", dry_run=True, say=said.append)
    assert sum("sbatch --parsable" in line for line in said) == 3 and "#SBATCH --dependency=aftercorr:<train>" in "".join(said) and "forward crosssuck work" in "".join(said)
    assert sorted(project.rglob("*")) == before and not (tmp_path / "sbatch.log").exists()


def test_missing_account_is_named_before_anything_is_submitted(cluster, project, tmp_path, monkeypatch):
    cluster()
    monkeypatch.delenv("CROSSSUCK_ACCOUNT", raising=False)
    monkeypatch.setenv("SCRATCHDIR", str(tmp_path / "scratch"))
    with pytest.raises(UserError, match="CROSSSUCK_ACCOUNT is not set; export CROSSSUCK_ACCOUNT"):
        run_experiments(CONFIG, [0], launcher="slurm", site="slurm/sites/isaac-ng.yaml", say=quiet)
    monkeypatch.delenv("SCRATCHDIR")
    monkeypatch.setenv("CROSSSUCK_ACCOUNT", "lab-account")
    with pytest.raises(UserError, match="SCRATCHDIR is not set"):
        run_experiments(CONFIG, [0], launcher="slurm", site="slurm/sites/isaac-ng.yaml", say=quiet)
    assert not (tmp_path / "sbatch.log").exists() and not (tmp_path / "scratch").exists()


def test_refused_submission_takes_the_earlier_ones_back(cluster, tmp_path):
    cluster(refuse_from=102)
    with pytest.raises(UserError, match="evaluate.sbatch: sbatch refused: sbatch: error: Invalid qos specification"):
        run_experiments(CONFIG, [0], launcher="slurm", site="slurm/sites/local.yaml", say=quiet)
    assert calls(tmp_path / "scancel.log") == [["101"]]


def test_no_path_can_become_a_shell_word(cluster, project, tmp_path):
    cluster()
    hostile = project / "runs $(touch pwned); rm -rf %j 'x"
    folders = run_experiments(CONFIG, [0], launcher="slurm", site="slurm/sites/local.yaml", runs=hostile, say=quiet)
    train, *_ = calls(tmp_path / "sbatch.log")
    assert Path(train[-1]).read_text() == f"{folders[0].path}\n" and any(w.startswith("--output=") and "%%j" in w for w in train)
    bash = f'source {ROOT}/slurm/env.sh >/dev/null; SLURM_ARRAY_TASK_ID=0; [ "$(run_of "$1")" = "$2" ] && echo same'
    env = {**os.environ, "CROSSSUCK_ROOT": str(project)}
    assert subprocess.run(["bash", "-euc", bash, "bash", train[-1], str(folders[0].path)], capture_output=True, text=True, env=env).stdout == "same\n"
    assert not list(project.rglob("pwned"))
    with pytest.raises(UserError, match="is no name for a folder"):
        write_text(project / "configs/a b;c.yaml", TINY_CONFIG)
        run_experiments(["configs/a b;c.yaml"], [0], launcher="slurm", site="slurm/sites/local.yaml", say=quiet)


@pytest.mark.parametrize("line, words", [("partitoin: gpu", "unknown key 'partitoin'"), ("train: {mem: 64}", "unknown key 'train.mem'"), ("max_running: four", "max_running"),
                                         ("qos: 'a b'", "qos: string should match"), ("train: {time: '24h'}", "train.time")])
def test_site_profile_is_closed(tmp_path, line, words):
    path = write_text(tmp_path / "site.yaml", f"partition: gpu\n{line}\n")
    with pytest.raises(UserError, match=words):
        read_site(path)


def test_shipped_profiles_and_batch_files(tmp_path):
    for path in (ROOT / "slurm/sites").glob("*.yaml"):
        read_site(path)
    lab = read_site(ROOT / "slurm/sites/isaac-ng.yaml")
    assert (lab.partition, lab.qos, lab.train.gpus, lab.train.cpus, lab.train.mem_gb, lab.train.time) == ("campus-gpu", "campus-gpu", 1, 8, 64, "24:00:00") and lab.account_env
    for path in (ROOT / "slurm").glob("*.sbatch"):
        assert subprocess.run(["bash", "-n", path]).returncode == 0
        text = path.read_text()
        assert "set -euo pipefail" in text and "#SBATCH --requeue" in text and "#SBATCH --open-mode=append" in text and "env.sh" in text
        assert not re.search(r"--(partition|account|qos)=", text), "a site's words belong into its profile"
    code = (ROOT / "crosssuck/experiments.py").read_text() + (ROOT / "crosssuck/cli.py").read_text()
    assert "campus" not in code and "isaac" not in re.sub(r"\S*mvit_isaac\S*|slurm/sites/\S+", "", code)
    assert "--partition=campus-gpu" in batch_file(read_site(ROOT / "slurm/sites/local.yaml"), "report") and "--signal" not in batch_file(lab_free(lab), "report")


def lab_free(site):
    from dataclasses import replace
    return replace(site, account_env="")


@pytest.mark.parametrize("code, requeued", [(0, False), (1, False), (75, True)])
def test_batch_file_hands_the_signal_on_and_asks_for_the_queue(tmp_path, code, requeued):
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    fake(tmp_path, squeue="echo RUNNING")
    child = f"import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit({code})))\nprint('up', flush=True)\ntime.sleep(60)"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "CROSSSUCK_ROOT": str(tmp_path), "CROSSSUCK_ACTIVATE": ""}
    with subprocess.Popen(["bash", "-euc", f'set -o pipefail; source {ROOT}/slurm/env.sh; forward {sys.executable} -c "$0"', child], stdout=subprocess.PIPE, text=True, env=env) as job:
        for line in job.stdout:
            if line == "up\n":
                break
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=30) == code
    assert (tmp_path / "requeued").exists() == requeued and (not requeued or (tmp_path / "requeued").read_text() == "requeue 17\n")


def test_local_dry_run_makes_nothing(project):
    before = sorted(project.rglob("*"))
    assert [r.name for r in run_experiments(CONFIG, [0, 1], dry_run=True, say=quiet)] == ["tiny/s0", "tiny/s1"]
    assert sorted(project.rglob("*")) == before


def test_history_of_a_run_is_json(runs):
    assert json.loads((runs / "runs/tiny/s0/status.json").read_text())["finished"].keys() == STAGES.keys()
