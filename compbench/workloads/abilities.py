"""What a workload may do beyond the contract of ``base``; one that does none of it need not know of this.

Each ability is a protocol: a workload has it by having its methods. The training loop and the measuring passes ask for
them by ``isinstance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn

from compbench.records import Batch
from compbench.workloads.base import Data


@runtime_checkable
class Carrying(Protocol):
    """Its training steps hand on a state: deep supervision, where a batch is worked on for several optimiser steps.

    A state is a batch too: tensors by name, a row for each example, without a graph. It is saved with a training.
    """

    @property
    def carries(self) -> bool:
        """Whether these settings have a state at all; if not, none of the other methods is called."""

    def enter(self, model: nn.Module, carried: Batch, fresh: Batch) -> Batch:
        """The batch of a step that is not the first.

        Args:
            model: the model.
            carried: what :meth:`leave` of the step before has given.
            fresh: as many new examples.
        """

    def leave(self, output: Any, batch: Batch) -> Batch:
        """What a step hands on, from the output of its batch; called without gradient, before the backward pass."""


@runtime_checkable
class Predicting(Protocol):
    """Its metrics are not those of one forward pass."""

    def predict(self, model: nn.Module, batch: Batch) -> Any:
        """What ``metrics`` gets in evaluations in the place of ``forward``'s output; called without gradient."""


@runtime_checkable
class Verifying(Protocol):
    """It looks at its model and data before the first step, since it can't answer for what they are."""

    def verify(self, model: nn.Module, data: Data) -> None:
        """Checks them.

        Raises:
            CompbenchError: they would not do; the message says what was found and what is expected.
        """


@runtime_checkable
class FromFiles(Protocol):
    """Its data come from files that are no part of its source."""

    def data_files(self) -> Mapping[str, str]:
        """The SHA-256 of each file's bytes, or of the text taken from it, by a name that is the same everywhere."""
