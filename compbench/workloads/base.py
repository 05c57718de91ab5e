"""The contract of a workload: a model, data, a loss and metrics. It knows nothing of compression."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compbench.records import Batch


@dataclass(frozen=True)
class Data:
    """Training and held-out examples as whole tensors; the two have no example in common."""

    train: Batch
    validation: Batch


class Workload(BaseModel, ABC):
    """A model, its data, a loss and metrics; the settings are the fields of this pydantic model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    """The name that suites use."""

    @abstractmethod
    def at_depth(self, depth: int) -> Self:
        """This workload with ``depth`` recursion calls that carry gradient.

        Raises:
            SettingsError: there is no such depth; the message says which there are.
        """

    @abstractmethod
    def build(self, generator: torch.Generator) -> nn.Module:
        """Makes the model on CPU; every random number of its initialisation comes from ``generator``."""

    @abstractmethod
    def data(self, seed: int) -> Data:
        """Makes the data; the same seed gives the same bytes."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The model's output for a batch."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> Tensor:
        """The scalar loss that is minimised."""

    @abstractmethod
    def metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Figures of merit by name, one value an example, ``(B,)``; the runner takes their mean over a split."""

    def recurrent_modules(self, model: nn.Module) -> list[str]:
        """Paths of the modules that run once a recursion call; empty where nothing recurs."""
        return []
