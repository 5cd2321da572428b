"""Imports point one way, and the packaging keeps its guards."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RANK = {"kernels": 0, "memory": 1, "envs": 1, "agents": 2, "train": 3, "eval": 3, "cli": 4}


def modules() -> list[Path]:
    return [path for folder in RANK for path in sorted((ROOT / folder).rglob("*.py"))]


def targets(path: Path) -> set[str]:
    """The top folders that a module imports from, by relative or absolute imports, lazy ones included."""
    depth = len(path.relative_to(ROOT).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnemic."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mnemic.")}
    return found & set(RANK)


def test_there_is_something_to_check() -> None:
    assert targets(ROOT / "agents" / "policy.py") == {"memory"}
    assert len(modules()) > 20


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    upward = {name for name in targets(path) - {own} if RANK[name] >= RANK[own]}
    assert not upward, f"{own} must not import {upward}"


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    inits = [init for folder in RANK for init in (ROOT / folder).rglob("__init__.py")]
    found = {".".join(("mnemic", *init.parent.relative_to(ROOT).parts)) for init in inits}
    assert set(listed) == {"mnemic"} | found


def test_the_root_has_two_modules_and_init_imports_nothing() -> None:
    """`__main__.py` is there for `python -m mnemic` and does nothing when it is imported."""
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py"]
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [entry for extra in project["optional-dependencies"].values() for entry in extra]
    names = {entry.split(">")[0].split("[")[0] for entry in wanted} - {"mnemic"}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names <= pinned
