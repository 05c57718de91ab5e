"""Square mazes whose passages are a random spanning tree, with the one path from start to goal as the answer.

A maze of odd side ``grid`` has ``side = (grid - 1) / 2`` cells in a row, at the odd coordinates of the token grid, and
walls around them. What is drawn at random is which walls between neighbouring cells are open: the edges of a minimum
spanning tree under random weights. In a tree the path between two cells is the only one, hence the shortest. Many mazes
are made at once, as one block-diagonal graph. This module knows neither models nor tensors: purely arrays of token ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from compbench.errors import SettingsError
from compbench.seeds import stream

Integers = NDArray[np.int64]
Grids = NDArray[np.uint8]

SMALLEST_GRID = 5
# Families up to this size are listed whole: drawing until the last few of them turn up would take long.
ENUMERATED = 200_000
# Mazes drawn at once; bounds the working memory.
ROUND = 16_384


class Token(IntEnum):
    """What a position of the grid holds. Inputs have the first four; targets mark the passages of the path as well."""

    WALL = 0
    PASSAGE = 1
    START = 2
    GOAL = 3
    PATH = 4


@dataclass(frozen=True)
class Mazes:
    """Mazes and their answers as token ids.

    Attributes:
        inputs: ``(N, grid, grid)``, uint8.
        targets: the same, with :attr:`Token.PATH` on the passages between start and goal.
    """

    inputs: Grids
    targets: Grids

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen: slice | Integers) -> Mazes:
        return Mazes(self.inputs[chosen], self.targets[chosen])

    def keys(self) -> list[bytes]:
        """What makes each maze itself: the bytes of its input."""
        return [maze.tobytes() for maze in self.inputs]


def generate(grid: int, count: int, seed: int) -> Mazes:
    """Makes ``count`` mazes, no two with the same input; the same seed gives the same bytes.

    Where there are few mazes of this size (at most 200,000), they are all listed and ``count`` of them drawn uniformly.
    Otherwise trees come from random edge weights, which is not quite uniform over trees; repetitions are drawn anew.

    Args:
        grid: side of the token grid, odd and at least 5.
        count: number of mazes.
        seed: any integer.

    Raises:
        SettingsError: there is no such grid, or it has fewer distinct mazes than asked for.
    """
    require(grid, count)
    rng = np.random.Generator(np.random.PCG64(stream(seed, "mazes")))
    lattice = Lattice(side_of(grid))
    if _at_least(lattice.side) <= ENUMERATED and maze_count(grid) <= ENUMERATED:
        everything = lattice.every_maze()
        return everything[rng.permutation(len(everything))[:count]]
    found: list[Mazes] = []
    seen: set[bytes] = set()
    while len(seen) < count:
        drawn = lattice.draw(min(count - len(seen) + 64, ROUND), rng)
        first = {key: i for i, key in reversed(list(enumerate(drawn.keys()))) if key not in seen}
        seen.update(first)
        found.append(drawn[np.sort(np.fromiter(first.values(), dtype=np.int64))])
    inputs = np.concatenate([mazes.inputs for mazes in found])
    return Mazes(inputs[:count], np.concatenate([mazes.targets for mazes in found])[:count])


def require(grid: int, count: int) -> None:
    """Checks that there are ``count`` distinct mazes of this size.

    Raises:
        SettingsError: there is no such grid, or it has fewer distinct mazes than that; the message says how many.
    """
    # The bound comes first since the exact number takes seconds on grids far too large to run out of mazes.
    if count > _at_least(side_of(grid)) and count > maze_count(grid):
        raise SettingsError(
            f"{count:,} distinct mazes were asked for, but a grid of {grid}x{grid} has {maze_count(grid):,}; "
            "ask for fewer, or for a larger grid"
        )


def side_of(grid: int) -> int:
    """Cells in a row of a grid of this side.

    Raises:
        SettingsError: the grid is even or too small.
    """
    if grid < SMALLEST_GRID or grid % 2 == 0:
        raise SettingsError(f"grid {grid} is not the side of a maze (allowed: odd numbers from {SMALLEST_GRID})")
    return (grid - 1) // 2


def maze_count(grid: int) -> int:
    """The number of distinct mazes: spanning trees of the cells times ordered pairs of different cells; exact."""
    cells = side_of(grid) ** 2
    return spanning_tree_count(side_of(grid)) * cells * (cells - 1)


def _at_least(side: int) -> int:
    """A lower bound of the number of mazes: already those where each cell opens up or left number this many."""
    return (1 << (side - 1) ** 2) * side**2 * (side**2 - 1)


@cache
def spanning_tree_count(side: int) -> int:
    """The number of spanning trees of the ``side`` x ``side`` square lattice.

    By Kirchhoff's matrix-tree theorem: the determinant of the graph's Laplacian without one row and column, in exact
    integers by Bareiss' fraction-free elimination.
    """
    lattice = Lattice(side)
    laplacian = [[0] * lattice.cells for _ in range(lattice.cells)]
    for a, b in zip(lattice.tails.tolist(), lattice.heads.tolist(), strict=True):
        laplacian[a][a] += 1
        laplacian[b][b] += 1
        laplacian[a][b] -= 1
        laplacian[b][a] -= 1
    minor: list[list[int]] = [row[1:] for row in laplacian[1:]]
    previous = 1
    for k in range(len(minor) - 1):  # no pivoting: the minor is positive definite, so every leading minor is positive
        for i in range(k + 1, len(minor)):
            for j in range(k + 1, len(minor)):
                minor[i][j] = (minor[i][j] * minor[k][k] - minor[i][k] * minor[k][j]) // previous
        previous = minor[k][k]
    return minor[-1][-1]


class Lattice:
    """The ``side`` x ``side`` cells of a maze and the edges between neighbours, which trees are drawn from.

    Attributes:
        cells: number of cells; cell ``c`` is at row ``c // side`` and column ``c % side``.
        tails: the upper or left cell of each edge, ``(E,)``.
        heads: the other one, ``(E,)``.
    """

    def __init__(self, side: int) -> None:
        self.side, self.cells = side, side * side
        cell = np.arange(self.cells).reshape(side, side)
        self.tails: Integers = np.concatenate([cell[:, :-1].ravel(), cell[:-1].ravel()])
        self.heads: Integers = np.concatenate([cell[:, 1:].ravel(), cell[1:].ravel()])

    def draw(self, count: int, rng: np.random.Generator) -> Mazes:
        """Draws mazes: a tree, a start and another cell as goal, each on its own; may repeat itself."""
        weights = 1.0 - rng.random((count, len(self.tails)))  # in (0, 1]: scipy takes a weight of 0 for a missing edge
        block = np.arange(count)[:, None] * self.cells
        nodes = count * self.cells
        edges = ((block + self.tails).ravel(), (block + self.heads).ravel())
        forest = minimum_spanning_tree(csr_array((weights.ravel(), edges), shape=(nodes, nodes))).tocoo()
        in_tree = np.zeros((count, self.cells, self.cells), dtype=bool)
        tail, head = forest.coords
        in_tree[tail // self.cells, tail % self.cells, head % self.cells] = True
        start = rng.integers(self.cells, size=count)
        goal = rng.integers(self.cells - 1, size=count)
        return self.render(in_tree[:, self.tails, self.heads], start, goal + (goal >= start))

    def every_maze(self) -> Mazes:
        """All mazes of a small lattice in a fixed order: every subset of edges that is a tree, every start and goal."""
        subsets = np.array(list(combinations(range(len(self.tails)), self.cells - 1)))
        trees = np.zeros((len(subsets), len(self.tails)), dtype=bool)
        trees[np.arange(len(subsets))[:, None], subsets] = True
        root = np.zeros(len(trees), dtype=np.int64)
        spans = (self.steps_towards(trees, root) >= 0).all(axis=1)
        start, goal = np.nonzero(~np.eye(self.cells, dtype=bool))
        pairs = len(start)
        return self.render(
            np.repeat(trees[spans], pairs, axis=0), np.tile(start, int(spans.sum())), np.tile(goal, int(spans.sum()))
        )

    def steps_towards(self, trees: NDArray[np.bool_], goal: Integers) -> Integers:
        """The next cell on the way to the goal from every cell of every maze.

        Args:
            trees: which edges are open, ``(N, E)``.
            goal: one cell a maze, ``(N,)``.

        Returns:
            ``(N, cells)``; the goal leads to itself, and cells from which it can't be reached have a negative number.
        """
        count = len(trees)
        maze, edge = np.nonzero(trees)
        tails, heads = maze * self.cells + self.tails[edge], maze * self.cells + self.heads[edge]
        hub = count * self.cells  # one node more, joined to all goals, so that one search serves all mazes
        goals = np.arange(count) * self.cells + goal
        pairs = (np.concatenate([tails, np.full(count, hub)]), np.concatenate([heads, goals]))
        graph = csr_array((np.ones(len(pairs[0]), dtype=np.int8), pairs), shape=(hub + 1, hub + 1))
        _, before = breadth_first_order(graph, hub, directed=False)
        before = before[:hub].astype(np.int64)
        before[goals] = goals
        towards: Integers = before.reshape(count, self.cells) - np.arange(count)[:, None] * self.cells
        return np.where(before.reshape(count, self.cells) < 0, -1, towards)

    def render(self, trees: NDArray[np.bool_], start: Integers, goal: Integers) -> Mazes:
        """Draws token grids, with the path from start to goal in the targets.

        Args:
            trees: which edges are open, ``(N, E)``, a spanning tree in each row.
            start: one cell a maze, ``(N,)``.
            goal: another one, ``(N,)``.
        """
        count, grid = len(trees), 2 * self.side + 1
        every = np.arange(count)
        inputs = np.full((count, grid, grid), Token.WALL, dtype=np.uint8)
        inputs[:, 1::2, 1::2] = Token.PASSAGE
        maze, edge = np.nonzero(trees)
        inputs[maze, *self._opening(self.tails[edge], self.heads[edge])] = Token.PASSAGE
        targets = inputs.copy()
        towards = self.steps_towards(trees, goal)
        here = start
        while (here != goal).any():  # mazes whose path has ended stay at their goal, where marking is undone below
            there = towards[every, here]
            moving = here != there
            targets[every[moving], *self._opening(here[moving], there[moving])] = Token.PATH
            targets[every, *self._opening(there, there)] = Token.PATH
            here = there
        for tokens in (inputs, targets):
            tokens[every, *self._opening(start, start)] = Token.START
            tokens[every, *self._opening(goal, goal)] = Token.GOAL
        return Mazes(inputs, targets)

    def _opening(self, a: Integers, b: Integers) -> tuple[Integers, Integers]:
        """Row and column of the token between two neighbouring cells; of the cell itself, when they are the same."""
        return a // self.side + b // self.side + 1, a % self.side + b % self.side + 1
