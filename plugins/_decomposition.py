"""What the strategies share that decompose the rows of a call: principal directions, fidelity, and a call by itself.

Matrices are named as in ``_subspace``: rows ``X (N, D)``, basis ``Q (D, k)``, coefficients ``Z = X Q (N, k)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from compbench import Dense, Payload

from ._subspace import (
    LowRank,
    add_gram,
    basis_bytes,
    basis_dtype,
    cross_product,
    orthonormal,
    project,
    squared_norm,
)

_RANGE_FINDER_ITERATIONS = 2

SELDOM = 10
"""Of so many steps one is measured for its fidelity by strategies that take no norms for anything else: those of all
rows are some 3 % of a step of ``lance`` in a small model, and more in bf16."""


def principal_directions(X: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best basis of rank ``k`` for ``X``, and the energies of all principal directions.

    By the Gram matrix ``X^T X (D, D)``, or ``X X^T (N, N)`` where there are fewer rows than columns. On CUDA torch's
    ``eigh`` waits for the device by itself, as its SVD does.

    Returns:
        ``Q (D, k)``, the leading right singular vectors of ``X``, completed to ``k`` columns where there are fewer; and
        the squared singular values, greatest first, ``(min(N, D),)``, NaN where ``X`` is not finite.
    """
    N, D = X.shape
    rows = X if N >= D else X.T
    C = torch.zeros(min(N, D), min(N, D), dtype=basis_dtype(X.dtype), device=X.device)
    add_gram(C, rows)
    finite = C.isfinite().all()
    values, vectors = torch.linalg.eigh(torch.where(finite, C, 0.0))
    energies = torch.where(finite, values.flip(0).clamp(min=0), torch.nan)
    leading = vectors[:, -k:].flip(1).contiguous()
    if N >= D:
        return leading, energies
    # u_i to sigma_i q_i = X^T u_i. Columns of zeros become whatever completes the others.
    M = X.to(C.dtype).T @ leading  # (D, min(N, k))
    return orthonormal(torch.nn.functional.pad(M, (0, k - M.shape[1]))), energies


def encode_alone(X: Tensor, k: int, generator: torch.Generator) -> Payload:
    """A call for which there is no basis yet: one of its own, by a randomised range finder of the rows' space.

    Where that would not keep less than the rows, the rows themselves.
    """
    if not pays(len(X), X.shape[1], k, X.itemsize):
        return Dense(X)
    Omega = torch.randn(len(X), k, dtype=X.dtype, device=X.device, generator=generator)  # (N, k)
    Q = orthonormal(cross_product(X, Omega))  # (D, k)
    for _ in range(_RANGE_FINDER_ITERATIONS):
        Q = orthonormal(cross_product(X, project(X, Q)))
    return LowRank(project(X, Q), Q)


def pays(rows: int, width: int, rank: int, itemsize: int) -> bool:
    """Whether coefficients and a basis of their own take less than ``rows`` rows of ``width`` columns."""
    return rows * rank * itemsize + basis_bytes(width, rank, itemsize) < rows * width * itemsize


def has_directions(largest: float) -> bool:
    """Whether a Gram matrix with this largest entry is neither zero nor spoilt by rows that are not finite."""
    return math.isfinite(largest) and largest > 0


def rank_figures(asked: int, width: int) -> dict[str, float]:
    """The rank at a site, and 1 under ``rank_clamped`` where the one that was asked for is above the width.

    All low-rank strategies have the two under these names. A site whose rank is its width is left raw, unless a further
    strategy in a chain makes its coefficients smaller: what would be kept is no less than the rows.
    """
    return {"rank": float(min(asked, width)), "rank_clamped": int(asked > width)}


class Fidelity:
    """``|Z|_F / |X|_F`` over all calls of a step, as LASER's Algorithm 1 has it in line 5.

    This is what ``fidelity`` means in the statistics of every strategy: with an orthonormal basis it is the cosine of
    ``X`` and what it is rebuilt to, and its square the share of the energy ``|X|_F^2`` that is kept. Strategies
    whose rebuilds are no projections have none: an unbiased sketch is longer than its rows.

    It is gathered on the device. A codec has :meth:`tensors` among its ``readings()``, and hands on their values when
    the step ends.

    Args:
        every: steps from one that is measured to the next; see :data:`SELDOM`.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._wait = 0  # steps that are not measured until the next one is
        self._energies: Tensor | None = None  # |X|^2 and |Z|^2, (2,)
        self._last: float | None = None

    def add(self, X: Tensor, Z: Tensor) -> None:
        """Adds a call with rows ``X (N, D)`` and coefficients ``Z (N, k)``, if the step is one to be measured."""
        if self._wait == 0:
            self.add_energies(squared_norm(X), squared_norm(Z))

    def add_energies(self, energy: Tensor, kept: Tensor) -> None:
        """Adds a call of which ``|X|^2`` and ``|Z|^2`` are known."""
        both = torch.stack([energy, kept])
        self._energies = both if self._energies is None else self._energies + both

    def end_step(self, numbers: Iterator[float]) -> bool:
        """Takes the values of :meth:`tensors` from those of a codec; whether they tell of anything but zeros or NaN."""
        energies, self._energies = self._energies, None
        if energies is None:
            self._wait = max(0, self._wait - 1)
            return False
        energy, kept = islice(numbers, len(energies))
        if not (math.isfinite(energy) and math.isfinite(kept) and energy > 0):
            return False
        self._last = min(1.0, math.sqrt(kept / energy))  # rounding may leave |Z| just above |X|
        self._wait = self._every - 1
        return True

    def discard_step(self) -> None:
        """Forgets the sums of the step under way."""
        self._energies = None

    def tensors(self) -> list[Tensor]:
        """The sums of the step under way, if it is one to be measured."""
        return [] if self._energies is None else [self._energies]

    def figures(self) -> dict[str, float]:
        """``fidelity`` and ``relative_error``, ``|X - X^|_F / |X|_F``, of the last step that was measured."""
        if self._last is None:
            return {}
        return {"fidelity": self._last, "relative_error": math.sqrt(1 - self._last**2)}
