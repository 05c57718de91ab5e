"""``lance``: a low-rank basis that is calibrated once and never moves.

Keeps the coefficients ``Z = X Q`` of every call and one basis ``Q`` for all calls and steps. It is the cheapest of
the low-rank strategies, and the one whose basis goes stale as the model learns: ``fidelity`` in the statistics, which
is measured in one step of ten, shows how much it still keeps of the rows.

Error: biased, and it goes stale: the basis never moves.

Source: LANCE (Apolinario and Roy, arXiv 2509.21617). It departs from the source thus:

- Features only. LANCE decomposes each mode of a ``(batch, positions, features)`` activation. A basis over the
  examples of a shuffled batch has no meaning in the next one, so that here ``Q`` comes from the feature Gram matrix
  ``X^T X`` alone.
- Calibration is on the training steps themselves, over all calls of one step, ``warmup`` steps after the first; LANCE
  runs about a hundred forward passes beforehand, whose running mean is dominated by the first.
- LANCE replaces the last few linear layers, and forms their weight gradients from ``Z``. Here every activation is
  encoded, and its rows are rebuilt where the backward pass uses them.

Until the calibration step has ended there is no basis, and rows are kept exactly as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site, hookimpl

from ._decomposition import SELDOM, Fidelity, has_directions, rank_figures
from ._subspace import (
    LowRank,
    add_gram,
    basis_bytes,
    basis_dtype,
    largest_entry,
    leading_eigenvectors,
    low_rank_operations,
    project,
)


class Lance(Compressor):
    """Low-rank basis calibrated on one step and fixed from then on."""

    name: ClassVar[str] = "lance"

    rank: int = Field(
        128, ge=1, description="rank, or the largest one where energy is given; a narrower site uses its width"
    )
    energy: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the energy to keep: the smallest rank that reaches it; null: rank as it is",
    )
    warmup: int = Field(0, ge=0, description="steps before the calibration step, in which rows are kept as they are")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return LanceCodec(self, site.width)


class LanceCodec(Codec):
    """The fixed basis ``Q`` of one site, once it is calibrated."""

    def __init__(self, settings: Lance, width: int) -> None:
        self.settings = settings
        self.D = width
        self.Q: Tensor | None = None  # (D, k), orthonormal columns
        self._C: Tensor | None = None  # X^T X of the calibration step, (D, D)
        self._steps = 0
        self._used = False
        self._fidelity = Fidelity(every=SELDOM)

    @property
    def k(self) -> int:
        """The rank, or before calibration the largest that it can be."""
        return min(self.settings.rank, self.D) if self.Q is None else self.Q.shape[1]

    def encode(self, X: Tensor) -> Payload:
        self._used = True
        if self.Q is not None:
            Z = project(X, self.Q)
            self._fidelity.add(X, Z)
            return LowRank(Z, self.Q)
        if self._steps >= self.settings.warmup:
            if self._C is None:
                self._C = torch.zeros(self.D, self.D, dtype=basis_dtype(X.dtype), device=X.device)
            add_gram(self._C, X)
        return Dense(X)

    def readings(self) -> Iterable[Tensor]:
        return self._fidelity.tensors() + ([] if self._C is None else [largest_entry(self._C)])

    def end_step(self) -> None:
        numbers = iter(self.read())
        self._steps += self._used
        self._used = False
        self._fidelity.end_step(numbers)
        C, self._C = self._C, None
        # A step of zeros, or with rows that are not finite, has no directions: the next one calibrates.
        if C is not None and has_directions(next(numbers)):
            self.Q = leading_eigenvectors(C, self._rank(C))

    def _rank(self, C: Tensor) -> int:
        """The rank to calibrate for ``C = X^T X (D, D)``, whose eigenvalues are the energies of its directions."""
        if self.settings.energy is None:
            return self.k
        energies = torch.linalg.eigvalsh(C).clamp(min=0).flip(0).double()
        shares = energies.cumsum(0) / energies.sum()
        return min(self.k, 1 + int((shares < self.settings.energy).sum()))

    def discard_step(self) -> None:
        self._C = None
        self._used = False
        self._fidelity.discard_step()

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        """What calibrated steps keep; unknown while ``energy`` has still to find the rank."""
        if self.Q is None and self.settings.energy is not None:
            return None
        return calls * rows * self.k * itemsize + basis_bytes(self.D, self.k, itemsize)

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return low_rank_operations(rows, self.D, self.k, outputs, products=1)

    def coefficient_width(self) -> int:
        return self.k

    def state(self) -> Iterable[Tensor]:
        return [tensor for tensor in (self.Q, self._C) if tensor is not None] + self._fidelity.tensors()

    def statistics(self) -> dict[str, float]:
        figures = {"calibrated": float(self.Q is not None)} | self._fidelity.figures()
        if self.settings.energy is not None:  # the rank is a limit then, and nobody asked for it
            return {"rank": float(self.k)} | figures
        return rank_figures(self.settings.rank, self.D) | figures


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``lance``."""
    return [Lance]
