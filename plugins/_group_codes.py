"""``bits``: codes of 2 to 16 bits, rounded to nearest, with a minimum and a range for every 128 elements.

``actnn`` at a fixed number of bits, with two differences: codes may have more than eight bits, which fills the gap
between eight bits and the whole number, and they are rounded to the nearest. The error is half as large in the square
as with rounding at random, and not zero on average. Minimum and range are bf16: a quarter of a bit an element.

A candidate of ``auto`` and no strategy of its own: suites don't know the name. A group with an element that is not
finite is rebuilt as NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site

from ._bits import code_bytes, pack_codes, unpack_codes
from .actnn import constants

_GROUP = 128
_BYTE = 8


class Bits(Compressor):
    """Codes of 2 to 16 bits, rounded to nearest."""

    name: ClassVar[str] = "bits"

    bits: int = Field(8, ge=2, le=16, description="bits of an element's code")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return BitsCodec(self.bits, site.width)


class BitsCodec(Codec):
    """Holds nothing."""

    def __init__(self, bits: int, width: int) -> None:
        self.b = bits
        self.D = width

    def encode(self, X: Tensor) -> Payload:
        flat = X.reshape(-1)
        missing = -len(flat) % _GROUP
        if missing:
            flat = torch.cat([flat, flat[-1:].expand(missing)])
        x = flat.view(-1, _GROUP)
        Z, R = constants(x)  # (G,) each
        wide = torch.promote_types(X.dtype, torch.float32)
        B = 2**self.b - 1
        # Where a range is zero or NaN codes are arbitrary: the rebuild is the minimum, or NaN.
        codes = (x - Z.to(wide).unsqueeze(1)).div_(R.to(wide).unsqueeze(1) / B).round_().clamp_(0, B)
        whole = codes.flatten()[: X.numel()].to(torch.int32)
        low = pack_codes((whole & 0xFF).to(torch.uint8), min(self.b, _BYTE))
        high = pack_codes((whole >> _BYTE).to(torch.uint8), self.b - _BYTE) if self.b > _BYTE else None
        return GroupCodes(low, high, Z, R, self.b, X.shape, X.dtype)

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        n = rows * self.D
        codes = code_bytes(n, min(self.b, _BYTE)) + (code_bytes(n, self.b - _BYTE) if self.b > _BYTE else 0)
        return calls * (codes + math.ceil(n / _GROUP) * 2 * torch.bfloat16.itemsize)


@dataclass(frozen=True)
class GroupCodes(Payload):
    """Codes, their lowest eight bits apart from the others, and minimum and range ``(G,)`` of groups."""

    low: Tensor
    high: Tensor | None
    Z: Tensor
    R: Tensor
    b: int
    shape: torch.Size
    dtype: torch.dtype

    def decode(self) -> Tensor:
        n = self.shape.numel()
        wide = torch.promote_types(self.dtype, torch.float32)
        codes = unpack_codes(self.low, min(self.b, _BYTE), n).to(wide)
        if self.high is not None:
            codes += unpack_codes(self.high, self.b - _BYTE, n).to(wide) * 2**_BYTE
        Z, step = self.Z.to(wide), self.R.to(wide) / (2**self.b - 1)
        x: Tensor = codes * step.repeat_interleave(_GROUP)[:n] + Z.repeat_interleave(_GROUP)[:n]
        return x.to(self.dtype).view(self.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.low, self.Z, self.R) if self.high is None else (self.low, self.high, self.Z, self.R)
