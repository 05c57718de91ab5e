"""``compbench ledger``: every claim of the LASER paper, with what our results say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compbench.cli.printing import show, warn
from compbench.errors import SettingsError, StoreError
from compbench.ledger.evidence import Evidence
from compbench.ledger.laser_paper import CHAPTERS, TITLE
from compbench.ledger.page import judge_all, ledger_page, summary

HELP = """
Judges every claim of the LASER paper (arXiv 2604.17224) by the results in some folders, and makes a page of it.

Each DIR is a folder that has suites' results folders in it; files of compbench sites, plan and analyse are found there,
too. A claim without evidence is a row that says so, with the command that would make it. The same results give the same
page.

\b
Examples:
  compbench ledger results/small results/paper results/questions results              print the page
  compbench ledger results/small results/paper results/questions results --write docs/paper.md
  compbench ledger results/small --check docs/paper.md      is the page that of these results?

Exit status: 0 done, 1 --check and the page is another, 2 bad input.
"""


def ledger(
    directories: Annotated[list[Path], typer.Argument(help="Folders of results folders.", metavar="DIR...")],
    write: Annotated[Path | None, typer.Option(help="Write the page to this file.", metavar="FILE")] = None,
    check: Annotated[Path | None, typer.Option(help="Compare the page with this file.", metavar="FILE")] = None,
) -> None:
    """Judges every claim of the LASER paper by results."""
    if write is not None and check is not None:
        raise SettingsError("--write beside --check (allowed: one of them)")
    for directory in directories:
        if not directory.is_dir():
            raise StoreError(f"{directory} is not a folder")
    judgements = judge_all(CHAPTERS, Evidence(directories))
    command = f"compbench ledger {' '.join(map(str, directories))} --write {write or check or 'docs/paper.md'}"
    page = ledger_page(TITLE, judgements, command)
    if check is not None:
        _compare(page, check)
        return
    show(page, write)
    if write is not None:
        typer.echo(f"{write}: {summary(judgements)}")


def _compare(page: str, file: Path) -> None:
    try:
        there = file.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{file} can't be read: {error.strerror or error}") from error
    if there != page:
        ours, theirs = page.splitlines(), there.splitlines()
        line = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False), 1) if a != b), None)
        where = f"line {line}" if line else f"line {min(len(ours), len(theirs)) + 1}"
        warn(f"{file} is not the page of these results: they differ from {where} on")
        raise typer.Exit(1)
    typer.echo(f"{file} is the page of these results")
