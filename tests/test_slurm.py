"""On a real slurmctld and slurmd, whichever `sbatch` speaks to: arrays, preemption, limits, drains, cancelled dependencies, hostile names.

Jobs that mostly wait are submitted together when the first test asks (`scenes`), and looked at one by one; what needs the
cluster to itself comes after them."""
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crosssuck.core import RunFolder, UserError, read_json, write_text
from crosssuck.experiments import TINY_CONFIG, ask_scheduler, cancel_runs, find_runs, pick_runs, resume_runs, run_experiments, tiny_notebooks, watch_runs

ROOT = Path(__file__).resolve().parents[1]
SITE = f"""partition: {{partition}}
activate: {sys.prefix}/bin/activate
max_running: {{throttle}}
train: {{{{cpus: 1, mem_gb: {{mem}}, time: "{{time}}", warn_s: {{warn}}}}}}
evaluate: {{{{cpus: 1, mem_gb: 1.5, time: "00:10:00", warn_s: 10}}}}
extract: {{{{cpus: 1, mem_gb: 1.0, time: "00:10:00"}}}}
report: {{{{cpus: 1, mem_gb: 1.5, time: "00:10:00"}}}}
"""
WAIT_S = 240
LOOP = """import signal, time
class Requeue(Exception): pass
asked, at = [], run / "last.ckpt"
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
for k in range(int(at.read_text()) if at.exists() else 0, {n}):
    time.sleep(1)
    at.write_text(str(k + 1))
    if asked: raise Requeue(f"SIGTERM came: saved after {{k + 1}}")
"""
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"
GREEDY = "import time\nx = bytearray(3_000_000_000)\nfor k in range(0, len(x), 4096): x[k] = 1\ntime.sleep(120)"


def slurm(*words) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def partition():
    "The default partition of the cluster that sbatch speaks to; jobs left over are cancelled at the end."
    if not shutil.which("sbatch"):
        pytest.skip("no sbatch on PATH: start a SLURM to run the cluster tests")
    try:
        found = slurm("sinfo", "--noheader", "--format=%P").split()
    except (subprocess.SubprocessError, OSError):
        pytest.skip("sbatch is here and no slurmctld answers: start it to run the cluster tests")
    before = set(slurm("squeue", "--noheader", "--me", "--format=%A").split())
    yield next((p for p in found if p.endswith("*")), found[0]).rstrip("*")
    mine = set(slurm("squeue", "--noheader", "--me", "--format=%A").split()) - before
    if mine:
        subprocess.run(["scancel", *mine], capture_output=True)


@pytest.fixture(scope="module")
def build(partition, tmp_path_factory):
    "Make a project with practice notebooks and a site profile for this cluster."
    def make(name, *, folder=None, fault="", stage="06_train", mem=1.5, limit="00:10:00", warn=10, throttle=2):
        root = tiny_notebooks((folder or tmp_path_factory.mktemp("cluster")) / name, fault=fault, stage=stage)
        shutil.copytree(ROOT / "slurm", root / "slurm", dirs_exist_ok=True)
        write_text(root / "site.yaml", SITE.format(partition=partition, mem=mem, time=limit, warn=warn, throttle=throttle))
        return root
    return make


class at:
    "Work with a project as root of everything, and restore what was."
    def __init__(self, root): self.root = root
    def __enter__(self):
        self.before = os.environ.get("CROSSSUCK_ROOT")
        os.environ["CROSSSUCK_ROOT"] = str(self.root)
    def __exit__(self, *_):
        os.environ.pop("CROSSSUCK_ROOT") if self.before is None else os.environ.update(CROSSSUCK_ROOT=self.before)


def submit(root, configs=("configs/tiny.yaml",), seeds=(0,), **more):
    said = []
    with at(root):
        runs = run_experiments(configs, seeds, launcher="slurm", site="site.yaml", say=said.append, **more)
    return runs, said


def look(root, runs="runs"):
    with at(root):
        return watch_runs(root / runs, patience_s=0).set_index("run")


def until(root, true, runs="runs", wait_s=WAIT_S):
    "Ask for the state of all runs until something is true of the table."
    begun, over = time.monotonic(), 0
    while not true(table := look(root, runs)):
        over = over + 1 if settled(table) else 0  # nothing is left that could make it true
        assert over < 12 and time.monotonic() - begun < wait_s, f"{table.to_string()}\n{logs(root)}\n{slurm('squeue')}"
        time.sleep(0.5)
    return table


def logs(root, last=1500) -> str:
    return "\n".join(f"--- {p.name}\n{p.read_text()[-last:]}" for p in sorted(root.rglob("*.out")))


def settled(table) -> bool:
    return not table.state.isin(["queued", "running", "preempted"]).any()


def job(run, stage="train"):
    return read_json(run / "job.json")[stage]


# ---- what mostly waits: submitted together ---------------------------------------------------------------------------

@pytest.fixture(scope="module")
def scenes(build):
    "Jobs that spend a minute waiting for the scheduler: the limit of time, twice; too much memory; two stages."
    made = {"saves": build("saves", fault=LOOP.format(n=75), limit="00:01:00"), "deaf": build("deaf", fault=DEAF, limit="00:01:00"),
            "greedy": build("greedy", fault=GREEDY, mem=0.6), "stages": build("stages", fault="if seed == 1: raise ValueError('no clip')")}
    write_text(made["stages"] / "configs/tiny_s2.yaml", TINY_CONFIG + "model: {init_from: tiny}\n")
    for name, root in made.items():
        submit(root, ["configs/tiny_s2.yaml", "configs/tiny.yaml"] if name == "stages" else ["configs/tiny.yaml"], [0, 1] if name == "stages" else [0])
    return made


def test_second_stage_waits_for_its_own_first_stage_and_a_cancelled_dependency_leaves_the_queue(scenes):
    root = scenes["stages"]
    table = until(root, settled)
    assert table.state.to_dict() == {"tiny/s0": "done", "tiny/s1": "failed", "tiny_s2/s0": "done", "tiny_s2/s1": "failed"}, logs(root)
    assert table.why["tiny/s1"] == "ValueError: no clip"
    first, second = (RunFolder(root / "runs" / n / "s0").facts()["attempts"] for n in ("tiny", "tiny_s2"))
    assert second[0]["begun"] >= first[0]["ended"] and second[0]["stage"] == first[0]["stage"] == "train"
    assert not RunFolder(root / "runs/tiny_s2/s1").facts().get("attempts"), "it began although its first stage failed"
    waiting = RunFolder(root / "runs/tiny_s2/s1")
    with at(root):
        assert not ask_scheduler([job(waiting), job(waiting, "evaluate")], root / "kept.json", patience_s=0) or table.why["tiny_s2/s1"] == "cancelled"
    until_report(root)
    index = (root / "reports/index.html").read_text()
    assert "tiny_s0/evaluate.html" in index and "ValueError: no clip" in index  # afterany: the index tells of the failed ones too


def until_report(root, wait_s=WAIT_S):
    begun = time.monotonic()
    while not (root / "reports/index.html").exists():
        assert time.monotonic() - begun < wait_s, logs(root) + slurm("squeue")
        time.sleep(0.5)


def test_job_over_its_memory_is_failed_and_says_so(scenes):
    table = until(scenes["greedy"], settled)
    assert table.state["tiny/s0"] == "failed" and "out of memory" in table.why["tiny/s0"], table.to_string() + logs(scenes["greedy"])
    run = RunFolder(scenes["greedy"] / "runs/tiny/s0")
    assert not run.done and len(run.facts()["attempts"]) == 1, "a job that needs more memory than it has must not come back by itself"


def test_limit_of_time_is_a_preemption_for_a_job_that_saves(scenes):
    root = scenes["saves"]
    until(root, lambda t: t.state["tiny/s0"] == "done")
    attempts = [a for a in RunFolder(root / "runs/tiny/s0").facts()["attempts"] if a["stage"] == "train"]
    assert len(attempts) > 1 and attempts[0]["code"] == 75 and "saved after" in attempts[0]["why"], attempts
    assert [a["restart"] for a in attempts] == list(range(len(attempts))) and len({a["job"] for a in attempts}) == 1
    said = logs(root, last=100_000)
    assert said.count("back into the queue") == len(attempts) - 1 and re.search(r"job \d+  restart 1", said)


def test_limit_of_time_ends_a_job_that_does_not_save(scenes):
    table = until(scenes["deaf"], settled)
    assert table.state["tiny/s0"] == "failed" and "limit of time" in table.why["tiny/s0"], table.to_string() + logs(scenes["deaf"])
    assert not RunFolder(scenes["deaf"] / "runs/tiny/s0").done


# ---- real training ---------------------------------------------------------------------------------------------------

REAL = """data: {{split_dir: {study}/split, clips: {study}/clips/clips.csv, simulated: true, scheme: {scheme}, split_seed: {split_seed}}}
window: {{num_frames: 4, sample_fps: 5.0, views: 1}}
geometry: {{policy: squash, size_px: {size}}}
model: {{backbone: r2plus1d_tiny, weights: none, head_dropout: 0.2}}
optim: {{lr: 0.002, epochs: {epochs}, batch_size: {batch}, amp: false}}
loader: {{workers: 0, cache_mb: 200}}
"""


@pytest.fixture(scope="module")
def real(build):
    "A project with the real notebooks and a study that trains in seconds."
    from crosssuck.simulation import tiny_study
    def make(name, **more):
        root, facts = build(name, **{k: v for k, v in more.items() if k in ("limit", "warn", "throttle", "mem")}), read_json(tiny_study() / "split/split.json")
        for notebook in ("06_train", "07_eval", "08_calibration"):
            shutil.copyfile(ROOT / f"nbs/{notebook}.ipynb", root / f"nbs/{notebook}.ipynb")
        settings = {"size": 32, "epochs": 1, "batch": 8} | {k: v for k, v in more.items() if k in ("size", "epochs", "batch")}
        for config in more.get("configs", ["real"]):
            write_text(root / f"configs/{config}.yaml", REAL.format(study=tiny_study(), scheme=facts["scheme"], split_seed=facts["split_seed"], **settings))
        return root
    return make


def test_six_runs_by_array(real):
    "Two experiments with three seeds, in one array, at most two at a time; evaluated; one index that tells of all."
    root = real("six", configs=["real_a", "real_b"])
    runs, said = submit(root, ["configs/real_a.yaml", "configs/real_b.yaml"], [0, 1, 2])
    ids = {job(r).partition("_")[0] for r in runs}
    assert len(ids) == 1 and sorted(job(r).partition("_")[2] for r in runs) == list("012345"), "one array"
    assert any(f"train {ids.copy().pop()}" in line and "evaluate" in line for line in said) and any("squeue -j" in line and "crosssuck status" in line for line in said)
    seen, most = set(), 0
    def done(table):
        nonlocal most
        seen.update(table.state)
        at_work = slurm("squeue", "--noheader", "--array", "--me", "--states=RUNNING", f"--jobs={','.join(ids)}", "--format=%i").split()
        most = max(most, len(at_work))
        return (table.state == "done").all()
    table = until(root, done, wait_s=600)
    assert {"queued", "running", "done"} <= seen and not seen & {"failed", "planned", "interrupted", "preempted"} and 1 <= most <= 2
    assert (table.epoch == "1/1").all() and table.best.str.contains("at 1").all()
    until_report(root)
    index = (root / "reports/index.html").read_text()
    assert all(f"real_{x}_s{k}/evaluate.html" in index for x in "ab" for k in range(3)) and "6 runs: 6 finished" in index
    log = logs(root, last=100_000)
    assert "python 3." in log and "torch 2." in log and "commit" in log and "no GPU is visible" in log and "train: done in" in log


def test_preempted_in_the_middle_of_an_epoch_three_times_it_ends_with_the_same_weights(real, monkeypatch):
    root = real("preempted", size=80, epochs=30, batch=1)  # epochs enough that the third signal too finds it training
    (run,), _ = submit(root, ["configs/real.yaml"], [5])
    middle, begun = 0, time.monotonic()
    while middle < 3 and not run.done:
        assert time.monotonic() - begun < 1500, logs(root)
        history = run / "training_history.json"
        before = history.stat().st_mtime_ns if history.exists() else 0
        until(root, lambda t, h=history, b=before: (h.stat().st_mtime_ns if h.exists() else 0) > b, wait_s=400)  # an epoch has just begun
        subprocess.run(["scancel", "--batch", "--signal=USR1", job(run)], check=True)
        until(root, lambda t: t.state.iloc[0] in ("preempted", "done"), wait_s=200)
        middle = len([a for a in run.facts()["attempts"] if re.search(r"saved after epoch \d+, batch [1-9]\d*;", a.get("why", ""))])
    assert middle >= 3, (run.facts()["attempts"], logs(root))
    until(root, lambda t: t.state.iloc[0] == "done", wait_s=300)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the job had it
    with at(root):
        other, = run_experiments(["configs/real.yaml"], [5], runs=root / "undisturbed", say=lambda line: None)
    import torch
    a, b = (torch.load(r / "last.ckpt", weights_only=True)["model"] for r in (run, other))
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    a, b = (read_json(r / "training_history.json") for r in (run, other))
    assert len(a["epoch"]) == 30 and {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert (run / "test_predictions.csv").read_text() == (other / "test_predictions.csv").read_text()


# ---- the cluster in other moods --------------------------------------------------------------------------------------

@pytest.fixture
def node():
    "A node to drain; it is put back whatever happens."
    if os.geteuid() != 0:
        pytest.skip("only an administrator of the cluster can drain a node")
    name = slurm("sinfo", "--noheader", "--Node", "--format=%N").split()[0]
    yield name
    subprocess.run(["scontrol", "update", f"nodename={name}", "state=resume"], capture_output=True)


def test_drained_node_keeps_runs_waiting_and_they_go_on_afterwards(build, node):
    root = build("drained")
    slurm("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    submit(root, seeds=[0])
    table = until(root, lambda t: t.state["tiny/s0"] == "queued" and "waits" in t.why["tiny/s0"] and len(t.why["tiny/s0"]) > 8)
    assert table.attempts["tiny/s0"] == 0
    slurm("scontrol", "update", f"nodename={node}", "state=resume")
    until(root, lambda t: t.state["tiny/s0"] == "done")


def test_cluster_without_sacct(build, monkeypatch, tmp_path):
    "The state of ended jobs comes from squeue while it knows them, then from files and logs."
    root = build("without", fault="import os, signal; os.kill(os.getppid(), signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sacct").write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    (folder / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    submit(root)
    table = until(root, settled)
    assert table.state["tiny/s0"] == "failed" and table.why["tiny/s0"], table.to_string()
    (folder / "squeue").write_text("#!/bin/sh\nexit 0\n")  # the job has aged out of the scheduler's memory
    (folder / "squeue").chmod(0o755)
    table = look(root)
    assert table.state["tiny/s0"] == "failed" and "ended without a word" in table.why["tiny/s0"]


def test_submitted_twice_is_refused_or_left_alone_and_never_doubled(build):
    root = build("twice", fault=LOOP.format(n=300))
    (run,), _ = submit(root)
    until(root, lambda t: t.state["tiny/s0"] == "running")
    with pytest.raises(UserError, match="the run exists; add --resume"):
        submit(root)
    before = read_json(run / "job.json")
    _, said = submit(root, resume=True)
    assert read_json(run / "job.json") == before and any("left alone" in line for line in said)
    code = "import sys; from crosssuck.experiments import run_experiments as r; r(['configs/tiny.yaml'], [7], launcher='slurm', site='site.yaml', resume=True)"
    both = [subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "CROSSSUCK_ROOT": str(root)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    texts = [p.communicate(timeout=120)[0] for p in both]
    assert sum("submitted 1 run" in t for t in texts) == 1 and sum("left alone" in t for t in texts) == 1, texts
    with at(root):
        assert sorted(cancel_runs(find_runs(), root / "runs")) == ["tiny/s0", "tiny/s7"]
    table = until(root, settled)
    assert set(table.state) <= {"failed", "interrupted"} and table.why.str.contains("cancelled").all(), table.to_string()
    time.sleep(7)  # longer than a requeued job waits here
    assert settled(look(root)), "a cancelled job came back"
    tiny_notebooks(root)
    with at(root):
        resume_runs(pick_runs(["tiny/s0"]), launcher="", say=lambda line: None)  # the way it was launched before
    until(root, lambda t: t.state["tiny/s0"] == "done")
    assert job(run) != before["train"]


HOSTILE = "r $(touch pwned) `touch pwned`; touch pwned & 'q\" %j *"


def test_no_name_can_become_a_shell_word(build, tmp_path, monkeypatch):
    "A hostile path goes through sbatch, bash, papermill and the report as the path that it is."
    monkeypatch.chdir(tmp_path)
    root = build(HOSTILE, folder=tmp_path)
    (run,), said = submit(root, runs=root / HOSTILE)
    until(root, lambda t: t.state.iloc[0] == "done", runs=HOSTILE)
    until_report(root)
    assert run.done and run.path == root / HOSTILE / "tiny/s0"
    assert not list(tmp_path.rglob("pwned")) and not (ROOT / "pwned").exists() and not (Path.home() / "pwned").exists()
    files = "".join(p.read_text() for p in root.rglob(".jobs/*/*.sbatch"))
    assert "pwned" not in files and "#SBATCH --array=0%2" in files
    for account in ("lab --uid=0", "lab\n#SBATCH --uid=0", "$(touch pwned)"):
        monkeypatch.setenv("HOSTILE_ACCOUNT", account)
        write_text(root / "hostile.yaml", (root / "site.yaml").read_text() + "account_env: HOSTILE_ACCOUNT\n")
        with at(root), pytest.raises(UserError, match="is more than a word"):
            run_experiments(["configs/tiny.yaml"], [1], launcher="slurm", site="hostile.yaml", say=print)
    with at(root), pytest.raises(UserError, match="control character"):
        run_experiments(["configs/tiny.yaml"], [1], launcher="slurm", site="site.yaml", runs=root / "a\n/tmp/b", say=print)
    write_text(root / "data/logo/g1 $(touch pwned)/split.json", "{}")
    with at(root), pytest.raises(UserError, match="is no name for a folder"):
        run_experiments(["configs/tiny.yaml"], [1], launcher="slurm", site="site.yaml", overrides=["data.split_dir=data/logo"], say=print)
    assert not list(tmp_path.rglob("pwned"))


def test_clips_are_cut_by_an_array_over_shards(build, tmp_path):
    from typer.testing import CliRunner

    from crosssuck.cli import app
    from crosssuck.simulation import tiny_drive
    root, drive = build("shards"), tiny_drive()
    def call(*words, root=ROOT):
        with at(root):
            result = CliRunner().invoke(app, [str(w) for w in words])
        assert result.exit_code == 0, result.output
        return result.output
    call("manifest", drive / "workbook.xlsx", "--out", tmp_path / "m")
    call("scan", drive / "videos", "--cameras", drive / "cameras.yaml", "--out", tmp_path / "inventory.csv")
    call("link", tmp_path / "m/events.csv", tmp_path / "inventory.csv", "--cameras", drive / "cameras.yaml", "--out", tmp_path / "linked.csv")
    array = ["extract-array", tmp_path / "linked.csv", "--out", tmp_path / "clips", "--shards", 3, "--mode", "copy", "--site", root / "site.yaml"]
    assert "submitted 3 shards" in call(*array, root=root)
    with at(root):
        assert "is at it" in str(CliRunner().invoke(app, [str(w) for w in array]).output)
    begun = time.monotonic()
    while not (tmp_path / "clips/clips.csv").exists():
        assert time.monotonic() - begun < WAIT_S, logs(tmp_path)
        time.sleep(0.5)
    call("extract", tmp_path / "linked.csv", "--out", tmp_path / "whole", "--mode", "copy")
    import pandas as pd
    parts, whole = (pd.read_csv(tmp_path / f / "clips.csv", dtype=str, keep_default_na=False) for f in ("clips", "whole"))
    assert parts.event_idx.tolist() == whole.event_idx.tolist() and (parts.status == "ok").all()
    assert all((tmp_path / "clips" / p).read_bytes() == (tmp_path / "whole" / q).read_bytes() for p, q in zip(parts.clip_path, whole.clip_path, strict=True))


def test_submitting_and_asking_import_no_torch(build):
    root = build("light")
    code = ("import sys; from crosssuck.cli import main; "
            "sys.argv = ['crosssuck'] + sys.argv[1:]\n"
            "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
            "assert not {'torch', 'torchvision', 'matplotlib', 'sklearn'} & set(sys.modules), sorted({'torch', 'torchvision', 'matplotlib', 'sklearn'} & set(sys.modules))")
    for words in (["run", "configs/tiny.yaml", "--launcher", "slurm", "--site", "site.yaml"], ["status"], ["cancel", "tiny"], ["status"], ["clean"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=root, env={**os.environ, "CROSSSUCK_ROOT": str(root)})
        assert done.returncode == 0, (words, done.stdout, done.stderr)


# ---- the long tier ---------------------------------------------------------------------------------------------------

@pytest.mark.long
def test_six_runs_of_the_demo_config_by_array(build, monkeypatch):
    "The demo's own configs, three with two seeds, on the demo's own study, as the lab would submit them."
    if not (ROOT / "data/demo/split/split.json").exists():
        pytest.skip("the demo's study is not here: make demo")
    root = build("demo", mem=6)
    (root / "site.yaml").write_text((root / "site.yaml").read_text().replace("mem_gb: 1.5", "mem_gb: 3.0"))
    monkeypatch.setenv("CROSSSUCK_ROOT", str(ROOT))
    configs = [ROOT / f"configs/{n}.yaml" for n in ("demo_v4_center", "demo_v4_roi", "demo_v4b_roi")]
    run_experiments(configs, [0, 1], launcher="slurm", site=root / "site.yaml", runs=root / "runs", reports=root / "reports", overrides=["optim.epochs=1"], say=print)
    begun = time.monotonic()
    while not (table := watch_runs(root / "runs", patience_s=0)).state.eq("done").all():
        assert time.monotonic() - begun < 3000 and not table.state.isin(["failed", "interrupted"]).any(), table.to_string() + logs(root)
        time.sleep(5)
    until_report(root)
    index = root / "reports/index.html"
    assert index.stat().st_size < 5_000_000 and index.read_text().count('<tbody class="run"') == 6
