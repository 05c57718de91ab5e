"""The workloads that ship beside ``trm_maze``: every task on every architecture."""

from __future__ import annotations

from collections.abc import Iterable

from compbench.hookspecs import hookimpl
from compbench.workloads.base import Workload
from compbench.workloads.maze_hard import MazeHard
from compbench.workloads.maze_task import Mazes
from compbench.workloads.sequences import Addition, Parity
from compbench.workloads.sudoku import Sudoku
from compbench.workloads.text import Text


@hookimpl
def compbench_workloads() -> Iterable[type[Workload]]:
    """Registers the workloads."""
    return [Mazes, MazeHard, Sudoku, Parity, Addition, Text]
