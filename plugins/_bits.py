"""Codes of 1 to 8 bits in a dense row of bytes: no bit is left unused, whatever their number."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes ``(n,)``, uint8 of which the lowest ``bits`` count, as ``(code_bytes(n, bits),)`` bytes."""
    n = len(codes)
    packed = torch.empty(code_bytes(n, bits), dtype=torch.uint8, device=codes.device)
    start = 0
    for shift, width in _planes(bits):
        size = math.ceil(n * width / 8)
        filled = packed[start : start + size]
        plane = codes >> shift if shift else codes
        if width == 8:
            return filled.copy_(plane)
        plane = plane & (1 << width) - 1
        # Codes whose parts share a byte are ``size`` apart, not neighbours: lines that are added as they are.
        filled.copy_(plane[:size])
        for place in range(1, 8 // width):
            line = plane[place * size : (place + 1) * size]
            filled[: len(line)].add_(line, alpha=1 << width * place)
        start += size
    return packed


def unpack_codes(packed: Tensor, bits: int, codes: int) -> Tensor:
    """The inverse of :func:`pack_codes`: ``(codes,)``, uint8; with 8 bits the bytes themselves, not a copy."""
    unpacked = packed[:codes]
    start = 0
    for shift, width in _planes(bits):
        if width == 8:
            break
        places, size = 8 // width, math.ceil(codes * width / 8)
        filled = packed[start : start + size]
        lines = torch.empty(places, size, dtype=torch.uint8, device=packed.device)
        lines[0].copy_(filled)
        for place in range(1, places):
            torch.bitwise_right_shift(filled, width * place, out=lines[place])
        plane = lines.bitwise_and_((1 << width) - 1).view(-1)[:codes]
        unpacked = unpacked.add_(plane, alpha=1 << shift) if shift else plane
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
