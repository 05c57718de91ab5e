"""``topk``: the elements of largest magnitude, and one bit for each element that says which they are.

Keeps ``k = share * D`` elements for each row in the rows' type, and a mask packed eight to a byte: ``k`` elements and
``D / 8`` bytes a row. All others are rebuilt as zero, so that the rebuild is biased and never longer than the row. The
mask is what no share gets below: 1/32 of fp32 rows and 1/16 of bf16 rows.

Error: biased and fresh: all but the largest elements become zero.

Source: BackRazor (NeurIPS 2022) and its code. It departs from the source thus:

- The source prunes each *sample*, all positions and features of it together. A codec sees rows, one for each position,
  and not which of them make a sample. ``per`` is ``row``, where no position gets more elements than another, or
  ``call``, where all rows of the batch compete; a sample lies between the two.
- Exactly ``k`` elements a row are kept (``k N`` in a call), found by ``topk`` and not by a threshold: with a threshold
  ties make the number of elements depend on their values, and a GPU would have to wait for it.
- The source prunes the inputs of linear layers and the operands of attention in fine-tuning; here any site is, and
  attention is recomputed from what was rebuilt.
- Values in 8 bits, which the source borrows from Mesa, are a chain: ``[topk, int8]``.

NaN and infinity count as largest. Where they are all that was kept of a row, or of the call, nothing is known of the
others, and they are rebuilt as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site, hookimpl

from ._bitmask import pack_bits, packed_bytes, unpack_bits


class TopK(Compressor):
    """Elements of largest magnitude, and a mask of one bit an element."""

    name: ClassVar[str] = "topk"

    share: float = Field(0.1, gt=0, le=1, description="share of the elements that are kept; at least one a row")
    per: Literal["row", "call"] = Field("row", description="what elements compete in: their row, or all of the call")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return TopKCodec(self, site.width)


class TopKCodec(Codec):
    """Holds nothing."""

    def __init__(self, settings: TopK, width: int) -> None:
        self.settings = settings
        self.D = width
        self.k = max(1, round(settings.share * width))  # elements for each row

    def encode(self, X: Tensor) -> Payload:
        N = len(X)
        lines = X if self.settings.per == "row" else X.reshape(1, N * self.D)
        count = N * self.k // len(lines)
        largest = lines.abs().topk(count, dim=1, sorted=False).indices.sort(dim=1).values  # (lines, count)
        mask = torch.zeros_like(lines, dtype=torch.bool).scatter_(1, largest, True)
        return Pruned(lines.gather(1, largest).view(N, self.k), pack_bits(mask), len(lines), self.D)

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * (rows * self.k * itemsize + packed_bytes(rows * self.D))

    def coefficient_width(self) -> int:
        return self.k


@dataclass(frozen=True)
class Pruned(Payload):
    """The elements that are kept, ``V (N, k)`` in their order in memory, and where they belong, one bit an element."""

    V: Tensor | None
    mask: Tensor
    lines: int
    width: int

    def decode(self) -> Tensor:
        if self.V is None:
            raise TypeError("this payload's coefficients are kept elsewhere; put them back by with_coefficients")
        N = len(self.V)
        mask = unpack_bits(self.mask, N * self.width).view(self.lines, -1)
        V = self.V.reshape(self.lines, -1)
        others = torch.zeros_like(V[:, :1]).masked_fill_(~V.isfinite().any(dim=1, keepdim=True), math.nan)
        return others.repeat(1, mask.shape[1]).masked_scatter_(mask, V).view(N, self.width)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.mask,) if self.V is None else (self.V, self.mask)

    def coefficients(self) -> Tensor | None:
        return self.V

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        return replace(self, V=coefficients)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``topk``."""
    return [TopK]
