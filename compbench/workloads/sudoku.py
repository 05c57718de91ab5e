"""The task ``sudoku``: puzzles with one solution each, made from scratch and checked.

A full grid is drawn by a search that tries digits in random order. Digits are then taken away, cell by cell in random
order, each only if the grid cannot be completed with another digit in its place: so the solution stays the only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from compbench.errors import SettingsError
from compbench.seeds import stream
from compbench.workloads.architecture import OnArchitecture
from compbench.workloads.base import Data
from compbench.workloads.task import Task, apart, batch

FEWEST_CLUES = {2: 4, 3: 23}
"""By box: what digging at random reaches. Puzzles of 9x9 with fewer (17 is the least there is) are rare finds."""

ATTEMPTS = 100
"""How many grids in a row may yield nothing new before there are taken to be too few."""

Cells = list[int]


class SudokuTask(Task):
    """Fills in sudokus; the fewer ``clues``, the harder.

    Token 0 is an empty cell, the others are digits; targets have the digits of all cells.
    """

    box: Literal[2, 3] = Field(3, description="side of a box: 3 for grids of 9x9, 2 for 4x4")
    clues: int = Field(32, ge=4, le=80, description="cells that are given")
    train_puzzles: int = Field(1000, ge=1, le=1_000_000, description="distinct puzzles to train on")
    validation_puzzles: int = Field(200, ge=1, le=100_000, description="held-out puzzles, distinct up to digits' names")
    relabellings: int = Field(1, ge=1, le=1000, description="copies of each training puzzle, digits renamed at random")

    @model_validator(mode="after")
    def _clues_are_few_and_enough(self) -> Self:
        fewest, most = FEWEST_CLUES[self.box], self.box**4 - 1
        if not fewest <= self.clues <= most:
            raise ValueError(f"clues is {self.clues} with box {self.box} (allowed: {fewest} to {most})")
        return self

    @property
    def vocabulary(self) -> int:
        """The digits and the empty cell."""
        return self.box**2 + 1

    @property
    def positions(self) -> int:
        """The grid's, row by row."""
        return self.box**4

    def data(self, seed: int) -> Data:
        """Makes puzzles; no held-out one is a training puzzle with its digits renamed.

        Raises:
            SettingsError: there are not as many.
        """
        rng = np.random.Generator(np.random.PCG64(stream(seed, "sudoku")))
        puzzles, solutions = generate(self.box, self.clues, self.train_puzzles + self.validation_puzzles, rng)
        first, rest = slice(self.train_puzzles), slice(self.train_puzzles, None)
        inputs, targets = [puzzles[first]], [solutions[first]]
        for _ in range(self.relabellings - 1):
            renamed = np.array([[0, *(rng.permutation(self.box**2) + 1)] for _ in range(self.train_puzzles)])
            inputs.append(np.take_along_axis(renamed, puzzles[first], axis=1))
            targets.append(np.take_along_axis(renamed, solutions[first], axis=1))
        train, validation = torch.from_numpy(np.concatenate(inputs)), torch.from_numpy(puzzles[rest])
        apart(train, validation)
        return Data(
            train=batch(train, torch.from_numpy(np.concatenate(targets))),
            validation=batch(validation, torch.from_numpy(solutions[rest])),
        )


class Sudoku(OnArchitecture, SudokuTask):
    """A model of any architecture fills in sudokus."""

    name: ClassVar[str] = "sudoku"


def generate(box: int, clues: int, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Makes puzzles, no two of which are the same with digits renamed.

    Returns:
        Puzzles and their solutions, ``(count, box**4)`` each; 0 is an empty cell.

    Raises:
        SettingsError: there are not as many, as far as drawing them tells.
    """
    found: dict[bytes, tuple[Cells, Cells]] = {}
    failures = 0
    while len(found) < count:
        solution = solve([0] * box**4, box, rng)
        puzzle = None if solution is None else dig(solution, box, clues, rng)
        key = b"" if puzzle is None else bytes(first_come(puzzle))
        if puzzle is None or solution is None or key in found:
            failures += 1
            if failures >= ATTEMPTS:
                raise SettingsError(
                    f"{count:,} different sudokus of {clues} clues were asked for, and after {len(found):,} of them "
                    f"{ATTEMPTS} attempts in a row gave no other; ask for fewer, or for more clues"
                )
            continue
        failures = 0
        found[key] = puzzle, solution
    puzzles, solutions = zip(*found.values(), strict=True)
    return np.array(puzzles, dtype=np.int64), np.array(solutions, dtype=np.int64)


def dig(solution: Cells, box: int, clues: int, rng: np.random.Generator) -> Cells | None:
    """Takes digits away until as many as ``clues`` are left; None if the solution would not be the only one."""
    puzzle, left = list(solution), len(solution)
    for cell in rng.permutation(len(solution)).tolist():
        if left == clues:
            return puzzle
        puzzle[cell] = 0
        if solve(puzzle, box, forbidden=(cell, solution[cell])) is None:
            left -= 1
        else:
            puzzle[cell] = solution[cell]
    return puzzle if left == clues else None


def solve(
    puzzle: Sequence[int], box: int, rng: np.random.Generator | None = None, forbidden: tuple[int, int] | None = None
) -> Cells | None:
    """A completed grid, the first that is found; None if there is none.

    Args:
        puzzle: digits from 1, and 0 for empty cells, row by row.
        box: side of a box.
        rng: the order in which digits are tried; None: ascending.
        forbidden: a cell and a digit that must not be in it.
    """
    units = _units(box)
    everything = (1 << box * box) - 1
    used = [0] * (3 * box * box)
    grid = list(puzzle)
    for cell, digit in enumerate(grid):
        if digit:
            bit = 1 << digit - 1
            for unit in units[cell]:
                if used[unit] & bit:
                    return None
                used[unit] |= bit

    def candidates(cell: int) -> int:
        row, column, square = units[cell]
        free = everything & ~(used[row] | used[column] | used[square])
        return free & ~(1 << forbidden[1] - 1) if forbidden is not None and forbidden[0] == cell else free

    def search(empty: list[int]) -> bool:
        if not empty:
            return True
        # The cell that can take the fewest digits: what can't be completed is found out soonest.
        chosen, free, fewest = -1, 0, box * box + 1
        for cell in empty:
            here = candidates(cell)
            size = here.bit_count()
            if size < fewest:
                chosen, free, fewest = cell, here, size
                if size <= 1:
                    break
        digits = [digit for digit in range(1, box * box + 1) if free >> digit - 1 & 1]
        if rng is not None:
            digits = rng.permutation(digits).tolist()
        rest = [cell for cell in empty if cell != chosen]
        for digit in digits:
            bit = 1 << digit - 1
            for unit in units[chosen]:
                used[unit] |= bit
            grid[chosen] = digit
            if search(rest):
                return True
            for unit in units[chosen]:
                used[unit] &= ~bit
        grid[chosen] = 0
        return False

    return grid if search([cell for cell, digit in enumerate(grid) if not digit]) else None


def first_come(puzzle: Sequence[int]) -> Cells:
    """The puzzle with its digits renamed in the order in which they come: the same for all renamings of it."""
    names = {0: 0}
    return [names.setdefault(digit, len(names)) for digit in puzzle]


@cache
def _units(box: int) -> tuple[tuple[int, int, int], ...]:
    """Row, column and box of every cell, numbered one after the other."""
    side = box * box
    cells = ((cell // side, cell % side) for cell in range(side * side))
    return tuple((row, side + column, 2 * side + row // box * box + column // box) for row, column in cells)
