"""What the documents show is what happens: their Python runs, their suite loads, their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compbench.capture import Session
from compbench.registry import Registry
from compbench.suite import load_suite
from compbench.suite.loader import shipped_suites

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)
    session = namespace["session"]
    assert isinstance(session, Session)
    assert session.steps > 0
    assert any(site.kept_bytes < site.raw_bytes for site in session.sites())


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.name)
def test_suites_of_a_page_are_valid(page: Path, tmp_path: Path) -> None:
    registry = Registry.load()
    for block in blocks(page, "yaml"):
        (tmp_path / "suite.yaml").write_text(block)
        assert load_suite(tmp_path / "suite.yaml", registry).cells(registry)


@pytest.mark.parametrize("name", shipped_suites())
def test_shipped_suites_are_valid(name: str) -> None:
    registry = Registry.load()
    suite = load_suite(name, registry, device="cpu")
    assert suite.name == name
    cells = suite.cells(registry)
    assert len({cell.key for cell in cells}) == len(cells)
    assert "none" in suite.arms


def test_the_quick_suite_has_every_shipped_strategy() -> None:
    registry = Registry.load()
    used = {member.name for cell in load_suite("quick", registry).cells(registry) for member in cell.strategy}
    assert used == set(registry.compressors)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"\]\(([^)#:]+)\)", page.read_text()))
    named |= set(re.findall(r"`((?:docs|suites|results|plugins|tests|compbench)/[\w./-]+)`", page.read_text()))
    for name in named:
        assert (page.parent / name).exists() or (ROOT / name).exists(), f"{page.name} names {name}"
