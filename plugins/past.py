"""``past``: a basis that follows the activations with a memory of earlier steps.

Keeps the coefficients ``Y = X Q`` of every call and one basis ``Q`` for all calls of a step: O(n N k + D k). Between
steps it holds two small correlation matrices, ``(k, k)`` and ``(D, k)``.

Error: biased; the basis lags behind the activations by its memory.

Source: Projection Approximation Subspace Tracking (Yang, IEEE Transactions on Signal Processing 43(1), 1995), which
LASER (arXiv 2604.17224) names as what it is drawn from. PAST minimises the squares of ``x - W y``, ``y = W^T x`` with
the ``W`` before, by recursive least squares that forget the past by a factor ``beta``. In exact form, and a block at a
time::

    C_yy <- beta C_yy + Y^T Y,    C_xy <- beta C_xy + X^T Y,    Q <- Orth(C_xy C_yy^-1)

With ``beta = 0`` the span is that of LASER's power iteration, ``Orth(X^T Y)``: ``past`` is LASER's tracking with
memory, without its growth and resets. It departs from the source thus:

- A block is all calls of a step. PAST updates after every row, which would be thousands of tiny updates a call; a
  basis that is frozen within a step is kept once for all of its calls, too.
- ``W`` is made orthonormal after every block, since ``Y Q^T`` rebuilds rows only with an orthonormal ``Q``; PAST's is
  so in the limit alone. ``Orth`` is the nearest orthonormal matrix (the polar factor), and not that of a QR
  decomposition: the columns of ``C_xy`` and ``C_yy`` belong to the columns of ``Q``, and would be those of another
  basis after a turn or a change of sign.
- The inverse of ``C_yy`` is that of ``C_yy`` and a millionth of its mean diagonal, which changes no span. PAST
  carries the inverse along instead, from an arbitrary start.
- The first basis is the leading eigenvectors of the Gram matrix over all calls of the first step, and ``C_yy`` and
  ``C_xy`` are what that step gives in it; PAST starts from any. Until that step ends there is no common basis, and each
  of its calls has one of its own by a randomised range finder.

A step of zeros, or with rows that are not finite, leaves the basis and its memory alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._decomposition import Fidelity, encode_alone, has_directions, rank_figures
from ._streams import CallStream
from ._subspace import (
    LowRank,
    add_gram,
    basis_bytes,
    basis_dtype,
    cross_product,
    largest_entry,
    leading_eigenvectors,
    low_rank_operations,
    project,
)

_RIDGE = 1e-6
"""Added to the diagonal of ``C_yy``, as a share of its mean: where there are fewer directions than columns."""


class Past(Compressor):
    """Subspace tracking with a forgetting factor: a power iteration that remembers earlier steps."""

    name: ClassVar[str] = "past"

    rank: int = Field(128, ge=1, description="rank k; a narrower site uses its width")
    beta: float = Field(
        0.9, ge=0, le=0.99, description="weight of the steps before; 0: the power iteration of the step alone"
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return PastCodec(self, site.width, generator)


class PastCodec(Codec):
    """The basis ``Q`` of one site, and the correlations that it is made from."""

    def __init__(self, settings: Past, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self.k = min(settings.rank, width)
        self.Q: Tensor | None = None  # (D, k), orthonormal columns; replaced, never changed in place
        self.C_yy: Tensor | None = None  # (k, k)
        self.C_xy: Tensor | None = None  # (D, k)
        self._C: Tensor | None = None  # X^T X of the first step, (D, D)
        self._Y_Y: Tensor | None = None  # Y^T Y of this step, (k, k)
        self._X_Y: Tensor | None = None  # X^T Y of this step, (D, k)
        self._fidelity = Fidelity()
        self._stream = CallStream(generator)

    def encode(self, X: Tensor) -> Payload:
        wide = basis_dtype(X.dtype)
        if self.Q is None:
            if self._C is None:
                self._C = torch.zeros(self.D, self.D, dtype=wide, device=X.device)
            add_gram(self._C, X)
            return encode_alone(X, self.k, self._stream.next())
        if self._Y_Y is None or self._X_Y is None:
            self._Y_Y = torch.zeros(self.k, self.k, dtype=wide, device=X.device)
            self._X_Y = torch.zeros(self.D, self.k, dtype=wide, device=X.device)
        Y = project(X, self.Q)  # (N, k)
        add_gram(self._Y_Y, Y)
        self._X_Y += cross_product(X, Y)
        self._fidelity.add(X, Y)
        return LowRank(Y, self.Q)

    def readings(self) -> Iterable[Tensor]:
        readings = self._fidelity.tensors()
        if self._C is not None:
            readings += [largest_entry(self._C)]
        if self._Y_Y is not None and self._X_Y is not None:
            C_yy, C_xy = self._correlations(self._Y_Y, self._X_Y)
            readings += [largest_entry(C_xy), C_yy.trace()]
        return readings

    def end_step(self) -> None:
        numbers = iter(self.read())
        self._stream.end_step()
        sound = self._fidelity.end_step(numbers)
        C, self._C = self._C, None
        Y_Y, self._Y_Y = self._Y_Y, None
        X_Y, self._X_Y = self._X_Y, None
        if C is not None:
            if has_directions(next(numbers)):
                self._begin(C)
        elif Y_Y is not None and X_Y is not None:
            largest, trace = numbers
            if sound and math.isfinite(largest) and trace > 0:  # the products of fp16 rows may overflow
                self._iterate(*self._correlations(Y_Y, X_Y))

    def _begin(self, C: Tensor) -> None:
        """The first basis and its correlations, from ``C = X^T X (D, D)``."""
        self.Q = leading_eigenvectors(C, self.k)
        self.C_xy = C @ self.Q  # X^T Y
        self.C_yy = self.Q.T @ self.C_xy  # Y^T Y

    def _correlations(self, Y_Y: Tensor, X_Y: Tensor) -> tuple[Tensor, Tensor]:
        """The block recursion: ``C_yy (k, k)`` and ``C_xy (D, k)``, from ``Y^T Y`` and ``X^T Y`` of a step."""
        beta = self.settings.beta
        C_yy = Y_Y if self.C_yy is None else beta * self.C_yy + Y_Y
        C_xy = X_Y if self.C_xy is None else beta * self.C_xy + X_Y
        return C_yy, C_xy

    def _iterate(self, C_yy: Tensor, C_xy: Tensor) -> None:
        """The basis from its correlations."""
        self.C_yy, self.C_xy = C_yy, C_xy
        self.Q = nearest_orthonormal(divided(C_xy, C_yy)).to(C_xy.dtype)

    def discard_step(self) -> None:
        self._stream.discard_step()
        self._fidelity.discard_step()
        self._C = self._Y_Y = self._X_Y = None

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * rows * self.k * itemsize + basis_bytes(self.D, self.k, itemsize)

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return low_rank_operations(rows, self.D, self.k, outputs, products=2)

    def coefficient_width(self) -> int:
        return self.k

    def state(self) -> Iterable[Tensor]:
        held = (self.Q, self.C_yy, self.C_xy, self._C, self._Y_Y, self._X_Y)
        return [tensor for tensor in held if tensor is not None] + self._fidelity.tensors()

    def statistics(self) -> dict[str, float]:
        return rank_figures(self.settings.rank, self.D) | self._fidelity.figures()


def divided(C_xy: Tensor, C_yy: Tensor) -> Tensor:
    """``W = C_xy C_yy^-1``, ``(D, k)``, in fp64: the condition of ``C_yy`` is that of the rows, squared."""
    wide = C_yy.double()
    ridge = _RIDGE * wide.diagonal().mean()
    # W C_yy = C_xy is C_yy W^T = C_xy^T, as C_yy is symmetric.
    regular = (wide + wide.T) / 2 + ridge * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    # Regular by its ridge. linalg.solve would ask the device whether it is.
    W_T: Tensor = torch.linalg.solve_ex(regular, C_xy.double().T).result
    return W_T.T


def nearest_orthonormal(W: Tensor) -> Tensor:
    """The matrix with orthonormal columns that is nearest to ``W (D, k)``: ``U V^T`` of ``W = U S V^T``."""
    U, _, V_T = torch.linalg.svd(W, full_matrices=False)
    nearest: Tensor = U @ V_T
    return nearest.contiguous()


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``past``."""
    return [Past]
