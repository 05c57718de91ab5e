"""The house: each floor imports only from floors below it, and the core names no strategy."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from compbench.capture import Attention

ROOT = Path(__file__).parent.parent
FLOORS = [
    {
        *("errors", "extras", "compressor", "hookspecs", "readings", "records", "seeds", "site_patterns", "state"),
        "workloads.base",
    },
    {
        "fields",
        "sources",
        "plugin_loading",
        "audience",
        "registry",
        "chain",
        "by_site",
        "stand_in",
        "scaffold",
        "workloads",
    },
    {"capture"},
    {"measure", "suite"},
    {"run", "testing"},
    {"analysis"},
    {"report"},
    {"ledger"},
    {"cli"},
]
FACADE = {"__init__", "__main__"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "compbench").with_suffix("").parts)


def floor_of(name: str) -> int:
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        for floor, rooms in enumerate(FLOORS):
            if ".".join(parts[:depth]) in rooms:
                return floor
    raise AssertionError(f"compbench/{name.replace('.', '/')}.py stands on no floor")


def imports(path: Path) -> set[str]:
    """The compbench modules that a file imports when it runs; imports for type checkers alone are left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if (ROOT / (n.replace(".", "/") + ".py")).exists() else node.module for n in names}
    return {name for name in found if name.split(".")[0] == "compbench"}


SOURCES = sorted(p for p in (ROOT / "compbench").rglob("*.py") if module_name(p) not in FACADE)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_only_from_its_own_floor_or_below(path: Path) -> None:
    name = module_name(path)
    floor = floor_of(name.removesuffix(".__init__"))
    for imported in imports(path):
        inner = imported.removeprefix("compbench").removeprefix(".")
        assert inner, f"{name} imports the whole of compbench, which stands on every floor"
        assert floor_of(inner) <= floor, f"{name} (floor {floor + 1}) imports {imported} (floor {floor_of(inner) + 1})"


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda p: p.stem)
def test_shipped_plugins_use_the_contract_alone(path: Path) -> None:
    allowed = {"compbench", *(f"compbench.{name}" for name in ("seeds", "errors", "extras", "site_patterns"))}
    assert imports(path) <= allowed


def test_the_core_names_no_strategy() -> None:
    shipped = {p.stem for p in (ROOT / "plugins").glob("[!_]*.py")} - {"none", "identity"}
    shipped -= set(get_args(Attention))  # "recompute" is also what may be done with attention
    for path in SOURCES:
        if "ledger" in path.relative_to(ROOT / "compbench").parts:
            continue  # it is about one paper, and names the arms of suites that are about that paper's methods
        words = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not {f"compbench_plugins.{name}" for name in shipped} & words
        assert not shipped & words, path


def test_every_package_and_every_plugin_is_declared_for_installation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "compbench").rglob("__init__.py")} | {
        "compbench_plugins",
        "compbench_suites",
    }
    assert set(project["tool"]["setuptools"]["packages"]) == packages
    declared = set(project["project"]["entry-points"]["compbench"].values())
    assert {f"compbench_plugins.{p.stem}" for p in (ROOT / "plugins").glob("[!_]*.py")} <= declared
