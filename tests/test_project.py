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


def test_the_pair_of_torch_still_runs_on_a_v100(root):
    assert (constraints(root)["torch"], constraints(root)["torchvision"]) == ("2.10.0", "0.25.0")


@pytest.mark.parametrize("name", sorted(p.name for p in (core.project_root(__file__) / "configs").glob("*.yaml") if not re.search(r"workbook|cameras|roots", p.name)))
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
