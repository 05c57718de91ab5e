"""``compbench table``: the table of results that are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from compbench.errors import SettingsError, StoreError, unknown
from compbench.records import Reporter
from compbench.registry import Registry, default_plugins_dir
from compbench.report.curves import render_curves, render_curves_with
from compbench.report.outcome import read_outcome
from compbench.report.tables import FORMATS, render, render_with
from compbench.run.files import write_atomically


def table(
    directory: Annotated[Path, typer.Argument(help="A suite's results folder, such as results/quick.", metavar="DIR")],
    layout: Annotated[
        str,
        typer.Option(
            "--format", help=f"One of {', '.join(FORMATS)}, or a format that a plugin adds.", metavar="FORMAT"
        ),
    ] = "github",
    times: Annotated[
        bool,
        typer.Option(
            "--times", help="Show where the time of a step goes instead: its phases, its arithmetic, page faults."
        ),
    ] = False,
    curve: Annotated[
        list[str] | None,
        typer.Option(
            "--curve",
            help="Show a figure of the strategies over training instead, such as fidelity or rank; csv has every "
            "point. May be given several times.",
            metavar="STATISTIC",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.", metavar="FILE")] = None,
    plugins_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with plugins of your own; by default ./plugins if there is one.", metavar="DIR"),
    ] = None,
) -> None:
    """Prints the table of a suite's results.

    csv has raw numbers under stable names, those of times among them; the other formats are for people, with sentences
    that say what is what.

    \b
    Examples:
      compbench table results/quick
      compbench table results/trm_depth --format latex_booktabs --output table.tex
      compbench table results/trm_depth --format csv
      compbench table results/trm_depth --times
      compbench table results/basis_drift --curve fidelity --format csv
    """  # noqa: D301 - a backspace is what keeps the examples on lines of their own
    if curve and times:
        raise SettingsError("--curve beside --times (allowed: one of them, since each is a table of its own)")
    outcome = read_outcome(directory, _warn)
    reporter = None if layout in FORMATS else _reporter(layout, plugins_dir)
    if curve:
        text = render_curves_with(reporter, outcome, curve) if reporter else render_curves(outcome, curve, layout)
    else:
        text = render_with(reporter, outcome) if reporter else render(outcome, layout, times)
    text = text.rstrip("\n") + "\n"
    if output is None:
        print(text, end="")
        return
    try:
        write_atomically(output, text)
    except OSError as error:
        raise StoreError(f"can't write {output}: {error.strerror or error}") from error


def _reporter(name: str, plugins_dir: Path | None) -> Reporter:
    """The format that a plugin adds; plugins are loaded for these alone, since it takes a while."""
    registry = Registry.load(plugins_dir if plugins_dir is not None else default_plugins_dir())
    claimed = any((conflict.kind, conflict.name) == ("reporter", name) for conflict in registry.conflicts)
    if name not in registry.reporters and not claimed and not registry.broken_reason("reporter", name):
        raise SettingsError(unknown("format", name, [*FORMATS, *registry.reporters]))
    found: Reporter = registry.find("reporter", name).record
    return found


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
