"""Strategies as they are at each site after a training, so that their memory can be told before one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import PrivateAttr

from compbench.by_site import BySite
from compbench.chain import Chain
from compbench.compressor import Codec, Compressor, Site, SiteUse
from compbench.errors import UnsupportedError
from compbench.records import Foresight
from compbench.stand_in import StandIn

Statistics = Mapping[str, Mapping[str, float]]
"""Of codecs at the end of a training, by the names of their sites."""

Extreme = Literal["least", "most"]
"""Where values decide what a site keeps, and nothing is known of them: which end is taken."""


class Foresights:
    """What plugins know beforehand of strategies, chains and strategies by site among them.

    Args:
        by_name: by the names of strategies; one that is not among them is the same before and after a training.
    """

    def __init__(self, by_name: Mapping[str, Foresight]) -> None:
        self._by_name = by_name

    def settled(self, strategy: Compressor, site: Site, statistics: Mapping[str, float], steps: int) -> Compressor:
        """The strategy as it is at a site; see :class:`Foresight`.

        Raises:
            UnsupportedError: nothing can be told; the message names the strategy.
        """
        if isinstance(strategy, BySite):
            own = _at(strategy, site)
            return strategy if own is None else self.settled(own, site, statistics, steps)
        if isinstance(strategy, Chain):
            return self._settled_chain(strategy, site, statistics, steps)
        foresight = self._by_name.get(strategy.name)
        if foresight is None:
            return strategy
        try:
            return foresight.settled(strategy, statistics, steps)
        except UnsupportedError as error:
            raise UnsupportedError(f"strategy '{strategy.name}': {error}") from error

    def extremes(self, strategy: Compressor, site: Site) -> tuple[Mapping[str, float], Mapping[str, float]] | None:
        """Statistics with which a site keeps least and most; None if values make no difference there.

        Those of the first member of a chain that has any: the others encode what it leaves.
        """
        if isinstance(strategy, BySite):
            own = _at(strategy, site)
            return None if own is None else self.extremes(own, site)
        if isinstance(strategy, Chain):
            found = (self.extremes(member, site) for member in strategy.members)
            return next((extremes for extremes in found if extremes is not None), None)
        foresight = self._by_name.get(strategy.name)
        return None if foresight is None else foresight.extremes(strategy, site)

    def _settled_chain(self, chain: Chain, site: Site, statistics: Mapping[str, float], steps: int) -> Compressor:
        """The members, each with its own statistics as :meth:`ChainCodec.statistics` names them."""
        members: list[Compressor] = []
        left = dict(statistics)
        for member in chain.members:
            prefix = f"{member.name}_"
            own = {name.removeprefix(prefix): value for name, value in left.items() if name.startswith(prefix)}
            settled = self.settled(member, site, {**left, **own}, steps)
            members.append(settled)
            if settled is not member:  # what it was settled by is not the next one's
                left = own
        return chain.model_copy(update={"members": tuple(members)})


class Settled(StandIn):
    """Stands in for a strategy: the same, as it is at each site after a training."""

    _foresights: Foresights = PrivateAttr(default_factory=lambda: Foresights({}))
    _statistics: Statistics = PrivateAttr(default_factory=dict)
    _steps: int = PrivateAttr(0)
    _extreme: Extreme = PrivateAttr("least")
    _undecided: set[str] = PrivateAttr(default_factory=set)
    _about: set[str] = PrivateAttr(default_factory=set)
    _held: bool = PrivateAttr(False)

    @classmethod
    def of(
        cls, strategy: Compressor, foresights: Foresights, statistics: Statistics, steps: int, extreme: Extreme
    ) -> Settled:
        """The stand-in.

        Args:
            strategy: whose place it takes.
            foresights: what is known of strategies.
            statistics: what results say, by site.
            steps: optimiser steps of the training.
            extreme: taken where they say nothing.
        """
        made = cls(strategy=strategy)
        made._foresights, made._statistics, made._steps, made._extreme = foresights, statistics, steps, extreme
        return made

    def decisions(self) -> dict[str, Any]:
        """What values decide, once the sites are known.

        ``undecided``: names of the sites at which they decide what is kept, and of which the results say nothing;
        ``about``: of those whose extremes are one usual case; ``held``: whether the strategy is another one at some
        site than before the training, by what results say.
        """
        return {"undecided": frozenset(self._undecided), "about": frozenset(self._about), "held": self._held}

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        """That of the settled strategy.

        Raises:
            UnsupportedError: what it keeps can't be told beforehand.
        """
        known = self._statistics.get(site.name)
        extremes = None if known else self._foresights.extremes(self.strategy, site)
        if extremes is not None:
            known = extremes[self._extreme == "most"]
            (self._about if extremes[0] == extremes[1] else self._undecided).add(site.name)
        try:
            settled = self._foresights.settled(self.strategy, site, known or {}, self._steps)
        except UnsupportedError:
            if not self._statistics:
                raise
            return None  # results know of other sites: of this one nothing was encoded in the end
        self._held |= bool(self._statistics) and settled is not self.strategy
        return settled.codec(site, generator)

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        """What the strategy does."""
        self.strategy.coordinate(sites)


def _at(strategy: BySite, site: Site) -> Compressor | None:
    """The strategy that has a site; None where no pattern matches it."""
    number = strategy.strategy_at(site)
    return None if number is None else strategy.choices[number][1]
