"""What follows from how a cell has ended: it is run once more, deeper ones are not run at all, or nothing more is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from compbench.run.result import CellResult, Status
from compbench.suite.cell import Cell

MOST_LOSSES = 10
"""How often the node of one cell may be lost before the cell is taken to be the cause."""

FAIL_FAST: frozenset[Status] = frozenset({"oom", "timeout", "crashed", "failed", "diverged"})
"""What ends a run with ``--fail-fast``: what nobody expected, unlike ``unsupported`` and ``skipped``."""


class Attempts:
    """Counts how often each cell was run in this run.

    Args:
        retries: How many more times a cell is run that has crashed. An OOM is a result, and so is a timeout.
    """

    def __init__(self, retries: int = 0) -> None:
        self._retries = retries
        self._ended: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    def count(self, result: CellResult) -> CellResult:
        """The record of an attempt that has ended, with the number of it."""
        self._ended[result.key] += 1
        return result.model_copy(update={"attempts": self._ended[result.key]})

    def again(self, result: CellResult) -> bool:
        """Whether the cell is to be run once more, and the record not to be kept."""
        return result.status == "crashed" and result.attempts <= self._retries

    def lost(self, cell: Cell) -> int:
        """Counts a node that was lost with the cell on it; tells how many were."""
        self._lost[cell.key] += 1
        return self._lost[cell.key]


def is_deeper(cell: Cell, than: Cell) -> bool:
    """Whether a cell is another one's but for its greater depth: it needs at least as much memory."""
    return cell.depth > than.depth and _line(cell) == _line(than)


def doomed(
    cells: Iterable[Cell], results: Mapping[str, CellResult], pending: Collection[str] = ()
) -> dict[str, CellResult]:
    """The records of the cells that are not worth running, since a shallower one ran out of memory.

    Args:
        cells: The cells to judge.
        results: Records by key.
        pending: Keys of cells whose records don't count, since they are run again.
    """
    lowest: dict[tuple[str, ...], CellResult] = {}
    for result in results.values():
        if result.status == "oom" and result.key not in pending:
            line = _line(result.cell)
            if line not in lowest or result.cell.depth < lowest[line].cell.depth:
                lowest[line] = result
    found = {}
    for cell in cells:
        cause = lowest.get(_line(cell))
        if cause is not None and cause.cell.depth < cell.depth:
            found[cell.key] = skipped(cell, cause)
    return found


def reconsidered(
    selected: Sequence[Cell], pending: Sequence[Cell], results: Mapping[str, CellResult], skip: bool = True
) -> list[Cell]:
    """The cells to run, in the suite's order: those pending, and those skipped for a reason that no longer holds.

    The reason is gone when no shallower cell is out of memory, when those that are will be run again themselves, or
    when nothing is to be skipped.
    """
    wanted = {cell.key for cell in pending}
    skips = [cell for cell in selected if cell.key in results and results[cell.key].status == "skipped"]
    still = doomed(skips, results, wanted) if skip else {}
    wanted |= {cell.key for cell in skips if cell.key not in still}
    return [cell for cell in selected if cell.key in wanted]


def skipped(cell: Cell, cause: CellResult) -> CellResult:
    """The record of a cell that is not run, since a shallower one ran out of memory."""
    return CellResult(
        key=cell.key,
        cell=cell,
        status="skipped",
        reason=f"skipped: OOM at depth {cause.cell.depth}",
        machine=cause.machine,
    )


def interleaved(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in the order in which they are started: seeds and depths as they stand, the arms of each in turn.

    Within one seed and depth all arms follow one another, so that a machine that slows down slows all of them. Which
    comes first moves on by one from each such group to the next: over a run every arm is first, second and last about
    equally often, and with several slots none is always on the same one.
    """
    groups: dict[tuple[int, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.seed, cell.depth), []).append(cell)
    ordered: list[Cell] = []
    for turn, group in enumerate(groups.values()):
        first = turn % len(group)
        ordered += group[first:] + group[:first]
    return ordered


def _line(cell: Cell) -> tuple[str, ...]:
    return cell.arm, str(cell.seed), *(f"{axis}={value}" for axis, value in sorted(cell.variant.items()))
