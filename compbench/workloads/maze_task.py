"""The task ``mazes``: the mazes of ``trm_maze``, to be run on any architecture."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator

from compbench.errors import SettingsError
from compbench.workloads import mazes
from compbench.workloads.architecture import OnArchitecture
from compbench.workloads.base import Data
from compbench.workloads.task import Task, apart, batch


class MazeTask(Task):
    """Marks the unique path through mazes; difficulty grows with ``grid``."""

    grid: int = Field(11, ge=5, le=99, description="side of the square maze in tokens, odd")
    train_mazes: int = Field(9000, ge=1, le=1_000_000, description="distinct mazes to train on")
    validation_mazes: int = Field(1000, ge=1, le=1_000_000, description="held-out mazes, distinct and never trained on")

    @model_validator(mode="after")
    def _mazes_exist(self) -> Self:
        try:
            mazes.require(self.grid, self.train_mazes + self.validation_mazes)
        except SettingsError as error:  # pydantic gathers ValueErrors
            raise ValueError(str(error)) from error
        return self

    @property
    def vocabulary(self) -> int:
        """What a position can hold."""
        return len(mazes.Token)

    @property
    def positions(self) -> int:
        """The grid's."""
        return self.grid**2

    def data(self, seed: int) -> Data:
        """Makes training and held-out mazes, those of ``trm_maze`` for the same seed."""
        made = mazes.generate(self.grid, self.train_mazes + self.validation_mazes, seed)
        inputs, targets = (torch.from_numpy(grids).flatten(1) for grids in (made.inputs, made.targets))
        apart(inputs[: self.train_mazes], inputs[self.train_mazes :])
        return Data(
            train=batch(inputs[: self.train_mazes], targets[: self.train_mazes]),
            validation=batch(inputs[self.train_mazes :], targets[self.train_mazes :]),
        )


class Mazes(OnArchitecture, MazeTask):
    """A model of any architecture marks the unique path through mazes."""

    name: ClassVar[str] = "mazes"
