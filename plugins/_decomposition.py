"""What the strategies share that decompose the rows of a call: principal directions, fidelity, and a call by itself.

Matrices are named as in ``_subspace``: rows ``X (N, D)``, basis ``Q (D, k)``, coefficients ``Z = X Q (N, k)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compbench import Dense, Payload

from ._subspace import (
    LowRank,
    add_gram,
    basis_bytes,
    basis_dtype,
    cross_product,
    leading_eigenvectors,
    orthonormal,
    project,
    squared_norm,
)

_RANGE_FINDER_ITERATIONS = 2


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


def first_basis(C: Tensor, k: int) -> Tensor | None:
    """The ``k`` leading eigenvectors of ``C = X^T X (D, D)``; None where it is zero or not finite. Asks the device."""
    largest = float(torch.linalg.vector_norm(C, ord=math.inf))
    return leading_eigenvectors(C, k) if math.isfinite(largest) and largest > 0 else None


def rank_figures(asked: int, width: int) -> dict[str, float]:
    """The rank at a site, and 1 under ``rank_clamped`` where the one that was asked for is above the width."""
    return {"rank": float(min(asked, width)), "rank_clamped": int(asked > width)}


class Fidelity:
    """``|Z|_F / |X|_F`` over the calls of a step: gathered on the device, and read once when the step ends.

    With an orthonormal basis this is the cosine of ``X`` and what it is rebuilt to.
    """

    def __init__(self) -> None:
        self._energies: Tensor | None = None  # |X|^2 and |Z|^2, (2,)
        self._last: float | None = None

    def add(self, X: Tensor, Z: Tensor) -> None:
        """Adds a call with rows ``X (N, D)`` and coefficients ``Z (N, k)``."""
        self.add_energies(squared_norm(X), squared_norm(Z))

    def add_energies(self, energy: Tensor, kept: Tensor) -> None:
        """Adds a call of which ``|X|^2`` and ``|Z|^2`` are known."""
        both = torch.stack([energy, kept])
        self._energies = both if self._energies is None else self._energies + both

    def end_step(self) -> bool:
        """Reads the step's sums; whether they are finite and there was anything but zeros."""
        energies, self._energies = self._energies, None
        if energies is None:
            return False
        energy, kept = energies.tolist()
        if not (math.isfinite(energy) and math.isfinite(kept) and energy > 0):
            return False
        self._last = min(1.0, math.sqrt(kept / energy))  # rounding may leave |Z| just above |X|
        return True

    def discard_step(self) -> None:
        """Forgets the sums of the step under way."""
        self._energies = None

    def tensors(self) -> list[Tensor]:
        """The sums of the step under way."""
        return [] if self._energies is None else [self._energies]

    def figures(self) -> dict[str, float]:
        """``fidelity`` and ``relative_error`` of the last step in which there were any."""
        if self._last is None:
            return {}
        return {"fidelity": self._last, "relative_error": math.sqrt(1 - self._last**2)}
