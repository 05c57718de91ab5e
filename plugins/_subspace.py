"""What the low-rank strategies share: the payload ``Z Q^T`` and the linear algebra of subspaces.

Matrices are named as in the papers: rows ``X (N, D)``, basis ``Q (D, k)``, coefficients ``Z = X Q (N, k)``. Bases and
everything that is accumulated over calls are in at least fp32; the products with ``X`` run in the dtype of ``X``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compbench import Payload

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


def add_gram(C: Tensor, X: Tensor) -> None:
    """Adds ``X^T X`` to the Gram matrix ``C``, ``(D, D)``, in place and in the precision of ``C``."""
    for block in torch.split(X, _GRAM_BLOCK):
        wide = block.to(C.dtype)
        C.addmm_(wide.T, wide)


def squared_norm(X: Tensor) -> Tensor:
    """The squared Frobenius norm as a scalar on the device, in the dtype of bases."""
    norm: Tensor = torch.linalg.vector_norm(X, dtype=basis_dtype(X.dtype))
    return norm.square()


def orthonormal(M: Tensor) -> Tensor:
    """``Orth(M)``: orthonormal columns that span those of ``M (D, k)``, by a QR decomposition.

    Where the rank of ``M`` is below ``k`` the columns are completed to an orthonormal set. What LAPACK makes of NaN is
    not defined, so that entries that are not finite count as zero: whoever needs to know looks at ``M``.
    """
    Q: Tensor = torch.linalg.qr(torch.nan_to_num(M, nan=0.0, posinf=0.0, neginf=0.0)).Q
    return Q


def leading_eigenvectors(C: Tensor, k: int) -> Tensor:
    """The ``k`` leading eigenvectors ``(D, k)`` of a finite Gram matrix ``C = X^T X``, greatest eigenvalue first.

    They are the top-k right singular vectors of ``X``.
    """
    vectors: Tensor = torch.linalg.eigh(C).eigenvectors
    return vectors[:, -k:].flip(1).contiguous()
