"""Rows ``(N, D)`` as blocks that share a scale: whole rows, groups of their elements, or all of a call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Granularity = Literal["row", "group", "tensor"]


def layout(granularity: Granularity, group_size: int, rows: int, width: int) -> tuple[int, int, int]:
    """Lines of elements, groups in a line, elements in a group; the last group of a line may be shorter."""
    if granularity == "tensor":
        return 1, 1, rows * width
    size = min(group_size, width) if granularity == "group" else width
    return rows, math.ceil(width / size), size


def blocks_of(X: Tensor, lines: int, size: int) -> tuple[Tensor, ...]:
    """The blocks of ``X (N, D)``, ``(lines * groups, size)``: a view of it, nothing is padded.

    Where the last groups are shorter two: ``(lines * (groups - 1), size)`` and ``(lines, rest)``. Then they are copies,
    which cost less than operators on views with gaps.
    """
    flat = X.reshape(lines, -1)
    size = min(size, flat.shape[1])
    whole, rest = divmod(flat.shape[1], size)
    if not rest:
        return (flat.reshape(lines * whole, size),)
    return flat[:, : whole * size].reshape(lines * whole, size), flat[:, whole * size :].contiguous()


def scales_of(scales: Tensor, blocks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The scales ``(lines, groups)`` of each of :func:`blocks_of`, one for each row of it."""
    if len(blocks) == 1:
        return (scales.reshape(-1),)
    return scales[:, :-1].reshape(-1), scales[:, -1]


def joined(parts: Sequence[Tensor], lines: int) -> Tensor:
    """What was made of each of :func:`blocks_of`, line by line: ``(lines, ...)``."""
    in_lines = [part.reshape(lines, -1) for part in parts]
    return in_lines[0] if len(in_lines) == 1 else torch.cat(in_lines, dim=1)


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
