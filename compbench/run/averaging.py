"""A moving average of a model's weights, beside the weights that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn


class WeightAverage:
    """``average = decay * average + (1 - decay) * weights`` after every step, beginning with the weights at step 0.

    Attributes:
        values: the averages, in the order of the model's parameters that need a gradient.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.values = [parameter.detach().clone() for parameter in self._parameters]

    def update(self) -> None:
        """Takes the weights in."""
        with torch.no_grad():
            for value, parameter in zip(self.values, self._parameters, strict=True):
                value.lerp_(parameter, 1 - self._decay)

    def load(self, values: Sequence[Tensor]) -> None:
        """Goes back to earlier averages."""
        for value, earlier in zip(self.values, values, strict=True):
            value.copy_(earlier)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """The model has the averages as its weights until the context ends; then its own, bit by bit."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        try:
            self._set(self.values)
            yield
        finally:
            self._set(own)

    def _set(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._parameters, values, strict=True):
                parameter.copy_(value)


def weights_of(average: WeightAverage | None) -> AbstractContextManager[None]:
    """The context in which a model has its average as weights; its own where there is no average."""
    return nullcontext() if average is None else average.in_place_of_weights()
