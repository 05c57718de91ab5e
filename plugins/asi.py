"""``asi``: one step of subspace iteration at every call, from where the call before ended.

Keeps coefficients ``Z = X Q`` and a basis ``Q`` for each call, as ``loract`` does: O(n (N k + D k)). It is the control
for ``laser``: the same iteration, at a fixed rank, taken at each call and *before* the projection, so that every call
is encoded by a basis that has seen it.

Error: biased and fresh: the basis has seen the call that it encodes.

Source: Activation Subspace Iteration (Nguyen et al., ICML 2025, arXiv 2505.05086). Of each mode's unfolding ``A`` it
takes ``V = A^T U_prev``, ``U = Orth(A V)``, and keeps the activation in the *new* ``U``; the first ``V`` is random.
For the mode of the features ``A = X^T`` and ``U = Q``. A module that is called again starts from what its last call, of
the same step, ended with, and every call keeps its own factors: both are so in the authors' code. It departs from the
source thus:

- Features only. ASI has a factor for each mode, examples and positions too, and keeps the core. A codec sees rows, and
  does not know which belong together (``lance_tucker`` does it where it is told).
- One rank for all sites, where ASI finds one for each layer and mode by a search under a memory budget.
- Bases are in at least fp32, as in all strategies here. ASI rounds them to the activation's type after the QR
  decomposition, which in bf16 halves the bytes of a basis and costs its orthonormality.
- Every activation is encoded and rebuilt, where ASI replaces chosen linear layers and forms their weight gradients from
  the factors.
- The random start comes from the site's own generator; ASI seeds the global one with a constant.

A call without directions, of zeros or with rows that are not finite, leaves the basis as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._decomposition import Fidelity, rank_figures
from ._streams import CallStream
from ._subspace import LowRank, basis_bytes, cross_product, low_rank_operations, orthonormal, project


class Asi(Compressor):
    """Warm-started subspace iteration at every call, at a fixed rank."""

    name: ClassVar[str] = "asi"

    rank: int = Field(128, ge=1, description="rank k; a narrower site uses its width")
    start: Literal["warm", "cold"] = Field(
        "warm", description="each call starts from the basis of the one before, or from random numbers (no_reuse)"
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return AsiCodec(self, site.width, generator)


class AsiCodec(Codec):
    """The basis ``Q`` of the last call at one site."""

    def __init__(self, settings: Asi, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self.k = min(settings.rank, width)
        self.Q: Tensor | None = None  # (D, k), orthonormal columns; replaced, never changed in place
        self._Q_before_step: Tensor | None = None
        self._stream = CallStream(generator)
        self._fidelity = Fidelity()

    def encode(self, X: Tensor) -> Payload:
        Q = self._iterated(X)
        if self.settings.start == "warm":
            self.Q = Q
        Z = project(X, Q)  # the core: (N, k)
        self._fidelity.add(X, Z)
        return LowRank(Z, Q)

    def _iterated(self, X: Tensor) -> Tensor:
        """``U = Orth(A V)`` with ``A = X^T (D, N)``: ``(D, k)``."""
        if self.Q is None:
            V = torch.randn(len(X), self.k, dtype=X.dtype, device=X.device, generator=self._stream.next())  # (N, k)
            return orthonormal(cross_product(X, V))
        V = project(X, self.Q)  # A^T U_prev: (N, k)
        M = cross_product(X, V)  # A V: (D, k)
        return torch.where(M.isfinite().all() & M.any(), orthonormal(M), self.Q)

    def readings(self) -> Iterable[Tensor]:
        return self._fidelity.tensors()

    def end_step(self) -> None:
        self._stream.end_step()
        self._fidelity.end_step(iter(self.read()))
        self._Q_before_step = self.Q

    def discard_step(self) -> None:
        self._stream.discard_step()
        self._fidelity.discard_step()
        self.Q = self._Q_before_step

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * (rows * self.k * itemsize + basis_bytes(self.D, self.k, itemsize))

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return low_rank_operations(rows, self.D, self.k, outputs, products=3)

    def coefficient_width(self) -> int:
        return self.k

    def state(self) -> Iterable[Tensor]:
        return [Q for Q in (self.Q, self._Q_before_step) if Q is not None] + self._fidelity.tensors()

    def statistics(self) -> dict[str, float]:
        return rank_figures(self.settings.rank, self.D) | self._fidelity.figures()


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``asi``."""
    return [Asi]
