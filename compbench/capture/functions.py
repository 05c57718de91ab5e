"""Norms and gated units that keep less than torch's, with the same values in the forward pass.

Their gradients are those of torch's at the values that were kept, up to rounding. A norm with a weight or a bias is one
without and :func:`scale_and_shift`, whose values are those of torch's up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


class RmsNorm(torch.autograd.Function):
    """Root-mean-square normalisation without weights that saves its output, which what comes next saves as well.

    With ``y = x r`` and ``r = 1 / rms(x)`` over the last dimension of width ``D``, ``dx = r (dy - y mean(dy y))``. The
    second output ``r`` is there for derivatives of higher order: the first knows nothing of the scale of ``x``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, eps: float | None) -> tuple[Tensor, Tensor]:
        """Rows ``(..., D)`` of root mean square 1, and ``r``, ``(..., 1)``."""
        y, r = torch.ops.aten._fused_rms_norm(x, [width], None, eps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, r)
        return y, r

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, None, None]:
        """The gradient of ``x``."""
        of_y, of_r = grad_outputs
        y, r = ctx.saved_tensors
        width = y.shape[-1]
        gradient: Tensor | None = None
        if of_y is not None:
            along = torch.linalg.vecdot(of_y, y).unsqueeze(-1) / width
            gradient = torch.addcmul(of_y, y, along, value=-1)
            gradient = gradient * r if torch.is_grad_enabled() else gradient.mul_(r)
        return _with_gradient_of_scale(gradient, y, r, of_r), None, None


class LayerNorm(torch.autograd.Function):
    """Normalisation to mean 0 and variance 1 without weights that saves its output, as :class:`RmsNorm` does.

    With ``y = (x - mean(x)) r`` and ``r = 1 / std(x)``, ``dx = r (dy - mean(dy) - y mean(dy y))``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, eps: float) -> tuple[Tensor, Tensor]:
        """Rows ``(..., D)``, and ``r``, ``(..., 1)``."""
        y, _, r = torch.ops.aten.native_layer_norm(x, [width], None, None, eps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, r)
        return y, r

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, None, None]:
        """The gradient of ``x``."""
        of_y, of_r = grad_outputs
        y, r = ctx.saved_tensors
        width = y.shape[-1]
        gradient: Tensor | None = None
        if of_y is not None:
            along = torch.linalg.vecdot(of_y, y).unsqueeze(-1) / width
            gradient = torch.addcmul(of_y, y, along, value=-1)
            mean = of_y.mean(-1, keepdim=True)
            gradient = (gradient - mean) * r if torch.is_grad_enabled() else gradient.sub_(mean).mul_(r)
        return _with_gradient_of_scale(gradient, y, r, of_r), None, None


def _with_gradient_of_scale(gradient: Tensor | None, y: Tensor, r: Tensor, of_r: Tensor | None) -> Tensor | None:
    """The gradient of a norm's input with what comes to it through ``r``, whose derivative is ``-r^2 y / D``."""
    if of_r is None:
        return gradient
    through = y * (r.square() * of_r / -y.shape[-1])
    return through if gradient is None else gradient + through


def scale_and_shift(rows: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``rows * weight + bias`` with a weight and a bias ``(D,)``, as a norm ends; what is None is left out."""
    if weight is None:
        return rows if bias is None else rows + bias
    return rows * weight if bias is None else torch.addcmul(bias, rows, weight)


class GatedUnit(torch.autograd.Function):
    """``activation(gate) * up`` whose gradients go to gate and up at once, in one tensor where they are halves of one.

    The halves' gradients need not be put together again. The activation's output is saved only where it is computed
    again from the gate: then whoever needs it in the backward pass shares it.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, other: Tensor | None, activated: Tensor, gate: Gate, shared: bool) -> Tensor:
        """``(..., I)``.

        Args:
            ctx: autograd's.
            both: gate and up side by side, ``(..., 2 I)``; with ``other``, gate alone.
            other: up, if it is a tensor of its own.
            activated: what the activation made of the gate, ``(..., I)``.
            gate: which activation, and which half is the gate.
            shared: whether the activation's output is saved.
        """
        ctx.gate, ctx.apart, ctx.shared = gate, other is not None, shared
        # The gate first: what the activation gave is computed again from it.
        operands = (both,) if other is None else (both, other)
        ctx.save_for_backward(*operands, *((activated,) if shared else ()))
        return activated * gate.parts(both, other)[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``both``, or of gate and up."""
        (grad_output,) = grad_outputs
        saved = ctx.saved_tensors
        both, other = saved[0], saved[1] if ctx.apart else None
        x, up = ctx.gate.parts(both, other)
        if torch.is_grad_enabled():  # a graph of the gradients is asked for (create_graph=True)
            # Each gets a node of its own: one may have been computed from the other, or be the same tensor.
            inputs = [tensor.view_as(tensor) for tensor in (both, other) if tensor is not None]
            x, up = ctx.gate.parts(inputs[0], None if other is None else inputs[1])
            output = ctx.gate.activate(x) * up
            found = torch.autograd.grad(output, inputs, grad_output, create_graph=True)
            return found[0], found[1] if other is not None else None, None, None, None
        if other is None:
            gradient = torch.empty_like(both, memory_format=torch.contiguous_format)
            of_gate, of_up = ctx.gate.parts(gradient, None)
        else:
            of_gate, of_up = torch.empty_like(grad_output), torch.empty_like(grad_output)
        torch.mul(grad_output, saved[-1] if ctx.shared else ctx.gate.activate(x), out=of_up)
        torch.mul(grad_output, up, out=of_gate)
        ctx.gate.differentiate(of_gate, x)
        return (gradient if other is None else of_gate), (None if other is None else of_up), None, None, None


@dataclass(frozen=True)
class Gate:
    """The gate of a gated unit.

    Attributes:
        activation: ``silu``, ``gelu`` or its approximation ``tanh``.
        first: whether it is the first of two halves.
    """

    activation: Literal["silu", "gelu", "tanh"]
    first: bool = True

    def parts(self, both: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gate and up, ``(..., I)`` each."""
        if other is not None:
            return both, other
        first, second = both.chunk(2, dim=-1)
        return (first, second) if self.first else (second, first)

    def activate(self, gate: Tensor) -> Tensor:
        """The activation of ``(..., I)``."""
        if self.activation == "silu":
            return F.silu(gate)
        return F.gelu(gate, approximate="tanh" if self.activation == "tanh" else "none")

    def differentiate(self, gradient: Tensor, gate: Tensor) -> None:
        """Turns the gradient of the activation's output into that of its input, in place."""
        if self.activation == "silu":
            torch.ops.aten.silu_backward.grad_input(gradient, gate, grad_input=gradient)
        else:
            approximate = "tanh" if self.activation == "tanh" else "none"
            torch.ops.aten.gelu_backward.grad_input(gradient, gate, approximate=approximate, grad_input=gradient)
