"""Which operator is running: it tells what a saved tensor's error touches, and where attention must be recomputed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from compbench.capture.attention import can_recompute, recomputed_attention
from compbench.capture.settings import Attention

_CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
# With an activation as the one operand and a weight as the other, what these save of the activation serves the weight's
# gradient alone: the gradient of the activation needs only the weight.
_WITH_WEIGHT = _CONVOLUTIONS | {"linear"}
_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum", "bilinear"})
_CHANNELS_FIRST = _CONVOLUTIONS | {"batch_norm", "instance_norm", "group_norm"}
_ATTENTION = "scaled_dot_product_attention"


class OperatorTracker(TorchFunctionMode):
    """Knows the torch function that is running inside a model, and puts recomputed attention in the place of attention.

    Args:
        attention: what to do with attention; see :class:`CaptureSettings`.
        active: whether the model is running and its saved tensors come to this session.
        is_parameter: whether a tensor is, or is a view of, a parameter or buffer.
    """

    def __init__(
        self, attention: Attention, active: Callable[[], bool], is_parameter: Callable[[Tensor], bool]
    ) -> None:
        super().__init__()
        self._attention = attention
        self._active = active
        self._is_parameter = is_parameter
        self.operator = ""
        self.weight_only = False
        self.raw_reason = ""

    @property
    def channels_first(self) -> bool:
        """Whether the operator that is running takes features in dimension 1."""
        return self.operator in _CHANNELS_FIRST

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" or not self._active() or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        outer = self.operator, self.weight_only, self.raw_reason
        self.operator = name
        self.weight_only = name in _WITH_WEIGHT or (name in _PRODUCTS and self._has_parameter(args))
        try:
            if name == _ATTENTION and self._attention != "literal":
                if self._attention == "recompute" and can_recompute(args, kwargs):
                    return recomputed_attention(*args, **kwargs)
                self.raw_reason = "attention is left raw"
            return func(*args, **kwargs)
        finally:
            self.operator, self.weight_only, self.raw_reason = outer

    def _has_parameter(self, operands: Any) -> bool:
        if isinstance(operands, Tensor):
            return self._is_parameter(operands)
        return isinstance(operands, (tuple, list)) and any(self._has_parameter(operand) for operand in operands)
