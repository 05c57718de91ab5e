"""``lance_tucker``: the core of a Tucker decomposition whose factors are calibrated once and never move.

Keeps of every call's rows, as the tensor ``X (B, L, D)`` of examples, positions and features, the core ``S = X x_1 U1^T
x_2 U2^T x_3 U3^T``, ``(r1, r2, r3)``; the factors ``U1 (B, r1)``, ``U2 (L, r2)`` and ``U3 (D, r3)`` are kept once for
all calls and steps. The smallest of all payloads: with half the positions and half the examples it is a quarter of
``lance``'s at the same rank of features.

Error: biased in three modes, and it goes stale: the factors never move.

Source: LANCE (Apolinario and Roy, arXiv 2509.21617) as its published code has it: each mode's Gram matrix
``A_n A_n^T`` of the unfolding is averaged over calibration batches, decomposed once, and cut at the first rank whose
share of the eigenvalues exceeds a threshold. (``lance`` is its mode of the features alone.) The weight gradient
of a linear layer is formed from the core. As in the source:

- The factor of the examples ties a basis to the *order* of a batch. Batches are shuffled, so that it means
  nothing in the next one but for what examples have in common, and it fixes the size of the batch.
- A basis over positions means something where positions do, as the cells of a maze.

It departs from the source thus:

- Which rows belong to one example a codec is not told: it sees rows ``(N, D)``. ``sequence_length`` says it: ``L``
  rows that follow each other are one example, and ``B = N / L``. Rows that ``L`` does not divide, or with
  another ``B`` than at the calibration, are kept as they are (the source fails there, and drops a last smaller batch).
  Without it there are no examples and positions, and the features alone are decomposed.
- Calibration is on training steps, all calls of each; the source makes about a hundred forward passes beforehand. Rows
  are kept as they are meanwhile.
- ``mean`` weighs the calls alike. The source's code divides its running mean by a count that grows by the mode's size
  ``n`` at each batch, and not the first term: the first batch weighs as much as ``n`` of the others, so that a
  hundred batches at 1,536 features are 94 % the first. ``mean="published"`` does the same. In a
  recursive model a batch is a call, and the first call has at most as many distinct rows as there are tokens.
- Every activation is encoded and rebuilt; the source replaces the last few linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site, hookimpl

from ._decomposition import SELDOM, Fidelity, has_directions
from ._subspace import add_gram, basis_bytes, basis_dtype, largest_entry

_FEATURES = 2

Factors = dict[int, Tensor]
"""By mode: 0 examples, 1 positions, 2 features. ``(n, r)``, orthonormal columns; a mode without one is left whole."""


class LanceTucker(Compressor):
    """Tucker core in factors of examples, positions and features that are calibrated once."""

    name: ClassVar[str] = "lance_tucker"

    energy: float = Field(
        0.9, gt=0, le=1, description="share of each mode's energy: the first rank that exceeds it, or the whole mode"
    )
    sequence_length: int | None = Field(
        None, ge=1, description="positions L of an example, whose rows follow each other; null: features alone"
    )
    calibration_steps: int = Field(1, ge=1, description="steps whose calls are averaged, and kept as they are")
    mean: Literal["uniform", "published"] = Field(
        "uniform", description="calls weigh alike, or the first one as much as n of the others, n a mode's size"
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return LanceTuckerCodec(self, site.width)


class Tucker(Payload):
    """Rows as ``X ~ S x_1 U1 x_2 U2 x_3 U3``.

    Args:
        S: the core, ``(r1, r2, r3)``, in the rows' dtype.
        U: the factors; they are shared between payloads and never changed in place.
    """

    def __init__(self, S: Tensor, U: Factors) -> None:
        self._S = S
        self._U = U

    def decode(self) -> Tensor:
        X = self._S
        for mode, U in self._U.items():
            X = mode_product(X, U.to(X.dtype), mode)
        return X.reshape(-1, X.shape[_FEATURES])

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        """``dY^T X`` from the core: ``dY`` is projected on examples and positions, and ``X`` is never rebuilt."""
        S, M = self._S, grad_output.shape[1]
        sizes = [self._U[mode].shape[0] if mode in self._U else S.shape[mode] for mode in (0, 1)]
        P = grad_output.reshape(*sizes, M)  # (B, L, M)
        for mode in (0, 1):
            if mode in self._U:
                P = mode_product(P, self._U[mode].to(P.dtype).T, mode)
        small = P.reshape(-1, M).T @ S.reshape(-1, S.shape[_FEATURES])  # (M, r3)
        gradient: Tensor = small @ self._U[_FEATURES].to(S.dtype).T
        return gradient

    def tensors(self) -> tuple[Tensor, ...]:
        return (self._S, *self._U.values())


class LanceTuckerCodec(Codec):
    """The factors of one site, once they are calibrated."""

    def __init__(self, settings: LanceTucker, width: int) -> None:
        self.settings = settings
        self.D = width
        self.modes = (_FEATURES,) if settings.sequence_length is None else (0, 1, _FEATURES)
        self.U: Factors = {}
        self.B = 0  # examples in a call; 0: as many as there are
        self._C: Factors = {}  # Gram matrices of the unfoldings over the steps that ended, by mode, (n, n)
        self._C_step: Factors = {}  # of this step
        self._steps = 0  # that are calibrated with
        self._B_before_step = 0
        self._fidelity = Fidelity(every=SELDOM)

    def encode(self, X: Tensor) -> Payload:
        shape = self._shape(len(X))
        if shape is None:
            if self.U:
                self._fidelity.add(X, X)
            return Dense(X)
        tensor = X.reshape(shape)  # (B, L, D)
        if not self.U:
            self._calibrate(tensor)
            return Dense(X)
        S = tensor
        for mode, U in self.U.items():
            S = mode_product(S, U.to(X.dtype).T, mode)
        self._fidelity.add(X, S)
        return Tucker(S.contiguous(), self.U)

    def _shape(self, N: int) -> tuple[int, int, int] | None:
        """``(B, L, D)`` of a call with ``N`` rows, or None where it can't be decomposed."""
        L = self.settings.sequence_length
        if L is None:
            return N, 1, self.D
        if N % L or (self.B and N != self.B * L):
            return None
        return N // L, L, self.D

    def _calibrate(self, X: Tensor) -> None:
        """Adds the unfoldings' Gram matrices of one call ``(B, L, D)``."""
        if self.settings.sequence_length is not None:
            self.B = X.shape[0]
        first = not self._C and not self._C_step
        for mode in self.modes:
            n = X.shape[mode]
            fibres = X.movedim(mode, -1).reshape(-1, n)  # A_n^T
            C = torch.zeros(n, n, dtype=basis_dtype(X.dtype), device=X.device)
            add_gram(C, fibres)
            if first and self.settings.mean == "published":
                # (count C + G) / (count + n) with a count that is n after one batch: after T batches it is
                # (G_1 + (G_2 + ... + G_T) / n) / T. Only the proportions matter.
                C *= n
            self._C_step[mode] = self._C_step[mode] + C if mode in self._C_step else C

    def readings(self) -> Iterable[Tensor]:
        return self._fidelity.tensors() + ([largest_entry(self._C_step[_FEATURES])] if self._C_step else [])

    def end_step(self) -> None:
        numbers = iter(self.read())
        self._fidelity.end_step(numbers)
        C_step, self._C_step = self._C_step, {}
        if not C_step:
            return
        # A step of zeros, or with rows that are not finite, has no directions: it does not count.
        if not has_directions(next(numbers)):
            self.B = self._B_before_step
            return
        self._C = {mode: self._C[mode] + C if self._C else C for mode, C in C_step.items()}
        self._B_before_step = self.B
        self._steps += 1
        if self._steps >= self.settings.calibration_steps:
            self.U = {mode: self._factor(C) for mode, C in self._C.items()}
            self._C = {}

    def _factor(self, C: Tensor) -> Tensor:
        """The leading eigenvectors of a mode's Gram matrix ``(n, n)``, ``(n, r)``."""
        values, vectors = torch.linalg.eigh(C)
        energies = values.flip(0).clamp(min=0).double()
        shares = energies.cumsum(0) / energies.sum()
        r = min(len(C), 1 + int((shares <= self.settings.energy).sum()))
        leading: Tensor = vectors[:, -r:]
        return leading.flip(1).contiguous()

    def discard_step(self) -> None:
        self._C_step = {}
        self.B = self._B_before_step
        self._fidelity.discard_step()

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        """Cores and one set of factors; unknown before they are calibrated."""
        shape = self._shape(rows)
        if shape is None:
            return calls * rows * self.D * itemsize
        if not self.U:
            return None
        core = math.prod(self.U[mode].shape[1] if mode in self.U else n for mode, n in enumerate(shape))
        factors = sum(basis_bytes(len(U), U.shape[1], itemsize) for U in self.U.values())
        return calls * core * itemsize + factors

    def state(self) -> Iterable[Tensor]:
        return [*self.U.values(), *self._C.values(), *self._C_step.values(), *self._fidelity.tensors()]

    def statistics(self) -> dict[str, float]:
        names = {0: "rank_of_examples", 1: "rank_of_positions", _FEATURES: "rank"}
        ranks = {names[mode]: float(U.shape[1]) for mode, U in self.U.items()}
        return {"calibrated": float(bool(self.U))} | ranks | self._fidelity.figures()


def mode_product(A: Tensor, M: Tensor, mode: int) -> Tensor:
    """``A x_n M``: every fibre of a mode becomes its product with ``M (m, n)``."""
    product: Tensor = torch.tensordot(A, M, dims=([mode], [1]))
    return product.movedim(-1, mode)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``lance_tucker``."""
    return [LanceTucker]
