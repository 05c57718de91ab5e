"""Linear algebra of subspaces: what Gram matrices and bases say of the rows that they were made from.

Rows are ``X (N, D)``, their Gram matrix ``C = X^T X (D, D)``, uncentred, a basis ``Q (D, k)`` with orthonormal columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def add_gram(C: Tensor, rows: Tensor, block: int = 4096) -> None:
    """Adds ``X^T X`` to ``C (D, D)``, in place and in its dtype, a block of rows at a time."""
    for part in torch.split(rows, block):
        wide = part.to(C.dtype)
        C.addmm_(wide.T, wide)


def principal_components(C: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a Gram matrix, ``(D,)``, largest first and none below 0, and its eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(C)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def fidelity_at(values: Tensor, rank: int) -> float:
    """The cosine of rows and their best rebuild of a rank, ``sqrt(sum of the k largest / sum)`` (Eckart and Young).

    Args:
        values: eigenvalues of the Gram matrix, largest first.
        rank: ``k``.
    """
    total = float(values.sum())
    return math.sqrt(min(1.0, float(values[:rank].sum()) / total)) if total > 0 else math.nan


def rank_at_fidelity(values: Tensor, fidelity: float) -> int:
    """The least rank whose best rebuild has at least this fidelity; 0 where all rows are zero."""
    total = values.sum()
    if not total > 0:
        return 0
    reached = (values.cumsum(0) / total).clamp(max=1.0) >= fidelity**2 - 1e-12
    return int(reached.to(torch.int64).argmax()) + 1 if bool(reached.any()) else len(values)


def numerical_rank(values: Tensor, dtype: torch.dtype) -> int:
    """Singular values of the rows that are above what rounding leaves.

    Rounding every number of ``X`` once, to a relative ``eps``, moves a singular value by ``eps |X|_F`` at most (Weyl):
    smaller ones can't be told from 0. Of a Gram matrix in float64 nothing below ``sqrt(eps)`` is left.

    Args:
        values: eigenvalues of the Gram matrix, in float64.
        dtype: of the rows.
    """
    eps = max(torch.finfo(dtype).eps, math.sqrt(torch.finfo(torch.float64).eps))
    total = values.sum()
    return int((values > eps**2 * total).sum()) if total > 0 else 0


def participation_ratio(values: Tensor) -> float:
    """``(sum l)^2 / sum l^2``: ``m`` for ``m`` equal eigenvalues and zeros besides."""
    squares = float(values.square().sum())
    return float(values.sum()) ** 2 / squares if squares > 0 else math.nan


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Principal angles between the column spaces of two matrices, in radians, smallest first.

    As many as the narrower one has columns. By sines where the cosine is near 1, which loses the small ones (Bjorck and
    Golub, 1973; Knyazev and Argentati, 2002).

    Args:
        first: ``(D, k)``, of full column rank.
        second: ``(D, l)``, likewise.
    """
    Q, P = (torch.linalg.qr(matrix.double())[0] for matrix in (first, second))
    if Q.shape[1] < P.shape[1]:
        Q, P = P, Q
    overlap = Q.T @ P  # (k, l), l <= k
    cosines = torch.linalg.svdvals(overlap).clamp(max=1.0)  # largest first
    sines = torch.linalg.svdvals(P - Q @ overlap).clamp(max=1.0).flip(0)  # smallest first
    return torch.where(cosines.square() < 0.5, cosines.arccos(), sines.arcsin())


def overlap(first: Tensor, second: Tensor) -> float:
    """``|Q^T P|_F^2 / k`` with ``k`` the narrower of two orthonormal bases: 1 where one space is inside the other."""
    narrower = min(first.shape[1], second.shape[1])
    return float((first.double().T @ second.double()).square().sum()) / narrower


def fidelity_in(C: Tensor, Q: Tensor) -> float:
    """``|X Q|_F / |X|_F`` for an orthonormal basis, from the Gram matrix of the rows."""
    kept, total = float((Q * (C @ Q)).sum()), float(C.diagonal().sum())
    return math.sqrt(max(0.0, min(1.0, kept / total))) if total > 0 else math.nan
