"""``random_projection``: an unbiased sketch of the features by a random matrix of which only the seed is kept.

Keeps the coefficients ``Z = X P`` of every call and a seed of 8 bytes, from which ``P (D, k)`` is drawn again in the
backward pass: N k elements a call. ``P`` is such that ``E[P P^T] = I``; the rebuilt rows ``Z P^T`` and the weight
gradients formed with them are right on average, and noisy.

Error: unbiased at the inputs of linear layers, and large.

Source: CompAct (arXiv 2410.15352) and RAD, randomised automatic differentiation (arXiv 2007.10412). What they choose
differently is a field here; the expected squared error of the rebuilt rows is that of one draw:

- ``gaussian``, entries ``N(0, 1/k)``, as in CompAct: ``(D + 1) / k`` times ``|X|^2``.
- ``rademacher``, entries ``+-1/sqrt(k)``, RAD's projection: ``(D - 1) / k``. In bf16 the entry is rounded, which is a
  factor of at most 1.004 on the rows, and of 1 where ``k`` is a power of four.
- ``coordinates``, RAD's sampling: ``k`` of the ``D`` columns, times ``D / k``: ``(D - k) / k``, and exact at full rank.

``scope`` is RAD's ``call`` (a draw for each) or CompAct's ``step``: one draw for all calls of a step, for ``period``
steps. The noise of calls that share a draw does not average out over them.

It departs from the sources thus:

- Coordinates are drawn without replacement. RAD draws them with replacement, which costs as much memory at an error of
  ``(D - 1) / k``, as some columns come twice.
- There is no choice between rebuilt and compressed gradients. CompAct never rebuilds: the gradient stays ``Z^T dY``, of
  the sketch's height, Adam keeps its moments at that size, and ``P`` is applied to the finished update. That needs an
  optimiser that takes part, which a compressor of activations does not have. What is left of it without one is the
  order of the products: ``(dY^T Z) P^T`` is the same gradient as ``dY^T (Z P^T)`` up to rounding, so that a flag would
  change nothing. What is left out: the memory of gradients and moments, Adam's scaling in the space of the sketch, the
  scale of the update. With plain gradient descent the two are the same.
- Both sources sketch the inputs of linear layers (RAD also of convolutions), where the error is unbiased. Here any site
  is; where rows enter a non-linear backward (gates, norms, attention) the gradient is evaluated far from ``X`` and is
  biased. ``sites`` in the settings of a session or suite keeps it to linear inputs.

It differs from ``gale`` in that every choice is unbiased, no matrix is ever kept, and draws can outlast a step;
``gale`` by default projects onto a random subspace, which shrinks the rows instead of adding noise. Gaussian draws for
each call are what both can do.

The statistics have no ``fidelity``: what is rebuilt is no projection, and longer than the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._decomposition import rank_figures
from ._streams import CallStream
from ._subspace import basis_dtype, low_rank_operations, project

_SEED_BYTES = 8

Distribution = Literal["gaussian", "rademacher", "coordinates"]


class RandomProjection(Compressor):
    """Unbiased random sketch of the features, kept with its seed."""

    name: ClassVar[str] = "random_projection"

    rank: int = Field(128, ge=1, description="columns k of the sketch; a narrower site uses its width")
    distribution: Distribution = Field(
        "gaussian",
        description="gaussian: entries N(0, 1/k); rademacher: +-1/sqrt(k); coordinates: k columns, times D / k",
    )
    scope: Literal["call", "step"] = Field("call", description="what shares one draw: nothing, or the calls of a step")
    period: int = Field(1, ge=1, description="steps that a draw lasts with scope 'step' (T of CompAct, which took 200)")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return RandomProjectionCodec(self, site.width, generator)


@dataclass(frozen=True)
class Draw:
    """One random matrix ``P (D, k)`` by its seed: never kept, and every time the same."""

    width: int
    rank: int
    distribution: Distribution
    seed: int
    device: torch.device

    def project(self, X: Tensor) -> Tensor:
        """``Z = X P``, ``(N, k)``; of sampled coordinates without their factor, so that they are exact."""
        if self.distribution == "coordinates":
            largest = torch.maximum(X.amax(dim=1, keepdim=True), -X.amin(dim=1, keepdim=True))  # (N, 1)
            return X[:, self._coordinates()] + 0 * largest  # NaN in a row with an element that is not finite
        return project(X, self._matrix(X.dtype))

    def expand(self, Z: Tensor) -> Tensor:
        """``Z P^T``, ``(N, D)``."""
        if self.distribution == "coordinates":
            X = (0 * Z[:, :1]).repeat(1, self.width)
            return X.index_copy_(1, self._coordinates(), Z * (self.width / self.rank))
        return Z @ self._matrix(Z.dtype).to(Z.dtype).T

    def _matrix(self, dtype: torch.dtype) -> Tensor:
        """``P (D, k)`` in the dtype of bases for rows of ``dtype``."""
        shape, wide = (self.width, self.rank), basis_dtype(dtype)
        if self.distribution == "gaussian":
            P = torch.randn(shape, dtype=wide, device=self.device, generator=self._generator())
        else:
            P = 2 * torch.randint(2, shape, dtype=wide, device=self.device, generator=self._generator()) - 1
        P /= self.rank**0.5
        return P

    def _coordinates(self) -> Tensor:
        """The columns that are sampled, ``(k,)``."""
        return torch.randperm(self.width, device=self.device, generator=self._generator())[: self.rank]

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.seed)


class RandomProjectionCodec(Codec):
    """The seed of the draw of one site, where it outlasts a call. No tensor."""

    def __init__(self, settings: RandomProjection, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self.k = min(settings.rank, width)
        self._stream = CallStream(generator)
        self._seed: int | None = None
        self._age = 0  # steps that have ended since it was drawn

    def encode(self, X: Tensor) -> Payload:
        if self._seed is None or self.settings.scope == "call":
            self._seed = self._stream.next_seed()
        draw = Draw(self.D, self.k, self.settings.distribution, self._seed, X.device)
        return Sketched(draw.project(X), draw)

    def end_step(self) -> None:
        self._stream.end_step()
        self._age += self._seed is not None
        if self._age >= self.settings.period:
            self._seed, self._age = None, 0

    def discard_step(self) -> None:
        self._stream.discard_step()
        if self._age == 0:
            self._seed = None

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * (rows * self.k * itemsize + _SEED_BYTES)

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return low_rank_operations(rows, self.D, self.k, outputs, products=1)

    def coefficient_width(self) -> int:
        return self.k

    def statistics(self) -> dict[str, float]:
        return rank_figures(self.settings.rank, self.D)


@dataclass(frozen=True)
class Sketched(Payload):
    """Coefficients ``Z (N, k)``, and the draw that gave them."""

    Z: Tensor | None
    draw: Draw

    def _coefficients(self) -> Tensor:
        if self.Z is None:
            raise TypeError("this payload's coefficients are kept elsewhere; put them back by with_coefficients")
        return self.Z

    def decode(self) -> Tensor:
        return self.draw.expand(self._coefficients())

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        """``(dY^T Z) P^T``, ``(M, D)``: in the space of the sketch but for the last product."""
        return self.draw.expand(grad_output.T @ self._coefficients())

    def tensors(self) -> tuple[Tensor, ...]:
        return () if self.Z is None else (self.Z,)

    def opaque_bytes(self) -> int:
        return _SEED_BYTES

    def coefficients(self) -> Tensor | None:
        return self.Z

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        return replace(self, Z=coefficients)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``random_projection``."""
    return [RandomProjection]
