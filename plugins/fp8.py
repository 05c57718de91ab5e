"""``fp8``: eight-bit floating-point numbers with a scale.

Keeps ``x / scale`` in one of torch's two formats, and the scale for each row, for each group of columns in a row, or
for the whole call: fp32 (fp64 for fp64 rows), 4 bytes a row or group, as in ``int8``. The scale takes the largest
magnitude ``a`` of its block to the largest number of the format. Then an element of the block has

- with ``e4m3`` (3 bits of mantissa, numbers to 448) a relative error of at most 1/16 where it is above ``a / 28,672``,
  and an error of at most ``a / 458,752`` below;
- with ``e5m2`` (2 bits, numbers to 57,344) a relative error of at most 1/8, in all of the range that matters.

``int8`` has an error of up to ``a / 254`` everywhere: smaller than these for the largest elements, greater for those
below a sixteenth or an eighth of them. The more a row is led by a few outliers, the better FP8 does.

Error: small, and relative to the magnitude of each element.

Source: COAT (arXiv 2410.19313, e4m3 with a scale for each group) and TransformerEngine (a scale for the tensor) keep
activations like this for the backward pass; LASER (arXiv 2604.17224) stops at eight-bit integers. It departs
from them thus:

- Scales are of the call itself. TransformerEngine's delayed scaling takes them from earlier calls, which may be of
  another recursion and clip.
- What is kept is for the backward pass alone; those systems also multiply in FP8.
- Rounding is to nearest, as torch casts. Stochastic rounding would need a step that differs from element to element;
  ``int8`` has it.

A row, group or call with an element that is not finite is rebuilt as NaN: torch's own cast of infinity is not the same
number in all of its versions and formats, and here it is never reached.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from .int8 import from_blocks, to_blocks

_FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


class Fp8(Compressor):
    """8-bit floating-point numbers with a scale for each row, group or call."""

    name: ClassVar[str] = "fp8"

    format: Literal["e4m3", "e5m2"] = Field(
        "e4m3", description="e4m3: 3 bits of mantissa; e5m2: 2 bits, and a wider range"
    )
    granularity: Literal["row", "group", "tensor"] = Field("row", description="what shares one scale")
    group_size: int = Field(
        128, ge=1, description="columns that share a scale with granularity 'group'; the last has the rest"
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return Fp8Codec(self, site.width)


class Fp8Codec(Codec):
    """Holds nothing."""

    def __init__(self, settings: Fp8, width: int) -> None:
        self.settings = settings
        self.D = width

    def encode(self, X: Tensor) -> Payload:
        lines, groups, size = self._layout(len(X))
        blocks = to_blocks(X, lines, groups, size)
        number = _FORMATS[self.settings.format]
        largest = torch.finfo(number).max
        dtype = torch.promote_types(X.dtype, torch.float32)
        bound = torch.maximum(blocks.amax(dim=-1), -blocks.amin(dim=-1)).to(dtype)  # (lines, groups)
        scales = bound / largest
        scales = scales.masked_fill_(scales == 0, 1)
        # Where an element is not finite neither is the scale, and codes are 0 or NaN: times the scale they are NaN. The
        # clamp is for scales so small that they are rounded themselves.
        codes = (blocks / scales.unsqueeze(-1)).clamp_(-largest, largest).to(number)
        return Fp8Payload(from_blocks(codes, X.shape), scales, size, X.dtype)

    def _layout(self, rows: int) -> tuple[int, int, int]:
        """Lines of elements, groups in a line, elements in a group; the last group of a line may be shorter."""
        if self.settings.granularity == "tensor":
            return 1, 1, rows * self.D
        size = min(self.settings.group_size, self.D) if self.settings.granularity == "group" else self.D
        return rows, math.ceil(self.D / size), size

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        lines, groups, _ = self._layout(rows)
        return calls * (rows * self.D + lines * groups * max(itemsize, torch.float32.itemsize))


class Fp8Payload(Payload):
    """Codes ``(N, D)`` and the scales ``(lines, groups)`` of their blocks."""

    def __init__(self, codes: Tensor, scales: Tensor, size: int, dtype: torch.dtype) -> None:
        self._codes = codes
        self._scales = scales
        self._size = size
        self._dtype = dtype

    def decode(self) -> Tensor:
        lines, groups = self._scales.shape
        codes = to_blocks(self._codes.to(self._scales.dtype), lines, groups, self._size)
        return from_blocks((codes * self._scales.unsqueeze(-1)).to(self._dtype), self._codes.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return self._codes, self._scales


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``fp8``."""
    return [Fp8]
