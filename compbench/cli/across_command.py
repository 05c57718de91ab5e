"""``compbench across``: the results of several suites, workloads and depths in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from compbench.errors import SettingsError, StoreError, unknown
from compbench.report.across import compare_across
from compbench.report.across_tables import FORMATS, render_across
from compbench.report.outcome import Outcome, read_outcome
from compbench.run.files import write_atomically
from compbench.run.store import result_folders

HELP = """
Compares arms across workloads, depths and suites: relative scores, and performance profiles of what they cost.

A relative score is an arm's score over that of the reference of the same seed; shown is its interquartile mean over all
tasks and seeds, with a bootstrap interval. A performance profile is the share of problems that an arm does at no more
than so many times the cost of the cheapest arm, for time, saved bytes and peak delta; a cell that failed never does.

A DIR is a suite's results folder, or a folder of several of them.

\b
Examples:
  compbench across results/trm_depth                       all depths of one suite
  compbench across results/trm_depth results/trm_routes
  compbench across results --arm laser --arm 'int8*' --metric solved
  compbench across results/trm_depth --format csv          every step of every profile
"""


def across(
    directories: Annotated[
        list[Path], typer.Argument(help="Results folders, or folders of several of them.", metavar="DIR")
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Aggregate this metric; may be repeated. By default those with a margin, else those measured.",
            metavar="NAME",
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Look at this arm beside the reference, globs allowed; may be repeated. By default at all.",
            metavar="NAME",
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.", metavar="FORMAT")
    ] = "terminal",
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.", metavar="FILE")] = None,
) -> None:
    """Compares arms across workloads, depths and suites."""
    if layout not in FORMATS:
        raise SettingsError(unknown("format", layout, FORMATS))
    outcomes = [outcome for directory in directories for outcome in _outcomes(directory)]
    text = render_across(compare_across(outcomes, metric or (), arm or ()), layout)
    if output is None:
        print(text, end="")
        return
    try:
        write_atomically(output, text)
    except OSError as error:
        raise StoreError(f"can't write {output}: {error.strerror or error}") from error


def _outcomes(directory: Path) -> list[Outcome]:
    """The results of a suite, or of all suites in a folder; those of which nothing has been run are warned of.

    Raises:
        StoreError: there are none.
    """
    inside = [] if (directory / "suite.json").exists() else result_folders(directory)
    if not inside:
        return [read_outcome(directory, _warn)]
    outcomes = []
    for folder in inside:
        try:
            outcomes.append(read_outcome(folder, _warn))
        except StoreError as error:
            _warn(str(error))
    if not outcomes:
        raise StoreError(f"none of the results folders in {directory} has a record that can be used")
    return outcomes


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
