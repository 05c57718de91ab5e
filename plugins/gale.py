"""``gale``: a random sketch of the features that looks at no data.

Keeps the coefficients ``Z = X P`` of every call, ``P (D, k)`` random. Nothing is learnt, so that nothing goes stale,
and nothing is gained from activations that are low-rank.

Error: biased and never stale: rows shrink to ``k / D`` of themselves on average; unbiased and large with
``distribution: gaussian``.

Source: this is the sketch that section 6.1 of LASER (arXiv 2604.17224) attributes to GALE (Muhsin, Zhang and Ko,
2026), and figures made with it are not GALE's. The published GALE does not compress activations: it projects
*gradients in the optimiser*, with a randomised sketch and QR in the place of GaLore's SVD. The nearest published
relatives of what is here are CompAct (arXiv 2410.15352) and RAD (arXiv 2007.10412).

``distribution`` says what the rebuilt rows are on average over sketches:

- ``orthonormal``: ``P`` is the Q factor of a Gaussian matrix, and ``X P P^T`` the projection onto a random subspace.
  On average it is ``(k / D) X``: shrunk, but never longer than ``X``, and exact at full rank. This is the default:
  where an activation enters a non-linear backward (SwiGLU, norms) a rebuild of about its own length matters, and
  where it enters a weight gradient alone one factor over a whole layer hardly concerns Adam.
- ``gaussian``: entries ``N(0, 1/k)``, as in CompAct. ``X P P^T`` equals ``X`` on average, at a squared error of ``(D
  + 1) / k`` times ``|X|^2``: weight gradients are unbiased and noisy, and non-linear backwards are evaluated far from
  ``X``.

``redraw`` says how long a sketch lasts. With ``call`` it is never kept: a payload holds its seed, and draws it again
to decode.

The statistics have a ``fidelity``, measured in one step of ten, where rebuilding is a projection: with ``orthonormal``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._decomposition import SELDOM, Fidelity, rank_figures
from ._streams import CallStream
from ._subspace import LowRank, basis_bytes, basis_dtype, low_rank_operations, orthonormal, project

_SEED_BYTES = 8

Distribution = Literal["orthonormal", "gaussian"]


class Gale(Compressor):
    """Random sketch of the features that does not look at the data."""

    name: ClassVar[str] = "gale"

    rank: int = Field(128, ge=1, description="columns k of the sketch; a narrower site uses its width")
    redraw: Literal["call", "step", "never"] = Field("step", description="how long one sketch lasts")
    distribution: Distribution = Field(
        "orthonormal",
        description="orthonormal: a random projection, which shrinks rows; gaussian: unbiased, and longer than rows",
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return GaleCodec(self, site.width, generator)


@dataclass(frozen=True)
class Sketch:
    """A random matrix ``P (D, k)`` by its seed."""

    width: int
    rank: int
    distribution: Distribution
    seed: int
    dtype: torch.dtype
    device: torch.device

    def draw(self) -> Tensor:
        """The matrix; every time the same."""
        generator = torch.Generator(self.device).manual_seed(self.seed)
        P = torch.randn(self.width, self.rank, dtype=self.dtype, device=self.device, generator=generator)
        return orthonormal(P) if self.distribution == "orthonormal" else P / self.rank**0.5


class GaleCodec(Codec):
    """The sketch ``P`` of one site, where it outlasts a call."""

    def __init__(self, settings: Gale, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self.k = min(settings.rank, width)
        self.P: Tensor | None = None  # (D, k)
        self._stream = CallStream(generator)
        self._fidelity = Fidelity(every=SELDOM)

    def encode(self, X: Tensor) -> Payload:
        if self.settings.redraw == "call":
            sketch = self._sketch(X)
            Z = self._projected(X, sketch.draw())
            return Redrawn(Z, sketch)
        if self.P is None:
            self.P = self._sketch(X).draw()
        return LowRank(self._projected(X, self.P), self.P)

    def _projected(self, X: Tensor, P: Tensor) -> Tensor:
        """``Z = X P``, ``(N, k)``."""
        Z = project(X, P)
        if self.settings.distribution == "orthonormal":
            self._fidelity.add(X, Z)
        return Z

    def _sketch(self, X: Tensor) -> Sketch:
        seed = self._stream.next_seed()
        return Sketch(self.D, self.k, self.settings.distribution, seed, basis_dtype(X.dtype), X.device)

    def readings(self) -> Iterable[Tensor]:
        return self._fidelity.tensors()

    def end_step(self) -> None:
        self._stream.end_step()
        self._fidelity.end_step(iter(self.read()))
        if self.settings.redraw == "step":
            self.P = None

    def discard_step(self) -> None:
        self._stream.discard_step()
        self._fidelity.discard_step()
        if self.settings.redraw == "step":
            self.P = None

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        once = self.settings.redraw != "call"
        sketches = basis_bytes(self.D, self.k, itemsize) if once else calls * _SEED_BYTES
        return calls * rows * self.k * itemsize + sketches

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return low_rank_operations(rows, self.D, self.k, outputs, products=1)

    def coefficient_width(self) -> int:
        return self.k

    def state(self) -> Iterable[Tensor]:
        return ([] if self.P is None else [self.P]) + self._fidelity.tensors()

    def statistics(self) -> dict[str, float]:
        return rank_figures(self.settings.rank, self.D) | self._fidelity.figures()


class Redrawn(LowRank):
    """Coefficients ``Z (N, k)`` and the seed of their sketch, which is drawn again when it is needed."""

    def __init__(self, Z: Tensor | None, sketch: Sketch) -> None:
        self._Z = Z
        self._sketch = sketch

    @property
    def basis(self) -> Tensor:
        return self._sketch.draw()

    def rank(self) -> None:
        return None  # a sketch for each call: nothing that calls could share

    def factors(self) -> None:
        return None

    def tensors(self) -> tuple[Tensor, ...]:
        return () if self._Z is None else (self._Z,)

    def opaque_bytes(self) -> int:
        return _SEED_BYTES

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        return Redrawn(coefficients, self._sketch)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``gale``."""
    return [Gale]
