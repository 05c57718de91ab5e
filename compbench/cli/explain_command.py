"""``compbench explain``: why cells are or aren't up to date, and what a run would do with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from compbench.cli.options import PluginsDir, registry_of
from compbench.errors import CompbenchError
from compbench.registry import Registry
from compbench.run.explaining import Explainer, Explanation
from compbench.run.naming import NamedCell, NamedSuite, as_now, find_named
from compbench.run.progress import describe
from compbench.run.selection import Rerun, select
from compbench.suite.cell import Cell

HELP = """
Says of each cell whether its record is up to date, and if not, why: what is missing, damaged, or has changed.

A record is kept under the settings that differ from their defaults and the source of the plugins, with what they
import of their own package. Where there is none, the nearest one that is there is named, with each difference.

\b
Examples:
  compbench explain quick                          every cell of a suite
  compbench explain mine.yaml --only arm=laser     some of them
  compbench explain mine.yaml --rerun failed       what such a run would do
  compbench explain laser-d4-s0-1f2e3d4c5b6a       one cell by its key, or by its record's path

Exit status: 0 a run would start nothing, 1 it would, 2 bad input.
"""


def explain(
    target: Annotated[
        str, typer.Argument(help="A suite, a cell's key, or the path of a cell's record.", metavar="SUITE|CELL")
    ],
    results: Annotated[Path, typer.Option(help="Folder for results, as for compbench run.", metavar="DIR")] = Path(
        "results"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Part of the suite: AXIS=VALUE[,VALUE...], as in compbench run.", metavar="PATTERN"),
    ] = None,
    rerun: Annotated[Rerun, typer.Option(help="What the run would be asked to do again.")] = "missing",
    plugins_dir: PluginsDir = None,
    device: Annotated[
        str | None, typer.Option(help="Where to run, instead of on the suite's own device: cpu, cuda or cuda:N.")
    ] = None,
) -> None:
    """Says of each cell whether its record is up to date, and if not, why."""
    registry = registry_of(plugins_dir)
    match find_named(target, results, registry, device):
        case NamedSuite(_, cells) as named:
            store, selected = named.store(results), select(cells, only or ())
        case NamedCell(record, store) as named:
            named.refuse(only, device)
            cells = selected = [_as_now(record.cell, registry)]
    explainer = Explainer(store, cells, rerun, lambda cell: sources_now(cell, registry))
    explanations = list(explainer.explain(selected))
    for explanation in explanations:
        typer.echo("\n".join(_lines(explanation)))
    runs = sum(explanation.runs for explanation in explanations)
    if len(explanations) > 1:
        typer.echo(f"\n{len(explanations)} cells in {store.directory}: a run would start {runs or 'none'} of them")
    raise typer.Exit(1 if runs else 0)


def _lines(explanation: Explanation) -> Iterator[str]:
    yield f"{describe(explanation.cell)}: {explanation.state}, {explanation.action}"
    yield from (f"  {line}" for line in explanation.details)


def _as_now(cell: Cell, registry: Registry) -> Cell:
    """A cell with its plugins as they are now; it stays as it was where they can't be loaded."""
    try:
        return as_now(cell, registry)
    except CompbenchError:
        return cell


def sources_now(cell: Cell, registry: Registry) -> Mapping[str, str]:
    """The hashes of the files of a cell's plugins; empty where one can't be loaded."""
    try:
        workload = registry.workload(cell.workload.name, **cell.workload.fields)
        strategy = registry.compressor([{member.name: member.fields} for member in cell.strategy])
    except CompbenchError:
        return {}
    return registry.sources(workload) | registry.sources(strategy)
