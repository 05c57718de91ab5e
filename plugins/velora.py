"""``velora``: one number for each piece of a row, along one direction that is fixed in the first call.

A row of ``D`` features is cut into ``G`` sub-tokens of ``m = D / G`` features. One unit vector ``v (m,)``, the same for
all sub-tokens and calls, is the normalised mean of all sub-tokens of the first call that comes by the site. Keeps
``z = s . v`` of each sub-token ``s`` and rebuilds it as ``z v``: ``N G`` elements a call instead of ``N D``, and ``v``.

Error: biased, and it goes stale: the direction never moves.

Source: VeLoRA (arXiv 2405.17991) and its code. It departs from the source thus:

- The authors' code replaces chosen linear layers (value and down projections), whose input gradient stays exact. Here
  any site can be compressed; ``sites`` in the settings of a session or suite keeps it to such inputs.
- The factor that the source puts on the weight gradient (0.1 in fine-tuning, 1 in pre-training) is ``scale``. The
  engine rebuilds rows, so it is on the rows: the same for a linear layer's weight, and a shrunk activation where rows
  enter a non-linear backward.
- ``D`` need not be divisible by ``groups``: sub-tokens have ``ceil(D / groups)`` features, the last is padded with
  zeros, and there may be fewer of them than asked for. The source takes divisible widths only.
- ``v`` is kept in fp32 (fp64 for fp64 rows) and rounded to the rows' type for the products; the source has fp16.
- A first step whose mean is zero or not finite has no direction: its calls take the diagonal ``(1, ..., 1) / sqrt(m)``,
  and the next step is the first. A first step that is discarded is no first step either.

A sub-token with an element that is not finite is rebuilt without a single finite element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._blocks import from_blocks, to_blocks
from ._decomposition import SELDOM, Fidelity
from ._subspace import basis_bytes, basis_dtype


class VeLoRA(Compressor):
    """One number a sub-token, along a direction that the first call fixes."""

    name: ClassVar[str] = "velora"

    groups: int = Field(
        32, ge=1, description="sub-tokens G that a row is cut into; where its width is not divisible, at most so many"
    )
    scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="factor on the rebuilt rows, and so on weight gradients"
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return VeLoRACodec(self, site.width)


class VeLoRACodec(Codec):
    """The direction ``v`` of one site."""

    def __init__(self, settings: VeLoRA, width: int) -> None:
        self.settings = settings
        self.m = math.ceil(width / settings.groups)  # features of a sub-token
        self.G = math.ceil(width / self.m)  # sub-tokens of a row
        self.D = width
        self.v: Tensor | None = None  # (m,)
        self._has_direction: Tensor | None = None  # a boolean scalar, in the step that makes v
        self._fidelity = Fidelity(every=SELDOM)

    def encode(self, X: Tensor) -> Payload:
        S = to_blocks(X, len(X), self.G, self.m)  # (N, G, m)
        if self.v is None:
            self.v, self._has_direction = mean_direction(S)
        Z = S @ self.v.to(X.dtype)  # (N, G)
        self._fidelity.add(X, Z)
        return SubTokens(Z, self.v, self.D, self.settings.scale)

    def readings(self) -> Iterable[Tensor]:
        return self._fidelity.tensors() + ([] if self._has_direction is None else [self._has_direction])

    def end_step(self) -> None:
        numbers = iter(self.read())
        self._fidelity.end_step(numbers)
        if self._has_direction is not None and not next(numbers):
            self.v = None
        self._has_direction = None

    def discard_step(self) -> None:
        self._fidelity.discard_step()
        if self._has_direction is not None:
            self.v, self._has_direction = None, None

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * rows * self.G * itemsize + basis_bytes(self.m, 1, itemsize)

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return rows * (self.D + self.G * outputs)

    def coefficient_width(self) -> int:
        return self.G

    def state(self) -> Iterable[Tensor]:
        return [tensor for tensor in (self.v, self._has_direction) if tensor is not None] + self._fidelity.tensors()

    def statistics(self) -> dict[str, float]:
        """``rank`` is the numbers of a row; ``rank_clamped`` is 1 where more were asked for than it has elements."""
        figures = self._fidelity.figures()
        figures.pop("relative_error", None)  # which would be that of scale 1, and of sub-tokens without padding
        return {"rank": float(self.G), "rank_clamped": int(self.settings.groups > self.D)} | figures


def mean_direction(S: Tensor) -> tuple[Tensor, Tensor]:
    """The normalised mean ``(m,)`` of sub-tokens ``(N, G, m)``, and whether they had one; if not, the diagonal."""
    mean = S.mean(dim=(0, 1), dtype=basis_dtype(S.dtype))
    largest = mean.abs().amax()  # the mean is divided by it first: the square of a tiny number is zero
    has_direction = largest.isfinite() & (largest > 0)
    mean = torch.where(has_direction, mean / largest, torch.ones_like(mean))
    return mean / torch.linalg.vector_norm(mean), has_direction


@dataclass(frozen=True)
class SubTokens(Payload):
    """One number for each sub-token, ``Z (N, G)``, and their direction ``v (m,)``, which all payloads share."""

    Z: Tensor | None
    v: Tensor
    width: int
    scale: float

    def _coefficients(self) -> Tensor:
        if self.Z is None:
            raise TypeError("this payload's coefficients are kept elsewhere; put them back by with_coefficients")
        return self.Z

    def _expand(self, Z: Tensor) -> Tensor:
        """Each number times ``v``: ``(N, G)`` to ``(N, D)``."""
        S = (self.scale * Z).unsqueeze(2) * self.v.to(Z.dtype)  # (N, G, m)
        return from_blocks(S, torch.Size((len(Z), self.width)))

    def decode(self) -> Tensor:
        return self._expand(self._coefficients())

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        """``dY^T Z``, one column for each group, each times ``v``: ``(M, D)``."""
        return self._expand(grad_output.T @ self._coefficients())

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.v,) if self.Z is None else (self.Z, self.v)

    def coefficients(self) -> Tensor | None:
        return self.Z

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        return replace(self, Z=coefficients)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``velora``."""
    return [VeLoRA]
