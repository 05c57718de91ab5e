"""``compbench compare``: two sets of results held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compbench.cli.options import PluginsDir
from compbench.cli.printing import check_format, formatted, show, warn
from compbench.cli.table_command import names
from compbench.errors import SettingsError
from compbench.report.columns import Spread
from compbench.report.comparison import Side, compare
from compbench.report.comparison_table import comparison_table
from compbench.report.formats import FORMATS, TERMINAL
from compbench.report.outcome import read_outcome

HELP = """
Holds the results B against the results A, figure by figure: what changed, and what can't be compared.

A and B are two results folders, or one arm of a folder each, DIR:ARM. Rows are paired by arm and depth, those of two
arms by depth and further axes; within them cells are paired by seed. Marks: ! a cell that was ok in A is not in B, *
the reverse, x not comparable, with the reason under the table. Memory is compared across machines where the settings
agree; times only on the same machine, under the same software; what a training has come to only where it began alike.

\b
Examples:
  compbench compare results/before/quick results/quick
  compbench compare results/trm_depth:laser results/trm_depth:lance
  compbench compare results/trm_depth:laser :lance         the same: B is in the folder of A
  compbench compare results/trm_depth results/trm_routes --columns saved_bytes,solved
  compbench compare results/before/quick results/quick --fail-on regression

Exit status: 0 compared, 1 with --fail-on regression if a cell fails anew or a metric is shown to be worse, 2 bad input.
"""


def compare_results(
    a: Annotated[str, typer.Argument(help="What was: a results folder, or DIR:ARM.", metavar="A")],
    b: Annotated[str, typer.Argument(help="What is: a results folder, DIR:ARM, or :ARM of A's folder.", metavar="B")],
    layout: Annotated[
        str,
        typer.Option(
            "--format", help=f"One of {', '.join(FORMATS)}, or a format that a plugin adds.", metavar="FORMAT"
        ),
    ] = TERMINAL,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Which figures and metrics, by the names of the csv; by default saved bytes, peak delta, times, all "
            "metrics and the gradient cosine.",
            metavar="NAME[,NAME...]",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="What a row stands for, as for compbench table; by default arm,depth.", metavar="AXIS[,AXIS...]"
        ),
    ] = None,
    spread: Annotated[
        Spread, typer.Option(help="Beside the mean of a metric: its standard deviation, or the mean's 95 % interval.")
    ] = "sd",
    fail_on: Annotated[
        Literal["never", "regression"],
        typer.Option(help="regression: exit with 1 if a cell fails anew, or a metric is shown to be worse."),
    ] = "never",
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.", metavar="FILE")] = None,
    plugins_dir: PluginsDir = None,
) -> None:
    """Holds the results B against the results A, figure by figure."""
    check_format(layout, plugins_dir)
    chosen, axes = names(columns, "--columns"), names(by, "--by")
    (folder_a, arm_a), (own_folder, arm_b) = _split(a), _split(b)
    if folder_a is None:
        raise SettingsError(f"A is {a}: no folder (allowed: DIR or DIR:ARM)")
    folder_b = folder_a if own_folder is None else own_folder
    arm_a, arm_b = arm_a or arm_b, arm_b or arm_a
    if folder_a.resolve() == folder_b.resolve() and arm_a == arm_b:
        what = f"arm '{arm_a}' of {folder_a}" if arm_a else str(folder_a)
        raise SettingsError(f"A and B are both {what} (allowed: two folders, or two arms, such as {folder_a}:ARM :ARM)")
    before = read_outcome(folder_a, warn)
    after = before if folder_b.resolve() == folder_a.resolve() else read_outcome(folder_b, warn)
    comparison = compare(Side(before, arm_a), Side(after, arm_b), chosen, axes)
    show(formatted(comparison_table(comparison, spread), layout, output, plugins_dir), output)
    raise typer.Exit(1 if fail_on == "regression" and comparison.regressed else 0)


def _split(text: str) -> tuple[Path | None, str]:
    """Folder and arm of ``DIR:ARM``; the folder's own name may have colons."""
    if not Path(text).is_dir():
        for place in (place for place, letter in enumerate(text) if letter == ":"):
            folder, arm = text[:place], text[place + 1 :]
            if arm and (not folder or Path(folder).is_dir()):
                return Path(folder) if folder else None, arm
    return Path(text), ""
