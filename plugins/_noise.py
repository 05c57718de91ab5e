"""Noise for rounding at random: one random byte an element."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

NOISE = 256
"""Values of a byte: parts of the distance between two codes."""


def rounding_noise(shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise for blocks ``(M, n)``, the shape: bytes and offsets, ``(byte + offset) / 256`` an element.

    A byte an element is drawn, and of each block one offset in [0, 1). An element's noise is evenly distributed over
    [0, 1), as if it were drawn for it alone, so that rounding with it is unbiased; its last part is common to a block,
    whose errors have a covariance of less than 1/256 of a step squared. Random numbers of 32 bits for each element
    would take six times as long as bytes, and longer than all else that rounding needs.

    Returns:
        Bytes ``(M, n)``, uint8, and offsets ``(M,)``, fp32.
    """
    blocks, size = shape
    n = blocks * size
    draws = torch.empty(math.ceil(n / 8), dtype=torch.int64, device=generator.device)
    # All of the 64 bits of a draw are random only over the whole range of them.
    draws.random_(-(2**63), None, generator=generator)
    offsets = torch.rand(blocks, dtype=torch.float32, device=generator.device, generator=generator)
    return draws.view(torch.uint8)[:n].view(blocks, size), offsets


def add_noise(parts: Tensor, noise: Tensor) -> Tensor:
    """Codes that were brought into 256ths, offset included, rounded by their bytes of noise: integers.

    Args:
        parts: whole numbers, or ones that are not below zero; with the noise they fit in 16 bits.
        noise: uint8, of the same shape.
    """
    # 16 bits are less memory between operators; compiled there is none between them, and only 32 bits are vectors.
    integers = torch.int32 if torch.compiler.is_compiling() else torch.int16
    return parts.to(integers).add_(noise.to(integers)).bitwise_right_shift_(8)
