"""``int8``: eight bits an element, symmetric about zero.

Keeps the codes ``round(x / scale)`` as int8 and one scale for each row, for each group of columns in a row, or for
the whole call. Scales are fp32 (fp64 for fp64 rows): 4 bytes a row or group, so that rows of width 64 take 68 bytes
instead of 256 (73.4 % less), and wider ones up to 75 % less. Against bf16 it is just under 50 %.

Error: small, at most half of the distance between two codes unless ``scale: sigma`` clips; unbiased, and twice as
large at most, with ``stochastic``.

Source: section 3.2 and appendix A of LASER (arXiv 2604.17224), which simulates both scales after training and does
not train with them. It departs from the source thus:

- ``sigma`` is four root mean squares about zero, not four standard deviations about the mean: codes have no offset,
  and rows far from zero would be clipped. It is never wider than the largest magnitude, which rows of up to 16
  elements can't exceed.
- Stochastic rounding is added: unbiased, at twice the largest error. Its random numbers are a byte an element, and an
  offset for each block that makes rounding with them unbiased (``_noise``).

Where the largest magnitude is below 4e-34 (of fp64 rows: 7e-304) the scale is that of this magnitude: smaller scales,
or their parts, would be subnormal numbers, which are rounded themselves.

A row, group or call with an element that is not finite is rebuilt without a single finite element.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._blocks import Granularity, blocks_of, joined, layout, scales_of
from ._kernels import KERNELS, Kernels, run
from ._noise import NOISE, add_noise, rounding_noise
from ._streams import CallStream

_LARGEST_CODE = 127
_SIGMAS = 4.0


class Int8(Compressor):
    """Symmetric 8-bit codes with a scale for each row, group or call."""

    name: ClassVar[str] = "int8"

    granularity: Granularity = Field("row", description="what shares one scale")
    group_size: int = Field(
        128, ge=1, description="columns that share a scale with granularity 'group'; the last has the rest"
    )
    scale: Literal["max", "sigma"] = Field(
        "max", description="what the greatest code stands for: the largest magnitude, or four root mean squares at most"
    )
    stochastic: bool = Field(False, description="round up or down at random, so that the rebuild is unbiased")
    kernels: Kernels = Field("eager", description=KERNELS)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return Int8Codec(self, site.width, generator)


class Int8Codec(Codec):
    """Holds random numbers and no tensor."""

    def __init__(self, settings: Int8, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self._stream = CallStream(generator)

    def encode(self, X: Tensor) -> Payload:
        lines, _, size = self._layout(len(X))
        generator = self._stream.next() if self.settings.stochastic else None
        codes, scales = [], []
        for x in blocks_of(X, lines, size):
            noise = offsets = None
            if generator is not None:
                noise, offsets = rounding_noise(x.shape, generator)
                x = x.to(torch.promote_types(x.dtype, torch.float32))  # with bytes and bf16 kernels are slow
            of_blocks = run(self.settings.kernels, quantise, x, self.settings.scale == "sigma", noise, offsets)
            codes.append(of_blocks[0])
            scales.append(of_blocks[1])
        return Int8Payload(
            joined(codes, lines).reshape(X.shape), joined(scales, lines), size, X.dtype, self.settings.kernels
        )

    def _layout(self, rows: int) -> tuple[int, int, int]:
        return layout(self.settings.granularity, self.settings.group_size, rows, self.D)

    def end_step(self) -> None:
        self._stream.end_step()

    def discard_step(self) -> None:
        self._stream.discard_step()

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        lines, groups, _ = self._layout(rows)
        return calls * (rows * self.D + lines * groups * max(itemsize, torch.float32.itemsize))


def quantise(x: Tensor, sigma: bool, noise: Tensor | None, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes ``(M, n)`` and scales ``(M,)`` of blocks ``x (M, n)``; scales are not finite where an element is not.

    Args:
        x: the blocks.
        sigma: whether four root mean squares bound the scale.
        noise: for rounding at random, uint8, ``(M, n)``.
        offsets: beside it, ``(M,)``.
    """
    # Widened first, since an operator on two types is several times slower on CPU, and so is a maximum of bf16.
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # The largest magnitude; vector_norm(ord=inf) gives the same and is many times slower on CPU.
    bound = torch.maximum(x.amax(dim=-1), -x.amin(dim=-1))
    if sigma:
        bound = torch.minimum(bound, _SIGMAS * (torch.linalg.vector_norm(x, dim=-1) / x.shape[-1] ** 0.5))
    # Neither a scale nor its 256th may be so small that it is rounded itself, or codes would be beyond the largest and
    # wrap. Where an element is not finite neither is the scale: whatever codes are, times the scale they aren't either.
    scales = (bound / _LARGEST_CODE).clamp_(min=NOISE * torch.finfo(x.dtype).tiny)
    if noise is None or offsets is None:
        codes = (x / scales.unsqueeze(-1)).round_()
        if sigma:  # else none is beyond the largest
            codes = codes.clamp_(-_LARGEST_CODE, _LARGEST_CODE)
        return codes.to(torch.int8), scales
    # In 256ths of a code, which take the byte of noise as integers. The largest fits in 16 bits, noise included.
    parts = (x / (scales / NOISE).unsqueeze(-1)).add_(offsets.unsqueeze(-1))
    parts = parts.clamp_(-_LARGEST_CODE * NOISE, _LARGEST_CODE * NOISE).floor_()
    return add_noise(parts, noise).to(torch.int8), scales


class Int8Payload(Payload):
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
    return codes.to(scales.dtype).mul_(scales.unsqueeze(-1)).to(dtype)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``int8``."""
    return [Int8]
