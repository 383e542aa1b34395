"The start page and the run browser in JupyterLab, in a real browser: the table looks again by itself while something runs."
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from browsing import TOKEN, jupyterlab, open_and_run, write_notebook

from crosssuck.core import write_json
from crosssuck.experiments import RunBrowser, begin_run, claim, plan_runs, render_notebook, runs_html, tiny_notebooks, watch_runs

ROOT = Path(__file__).resolve().parents[1]


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
    write_notebook(root / "runs.ipynb", ["from crosssuck.experiments import RunBrowser\nRunBrowser(every_s=1)"])
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
def lab_url(project, tmp_path_factory):
    shutil.copytree(ROOT / "nbs", project / "all_nbs")
    with jupyterlab(project, tmp_path_factory.mktemp("home")) as url:
        yield url


def test_run_browser_refreshes_while_a_run_is_at_work(project, chrome, lab_url):
    page = chrome.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(90_000)
    open_and_run(page, lab_url, "runs.ipynb")
    table = page.locator(".jp-OutputArea .crosssuck-runs").first
    table.wait_for()
    assert page.locator(".jp-OutputArea input[placeholder='filter by name']").count() == 1, "the widget, not the still table"
    assert "1/2" in table.inner_text() and "running" in table.inner_text()
    write_json(project / "runs/tiny/s0/training_history.json", {"epoch": [1, 2], "val_macro_f1": [0.5, 0.875], "seconds": [60.0, 60.0]})
    page.get_by_text("0.875 at 2").wait_for(timeout=90_000)  # nobody clicked
    page.locator(".jp-OutputArea input[placeholder='filter by name']").fill("s1")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('.crosssuck-runs').innerText.includes('tiny/s0')", timeout=90_000)
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
