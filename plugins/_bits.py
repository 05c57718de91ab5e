"""Codes of 1 to 8 bits in a dense row of bytes: no bit is left unused, whatever their number."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes ``(n,)``, uint8 of which the lowest ``bits`` count, as ``(code_bytes(n, bits),)`` bytes."""
    packed = []
    for shift, width in _planes(bits):
        places = 8 // width  # codes whose parts share a byte: n / places of them side by side, not neighbours
        plane = codes >> shift & (1 << width) - 1
        lines = functional.pad(plane, (0, -len(codes) % places)).view(places, -1)
        filled = lines[0]
        for place in range(1, places):
            filled = filled | lines[place] << width * place
        packed.append(filled)
    return torch.cat(packed)


def unpack_codes(packed: Tensor, bits: int, codes: int) -> Tensor:
    """The inverse of :func:`pack_codes`: ``(codes,)``, uint8."""
    unpacked = torch.zeros(codes, dtype=torch.uint8, device=packed.device)
    start = 0
    for shift, width in _planes(bits):
        places = 8 // width
        size = math.ceil(codes / places)
        filled = packed[start : start + size]
        lines = [filled >> width * place & (1 << width) - 1 for place in range(places)]
        unpacked |= torch.cat(lines)[:codes] << shift
        start += size
    return unpacked


def code_bytes(codes: int, bits: int) -> int:
    """Bytes of so many codes: ``codes * bits / 8`` where eight divides their number, and at most two more else."""
    return sum(math.ceil(codes * width / 8) for _, width in _planes(bits))


def _planes(bits: int) -> Iterator[tuple[int, int]]:
    """The parts of a code that fill bytes without rest, by their lowest bit and width: 7 bits are 1, 2 and 4."""
    shift = 0
    for width in (1, 2, 4, 8):
        if bits & width:
            yield shift, width
            shift += width
