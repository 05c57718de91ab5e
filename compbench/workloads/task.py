"""The contract of a task: sequences of token ids, and which id belongs at each position. It knows no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from compbench.records import Batch
from compbench.workloads.base import Data

IGNORED = -100
"""A target that counts for nothing, neither in the loss nor in a metric."""

LookingAhead = Literal["forbidden", "needless", "needed"]
"""Whether an answer may depend on what stands behind its position: never, without use, or it has to."""


class Task(BaseModel, ABC):
    """Sequences of token ids with an answer at each position; the settings are the fields of this pydantic model.

    Batches have ``inputs`` and ``targets``, ``(N, L)``, int64; targets may be :data:`IGNORED`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    looking_ahead: ClassVar[LookingAhead] = "needed"

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of token ids; inputs and targets share them."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """The largest ``L``."""

    def data_files(self) -> Mapping[str, str]:
        """The SHA-256 of each file that the data come from, by a name that is the same everywhere; mostly none."""
        return {}

    @abstractmethod
    def data(self, seed: int) -> Data:
        """Makes training and held-out examples, none in common; the same seed gives the same bytes.

        Raises:
            CompbenchError: they can't be had; the message says what is missing.
        """


def accuracies(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """``token_accuracy``, the share of positions that are right, and ``solved``, 1 where all are.

    Args:
        logits: ``(B, L, V)``.
        targets: ``(B, L)``; ignored positions count for nothing.

    Returns:
        ``(B,)`` each.
    """
    counted = targets != IGNORED
    right = (logits.argmax(dim=-1) == targets) & counted  # (B, L)
    share = right.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return {"token_accuracy": share.float(), "solved": (right | ~counted).all(dim=1).float()}


def apart(train: Tensor, validation: Tensor) -> None:
    """Makes sure that no held-out example was trained on.

    Args:
        train: one row an example, ``(N, ...)``.
        validation: the same, ``(M, ...)``.

    Raises:
        RuntimeError: one was; a mistake of the task's code.
    """
    known = {row.numpy().tobytes() for row in train}
    common = sum(row.numpy().tobytes() in known for row in validation)
    if common:
        raise RuntimeError(f"{common} held-out examples are among those trained on; no result of this data would count")


def batch(inputs: Tensor, targets: Tensor) -> Batch:
    """A batch of token ids, int64."""
    return {"inputs": inputs.to(torch.int64), "targets": targets.to(torch.int64)}
