"""The operators' route: which of a model's operators run as the session's own functions, and which stay torch's.

What stays torch's comes to the session through its saved-tensor hooks alone, and loses nothing by it but time.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.autograd import Variable

from compbench.capture.functions import Gate, GatedUnit, LayerNorm, RmsNorm
from compbench.capture.handing import Handle
from compbench.capture.products import Calls, Convolution, Convolving, Linear
from compbench.capture.recipes import ScaledRows
from compbench.capture.special import describe_special
from compbench.capture.versions import Place, place_of
from compbench.capture.weight_gradients import AnchoredWeights
from compbench.capture.weights import Weights

_REAL = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_FULL = frozenset({torch.float32, torch.float64})
OWN = "own function"
_NO_MATRICES = "not rows times a matrix"
_NO_BIAS = "what is added is no bias"

_Weight = tuple[int, Place]


class Recipes(Protocol):
    """Knows what is computed again in the backward pass."""

    def has_recipe(self, tensor: Tensor) -> bool:
        """Whether a tensor would be, once what it begins with is kept."""


class Route:
    """Puts the session's own functions in the place of torch's, operator by operator.

    Args:
        weights: tells weights from activations.
        derives: whether what follows from what is kept is not kept; else those of the functions alone are used that
            keep what torch's do.

    Attributes:
        outputs: columns that the linear layer or convolution which is running makes of its rows, for each place of its
            kernel; 0 while none is.
        counts: how many calls of each operator of the last step were the session's own, and why others were not.
        recomputer: knows what is computed again, while the session is open.
        ways: in which way their shares of weight gradients were formed.
    """

    def __init__(self, weights: Weights, derives: bool = True) -> None:
        self._weights = weights
        self._derives = derives
        self._anchored = AnchoredWeights()
        self._products: dict[_Weight, tuple[Tensor, Tensor, Tensor | None, Tensor]] = {}
        self.outputs = 0
        self.recomputer: Recipes | None = None
        self.ways: Counter[str] = Counter()
        # The last activation: its output and input with their versions, and which it was. Nothing is kept alive by it.
        self._activated: tuple[weakref.ref[Tensor], int, weakref.ref[Tensor], int, Any] | None = None
        self.counts: Counter[tuple[str, str]] = Counter()

    def begin_step(self) -> None:
        """Lets go of what the step before left behind."""
        self._anchored.forget()
        self._products.clear()
        self.counts.clear()
        self.ways.clear()

    def end_step(self) -> None:
        """Lets go of the graph's weights and of products of bases with them."""
        self._anchored.forget()
        self._products.clear()

    def run(self, name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
        """The output of an operator by the session's own function; None where torch's has to run."""
        if name in _DERIVING and (not self._derives or (name in _MULTIPLIES and self._activated is None)):
            return None
        if name in _CONVOLUTIONS:
            found: Tensor | str | None = _unusual() or self._convolve(name, arguments, keywords)
        else:
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
        operators = [
            f"{count} {name}: " + ("the session's own" if reason == OWN else f"torch's own, since {reason}")
            for (name, reason), count in sorted(self.counts.items())
        ]
        return (*operators, *(f"{count} calls' weight gradients: {way}" for way, count in sorted(self.ways.items())))

    def _linear(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        rows, weight, bias = _bound(("input", "weight", "bias"), arguments, keywords)
        reason = self._reason(rows, weight)
        if not reason and bias is not None and not _is_bias(bias, weight):
            reason = _NO_BIAS
        if reason:
            return reason
        return self._apply_linear(rows, *self._anchor(weight), bias)

    def _anchor(self, weight: Tensor) -> tuple[Tensor, Calls]:
        """A weight, behind its anchor if it is a parameter, and what its calls have in common."""
        if not self._weights.is_parameter(weight):
            return weight, Calls(None, self.ways)
        anchored, sums = self._anchored.of(weight)
        return anchored, Calls(sums, self.ways)

    def _apply_linear(self, rows: Tensor, weight: Tensor, calls: Calls, bias: Tensor | None) -> Tensor:
        self.outputs = len(weight)
        try:
            return Linear.apply(rows, weight, bias, calls)  # type: ignore[no-any-return, no-untyped-call]
        finally:
            self.outputs = 0

    def _convolve(self, name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        images, weight, bias, stride, padding, dilation, groups = _bound(names, arguments, keywords)
        dimensions = _CONVOLUTIONS[name]
        reason = self._reason(images, weight, dimensions + 2)
        if not reason and not images.numel():
            reason = "no images"
        if not reason and bias is not None and not _is_bias(bias, weight):
            reason = _NO_BIAS
        if reason:
            return reason
        if isinstance(padding, str):
            return "padding by name"
        sizes = [_each(value, dimensions) for value in (stride or 1, padding or 0, dilation or 1)]
        convolving = Convolving(getattr(torch.nn.functional, name), sizes[0], sizes[1], sizes[2], groups or 1)
        anchored, calls = self._anchor(weight)
        self.outputs = weight.shape[0] * weight.shape[2:].numel() if convolving.groups == 1 else 0
        try:
            return Convolution.apply(images, anchored, bias, convolving, calls)  # type: ignore[no-any-return, no-untyped-call]
        finally:
            self.outputs = 0

    def _matmul(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        if set(keywords) - {"input", "other"}:
            return "other arguments"
        rows, weight = _bound(("input", "other"), arguments, keywords)
        return self._transposed(rows, weight, None)

    def _mm(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        if keywords or len(arguments) != 2:
            return "other arguments"
        rows, weight = arguments
        return _NO_MATRICES if _dimensions(rows) != 2 else self._transposed(rows, weight, None)

    def _addmm(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        if set(keywords) - {"input", "mat1", "mat2"}:
            return "factors"
        bias, rows, weight = _bound(("input", "mat1", "mat2"), arguments, keywords)
        if _dimensions(rows) != 2 or _dimensions(weight) != 2:
            return _NO_MATRICES
        if not _is_bias(bias, weight.t()):
            return _NO_BIAS
        return self._transposed(rows, weight, bias)

    def _transposed(self, rows: Any, weight: Any, bias: Tensor | None) -> Tensor | str:
        """``rows @ weight + bias`` with a weight ``(D, M)``."""
        if not isinstance(weight, Tensor) or not isinstance(rows, Tensor) or weight.dim() != 2 or rows.dim() < 2:
            return _NO_MATRICES
        if not self._weights.holds(weight) or self._weights.holds(rows):
            return "both operands are activations, whose gradients need all of them"
        reason = self._reason(rows, weight)
        return reason or self._apply_linear(rows, weight.t(), Calls(None, self.ways), bias)

    def _rms_norm(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        x, shape, weight, eps = _bound(_RMS_NORM, arguments, keywords)
        reason = _unfit_for_a_norm(x, shape) or (
            "its weight is no plain tensor of the same type" if weight is not None else ""
        )
        return reason or RmsNorm.apply(x, shape[0], eps)[0]  # type: ignore[no-untyped-call]

    def _layer_norm(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | str:
        x, shape, weight, bias, eps = _bound(_LAYER_NORM, arguments, keywords)
        reason = _unfit_for_a_norm(x, shape, weight is not None or bias is not None)
        return reason or LayerNorm.apply(x, shape[0], 1e-5 if eps is None else eps)[0]  # type: ignore[no-untyped-call]

    def without_scale(
        self, name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Tensor | None, Tensor | None] | None:
        """A norm that has a weight or a bias as two operators: the norm without, and the scaling of its rows.

        What the next layer takes then follows from the rows that the norm keeps, and nothing else is kept.

        Returns:
            The arguments of the norm without them, weight and bias; None where the norm stays as it is.
        """
        if not self._derives or self.recomputer is None:
            return None
        rest: tuple[Any, ...]
        if name == "rms_norm":
            x, shape, weight, eps = _bound(_RMS_NORM, arguments, keywords)
            bias, rest = None, (x, shape, None, eps)
        else:
            x, shape, weight, bias, eps = _bound(_LAYER_NORM, arguments, keywords)
            rest = (x, shape, None, None, 1e-5 if eps is None else eps)
        given = [tensor for tensor in (weight, bias) if tensor is not None]
        if not given or _unusual() or _unfit_for_a_norm(x, shape):
            return None
        if any(not isinstance(t, Tensor) or describe_special(t) or t.dtype is not x.dtype for t in given):
            return None
        return rest, weight, bias

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
        if not activated.requires_grad or any(map(_is_watched, (activated, gate, up))):
            return None
        if activated._version != noted[1] or gate._version != noted[3] or up.shape != gate.shape:
            return None
        if gate.dtype not in _FULL or up.dtype is not gate.dtype or not (gate.requires_grad and up.requires_grad):
            return None
        whole, shared = _halves(gate, up), self.recomputer is not None and self.recomputer.has_recipe(activated)
        both, first = (gate, True) if whole is None else whole
        other = up if whole is None else None
        gate_kind = Gate(noted[4], first)
        return GatedUnit.apply(both, other, activated.detach(), gate_kind, shared)  # type: ignore[no-any-return, no-untyped-call]

    def _reason(self, rows: Any, weight: Any, dimensions: int = 2) -> str:
        """Why a linear operator with a weight of so many dimensions stays torch's, or nothing."""
        for operand in (rows, weight):
            if not isinstance(operand, Tensor) or describe_special(operand) or operand.dtype not in _REAL:
                return "not plain real tensors"
        if not weight.requires_grad:
            return "the weight takes no gradient"
        if weight.dim() != dimensions or rows.dim() < dimensions:
            return _NO_MATRICES if dimensions == 2 else "no batch of images"
        return ""

    # ---------------------------------------------------------------- outputs that are not kept

    def linear_at_rank(self, rows: ScaledRows, weight: Handle, bias: Handle | None) -> Tensor | None:
        """``Z (W S Q)^T + W t + b``, ``(N, M)``: a linear layer's output again from rows that are kept as ``Z Q^T``.

        ``S`` is the diagonal matrix of the weight by which they are scaled, and ``t`` the bias. None where the rows are
        not kept so, or not any more.
        """
        payload = rows.rows.whole_payload()
        factors = None if payload is None else payload.factors()
        if factors is None:
            return None
        coefficients, basis = factors
        matrix, (scale, shift) = weight.unpack(), rows.scaling()
        product = self._product(basis, matrix, scale, coefficients.dtype)
        added = None if bias is None else bias.unpack()
        if shift is not None:
            added = torch.mv(matrix, shift) if added is None else torch.addmv(added, matrix, shift)
        return coefficients @ product if added is None else torch.addmm(added, coefficients, product)

    def _product(self, basis: Tensor, weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        """``(W S Q)^T``, ``(k, M)``, once for all calls that share a basis; the last one of each weight is held."""
        key = weight.untyped_storage()._cdata, place_of(weight)
        known = self._products.get(key)
        if known is not None and known[0] is basis and _address(known[2]) == _address(scale):
            return known[3]
        if not self._products and torch._C._current_graph_task_id() != -1:
            Variable._execution_engine.queue_callback(self._products.clear)  # when this backward pass ends
        columns = basis.to(dtype).T
        product = (columns if scale is None else columns * scale) @ weight.T
        self._products[key] = (basis, weight, scale, product)  # weight and scale, so that their addresses stay theirs
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
    if not (_is_cut_from(gate, both) and _is_cut_from(up, both)):
        return None
    return both, gate.storage_offset() < up.storage_offset()


def _is_cut_from(part: Tensor, whole: Tensor) -> bool:
    """Whether a part's gradient goes to the whole as it is.

    Views that custom functions make, as gradient reversal and hooks on modules do, have the same base and need not.
    """
    node, root = part.grad_fn, whole.grad_fn
    while node is not None and node.name() in _CUTS:
        source, place = node.next_functions[0]
        if source is root:
            return root is not None and place == whole.output_nr
        node = source
    return False


def _is_watched(tensor: Tensor) -> bool:
    """Whether somebody wants the gradient of a tensor, or changes it."""
    return bool(tensor._backward_hooks) or tensor.retains_grad


_CUTS = frozenset({"SplitBackward0", "SplitWithSizesBackward0", "SliceBackward0", "AliasBackward0"})
_FUNCTIONS: dict[str, Callable[[Route, tuple[Any, ...], Mapping[str, Any]], Tensor | str | None]] = {
    "mul": Route._product_with_gate,
    "__mul__": Route._product_with_gate,
    "linear": Route._linear,
    "addmm": Route._addmm,
    "matmul": Route._matmul,
    "__matmul__": Route._matmul,
    "mm": Route._mm,
    "rms_norm": Route._rms_norm,
    "layer_norm": Route._layer_norm,
}
_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
ACTIVATIONS = frozenset({"silu", "gelu"})
_MULTIPLIES = frozenset({"mul", "__mul__"})
NORMS = frozenset({"rms_norm", "layer_norm"})
_DERIVING = _MULTIPLIES | NORMS
_RMS_NORM = ("input", "normalized_shape", "weight", "eps")
_LAYER_NORM = ("input", "normalized_shape", "weight", "bias", "eps")
ROUTED = frozenset(_FUNCTIONS) | frozenset(_CONVOLUTIONS)
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


def _dimensions(value: Any) -> int:
    return value.dim() if isinstance(value, Tensor) else -1


def _is_bias(value: Any, weight: Tensor) -> bool:
    """Whether it is added to every row, ``(M,)``, of what a weight ``(M, ...)`` gives."""
    return _dimensions(value) == 1 and not describe_special(value) and value.dtype is weight.dtype


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _unfit_for_a_norm(x: Any, shape: Any, scaled: bool = False) -> str:
    """Why a norm stays torch's, or nothing."""
    if not isinstance(x, Tensor) or describe_special(x) or x.dtype not in _FULL:
        return "not plain fp32 or fp64"
    if not x.requires_grad:
        return "no gradient"
    if len(shape) != 1:
        return "over several dimensions"
    return "its weight is no plain tensor of the same type" if scaled else ""


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    """A size for each dimension, where one stands for all of them."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * dimensions if len(sizes) == 1 else sizes


def _bound(names: tuple[str, ...], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[Any]:
    """Arguments in the order of their names, None for those that are not given."""
    given = dict(zip(names, arguments, strict=False)) | dict(keywords)
    return [given.get(name) for name in names]
