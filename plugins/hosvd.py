"""``hosvd``: a full decomposition at every call, of the rank that an explained variance asks for.

Keeps coefficients ``Z = X Q`` and a basis ``Q`` for each call; its rank is the smallest whose directions hold a share
``energy`` of ``|X|^2``. Nothing goes stale, no rank has to be chosen, and every call pays for a decomposition.

Error: biased and fresh: about ``1 - energy`` of ``|X|^2``, unless ``max_rank`` is too low for that.

Source: the compression of activation maps by HOSVD (Nguyen et al., NeurIPS 2024, arXiv 2411.06346), which decomposes
every mode's unfolding at every step and truncates it by explained variance. It departs from the source thus:

- The rank of a call is the one that the *same call of the step before* needed; the decomposition itself is fresh. A
  rank that depends on the values at hand would have the host wait for the device at every call, 25 times at
  every site, and with it every strategy's times could not be compared. Steps differ little, so that what is kept is
  nearly what the source would keep, and is real: no columns are masked. The square of ``fidelity``, in the statistics,
  is the share that was reached. ``ranks="shared"`` gives all calls of a step the largest of these ranks, which further
  strategies in a chain need.
- In the first step no rank is known. Its calls have the largest that is allowed, ``max_rank``.
- A call for which factors would take more than its rows is kept as it is. It is decomposed all the same, since the next
  step's rank may be lower.
- Features only. The source decomposes the modes of examples and positions as well and keeps the core of all. A codec
  sees rows, and does not know which belong together.
- Singular vectors come from an eigendecomposition of the smaller Gram matrix, ``X^T X`` or ``X X^T``.
- Every activation is encoded and rebuilt; the source replaces the last few linear layers and convolutions.

A call of zeros, or with rows that are not finite, tells nothing of a rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site, hookimpl

from ._decomposition import Fidelity, pays, principal_directions
from ._subspace import LowRank, basis_bytes, project


class Hosvd(Compressor):
    """Full decomposition at every call, of the rank that a share of the energy asks for."""

    name: ClassVar[str] = "hosvd"

    energy: float = Field(
        0.9, gt=0, le=1, description="share of |X|^2 to keep (explained variance): the smallest rank that reaches it"
    )
    max_rank: int = Field(
        512, ge=1, description="largest rank, and that of the first step; a narrower site uses its width"
    )
    ranks: Literal["per_call", "shared"] = Field(
        "per_call", description="a rank for each call of a step, or the largest of them for all"
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return HosvdCodec(self, site.width)


class OwnRank(LowRank):
    """Rows as ``X ~ Z Q^T`` of a rank that no other call has, so that there are no coefficients for a chain."""

    def coefficients(self) -> Tensor | None:
        return None

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        raise TypeError("every call has a rank of its own; ranks='shared' offers coefficients")


class HosvdCodec(Codec):
    """The ranks that the calls of the last step needed at one site."""

    def __init__(self, settings: Hosvd, width: int) -> None:
        self.settings = settings
        self.D = width
        self.largest = min(settings.max_rank, width)
        self.ranks: list[int] = []  # by the calls of a step; empty before the first has ended
        self._needed: list[Tensor] = []  # what the calls of this step turn out to need
        self._fidelity = Fidelity()
        self._capped = 0

    def rank(self, call: int) -> int:
        """The rank of a call; one that the step before did not have takes the largest that it had."""
        if not self.ranks:
            return self.largest
        if self.settings.ranks == "shared" or call >= len(self.ranks):
            return max(self.ranks)
        return self.ranks[call]

    def encode(self, X: Tensor) -> Payload:
        k = self.rank(len(self._needed))
        Q, energies = principal_directions(X, k)  # (D, k), (min(N, D),)
        self._needed.append(self._rank_for(energies))
        energy = energies.sum()
        if not pays(len(X), self.D, k, X.itemsize):
            self._fidelity.add_energies(energy, energy)
            return Dense(X)
        self._fidelity.add_energies(energy, energies[:k].sum())
        payload = LowRank if self.settings.ranks == "shared" else OwnRank
        return payload(project(X, Q), Q)

    def _rank_for(self, energies: Tensor) -> Tensor:
        """The smallest rank whose energies, greatest first, reach the share asked for; 0 where there are none."""
        total = energies.double().sum()
        shares = energies.double().cumsum(0) / total
        needed = 1 + (shares < self.settings.energy).sum()
        return torch.where(total > 0, needed.clamp(max=len(energies)), 0)

    def readings(self) -> Iterable[Tensor]:
        return self._fidelity.tensors() + self._needed

    def end_step(self) -> None:
        numbers = iter(self.read())
        self._fidelity.end_step(numbers)
        ranks, self._needed = [int(rank) for rank in numbers], []
        if ranks:
            self.ranks = [min(r, self.largest) or self.rank(call) for call, r in enumerate(ranks)]
            self._capped = sum(r > self.largest for r in ranks)

    def discard_step(self) -> None:
        self._fidelity.discard_step()
        self._needed = []

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        """What the calls keep at the ranks known now; unknown where that would not pay, as ranks may yet fall."""
        raw = rows * self.D * itemsize
        kept = 0
        for call in range(calls):
            k = self.rank(call)
            kept += min(raw, rows * k * itemsize + basis_bytes(self.D, k, itemsize))
        return kept if kept < calls * raw else None

    def coefficient_width(self) -> int | None:
        return self.rank(0) if self.settings.ranks == "shared" else None

    def state(self) -> Iterable[Tensor]:
        return self._needed + self._fidelity.tensors()

    def statistics(self) -> dict[str, float]:
        """``rank`` is the mean over calls; ``capped_calls`` those of the last step that needed more than is allowed."""
        ranks = [self.rank(call) for call in range(max(1, len(self.ranks)))]
        return {
            "rank": sum(ranks) / len(ranks),
            "largest_rank": float(max(ranks)),
            "capped_calls": self._capped,
        } | self._fidelity.figures()


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``hosvd``."""
    return [Hosvd]
