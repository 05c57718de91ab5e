"""``compbench table``: the table of results that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compbench.cli.options import PluginsDir
from compbench.cli.printing import check_format, formatted, show, warn
from compbench.errors import SettingsError
from compbench.report.columns import Spread
from compbench.report.curves import curves_table
from compbench.report.formats import FORMATS, TERMINAL
from compbench.report.outcome import read_outcome
from compbench.report.tables import View, results_table

HELP = """
Prints the table of a suite's results.

csv and json have raw numbers under stable names; the other formats are for people, with sentences that say what is
what, and the best of each column in bold. On a terminal a table is as wide as that allows; through a pipe it is always
the same. Columns have the names that they have in the csv; several are separated by commas.

\b
Examples:
  compbench table results/quick
  compbench table results/trm_depth --format latex_booktabs --output table.tex
  compbench table results/trm_depth --columns saved_bytes,saving,solved --only depth=4
  compbench table results/trm_depth --by depth,arm --spread interval
  compbench table results/trm_depth --by arm,depth,seed --columns solved --sort -solved
  compbench table results/trm_depth --format csv
  compbench table results/trm_depth --times
  compbench table results/basis_drift --curve fidelity --format csv

Exit status: 0 printed, 2 bad input.
"""


def table(
    directory: Annotated[Path, typer.Argument(help="A suite's results folder, such as results/quick.", metavar="DIR")],
    layout: Annotated[
        str,
        typer.Option(
            "--format", help=f"One of {', '.join(FORMATS)}, or a format that a plugin adds.", metavar="FORMAT"
        ),
    ] = TERMINAL,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="What to show: figures, metrics, verdicts, settings, by the names of the csv. Of a figure also "
            "NAME_mean, _median, _sd, _low, _high (of the 95 % interval), _min and _max over its cells.",
            metavar="NAME[,NAME...]",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="What a row stands for: arm, depth, seed, an axis of the matrix, or any setting of the workload, the "
            "training or the capture; by default arm,depth.",
            metavar="AXIS[,AXIS...]",
        ),
    ] = None,
    spread: Annotated[
        Spread, typer.Option(help="Beside the mean of a metric: its standard deviation, or the mean's 95 % interval.")
    ] = "sd",
    sort: Annotated[
        list[str] | None,
        typer.Option(
            help="Sort rows by these columns, one with - before it from high to low; by default in the suite's order.",
            metavar="[-]NAME[,...]",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Show part of the results: AXIS=VALUE[,VALUE...], as in compbench run.",
            metavar="PATTERN",
        ),
    ] = None,
    times: Annotated[
        bool,
        typer.Option(
            "--times", help="Show where the time of a step goes instead: its phases, its arithmetic, page faults."
        ),
    ] = False,
    curve: Annotated[
        list[str] | None,
        typer.Option(
            help="Show a figure of the strategies over training instead, such as fidelity or rank; csv and json have "
            "every point. May be given several times.",
            metavar="STATISTIC",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.", metavar="FILE")] = None,
    plugins_dir: PluginsDir = None,
) -> None:
    """Prints the table of a suite's results."""
    view = View(
        by=names(by, "--by"),
        columns=names(columns, "--columns"),
        spread=spread,
        sort=names(sort, "--sort"),
        only=only or (),
        times=times,
    )
    if curve:
        _alone("--curve", view)
    if times and view.columns:
        raise SettingsError("--times beside --columns (allowed: one of them, since both say which columns there are)")
    check_format(layout, plugins_dir)
    outcome = read_outcome(directory, warn)
    found = curves_table(outcome, curve) if curve else results_table(outcome, view)
    show(formatted(found, layout, output, plugins_dir), output)


def names(given: list[str] | None, option: str) -> tuple[str, ...]:
    """Names from an option that has several at once, separated by commas, and may be repeated.

    Raises:
        SettingsError: one of them is empty.
    """
    found = tuple(name.strip() for words in given or () for name in words.split(","))
    if not all(name.removeprefix("-") for name in found):
        raise SettingsError(f"{option} {' '.join(given or ())}: an empty name (allowed: names separated by commas)")
    return found


def _alone(option: str, view: View) -> None:
    """Whether an option that makes a table of its own stands without those that choose from another.

    Raises:
        SettingsError: it does not.
    """
    given = {
        "--times": view.times,
        "--columns": view.columns,
        "--by": view.by,
        "--sort": view.sort,
        "--only": view.only,
        "--spread": view.spread != "sd",
    }
    beside = [name for name, is_given in given.items() if is_given]
    if beside:
        raise SettingsError(f"{option} beside {', '.join(beside)} (allowed: by itself, since it is a table of its own)")
