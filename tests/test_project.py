"The project holds together: pins agree, configs load, every key of a config is read by something, docs name what exists."
import ast
import re
from configparser import ConfigParser
from dataclasses import fields, is_dataclass

import pytest
import yaml

from crosssuck import core


def constraints(root) -> dict[str, str]:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {k.lower().replace("_", "-"): v for k, v in (line.split("==") for line in lines if "==" in line)}


def settings(root):
    cfg = ConfigParser(delimiters=["="])
    cfg.read(root / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


def test_every_requirement_has_a_pin_that_satisfies_it(root):
    from packaging.requirements import Requirement
    pins = constraints(root)
    wanted = settings(root)["requirements"].split() + settings(root)["dev_requirements"].split()
    for text in wanted:
        need = Requirement(text)
        pin = pins.get(need.name.lower().replace("_", "-"))
        assert pin, f"{need.name} is not in constraints.txt"
        assert need.specifier.contains(pin), f"constraints.txt has {need.name}=={pin}, settings.ini wants {text}"


def test_every_pin_takes_the_oldest_python_that_is_promised(root):
    "Debian 12 brings 3.11.2: a pin that wants a later one makes `make install` fail there, and only there."
    from importlib.metadata import distributions

    from packaging.specifiers import SpecifierSet
    pins = constraints(root)
    here = {d.name.lower().replace("_", "-"): d for d in distributions()}
    wants = {n: SpecifierSet(here[n].metadata.get("Requires-Python") or "") for n, v in pins.items() if n in here and here[n].version == v}
    assert len(wants) > 0.8 * len(pins)
    assert not {n: str(w) for n, w in wants.items() if not all(w.contains(p) for p in ("3.11.2", "3.12.0"))}


def test_environment_agrees_with_constraints(root):
    env = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    pip = next(d["pip"] for d in env["dependencies"] if isinstance(d, dict))
    pins = constraints(root)
    exact = [p.split("==") for p in pip if "==" in p]
    assert {n for n, _ in exact} >= {"torch", "torchvision"}
    assert all(pins[n] == v for n, v in exact)
    assert "-c constraints.txt" in pip
    python = next(d for d in env["dependencies"] if str(d).startswith("python="))
    assert python.split("=")[1] in ("3.11", "3.12")


def packaged(root, monkeypatch) -> dict:
    "What setup.py hands to setuptools."
    import runpy

    import setuptools
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **facts: given.update(facts))
    runpy.run_path(str(root / "setup.py"))
    return given


def test_setup_settings_constraints_and_environment_agree(root, monkeypatch):
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    facts, cfg, pins = packaged(root, monkeypatch), settings(root), constraints(root)
    assert facts["install_requires"] == cfg["requirements"].split() and facts["extras_require"]["dev"] == cfg["dev_requirements"].split()
    for text in (*facts["install_requires"], *facts["extras_require"]["dev"]):
        need = Requirement(text)
        assert need.specifier.contains(pins[need.name.lower().replace("_", "-")]), text
    env = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    pip = next(d["pip"] for d in env["dependencies"] if isinstance(d, dict))
    assert [w for w in pip if "[" in w] == ["-e .[dev]"] and set(facts["extras_require"]) == {"dev"}
    python = next(d for d in env["dependencies"] if str(d).startswith("python=")).split("=")[1]
    allowed = SpecifierSet(facts["python_requires"])
    assert f"{python}.0" in allowed and "3.11.0" in allowed and "3.12.9" in allowed and "3.13.0" not in allowed and "3.10.9" not in allowed
    assert facts["entry_points"]["console_scripts"] == ["crosssuck = crosssuck.cli:main"]


def test_the_pair_of_torch_still_runs_on_a_v100(root):
    assert (constraints(root)["torch"], constraints(root)["torchvision"]) == ("2.10.0", "0.25.0")


@pytest.mark.parametrize("name", sorted(p.name for p in (core.project_root(__file__) / "configs").glob("*.yaml") if not re.search(r"workbook|cameras|criteria|documents|roots", p.name)))
def test_every_config_loads(root, name):
    config = core.load_config(root / "configs" / name)
    assert config.experiment == name.removesuffix(".yaml")


def test_every_config_key_is_read_by_something(root):
    read = set()
    for path in (root / "crosssuck").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = {id(n) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and c.name.endswith("Config") for n in ast.walk(c)}
        read |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and id(n) not in classes}
    keys = [g.name for f in fields(core.Config) if isinstance(f.type, type) and is_dataclass(f.type) for g in fields(f.type)]
    assert len(keys) > 30
    assert not (unread := sorted(set(keys) - read)), f"config keys that nothing reads: {unread}"


def test_readme_names_only_verbs_that_exist(root):
    import typer.main

    from crosssuck.cli import app
    verbs = {name for name, command in typer.main.get_command(app).commands.items() if not command.hidden}
    table = re.search(r"## The verbs(.*?)\n## ", (root / "README.md").read_text(encoding="utf-8"), re.S).group(1)
    named = {v for row in table.splitlines() if row.startswith("| `") for v in re.findall(r"`([a-z-]+)", row.split(" | ")[0])}
    assert named == verbs


def test_pictures_of_the_readme_exist(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures and all((root / p).exists() for p in pictures)


def test_start_page_lists_all_notebooks(root):
    import nbformat
    page = "\n".join(c.source for c in nbformat.read(root / "nbs/index.ipynb", as_version=4).cells)
    listed = [name for name, target in re.findall(r"^\| \[(\w+)\]\((\w+)\.ipynb\) \| .+ \|$", page, re.M) if name == target]
    assert listed == sorted(p.stem for p in (root / "nbs").glob("*.ipynb") if p.stem != "index")
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert all((root / target).exists() for target in re.findall(r"\]\((nbs/\w+\.ipynb)\)", readme)) and "](nbs/04_splits.ipynb)" in readme


def test_make_lab_opens_the_start_page_on_this_machine_alone(root):
    lab = re.search(r"^lab:.*\n((?:\t.*\n)+)", (root / "Makefile").read_text(encoding="utf-8"), re.M)[1]
    assert "--ip=127.0.0.1" in lab and "/lab/tree/nbs/index.ipynb" in lab and "token=" not in lab
