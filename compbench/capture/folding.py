"""Storages as rows: how the memory behind a saved tensor, or behind any view of it, becomes a matrix ``(N, D)``.

The whole storage is folded, not the view that happens to be saved: what is compressed must be freed, and a view keeps
all of its storage alive. Every view is given back from the rebuilt storage by its shape, stride and offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fold:
    """A way to read a storage of ``rows * width`` elements as rows of ``width`` columns.

    Attributes:
        rows: number of rows ``N``.
        width: number of columns ``D``.
        positions: 0 where rows lie one after the other in memory. Else the storage is ``(batch, width, positions)``, as
            a contiguous convolution output is, and columns are its channels.
    """

    rows: int
    width: int
    positions: int = 0

    def fold(self, tensor: Tensor) -> Tensor:
        """The rows, ``(N, D)``, of the whole storage behind ``tensor``; a view of it unless channels must be moved."""
        flat = tensor.detach()
        if not self.positions:
            return flat.as_strided((self.rows, self.width), (self.width, 1), 0)
        planes = flat.as_strided(
            (self.rows // self.positions, self.width, self.positions),
            (self.width * self.positions, self.positions, 1),
            0,
        )
        return planes.transpose(1, 2).reshape(self.rows, self.width)

    def unfold(self, rows: Tensor) -> Tensor:
        """The storage's elements in their order, in a tensor of any shape, from its rows."""
        if not self.positions:
            return rows
        return rows.view(-1, self.positions, self.width).transpose(1, 2).reshape(-1)


def find_fold(tensor: Tensor, channels_first: bool) -> Fold | None:
    """The fold of the storage behind ``tensor``, or None where it has no rows.

    Args:
        tensor: a saved tensor, any view.
        channels_first: whether dimension 1 of a contiguous tensor of three or more dimensions holds its features, as in
            convolutions. Else the last dimension does, together with the heads of attention.
    """
    elements = tensor.untyped_storage().nbytes() // tensor.itemsize
    base = tensor if tensor._base is None else tensor._base
    if base.dtype != tensor.dtype or base.numel() != elements or base.dim() < 2:
        # A view whose base is not known any more, or does not cover its storage: only its own strides tell.
        base = tensor
    if channels_first and base.dim() >= 3 and base.is_contiguous() and base.shape[1] > 1:
        positions = base.shape[2:].numel()
        if positions > 1 and base.numel() == elements:
            return Fold(elements // base.shape[1], base.shape[1], positions)
    # A view with all the elements tells more than its base: in (B, H, T, d), transposed from (B, T, H, d), the stride
    # of T is H * d, so that heads fold into the width.
    width = _row_stride(tensor if tensor.numel() == elements else base)
    if width < 2 or elements % width:
        return None
    return Fold(elements // width, width)


def _row_stride(tensor: Tensor) -> int:
    """The distance in memory from one row to the next, in elements; 0 where there are no rows."""
    if tensor.dim() < 2 or tensor.shape[-1] == 1:  # one figure a row, such as a norm's 1/rms, is no activation
        return 0
    if tensor.dim() > 3 and tensor.stride(-1) == 1 and tensor.stride(-3) == tensor.shape[-1]:
        # (B, H, T, d) with heads side by side, whichever of batch and positions comes first in memory.
        heads = tensor.shape[-3] * tensor.shape[-1]
        others = [s for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1 and s >= heads]
        return min(others, default=heads)
    if tensor.stride(-1) == 1 and tensor.shape[-1] > 1:
        for size, stride in zip(reversed(tensor.shape[:-1]), reversed(tensor.stride()[:-1]), strict=True):
            if size > 1 and stride > 1:
                return stride
        return tensor.shape[-1]
    # Features lie elsewhere than in the last dimension (channels-last images, transposed keys).
    return min((s for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1 and s > 1), default=0)


def storage_key(tensor: Tensor) -> tuple[int, int, torch.dtype]:
    """What names the contents of a storage: its address, its version and how it is read.

    The address is good only while somebody holds the storage, if only weakly; see ``StorageWeakRef``.
    """
    return tensor.untyped_storage()._cdata, tensor._version, tensor.dtype
