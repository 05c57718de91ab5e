"""PCA of a fixed rank as a strategy: every site's rows are kept as their product with a basis that is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import PrivateAttr
from torch import Tensor

from compbench.compressor import Codec, Compressor, Payload, Site


class Projection(Compressor):
    """Keeps ``Z = X Q`` with bases that are given, by site; other sites are left as they are."""

    name: ClassVar[str] = "fixed_projection"
    _bases: Mapping[str, Tensor] = PrivateAttr(default_factory=dict)

    @classmethod
    def onto(cls, bases: Mapping[str, Tensor]) -> Projection:
        """That onto some bases, ``(D, k)`` each, with orthonormal columns."""
        made = cls()
        made._bases = bases
        return made

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        """One with the site's basis, where there is one."""
        Q = self._bases.get(site.name)
        return None if Q is None else _ProjectionCodec(Q)


class _ProjectionCodec(Codec):
    def __init__(self, Q: Tensor) -> None:
        self.Q = Q

    def encode(self, rows: Tensor) -> Payload:
        """The coefficients."""
        Q = self.Q.to(rows.dtype)
        return Projected(rows @ Q, Q)

    def state(self) -> tuple[Tensor, ...]:
        """The basis."""
        return (self.Q,)


class Projected(Payload):
    """Rows as ``Z Q^T``.

    Args:
        Z: Coefficients ``(N, k)``.
        Q: Basis ``(D, k)``.
    """

    def __init__(self, Z: Tensor, Q: Tensor) -> None:
        self._Z = Z
        self._Q = Q

    def decode(self) -> Tensor:
        """The projected rows, ``(N, D)``."""
        return self._Z @ self._Q.T

    def tensors(self) -> tuple[Tensor, ...]:
        """Both factors."""
        return self._Z, self._Q
