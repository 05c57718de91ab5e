"""``compbench plan``: what the cells of a suite will take, before any of them runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from compbench.cli.options import PluginsDir, registry_of
from compbench.cli.printing import check_format, formatted, show, warn
from compbench.errors import SettingsError, StoreError
from compbench.report.formats import FORMATS, TERMINAL
from compbench.report.outcome import Outcome, read_outcome
from compbench.report.plan_seeds import what_seeds_show
from compbench.report.plan_tables import plan_record, plan_table, sites_table
from compbench.run.fitting import Fit, what_fits
from compbench.run.known_ranks import KnownRanks
from compbench.run.planning import PlannedArm, Pool, plan_cells
from compbench.run.selection import select
from compbench.run.store import Store
from compbench.suite import load_suite
from compbench.suite.suite import Suite

HELP = """
Tells what the cells of a suite will take, without training anything.

For each arm and depth: how many cells are done and to run, the bytes saved for the backward pass, the peak of a step
and its phase, parameters, operations, and the time by cells that have ended. Memory comes from the code that runs, over
tensors that have shapes and no values: any model, any strategy, any size, in seconds. Where values decide over ranks,
it gives a span, or takes the ranks of results.

\b
Examples:
  compbench plan quick
  compbench plan suites/paper/table1.yaml                      the paper's sizes, on a laptop
  compbench plan suites/paper/table1.yaml --fits 24GiB         what runs out of memory, and what just fits
  compbench plan mine.yaml --ranks-from results/mine           with the ranks that trainings have led to
  compbench plan mine.yaml --only arm=laser --sites            site by site

Exit status: 0 planned, 1 an arm is not estimable, 2 bad input.
"""


def plan(
    suite: Annotated[str, typer.Argument(help="A suite's YAML file, or the name of one that ships.", metavar="SUITE")],
    results: Annotated[
        Path, typer.Option(help="Folder of results in which cells that are done are looked for.", metavar="DIR")
    ] = Path("results"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Plan part of the suite: AXIS=VALUE[,VALUE...], as in compbench run.", metavar="PATTERN"),
    ] = None,
    ranks_from: Annotated[
        Path | None,
        typer.Option(
            help="Results of a suite, such as results/mine, whose ranks, bits and choices are taken where values "
            "decide over them: those of the same strategy, the mean over seeds.",
            metavar="DIR",
        ),
    ] = None,
    fits: Annotated[
        str | None,
        typer.Option(
            help="Memory that there is, such as 24GiB: says what would run out of it, and the largest depth and batch "
            "that fit.",
            metavar="SIZE",
        ),
    ] = None,
    sites: Annotated[bool, typer.Option("--sites", help="Show every site of every arm, too.")] = False,
    every_depth: Annotated[
        bool,
        typer.Option(
            "--every-depth",
            help="Compute every depth, also those that follow from three shallower ones on a straight line.",
        ),
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core.", metavar="N")] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            help=f"One of {', '.join(FORMATS)}, or a plugin's; json has the sites, too.",
            metavar="FORMAT",
        ),
    ] = TERMINAL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to a file instead.", metavar="FILE")
    ] = None,
    plugins_dir: PluginsDir = None,
) -> None:
    """Tells what the cells of a suite will take, without training anything."""
    check_format(layout, plugins_dir)
    limit = None if fits is None else _size(fits)
    registry = registry_of(plugins_dir)
    # Whatever device it is for: the CPU's operators stand for those of a GPU.
    found = load_suite(suite, registry, elsewhere=True, check_metrics=False)
    # A slot's cell sees one GPU and calls it `cuda`; keys do, too.
    one_device = dataclasses.replace(found, device=found.device.partition(":")[0])
    everything = [cell for cell in one_device.cells(registry) if cell.arm not in found.broken_arms]
    for arm, why in found.broken_arms.items():
        warn(f"arm '{arm}' is left out: {why}")
    cells = select(everything, only or ())
    store = Store(results / found.name, lambda message: None)
    known = KnownRanks.read(ranks_from) if ranks_from is not None else None
    with Pool(jobs) as pool:
        arms = plan_cells(cells, store.results(cell.key for cell in cells), known, pool, every_depth)
        fitting = what_fits(arms, limit, registry, pool) if limit is not None else None
    seeds = what_seeds_show(everything, found.margins, _outcome(store.directory))
    if layout == "json":
        records = [_record(arm, fitting, limit) for arm in arms]
        show(json.dumps({"suite": found.name, "cells": records, "seeds": seeds}, indent=2), output)
    elif layout == "csv":  # one table a file
        table = sites_table(arms) if sites else plan_table(arms, fitting, limit)
        show(formatted(table, layout, output, plugins_dir), output)
    else:
        tables = [plan_table(arms, fitting, limit, fits or ""), *([sites_table(arms)] if sites else [])]
        texts = [formatted(table, layout, output, plugins_dir).rstrip("\n") for table in tables]
        show("\n\n".join([_title(found, len(cells)), *texts, "\n".join(seeds)]), output)
    raise typer.Exit(1 if any(arm.reason for arm in arms) else 0)


def _record(arm: PlannedArm, fitting: Mapping[str, Fit] | None, limit: int | None) -> dict[str, Any]:
    """An arm at a depth with its cells and sites."""
    return {
        **plan_record(arm, fitting, limit),
        "cells": [cell.key for cell in arm.cells],
        "states": dict(arm.states),
        "sites": list(arm.least.sites) if arm.least else [],
        "most_sites": list(arm.most.sites) if arm.most else [],
    }


def _title(suite: Suite, cells: int) -> str:
    device = "" if suite.device == "cpu" else f"; memory as the CPU's operators save it, for the device {suite.device}"
    return f"{suite.name}: {cells} cells{device}"


def _outcome(directory: Path) -> Outcome | None:
    """The results that there are; None where there are none, or none that can be read."""
    try:
        return read_outcome(directory, lambda message: None)
    except StoreError:
        return None


def _size(given: str) -> int:
    """The bytes that were asked for.

    Raises:
        SettingsError: It is no size.
    """
    try:
        size = int(TypeAdapter(ByteSize).validate_python(given))
    except ValidationError as error:
        raise SettingsError(f"--fits {given}: no size (allowed: such as 24GiB, 1500MB or a number of bytes)") from error
    if size <= 0:
        raise SettingsError(f"--fits {given}: no size (allowed: more than 0)")
    return size
