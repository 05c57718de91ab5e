"""``compbench trace``: where the time of a strategy's step goes, operator by operator, beside the plain step."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from compbench.errors import PluginError, SettingsError, StoreError, unknown
from compbench.registry import Registry, default_plugins_dir
from compbench.report.tables import TERMINAL, as_text
from compbench.report.traces import as_csv, growth_table, kinds_table
from compbench.run.files import write_atomically
from compbench.run.listing import without_seeds
from compbench.run.progress import describe
from compbench.run.tracing import CellTrace, Tracer
from compbench.suite import load_suite
from compbench.suite.cell import Cell

HELP = """
Shows where the time of a training step goes, operator by operator, beside the plain step.

Each cell is made ready as for a run, in a process of its own, trains a few steps, and then runs under torch's profiler:
steps with the strategy, and plain ones. Printed are the time by kind of operator and phase, and the operators that
take more of the strategy's step. For each cell DIR gets a folder with two traces, for TensorBoard, Perfetto or
chrome://tracing, and operators.csv. Seeds make no difference and are left out.

\b
Examples:
  compbench trace quick --only arm=laser           one arm, at the suite's deepest recursion
  compbench trace suites/trm_depth.yaml --only arm=laser,int8 --only depth=2,4
  compbench trace mine.yaml --warmup 350           a strategy that calibrates late
  compbench trace quick --only arm=laser --format csv

Exit status: 0 all is traced, 1 some cell could not be, 2 bad input, 130 interrupted.
"""

FORMATS = ("terminal", "github", "csv", "json")


def trace(
    suite: Annotated[str, typer.Argument(help="A suite's YAML file, or the name of one that ships.", metavar="SUITE")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Trace part of the suite: AXIS=VALUE[,VALUE...], as in compbench run; without a depth, the deepest.",
            metavar="PATTERN",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps that are traced with the strategy, and as many plain ones.", metavar="N")
    ] = 5,
    warmup: Annotated[
        int,
        typer.Option(
            min=1,
            help="Training steps before that, so that bases are calibrated and settled; at most those of the suite.",
            metavar="N",
        ),
    ] = 10,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the traces; by default traces/ and the suite's name.", metavar="DIR")
    ] = None,
    layout: Annotated[
        str,
        typer.Option("--format", help=f"What is printed, one of {', '.join(FORMATS)}.", metavar="FORMAT"),
    ] = "terminal",
    top: Annotated[int, typer.Option(min=1, help="Operators that are shown, those that grew most.", metavar="N")] = 12,
    plugins_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with plugins of your own; by default ./plugins if there is one.", metavar="DIR"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to run, instead of on the suite's own device: cpu, cuda or cuda:N.")
    ] = None,
) -> None:
    """Shows where the time of a training step goes, beside the plain step."""
    if layout not in FORMATS:
        raise SettingsError(f"--format: {unknown('format', layout, FORMATS)}")
    registry = Registry.load(plugins_dir if plugins_dir is not None else default_plugins_dir())
    loaded = load_suite(suite, registry, device)
    # A cell's process sees one GPU and calls it `cuda`, whichever it is.
    cells = dataclasses.replace(loaded, device=loaded.device.partition(":")[0]).cells(registry)
    chosen = without_seeds(cells, only or ())
    sound = [cell for cell in chosen if cell.arm not in loaded.broken_arms]
    for arm in dict.fromkeys(cell.arm for cell in chosen if cell not in sound):
        _tell(f"warning: arm '{arm}' is left out: {loaded.broken_arms[arm]}")
    if not sound:
        raise PluginError(f"suite '{loaded.name}': the plugin of every selected arm is broken")
    directory = output if output is not None else Path("traces") / loaded.name
    tracer = Tracer(loaded, directory, steps, warmup, lambda cell: _tell(f"tracing {describe(cell)}"))
    found = []
    for result in tracer.run(sound):
        found.append(result)
        if result.trace is None:
            _tell(f"error: {_failure(result, tracer.log_path(result.cell.key))}")
            continue
        _write(tracer.folder(result.cell) / "operators.csv", as_csv([result]))
        if layout in ("terminal", "github"):
            _print_tables(result, layout, top)
    traced = [result for result in found if result.trace is not None]
    if layout == "csv":
        typer.echo(as_csv(traced), nl=False)
    elif layout == "json":
        typer.echo(json.dumps({"suite": loaded.name, "cells": [record(result) for result in found]}, indent=2))
    if traced:
        typer.echo(_how_to_open(directory, tracer.folder(traced[0].cell)), err=layout in ("csv", "json"))
    if tracer.stopped_by is not None:
        name = signal.Signals(tracer.stopped_by).name
        _tell(f"interrupted by {name}: {len(traced)} of {len(sound)} cells are traced")
        raise typer.Exit(128 + tracer.stopped_by)
    raise typer.Exit(0 if len(traced) == len(found) else 1)


def record(result: CellTrace) -> dict[str, Any]:
    """One cell's trace as plain data; its folder has the name of the cell's key."""
    cell = result.cell
    return {
        "key": cell.key,
        "arm": cell.arm,
        "depth": cell.depth,
        "seed": cell.seed,
        "variant": cell.variant,
        **result.model_dump(mode="json", exclude={"cell"}),
    }


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


def _how_to_open(directory: Path, example: Path) -> str:
    lines = [
        f"traces: {directory}, a folder a cell, with operators.csv",
        f"  tensorboard --logdir {shlex.quote(str(directory))}",
        f"or open {example}/strategy/strategy.pt.trace.json.gz in https://ui.perfetto.dev or chrome://tracing",
    ]
    if importlib.util.find_spec("torch_tb_profiler") is None:
        lines[1] += "      (not installed here: the extra `tensorboard`)"
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StoreError(f"can't write {path}: {error.strerror or error}") from error


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
