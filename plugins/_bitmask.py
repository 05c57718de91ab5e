"""Masks of one bit an element, eight to a byte."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def pack_bits(mask: Tensor) -> Tensor:
    """The elements of a boolean tensor, in their order, as ``(ceil(n / 8),)`` bytes: the first in the lowest bit."""
    flat = mask.reshape(-1)
    missing = -len(flat) % 8
    if missing:
        flat = functional.pad(flat, (0, missing))
    packed: Tensor = (flat.view(-1, 8) * _weights(mask.device)).sum(dim=1, dtype=torch.uint8)
    return packed


def unpack_bits(packed: Tensor, elements: int) -> Tensor:
    """The inverse of :func:`pack_bits`: a boolean tensor ``(elements,)``."""
    bits = packed.unsqueeze(1).bitwise_and(_weights(packed.device)) != 0  # (bytes, 8)
    return bits.view(-1)[:elements]


def packed_bytes(elements: int) -> int:
    """Bytes that so many elements take."""
    return math.ceil(elements / 8)


def _weights(device: torch.device) -> Tensor:
    # Made on the device: a list of numbers would be copied there, and the host would wait.
    return torch.ones(8, dtype=torch.uint8, device=device) << torch.arange(8, dtype=torch.uint8, device=device)
