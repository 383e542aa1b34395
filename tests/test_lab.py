"The start page and the run browser in JupyterLab, in a real browser: the table looks again by itself while something runs."
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from crosssuck.core import write_json
from crosssuck.experiments import RunBrowser, begin_run, claim, plan_runs, render_notebook, runs_html, tiny_notebooks, watch_runs

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "only-for-this-test"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "Practice runs, one of them at work, and a notebook that browses them."
    root, before = tiny_notebooks(tmp_path_factory.mktemp("lab")), os.environ.get("CROSSSUCK_ROOT")
    os.environ["CROSSSUCK_ROOT"] = str(root)
    plan = plan_runs(["configs/tiny.yaml"], [0, 1])
    one, two = (begin_run(root / "runs", p) for p in plan)
    write_json(one / "training_history.json", {"epoch": [1], "val_macro_f1": [0.5], "seconds": [60.0]})
    one.say(state="running", stage="train", attempts=[{"stage": "train", "begun": "2026-01-01T00:00:00", "pid": 1, "job": "", "restart": 0}])
    two.say(state="failed", stage="train", error="<script>alert(1)</script>", attempts=[{"stage": "train", "begun": "2026-01-01T00:00:00", "why": "no clip"}])
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("from crosssuck.experiments import RunBrowser\nRunBrowser(every_s=1)")],
                                  metadata={"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}})
    nbformat.write(nb, root / "runs.ipynb")
    with claim(one.path):
        yield root
    os.environ.pop("CROSSSUCK_ROOT") if before is None else os.environ.update(CROSSSUCK_ROOT=before)


def test_still_table_stands_in_a_page_without_a_kernel(project):
    browser = RunBrowser()
    bundle = browser._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and bundle["text/html"] == runs_html(watch_runs()) and "tiny/s0" in bundle["text/plain"]
    assert "<script>" not in bundle["text/html"] and "&lt;script&gt;" in bundle["text/html"]
    v4 = nbformat.v4
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# Run"), v4.new_code_cell("RunBrowser()", outputs=[v4.new_output("display_data", data=bundle)])])
    nbformat.write(nb, project / "still.ipynb")
    page = render_notebook(project / "still.ipynb", project / "still.html").read_text()
    assert "tiny/s0" in page and "<td" in page and "<script" not in page and "widget-view" not in page


def test_browser_filters_and_tells_more(project):
    browser = RunBrowser()
    assert "tiny/s0" in browser.table.value and browser.busy and "looks again by itself" in browser.stamp.value
    browser.words.value = "S1"
    assert "tiny/s1" in browser.table.value and "tiny/s0" not in browser.table.value
    browser.words.value, browser.state.value = "", "running"
    assert "tiny/s0" in browser.table.value and "tiny/s1" not in browser.table.value
    browser.pick.value = "tiny/s1"
    assert "no clip" in browser.more.value


@pytest.fixture(scope="module")
def chromium():
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    return found


@pytest.fixture(scope="module")
def lab_url(project, tmp_path_factory):
    "A JupyterLab of its own on a free port, with a token, with nobody's settings."
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "MPLBACKEND") and not k.startswith("JUPYTER")}
    env |= {"HOME": str(home), "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "IPYTHONDIR": str(home / "ipython")}
    shutil.copytree(ROOT / "nbs", project / "all_nbs")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    with open(home / "log.txt", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=project)
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/api/status?token={TOKEN}", timeout=5)
            break
        except OSError:
            assert server.poll() is None, (home / "log.txt").read_text()[-2000:]
            time.sleep(0.25)
    else:
        server.kill()
        pytest.fail("JupyterLab did not start: " + (home / "log.txt").read_text()[-2000:])
    yield url
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()


@pytest.fixture(scope="module")
def chrome(chromium):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def test_run_browser_refreshes_while_a_run_is_at_work(project, chrome, lab_url):
    page = chrome.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(90_000)
    page.goto(f"{lab_url}/lab/tree/runs.ipynb?token={TOKEN}")
    page.locator(".jp-Notebook .jp-CodeCell").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    table = page.locator(".jp-OutputArea .crosssuck-runs").first
    table.wait_for()
    assert page.locator(".jp-OutputArea input[placeholder='filter by name']").count() == 1, "the widget, not the still table"
    assert "1/2" in table.inner_text() and "running" in table.inner_text()
    write_json(project / "runs/tiny/s0/training_history.json", {"epoch": [1, 2], "val_macro_f1": [0.5, 0.875], "seconds": [60.0, 60.0]})
    page.get_by_text("0.875 at 2").wait_for(timeout=20_000)  # nobody clicked
    page.locator(".jp-OutputArea input[placeholder='filter by name']").fill("s1")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('.crosssuck-runs').innerText.includes('tiny/s0')", timeout=20_000)
    assert "alert(1)" in table.inner_text()
    page.close()


def test_start_page_lists_every_notebook_and_its_links_open_them(chrome, lab_url):
    page = chrome.new_page(viewport={"width": 1400, "height": 1600})
    page.set_default_timeout(90_000)
    page.goto(f"{lab_url}/lab/tree/all_nbs/index.ipynb?token={TOKEN}")
    names = sorted(p.name for p in (ROOT / "nbs").glob("*.ipynb") if p.stem != "index")
    page.locator(".jp-RenderedMarkdown a", has_text=names[0].removesuffix(".ipynb")).first.wait_for()
    links = {a.inner_text(): a.get_attribute("href") for a in page.locator(".jp-RenderedMarkdown a").all()}
    assert all(n.removesuffix(".ipynb") in links for n in names)
    page.locator(".jp-RenderedMarkdown a", has_text="04_splits").first.click()
    page.locator(".jp-mod-current[role=tab]", has_text="04_splits.ipynb").wait_for()
    page.close()
