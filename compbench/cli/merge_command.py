"""``compbench merge``: one store of the results of a suite that ran in several places."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from compbench.report.summary import write_results
from compbench.run.merged import Prefer
from compbench.run.merging import Joined, check_target, join, write_joined

HELP = """
Joins the results of one suite from several folders, such as seeds that ran on several machines.

What may not stand in one table is refused, with all reasons: a plugin or a setting that is not the same in all; several
records of one cell; arms of one seed that began with other weights or ran on unlike machines; times of unlike machines;
records of a newer compbench. Records that are damaged or edited are named, and not taken. The folders are not changed.

\b
Examples:
  compbench merge a/trm_depth b/trm_depth --into results/trm_depth
  compbench merge a/quick b/quick c/quick --into all/quick --dry-run
  compbench merge cpu_a/quick cpu_b/quick --into both/quick --without-times
  compbench merge first/quick again/quick --into all/quick --prefer oldest

The joined folder is one like any other: for compbench table, compbench publish, or compbench run --results, which
goes on with what is missing where the folder has the suite's name.

Exit status: 0 joined, 2 refused or bad input.
"""


def merge(
    directories: Annotated[
        list[Path],
        typer.Argument(help="Suites' results folders, two or more, such as results/quick.", metavar="DIR..."),
    ],
    into: Annotated[
        Path, typer.Option(help="The folder to write, which must not be there or be empty.", metavar="DIR")
    ],
    prefer: Annotated[
        Prefer | None,
        typer.Option(
            help="Which record is taken where there are different ones of a cell: that of the folder named first, or "
            "the one that began first or last. Tables name what is left out."
        ),
    ] = None,
    without_times: Annotated[
        bool,
        typer.Option(
            "--without-times", help="Leave times out of all tables, so that those of unlike machines may be joined."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be taken, or why it can't be.")
    ] = False,
) -> None:
    """Joins the results of one suite from several folders."""
    check_target(into, directories)
    joined = join(directories, prefer, without_times, _warn)
    for remark in joined.remarks:
        _warn(remark)
    if dry_run:
        typer.echo("\n".join([*_lines(joined), f"nothing is written; {into} would have {_cells(len(joined.taken))}"]))
        return
    table: list[str] = []
    write_joined(joined, into, lambda folder: table.append(write_results(folder, _warn)))
    typer.echo("\n".join([*_lines(joined), f"{into} has {_cells(len(joined.taken))}", "", *table]).rstrip("\n"))


def _lines(joined: Joined) -> list[str]:
    lines = [f"{part.name}: {_cells(joined.count(part))} of {len(part.records)} taken" for part in joined.parts]
    if joined.same:
        lines.append(f"{_cells(joined.same)} the same in several of them")
    for record in joined.merged.left_out:
        cell = f"{record.label} depth {record.depth} seed {record.seed}"
        taken = f"taken is one that is {record.kept_status} (--prefer {record.prefer})"
        lines.append(f"left out: {cell}, a record that is {record.status}; {taken}")
    if joined.merged.times == "left out":
        lines.append("tables will show no times")
    return lines


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
