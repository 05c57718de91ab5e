"""``compbench analyse``: what the activations, bases and gradients of a trained cell were like."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compbench.cli.options import PluginsDir, registry_of
from compbench.errors import SettingsError, UnsupportedError
from compbench.registry import Registry
from compbench.run.naming import NamedCell, NamedSuite, as_now, find_named
from compbench.run.progress import describe
from compbench.run.result import CellResult
from compbench.run.selection import select
from compbench.run.store import Store
from compbench.suite.cell import Cell

if TYPE_CHECKING:
    from compbench.analysis.snapshots import Snapshots

POINTS = 12
"""Snapshots of a training, unless it is said otherwise."""

HELP = """
Looks at what a trained cell's activations, bases, gradients and states were like, and writes numbers and figures.

Records hold no weights: the cell's training is repeated, once for all analyses, and snapshots of it are kept in
DIR/SUITE/snapshots. On the CPU it is the same training, bit for bit; each result says whether it was. What is found
goes to DIR/SUITE/analyses/KEY: NAME.json, NAME.csv, and figures as HTML, SVG and PNG.

\b
NAME is one of
  spectrum      directions that activations fill; PCA over training at 8, 16 and 32 bits; rank bounds
  linearity     projections against nonlinear autoencoders at equal code sizes
  distribution  moments, outliers, what INT8 costs before and after projection
  gradient      Theorem 1's bound and the measured error; alignment by parameter and depth
  drift         principal angles of bases over training; expansions and resets
  trajectory    states after each call of the recurring module
  all           one after the other

\b
Examples:
  compbench analyse all laser-d4-s0-1f2e3d4c5b6a    one cell by its key, or by its record's path
  compbench analyse spectrum quick --only arm=laser --only depth=4
  compbench analyse linearity quick --only arm=none --set codes=[8,32] --set restarts=4
  compbench analyse all quick --only arm=laser --set examples=64 --set gradient.depths=[2,4,8]

Exit status: 0 all is written, 1 something could not be analysed, 2 bad input.
"""


@dataclass(frozen=True)
class _Target:
    """A cell to analyse.

    Attributes:
        cell: It, with its plugins as they are now.
        record: Its record, if it has one.
        store: Where snapshots and analyses belong.
        threads: Of its training.
    """

    cell: Cell
    record: CellResult | None
    store: Store
    threads: int


def analyse(
    name: Annotated[str, typer.Argument(help="An analysis, or all.", metavar="NAME")],
    targets: Annotated[
        list[str],
        typer.Argument(help="Cells by their keys or records' paths, or a suite.", metavar="SUITE|CELL..."),
    ],
    results: Annotated[Path, typer.Option(help="Folder for results, as for compbench run.", metavar="DIR")] = Path(
        "results"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Part of a suite: AXIS=VALUE[,VALUE...], as in compbench run.", metavar="PATTERN"),
    ] = None,
    snapshots: Annotated[
        int,
        typer.Option(min=2, help="Snapshots of the training; another number than before trains anew.", metavar="N"),
    ] = POINTS,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the analysis, see docs/analyses.md.", metavar="FIELD=VALUE"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads of the repeated training; by default those of the record, or of the suite, or 1.",
            metavar="N",
        ),
    ] = None,
    plugins_dir: PluginsDir = None,
) -> None:
    """Looks at what a trained cell's activations, bases, gradients and states were like."""
    # These take a second to import, which other commands should not wait for.
    from compbench.analysis.catalogue import ANALYSES, settings_of
    from compbench.analysis.document import document
    from compbench.analysis.snapshots import compare
    from compbench.analysis.trained import Trained
    from compbench.report.analyses import write_analysis

    settings = settings_of(name, options or [])
    registry = registry_of(plugins_dir)
    found = [each for target in targets for each in _targets(target, results, only or (), threads, registry)]
    impossible = 0
    for target in found:
        try:
            trained = Trained(target.cell, _snapshots(target, snapshots))
        except UnsupportedError as error:
            _tell(f"error: {error}")
            impossible += 1
            continue
        compared = compare(trained.snapshots.training, target.record)
        if compared.same is not True:
            _tell(f"{'warning' if compared.same is False else 'note'}: {target.cell.key}: {compared.reason}")
        for each, options_of in settings.items():
            began = time.monotonic()
            try:
                analysis = ANALYSES[each].analyse(trained, options_of)
            except UnsupportedError as error:
                _tell(f"error: {each} of {target.cell.key}: {error}")
                impossible += 1
                continue
            content = document(each, trained, options_of, compared, analysis)
            first, *_ = write_analysis(target.store.analyses_path(target.cell.key), content, analysis)
            typer.echo(f"{each}: {first} ({time.monotonic() - began:.0f} s)")
    raise typer.Exit(1 if impossible else 0)


def _targets(
    target: str, results: Path, only: Sequence[str], threads: int | None, registry: Registry
) -> Iterator[_Target]:
    """The cells that a target names, with their records.

    Raises:
        SettingsError: There is none, or a record is not that of a cell that ended well.
    """
    match find_named(target, results, registry):
        case NamedCell(record, store) as named:
            named.refuse(only)
            cell = as_now(record.cell, registry)
            if cell.key != record.key:
                _tell(f"warning: the plugins of {record.key} have changed since; what is analysed is {cell.key}")
            yield _target(cell, record, store, threads, None)
        case NamedSuite(suite, cells) as named:
            store = named.store(results)
            for cell in select(cells, only):
                if (broken := suite.broken_arms.get(cell.arm)) is not None:
                    raise SettingsError(f"arm '{cell.arm}' can't be analysed: {broken}")
                yield _target(cell, store.result(cell.key), store, threads, suite.threads)


def _target(cell: Cell, record: CellResult | None, store: Store, asked: int | None, of_suite: int | None) -> _Target:
    if record is not None and record.status != "ok":
        why = f": {record.reason}" if record.reason else ""
        raise SettingsError(
            f"the record of {record.key} has the status '{record.status}'{why} (allowed: cells that ended ok, "
            "or that have no record yet)"
        )
    recorded = record.environment.threads if record is not None and record.environment is not None else None
    return _Target(cell, record, store, asked or recorded or of_suite or 1)


def _snapshots(target: _Target, points: int) -> Snapshots:
    """Those that are there, if they are as many as are asked for and of as many threads; else they are taken."""
    import torch

    from compbench.analysis.snapshots import Snapshots, snapshot_steps, take_snapshots

    folder = target.store.snapshots_path(target.cell.key)
    known = Snapshots.read(folder, target.cell.key)
    wanted = snapshot_steps(target.cell.training.steps, points)
    if known is not None and known.steps == wanted and known.training.threads == target.threads:
        torch.set_num_threads(target.threads)
        return known
    _tell(f"training {describe(target.cell)} again, for {len(wanted)} snapshots")
    return take_snapshots(target.cell, folder, points, target.threads, _tell)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
