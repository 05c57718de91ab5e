"""The step that every pass measures: one forward and backward of a workload's model, in its training's precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compbench.records import Batch
from compbench.workloads.abilities import Predicting
from compbench.workloads.base import Workload
from compbench.workloads.model_state import evaluating


@dataclass(frozen=True)
class Step:
    """A model with its workload, the device it is on and the precision it computes in."""

    workload: Workload
    model: nn.Module
    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"

    def batch(self, data: Batch, rows: Tensor | slice) -> Batch:
        """The examples ``rows`` of ``data`` as tensors of their own, on the device."""
        return {name: values[rows].clone().to(self.device) for name, values in data.items()}

    def output(self, batch: Batch) -> Any:
        """The model's output for a batch, under autocast where the precision is bf16."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            return self.workload.forward(self.model, batch)

    def prediction(self, batch: Batch) -> Any:
        """What metrics are taken of: the output, unless the workload has it otherwise.

        The model is in evaluation mode meanwhile: without dropout, and with BatchNorm's running means.
        """
        with evaluating(self.model):
            if not isinstance(self.workload, Predicting):
                return self.output(batch)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
                return self.workload.predict(self.model, batch)

    def loss(self, batch: Batch, seen: Callable[[Any], None] | None = None) -> Tensor:
        """The scalar loss of a batch, with its graph; ``seen`` is handed the output."""
        output = self.output(batch)
        if seen is not None:
            seen(output)
        return self.workload.loss(output, batch)

    def gradients(self, batch: Batch) -> list[Tensor]:
        """The gradient of every parameter that needs one, zero where the loss does not depend on it."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(self.loss(batch), parameters, materialize_grads=True)
        return list(found)

    def clear_gradients(self) -> None:
        """Frees every gradient, so that the backward pass makes them anew."""
        for parameter in self.model.parameters():
            parameter.grad = None

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
