"""What the documents show is what happens: their Python runs, their suite loads, their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from compbench.capture import Session
from compbench.cli.app import app
from compbench.registry import Registry
from compbench.run.cell import run_cell
from compbench.scaffold import compressor_files, package_files, write_new
from compbench.suite import load_suite
from compbench.suite.shipped import shipped_suites

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "write_a_compressor.md"
WORKLOADS = ROOT / "docs" / "workloads.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # pickle looks classes up there
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), vars(module))
    if page.name == "workloads.md":
        return  # its class is a module that a suite names
    if page.name == "figures.md":
        assert (tmp_path / "memory_by_depth.pdf").read_bytes().startswith(b"%PDF")
        return
    session = vars(module)["session"]
    assert isinstance(session, Session)
    assert session.steps > 0
    assert any(site.kept_bytes < site.raw_bytes for site in session.sites())


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.name)
def test_suites_of_a_page_are_valid(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_training.py").write_text("".join(blocks(WORKLOADS, "python")))
    write_new(compressor_files("columns"), tmp_path)  # the strategy that the guide walks through
    registry = Registry.load(tmp_path / "plugins")
    for block in blocks(page, "yaml"):
        (tmp_path / "suite.yaml").write_text(block)
        assert load_suite(tmp_path / "suite.yaml", registry).cells(registry)


def test_the_model_of_the_page_on_workloads_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_training.py").write_text("".join(blocks(WORKLOADS, "python")))
    (tmp_path / "suite.yaml").write_text(next(block for block in blocks(WORKLOADS, "yaml") if "my_training" in block))
    registry = Registry.load()
    for cell in load_suite(tmp_path / "suite.yaml", registry).cells(registry):
        measuring = cell.measuring.model_copy(update={"time_pairs": 0, "flops": False})
        result = run_cell(cell.model_copy(update={"measuring": measuring}))
        assert (result.status, result.reason, len(result.loss_curve)) == ("ok", "", 20)
        assert result.metrics["error"] > 0


@pytest.mark.parametrize("name", shipped_suites())
def test_shipped_suites_are_valid(name: str) -> None:
    registry = Registry.load()
    suite = load_suite(name, registry, device="cpu")
    folder, _, own = name.rpartition("/")
    named = {"questions/depth": "depth_4_to_96"}.get(name, f"{own}_paper" if folder == "paper" else own)
    assert suite.name == named  # of its results folder, which no two suites share
    cells = suite.cells(registry)
    assert len({cell.key for cell in cells}) == len(cells)
    assert "none" in suite.arms or not suite.margins  # what is compared with it needs it


def test_the_suite_of_all_strategies_has_every_shipped_one() -> None:
    registry = Registry.load()
    used = {member.name for cell in load_suite("all_strategies", registry).cells(registry) for member in cell.strategy}
    assert used == set(registry.compressors)


def test_the_page_of_strategies_is_what_its_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "strategies.md"
    (command,) = blocks(page, "bash")
    monkeypatch.chdir(tmp_path)  # a folder without plugins of its own
    printed = CliRunner().invoke(app, command.split()[1:]).stdout
    introduction, table = page.read_text().split(f"{command}```\n\n")
    assert introduction.startswith("# Strategies")
    assert table == printed, f"it is made by `{command.strip()}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"\]\(([^)#:]+)\)", page.read_text()))
    named |= set(re.findall(r"`((?:docs|suites|results|plugins|tests|compbench)/[\w./-]+)`", page.read_text()))
    for name in named:
        assert (page.parent / name).exists() or (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_file_that_the_guide_walks_through_is_the_one_that_is_written() -> None:
    plugin, _ = compressor_files("columns")
    lines = [line for line in plugin.text.splitlines() if line]
    shown = [line for block in blocks(GUIDE, "python") for line in block.splitlines() if line]
    assert shown[: len(lines)] == lines


def test_the_entry_point_that_the_guide_shows_is_the_one_that_is_written() -> None:
    (shown,) = blocks(GUIDE, "toml")
    (written,) = [file.text for file in package_files("columns") if file.path.name == "pyproject.toml"]
    entry_points = tomllib.loads(shown)["project"]["entry-points"]
    assert entry_points == tomllib.loads(written)["project"]["entry-points"]


def test_the_commands_of_the_guide_succeed_one_after_the_other(tmp_path: Path) -> None:
    """From an empty folder to an installed package; pip puts that into a folder, not into this environment."""
    (suite,) = blocks(GUIDE, "yaml")
    commands = "".join(blocks(GUIDE, "bash"))
    assert "compbench run my_suite.yaml" in commands
    (tmp_path / "suite").write_text(suite)
    (tmp_path / "bash").write_text(
        f"""
        set -euo pipefail
        PATH={Path(sys.executable).parent}:$PATH
        compbench() {{ python -P -m compbench "$@"; }}
        pip() {{
            [ "$1 $2" = "install -e" ]
            python -m pip --quiet install --no-deps --no-build-isolation --target {tmp_path}/site "${{@:3}}"
        }}
        mkdir {tmp_path}/empty && cd {tmp_path}/empty
        """
        + commands.replace(
            "compbench run my_suite.yaml", f"cp {tmp_path}/suite my_suite.yaml\ncompbench run my_suite.yaml"
        )
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}/site:{ROOT}"}
    done = subprocess.run(["bash", tmp_path / "bash"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "empty" / "columns" / "pyproject.toml").is_file()
    (table,) = (tmp_path / "empty" / "my_project" / "results").glob("my_suite/*.md")
    assert "half_the_columns" in table.read_text()


@pytest.mark.parametrize("place", range(len(blocks(ROOT / "docs" / "tables.md", "console"))))
def test_the_page_of_tables_shows_what_its_commands_print(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, *shown = blocks(ROOT / "docs" / "tables.md", "console")[place].splitlines()
    assert command.startswith("$ compbench ")
    printed = CliRunner().invoke(app, command.split()[2:])
    assert printed.exit_code == 0
    assert shown == printed.stdout.splitlines()
