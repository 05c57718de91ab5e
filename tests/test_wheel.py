"""A wheel built from the project works outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRACKED = ("compbench", "plugins", "suites", "pyproject.toml", "README.md", "LICENSE")

LOOK = """
import json, sys
from pathlib import Path
import compbench
from compbench.registry import Registry, default_plugins_dir
from compbench.suite import load_suite
from compbench.suite.shipped import shipped_suites
registry = Registry.load(default_plugins_dir())
suite = load_suite("quick", registry)
print(json.dumps({
    "package": compbench.__file__,
    "files": {
        found.name: str(found.plugin.file)
        for table in (registry.compressors, registry.observers)
        for found in table.values()
    } | {
        found.plugin.name: str(found.plugin.file)
        for found in registry.foresights.values()
    },
    "workloads": list(registry.workloads),
    "suites": list(shipped_suites()),
    "cells": len(suite.cells(registry)),
    "typed": (Path(compbench.__file__).parent / "py.typed").is_file(),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in TRACKED:
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], check=True, timeout=300
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=300)
    return folder / "site"


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


def test_strategies_workloads_and_suites_are_found_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    found = json.loads(run(installed, tmp_path, "-c", LOOK))
    assert found["package"].startswith(str(installed))
    shipped = {path.stem for path in (ROOT / "plugins").glob("[!_]*.py")}
    assert set(found["files"]) == shipped
    assert all(file.startswith(str(installed)) for file in found["files"].values())
    assert found["workloads"] == ["addition", "maze_hard", "mazes", "parity", "sudoku", "text", "trm_maze"]
    suites = ROOT / "suites"
    assert sorted(found["suites"]) == sorted(str(p.relative_to(suites).with_suffix("")) for p in suites.rglob("*.yaml"))
    assert found["cells"] == 32
    assert found["typed"]


def test_a_shipped_suite_runs_by_name_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    chosen = ("--only", "arm=int8", "--only", "depth=2", "--only", "seed=0")
    printed = run(installed, tmp_path, "-m", "compbench", "run", "quick", *chosen)
    assert "int8" in printed
    records = list((tmp_path / "results" / "quick" / "cells").iterdir())
    assert len(records) == 1
    assert json.loads(records[0].read_text())["status"] == "ok"


def test_a_strategy_to_begin_with_is_written_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, "-m", "compbench", "new", "compressor", "mine")
    run(installed, tmp_path, "-m", "compbench", "new", "package", "other")
    assert "share" in run(installed, tmp_path, "-m", "compbench", "plugins", "mine")
    assert (tmp_path / "other" / "src" / "compbench_other" / "other.py").is_file()


def test_a_page_is_written_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    results = ROOT / "results" / "engine_overhead"
    printed = run(installed, tmp_path, "-m", "compbench", "report", str(results), "--output", "page.html")
    assert printed.startswith("page.html (")
    assert (tmp_path / "page.html").read_text().rstrip().endswith("</html>")
