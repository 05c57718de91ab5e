"""How long the rest of a run will take, judged by the cells that have ended."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from statistics import fmean

from compbench.run.result import CellResult
from compbench.suite.cell import Cell


class Estimator:
    """Expects of a cell what others like it took.

    Args:
        results: Cells that have ended before, on a machine like this one.
    """

    def __init__(self, results: Iterable[CellResult] = ()) -> None:
        self._like: dict[tuple[str, int], list[float]] = {}
        self._depth: dict[int, list[float]] = {}
        self._call: list[float] = []
        for result in results:
            self.add(result)

    def add(self, result: CellResult) -> None:
        """Takes a cell that has ended into account."""
        cell, seconds = result.cell, result.seconds
        self._like.setdefault((cell.label, cell.depth), []).append(seconds)
        if result.status == "ok":  # One that failed early says nothing of other arms.
            self._depth.setdefault(cell.depth, []).append(seconds)
            self._call.append(seconds / cell.depth)

    def seconds(self, cell: Cell) -> float | None:
        """What the cell should take: the mean of its arm at its depth, else of its depth, else by depth."""
        known = self._like.get((cell.label, cell.depth)) or self._depth.get(cell.depth)
        if known:
            return fmean(known)
        return fmean(self._call) * cell.depth if self._call else None

    def remaining(self, pending: Iterable[Cell], running: Iterable[tuple[Cell, float]], slots: int) -> float | None:
        """Seconds until the last cell ends, each slot taking the next one when it is free.

        Args:
            pending: Cells to start, in order.
            running: Cells that run, each with the seconds that it has taken so far.
            slots: Number of slots.

        Returns:
            None as long as there is nothing to judge by.
        """
        free_at = []
        for cell, elapsed in running:
            expected = self.seconds(cell)
            if expected is None:
                return None
            free_at.append(max(0.0, expected - elapsed))
        free_at += [0.0] * (slots - len(free_at))
        heapq.heapify(free_at)
        for cell in pending:
            expected = self.seconds(cell)
            if expected is None:
                return None
            heapq.heapreplace(free_at, free_at[0] + expected)
        return max(free_at)
