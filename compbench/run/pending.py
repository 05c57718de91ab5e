"""The cells that a run is still to start: an executor takes from it, the runner puts back and withdraws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from compbench.suite.cell import Cell

Answer = Literal["ours", "theirs", "done"]
"""Whether a cell is to be run here, is in the hands of another run for now, or has been done by it."""


def _ours(cell: Cell) -> Answer:
    return "ours"


class Pending:
    """Cells in the order in which they are to start.

    Args:
        cells: The cells.
        ask: Is asked of a cell just before it is given away, and claims it if the answer is ``ours``; it may be asked
            again. A cell that is ``theirs`` is passed over, and one that is ``done`` taken out.
    """

    def __init__(self, cells: Iterable[Cell], ask: Callable[[Cell], Answer] = _ours) -> None:
        self._ask = ask
        self._waiting: dict[str, Cell] = {cell.key: cell for cell in cells}
        self._taken: dict[str, Cell] = {}

    def take(self) -> Cell | None:
        """The next cell, which the caller is to run; None when there is none at the moment."""
        key = self._next()
        if key is None:
            return None
        cell = self._taken[key] = self._waiting.pop(key)
        return cell

    def ready(self) -> bool:
        """Whether :meth:`take` would give a cell."""
        return self._next() is not None

    def _next(self) -> str | None:
        for key, cell in list(self._waiting.items()):  # what is learnt by asking may withdraw others
            answer = self._ask(cell) if key in self._waiting else "theirs"
            if answer == "ours":
                return key
            if answer == "done":
                self._waiting.pop(key, None)
        return None

    def wanted(self, cell: Cell) -> bool:
        """Whether a cell that was taken, and has not started, is still to be run."""
        return cell.key in self._taken

    def started(self, cell: Cell) -> None:
        """A cell has started; from now on it can't be withdrawn."""
        self._taken.pop(cell.key, None)

    def put_back(self, cell: Cell) -> None:
        """A cell is to run once more; it is the next to be taken, so that shallow cells still come before deep ones."""
        self._taken.pop(cell.key, None)
        self._waiting = {cell.key: cell, **self._waiting}

    def withdraw(self, unwanted: Callable[[Cell], bool] = lambda cell: True) -> list[Cell]:
        """Takes out cells that have not started; all, or those that are unwanted."""
        found = [cell for cell in (*self._taken.values(), *self._waiting.values()) if unwanted(cell)]
        for cell in found:
            self._taken.pop(cell.key, None)
            self._waiting.pop(cell.key, None)
        return found

    def __iter__(self) -> Iterator[Cell]:
        """The cells that nobody has taken yet."""
        return iter(list(self._waiting.values()))

    def __len__(self) -> int:
        return len(self._waiting)
