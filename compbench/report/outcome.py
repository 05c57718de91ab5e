"""What a run left behind, as the report reads it: the cells that were planned and the records that exist."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from compbench.errors import StoreError
from compbench.run.machine import Machine
from compbench.run.merged import MergeRecord
from compbench.run.result import CellResult
from compbench.run.store import LOGGER, Store, Warn

_KEY = re.compile(r"(?P<readable>.+)-d(?P<depth>\d+)-s(?P<seed>-?\d+)-[0-9a-f]{12}")


@dataclass(frozen=True)
class PlannedCell:
    """One cell of the suite, with its record if there is one.

    Attributes:
        arm: the cell's label, what a table's row is called.
        result: the record, or None when the cell has not been run.
    """

    key: str
    arm: str
    depth: int
    seed: int
    result: CellResult | None

    @property
    def status(self) -> str:
        """The record's status, or ``missing``."""
        return self.result.status if self.result else "missing"


@dataclass(frozen=True)
class Outcome:
    """A suite's results: what was asked for, and what came of it.

    Attributes:
        margins: by metric, the loss against the reference that the suite declares tolerable, in the metric's unit.
        keys: keys of all planned cells, in the suite's order.
        command: the command line that made the results.
        results: records by key; records of cells that are not planned (any more) are passed over.
        machines: descriptions by hash.
        lower_is_better: the metrics of which less is better; of all others more is.
        merged: of which stores these results were joined, if they were. Where it leaves times out, no record has any.
    """

    name: str
    description: str
    margins: Mapping[str, float]
    keys: Sequence[str]
    command: str
    results: Mapping[str, CellResult]
    machines: Mapping[str, Machine] = field(default_factory=dict)
    lower_is_better: Collection[str] = ()
    merged: MergeRecord | None = None

    @cached_property
    def cells(self) -> tuple[PlannedCell, ...]:
        """Every planned cell, in the suite's order. A missing one is known by its key alone."""
        labels = {_parts(key)[0]: result.cell.label for key, result in self.results.items()}
        cells = []
        for key in self.keys:
            readable, depth, seed = _parts(key)
            result = self.results.get(key)
            arm = result.cell.label if result else labels.get(readable, readable)
            cells.append(PlannedCell(key, arm, depth, seed, result))
        return tuple(cells)

    @cached_property
    def groups(self) -> dict[tuple[str, int], tuple[PlannedCell, ...]]:
        """The cells of each arm and depth: arms in the suite's order, depths ascending."""
        arms = list(dict.fromkeys(cell.arm for cell in self.cells))
        found: dict[tuple[str, int], list[PlannedCell]] = {}
        for cell in self.cells:
            found.setdefault((cell.arm, cell.depth), []).append(cell)
        ordered = sorted(found, key=lambda group: (arms.index(group[0]), group[1]))
        return {group: tuple(found[group]) for group in ordered}


def read_outcome(directory: Path, warn: Warn = LOGGER.warning) -> Outcome:
    """Reads a suite's results folder.

    Args:
        directory: the suite's own folder, such as ``results/quick``.
        warn: is handed one line for each record that can't be used; its cell counts as missing.

    Raises:
        StoreError: there is no such folder, it is not that of a suite, or no cell has been run.
    """
    store, suite = Store.open(directory, warn)
    results = store.results(suite.keys)
    if not results:
        raise StoreError(f"{directory} has no record of any of the {len(suite.keys)} cells of suite '{suite.name}'")
    digests = sorted({result.machine for result in results.values() if result.machine})
    machines = {digest: machine for digest in digests if (machine := store.machine(digest))}
    merged = store.merged()
    if merged is not None and merged.times == "left out":
        results = {key: result.model_copy(update={"time": None}) for key, result in results.items()}
    return Outcome(
        name=suite.name,
        description=suite.description,
        margins=suite.margins,
        keys=suite.keys,
        command=suite.command,
        results=results,
        machines=machines,
        lower_is_better=suite.lower_is_better,
        merged=merged,
    )


def _parts(key: str) -> tuple[str, int, int]:
    """Readable label, depth and seed of a cell's key."""
    match = _KEY.fullmatch(key)
    if match is None:
        return key, 0, 0
    return match["readable"], int(match["depth"]), int(match["seed"])
