"""What a cell leaves unloaded: torch's compiler, which takes longer to import than a small cell to train.

Torch imports it for an optimiser that is not compiled, and for filling tensors that have no values. Nothing here
changes a number: the same functions run, without what would keep the compiler from following them. A strategy that
compiles loads it itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def _plain(function: Any) -> Any:
    """The function that torch has put a wrapper around; itself in versions that put none."""
    return getattr(function, "__wrapped__", function)


class LeanOptimizer(torch.optim.Optimizer):
    """An optimiser; what it has from torch's base class is without the wrappers that import the compiler."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)


class LeanAdamW(LeanOptimizer, torch.optim.AdamW):
    """AdamW; its methods are torch's own, without those wrappers."""

    step: Any = torch.no_grad()(_plain(torch.optim.AdamW.step))


_FILLS = {Tensor.normal_, Tensor.uniform_}


class _OnMeta(TorchFunctionMode, ABC):
    """For building a model: tensors on the meta device are not filled, since they have no values.

    Modules are often made on that device first and then given memory; a subclass says what becomes of them there.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs a function of torch, but for those that fill a tensor without values or give it memory."""
        given = dict(kwargs or {})
        first = args[0] if args else given.get("tensor")
        if isinstance(first, Tensor) and first.is_meta:
            if func in _FILLS or getattr(func, "__module__", "") == nn.init.__name__:
                return first
            if func is torch.empty_like and given.keys() == {"device"} and first.is_contiguous():
                return self.with_memory(first, given["device"])
        return func(*args, **given)

    @abstractmethod
    def with_memory(self, tensor: Tensor, device: Any) -> Tensor:
        """What comes of a contiguous tensor on the meta device that is to be given memory on another."""


class PlainMeta(_OnMeta):
    """Gives memory by what it comes down to; torch's own way there goes through its symbolic shapes."""

    def with_memory(self, tensor: Tensor, device: Any) -> Tensor:
        """Memory of its size."""
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


class NoMemory(_OnMeta):
    """Gives none, for a model whose values nobody needs: it takes neither time nor space, whatever its size."""

    def with_memory(self, tensor: Tensor, device: Any) -> Tensor:
        """The tensor, where it is."""
        return tensor.detach()
