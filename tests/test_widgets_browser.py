"The panels of notebook 02 in JupyterLab, in a real browser: the test clicks, draws and saves, and looks at what was written."
import datetime as dt
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from browsing import jupyterlab, open_and_run, write_notebook

from crosssuck import cameras as c
from crosssuck.core import write_csv
from crosssuck.inputs import read_boxes
from crosssuck.manifest import read_workbook
from crosssuck.simulation import tiny_drive


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "A drive that was scanned and linked, and a notebook with both panels."
    folder, drive = tmp_path_factory.mktemp("lab"), tiny_drive()
    shutil.copy(drive / "cameras.yaml", folder / "cameras.yaml")
    inventory = c.scan(drive / "videos")
    write_csv(folder / "inventory.csv", inventory)
    linked, unlinked = c.link(read_workbook(drive / "workbook.xlsx").events, inventory, c.read_cameras(folder / "cameras.yaml"))
    c.write_links(linked, unlinked, folder / "linked.csv")
    cells = ["from crosssuck.cameras import BoxPanel, CameraPanel, read_inventory\nfrom crosssuck.manifest import read_events\nlinked = read_events('linked.csv')",
             "CameraPanel(linked, read_inventory('inventory.csv'), 'cameras.yaml', n=3)", "BoxPanel(linked, 'boxes.csv', n=4)"]
    write_notebook(folder / "panels.ipynb", cells)
    return folder


@pytest.fixture(scope="module")
def lab_url(study, tmp_path_factory):
    with jupyterlab(study, tmp_path_factory.mktemp("home")) as url:
        yield url


@pytest.fixture(scope="module")
def page(chrome, lab_url):
    "The notebook, opened and run from top to bottom; `page.elsewhere` collects every request that left this machine."
    page = chrome.new_page(viewport={"width": 1400, "height": 1500})
    page.set_default_timeout(180_000)
    page.elsewhere, page.faults = [], []

    def only_here(route):
        if route.request.url.startswith((lab_url, lab_url.replace("http", "ws"), "data:", "blob:")):
            return route.continue_()
        page.elsewhere.append(route.request.url)
        return route.abort()
    page.route("**/*", only_here)
    page.on("pageerror", lambda e: page.faults.append(str(e)))
    open_and_run(page, lab_url, "panels.ipynb")
    page.locator(".crosssuck-draw").wait_for()
    return page


def shown(page):
    "Give the outputs of the two panels."
    return page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea"), page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea")


def wait_for(condition, what, seconds=30):
    for _ in range(int(seconds * 10)):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"waited in vain for {what}")


def keep(page, name):
    "Leave a picture where the caller asked for some."
    if os.environ.get("CROSSSUCK_SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["CROSSSUCK_SCREENSHOTS"]) / f"{name}.png")


def test_a_choice_of_camera_is_clicked_and_written(page, study):
    panel, _ = shown(page)
    before = (study / "cameras.yaml").read_text()
    film = panel.locator("img.widget-image")
    film.wait_for()
    page.wait_for_function("e => e.naturalWidth > 600", arg=film.element_handle())
    assert panel.locator("img[class^=crosssuck-still]").is_hidden()                        # the still picture gives way to the panel
    first_film = film.get_attribute("src")
    panel.get_by_role("button", name="next ▶").click()
    panel.get_by_text("2 of 3").wait_for()
    page.wait_for_function("([e, old]) => e.src !== old && e.naturalWidth > 600", arg=[film.element_handle(), first_film])
    assert (study / "cameras.yaml").read_text() == before
    panel.get_by_role("button", name="camera 9", exact=True).click()
    save = panel.get_by_role("button", name="save: camera 9 shows event")
    save.wait_for()
    event = int(save.inner_text().split("event ")[1].split(" ")[0])
    assert save.inner_text().endswith("best, and comes first for group 1")
    keep(page, "camera_panel")
    save.click()
    panel.get_by_text("written to cameras.yaml").wait_for()
    got = c.read_cameras(study / "cameras.yaml")
    assert got.evidence[-1] == c.Seen(dt.date.today(), event, 1, 9, 8) and got.groups[1].cameras == (9, 8, 7)
    old, new = yaml.safe_load(before), yaml.safe_load((study / "cameras.yaml").read_text())
    assert {k: v for k, v in old.items() if k not in ("evidence", "groups")} == {k: v for k, v in new.items() if k not in ("evidence", "groups")}
    assert {k: v for k, v in old["groups"].items() if k != 1} == {k: v for k, v in new["groups"].items() if k != 1}


def test_the_film_moves(page):
    panel, _ = shown(page)
    film = panel.locator("img.widget-image")
    film.scroll_into_view_if_needed()
    looks = []
    for _ in range(6):
        looks.append(film.screenshot())
        time.sleep(0.35)
    assert len(set(looks)) > 1


def test_a_box_is_drawn_with_the_mouse_and_written(page, study):
    _, panel = shown(page)
    frame = panel.locator(".crosssuck-draw")
    frame.scroll_into_view_if_needed()
    page.wait_for_function("e => e.naturalWidth > 0", arg=frame.locator("img").element_handle())
    save = panel.get_by_role("button", name="draw a box around the behaviour")
    assert save.is_disabled() and not (study / "boxes.csv").exists()
    at = frame.bounding_box()
    point = lambda x, y: (at["x"] + x / 320 * at["width"], at["y"] + y / 180 * at["height"])  # noqa: E731

    def drag(start, *ends):
        page.mouse.move(*point(*start))
        page.mouse.down()
        for end in ends:
            page.mouse.move(*point(*end))
        page.mouse.up()
    drag((30, 30), (33, 33))                                                               # a slip of the mouse is no box
    assert save.is_disabled()
    drag((220, 150), (180, 100), (120, 60))                                                # from the lower right to the upper left
    go = panel.get_by_role("button", name="save")
    go.wait_for()
    keep(page, "box_panel")
    event = int(panel.locator(".widget-html").first.inner_text().split("event ")[1].split(",")[0])
    go.click()
    panel.get_by_text("written to boxes.csv").wait_for()
    x, y, w, h = read_boxes(study / "boxes.csv")[event]
    assert abs(x - 120) <= 1 and abs(y - 60) <= 1 and abs(w - 100) <= 2 and abs(h - 90) <= 2
    panel.get_by_text("2 of 4").first.wait_for()
    panel.get_by_text("1 of 4 have a box").wait_for()
    assert frame.locator("div").is_hidden()                                                # the next event has none yet
    panel.get_by_role("button", name="◀ back").click()
    panel.get_by_text("1 of 4:").wait_for()
    frame.locator("div").wait_for()                                                        # and this one shows its own
    rect = frame.locator("div").bounding_box()
    assert abs(rect["width"] / at["width"] - w / 320) < 0.01 and abs(rect["height"] / at["height"] - h / 180) < 0.01
    drag((10, 10), (500, 400))                                                             # beyond the picture: cut off at its edge
    panel.get_by_role("button", name="save 310 × 170 px at 10, 10").click()
    wait_for(lambda: read_boxes(study / "boxes.csv")[event] == (10, 10, 310, 170), "the box to be replaced")
    assert len(read_boxes(study / "boxes.csv")) == 1


def test_nothing_was_fetched_from_elsewhere_and_no_cell_failed(page):
    assert page.elsewhere == [] and page.faults == []
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.get_by_text("Error displaying widget").count() == 0
