"""The axes of results: what cells differ in, by which rows are grouped and chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compbench.errors import SettingsError, unknown
from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.wording import NOT_AVAILABLE
from compbench.suite.cell import Cell

Axes = Mapping[str, Any]
"""The values of a cell, or of a row, by axis."""

OWN = ("arm", "depth", "seed")
"""The axes that every cell has, also one that has not been run."""


def cell_axes(outcome: Outcome) -> dict[str, Axes]:
    """The axes of every planned cell, by its key.

    ``arm``, ``depth``, ``seed``, the further axes of the matrix, ``workload`` (its name), ``device``, and every setting
    of workload, training and capture by its name. Of a cell that has not been run they are those of another one of its
    arm and further axes; where there is none, only :data:`OWN` are known.
    """
    siblings = {cell.arm: cell.result.cell for cell in outcome.cells if cell.result}
    return {cell.key: _axes(cell, siblings.get(cell.arm)) for cell in outcome.cells}


def known_axes(axes: Mapping[str, Axes]) -> list[str]:
    """The names of all axes that some cell has, in order of appearance."""
    return list(dict.fromkeys([*OWN, *(name for found in axes.values() for name in found)]))


def check_axes(names: Sequence[str], axes: Mapping[str, Axes], option: str) -> None:
    """Whether there are axes of these names.

    Raises:
        SettingsError: there is none, or it is named twice.
    """
    for place, name in enumerate(names):
        if name not in known_axes(axes):
            raise SettingsError(f"{option}: {unknown('axis', name, known_axes(axes))}")
        if name in names[:place]:
            raise SettingsError(f"{option}: axis '{name}' is given twice")


def grouped(
    outcome: Outcome, by: Sequence[str], cells: Sequence[PlannedCell]
) -> list[tuple[Axes, tuple[PlannedCell, ...]]]:
    """The cells of each combination of values: arms in the suite's order, numbers ascending, others as they occur.

    Cells of which an axis is not known, since nothing of their kind has been run, are in none.

    Args:
        outcome: the suite's results.
        by: the axes.
        cells: those of the suite's cells that are grouped.
    """
    axes = cell_axes(outcome)
    groups: dict[tuple[str, ...], list[PlannedCell]] = {}
    values: dict[str, dict[str, Any]] = {name: {} for name in by}
    for cell in cells:
        found = axes[cell.key]
        if cell.result is None and "workload" not in found and not set(by) <= set(OWN):
            continue
        for name in by:
            values[name][shown(found.get(name))] = found.get(name)
        groups.setdefault(tuple(shown(found.get(name)) for name in by), []).append(cell)
    ranks = {name: _ranks(values[name]) for name in by}
    ordered = sorted(groups, key=lambda group: [ranks[name][text] for name, text in zip(by, group, strict=True)])
    return [
        ({name: values[name][text] for name, text in zip(by, group, strict=True)}, tuple(groups[group]))
        for group in ordered
    ]


def shown(value: object) -> str:
    """An axis' value as labels and ``--only`` have it; ``-`` where a cell has no such axis."""
    return NOT_AVAILABLE if value is None else str(value)


def _axes(cell: PlannedCell, sibling: Cell | None) -> Axes:
    known = cell.result.cell if cell.result else sibling
    if known is None:
        return {"arm": cell.arm, "depth": cell.depth, "seed": cell.seed}
    return {**_settings(known), **known.variant, "arm": known.arm, "depth": cell.depth, "seed": cell.seed}


def _settings(cell: Cell) -> dict[str, Any]:
    """The settings of a cell; a workload's own do not hide what is everybody's."""
    return {
        **cell.workload.fields,
        **cell.training.model_dump(mode="json"),
        **cell.capture.model_dump(mode="json"),
        "allocator": cell.measuring.allocator,
        "device": cell.device,
        "workload": cell.workload.name,
    }


def _ranks(values: Mapping[str, Any]) -> dict[str, float]:
    """The places of some values, by their text; a missing one comes first."""
    there = {text: value for text, value in values.items() if value is not None}
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there.values()):
        return {text: float("-inf") if value is None else float(value) for text, value in values.items()}
    return {text: float(place) for place, text in enumerate(sorted(values, key=lambda text: values[text] is not None))}
