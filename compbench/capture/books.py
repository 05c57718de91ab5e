"""All sites of a session: made where they are first met, chosen by patterns, saved and loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from compbench.capture.modules import ModuleTracker
from compbench.capture.sites import SiteBook, SiteReports
from compbench.capture.special import refuse_compiled_function
from compbench.compressor import Compressor, Site, SiteUse
from compbench.errors import CaptureError, CaptureWarning
from compbench.seeds import generator as seeded
from compbench.site_patterns import SitePatterns

_UNTOUCHED = "the strategy leaves it"
_NOT_CHOSEN = "not among the chosen sites"
COMPUTED_AGAIN = "computed again in the backward pass"


class Books:
    """The books of a session's sites, in the order in which the sites were first met.

    Args:
        compressor: the strategy, which makes a codec for each site.
        patterns: which sites it is asked for; see :class:`SitePatterns`.
        seed: seed of the strategy's random streams.
    """

    def __init__(self, compressor: Compressor, patterns: Sequence[str | int], seed: int) -> None:
        self._compressor = compressor
        self._patterns = SitePatterns(patterns)
        self._seed = seed
        self._books: dict[tuple[str, str, int, str], SiteBook] = {}

    def __iter__(self) -> Iterator[SiteBook]:
        return iter(tuple(self._books.values()))

    def of(self, modules: ModuleTracker, width: int, device: torch.device) -> SiteBook:
        """The book of the site where the running module saves a storage that was not saved before.

        Raises:
            UnsupportedError: it is met for the first time, in a function that torch.compile made, and has a codec.
        """
        role = f"{modules.tag}_{width}"
        index = modules.count(role)
        key = (modules.path, role, index, "")
        book = self._books.get(key)
        if book is None:
            book = self._open(Site(modules.path, role, width, index), device)
            if book.codec is not None:
                refuse_compiled_function(modules.path)
            self._books[key] = book
        return book

    def raw(self, path: str, role: str, width: int, reason: str) -> SiteBook:
        """The book of what is left raw for the same reason, with the same width, by the same module."""
        key = (path, role, 0, reason)
        book = self._books.get(key)
        if book is None:
            book = self._books[key] = SiteBook(Site(path, role, width), None, None, reason)
        return book

    def _open(self, site: Site, device: torch.device) -> SiteBook:
        if not self._patterns.selects(site):
            return SiteBook(site, None, None, untouched=_NOT_CHOSEN, chosen=False)
        stream = seeded(self._seed, "strategy", site.name, device=device)
        return SiteBook(site, self._compressor.codec(site, stream), stream, untouched=_UNTOUCHED)

    def check_patterns(self) -> None:
        """Checks that every pattern has chosen a site; asked once all sites are known.

        Strategies that are exact are only warned: attention is not recomputed for them, so that they have fewer sites.

        Raises:
            CaptureError: one has not; the message names the nearest sites.
        """
        sites = [book.site for (*_, reason), book in self._books.items() if not reason]
        messages = self._patterns.unmatched_message(sites), self._compressor.unmatched_message(sites)
        message = "\n".join(filter(None, messages))
        if not message:
            return
        if not self._compressor.exact:
            raise CaptureError(message)
        if any(book.codec is not None for book in self):
            warnings.warn(message, CaptureWarning, stacklevel=6)

    def uses(self) -> list[SiteUse]:
        """What the sites did at which the step under way has encoded anything."""
        recomputed = sum(book.raw_bytes for book in self if book.reason == COMPUTED_AGAIN)
        return [
            SiteUse(
                book.site,
                book.codec,
                book.calls,
                book.rows,
                book.dtype.itemsize,
                book.propagating,
                recomputed,
            )
            for book in self
            if book.codec is not None and book.calls and not book.reason and book.dtype is not None
        ]

    def reports(self, notes: Sequence[str] = ()) -> SiteReports:
        """What every site saved in the last step, and lines to print below that."""
        return SiteReports((book.last for book in self if book.last is not None), notes)

    def keep_only(self, known: Sequence[SiteBook]) -> None:
        """Forgets all books but those given."""
        kept = set(map(id, known))
        self._books = {key: book for key, book in self._books.items() if id(book) in kept}

    def state_dict(self) -> list[dict[str, Any]]:
        """The sites with a codec: which, where, with how many calls, and what their codecs hold."""
        return [
            {
                "module": book.site.module,
                "role": book.site.role,
                "width": book.site.width,
                "index": book.site.index,
                "device": str(book.generator.device),
                "last_calls": book.last_calls,
                "met": book.met,
                "codec": book.codec.state_dict(),
            }
            for book in self
            if book.codec is not None and book.generator is not None
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Makes the sites that :meth:`state_dict` lists, with codecs that hold what theirs held."""
        for saved in state:
            site = Site(saved["module"], saved["role"], saved["width"], saved["index"])
            book = self._open(site, torch.device(saved["device"]))
            if book.codec is None:
                raise CaptureError(f"the state has a codec for site {site.name}, which this session leaves as it is")
            book.codec.load_state_dict(saved["codec"])
            book.last_calls = saved["last_calls"]
            book.met = saved.get("met", True)  # which earlier states do not have
            self._books[(site.module, site.role, site.index, "")] = book
