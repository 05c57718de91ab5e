"""Linear layers and convolutions that form their weight gradients from what was kept of their rows.

Each stands in for one of torch's with the same values in the forward pass. Its gradients are those of torch's at the
values that were kept, up to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compbench.capture.entry import View
from compbench.capture.handing import Handle, handed_over
from compbench.capture.recipes import Recomputed, ScaledRows
from compbench.capture.weight_gradients import WeightGradient, sum_of

AT_RANK = "at the rank of what was kept"
BY_PAYLOAD = "as the payload gives it"
REBUILT = "from rebuilt rows"
DEARER = "from rebuilt rows, since the rank is more work"


@dataclass(frozen=True)
class Calls:
    """What the calls of one weight have in common.

    Attributes:
        sums: where their shares of the weight's gradient go; None where each call gives its own.
        ways: counts in which way each share was formed.
    """

    sums: dict[int, WeightGradient] | None
    ways: Counter[str]

    def own_sum(self) -> WeightGradient:
        """Where the share of a call is added."""
        return WeightGradient() if self.sums is None else sum_of(self.sums)

    def result(self, own: WeightGradient, shape: torch.Size) -> Tensor | None:
        """The call's gradient of a weight; None where it has gone to the sum."""
        return own.total(shape) if self.sums is None else None


class Linear(torch.autograd.Function):
    """``F.linear`` whose weight gradient is formed from what was kept of the rows, at its rank where it has one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, calls: Calls) -> Tensor:
        """``(..., M)`` from rows ``(..., D)``, weight ``(M, D)`` and bias ``(M,)``."""
        ctx.calls = calls
        ctx.save_for_backward(rows, weight)
        output = F.linear(rows, weight, bias)
        # Of rows in more than two dimensions it may be a view, which a function may not give: it could not be changed
        # in place. This shares the memory and is none.
        return torch.ops.aten._unsafe_view(output, output.shape) if output._is_view() else output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, weight and bias; that of the weight is None where it is summed up over calls."""
        (grad_output,) = grad_outputs
        of_rows, of_weight, of_bias, _ = ctx.needs_input_grad
        flat = grad_output.flatten(0, -2)  # (N, M)
        bias_gradient = flat.sum(0) if of_bias else None
        if torch.is_grad_enabled():  # a graph of the gradients is asked for (create_graph=True)
            rows, weight = ctx.saved_tensors
            weight_gradient = flat.T @ rows.flatten(0, -2) if of_weight else None
            return (grad_output @ weight if of_rows else None), weight_gradient, bias_gradient, None
        with handed_over() as handles:
            ctx.saved_tensors  # noqa: B018 - for what it hands over
        kept, weight_handle = handles
        row_gradient = grad_output @ weight_handle.unpack() if of_rows else None
        weight_gradient = None
        if of_weight:
            own = ctx.calls.own_sum()
            _add_linear(own, kept, flat, ctx.calls.ways)
            weight_gradient = ctx.calls.result(own, weight_handle.unpack().shape)
        return row_gradient, weight_gradient, bias_gradient, None


def _add_linear(total: WeightGradient, kept: Handle, grad_output: Tensor, ways: Counter[str]) -> None:
    """Adds a call's share ``dY^T X`` of a weight gradient, ``dY`` being ``(N, M)``."""
    found = kept.scaled_rows() if isinstance(kept, Recomputed) else None
    if isinstance(kept, View):
        found = ScaledRows(kept)
    payload = None if found is None else found.rows.whole_payload()
    factors = None if payload is None else payload.factors()
    if (
        found is None
        or payload is None
        or (factors is not None and dearer_at_rank(found.rows, *factors, grad_output.shape[1]))
    ):
        rows = kept.unpack()
        total.add_rows(rows.flatten(0, -2), grad_output)
        ways[REBUILT if payload is None else DEARER] += 1
    elif factors is not None:
        coefficients, basis = factors
        total.add_factors(coefficients, basis, grad_output, found.scaling())
        ways[AT_RANK] += 1
    else:
        total.add_unscaled(payload.weight_gradient(grad_output), grad_output, found.scaling())
        ways[BY_PAYLOAD] += 1


def dearer_at_rank(kept: Handle, coefficients: Tensor, basis: Tensor, outputs: int) -> bool:
    """Whether ``(dY^T Z) Q^T`` is more work than ``dY^T X`` from rows that are rebuilt as ``X = Z Q^T``.

    In multiplications of one call: ``k M (N + D)`` against ``N D M``, and ``N k D`` more where the rows are not at hand
    already. Without these the rank is dearer from ``k > D N / (D + N)`` on.

    Args:
        kept: what stands for the rows.
        coefficients: ``Z``, ``(N, k)``.
        basis: ``Q``, ``(D, k)``.
        outputs: ``M``.
    """
    (n, k), d = coefficients.shape, len(basis)
    rebuilding = 0 if isinstance(kept, View) and kept.entry.is_at_hand() else n * k * d
    return k * outputs * (n + d) > n * d * outputs + rebuilding


@dataclass(frozen=True)
class Convolving:
    """One of torch's convolutions, with what it is given beside tensors.

    Attributes:
        function: ``F.conv1d``, ``F.conv2d`` or ``F.conv3d``.
        stride: of each dimension.
        padding: of each dimension.
        dilation: of each dimension.
        groups: of channels.
    """

    function: Callable[..., Tensor]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __call__(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``(B, O, ...)`` from images ``(B, C, ...)`` and weight ``(O, C / groups, ...)``."""
        return self.function(images, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def gradients(
        self, grad_output: Tensor, images: Tensor, weight: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of images and weight, those of them that are wanted; of what is not, shapes alone are looked at."""
        found = torch.ops.aten.convolution_backward(
            grad_output,
            images,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            (0,) * len(self.stride),
            self.groups,
            (*wanted, False),
        )
        return found[0], found[1]


class Convolution(torch.autograd.Function):
    """A convolution whose weight gradient is that of the coefficients of its images, where these are kept at a rank.

    With channels ``X = Z Q^T``, ``(B L, C)``, the gradient of a weight ``(O, C, ...)`` is that of a weight
    ``(O, k, ...)`` on images of the ``k`` channels ``Z``, times ``Q^T``: a convolution mixes channels linearly.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, convolving: Convolving, calls: Calls
    ) -> Tensor:
        """``(B, O, ...)`` from images ``(B, C, ...)``, weight ``(O, C / groups, ...)`` and bias ``(O,)``."""
        ctx.calls, ctx.convolving, ctx.shape = calls, convolving, images.shape
        ctx.save_for_backward(images, weight)
        return convolving(images, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of images, weight and bias; that of the weight is None where it is summed up over calls."""
        (grad_output,) = grad_outputs
        of_images, of_weight, of_bias, *_ = ctx.needs_input_grad
        bias_gradient = grad_output.sum((0, *range(2, grad_output.dim()))) if of_bias else None
        if torch.is_grad_enabled():  # a graph of the gradients is asked for (create_graph=True)
            # Each gets a node of its own: the images may have been computed from the weight, as where it is used twice.
            saved = [x.view_as(x) for x in ctx.saved_tensors]
            operands = [x for x, needed in zip(saved, (of_images, of_weight), strict=True) if needed]
            output = ctx.convolving(*saved, None)
            found = list(torch.autograd.grad(output, operands, grad_output, create_graph=True))
            image_gradient = found.pop(0) if of_images else None
            return image_gradient, (found.pop() if of_weight else None), bias_gradient, None, None
        with handed_over() as handles:
            ctx.saved_tensors  # noqa: B018 - for what it hands over
        kept, weight_handle = handles
        weight = weight_handle.unpack()
        image_gradient = None
        if of_images:
            shaped = grad_output.new_empty(1).expand(ctx.shape)
            image_gradient, _ = ctx.convolving.gradients(grad_output, shaped, weight, (True, False))
        weight_gradient = None
        if of_weight:
            own = ctx.calls.own_sum()
            _add_convolution(own, kept, weight.shape, grad_output, ctx.convolving, ctx.calls.ways)
            weight_gradient = ctx.calls.result(own, weight.shape)
        return image_gradient, weight_gradient, bias_gradient, None, None


def _add_convolution(
    total: WeightGradient,
    kept: Handle,
    shape: torch.Size,
    grad_output: Tensor,
    convolving: Convolving,
    ways: Counter[str],
) -> None:
    """Adds a call's share of the gradient of a weight ``(O, C / groups, ...)``."""
    at_rank = kept.image_at_rank() if isinstance(kept, View) and convolving.groups == 1 else None
    basis = None
    if at_rank is not None:
        images, basis = at_rank  # (B, k, ...)
    else:
        images = kept.unpack()
    ways[REBUILT if basis is None else AT_RANK] += 1
    channels = images.shape[1] // convolving.groups
    shaped = grad_output.new_empty(1).expand(shape[0], channels, *shape[2:])
    _, gradient = convolving.gradients(grad_output, images, shaped, (False, True))
    assert gradient is not None  # noqa: S101 - it was asked for
    total.add_kernels(gradient, basis)
