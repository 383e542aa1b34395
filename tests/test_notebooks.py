"The anatomy of the notebooks and the shape of the house: what STYLE asks for and a machine can check."
import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").glob("*.ipynb") if p.stem != "index")
RUNNABLE = [ROOT / "nbs" / f"{n}.ipynb" for n in ("06_train", "07_eval", "08_calibration")]
PARAMETERS = ["experiment", "fold", "seed", "run_dir", "overrides", "smoke"]
ORDER = ["core", "video", "simulation", "manifest", "cameras", "extraction", "splits", "inputs", "metrics", "planning", "model", "train", "eval", "calibration",
         "confounds", "experiments", "cli"]
MAY_IMPORT = {
    "core": set(), "video": {"core"}, "simulation": {"core", "video"}, "manifest": {"core"}, "cameras": {"core", "video", "manifest"},
    "extraction": {"core", "video", "cameras"}, "splits": {"core", "manifest"}, "inputs": {"core", "video"}, "metrics": {"core", "splits"},
    "planning": {"core", "splits", "metrics"},
    "model": {"core", "inputs"}, "train": {"core", "splits", "inputs", "metrics", "model"}, "eval": {"core", "splits", "inputs", "metrics", "model"},
    "calibration": {"core", "metrics"}, "confounds": {"core", "video", "splits", "inputs", "metrics", "model"},
    "experiments": set(ORDER) - {"experiments", "cli"}, "cli": set(ORDER) - {"cli"},
}
LIGHT = ["core", "video", "simulation", "manifest", "cameras", "extraction", "splits", "metrics", "planning", "calibration", "experiments", "cli"]
assert len(NOTEBOOKS) > 0


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [c for c in read(path).cells if c.cell_type == "code"]


def imported(tree, *, top_only=False):
    "Names of the library's modules that a module imports."
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.level == 1 or (node.module or "").split(".")[0] == "crosssuck"):
            name = (node.module or "").removeprefix("crosssuck").strip(".")
            found |= {name} if name else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("crosssuck.")}
    return found & set(ORDER)


def assigned(source):
    "Names that a piece of code binds, wherever in it."
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def top_level(source):
    "Names that a cell binds in the notebook itself, not inside a function or class."
    names = set()

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(child.name)
            elif not isinstance(child, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
                if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store | ast.Del):
                    names.add(child.id)
                visit(child)

    visit(ast.parse(source))
    return names


def python(source):
    "A cell without magics, so that it parses."
    return "\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.splitlines())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_head_of_a_notebook(path):
    cells = read(path).cells
    assert re.match(r"# \S+\n\s*> .+", cells[0].source), "title, then one line that begins with '> '"
    assert re.fullmatch(r"#\| default_exp \w+", cells[1].source.strip()), "default_exp alone in the second cell"
    assert cells[2].cell_type == "markdown" and "Contract" in cells[2].source[:40]
    assert not any("import *" in c.source for c in cells if c.cell_type == "code" and c.source.startswith("#| export"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_exported_cell_is_long(path):
    exported = [c.source for c in code_cells(path) if re.match(r"#\|\s*export", c.source)]
    long = [s.splitlines()[1][:60] for s in exported if sum(1 for line in s.splitlines() if line.strip() and not line.strip().startswith("#")) > 40]
    assert not long, f"exported cells over 40 lines: {long}"
    assert not any("nbdev_export()" in c.source for c in code_cells(path)), "export from the command line only"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_lessons_are_shown_and_names_nobody(path):
    nb = read(path)
    library = [c for c in nb.cells if c.cell_type == "code" and not c.source.startswith("#| run")]
    assert any(c.outputs for c in library), "a notebook without outputs tells no story"
    assert not [o for c in library for o in c.outputs if o.output_type == "error"]
    shown = " ".join(str(o.get("text", "")) + str({k: v for k, v in o.get("data", {}).items() if k.startswith("text/")}) for c in nb.cells if c.cell_type == "code"
                     for o in c.outputs)
    assert not re.search(r"/(home|Users|root|work|tmp)/\w", shown), "an output shows a path of this machine"


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda p: p.stem)
def test_run_part_and_its_parameters(path):
    nb = read(path)
    tagged = [k for k, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1, "exactly one cell tagged 'parameters': nbdev_clean strips tags unless settings.ini allows them"
    heads = [k for k, c in enumerate(nb.cells) if c.cell_type == "markdown" and re.match(r"# Run\s*$", c.source.splitlines()[0])]
    assert len(heads) == 1 and heads[0] < tagged[0]
    tree = ast.parse(nb.cells[tagged[0]].source)
    assert all(isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant | ast.List) for n in tree.body), "plain assignments alone"
    assert [n.targets[0].id for n in tree.body] == PARAMETERS
    for k, cell in enumerate(nb.cells):
        if cell.cell_type == "code" and k > heads[0]:
            assert cell.source.startswith("#| run"), f"cell {k} of the run part must begin with '#| run'"
            assert not cell.outputs, f"cell {k}: a run's outputs belong into the run folder"
        if cell.cell_type == "code" and k < heads[0]:
            assert not cell.source.startswith("#| run"), f"cell {k} of the library part is marked as run"
        if cell.cell_type == "code" and k != tagged[0]:
            again = top_level(python(cell.source)) & set(PARAMETERS)
            assert not again, f"cell {k} assigns {again}"


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda p: p.stem)
def test_run_part_stands_alone(path):
    "The launcher skips the library part: the run part must not need a name from it."
    nb = read(path)
    head = next(k for k, c in enumerate(nb.cells) if c.cell_type == "markdown" and re.match(r"# Run\s*$", c.source.splitlines()[0]))
    run = [python(c.source) for c in nb.cells[head:] if c.cell_type == "code"]
    known = set().union(*map(assigned, run)) | set(dir(__builtins__ if not isinstance(__builtins__, dict) else object)) | set(__import__("builtins").__dict__)
    known |= {a.arg for s in run for n in ast.walk(ast.parse(s)) if isinstance(n, ast.arguments) for a in (*n.args, *n.kwonlyargs)} | {"display", "get_ipython"}
    used = {n.id for s in run for n in ast.walk(ast.parse(s)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert not used - known, f"the run part uses names of the library part: {sorted(used - known)}"
    assert any("from crosssuck" in s for s in run), "the run part imports the exported library"


def test_every_module_has_its_notebook():
    exported = {re.search(r"default_exp (\w+)", read(p).cells[1].source)[1] for p in NOTEBOOKS}
    modules = {p.stem for p in (ROOT / "crosssuck").glob("*.py")} - {"__init__", "_modidx"}
    assert modules == exported == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_up_only(module):
    tree = ast.parse((ROOT / "crosssuck" / f"{module}.py").read_text(encoding="utf-8"))
    wrong = imported(tree) - MAY_IMPORT[module]
    assert not wrong, f"{module} imports {sorted(wrong)}, the house lets it import {sorted(MAY_IMPORT[module])}"


def test_house_has_no_cycle():
    graph = {m: imported(ast.parse((ROOT / "crosssuck" / f"{m}.py").read_text(encoding="utf-8"))) for m in ORDER}
    done, path = set(), []

    def walk(m):
        assert m not in path, f"a cycle: {' → '.join([*path, m])}"
        if m not in done:
            path.append(m)
            for n in graph[m]:
                walk(n)
            done.add(path.pop())

    for m in ORDER:
        walk(m)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_no_torch(module):
    "The stages before training, and the command, must start fast and on machines without torch."
    seen, todo = set(), [module]
    while todo:
        m = todo.pop()
        if m in seen:
            continue
        seen.add(m)
        tree = ast.parse((ROOT / "crosssuck" / f"{m}.py").read_text(encoding="utf-8"))
        heavy = {a.name.split(".")[0] for n in tree.body if isinstance(n, ast.Import) for a in n.names}
        heavy |= {n.module.split(".")[0] for n in tree.body if isinstance(n, ast.ImportFrom) and n.level == 0 and n.module}
        assert not heavy & {"torch", "torchvision", "pytorchvideo"}, f"{module} brings in {heavy & {'torch', 'torchvision', 'pytorchvideo'}} through {m}"
        todo += imported(tree, top_only=True)


@pytest.mark.parametrize("module", ["core", "video", "manifest", "cameras", "extraction", "splits"])
def test_stages_on_windows_import_nothing_posix(module):
    tree = ast.parse((ROOT / "crosssuck" / f"{module}.py").read_text(encoding="utf-8"))
    names = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names} | {n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.module}
    assert not names & {"fcntl", "resource", "pwd", "grp", "termios", "pty"}
