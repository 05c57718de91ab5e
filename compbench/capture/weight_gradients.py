"""Weight gradients over all the calls of a weight, formed at the rank of what was kept, and expanded once.

A linear layer's weight gradient is ``sum dY^T X`` over its calls. Where the calls of a step kept their rows as
``X ~ Z Q^T`` in one basis, it is ``(sum dY^T Z) Q^T``: ``k / D`` of the arithmetic for each call, and one product more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from compbench.capture.versions import place_of


class Scaling(NamedTuple):
    """What rows are multiplied by and what is added to them, each ``(D,)`` or None, as a norm does at its end."""

    weight: Tensor | None = None
    bias: Tensor | None = None

    def is_same(self, other: Scaling) -> bool:
        """Whether the other one has the same tensors."""
        return _same(self.weight, other.weight) and _same(self.bias, other.bias)


_UNSCALED = Scaling()


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape  # both are alive


class WeightGradient:
    """The gradient of one weight, summed up over the calls of one backward pass.

    The weight of a linear layer is ``(M, D)``. That of a convolution, ``(O, C, ...)``, is summed up with its channels
    last, as ``(M, C)`` with ``M`` the outputs times the places of the kernel.
    """

    __slots__ = ("_full", "_narrow", "_outputs", "_scaling", "_shared")

    def __init__(self) -> None:
        self._full: Tensor | None = None  # (M, D)
        self._narrow: Tensor | None = None  # (k, M), the sum of Z^T dY in the basis that is shared
        self._shared: Tensor | None = None  # that basis, (D, k)
        self._scaling = _UNSCALED  # of the rows that are kept in it
        self._outputs: Tensor | None = None  # (M,), the sum of dY over rows that a bias was added to

    def add_rows(self, rows: Tensor, grad_output: Tensor) -> None:
        """Adds a call of a linear layer.

        Args:
            rows: ``X``, ``(N, D)``.
            grad_output: ``dY``, ``(N, M)``.
        """
        if self._full is None:
            self._full = grad_output.T @ rows
        else:
            self._full.addmm_(grad_output.T, rows)

    def add_factors(
        self, coefficients: Tensor, basis: Tensor, grad_output: Tensor, scaling: Scaling = _UNSCALED
    ) -> None:
        """Adds a call of a linear layer whose rows are ``Z Q^T``, scaled, at their rank.

        Args:
            coefficients: ``Z``, ``(N, k)``.
            basis: ``Q``, ``(D, k)``.
            grad_output: ``dY``, ``(N, M)``.
            scaling: what was done to the rows before they came to the layer.
        """
        self._share(basis, scaling)
        if self._narrow is None:
            self._narrow = coefficients.T @ grad_output
        else:
            self._narrow.addmm_(coefficients.T, grad_output)
        if scaling.bias is not None:
            total = grad_output.sum(0)
            self._outputs = total if self._outputs is None else self._outputs.add_(total)

    def add_unscaled(self, gradient: Tensor, grad_output: Tensor, scaling: Scaling) -> None:
        """Adds a call of a linear layer from what the rows would have given before they were scaled.

        Args:
            gradient: ``dY^T X``, ``(M, D)``, of the rows ``X`` before.
            grad_output: ``dY``, ``(N, M)``.
            scaling: what was done to the rows before they came to the layer.
        """
        weight, bias = scaling
        self.add(gradient if weight is None else gradient * weight)
        if bias is not None and self._full is not None:
            self._full.addr_(grad_output.sum(0), bias)

    def add_kernels(self, gradient: Tensor, basis: Tensor | None) -> None:
        """Adds a call of a convolution.

        Args:
            gradient: of a weight ``(O, k, ...)`` on images of ``k`` channels.
            basis: ``Q``, ``(C, k)``, of these channels; None where they are the images' own.
        """
        rows = gradient.movedim(1, -1).reshape(-1, gradient.shape[1])  # (M, k)
        if basis is None:
            self.add(rows)
            return
        self._share(basis, _UNSCALED)
        self._narrow = rows.T if self._narrow is None else self._narrow.add_(rows.T)

    def add(self, gradient: Tensor) -> None:
        """Adds a call's share, ``(M, D)``; the sum may be made in its memory."""
        self._full = gradient if self._full is None else self._full.add_(gradient)

    def total(self, shape: torch.Size) -> Tensor | None:
        """The sum in the shape of the weight; None if nothing was added."""
        self._expand()
        full = self._full
        if full is None or len(shape) == 2:
            return full
        return full.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()

    def _share(self, basis: Tensor, scaling: Scaling) -> None:
        """Makes ``basis`` the one in which calls are summed up, of rows that are scaled so."""
        if self._shared is not basis or not self._scaling.is_same(scaling):
            self._expand()
            self._shared, self._scaling = basis, scaling

    def _expand(self) -> None:
        """Turns the sum at rank ``k`` into one at full width."""
        narrow, basis, outputs, (weight, bias) = self._narrow, self._shared, self._outputs, self._scaling
        self._narrow = self._shared = self._outputs = None
        self._scaling = _UNSCALED
        if narrow is None or basis is None:
            return
        columns = basis.to(narrow.dtype).T
        if weight is not None:
            columns = columns * weight
        if self._full is None:
            self._full = narrow.T @ columns
        else:
            self._full.addmm_(narrow.T, columns)
        if outputs is not None and bias is not None:
            self._full.addr_(outputs, bias)


class Anchor(torch.autograd.Function):
    """Stands between a weight and the operators that use it, and gives it the gradient that their calls summed up.

    Autograd runs its backward when those of all users have run, in which they put their share into ``sums``. A user
    outside the session's own operators gives its share in the ordinary way.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, sums: dict[int, WeightGradient]) -> Tensor:
        """The weight itself; ``sums`` holds what backward passes that are under way have summed up, by their number."""
        ctx.set_materialize_grads(False)
        ctx.sums, ctx.shape = sums, weight.shape
        # No view, whose node autograd would make again when the weight is changed in place; the version is shared.
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, None]:
        """What the users gave in the ordinary way, and what they summed up."""
        (given,) = grad_outputs
        own = ctx.sums.pop(torch._C._current_graph_task_id(), None)
        total = None if own is None else own.total(ctx.shape)
        if total is None or given is None:
            return (given if total is None else total), None
        return given + total, None


class AnchoredWeights:
    """The weights of a step behind their anchors, one for each weight however often it is called."""

    def __init__(self) -> None:
        self._anchored: dict[int, tuple[Tensor, Tensor, dict[int, WeightGradient]]] = {}

    def of(self, weight: Tensor) -> tuple[Tensor, dict[int, WeightGradient]]:
        """A weight behind its anchor, and where the backward passes of its users sum its gradient up."""
        found = self._anchored.get(id(weight))
        if found is None or not _is_alias(found[1], weight):
            sums: dict[int, WeightGradient] = {}
            anchored: Tensor = Anchor.apply(weight, sums)  # type: ignore[no-untyped-call]
            found = self._anchored[id(weight)] = (weight, anchored, sums)
        return found[1], found[2]

    def forget(self) -> None:
        """Lets go of them, and of what a backward pass summed up that never came to the weight."""
        for _, _, sums in self._anchored.values():
            sums.clear()
        self._anchored.clear()


def _is_alias(anchored: Tensor, weight: Tensor) -> bool:
    """Whether a weight lies where it lay when it got its anchor; ``weight.data = other`` puts it elsewhere."""
    return (
        anchored.untyped_storage()._cdata == weight.untyped_storage()._cdata
        and anchored.dtype is weight.dtype
        and place_of(anchored) == place_of(weight)
    )


def sum_of(sums: dict[int, WeightGradient]) -> WeightGradient:
    """Where the backward pass that is running sums up."""
    task: int = torch._C._current_graph_task_id()
    found = sums.get(task)
    if found is None:
        found = sums[task] = WeightGradient()
    return found
