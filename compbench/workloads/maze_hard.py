"""The task ``maze_hard``: the public mazes of 30x30 that Tiny Recursive Models are published with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from compbench.errors import SettingsError
from compbench.records import Batch
from compbench.workloads.architecture import OnArchitecture
from compbench.workloads.base import Data
from compbench.workloads.maze_files import PADDING, VOCABULARY, Ids, file_hashes, read_split
from compbench.workloads.task import IGNORED, Task, batch


class MazeHardTask(Task):
    """Marks the shortest path through the mazes of a folder, in the form of ``maze_files``."""

    folder: str = Field(description="folder with train/all__inputs.npy and so on, or train.csv and test.csv")
    side: int = Field(30, ge=5, le=200, description="side of the mazes in the files")
    augment: bool = Field(False, description="train on all eight rotations and reflections, the reference's --aug")
    test_mazes: int | None = Field(None, ge=1, description="held-out mazes, the first of the test files; null: all")

    @property
    def vocabulary(self) -> int:
        """The ids of the reference, padding among them."""
        return VOCABULARY

    @property
    def positions(self) -> int:
        """The grid's, row by row."""
        return self.side**2

    def data(self, seed: int) -> Data:
        """Reads the files; the same for every seed.

        Raises:
            SettingsError: they are not there or not what they should be, or held-out mazes are trained on.
        """
        inputs, labels = read_split(Path(self.folder), "train", self.side)
        held_out = [part[: self.test_mazes] for part in read_split(Path(self.folder), "test", self.side)]
        if self.augment:
            inputs, labels = dihedral(inputs, self.side), dihedral(labels, self.side)
        known = {row.tobytes() for row in inputs}
        common = [number for number, row in enumerate(held_out[0]) if row.tobytes() in known]
        if common:
            raise SettingsError(
                f"folder '{self.folder}': {len(common)} mazes of test are in train as well, "
                f"the first in row {common[0]} (expected: none)"
            )
        return Data(train=_batch(inputs, labels), validation=_batch(*held_out))

    def data_files(self) -> Mapping[str, str]:
        """The hashes of the files."""
        return {f"maze_hard/{name}": digest for name, digest in file_hashes(Path(self.folder)).items()}


class MazeHard(OnArchitecture, MazeHardTask):
    """A model of any architecture marks the shortest path through Maze-Hard's mazes, or files of the same form."""

    name: ClassVar[str] = "maze_hard"


def dihedral(grids: Ids, side: int) -> Ids:
    """All rotations and reflections of square grids, ``(N, side * side)`` to ``(8 N, side * side)``."""
    square = grids.reshape(-1, side, side)
    turned = [np.rot90(square, turns, axes=(1, 2)) for turns in range(4)]
    every = [*turned, *(grid.transpose(0, 2, 1) for grid in turned)]
    return np.concatenate([grid.reshape(-1, side * side) for grid in every])


def _batch(inputs: Ids, labels: Ids) -> Batch:
    targets = np.where(labels == PADDING, IGNORED, labels)
    return batch(torch.from_numpy(inputs), torch.from_numpy(targets))
