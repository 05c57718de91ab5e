"""Why a cell is or isn't up to date: what is there, in what it differs from what is wanted, and what a run would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compbench.run.checkpoints import peek
from compbench.run.policy import reconsidered
from compbench.run.reading import Reading, this_program
from compbench.run.result import SCHEMA_VERSION, CellResult
from compbench.run.selection import Rerun, to_run
from compbench.run.store import Store
from compbench.suite.cell import Cell

Sources = Callable[[Cell], Mapping[str, str]]
"""The files that define a cell's strategy and workload, with their hashes now; empty where they can't be loaded."""


_ABSENT = "the default"


@dataclass(frozen=True)
class Explanation:
    """What there is to say of one cell.

    Attributes:
        cell: The cell.
        state: The status of its record, ``missing``, or ``damaged``.
        action: What a run would do with it.
        runs: Whether a run would start it.
        details: Why, a line each.
    """

    cell: Cell
    state: str
    action: str
    runs: bool
    details: Sequence[str]


class Explainer:
    """Explains cells of one results folder.

    Args:
        store: The folder; it need not be there.
        cells: All cells of the suite.
        rerun: As a run would be given it.
        sources: Finds the files of a cell's code.
    """

    def __init__(self, store: Store, cells: Sequence[Cell], rerun: Rerun, sources: Sources) -> None:
        self._store = store
        self._wanted = {cell.key for cell in cells}
        self._rerun = rerun
        self._sources = sources
        self._keys = store.keys()
        self._readings: dict[str, Reading[CellResult]] = {}

    def explain(self, selected: Sequence[Cell]) -> Iterator[Explanation]:
        """Each of the cells, in their order.

        Raises:
            StoreError: A record is a newer compbench's, or can't be read.
        """
        results = {cell.key: record for cell in selected if (record := self._read(cell.key).record) is not None}
        missing = to_run(selected, results, self._rerun)
        pending = {cell.key for cell in reconsidered(selected, missing, results)}
        with self._store.claims() as claims:
            for cell in selected:
                yield self._explain(cell, cell.key in pending, claims.taken(cell.key))

    def _explain(self, cell: Cell, runs: bool, taken: bool) -> Explanation:
        reading = self._read(cell.key)
        state: str
        if reading.record is not None:
            state, details = reading.record.status, of_record(reading)
            action = f"would be run again, as --rerun {self._rerun} asks" if runs else "would be left as it is"
        elif reading.problem:
            state, details = "damaged", [f"its record is not trusted: {reading.problem}"]
            action = "would be run, and its record replaced"
        else:
            state, details = "missing", list(self._nearest(cell))
            action = "would be run"
        checkpoint = peek(self._store.checkpoint_path(cell.key))
        if checkpoint is not None:
            details.append(f"its training was saved after step {checkpoint.step} of {checkpoint.steps}")
            if runs:
                action += f", from step {checkpoint.step} on if that can be used"
        if taken:
            details.append("another run is at work on it now")
            action = "would be waited for" if runs else action
        return Explanation(cell, state, action, runs, [f"key {cell.key}", *details])

    def _read(self, key: str) -> Reading[CellResult]:
        if key not in self._readings:
            self._readings[key] = self._store.inspect(key)
        return self._readings[key]

    def _nearest(self, cell: Cell) -> Iterator[str]:
        """In what the nearest record differs: one of the same name, or else one that the suite has no more."""
        name = cell.key.rpartition("-")[0]
        alike = [key for key in self._keys if key.rpartition("-")[0] == name]
        others = alike or [key for key in self._keys if key not in self._wanted]
        readings = [(key, self._read(key).record) for key in others]
        now = self._sources(cell) if others else {}
        found = [(differences(record, cell, now), key, record) for key, record in readings if record is not None]
        if not found:
            yield "no record, and none of the same arm, depth and seed" if self._keys else "no records in this folder"
            return
        changes, key, record = min(found, key=lambda entry: (len(entry[0]), entry[1]))
        yield f"no record; the nearest is {key} ({record.status}), from which it differs:"
        yield from (f"  {change}" for change in changes)


def of_record(reading: Reading[CellResult]) -> list[str]:
    """What there is to say of a record that can be used, a line each."""
    record = reading.record
    if record is None:
        return []
    lines = []
    if record.status != "ok":
        lines.append(record.reason or "no reason given")
    if record.log and record.status != "ok":
        lines.append(f"log: {record.log}")
    if record.resumed_from:
        steps = ", ".join(map(str, record.resumed_from))
        lines.append(f"its training went on from step {steps} after its process had ended")
    if reading.schema_version != SCHEMA_VERSION:
        lines.append(f"written in schema {reading.schema_version}, and read as schema {SCHEMA_VERSION}")
    if not reading.sealed:
        lines.append("it has no checksum: whether it was edited can't be seen")
    if reading.written_by and reading.written_by != this_program():
        lines.append(f"written by {reading.written_by}, and this is {this_program()}: not part of what makes it stale")
    return lines


def differences(record: CellResult, cell: Cell, now: Mapping[str, str]) -> list[str]:
    """In what a cell differs from the one of a record, a line each.

    Args:
        record: The record.
        cell: The cell.
        now: The files of the cell's code, by name, with their hashes.
    """
    before, after = _flat(record.cell), _flat(cell)
    changed = [path for path in {**before, **after} if before.get(path, _ABSENT) != after.get(path, _ABSENT)]
    lines = []
    for path in changed:
        if path.endswith(" source"):
            lines.append(f"{path} has changed{_files(record.sources, now)}")
        else:
            lines.append(f"{path}: {before.get(path, _ABSENT)} -> {after.get(path, _ABSENT)}")
    return lines or ["nothing that is recorded"]


def _files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if not before:
        return " (in which of its files is not recorded)"
    changed = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
    return f" ({', '.join(changed)})" if changed else ""


def _flat(cell: Cell) -> dict[str, Any]:
    """What a cell consists of as single values, under the names by which people know them."""
    content = cell.model_dump(mode="json", exclude={"suite", "plugins_dir", "workload", "strategy", "variant"})
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= {f"{name}.{field}": own for field, own in value.items()} if isinstance(value, dict) else {name: value}
    flat |= {f"axis {axis}": value for axis, value in cell.variant.items()}
    flat["strategy"] = ", ".join(member.name for member in cell.strategy)
    for kind, references in (("workload", [cell.workload]), ("strategy", cell.strategy)):
        for reference in references:
            flat |= {f"{kind} '{reference.name}' {field}": value for field, value in reference.fields.items()}
            flat[f"{kind} '{reference.name}' source"] = reference.source
    flat["workload"] = cell.workload.name
    return flat
