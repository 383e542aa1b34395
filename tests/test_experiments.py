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
from crosssuck.experiments import (NO_FETCH, PAGE_LIMIT, STAGES, TINY_CONFIG, Planned, begin_run, collect_runs, find_folds, find_runs, launch_local, plan_runs,
                                   read_site, redact_tree, render_notebook, run_experiments, run_stages, run_state, sbatch_command, stale_reasons, tiny_notebooks,
                                   worker_command, worker_environment, write_reports)

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
    assert before == {p: p.stat().st_mtime_ns for p in (runs / "runs").rglob("*") if p.is_file()} and all("finished before" in line for line in said)


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
        assert worker.wait(timeout=60) == 75 and time.monotonic() - begun < 30
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


def test_smoke_of_the_real_notebooks(tmp_path, monkeypatch):
    "Notebooks 06, 07 and 08 go through the real launcher with a few steps of a real network on real clips."
    from crosssuck.simulation import tiny_study
    monkeypatch.setenv("CROSSSUCK_ROOT", str(ROOT))
    facts = read_json(tiny_study() / "split/split.json")
    text = SMOKE.format(study=tiny_study()) .replace("simulated: true", f"simulated: true, scheme: {facts['scheme']}, split_seed: {facts['split_seed']}")
    config = write_text(tmp_path / "smoke.yaml", text)
    said = []
    try:
        run, = run_experiments([config], [3], runs=tmp_path / "runs", smoke=True, say=said.append)
    except UserError as e:
        raise AssertionError("\n".join([*said, str(e)])) from e
    assert run_state(run) == "smoke" and collect_runs(tmp_path / "runs").state.tolist() == ["smoke"]
    for notebook_name in ("06_train", "07_eval", "08_calibration"):
        nb = nbformat.read(run / f"{notebook_name}.ipynb", as_version=4)
        text = (run / f"{notebook_name}.ipynb").read_text()
        assert str(ROOT) not in text and not any(o.output_type == "error" for c in nb.cells if c.cell_type == "code" for o in c.outputs)
        assert any("image/png" in o.get("data", {}) for c in nb.cells if c.cell_type == "code" for o in c.outputs), f"{notebook_name} shows no figure"
    index = write_reports(tmp_path / "runs", tmp_path / "reports")
    page = index.read_text()
    assert "only a smoke test" in page and "No run is finished yet" in page
    for page in (tmp_path / "reports/smoke_s3").glob("*.html"):
        html = page.read_text()
        assert page.stat().st_size < PAGE_LIMIT and SIMULATED in html and "<script" not in html and "data:image/png" in html
        assert not re.search(r"(src|href)=[\"']https?://", html) and "#| export" not in html


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
    page = write_reports(extras=[]).read_text()
    compared, _, apart = page.partition("<h2>Not compared</h2>")
    assert "tiny_s0/evaluate.html" in compared and "tiny_s1/" in compared and "alert(1)" not in compared
    assert "tiny/s7" in apart and "tiny/s6" in apart and "tiny/s7" not in compared and "tiny/s6" not in compared
    assert "<script" not in page and "&lt;script&gt;alert(2)" in page and "stale: metrics/metrics.json was changed" in page
    assert SIMULATED in page and page.count("<tbody class=\"run\">") == 2
    facts = read_json(path)["metrics"]
    assert f"<b>{facts['roc_auc']:.3f}</b>" in page and "always ear 0.400" in page and "cannot be told" in page
    for k in (0, 1):
        assert (runs / f"reports/tiny_s{k}/train.html").exists()


def test_index_is_the_same_when_rebuilt_and_links_lead_somewhere(runs):
    write_page(runs / "pages/compare/comparison.html", "A & B", ["! No difference."])
    first = write_reports(out="reports", extras=["pages"]).read_text()
    shutil.rmtree(runs / "reports")
    assert write_reports(out="reports", extras=["pages"]).read_text() == first
    links = re.findall(r'href="([^"]+)"', first)
    assert "pages/pages/compare/comparison.html" in links and "<b>compare</b>" in first and "A &amp; B" in first
    assert all((runs / "reports" / href).exists() for href in links if href != "data:,")
    assert str(runs) not in first and NO_FETCH.split(";")[0] in first.replace("&#39;", "'")


def test_no_runs_give_a_page_all_the_same(project):
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


def test_pages_open_in_a_browser_without_a_word_on_the_console(runs, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no chromium on PATH")
    index = write_reports()
    for page in (index, *sorted((runs / "reports/tiny_s0").glob("*.html"))):
        done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--dump-dom",
                               page.as_uri()], capture_output=True, text=True, timeout=120)
        assert "<h1>" in done.stdout and not re.search(r"CONSOLE|Refused to|ERR_", done.stderr), done.stderr[-2000:]


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
    assert {"--array=0-2%4", "--account=lab-account", "--partition=campus-gpu", "--qos=campus-gpu", "--gres=gpu:1", "--mem=64G", "--cpus-per-task=8", "--time=24:00:00"} <= set(train)
    assert {"--dependency=aftercorr:101", "--array=0-2%4", "--kill-on-invalid-dep=yes"} <= set(evaluate) and {"--dependency=afterany:102"} <= set(report)
    assert [Path(c[k]).name for c, k in ((train, -2), (evaluate, -2), (report, -3))] == ["train.sbatch", "evaluate.sbatch", "report.sbatch"]
    assert Path(train[-1]).read_text().splitlines() == [str(r.path) for r in folders]
    assert all(Path(r.path).is_relative_to(tmp_path / "scratch") for r in folders) and folders[1].facts()["jobs"] == {"train": "101_1", "evaluate": "102_1", "report": "103"}
    assert any("squeue -j 101,102,103" in line for line in said) and [run_state(r) for r in folders] == ["incomplete"] * 3
    with pytest.raises(UserError, match="the run exists"):
        run_experiments(CONFIG, [0, 1, 2], launcher="slurm", site="slurm/sites/isaac-ng.yaml", say=quiet)
    assert len(calls(tmp_path / "sbatch.log")) == 3


def test_dry_run_submits_and_makes_nothing(cluster, project, tmp_path):
    cluster()
    before = sorted(project.rglob("*"))
    said = []
    run_experiments(CONFIG, [0], launcher="slurm", site="slurm/sites/local.yaml", dry_run=True, say=said.append)
    assert sum("sbatch --parsable" in line for line in said) == 3 and "aftercorr:<train>" in "".join(said)
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
    assert len(sbatch_command(read_site(ROOT / "slurm/sites/local.yaml"), "report", ["a", "b"], jobs_dir=tmp_path)) > 5


@pytest.mark.parametrize("code, requeued", [(0, False), (1, False), (75, True)])
def test_batch_file_hands_the_signal_on_and_asks_for_the_queue(tmp_path, code, requeued):
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
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
