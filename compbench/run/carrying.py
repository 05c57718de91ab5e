"""What one training step hands on to the next, for workloads whose steps do."""

from __future__ import annotations

from typing import Any, Self

import torch

from compbench.measure.step import Step
from compbench.records import Batch
from compbench.workloads.abilities import Carrying


class Carried:
    """The state between two steps of a training.

    Attributes:
        state: tensors by name, a row for each example; None before the first step.
    """

    def __init__(self, step: Step, workload: Carrying) -> None:
        self._step, self._workload = step, workload
        self.state: Batch | None = None

    @classmethod
    def of(cls, step: Step) -> Self | None:
        """The state of a workload's training; None where steps hand on nothing."""
        workload = step.workload
        return cls(step, workload) if isinstance(workload, Carrying) and workload.carries else None

    def enter(self, fresh: Batch) -> Batch:
        """The batch of the next step."""
        if self.state is None:
            return fresh
        with torch.no_grad():
            carried = {name: values.to(self._step.device) for name, values in self.state.items()}
            return self._workload.enter(self._step.model, carried, fresh)

    def leave(self, output: Any, batch: Batch) -> None:
        """Takes what a step hands on."""
        with torch.no_grad():
            self.state = self._workload.leave(output, batch)
