"""What a step will save and keep, site by site, found without training: only shapes go through the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from pydantic import PrivateAttr
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from compbench.capture import CaptureSettings, Session, SiteReport
from compbench.compressor import Codec, Compressor, Dense, Payload, Site
from compbench.errors import UnsupportedError
from compbench.measure.step import Step
from compbench.measure.without_values import NEEDS_VALUES, without_values
from compbench.records import Batch
from compbench.stand_in import StandIn

_TRIED_STEPS = 2
"""After which strategies that calibrate have done so, by their defaults."""


@dataclass(frozen=True)
class ListedSite:
    """What one site will save in a step once the strategy has settled.

    Attributes:
        name: the site's name; see :class:`Site`.
        module: path of the module.
        role: readable kind of place.
        width: columns ``D``; 0 where the saved tensor has no rows.
        rows: rows ``N`` of one call.
        calls: how many storages are saved there in a step.
        dtype: element type, such as ``float32``.
        raw_bytes: bytes of these storages as they are.
        kept_bytes: bytes that the strategy expects to keep of them; None where it can't tell beforehand.
        rank: the rank that the strategy begins with there; None where it has none.
        propagating: whether an error there reaches the activations' gradients; else it touches a weight's alone.
        reason: why the site is left raw; empty where it is compressed.
    """

    name: str
    module: str
    role: str
    width: int
    rows: int
    calls: int
    dtype: str
    raw_bytes: int
    kept_bytes: int | None
    rank: int | None
    propagating: bool
    reason: str

    def record(self) -> dict[str, Any]:
        """The site as plain data."""
        return asdict(self)


def list_sites(
    step: Step, compressor: Compressor, settings: CaptureSettings, batch: Batch, seed: int = 0, values: bool = False
) -> list[ListedSite]:
    """The sites of one step, in the order in which they are first met.

    A forward and backward pass runs on tensors without values, on the step's device, which should be the CPU: it takes
    neither the time nor the memory of a real one. What the strategy keeps at each site is asked of its codec.

    Two kinds of models save other things with values than without: recurrent layers, for which the CPU's library keeps
    a workspace of its own, and models that look whether their tensors have values, as attention masks of the library
    transformers do.

    Args:
        step: the model, which is as it was afterwards, without gradients.
        compressor: the strategy; it encodes nothing.
        settings: what is compressed.
        batch: the examples of one step.
        seed: seed of the strategy's random streams.
        values: runs a real step after all, uncompressed, with the time and memory that it takes.

    Raises:
        CaptureError: a pattern of the settings matches no site.
        UnsupportedError: the model or its loss asks for values.
    """
    listing = _Listing(strategy=compressor)
    session = Session(step.model, listing, settings, seed)
    try:
        with nullcontext(batch) if values else without_values(step.model, batch) as examples, session, session.step():
            step.loss(examples).backward()
    except NEEDS_VALUES as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedError(
            "the model or its loss asks for values of its tensors, by .item(), bool() or a shape that depends on them, "
            f"and sites are listed without any; `compbench sites --values` runs a real step instead ({told})"
        ) from error
    finally:
        if values:
            step.clear_gradients()
    return [_listed(report, listing.codec_at(report.name)) for report in session.sites()]


class _Listing(StandIn):
    """Stands in for a strategy: treats the same sites in the same way, and keeps their rows as they are."""

    _codecs: dict[str, _ListingCodec] = PrivateAttr(default_factory=dict)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        """One that counts, where the strategy has a codec."""
        codec = self.strategy.codec(site, generator)
        if codec is None:
            return None
        self._codecs[site.name] = _ListingCodec(codec, _rank(self.strategy, site, codec))
        return self._codecs[site.name]

    def codec_at(self, name: str) -> _ListingCodec | None:
        """The codec of the site with this name, if it has one."""
        return self._codecs.get(name)


class _OfRank(Dense):
    """Rows that say that they are kept as a product, if they would be: what follows from them is then not kept."""

    def __init__(self, rows: Tensor, rank: int | None) -> None:
        super().__init__(rows)
        self._rank = rank

    def rank(self) -> int | None:
        """That of the product."""
        return self._rank


def _rank(strategy: Compressor, site: Site, codec: Codec) -> int | None:
    """The rank of the payloads that a codec gives once it has settled, or None if they are no products.

    Another codec tells, at a narrow site and of a few rows: what kind of payloads there are does not depend on these.
    """
    told = codec.statistics().get("rank")
    if told is None:
        return None
    rank = int(told)
    narrow = replace(site, width=min(site.width, 2 * rank))
    stream = torch.Generator().manual_seed(0)
    tried = strategy.codec(narrow, stream)
    if tried is None:
        return None
    with _disable_current_modes(), torch.no_grad():  # with values, whatever the model runs on
        for _ in range(_TRIED_STEPS):
            tried.encode(torch.randn(2 * rank, narrow.width, generator=stream))
            tried.end_step()
        payload = tried.encode(torch.randn(2 * rank, narrow.width, generator=stream))
    return None if payload.rank() is None else rank


class _ListingCodec(Codec):
    """Counts calls by their rows and element size, in the place of the codec that it holds."""

    def __init__(self, codec: Codec, rank: int | None) -> None:
        self.codec = codec
        self.rank = rank
        self.calls: Counter[tuple[int, int]] = Counter()

    def encode(self, rows: Tensor) -> Payload:
        """The rows."""
        self.calls[len(rows), rows.itemsize] += 1
        return _OfRank(rows, self.rank)

    def weight_gradient_operations(self, rows: int, outputs: int) -> int | None:
        """Those of the codec, which decide between keeping rows and computing them again."""
        return self.codec.weight_gradient_operations(rows, outputs)

    def state(self) -> Iterable[Tensor]:
        """That of the codec."""
        return self.codec.state()

    def generators(self) -> Iterable[torch.Generator]:
        """Those of the codec."""
        return self.codec.generators()

    def kept_in_a_step(self) -> int | None:
        """Bytes that the codec expects to keep of all calls; of calls that differ, each takes its share."""
        calls = self.calls.total()
        kept = 0
        for (rows, itemsize), count in self.calls.items():
            of_such_calls = self.codec.kept_bytes(rows, calls, itemsize)
            if of_such_calls is None:
                return None
            kept += of_such_calls * count
        return kept // calls


def _listed(report: SiteReport, codec: _ListingCodec | None) -> ListedSite:
    """A site of the pass without values, with what its codec expects."""
    kept: int | None = report.kept_bytes
    rank = None
    reason = report.reason
    if not reason and codec is not None:
        kept = codec.kept_in_a_step()
        rank = codec.codec.statistics().get("rank")
        if kept is not None and kept >= report.raw_bytes:  # the engine's own rule, with the calls of a whole step
            reason = f"would keep {kept} of {report.raw_bytes} bytes"
            kept = report.kept_bytes
            rank = None
    return ListedSite(
        name=report.name,
        module=report.module,
        role=report.role,
        width=report.width,
        rows=report.rows,
        calls=report.calls,
        dtype=report.dtype,
        raw_bytes=report.raw_bytes,
        kept_bytes=kept,
        rank=None if rank is None else int(rank),
        propagating=report.propagating,
        reason=reason,
    )
