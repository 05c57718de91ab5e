"""Mazes against plain searches in Python, counts known from the literature, and each other."""

import hashlib
import time
from collections import deque

import numpy as np
import pytest

from compbench.errors import SettingsError
from compbench.workloads import mazes
from compbench.workloads.mazes import Token

GRIDS = [5, 7, 9, 11, 17]


def open_neighbours(grid, row, column):
    for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
        if grid[r][c] != Token.WALL:
            yield r, c


def distances_from(grid, origin):
    """Breadth-first search over single tokens, which knows nothing of cells or edges."""
    distance, queue = {origin: 0}, deque([origin])
    while queue:
        here = queue.popleft()
        for there in open_neighbours(grid, *here):
            if there not in distance:
                distance[there] = distance[here] + 1
                queue.append(there)
    return distance


def positions(grid, *tokens):
    return [(r, c) for r, row in enumerate(grid) for c, token in enumerate(row) if token in tokens]


@pytest.fixture(params=GRIDS, scope="module")
def made(request):
    return mazes.generate(request.param, 48 if request.param == 5 else 150, seed=3)


def test_passages_are_a_spanning_tree_of_the_cells(made):
    for maze in made.inputs.tolist():
        side = (len(maze) - 1) // 2
        passages = positions(maze, Token.PASSAGE, Token.START, Token.GOAL)
        cells = {(r, c) for r, c in passages if r % 2 and c % 2}
        openings = set(passages) - cells
        assert len(cells) == side * side
        assert len(openings) == len(cells) - 1
        assert all(r % 2 or c % 2 for r, c in openings), "an opening where four walls meet joins no cells"
        assert set(distances_from(maze, passages[0])) == set(passages)


def test_walls_surround_every_maze(made):
    for border in (made.inputs[:, 0], made.inputs[:, -1], made.inputs[:, :, 0], made.inputs[:, :, -1]):
        assert (border == Token.WALL).all()


def test_start_and_goal_are_two_cells(made):
    for maze in made.inputs.tolist():
        (start,), (goal,) = positions(maze, Token.START), positions(maze, Token.GOAL)
        assert start != goal
        assert all(coordinate % 2 for coordinate in start + goal)


def test_targets_mark_exactly_the_unique_shortest_path(made):
    for maze, answer in zip(made.inputs.tolist(), made.targets.tolist(), strict=True):
        (start,), (goal,) = positions(maze, Token.START), positions(maze, Token.GOAL)
        from_start, from_goal = distances_from(maze, start), distances_from(maze, goal)
        shortest = from_start[goal]
        on_a_shortest_path = {here for here, steps in from_start.items() if steps + from_goal[here] == shortest}
        assert len(on_a_shortest_path) == shortest + 1, "more than one shortest path"
        assert set(positions(answer, Token.PATH)) == on_a_shortest_path - {start, goal}


def test_targets_are_the_inputs_but_for_the_path(made):
    differs = made.inputs != made.targets
    assert (made.inputs[differs] == Token.PASSAGE).all()
    assert (made.targets[differs] == Token.PATH).all()
    assert differs.any(axis=(1, 2)).all(), "cells are two tokens apart, so every path passes an opening"


def test_no_two_mazes_have_the_same_input(made):
    assert len({maze.tobytes() for maze in made.inputs}) == len(made)


@pytest.mark.parametrize("grid", [7, 9])
def test_the_seed_alone_decides_the_bytes(grid):
    first, again, other = (mazes.generate(grid, 200, seed) for seed in (5, 5, 6))
    assert first.inputs.tobytes() == again.inputs.tobytes()
    assert first.targets.tobytes() == again.targets.tobytes()
    assert first.inputs.tobytes() != other.inputs.tobytes()


def test_bytes_are_those_of_every_earlier_version():
    made = mazes.generate(11, 500, seed=0)
    digest = hashlib.sha256(made.inputs.tobytes() + made.targets.tobytes()).hexdigest()
    assert digest == "4cc82f2f9c56918d1475207d8002f492725ce51a3292f5d17f169969f02818aa", (
        "results of one seed would no longer be comparable: published ones must be made anew"
    )


@pytest.mark.parametrize(("side", "trees"), [(2, 4), (3, 192), (4, 100_352), (5, 557_568_000)])
def test_spanning_trees_are_counted_exactly(side, trees):
    assert mazes.spanning_tree_count(side) == trees  # OEIS A007341


@pytest.mark.parametrize(("grid", "count"), [(5, 48), (7, 13_824)])
def test_a_small_family_is_had_whole(grid, count):
    made = mazes.generate(grid, count, seed=1)
    assert mazes.maze_count(grid) == count
    assert len({maze.tobytes() for maze in made.inputs}) == len(made) == count


def test_what_is_drawn_lies_in_the_family_that_is_listed():
    everything = set(mazes.Lattice(3).every_maze().keys())
    drawn = mazes.Lattice(3).draw(500, np.random.default_rng(0))
    assert set(drawn.keys()) <= everything


def test_drawing_reaches_every_maze_of_a_small_family():
    drawn = mazes.Lattice(2).draw(2000, np.random.default_rng(0))
    assert set(drawn.keys()) == set(mazes.Lattice(2).every_maze().keys())


def test_repetitions_are_drawn_anew(monkeypatch):
    monkeypatch.setattr(mazes, "ENUMERATED", 0)
    made = mazes.generate(5, 48, seed=0)
    assert set(made.keys()) == set(mazes.Lattice(2).every_maze().keys())
    assert len(made) == 48


@pytest.mark.parametrize(
    ("grid", "asked", "there_are"), [(5, 49, "48"), (7, 14_000, "13,824"), (9, 10**8, "24,084,480")]
)
def test_asking_for_more_mazes_than_there_are_says_how_many_there_are(grid, asked, there_are):
    with pytest.raises(SettingsError, match=f"{asked:,} distinct mazes .* {grid}x{grid} has {there_are};"):
        mazes.generate(grid, asked, seed=0)


@pytest.mark.parametrize("side", [2, 3, 4, 5, 6])
def test_the_quick_bound_never_exceeds_the_count(side):
    assert mazes._at_least(side) <= mazes.maze_count(2 * side + 1)


@pytest.mark.parametrize("grid", [-7, 0, 3, 4, 10])
def test_a_grid_that_is_even_or_too_small_is_refused(grid):
    with pytest.raises(SettingsError, match=f"grid {grid} .*odd numbers from 5"):
        mazes.generate(grid, 1, seed=0)


def test_ten_thousand_mazes_take_less_than_five_seconds():
    started = time.process_time()
    assert len(mazes.generate(11, 10_000, seed=0)) == 10_000
    assert time.process_time() - started < 5
