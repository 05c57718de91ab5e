"""``laser``: a low-rank basis for each site that follows the activations from step to step.

Keeps the coefficients ``Z = X Q`` of every call and one basis ``Q`` for all calls of a step: O(n N k + D k).

Source: Algorithm 1 of "Low-Rank Activation SVD for Efficient Recursion" (LASER, arXiv 2604.17224). The numbers of its
lines stand in the code. It departs from the printed algorithm where that can't run, or would not do what the text
says:

- Line 1, the first basis. It comes from the Gram matrix over *all* calls of the first step: the first call alone has
  at most as many distinct rows as there are tokens and states. Until that step ends there is no
  common basis, and each of its calls is encoded by one of its own (a randomised range finder): the first step's memory
  does not stand out.
- Line 2, ``t``. A step has many calls and one basis: ``Q`` is frozen while it lasts, fidelity and power iteration are
  over all of its calls, and what to do is decided once, at its end. ``basis="per_call"`` moves it at each call
  instead, which is what the memory figures of the paper's Table 2 charge for; lines 10 to 19 still run once a step.
- Line 12, the reset. A failing step's rows are gone when it ends. The next step gathers its Gram matrix while it
  encodes with the old basis, and the reset is made from that; no batch is left out of training (the paper drops one
  at each reset). The grown rank is kept; ``reset_rank="initial"`` is the printed ``k_0``, which throws it away.
- Line 17, expansion. New columns are appended to ``Q`` and the old ones stay as they are. At the largest rank nothing
  can be appended: the basis then takes the power iteration of line 7, so that it goes on following the activations.
- Line 21, the backward pass. ``X`` is rebuilt with the basis that encoded it. ``Q_t`` with the ``Z`` of ``Q_{t-1}``
  would be garbage whenever the QR decomposition changes a sign, and has the wrong shape after an expansion.

A step whose rows are not finite, or all zero, leaves the basis alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site, hookimpl

from ._streams import CallStream
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

_POWER_ITERATIONS = 2
"""Of the range finder in the first step."""


class Laser(Compressor):
    """Low-rank basis tracked by power iterations, widened or reset when its fidelity falls."""

    name: ClassVar[str] = "laser"

    rank: int = Field(128, ge=1, description="initial rank k_0; a narrower site uses its width")
    fidelity: float = Field(
        0.95,
        gt=0,
        le=1,
        description="threshold of |Z|/|X|, the cosine of X and its rebuild: 0.95 is a relative error of 31 %",
    )
    growth: int = Field(4, ge=1, description="columns m that one expansion appends")
    max_rank: int = Field(512, ge=1, description="largest rank that expansions reach")
    patience: int = Field(2, ge=1, description="consecutive steps p below the threshold that lead to a reset")
    basis: Literal["shared", "per_call"] = Field(
        "shared", description="one basis for all calls of a step, or one that moves at each call"
    )
    reset_rank: Literal["kept", "initial"] = Field("kept", description="rank after a reset: the grown one, or k_0")

    @model_validator(mode="after")
    def _rank_within_largest(self) -> Self:
        if self.rank > self.max_rank:
            raise ValueError(f"rank {self.rank} is above max_rank {self.max_rank}; raise max_rank or lower rank")
        return self

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return LaserCodec(self, site.width, generator)


@dataclass
class Gathered:
    """What one step gathers over its calls, on the device; the host reads none of it before the step ends."""

    energy: Tensor
    """``|X|_F^2``."""
    kept: Tensor
    """``|Z|_F^2``."""
    M: Tensor | None = None
    """``X^T Z``, ``(D, k)``."""
    R: Tensor | None = None
    """Rows sampled for an expansion, ``(m, D)``."""
    C: Tensor | None = None
    """``X^T X``, ``(D, D)``, in a step that ends with an SVD."""
    calls: int = 0

    def tensors(self) -> list[Tensor]:
        """All tensors."""
        return [tensor for tensor in (self.energy, self.kept, self.M, self.R, self.C) if tensor is not None]


def expanded(Q: Tensor, R: Tensor) -> Tensor:
    """Lines 16 and 17: ``[Q | new columns]``, orthonormal, ``(D, k + m)``.

    Args:
        Q: orthonormal basis, ``(D, k)``; its columns stay as they are.
        R: rows, ``(m, D)``. The new columns span what the basis lacks of them.
    """
    R = R.to(Q.dtype)
    R_perp = R - (R @ Q) @ Q.T  # (m, D)
    wider = orthonormal(torch.cat([Q, R_perp.T], dim=1))  # (D, k + m)
    return torch.cat([Q, wider[:, Q.shape[1] :]], dim=1)


class LaserCodec(Codec):
    """The basis ``Q`` of one site and the counter ``c`` of consecutive steps below the threshold."""

    def __init__(self, settings: Laser, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self.initial_rank = min(settings.rank, width)
        self.largest_rank = min(settings.max_rank, width)
        self.Q: Tensor | None = None  # (D, k), orthonormal columns; replaced, never changed in place
        self.c = 0
        self.reset_due = False
        self.gathered: Gathered | None = None
        self._Q_before_step: Tensor | None = None
        self._stream = CallStream(generator)
        self._F: float | None = None
        self._counts = {"steps": 0, "expansions": 0, "resets": 0, "nonfinite_steps": 0}

    @property
    def k(self) -> int:
        """The rank now."""
        return self.initial_rank if self.Q is None else self.Q.shape[1]

    def encode(self, X: Tensor) -> Payload:
        step = self._gather(X)
        Q = self.Q
        if Q is None:
            return self._encode_alone(X)
        Z = project(X, Q)  # line 4: (N, k)
        step.kept += squared_norm(Z)  # line 5
        if step.C is None and self.k < self.largest_rank:
            step.R = self._sample(X, step)  # line 15: (m, D)
        if self.settings.basis == "per_call":
            M = cross_product(X, Z)
            # Line 7 without a branch on values: rows that are not finite, or all zero, have no direction to give.
            self.Q = torch.where(M.isfinite().all() & M.any(), orthonormal(M), Q)
        elif step.C is None:
            M = cross_product(X, Z)
            step.M = M if step.M is None else step.M.add_(M)
        return LowRank(Z, Q)

    def end_step(self) -> None:
        self._stream.end_step()
        step, self.gathered = self.gathered, None
        if step is None:
            return
        self._counts["steps"] += 1
        energy, kept, largest = self._read(step)
        if not (math.isfinite(energy) and math.isfinite(largest)):
            self._counts["nonfinite_steps"] += 1
        elif energy > 0:
            self._move(step, min(1.0, math.sqrt(kept / energy)))  # rounding may leave |Z| just above |X|
        self._Q_before_step = self.Q

    def _move(self, step: Gathered, F: float) -> None:
        """Lines 1 and 6 to 19, from what a step with fidelity ``F`` gathered."""
        if step.C is not None:
            self._decompose(step.C, F)
        elif F >= self.settings.fidelity:  # noqa: SIM300 - F is no constant
            self._F = F
            self._iterate(step)
            self.c = 0  # line 8
        else:
            self._F = F
            self.c += 1  # line 10
            if self.c >= self.settings.patience:  # line 11; line 12 follows at the end of the next step
                self.reset_due = True
            elif step.R is not None and self.Q is not None:
                self.Q = expanded(self.Q, step.R)
                self._counts["expansions"] += 1
            else:  # no wider rank is allowed
                self._iterate(step)

    def _decompose(self, C: Tensor, F: float) -> None:
        """Line 1, and lines 12 and 13: ``Q <- top-k SVD(X)`` from ``C = X^T X (D, D)``."""
        k = self.k
        if self.Q is not None:
            self._F = F
            self._counts["resets"] += 1
            if self.settings.reset_rank == "initial":
                k = self.initial_rank
        self.Q = leading_eigenvectors(C, k)
        self.c = 0
        self.reset_due = False

    def _iterate(self, step: Gathered) -> None:
        """Line 7: ``Q <- Orth(X^T Z)``. A basis that moves at each call has taken it already."""
        if step.M is not None:
            self.Q = orthonormal(step.M)

    def _gather(self, X: Tensor) -> Gathered:
        """Begins a step at its first call; adds this call to the energy, and to ``C`` where an SVD is due."""
        step = self.gathered
        if step is None:
            zero = torch.zeros((), dtype=basis_dtype(X.dtype), device=X.device)
            step = self.gathered = Gathered(energy=zero, kept=zero.clone())
            if self.Q is None or self.reset_due:
                step.C = zero.new_zeros(self.D, self.D)
        step.calls += 1
        step.energy += squared_norm(X)
        if step.C is not None:
            add_gram(step.C, X)
        return step

    def _encode_alone(self, X: Tensor) -> Payload:
        """A call of the first step: a basis of its own by a randomised range finder of the rows' space."""
        N, k = len(X), self.k
        if N * k * X.itemsize + basis_bytes(self.D, k, X.itemsize) >= N * self.D * X.itemsize:
            return Dense(X)
        Omega = torch.randn(N, k, dtype=X.dtype, device=X.device, generator=self._stream.next())
        Q = orthonormal(cross_product(X, Omega))  # (D, k)
        for _ in range(_POWER_ITERATIONS):
            Q = orthonormal(cross_product(X, project(X, Q)))
        return LowRank(project(X, Q), Q)

    def _sample(self, X: Tensor, step: Gathered) -> Tensor:
        """Line 15 over all calls of a step: a reservoir, in which every call is as likely to have given a row.

        The ``m`` slots draw from a part of the rows each, which begin at a random row, so that none is drawn twice.
        """
        N, m = len(X), min(self.settings.growth, self.largest_rank - self.k)
        part = max(1, N // m)
        generator = self._stream.next()
        start = torch.randint(N, (1,), device=X.device, generator=generator)
        within = torch.randint(part, (m,), device=X.device, generator=generator)
        rows = X[(start + part * torch.arange(m, device=X.device) + within) % N]
        if step.R is None:
            return rows
        taken = torch.rand(m, 1, device=X.device, generator=generator) < 1 / step.calls
        return torch.where(taken, rows, step.R)

    def _read(self, step: Gathered) -> tuple[float, float, float]:
        """``|X|^2``, ``|Z|^2`` and the largest entry of what the basis would be made from: the step's one host sync."""
        source = next(tensor for tensor in (step.C, step.M, step.energy) if tensor is not None)
        largest = torch.linalg.vector_norm(source, ord=math.inf)
        energy, kept, entry = torch.stack([step.energy, step.kept, largest.to(step.energy.dtype)]).tolist()
        return energy, kept, entry

    def discard_step(self) -> None:
        self._stream.discard_step()
        self.gathered = None
        self.Q = self._Q_before_step

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        bases = calls if self.settings.basis == "per_call" else 1
        return calls * rows * self.k * itemsize + bases * basis_bytes(self.D, self.k, itemsize)

    def coefficient_width(self) -> int:
        return self.k

    def state(self) -> Iterable[Tensor]:
        bases = [Q for Q in (self.Q, self._Q_before_step) if Q is not None]
        return bases + (self.gathered.tensors() if self.gathered else [])

    def statistics(self) -> dict[str, float]:
        figures: dict[str, float] = {"rank": float(self.k), **self._counts}
        if self._F is not None:
            figures |= {"fidelity": self._F, "relative_error": math.sqrt(1 - self._F**2)}
        return figures


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``laser``."""
    return [Laser]
