"""What a cell leaves unloaded: torch's compiler, which takes longer to import than a small cell to train.

Torch imports it for an optimiser that is not compiled, and for filling tensors that have no values. Nothing here
changes a number: the same functions run, without what would keep the compiler from following them. A strategy that
compiles loads it itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def _plain(function: Any) -> Any:
    """The function that torch has put a wrapper around; itself in versions that put none."""
    return getattr(function, "__wrapped__", function)


class LeanAdamW(torch.optim.AdamW):
    """AdamW; its methods are torch's own, without the wrappers that import the compiler."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)

    step: Any = torch.no_grad()(_plain(torch.optim.AdamW.step))


class NoMemory(TorchFunctionMode):
    """For building a model whose values nobody needs: what is made on the meta device stays there.

    Parameters that are given no memory take neither its time nor its space, whatever their size.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs a function of torch, but for those that would give memory or values to a tensor that has none."""
        given = dict(kwargs or {})
        first = args[0] if args else given.get("tensor")
        if isinstance(first, Tensor) and first.is_meta:
            if func in _FILLS or getattr(func, "__module__", "") == nn.init.__name__:
                return first
            if func is torch.empty_like and given.keys() == {"device"}:
                return first.detach()
        return func(*args, **given)


_FILLS = {Tensor.normal_, Tensor.uniform_}


class PlainMeta(TorchFunctionMode):
    """Tensors on the meta device are neither filled, since they have no values, nor asked more than their shape.

    For building a model: modules are often made on that device first and then given memory. Torch's own way there goes
    through its symbolic shapes.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs a function of torch; those on tensors without values by what they come down to."""
        given = dict(kwargs or {})
        first = args[0] if args else given.get("tensor")
        if isinstance(first, Tensor) and first.is_meta:
            if func in _FILLS or getattr(func, "__module__", "") == nn.init.__name__:
                return first
            if func is torch.empty_like and given.keys() == {"device"} and first.is_contiguous():
                return torch.empty(first.shape, dtype=first.dtype, device=given["device"])
        return func(*args, **given)
