"""A strategy, put back to what it was at a snapshot, and watched while it encodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import PrivateAttr
from torch import Tensor

from compbench.analysis.rows import SiteRows
from compbench.analysis.subspaces import add_gram
from compbench.analysis.trained import Trained
from compbench.capture import Session
from compbench.compressor import Codec, Payload, Site
from compbench.records import Batch
from compbench.stand_in import StandIn


@dataclass(frozen=True)
class OwnSite:
    """A site that a strategy encodes.

    Attributes:
        rows: The site as it was met.
        gram: The Gram matrix of its rows over all calls, ``(D, D)``, float64.
        basis: The strategy's basis at the first call, orthonormalised, ``(D, k)``, float64; None where its payloads are
            no products, and before the first step, in which strategies have none of their own yet.
        statistics: The figures that its codec had at the snapshot.
    """

    rows: SiteRows
    gram: Tensor
    basis: Tensor | None
    statistics: Mapping[str, float]


def watch(trained: Trained, state: Mapping[str, Any], batch: Batch) -> dict[str, OwnSite]:
    """The sites that a cell's strategy encodes in a forward pass, under the cell's own routes, at the model's weights.

    Args:
        trained: The cell.
        state: What the session's ``state_dict()`` was.
        batch: The examples.
    """
    watched = _Watched(strategy=trained.prepared.session.compressor)
    watched._saved = {_name(saved): saved["codec"] for saved in state["sites"]}
    watched._learnt = bool(state["steps"])
    step, cell = trained.step, trained.cell
    devices = [step.device] if step.device.type == "cuda" else []
    session = Session(step.model, watched, cell.capture, cell.seed)
    with torch.random.fork_rng(devices), session, session.probe(), torch.enable_grad():
        step.loss(batch)
    return watched._found


def _name(saved: Mapping[str, Any]) -> str:
    return Site(saved["module"], saved["role"], saved["width"], saved["index"]).name


class _Watched(StandIn):
    """A strategy whose codecs begin with what they had learnt, and are watched."""

    _saved: dict[str, Any] = PrivateAttr(default_factory=dict)
    _learnt: bool = PrivateAttr(default=False)
    _found: dict[str, OwnSite] = PrivateAttr(default_factory=dict)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        """The strategy's own, watched."""
        codec = self.strategy.codec(site, generator)
        if codec is None:
            return None
        if site.name in self._saved:
            codec.load_state_dict(self._saved[site.name])
        return _WatchedCodec(site, codec, self)

    def saw(self, site: Site, rows: Tensor, payload: Payload, statistics: Mapping[str, float]) -> None:
        """Takes down the rows of one call."""
        known = self._found.get(site.name)
        if known is None:
            factors = payload.factors() if self._learnt else None
            basis = None if factors is None else torch.linalg.qr(factors[1].double())[0]
            gram = torch.zeros(site.width, site.width, dtype=torch.float64, device=rows.device)
            known = OwnSite(SiteRows(site, 0, 0, rows.dtype, None), gram, basis, statistics)
        add_gram(known.gram, rows)
        of = known.rows
        counted = replace(of, calls=of.calls + 1, rows=of.rows + len(rows))
        self._found[site.name] = replace(known, rows=counted)


class _WatchedCodec(Codec):
    def __init__(self, site: Site, codec: Codec, watched: _Watched) -> None:
        self.site = site
        self.codec = codec
        self.watched = watched
        self.statistics_before = dict(codec.statistics())

    def encode(self, rows: Tensor) -> Payload:
        """What the codec makes of them."""
        payload = self.codec.encode(rows)
        self.watched.saw(self.site, rows.detach(), payload, self.statistics_before)
        return payload

    def discard_step(self) -> None:
        """That of the codec."""
        self.codec.discard_step()

    def weight_gradient_operations(self, rows: int, outputs: int) -> int | None:
        """Those of the codec, which decide between keeping rows and computing them again."""
        return self.codec.weight_gradient_operations(rows, outputs)
