"""Numbers as they come back from fewer bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BITS: Mapping[int, str] = {8: "int8, symmetric, scale max|x| / 127 of each call", 16: "bfloat16", 32: "float32"}
"""The formats of the widths that are compared."""


def int8(values: Tensor, scale: Tensor) -> Tensor:
    """Values after symmetric INT8: ``scale * clamp(round(x / scale), -127, 127)``; zeros where the scale is 0."""
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.where(scale > 0, (values / safe).round().clamp(-127, 127) * safe, torch.zeros_like(values))


def max_scale(values: Tensor) -> Tensor:
    """The scale at which the largest magnitude becomes 127."""
    return values.abs().amax() / 127


def sigma_scale(values: Tensor, sigmas: float = 4.0) -> Tensor:
    """The scale at which so many standard deviations become 127; what is beyond them is clipped."""
    return sigmas * values.std(correction=0) / 127


def at_bits(values: Tensor, bits: int) -> Tensor:
    """Values after a format of :data:`BITS`, in their own dtype."""
    if bits == 8:
        return int8(values, max_scale(values))
    if bits == 16:
        return values.to(torch.bfloat16).to(values.dtype)
    if bits == 32:
        return values.to(torch.float32).to(values.dtype)
    raise ValueError(f"{bits} bits (allowed: {', '.join(map(str, BITS))})")
