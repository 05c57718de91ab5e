"""Which figures of a table are the best of those that can be compared with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from compbench.report.columns import Column
from compbench.report.formats import Place
from compbench.report.rows import Row, ok_results
from compbench.report.verdicts import REFERENCE
from compbench.report.wording import is_there
from compbench.run.result import CellResult

SENTENCE = (
    "bold: the best at the same depth and settings; equal figures share it, and chance has a part in it. "
    f"'{REFERENCE}' does not compete where steps are compared with its own, nor does a row with failed cells anywhere."
)

_MOST_TOGETHER = 3
"""Rows that may share the best even if they are most of all."""


def best_places(rows: Sequence[Row], columns: Sequence[Column]) -> set[Place]:
    """The places of the best figures, by row and column.

    Rows compete if their cells had the same to do, whatever the strategy: the same depths, workloads, trainings and
    devices. What is shown alike is alike. Where all are, where most of many are, or where there is one row alone, none
    is best: it would stand out from nothing.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.status == "ok":
            groups[_tasks(row)].append(place)
    return {
        (row, column)
        for column in range(len(columns))
        for group in groups.values()
        for row in _best([(place, rows[place]) for place in group], columns[column])
    }


def _best(rows: Sequence[tuple[int, Row]], column: Column) -> list[int]:
    quantity = column.quantity
    if quantity is None or column.better is None:
        return []
    ranked = [
        (place, row, value)
        for place, row in rows
        if is_there(value := row.value(column.name)) and not (quantity.against_plain and is_reference_row(row))
    ]
    if len(ranked) < 2:
        return []
    choose = min if column.better == "less" else max
    _, winner, _ = choose(ranked, key=lambda entry: entry[2])
    found = [place for place, row, _ in ranked if column.centre(row) == column.centre(winner)]
    crowd = len(found) > _MOST_TOGETHER and len(found) > len(ranked) / 2
    return found if len(found) < len(ranked) and not crowd else []


def is_reference_row(row: Row) -> bool:
    """Whether all that a row stands for was run without compression."""
    return all([member.name for member in result.cell.strategy] == [REFERENCE] for result in ok_results(row.cells))


def _tasks(row: Row) -> Hashable:
    by_seed = "seed" in row.axes
    return frozenset(_task(result, by_seed) for result in ok_results(row.cells))


def _task(result: CellResult, by_seed: bool) -> Hashable:
    cell = result.cell
    parts = (cell.workload.model_dump_json(), cell.training.model_dump_json(), cell.measuring.allocator, cell.device)
    return (cell.depth, cell.seed if by_seed else None, *parts)
