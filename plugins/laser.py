"""``laser``: a low-rank basis for each site that follows the activations from step to step.

Keeps the coefficients ``Z = X Q`` of every call and one basis ``Q`` for all calls of a step: O(n N k + D k).

Error: biased; the basis lags one step behind the activations, and widens where it keeps too little of them.

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
  ``power_iteration="call"`` keeps the frozen basis for the payloads and lets a second one take the iterations call by
  call, which the next step begins with: the last calls count most in it.
- Line 7, one iteration. ``iterations`` takes up to three in a row. ``Orth(X^T X Q)`` needs the rows, or their Gram
  matrix, once more each time. A basis that moves at each call has the rows at hand; one that moves at the step's end
  has none left, and gathers ``X^T X``, ``(D, D)``, in every step.
- Line 12, the reset. A failing step's rows are gone when it ends. The next step gathers its Gram matrix while it
  encodes with the old basis, and the reset is made from that; no batch is left out of training. The paper drops one at
  each reset, and so does ``reset_batch="skipped"``: the codec asks for it, and whoever trains does it and counts. The
  grown rank is kept; ``reset_rank="initial"`` is the printed ``k_0``, which throws it away.
- Line 15, the sample. All rows of a step are alike in it. ``expansion_rows="residual"`` draws them in proportion to
  ``|x - x Q Q^T|^2``, which is adaptive sampling (Deshpande, Rademacher, Vempala and Wang, 2006), in one pass over the
  calls by random keys (Efraimidis and Spirakis, 2006).
- Line 15, ``m``. ``growth="deficit"`` appends as many columns as would close the gap if the energy that the basis
  misses, ``1 - F^2``, were spread evenly over all ``D - k`` other directions, ``max_growth`` at most.
- Line 17, expansion. New columns are appended to ``Q`` and the old ones stay as they are. At the largest rank nothing
  can be appended: the basis then takes the power iteration of line 7, so that it goes on following the activations.
- Line 21, the backward pass. ``X`` is rebuilt with the basis that encoded it. ``Q_t`` with the ``Z`` of ``Q_{t-1}``
  is wrong whenever the QR decomposition changes a sign, and has the wrong shape after an expansion.
  ``rebuild="updated"`` does what is printed, to study it; see :class:`Updated`.

A step whose rows are not finite, or all zero, leaves the basis alone.

The statistics of a site: ``rank``; ``fidelity`` and ``relative_error`` of the last step, ``lowest_fidelity`` of all;
``steps``, ``expansions``, ``resets`` and ``nonfinite_steps``; ``low_fidelity_steps``, in which fidelity was below the
threshold, and ``exhausted_steps``, those of them in which the rank was the largest already, so that no growth could
mend it; ``rank_clamped``, 1 where the site is narrower than the rank that was asked for.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site, hookimpl
from compbench.errors import SettingsError
from compbench.site_patterns import SitePatterns

from ._streams import CallStream
from ._subspace import (
    LowRank,
    add_cross_product,
    add_gram,
    basis_bytes,
    basis_dtype,
    cross_product,
    largest_entry,
    leading_eigenvectors,
    low_rank_operations,
    orthonormal,
    project,
    squared_norm,
)

_POWER_ITERATIONS = 2
"""Of the range finder in the first step."""


_COUNTS = ("steps", "expansions", "resets", "nonfinite_steps", "low_fidelity_steps", "exhausted_steps")


class Override(BaseModel):
    """Settings of some sites."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: tuple[str | int, ...] = Field(min_length=1, description="patterns of sites, as in the capture's sites")
    rank: int | None = Field(None, ge=1, description="initial rank there")
    fidelity: float | None = Field(None, gt=0, le=1, description="threshold there")

    @field_validator("sites", mode="before")
    @classmethod
    def _listed(cls, sites: object) -> object:
        if isinstance(sites, (str, int)) and not isinstance(sites, bool):
            return (sites,)
        return tuple(sites) if isinstance(sites, list) else sites

    @field_validator("sites")
    @classmethod
    def _readable(cls, sites: tuple[str | int, ...]) -> tuple[str | int, ...]:
        try:
            SitePatterns(sites)
        except SettingsError as error:  # pydantic gathers ValueErrors, with the field they belong to
            raise ValueError(str(error)) from error
        return sites


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
    growth: Annotated[int, Field(ge=1)] | Literal["deficit"] = Field(
        4, description="columns m that one expansion appends; deficit: in proportion to the fidelity that is missing"
    )
    max_growth: int = Field(64, ge=1, description="most columns that one expansion appends with growth: deficit")
    expansion_rows: Literal["uniform", "residual"] = Field(
        "uniform", description="rows that expansions sample: all alike, or in proportion to their squared residual"
    )
    max_rank: int = Field(512, ge=1, description="largest rank that expansions reach")
    patience: int = Field(2, ge=1, description="consecutive steps p below the threshold that lead to a reset")
    basis: Literal["shared", "per_call"] = Field(
        "shared", description="one basis for all calls of a step, or one that moves at each call"
    )
    power_iteration: Literal["step", "call"] = Field(
        "step",
        description=(
            "how a shared basis moves: once a step, from the sum over its calls, or call by call in a second basis, "
            "which the next step begins with; a basis per call moves at each call in any case"
        ),
    )
    iterations: int = Field(
        1,
        ge=1,
        le=3,
        description=(
            "power iterations in a row; beyond the first a basis that moves once a step gathers the Gram matrix, "
            "(width, width), in every step"
        ),
    )
    reset_rank: Literal["kept", "initial"] = Field("kept", description="rank after a reset: the grown one, or k_0")
    reset_batch: Literal["kept", "skipped"] = Field(
        "kept",
        description="whether the batch whose step ends with a reset is trained on, or left out by `compbench run`",
    )
    rebuild: Literal["encoding", "updated"] = Field(
        "encoding",
        description=(
            "basis that rebuilds: the one that encoded, or (for study) the one updated since, as line 21 is printed; "
            "payloads then change after they were made, and `compbench check` says so"
        ),
    )
    overrides: tuple[Override, ...] = Field(
        (), description="other rank or fidelity at some sites; the last entry whose patterns choose a site decides"
    )

    @model_validator(mode="after")
    def _rank_within_largest(self) -> Self:
        if self.rank > self.max_rank:
            raise ValueError(f"rank {self.rank} is above max_rank {self.max_rank}; raise max_rank or lower rank")
        for number, override in enumerate(self.overrides):
            if override.rank is not None and override.rank > self.max_rank:
                raise ValueError(f"rank {override.rank} of override {number} is above max_rank {self.max_rank}")
        return self

    def at(self, site: Site) -> Laser:
        """The settings of one site, without overrides."""
        for override in reversed(self.overrides):
            if SitePatterns(override.sites).selects(site):
                own = {name: value for name in ("rank", "fidelity") if (value := getattr(override, name)) is not None}
                return self.model_copy(update={**own, "overrides": ()})
        return self.model_copy(update={"overrides": ()}) if self.overrides else self

    def unmatched_message(self, sites: Sequence[Site]) -> str:
        """What a user is told of patterns of overrides that match none of a model's sites; empty if there are none."""
        told = [SitePatterns(override.sites).unmatched_message(sites) for override in self.overrides]
        return "\n".join(dict.fromkeys(line for lines in told for line in lines.splitlines()))

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return LaserCodec(self.at(site), site.width, generator)


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
    keys: Tensor | None = None
    """Of the rows in ``R``, greatest first, ``(m,)``, where they are sampled by their residuals."""
    C: Tensor | None = None
    """``X^T X``, ``(D, D)``, in a step that ends with an SVD or with several power iterations."""
    P: Tensor | None = None
    """A basis ``(D, k)`` that moves call by call beside the one that encodes."""
    updated: Tensor | None = None
    """The basis ``(D, k)`` that a step without further calls would end with, if line 21 has asked for it."""
    decomposes: bool = False
    """Whether the step ends with an SVD."""
    calls: int = 0

    def tensors(self) -> list[Tensor]:
        """All tensors."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]


def turned(M: Tensor, Q: Tensor) -> Tensor:
    """Line 7, ``Orth(M)``, ``(D, k)``; ``Q`` where ``M`` is not finite or all zero. There is no branch on values."""
    return torch.where(M.isfinite().all() & M.any(), orthonormal(M), Q)


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


def _row_energies(X: Tensor, dtype: torch.dtype) -> Tensor:
    """``|x|^2`` of each row, ``(N,)``."""
    norms: Tensor = torch.linalg.vector_norm(X, dim=1, dtype=dtype)
    return norms.square()


class Updated(LowRank):
    """Line 21 as it is printed: ``Z Q_t^T``, with the codec's basis as it is when the rows are asked for.

    In a step that is under way that is the basis of line 7, after all calls so far, where fidelity is at the threshold;
    where it is below, line 17 has left the columns alone that encoded. Where the two bases differ in width, by an
    expansion or a reset, the columns that both have are used. The basis that encoded is kept as well: calls of
    fidelity below the threshold are rebuilt with it, and the bytes are those of the ordinary setting.

    Args:
        Z: coefficients ``(N, k)``, or None when somebody else keeps them.
        Q: the basis that encoded, ``(D, k)``.
        codec: whose basis it is; not kept alive.
    """

    def __init__(self, Z: Tensor | None, Q: Tensor, codec: weakref.ref[LaserCodec]) -> None:
        super().__init__(Z, Q)
        self._codec = codec

    def _factors(self) -> tuple[Tensor, Tensor]:
        Z, Q_T = super()._factors()
        codec = self._codec()
        Q = None if codec is None else codec.updated_basis()
        if Q is not None:
            Q_T = Q.to(Z.dtype).T
        k = min(Z.shape[1], len(Q_T))
        return Z[:, :k], Q_T[:k]

    def rank(self) -> None:
        return None  # the basis may move before the rows are asked for

    def factors(self) -> None:
        return None

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        return Updated(coefficients, self._Q, self._codec)


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
        self._lowest_F = 1.0
        self._counts = dict.fromkeys(_COUNTS, 0)

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
        if not step.decomposes and self.k < self.largest_rank:
            self._sample(X, Z, step)  # line 15: (m, D)
        if self.settings.basis == "per_call":
            self.Q = self._turned(X, Q, Z)
        elif self.settings.power_iteration == "call" and not step.decomposes:
            step.P = self._turned(X, Q, Z) if step.P is None else self._turned(X, step.P, project(X, step.P))
        elif step.C is None:
            step.M = add_cross_product(step.M, X, Z)
        return Updated(Z, Q, weakref.ref(self)) if self.settings.rebuild == "updated" else LowRank(Z, Q)

    def _turned(self, X: Tensor, Q: Tensor, Z: Tensor) -> Tensor:
        """Line 7 at one call: the basis after its power iterations, the first of which takes ``Z = X Q``."""
        for iteration in range(self.settings.iterations):
            Q = turned(cross_product(X, project(X, Q) if iteration else Z), Q)
        return Q

    def readings(self) -> Iterable[Tensor]:
        """``|X|^2``, ``|Z|^2`` and the largest entry of what the basis would be made from."""
        step = self.gathered
        if step is None:
            return ()
        source = next(tensor for tensor in (step.C, step.M, step.energy) if tensor is not None)
        return step.energy, step.kept, largest_entry(source)

    def end_step(self) -> None:
        self._stream.end_step()
        if self.gathered is None:
            return
        energy, kept, largest = self.read()
        step, self.gathered = self.gathered, None
        self._counts["steps"] += 1
        if not (math.isfinite(energy) and math.isfinite(largest)):
            self._counts["nonfinite_steps"] += 1
        elif energy > 0:
            self._move(step, min(1.0, math.sqrt(kept / energy)))  # rounding may leave |Z| just above |X|
        self._Q_before_step = self.Q

    def _move(self, step: Gathered, F: float) -> None:
        """Lines 1 and 6 to 19, from what a step with fidelity ``F`` gathered."""
        if self.Q is not None:
            self._count(F)
        if step.decomposes and step.C is not None:
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
                self.Q = expanded(self.Q, step.R[: self._columns(F)])
                self._counts["expansions"] += 1
            else:  # no wider rank is allowed
                self._iterate(step)

    def _count(self, F: float) -> None:
        """Counts a step of fidelity ``F`` that a basis has encoded."""
        self._lowest_F = min(self._lowest_F, F)
        if self.settings.fidelity > F:
            self._counts["low_fidelity_steps"] += 1
            self._counts["exhausted_steps"] += self.k == self.largest_rank

    def _columns(self, F: float) -> int:
        """How many columns ``m`` an expansion appends after a step of fidelity ``F``, below the threshold."""
        if self.settings.growth != "deficit":
            return self.settings.growth
        missing = (self.settings.fidelity**2 - F**2) / (1 - F**2)  # of the energy outside the basis
        return max(1, math.ceil((self.D - self.k) * missing))

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
        elif step.P is not None:
            self.Q = step.P
        elif step.C is not None and self.Q is not None:
            for _ in range(self.settings.iterations):
                self.Q = orthonormal(step.C @ self.Q.to(step.C.dtype))

    def updated_basis(self) -> Tensor | None:
        """``Q_t`` of line 21: the basis now; in a step, what lines 6 to 19 make of it if no further call comes.

        An expansion is left out: it appends columns for which payloads have no coefficients.
        """
        step, Q = self.gathered, self.Q
        if step is None or Q is None or (step.M is None and step.P is None and step.C is None) or step.decomposes:
            return Q
        if step.updated is None:
            moved = Q
            if step.P is not None:
                moved = step.P
            elif step.M is not None:
                moved = turned(step.M, Q)
            elif step.C is not None:
                for _ in range(self.settings.iterations):
                    moved = turned(step.C @ moved.to(step.C.dtype), moved)
            at_largest = self.k == self.largest_rank and self.c + 1 < self.settings.patience
            if not at_largest:
                moved = torch.where(step.kept >= self.settings.fidelity**2 * step.energy, moved, Q)
            step.updated = moved
        return step.updated

    def _gather(self, X: Tensor) -> Gathered:
        """Begins a step at its first call; adds this call to the energy, and to ``C`` where an SVD is due."""
        step = self.gathered
        if step is None:
            zero = torch.zeros((), dtype=basis_dtype(X.dtype), device=X.device)
            step = self.gathered = Gathered(energy=zero, kept=zero.clone())
            step.decomposes = self.Q is None or self.reset_due
            if step.decomposes or self._needs_gram():
                step.C = zero.new_zeros(self.D, self.D)
        step.calls += 1
        step.updated = None
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

    def _needs_gram(self) -> bool:
        """Whether line 7 is taken several times over at the end of a step, when the rows are gone."""
        settings = self.settings
        return settings.iterations > 1 and settings.basis == "shared" and settings.power_iteration == "step"

    def _sample(self, X: Tensor, Z: Tensor, step: Gathered) -> None:
        """Line 15 over all calls of a step: ``R``, ``(m, D)``, for the largest ``m`` that may be needed."""
        growth = self.settings.max_growth if self.settings.growth == "deficit" else self.settings.growth
        m = min(growth, self.largest_rank - self.k)
        if self.settings.expansion_rows == "residual":
            self._sample_by_residual(X, Z, step, m)
        else:
            step.R = self._sample_alike(X, step, m)

    def _sample_alike(self, X: Tensor, step: Gathered, m: int) -> Tensor:
        """A reservoir, in which every call is as likely to have given a row.

        The ``m`` slots draw from a part of the rows each, which begin at a random row, so that none is drawn twice.
        """
        N = len(X)
        part = max(1, N // m)
        generator = self._stream.next()
        start = torch.randint(N, (1,), device=X.device, generator=generator)
        within = torch.randint(part, (m,), device=X.device, generator=generator)
        rows = X[(start + part * torch.arange(m, device=X.device) + within) % N]
        if step.R is None:
            return rows
        taken = torch.rand(m, 1, device=X.device, generator=generator) < 1 / step.calls
        return torch.where(taken, rows, step.R)

    def _sample_by_residual(self, X: Tensor, Z: Tensor, step: Gathered, m: int) -> None:
        """The ``m`` rows with the greatest keys ``log(u) / w``, ``w = |x|^2 - |z|^2``, ``u`` uniform in (0, 1).

        They are a sample without replacement in proportion to ``w``, over all rows of all calls so far.
        """
        wide = step.energy.dtype
        w = (_row_energies(X, wide) - _row_energies(Z, wide)).clamp(min=0)
        u = torch.rand(len(X), dtype=wide, device=X.device, generator=self._stream.next())
        keys = u.clamp(min=torch.finfo(wide).tiny).log() / w  # minus infinity for what the basis spans
        if step.R is None or step.keys is None:
            step.R, step.keys = X.new_zeros(m, self.D), keys.new_full((m,), -math.inf)
        step.keys, taken = torch.cat([step.keys, keys]).topk(m)
        # Positions before m are rows that were there, the others those of this call.
        fresh = X[(taken - m).clamp(min=0)]
        step.R = torch.where((taken < m).unsqueeze(1), step.R[taken.clamp(max=m - 1)], fresh)

    def skips_update(self) -> bool:
        return self.reset_due and self.settings.reset_batch == "skipped"

    def discard_step(self) -> None:
        self._stream.discard_step()
        self.gathered = None
        self.Q = self._Q_before_step

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        bases = calls if self.settings.basis == "per_call" else 1
        return calls * rows * self.k * itemsize + bases * basis_bytes(self.D, self.k, itemsize)

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return low_rank_operations(rows, self.D, self.k, outputs, products=1 + self.settings.iterations)

    def coefficient_width(self) -> int:
        return self.k

    def state(self) -> Iterable[Tensor]:
        bases = [Q for Q in (self.Q, self._Q_before_step) if Q is not None]
        return bases + (self.gathered.tensors() if self.gathered else [])

    def statistics(self) -> dict[str, float]:
        figures: dict[str, float] = {"rank": float(self.k), **self._counts}
        figures["rank_clamped"] = int(self.settings.rank > self.D)
        if self._F is not None:
            figures |= {"fidelity": self._F, "relative_error": math.sqrt(1 - self._F**2)}
            figures["lowest_fidelity"] = self._lowest_F
        return figures


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``laser``."""
    return [Laser]
