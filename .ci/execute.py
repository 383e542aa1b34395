"Run every notebook from top to bottom in place, but for the cells of a run (`#| run`)."
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

os.environ.pop("MPLBACKEND", None)  # notebooks show their figures inline
ROOT = Path(__file__).resolve().parents[1]
names = sys.argv[1:] or sorted(p.stem for p in (ROOT / "nbs").glob("*.ipynb"))
for name in names:
    path = ROOT / "nbs" / f"{name}.ipynb"
    nb = nbformat.read(path, as_version=4)
    kept = nb.metadata.copy()
    of_run = [c for c in nb.cells if c.cell_type == "code" and c.source.startswith("#| run")]
    for c in of_run:
        c.metadata["tags"] = [*c.metadata.get("tags", []), "skip-execution"]
    print(f"running {name}", flush=True)
    NotebookClient(nb, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    for c in of_run:
        c.metadata["tags"] = [t for t in c.metadata["tags"] if t != "skip-execution"]
        if not c.metadata["tags"]:
            del c.metadata["tags"]
    nb.metadata = kept
    part = path.with_suffix(".part")
    nbformat.write(nb, part)
    part.replace(path)
