"""``row_sample``: some of the rows of a linear layer's input, scaled such that the weight gradient is right on average.

Keeps ``k = share * N`` of the ``N`` rows of ``X``, and which they are. The weight gradient ``dW = dY^T X`` is a sum
over rows, and ``p_i ~ |x_i| |dy_i|`` is row i's share in it. The rows ``C`` of largest ``p`` are kept as they are; ``k
- |C|`` more are drawn from the others, with replacement, and scaled by ``(1 - P_C) / ((k - |C|) p_i)``, ``P_C`` the
sum of ``p`` over ``C``. Of all ``|C|`` the one is taken with the least ``(1 - P_C) / (k - |C|)``. What was not kept is
rebuilt as zero: rows that are rebuilt are nothing like ``X`` one by one, and on average over draws they are ``X``, and
with them the weight gradient.

Only sites whose error touches a weight's gradient alone are sampled: inputs of linear layers and convolutions that
nothing else saves. Which these are is known when the first step has ended; in that step every site is kept whole, and
all others stay so (the engine reports that they would keep as much as there is; ``sampled`` in the figures of the
first step says which).

Error: unbiased, and in weight gradients alone; none at the sites that are kept whole.

Source: WTA-CRS (Liu and others, NeurIPS 2023, arXiv 2305.15265), and its code with its defaults (``|C|`` adaptive, at
least 10 rows, drawn with replacement). It departs from the source thus:

- ``|dy_i|`` is not known in the forward pass. The source looks up what it was at the same example's visit before, one
  epoch ago, in a table on the CPU over all of the data. The engine does not tell which examples rows belong to: here
  it is that of the same row of the same call of the step before, other examples at the same positions. Whatever the
  probabilities are, the mean is right; what suffers is the variance.
- ``|dy_i|`` counts with a tenth of the mean at least. Without, a row that had no gradient a step ago would never be
  drawn, and its share would be missing. The source adds 1e-8. This also bounds a scaled row, to some ``10 N / k``
  times the longest one.
- Where ``|dy|`` is not known (a call more than before, other rows, a convolution) ``|x_i|`` alone decides, as in the
  source.
- The source stops drawing once ``P_C`` exceeds 0.999, and leaves out what is left; here it goes on drawing.
- ``|C|`` stays on the device; the source takes it to the host at every layer. There are ``k`` places whatever it is.
- Rows are of all examples of the batch, and the norms are of all of their columns, as in the source. There q, k and v
  layers alone are sampled by default, in fp16; here all linear layers, in any type.

Where a row is not finite, all are rebuilt as NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site, SiteUse, hookimpl

from ._streams import CallStream

_FLOOR = 0.1
"""Of the mean gradient norm: what a row counts with at least."""

_INDEX = torch.int32


class RowSample(Compressor):
    """A sample of the rows at the inputs of linear layers; weight gradients are unbiased."""

    name: ClassVar[str] = "row_sample"

    share: float = Field(0.3, gt=0, le=1, description="share k / N of the rows that are kept")
    minimum: int = Field(10, ge=1, description="rows of a call that are kept at least")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return RowSampleCodec(self, site.width, generator)

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        """Tells codecs whether an error at their site touches a weight's gradient alone."""
        for use in sites:
            if isinstance(use.codec, RowSampleCodec):
                use.codec.learn(use.propagating)


class RowSampleCodec(Codec):
    """The gradients' norms of one site, in the step before."""

    watches_gradients = True

    def __init__(self, settings: RowSample, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self.weight_only: bool | None = None  # None: not told yet
        self._steps = 0
        self._norms: list[Tensor | None] = []  # |dy_i| of each call of the last step, (N,)
        self._gathered: list[Tensor | None] = []  # of each call of this step
        self._stream = CallStream(generator)

    def encode(self, X: Tensor) -> Payload:
        call = len(self._gathered)
        self._gathered.append(None)
        k = self._kept_rows(len(X))
        if not self.weight_only or k == len(X):
            return Whole(X, call)
        x = torch.linalg.vector_norm(X, dim=1, dtype=torch.float64)  # |x_i|, (N,)
        p = x * self._gradient_norms(call, len(X), X.device)
        total = p.sum()
        index, scale = winners_and_drawn(p / total, k, self._stream.next())  # (k,) each
        wide = torch.promote_types(X.dtype, torch.float32)
        rows = X.index_select(0, index).to(wide) * scale.to(wide).unsqueeze(1)
        largest = torch.finfo(X.dtype).max
        rest = (total * 0).to(X.dtype)  # NaN where a row is not finite
        return Sampled(rows.clamp_(-largest, largest).to(X.dtype), index.to(_INDEX), rest, len(X), call)

    def _kept_rows(self, rows: int) -> int:
        return min(rows, max(self.settings.minimum, round(self.settings.share * rows)))

    def _gradient_norms(self, call: int, rows: int, device: torch.device) -> Tensor:
        """``|dy_i|`` of the same call of the last step, up to a factor, or ones: ``(N,)``."""
        known = self._norms[call] if call < len(self._norms) else None
        if known is None or len(known) != rows:
            return torch.ones(rows, dtype=torch.float64, device=device)
        y = torch.nan_to_num(known.double(), nan=0.0, posinf=0.0)
        mean = y.mean()
        return torch.where(mean > 0, y.clamp(min=_FLOOR * mean), 1.0)

    def observe_gradient(self, payload: Payload, gradient: Tensor) -> None:
        """Notes the norms ``|dy_i|`` of ``(N, M)``; several layers on the same input count as one with all columns."""
        if isinstance(payload, Whole | Sampled) and self.weight_only is not False:
            norms = torch.linalg.vector_norm(gradient, dim=1, dtype=torch.float32)
            known = self._gathered[payload.call]
            self._gathered[payload.call] = norms if known is None else torch.hypot(known, norms)

    def learn(self, propagating: bool) -> None:
        """Takes note of what an error here touches; where it was passed on once, the site is kept whole for ever."""
        self.weight_only = self.weight_only is not False and not propagating
        if not self.weight_only:
            self._norms = []

    def end_step(self) -> None:
        self._stream.end_step()
        self._steps += bool(self._gathered)
        self._norms, self._gathered = self._gathered, []

    def discard_step(self) -> None:
        self._stream.discard_step()
        self._gathered = []

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return self.D * (rows + self._kept_rows(rows) * outputs)

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        """What sampling keeps, and where there is none all; unknown in the first step, to be told what the site is."""
        if not self._steps:
            return None
        k = self._kept_rows(rows)
        if not self.weight_only or k == rows:
            return calls * rows * self.D * itemsize
        return calls * (k * (self.D * itemsize + _INDEX.itemsize) + itemsize)

    def state(self) -> Iterable[Tensor]:
        return [norms for norms in (*self._norms, *self._gathered) if norms is not None]

    def statistics(self) -> dict[str, float]:
        return {"sampled": int(bool(self.weight_only))}


def winners_and_drawn(p: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which ``k`` of ``N`` rows to keep, and by what to scale them.

    Args:
        p: the rows' shares, ``(N,)``, fp64, of sum 1; of zeros or NaN where rows are zero or not finite.
        k: places, fewer than ``N``.
        generator: for the rows that are drawn.

    Returns:
        Row numbers ``(k,)`` and factors ``(k,)``. First come the rows of the largest shares, once each and with factor
        1, then those that were drawn; a row may be drawn more than once.
    """
    N = len(p)
    p, order = p.sort(descending=True)
    through = p.cumsum(0)
    before = through - p  # P_C of the first 0, 1, ... rows, (N,)
    place = torch.arange(k, device=p.device)
    C = ((1 - before[:k]) / (k - place)).argmin(dim=0, keepdim=True)  # |C|, (1,), at most k - 1
    P_C = before.gather(0, C)
    u = torch.rand(k, dtype=p.dtype, device=p.device, generator=generator)
    drawn = torch.searchsorted(through, P_C + u * (1 - P_C), right=True).clamp(min=C).clamp(max=N - 1)
    rank = torch.where(place < C, place, drawn)
    p = p.gather(0, rank)
    factor = (1 - P_C) / ((k - C) * p)
    factor = torch.where(p > 0, factor, 0.0)  # a row of zeros has no share, and needs none
    return order.gather(0, rank), torch.where(place < C, 1.0, factor)


class Whole(Dense):
    """The rows themselves, and which call of its step they are of."""

    def __init__(self, rows: Tensor, call: int) -> None:
        super().__init__(rows)
        self.call = call


@dataclass(frozen=True)
class Sampled(Payload):
    """Scaled rows ``Z (k, D)``, their numbers ``(k,)``, and what is added to all rows: 0, or NaN."""

    Z: Tensor
    index: Tensor
    rest: Tensor
    N: int
    call: int

    def decode(self) -> Tensor:
        return self.rest.repeat(self.N, self.Z.shape[1]).index_add_(0, self.index, self.Z)

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        """``dY[index]^T Z``, ``(M, D)``: k / N of the work, and no row is rebuilt."""
        return grad_output.index_select(0, self.index).T @ self.Z + self.rest

    def tensors(self) -> tuple[Tensor, ...]:
        return self.Z, self.index, self.rest


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``row_sample``."""
    return [RowSample]
