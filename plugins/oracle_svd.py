"""``oracle_svd``: the best projection of its rank, found anew at every call.

Keeps coefficients ``Z = X Q`` and a basis ``Q`` for each call, as ``loract`` does; ``Q`` are the leading right singular
vectors of the call's own rows. By the theorem of Eckart and Young no strategy of that rank rebuilds them better: it
bounds the *fidelity* of all others, at a price in time that nobody would pay. It does not bound their accuracy: where
a training is better off with other directions than those of the greatest energy, another strategy may do better.

Error: biased and fresh, the least that there is at its rank.

Source: the oracle of section 6.1 and Figure 4 of LASER (arXiv 2604.17224), which recomputes an exact basis at every
batch. It departs from it thus:

- The basis is recomputed at every *call*, which is a bound on shared bases too: a step of a recursive model has many
  calls.
- Singular vectors come from an eigendecomposition of the smaller Gram matrix, ``X^T X`` or ``X X^T``, which squares the
  condition: directions below about 3e-4 of the largest singular value (in fp32) are not told apart. What they hold of
  the energy is below rounding.
- The figure measures a training that keeps everything; here the rebuilt rows are what the backward pass uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._decomposition import Fidelity, principal_directions, rank_figures
from ._subspace import LowRank, basis_bytes, project


class OracleSvd(Compressor):
    """Best projection of a fixed rank at every call: what no other of its rank can surpass."""

    name: ClassVar[str] = "oracle_svd"

    rank: int = Field(128, ge=1, description="rank k; a narrower site uses its width")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return OracleSvdCodec(self, site.width)


class OracleSvdCodec(Codec):
    """Learns nothing: every payload has its own basis."""

    def __init__(self, settings: OracleSvd, width: int) -> None:
        self.settings = settings
        self.D = width
        self.k = min(settings.rank, width)
        self._fidelity = Fidelity()

    def encode(self, X: Tensor) -> Payload:
        Q, _ = principal_directions(X, self.k)  # (D, k)
        Z = project(X, Q)  # (N, k)
        self._fidelity.add(X, Z)
        return LowRank(Z, Q)

    def readings(self) -> Iterable[Tensor]:
        return self._fidelity.tensors()

    def end_step(self) -> None:
        self._fidelity.end_step(iter(self.read()))

    def discard_step(self) -> None:
        self._fidelity.discard_step()

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * (rows * self.k * itemsize + basis_bytes(self.D, self.k, itemsize))

    def coefficient_width(self) -> int:
        return self.k

    def state(self) -> Iterable[Tensor]:
        return self._fidelity.tensors()

    def statistics(self) -> dict[str, float]:
        return rank_figures(self.settings.rank, self.D) | self._fidelity.figures()


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``oracle_svd``."""
    return [OracleSvd]
