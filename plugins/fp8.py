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

Where the largest magnitude is below 5e-36 (e4m3) or 7e-34 (e5m2) the scale is that of this magnitude: smaller scales
would be subnormal numbers, which are rounded themselves.

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

from ._blocks import Granularity, blocks_of, joined, layout, scales_of
from ._kernels import KERNELS, Kernels, run

_FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


class Fp8(Compressor):
    """8-bit floating-point numbers with a scale for each row, group or call."""

    name: ClassVar[str] = "fp8"

    format: Literal["e4m3", "e5m2"] = Field(
        "e4m3", description="e4m3: 3 bits of mantissa; e5m2: 2 bits, and a wider range"
    )
    granularity: Granularity = Field("row", description="what shares one scale")
    group_size: int = Field(
        128, ge=1, description="columns that share a scale with granularity 'group'; the last has the rest"
    )
    kernels: Kernels = Field("eager", description=KERNELS)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return Fp8Codec(self, site.width)


class Fp8Codec(Codec):
    """Holds nothing."""

    def __init__(self, settings: Fp8, width: int) -> None:
        self.settings = settings
        self.D = width

    def encode(self, X: Tensor) -> Payload:
        lines, _, size = self._layout(len(X))
        kernels, number = self.settings.kernels, _FORMATS[self.settings.format]
        parts = [run(kernels, quantise, x, number) for x in blocks_of(X, lines, size)]
        codes, scales = (joined(part, lines) for part in zip(*parts, strict=True))
        return Fp8Payload(codes.reshape(X.shape), scales, size, X.dtype, kernels)

    def _layout(self, rows: int) -> tuple[int, int, int]:
        return layout(self.settings.granularity, self.settings.group_size, rows, self.D)

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        lines, groups, _ = self._layout(rows)
        return calls * (rows * self.D + lines * groups * max(itemsize, torch.float32.itemsize))


def quantise(x: Tensor, number: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes ``(M, n)`` and scales ``(M,)`` of blocks ``x (M, n)``; a scale is NaN where an element isn't finite."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # operators on two types are slow on CPU
    bound = torch.maximum(x.amax(dim=-1), -x.amin(dim=-1))
    # A scale that is so small that it is rounded itself would give codes beyond the largest.
    scales = (bound / torch.finfo(number).max).clamp_(min=torch.finfo(x.dtype).tiny)
    scales = scales.masked_fill_(~bound.isfinite(), math.nan)
    return (x / scales.unsqueeze(-1)).to(number), scales


class Fp8Payload(Payload):
    """Codes ``(N, D)`` and the scales ``(lines, groups)`` of their blocks."""

    def __init__(self, codes: Tensor, scales: Tensor, size: int, dtype: torch.dtype, kernels: Kernels) -> None:
        self._codes = codes
        self._scales = scales
        self._size = size
        self._dtype = dtype
        self._kernels = kernels

    def decode(self) -> Tensor:
        codes = blocks_of(self._codes, len(self._scales), self._size)
        scales = scales_of(self._scales, codes)
        parts = [run(self._kernels, rebuild, *part, self._dtype) for part in zip(codes, scales, strict=True)]
        return joined(parts, len(self._scales)).reshape(self._codes.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return self._codes, self._scales


def rebuild(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Blocks ``(M, n)`` of their codes and scales ``(M,)``."""
    if codes.is_cpu and not torch.compiler.is_compiling():
        # Torch's own cast is one number at a time there. The bits are those of an fp16 number, which has 5 bits of
        # exponent and 10 of mantissa: e5m2 the upper half of it, e4m3 with an exponent whose zero is 8 less.
        bits = codes.view(torch.int8).to(torch.int16)
        if codes.dtype == torch.float8_e5m2:
            numbers = bits.bitwise_left_shift_(8).view(torch.float16)
        else:
            numbers = bits.bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16)
            scales = scales * 2**8
        return numbers.to(scales.dtype).mul_(scales.unsqueeze(-1)).to(dtype)
    return codes.to(scales.dtype).mul_(scales.unsqueeze(-1)).to(dtype)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``fp8``."""
    return [Fp8]
