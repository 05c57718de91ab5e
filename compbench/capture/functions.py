"""Operators that know what is kept of their operands, and compute their gradients from that.

Each stands in for one of torch's with the same values in the forward pass. Its gradients are those of torch's at the
values that were kept, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compbench.capture.entry import View
from compbench.capture.handing import Handle, handed_over
from compbench.capture.weight_gradients import WeightGradient, sum_of


class Linear(torch.autograd.Function):
    """``F.linear`` whose weight gradient is formed from what was kept of the rows, at its rank where it has one."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, sums: dict[int, WeightGradient] | None
    ) -> Tensor:
        """``(..., M)`` from rows ``(..., D)``, weight ``(M, D)`` and bias ``(M,)``."""
        ctx.sums = sums
        ctx.save_for_backward(rows, weight)
        return F.linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, weight and bias; that of the weight is None where it is summed up over calls."""
        (grad_output,) = grad_outputs
        of_rows, of_weight, of_bias, _ = ctx.needs_input_grad
        flat = grad_output.reshape(-1, grad_output.shape[-1])  # (N, M)
        bias_gradient = flat.sum(0) if of_bias else None
        if torch.is_grad_enabled():  # a graph of the gradients is asked for (create_graph=True)
            rows, weight = ctx.saved_tensors
            weight_gradient = flat.T @ rows.reshape(-1, rows.shape[-1]) if of_weight else None
            return (grad_output @ weight if of_rows else None), weight_gradient, bias_gradient, None
        with handed_over() as handles:
            ctx.saved_tensors  # noqa: B018 - for what it hands over
        kept, weight_handle = handles
        row_gradient = grad_output @ weight_handle.unpack() if of_rows else None
        weight_gradient = None
        if of_weight:
            own = WeightGradient() if ctx.sums is None else sum_of(ctx.sums)
            _add(own, kept, flat)
            weight_gradient = own.total() if ctx.sums is None else None
        return row_gradient, weight_gradient, bias_gradient, None


def _add(total: WeightGradient, kept: Handle, grad_output: Tensor) -> None:
    """Adds a call's share ``dY^T X`` of a weight gradient."""
    payload = kept.whole_payload() if isinstance(kept, View) else None
    if payload is not None:
        total.add_payload(payload, grad_output)
        return
    rows = kept.unpack()
    total.add_rows(rows.reshape(-1, rows.shape[-1]), grad_output)


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
        if of_r is not None:
            through = y * (r.square() * of_r / -width)
            gradient = through if gradient is None else gradient + through
        return gradient, None, None


class GatedUnit(torch.autograd.Function):
    """``activation(gate) * up`` whose gradients go to gate and up at once, in one tensor where they are halves of one.

    Nothing of the activation's output is kept, and the halves' gradients need not be put together again.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, other: Tensor | None, activated: Tensor, gate: Gate) -> Tensor:
        """``(..., I)``.

        Args:
            ctx: autograd's.
            both: gate and up side by side, ``(..., 2 I)``; with ``other``, gate alone.
            other: up, if it is a tensor of its own.
            activated: what the activation made of the gate, ``(..., I)``.
            gate: which activation, and which half is the gate.
        """
        ctx.gate = gate
        ctx.save_for_backward(*((both,) if other is None else (both, other)))
        return activated * gate.parts(both, other)[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``both``, or of gate and up."""
        (grad_output,) = grad_outputs
        saved = ctx.saved_tensors
        both, other = saved if len(saved) == 2 else (saved[0], None)
        x, up = ctx.gate.parts(both, other)
        if torch.is_grad_enabled():  # a graph of the gradients is asked for (create_graph=True)
            inputs = [tensor for tensor in (both, other) if tensor is not None]
            output = ctx.gate.activate(x) * up
            found = torch.autograd.grad(output, inputs, grad_output, create_graph=True)
            return found[0], found[1] if other is not None else None, None, None
        if other is None:
            gradient = torch.empty_like(both, memory_format=torch.contiguous_format)
            of_gate, of_up = ctx.gate.parts(gradient, None)
        else:
            of_gate, of_up = torch.empty_like(grad_output), torch.empty_like(grad_output)
        torch.mul(grad_output, ctx.gate.activate(x), out=of_up)
        torch.mul(grad_output, up, out=of_gate)
        ctx.gate.differentiate(of_gate, x)
        return (gradient, None, None, None) if other is None else (of_gate, of_up, None, None)


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
