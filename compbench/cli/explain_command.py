"""``compbench explain``: why cells are or aren't up to date, and what a run would do with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from compbench.errors import CompbenchError, SettingsError, nearest
from compbench.registry import Registry, default_plugins_dir
from compbench.run.explaining import Explainer, Explanation
from compbench.run.progress import describe
from compbench.run.selection import Rerun, select
from compbench.run.store import Store
from compbench.suite import load_suite
from compbench.suite.cell import Cell
from compbench.suite.loader import shipped_suites

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
    plugins_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with plugins of your own; by default ./plugins if there is one.", metavar="DIR"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to run, instead of on the suite's own device: cpu, cuda or cuda:N.")
    ] = None,
) -> None:
    """Says of each cell whether its record is up to date, and if not, why."""
    registry = Registry.load(plugins_dir if plugins_dir is not None else default_plugins_dir())
    if Path(target).suffix != ".json" and (Path(target).is_file() or target in shipped_suites()):
        suite = load_suite(target, registry, device)
        cells = dataclasses.replace(suite, device=suite.device.partition(":")[0]).cells(registry)
        store, selected = Store(results / suite.name, _ignore), select(cells, only or ())
    else:
        if only or device is not None:
            raise SettingsError("--only and --device are for suites (allowed with a cell: --results, --rerun)")
        store, cell = _find(target, results, registry)
        cells = selected = [cell]
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


def _find(target: str, results: Path, registry: Registry) -> tuple[Store, Cell]:
    """The cell that a record is of, with its plugins as they are now.

    Raises:
        SettingsError: there is no such record, or it can't be used to tell what the cell is.
    """
    path = Path(target)
    if path.suffix == ".json":
        if not path.is_file():
            raise SettingsError(f"there is no record {path} (allowed: a suite, a cell's key, or a record's path)")
        found = [path]
    else:
        found = sorted(results.glob(f"*/cells/{target}.json")) if "/" not in target else []
    if not found:
        keys = [record.stem for record in results.glob("*/cells/*.json")]
        raise SettingsError(
            f"'{target}' is no suite, and there is no record of that key in {results}{nearest(target, keys)} "
            f"(suites that ship: {', '.join(shipped_suites())}; a cell that has no record is explained by its suite)"
        )
    store = Store(found[0].parent.parent, _ignore)
    reading = store.inspect(found[0].stem)
    if reading.record is None:
        raise SettingsError(f"{found[0]} is not trusted: {reading.problem}; a run of its suite makes it anew")
    return store, as_now(reading.record.cell, registry)


def as_now(cell: Cell, registry: Registry) -> Cell:
    """A cell with the sources of its plugins as they are now; those that can't be loaded stay as they were."""
    try:
        workload = registry.workload(cell.workload.name, **cell.workload.fields)
        strategy = registry.compressor([{member.name: member.fields} for member in cell.strategy])
        (of_workload,), of_strategy = registry.reference(workload), registry.reference(strategy)
    except CompbenchError:
        return cell
    members = zip(cell.strategy, of_strategy, strict=True)
    return cell.model_copy(
        update={
            "workload": cell.workload.model_copy(update={"source": of_workload.source}),
            "strategy": tuple(member.model_copy(update={"source": now.source}) for member, now in members),
        }
    )


def sources_now(cell: Cell, registry: Registry) -> Mapping[str, str]:
    """The hashes of the files of a cell's plugins; empty where one can't be loaded."""
    try:
        workload = registry.workload(cell.workload.name, **cell.workload.fields)
        strategy = registry.compressor([{member.name: member.fields} for member in cell.strategy])
    except CompbenchError:
        return {}
    return registry.sources(workload) | registry.sources(strategy)


def _ignore(message: str) -> None:
    """What is wrong with a record is said of its cell, and not beside it."""
