"""``compbench trace``: where the time of a strategy's step goes, operator by operator, beside the plain step."""

from __future__ import annotations

import importlib.util
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from compbench.cli.options import PluginsDir, registry_of
from compbench.errors import SettingsError, StoreError, unknown
from compbench.measure.tracing import SNAPSHOT
from compbench.report.tables import TERMINAL, as_text
from compbench.report.traces import as_csv, growth_table, kinds_table
from compbench.run.cell_process import Limits
from compbench.run.files import write_atomically
from compbench.run.naming import NamedCell, NamedSuite, find_named, one_of_all_seeds
from compbench.run.progress import describe
from compbench.run.tracing import CellTrace, Tracer, TraceSettings
from compbench.suite.cell import Cell

HELP = """
Shows where the time of a training step goes, operator by operator, beside the plain step.

Each cell is made ready as for a run, in a process of its own, trains a few steps, and then runs under torch's profiler:
steps with the strategy, and plain ones. Printed are the time by kind of operator and phase, and the operators that
take more of the strategy's step. For each cell DIR gets a folder with two traces, for TensorBoard, Perfetto or
chrome://tracing, with shapes, memory and regions named after strategy, site, encode and decode; operators.csv and
trace.json; and on a GPU a memory snapshot. Of a suite, seeds make no difference and are left out. To trace cells of a
run at the end of their training instead: compbench run SUITE --trace.

\b
Examples:
  compbench trace quick --only arm=laser           one arm, at the suite's deepest recursion
  compbench trace suites/trm_depth.yaml --only arm=laser,int8 --only depth=2,4
  compbench trace laser-d4-s0-1f2e3d4c5b6a         one cell by its key, or by its record's path
  compbench trace mine.yaml --warmup 350           a strategy that calibrates late
  compbench trace quick --only arm=laser --stacks  with every Python function
  compbench trace quick --only arm=laser --format csv

Exit status: 0 all is traced, 1 some cell could not be, 2 bad input, 130 interrupted.
"""

FORMATS = ("terminal", "github", "csv", "json")


def trace(
    target: Annotated[
        str, typer.Argument(help="A suite, a cell's key, or the path of a cell's record.", metavar="SUITE|CELL")
    ],
    results: Annotated[
        Path, typer.Option(help="Folder in which a cell's key is looked for, as for compbench run.", metavar="DIR")
    ] = Path("results"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Trace part of the suite: AXIS=VALUE[,VALUE...], as in compbench run; without a depth, the deepest.",
            metavar="PATTERN",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            min=1,
            help="Steps that are traced with the strategy, and as many plain ones; fewer where they are very large.",
            metavar="N",
        ),
    ] = 5,
    warmup: Annotated[
        int,
        typer.Option(
            min=1,
            help="Training steps before that, so that bases are calibrated and settled; at most those of the suite.",
            metavar="N",
        ),
    ] = 10,
    stacks: Annotated[
        bool,
        typer.Option(
            "--stacks", help="Note every Python function in the traces, too: they are several times as large."
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the traces; by default traces/ and the suite's name.", metavar="DIR")
    ] = None,
    layout: Annotated[
        str,
        typer.Option("--format", help=f"What is printed, one of {', '.join(FORMATS)}.", metavar="FORMAT"),
    ] = "terminal",
    top: Annotated[int, typer.Option(min=1, help="Operators that are shown, those that grew most.", metavar="N")] = 12,
    plugins_dir: PluginsDir = None,
    device: Annotated[
        str | None, typer.Option(help="Where to run, instead of on the suite's own device: cpu, cuda or cuda:N.")
    ] = None,
) -> None:
    """Shows where the time of a training step goes, beside the plain step."""
    if layout not in FORMATS:
        raise SettingsError(f"--format: {unknown('format', layout, FORMATS)}")
    registry = registry_of(plugins_dir)
    found = find_named(target, results, registry, device)
    if isinstance(found, NamedCell):
        found.refuse(only, device)
    cells = one_of_all_seeds(found, only or (), registry, lambda message: _tell(f"warning: {message}"))
    if isinstance(found, NamedCell) and cells[0].key != found.record.key:
        _tell(f"warning: the plugins of {found.record.key} have changed since; what is traced is {cells[0].key}")
    directory = output if output is not None else Path("traces") / cells[0].suite
    tracer = _tracer(found, directory, TraceSettings(steps, stacks), warmup)
    results_of_cells = []
    for result in tracer.run(cells):
        results_of_cells.append(result)
        if result.trace is None:
            _tell(f"error: {_failure(result, tracer.log_path(result.cell.key))}")
            continue
        _write(tracer.folder(result.cell) / "operators.csv", as_csv([result]))
        if layout in ("terminal", "github"):
            _print_tables(result, layout, top)
    traced = [result for result in results_of_cells if result.trace is not None]
    if layout == "csv":
        typer.echo(as_csv(traced), nl=False)
    elif layout == "json":
        records = [result.record() for result in results_of_cells]
        typer.echo(json.dumps({"suite": cells[0].suite, "cells": records}, indent=2))
    if traced:
        example = tracer.folder(traced[0].cell)
        typer.echo(how_to_open(directory, example), err=layout in ("csv", "json"))
    if tracer.stopped_by is not None:
        name = signal.Signals(tracer.stopped_by).name
        _tell(f"interrupted by {name}: {len(traced)} of {len(cells)} cells are traced")
        raise typer.Exit(128 + tracer.stopped_by)
    raise typer.Exit(0 if len(traced) == len(results_of_cells) else 1)


def _tracer(found: NamedSuite | NamedCell, directory: Path, settings: TraceSettings, warmup: int) -> Tracer:
    """Traces with the device, threads and limits of the suite; of a cell by itself, with those of its record."""
    if isinstance(found, NamedSuite):
        suite = found.suite
        device, threads = suite.device, suite.threads
        limits = Limits(suite.timeout_seconds, memory_bytes=suite.memory_limit)
    else:
        environment = found.record.environment
        device, threads = found.record.cell.device, environment.threads if environment is not None else None
        limits = Limits()
    return Tracer(device, threads, limits, directory, settings, warmup, lambda cell: _tell(f"tracing {describe(cell)}"))


def _print_tables(result: CellTrace, layout: str, top: int) -> None:
    assert result.trace is not None  # noqa: S101 - asked by the caller
    cell = result.cell
    style = TERMINAL if layout == "terminal" else layout
    steps = f"{result.trace.plain.steps} steps traced after {result.trained_steps}"
    typer.echo(f"{_named(cell)}, batch {cell.training.batch_size}, {cell.training.precision}; {steps}\n")
    typer.echo(as_text(kinds_table(result, result.trace), style))
    growth = growth_table(result.trace, top)
    if growth.cells:
        typer.echo(as_text(growth, style))


def _named(cell: Cell) -> str:
    return f"{cell.label}, depth {cell.depth}"


def _failure(result: CellTrace, log: Path) -> str:
    told = f"arm '{result.cell.label}' at depth {result.cell.depth}: {result.status}: {result.reason}"
    # What is unsupported was understood: the log says no more.
    return told if result.status == "unsupported" else f"{told} ({log})"


def how_to_open(directory: Path, example: Path) -> str:
    """What a user does with traces, in lines.

    Args:
        directory: Where they are, a folder a cell.
        example: The folder of one of them.
    """
    missing = "" if _has_plugin() else "      (not installed here: the extra `tensorboard`)"
    lines = [
        f"traces: {directory}, a folder a cell",
        f"  TensorBoard: tensorboard --logdir {shlex.quote(str(directory))}{missing}",
        f"  Perfetto: open {example}/strategy/strategy.pt.trace.json.gz in https://ui.perfetto.dev or chrome://tracing",
    ]
    if (example / SNAPSHOT).exists():
        lines.append(f"  memory of the GPU: open {example / SNAPSHOT} in https://pytorch.org/memory_viz")
    return "\n".join(lines)


def _has_plugin() -> bool:
    return all(importlib.util.find_spec(package) is not None for package in ("tensorboard", "torch_tb_profiler"))


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StoreError(f"can't write {path}: {error.strerror or error}") from error


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
