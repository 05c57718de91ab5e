"""What the low-rank strategies share: the payload ``Z Q^T`` and the linear algebra of subspaces.

Matrices are named as in the papers: rows ``X (N, D)``, basis ``Q (D, k)``, coefficients ``Z = X Q (N, k)``. Bases and
everything that is accumulated over calls are in at least fp32; the products with ``X`` run in the dtype of ``X``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compbench import Payload

_MOST_ELEMENTS = 2**31 - 1
"""That BLAS counts."""

_GRAM_BLOCK = 1024
"""Rows that are widened to fp32 at a time for a Gram matrix, so that no second copy of all of them is ever alive."""


class LowRank(Payload):
    """Rows as ``X ~ Z Q^T``.

    Args:
        Z: coefficients ``(N, k)`` in the rows' dtype, or None when somebody else keeps them.
        Q: basis ``(D, k)``. It is shared between payloads and never changed in place.
    """

    def __init__(self, Z: Tensor | None, Q: Tensor) -> None:
        self._Z = Z
        self._Q = Q

    @property
    def basis(self) -> Tensor:
        """``Q``, ``(D, k)``, in the dtype of bases."""
        return self._Q

    def _factors(self) -> tuple[Tensor, Tensor]:
        """``Z (N, k)`` and ``Q^T (k, D)``, both in the rows' dtype."""
        if self._Z is None:
            raise TypeError("this payload's coefficients are kept elsewhere; put them back by with_coefficients")
        return self._Z, self.basis.to(self._Z.dtype).T

    def decode(self) -> Tensor:
        Z, Q_T = self._factors()
        return Z @ Q_T

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        """``(dY^T Z) Q^T``, ``(M, D)``: 2 k M (N + D) operations, and ``X`` is never rebuilt."""
        Z, Q_T = self._factors()
        return (grad_output.T @ Z) @ Q_T

    def rank(self) -> int | None:
        return self._Q.shape[1]

    def factors(self) -> tuple[Tensor, Tensor] | None:
        return None if self._Z is None else (self._Z, self._Q)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self._Q,) if self._Z is None else (self._Z, self._Q)

    def coefficients(self) -> Tensor | None:
        return self._Z

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        return LowRank(coefficients, self._Q)


def basis_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of bases and accumulators for rows of ``dtype``: fp32, or fp64 for fp64 rows."""
    return torch.promote_types(dtype, torch.float32)


def basis_bytes(width: int, rank: int, itemsize: int) -> int:
    """Bytes of one basis ``(D, k)`` for rows of ``itemsize`` bytes an element."""
    return width * rank * max(itemsize, torch.float32.itemsize)


def project(X: Tensor, Q: Tensor) -> Tensor:
    """The coefficients ``Z = X Q``, ``(N, k)``, in the dtype of ``X``."""
    return X @ Q.to(X.dtype)


def cross_product(X: Tensor, Z: Tensor) -> Tensor:
    """``X^T Z``, ``(D, k)``, in the dtype of bases."""
    wide = basis_dtype(X.dtype)
    if X.dtype == wide:
        return (Z.T @ X).T  # the narrow factor first: the faster order on CPU
    # The sum over rows would overflow fp16, their mean does not.
    return (X.T @ (Z / len(X))).to(wide) * len(X)


def add_cross_product(M: Tensor | None, X: Tensor, Z: Tensor) -> Tensor:
    """``M + X^T Z``, ``(D, k)``, in the place of ``M`` if there is one; ``M`` came from here."""
    if M is None:
        return cross_product(X, Z)
    if X.dtype == M.dtype:
        M.T.addmm_(Z.T, X)
        return M
    return M.add_(cross_product(X, Z))


def add_gram(C: Tensor, X: Tensor) -> None:
    """Adds ``X^T X`` to the Gram matrix ``C``, ``(D, D)``, in place and in the precision of ``C``."""
    for block in torch.split(X, _GRAM_BLOCK):
        wide = block.to(C.dtype)
        C.addmm_(wide.T, wide)


def low_rank_operations(rows: int, width: int, rank: int, outputs: int, products: int) -> int:
    """Multiplications of a call whose weight gradient is ``(dY^T Z) Q^T``; the last product is one for many calls.

    Args:
        rows: ``N``.
        width: ``D``.
        rank: ``k``.
        outputs: ``M``.
        products: how often encoding multiplies the rows with a matrix of ``k`` columns.
    """
    return rows * rank * (products * width + outputs)


def squared_norm(X: Tensor) -> Tensor:
    """The squared Frobenius norm as a scalar on the device, in the dtype of bases.

    By BLAS where it can be: of ``(3872, 1536)`` fp32 numbers it took half of the time of ``vector_norm`` with two
    threads, and was off by 4e-5 in the place of 3e-4.
    """
    if X.dtype == basis_dtype(X.dtype) and X.is_contiguous() and X.numel() <= _MOST_ELEMENTS:
        flat = X.view(-1)
        return torch.dot(flat, flat)
    norm: Tensor = torch.linalg.vector_norm(X, dtype=basis_dtype(X.dtype))
    return norm.square()


def orthonormal(M: Tensor) -> Tensor:
    """``Orth(M)``: orthonormal columns that span those of ``M (D, k)``, by a QR decomposition.

    Where the rank of ``M`` is below ``k`` the columns are completed to an orthonormal set. What LAPACK makes of NaN is
    not defined, so that entries that are not finite count as zero: whoever needs to know looks at ``M``.

    By Householder reflections, in the precision of ``M``. Cholesky-QR is no better: in fp32 it loses orthogonality
    beyond a condition of ``M`` of about 1e4, and that of ``X^T X Q`` was 3e3 to 1e5 in a small recursive model, so that
    it would often have to fall back to this. Nor is it faster on a CPU: two rounds of it, and the product by which a
    loss is noticed, took 1.7 ms of CPU time, and this 0.8, for ``(D, k) = (512, 128)``; 4.7 and 2.0 for ``(1536,
    128)``; 9.0 and 4.6 for ``(3072, 128)``; 14 and 6.5 for ``(512, 470)``; 0.03 and 0.01 for ``(64, 16)``. With two
    threads it took twice the time as well, or more. With Gram matrices in fp64, by which it is orthogonal, it is
    slower still (torch 2.13, fp32, the fastest of 30 runs). Neither asks a CUDA device for anything.
    """
    Q: Tensor = torch.linalg.qr(torch.nan_to_num(M, nan=0.0, posinf=0.0, neginf=0.0)).Q
    return Q


def largest_entry(M: Tensor) -> Tensor:
    """The largest magnitude in a matrix, as a scalar on the device; NaN where it has one."""
    largest: Tensor = torch.linalg.vector_norm(M, ord=math.inf)
    return largest


def leading_eigenvectors(C: Tensor, k: int) -> Tensor:
    """The ``k`` leading eigenvectors ``(D, k)`` of a finite Gram matrix ``C = X^T X``, greatest eigenvalue first.

    They are the top-k right singular vectors of ``X``.
    """
    vectors: Tensor = torch.linalg.eigh(C).eigenvectors
    return vectors[:, -k:].flip(1).contiguous()
