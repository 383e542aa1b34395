"Shared fixtures: where the lab's own files are, and a quiet, headless, repeatable environment."
import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("IN_TEST", "1")
ROOT = Path(__file__).resolve().parents[1]


def lab_folder() -> Path | None:
    given = os.environ.get("CROSSSUCK_LAB")
    folder = Path(given) if given else ROOT.parent / "shared" / "lab"
    return folder if (folder / "final_manifest.xlsx").exists() else None


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def lab() -> Path:
    folder = lab_folder()
    if folder is None:
        pytest.skip("the lab's own files are not here: set CROSSSUCK_LAB to their folder")
    return folder


@pytest.fixture(scope="module")
def chrome():
    "A browser; it ends with its module, since its event loop would be in the way of others."
    from browsing import chrome, chromium_path
    with chrome(chromium_path()) as browser:
        yield browser


@pytest.fixture(scope="module")
def drive():
    "The small simulated drive: workbook, videos, cameras.yaml. Read only."
    from crosssuck.simulation import tiny_drive
    return tiny_drive()


@pytest.fixture(scope="module")
def inventory(drive):
    from crosssuck.cameras import scan
    return scan(drive / "videos")


@pytest.fixture(scope="module")
def one_thread():
    "Small tensors on shared cores: threads only wait for each other; and sums are taken in one order, so that weights of two processes can be compared bit for bit."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
