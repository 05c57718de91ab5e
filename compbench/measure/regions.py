"""Regions of a trace: what a session does for its strategy, named after the strategy, the work and the site.

``compbench::laser encode block.mlp/mlp_384`` is one. They are put around the engine's methods from outside and only
while something is traced: no other step pays for them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, get_args
from unittest.mock import patch

import torch

from compbench.by_site import BySite
from compbench.capture import Session
from compbench.capture import products as products_module
from compbench.capture.entry import Entry, View
from compbench.capture.recipes import Recipe
from compbench.capture.saving import Saver
from compbench.chain import ChainCodec, ChainPayload, Link
from compbench.compressor import Compressor, Payload, Site

Work = Literal["save", "encode", "decode", "weight gradient", "recompute", "end of step"]
"""What a session does for its strategy. ``save`` is whatever it does with a tensor that autograd saves, encoding
included; ``weight gradient`` forms that of a linear layer or a convolution from what was kept of its rows, at its rank
or from rows that are decoded for it; ``recompute`` runs an operator again whose output was not kept."""

WORKS: tuple[Work, ...] = get_args(Work)

PREFIX = "compbench::"
"""Before the name of every region."""

REGION_METHODS: tuple[tuple[Any, str], ...] = (
    (Saver, "pack"),
    (Saver, "_encode"),
    (Entry, "_decoded"),
    (products_module, "_add_linear"),
    (products_module, "_add_convolution"),
    (Recipe, "_compute"),
    (Session, "_end_step"),
    (Link, "encode"),
    (ChainCodec, "encode"),
    (ChainPayload, "_rebuilt"),
)
"""What regions are put around, and the codec of a chain, which knows whose the parts of its payloads are."""


@dataclass(frozen=True)
class Region:
    """One kind of region.

    Attributes:
        strategy: the strategy whose codec is at the site: of strategies by site the one that has the site; of a chain
            all of it, and within that each member by itself.
        work: what is done.
        what: the site; for what is computed again, the function; empty for what belongs to no single one.
    """

    strategy: str
    work: Work
    what: str

    @property
    def name(self) -> str:
        """What the trace calls it."""
        return f"{PREFIX}{self.strategy} {self.work} {self.what}".rstrip()


class Regions:
    """The regions of a session's steps, for as long as they are traced.

    Args:
        session: the session; only one is traced at a time.
    """

    def __init__(self, session: Session) -> None:
        self._compressor = session.compressor
        self._names: dict[tuple[str, Work, str], str] = {}
        self._regions: dict[str, Region] = {}
        self._owners: dict[Site, str] = {}
        self._payloads: dict[int, tuple[weakref.ref[ChainPayload], str, list[str]]] = {}

    def find(self, name: str) -> Region | None:
        """The region of that name, if there has been one."""
        return self._regions.get(name)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Puts the regions around what sessions do; autograd's operators call them while they run.

        Without the region around ``save`` what it takes would be the operators'.
        """
        names: dict[tuple[Any, str], Callable[..., str | None]] = {
            (Saver, "pack"): lambda *_: self._whole("save"),
            (Saver, "_encode"): lambda saver, tensor, fold, book, *_: self._at(book.site, "encode"),
            (Entry, "_decoded"): lambda entry, *_: self._at(entry.book.site, "decode"),
            (products_module, "_add_linear"): lambda total, kept, *_: self._of(kept),
            (products_module, "_add_convolution"): lambda total, kept, *_: self._of(kept),
            (Recipe, "_compute"): lambda recipe, *_: self._whole("recompute", _name_of(recipe._function)),
            (Session, "_end_step"): lambda session, book, *_: self._at(book.site, "end of step"),
            (Link, "encode"): lambda link, *_: self._member(link, "encode"),
            (ChainPayload, "_rebuilt"): self._part,
        }
        with ExitStack() as stack:
            for owner, method in REGION_METHODS:
                plain = getattr(owner, method)
                around = names.get((owner, method))
                changed = self._noting(plain) if around is None else _named(plain, around)
                stack.enter_context(patch.object(owner, method, changed))
            yield

    def _name(self, strategy: str, work: Work, what: str) -> str:
        key = strategy, work, what
        known = self._names.get(key)
        if known is None:
            region = Region(*key)
            known = self._names[key] = region.name
            self._regions[known] = region
        return known

    def _whole(self, work: Work, what: str = "") -> str:
        return self._name(self._compressor.name, work, what)

    def _at(self, site: Site, work: Work) -> str:
        owner = self._owners.get(site)
        if owner is None:
            owner = self._owners[site] = strategy_at(self._compressor, site)
        return self._name(owner, work, site.name)

    def _of(self, kept: object) -> str | None:
        return self._at(kept.entry.book.site, "weight gradient") if isinstance(kept, View) else None

    def _member(self, link: Link, work: Work) -> str:
        return self._name(strategy_at(link.member, link.site), work, link.site.name)

    def _noting(self, encode: Callable[..., Payload]) -> Callable[..., Payload]:
        """A chain's ``encode`` that notes whose the parts of the payload are: these do not know it themselves."""

        @wraps(encode)
        def noting(codec: ChainCodec, *arguments: Any) -> Payload:
            payload = encode(codec, *arguments)
            if isinstance(payload, ChainPayload):
                key = id(payload)
                members = [
                    strategy_at(link.member, link.site) for link in codec.links if any(True for _ in link.current)
                ]
                forget = weakref.ref(payload, lambda _: self._payloads.pop(key, None))
                self._payloads[key] = forget, codec.links[0].site.name, members
            return payload

        return noting

    def _part(self, payload: ChainPayload, place: int, *_: Any) -> str | None:
        known = self._payloads.get(id(payload))
        if known is None:
            return None
        return self._name(known[2][place], "decode", known[1])


def strategy_at(compressor: Compressor, site: Site) -> str:
    """The name of the strategy whose codec a site has."""
    if isinstance(compressor, BySite):
        number = compressor.strategy_at(site)
        if number is not None:
            return strategy_at(compressor.choices[number][1], site)
    return compressor.name


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", ""))


def _named(method: Callable[..., Any], name: Callable[..., str | None]) -> Callable[..., Any]:
    @wraps(method)
    def named(*arguments: Any, **keywords: Any) -> Any:
        region = name(*arguments)
        if region is None:
            return method(*arguments, **keywords)
        # Not record_function, which is an operator itself: it takes longer, and sessions would see it run.
        with torch._C._profiler._RecordFunctionFast(region):
            return method(*arguments, **keywords)

    return named
