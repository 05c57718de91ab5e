"""``int8``: eight bits an element, symmetric about zero.

Keeps the codes ``round(x / scale)`` as int8 and one scale for each row, for each group of columns in a row, or for
the whole call. Scales are fp32 (fp64 for fp64 rows): 4 bytes a row or group, so that rows of width 64 take 68 bytes
instead of 256 (73.4 % less), and wider ones up to 75 % less. Against bf16 it is just under 50 %.

Source: section 3.2 and appendix A of LASER (arXiv 2604.17224), which simulates both scales after training and does
not train with them. It departs from the source thus:

- ``sigma`` is four root mean squares about zero, not four standard deviations about the mean: codes have no offset,
  and rows far from zero would be clipped. It is never wider than the largest magnitude, which rows of up to 16
  elements can't exceed.
- Stochastic rounding is added: unbiased, at twice the largest error.

A row, group or call with an element that is not finite is rebuilt without a single finite element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._streams import CallStream

_LARGEST_CODE = 127
_SIGMAS = 4.0


class Int8(Compressor):
    """Symmetric 8-bit codes with a scale for each row, group or call."""

    name: ClassVar[str] = "int8"

    granularity: Literal["row", "group", "tensor"] = Field("row", description="what shares one scale")
    group_size: int = Field(
        128, ge=1, description="columns that share a scale with granularity 'group'; the last has the rest"
    )
    scale: Literal["max", "sigma"] = Field(
        "max", description="what the greatest code stands for: the largest magnitude, or four root mean squares at most"
    )
    stochastic: bool = Field(False, description="round up or down at random, so that the rebuild is unbiased")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return Int8Codec(self, site.width, generator)


class Int8Codec(Codec):
    """Holds random numbers and no tensor."""

    def __init__(self, settings: Int8, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self._stream = CallStream(generator)

    def encode(self, X: Tensor) -> Payload:
        lines, groups, size = self._layout(len(X))
        blocks = to_blocks(X, lines, groups, size)
        scales = self._scales(blocks, X.numel() // lines)  # (lines, groups)
        # Where a scale is zero or not finite codes are arbitrary: times the scale they are zero, or not finite either.
        codes = blocks / scales.unsqueeze(-1)
        if self.settings.stochastic:
            noise = torch.rand(codes.shape, dtype=codes.dtype, device=X.device, generator=self._stream.next())
            codes = codes.add_(noise).floor_()
        else:
            codes = codes.round_()
        codes = codes.clamp_(-_LARGEST_CODE, _LARGEST_CODE).to(torch.int8)
        return Int8Payload(from_blocks(codes, X.shape), scales, size, X.dtype)

    def _layout(self, rows: int) -> tuple[int, int, int]:
        """Lines of elements, groups in a line, elements in a group; the last group of a line may be shorter."""
        if self.settings.granularity == "tensor":
            return 1, 1, rows * self.D
        size = min(self.settings.group_size, self.D) if self.settings.granularity == "group" else self.D
        return rows, math.ceil(self.D / size), size

    def _scales(self, blocks: Tensor, line: int) -> Tensor:
        """The step between two codes, ``(lines, groups)``; NaN or infinite where an element is."""
        _, groups, size = blocks.shape
        dtype = torch.promote_types(blocks.dtype, torch.float32)
        # The largest magnitude; vector_norm(ord=inf) gives the same and is many times slower on CPU.
        bound = torch.maximum(blocks.amax(dim=-1), -blocks.amin(dim=-1)).to(dtype)
        if self.settings.scale == "sigma":
            starts = torch.arange(groups, device=blocks.device) * size
            elements = (line - starts).clamp(max=size)  # of each group, without padding
            rms = torch.linalg.vector_norm(blocks, dim=-1, dtype=dtype) / elements.to(dtype).sqrt()
            bound = torch.minimum(bound, _SIGMAS * rms)
        return bound / _LARGEST_CODE

    def end_step(self) -> None:
        self._stream.end_step()

    def discard_step(self) -> None:
        self._stream.discard_step()

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        lines, groups, _ = self._layout(rows)
        return calls * (rows * self.D + lines * groups * max(itemsize, torch.float32.itemsize))


class Int8Payload(Payload):
    """Codes ``(N, D)`` and the scales ``(lines, groups)`` of their blocks."""

    def __init__(self, codes: Tensor, scales: Tensor, size: int, dtype: torch.dtype) -> None:
        self._codes = codes
        self._scales = scales
        self._size = size
        self._dtype = dtype

    def decode(self) -> Tensor:
        lines, groups = self._scales.shape
        blocks = to_blocks(self._codes, lines, groups, self._size) * self._scales.unsqueeze(-1)
        return from_blocks(blocks.to(self._dtype), self._codes.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return self._codes, self._scales


def to_blocks(X: Tensor, lines: int, groups: int, size: int) -> Tensor:
    """The elements of ``X (N, D)`` as ``(lines, groups, size)``, the last group of a line padded with zeros."""
    flat = X.reshape(lines, -1)
    missing = groups * size - flat.shape[1]
    if missing:
        flat = functional.pad(flat, (0, missing))
    return flat.view(lines, groups, size)


def from_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of :func:`to_blocks`: ``(N, D)``, contiguous, without the padding."""
    lines = blocks.shape[0]
    return blocks.view(lines, -1)[:, : shape.numel() // lines].contiguous().view(shape)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``int8``."""
    return [Int8]
