"""A model and a batch without values: fake tensors in the place of parameters, buffers and examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from compbench.records import Batch

NEEDS_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
"""What fake tensors raise where their values would be needed."""


@contextmanager
def without_values(model: nn.Module, batch: Batch) -> Iterator[Batch]:
    """Takes the values from a model's parameters and buffers, and in the end puts them back; gives a batch without."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    states = [_State(module) for module in model.modules()]
    made: dict[int, Tensor] = {}
    try:
        for state in states:
            # The same tensor for the same parameter, so that tied weights stay tied.
            state.replace(partial(_without_value, mode, made))
        with mode:
            yield {name: mode.from_tensor(examples) for name, examples in batch.items()}
    finally:
        for state in states:
            state.restore()


def _without_value(mode: FakeTensorMode, made: dict[int, Tensor], tensor: Tensor) -> Tensor:
    """A fake tensor on the CPU for a parameter or buffer; one on the meta device has no memory to begin with."""
    if not tensor.is_meta:
        return mode.from_tensor(tensor)
    if id(tensor) not in made:
        with mode:
            plain = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        is_parameter = isinstance(tensor, nn.Parameter)
        made[id(tensor)] = nn.Parameter(plain, tensor.requires_grad) if is_parameter else plain
    return made[id(tensor)]


class _State:
    """What a module itself holds: attributes, in which it may cache tensors when it runs, parameters and buffers."""

    def __init__(self, module: nn.Module) -> None:
        self._held: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (held, dict(held)) for held in (vars(module), module._parameters, module._buffers)
        ]

    def replace(self, replacement: Callable[[Tensor], Tensor]) -> None:
        """Puts others in the place of parameters and buffers."""
        for held, _ in self._held[1:]:
            held.update({name: replacement(tensor) for name, tensor in held.items() if tensor is not None})

    def restore(self) -> None:
        """Makes everything what it was."""
        for held, before in self._held:
            held.clear()
            held.update(before)
