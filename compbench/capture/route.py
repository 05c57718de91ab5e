"""The operators' route: which of a model's operators run as the session's own functions, and which stay torch's.

What stays torch's comes to the session through its saved-tensor hooks alone, and loses nothing by it but time.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.autograd import Variable

from compbench.capture.entry import View
from compbench.capture.functions import Gate, GatedUnit, Linear, RmsNorm
from compbench.capture.handing import Handle
from compbench.capture.special import describe_special
from compbench.capture.weight_gradients import AnchoredWeights, WeightGradient
from compbench.capture.weights import Weights

_REAL = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_FULL = frozenset({torch.float32, torch.float64})
OWN = "own function"

_Weight = tuple[int, int | torch.SymInt, torch.Size]


class Route:
    """Puts the session's own functions in the place of torch's, operator by operator.

    Args:
        weights: tells weights from activations.

    Attributes:
        outputs: columns that the linear layer which is running makes of its rows; 0 while none is.
        counts: how many calls of each operator of the last step were the session's own, and why others were not.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._anchored = AnchoredWeights()
        self._products: dict[_Weight, tuple[Tensor, Tensor, Tensor]] = {}
        self.outputs = 0
        # The last activation: its output and input with their versions, and which it was. Nothing is kept alive by it.
        self._activated: tuple[weakref.ref[Tensor], int, weakref.ref[Tensor], int, Any] | None = None
        self.counts: Counter[tuple[str, str]] = Counter()

    def begin_step(self) -> None:
        """Lets go of what the step before left behind."""
        self._anchored.forget()
        self._products.clear()
        self.counts.clear()

    def end_step(self) -> None:
        """Lets go of the graph's weights and of products of bases with them."""
        self._anchored.forget()
        self._products.clear()

    def run(self, name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
        """The output of an operator by the session's own function; None where torch's has to run."""
        if name in _MULTIPLIES and self._activated is None:
            return None
        found = _unusual() or _FUNCTIONS[name](self, arguments, keywords)
        if found is None:
            return None
        if isinstance(found, str):
            self.counts[name, found] += 1
            return None
        self.counts[name, OWN] += 1
        return found

    def notes(self) -> tuple[str, ...]:
        """What ran as what in the last step, a line for each operator and reason."""
        return tuple(
            f"{count} {name}: " + ("the session's own" if reason == OWN else f"torch's own, since {reason}")
            for (name, reason), count in sorted(self.counts.items())
        )

    def _linear(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        rows, weight, bias = _bound(("input", "weight", "bias"), arguments, keywords)
        reason = self._reason(rows, weight)
        if reason:
            return reason
        if not self._weights.is_parameter(weight):
            return self._apply(rows, weight, bias, None)
        anchored, sums = self._anchored.of(weight)
        return self._apply(rows, anchored, bias, sums)

    def _apply(
        self, rows: Tensor, weight: Tensor, bias: Tensor | None, sums: dict[int, WeightGradient] | None
    ) -> Tensor:
        self.outputs = len(weight)
        try:
            return Linear.apply(rows, weight, bias, sums)  # type: ignore[no-any-return, no-untyped-call]
        finally:
            self.outputs = 0

    def _matmul(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        rows, weight = _bound(("input", "other"), arguments, keywords)
        return self._transposed(rows, weight, None)

    def _addmm(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        if set(keywords) - {"input", "mat1", "mat2"}:
            return "factors"
        bias, rows, weight = _bound(("input", "mat1", "mat2"), arguments, keywords)
        if not isinstance(bias, Tensor) or bias.dim() != 1:
            return "what is added is no bias"
        return self._transposed(rows, weight, bias)

    def _transposed(self, rows: Any, weight: Any, bias: Tensor | None) -> Tensor | str:
        """``rows @ weight + bias`` with a weight ``(D, M)``."""
        if not isinstance(weight, Tensor) or not isinstance(rows, Tensor) or weight.dim() != 2 or rows.dim() < 2:
            return "not rows times a matrix"
        if not self._weights.holds(weight) or self._weights.holds(rows):
            return "no weight"
        reason = self._reason(rows, weight)
        return reason or self._apply(rows, weight.t(), bias, None)

    def _rms_norm(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        x, shape, weight, eps = _bound(("input", "normalized_shape", "weight", "eps"), arguments, keywords)
        if not isinstance(x, Tensor) or describe_special(x) or x.dtype not in _FULL:
            return "not plain fp32 or fp64"
        if not x.requires_grad:
            return "no gradient"
        if weight is not None:
            return "has a weight"
        if len(shape) != 1:
            return "over several dimensions"
        output, _ = RmsNorm.apply(x, shape[0], eps)  # type: ignore[no-untyped-call]
        return output  # type: ignore[no-any-return]

    def note_activation(self, name: str, output: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Notes what an activation function gave, in case that it is a gate and multiplied next."""
        self._activated = None
        gate = arguments[0] if arguments else keywords.get("input")
        if not isinstance(output, Tensor) or not isinstance(gate, Tensor) or output is gate:
            return
        kind = "tanh" if name == "gelu" and keywords.get("approximate") == "tanh" else name
        self._activated = (weakref.ref(output), output._version, weakref.ref(gate), gate._version, kind)

    def _product_with_gate(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str | None:
        """``activation(gate) * up``; None where a product is of anything else."""
        noted, self._activated = self._activated, None
        if noted is None or len(arguments) != 2 or keywords:
            return None
        activated, gate = noted[0](), noted[2]()
        up = next((operand for operand in arguments if operand is not activated), None)
        if activated is None or gate is None or not any(operand is activated for operand in arguments):
            return None
        if not isinstance(up, Tensor) or describe_special(up) or describe_special(gate):
            return None
        if activated._version != noted[1] or gate._version != noted[3] or up.shape != gate.shape:
            return None
        if gate.dtype not in _FULL or up.dtype is not gate.dtype or not (gate.requires_grad and up.requires_grad):
            return None
        whole, kind = _halves(gate, up), noted[4]
        if whole is None:
            return GatedUnit.apply(gate, up, activated.detach(), Gate(kind))  # type: ignore[no-any-return, no-untyped-call]
        both, first = whole
        return GatedUnit.apply(both, None, activated.detach(), Gate(kind, first))  # type: ignore[no-any-return, no-untyped-call]

    def _reason(self, rows: Any, weight: Any) -> str:
        """Why a linear operator stays torch's, or nothing."""
        for operand in (rows, weight):
            if not isinstance(operand, Tensor) or describe_special(operand) or operand.dtype not in _REAL:
                return "not plain real tensors"
        if not weight.requires_grad:
            return "the weight takes no gradient"
        if weight.dim() != 2 or rows.dim() < 2:
            return "not rows times a matrix"
        return ""

    # ---------------------------------------------------------------- outputs that are not kept

    def linear_at_rank(self, rows: View, weight: Handle, bias: Handle | None) -> Tensor | None:
        """``Z (W Q)^T + b``, ``(N, M)``: a linear layer's output again from rows that are kept as ``Z Q^T``.

        None where they are not, or not any more.
        """
        payload = rows.whole_payload()
        factors = None if payload is None else payload.factors()
        if factors is None:
            return None
        coefficients, basis = factors
        product = self._product(basis, weight.unpack(), coefficients.dtype)
        if bias is None:
            return coefficients @ product
        return torch.addmm(bias.unpack(), coefficients, product)

    def _product(self, basis: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """``(W Q)^T``, ``(k, M)``, once for all calls that share a basis; the last one of each weight is held."""
        key = weight.untyped_storage()._cdata, weight.storage_offset(), weight.shape
        known = self._products.get(key)
        if known is not None and known[0] is basis:
            return known[2]
        if not self._products and torch._C._current_graph_task_id() != -1:
            Variable._execution_engine.queue_callback(self._products.clear)  # when this backward pass ends
        product = basis.to(dtype).T @ weight.T
        self._products[key] = (basis, weight, product)  # the weight, so that its address stays its own
        return product


def _halves(gate: Tensor, up: Tensor) -> tuple[Tensor, bool] | None:
    """The tensor whose halves in the last dimension gate and up are, and whether the gate is the first; or None."""
    both = gate._base
    if both is None or both is not up._base or not both.is_contiguous() or not both.requires_grad:
        return None
    width = gate.shape[-1]
    if both.shape != (*gate.shape[:-1], 2 * width) or gate.stride() != both.stride() or up.stride() != both.stride():
        return None
    if {gate.storage_offset() - both.storage_offset(), up.storage_offset() - both.storage_offset()} != {0, width}:
        return None
    return both, gate.storage_offset() < up.storage_offset()


_FUNCTIONS: dict[str, Callable[[Route, tuple[Any, ...], Mapping[str, Any]], Tensor | str | None]] = {
    "mul": Route._product_with_gate,
    "__mul__": Route._product_with_gate,
    "linear": Route._linear,
    "addmm": Route._addmm,
    "matmul": Route._matmul,
    "__matmul__": Route._matmul,
    "mm": Route._matmul,
    "rms_norm": Route._rms_norm,
}
ACTIVATIONS = frozenset({"silu", "gelu"})
_MULTIPLIES = frozenset({"mul", "__mul__"})
ROUTED = frozenset(_FUNCTIONS)
"""Operators for which the session has functions of its own."""


def _unusual() -> str:
    """What is under way that only torch's own operators can do, or nothing."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return "autocast"
    if torch._C._current_graph_task_id() != -1:
        return "inside a backward pass"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "inside a function transform"
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives"
    return ""


def _bound(names: tuple[str, ...], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[Any]:
    """Arguments in the order of their names, None for those that are not given."""
    given = dict(zip(names, arguments, strict=False)) | dict(keywords)
    return [given.get(name) for name in names]
