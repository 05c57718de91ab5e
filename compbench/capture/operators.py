"""Which operator is running: it tells what a saved tensor's error touches, and where attention must be recomputed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from compbench.capture.attention import can_recompute, recomputed_attention
from compbench.capture.functions import scale_and_shift
from compbench.capture.recompute import Recomputer
from compbench.capture.route import ACTIVATIONS, NORMS, ROUTED, Route
from compbench.capture.settings import Attention
from compbench.capture.special import describe_special
from compbench.capture.weights import Weights

_CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
# With an activation as the one operand and a weight as the other, what these save of the activation serves the weight's
# gradient alone: the gradient of the activation needs only the weight. The weight is their second operand.
_WITH_WEIGHT = _CONVOLUTIONS | {"linear"}
_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "bmm"})
_CHANNELS_FIRST = _CONVOLUTIONS | {"batch_norm", "instance_norm", "group_norm"}
_ATTENTION = "scaled_dot_product_attention"
_MULTI_HEAD = "multi_head_attention_forward"
_KNOWN = _WITH_WEIGHT | _PRODUCTS | _CHANNELS_FIRST | ROUTED | ACTIVATIONS | {_ATTENTION, _MULTI_HEAD}
"""Operators of which something is to be known; during all others the attributes stay as they are at rest."""


class OperatorTracker(TorchFunctionMode):
    """Knows the torch function that is running inside a model, and puts recomputed attention in the place of attention.

    Args:
        attention: what to do with attention; see :class:`CaptureSettings`.
        active: whether the model is running and its saved tensors come to this session.
        weights: tells weights from activations.

    Attributes:
        weight_only: whether what the running operator saves of an activation serves a weight's gradient alone.
        channels_first: whether it takes features in dimension 1.
        raw_reason: why what it saves must be left raw; empty where it need not.
        recomputer: notes how operators' outputs are computed, if any of it is to be recomputed.
        route: runs operators as the session's own functions, if any are to.
        finished: called with what an operator gave, the operator and its arguments, if anybody wants to know.
    """

    def __init__(self, attention: Attention, active: Callable[[], bool], weights: Weights) -> None:
        super().__init__()
        self._attention = attention
        self._active = active
        self._weights = weights
        self._weight: Tensor | None = None
        self.weight_only = False
        self.channels_first = False
        self.raw_reason = ""
        self.finished: Callable[[Any, Callable[..., Any], Any, Mapping[str, Any]], None] | None = None
        self.recomputer: Recomputer | None = None
        self.route: Route | None = None

    def takes_as_weight(self, tensor: Tensor) -> bool:
        """Whether the operator that is running takes the tensor as its weight, be that a parameter or computed."""
        weight = self._weight
        if weight is None or describe_special(weight):
            return False
        if weight.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            return True
        # Autocast's copy of a weight that was computed: nothing but its shape tells.
        cast = weight.dtype != tensor.dtype and not self._weights.holds(weight)
        return cast and tensor.shape in (weight.shape, weight.shape[::-1])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not torch.is_grad_enabled() or not self._active():
            return func(*args, **kwargs) if kwargs else func(*args)
        name = getattr(func, "__name__", "")
        if name in NORMS and self.route is not None:
            parted = self.route.without_scale(name, args, kwargs or {})
            if parted is not None:
                rest, weight, bias = parted
                rows = self._operate(name, func, rest, None)
                return self._operate(scale_and_shift.__name__, scale_and_shift, (rows, weight, bias), None)
        return self._operate(name, func, args, kwargs)

    def _operate(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> Any:
        """Runs an operator as the session does, and notes what is to be known of it."""
        recomputer = self.recomputer
        if recomputer is not None and recomputer.concerns(name):
            output = recomputer.run(name, func, args, kwargs or {}, self._run)
        elif name in _KNOWN:
            output = self._run(name, func, args, kwargs or {})
        else:
            output = func(*args, **kwargs) if kwargs else func(*args)
        if self.finished is not None:
            self.finished(output, func, args, kwargs or {})
        return output

    def _run(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs an operator, with what is known of it while it runs."""
        if name not in _KNOWN:
            return func(*args, **kwargs)
        outer = self.weight_only, self.channels_first, self.raw_reason, self._weight
        self.channels_first = name in _CHANNELS_FIRST
        self._weight = _second(args, kwargs) if name in _WITH_WEIGHT else None
        self.weight_only = self._serves_weights_alone(name, args)
        try:
            if name == _ATTENTION:
                return self._attend(func, args, kwargs)
            if name == _MULTI_HEAD:
                # A Python function: what it calls is not seen by this mode, which torch sets aside while it runs.
                with self._attention_replaced():
                    return func(*args, **kwargs)
            if self.route is not None and name in ROUTED:
                output = self.route.run(name, args, kwargs)
                if output is not None:
                    return output
            output = func(*args, **kwargs)
            if self.route is not None and name in ACTIVATIONS:
                self.route.note_activation(name, output, args, kwargs)
            return output
        finally:
            self.weight_only, self.channels_first, self.raw_reason, self._weight = outer

    def _attend(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Attention as the settings have it."""
        if self._attention == "literal":
            return func(*args, **kwargs)
        if self._attention == "recompute" and can_recompute(args, kwargs):
            return recomputed_attention(*args, **kwargs)
        outer, self.raw_reason = self.raw_reason, "attention is left raw"
        try:
            return func(*args, **kwargs)
        finally:
            self.raw_reason = outer

    @contextmanager
    def _attention_replaced(self) -> Iterator[None]:
        """Lets ``torch.nn.functional`` find this session's attention in the place of torch's while a function runs."""
        original = F.scaled_dot_product_attention

        def replacement(*args: Any, **kwargs: Any) -> Any:
            if not self._active():  # another thread's model
                return original(*args, **kwargs)
            return self._attend(original, args, kwargs)

        F.scaled_dot_product_attention = replacement
        try:
            yield
        finally:
            F.scaled_dot_product_attention = original

    def _serves_weights_alone(self, name: str, args: tuple[Any, ...]) -> bool:
        if name in _WITH_WEIGHT:
            return self._weight is not None and self._is_weight(self._weight)
        if name == "addmm":
            args = args[1:]  # the first is added, and nothing of it is saved
        elif name not in _PRODUCTS:
            return False
        return any(isinstance(operand, Tensor) and self._is_weight(operand) for operand in args)

    def _is_weight(self, tensor: Tensor) -> bool:
        return self._weights.holds(tensor) or self._weights.copied_into(tensor)


def _second(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    weight = args[1] if len(args) > 1 else kwargs.get("weight")
    return weight if isinstance(weight, Tensor) else None
