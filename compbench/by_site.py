"""Different strategies at different sites: of the patterns that match a site, the last says whose it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Self

import torch
from pydantic import SerializeAsAny, model_validator
from torch import nn

from compbench.compressor import Codec, Compressor, Recomputation, Site, SiteUse
from compbench.errors import SettingsError
from compbench.site_patterns import SitePatterns, unmatched_message

SITES = "sites"
"""The key under which a suite, or a call of :func:`compbench.compress`, has strategies by pattern."""


class BySite(Compressor):
    """Strategies by site.

    For each site the last pattern that matches it names the strategy; a site that none matches is left as it is. Every
    strategy coordinates its own sites. Strategies on the graph, such as checkpointing, act on the whole model.

    Raises:
        SettingsError: there are no patterns, one can't be read or excludes, or one is there twice.
    """

    choices: tuple[tuple[str, SerializeAsAny[Compressor]], ...]

    @classmethod
    def of(cls, strategies: Mapping[str | int, Compressor]) -> Self:
        """Strategies by pattern, in the order of the mapping; an integer is a width, as in ``capture.sites``.

        Raises:
            SettingsError: as the class does.
        """
        return cls(choices=tuple((pattern_text(pattern), strategy) for pattern, strategy in strategies.items()))

    @property
    def name(self) -> str:  # type: ignore[override]
        """The strategies' names, such as ``by_site(int8, laser)``."""
        return f"by_site({', '.join(strategy.name for _, strategy in self.choices)})"

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether every strategy is."""
        return all(strategy.exact for _, strategy in self.choices)

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """Whether all of them lose nothing but for rounding."""
        return all(strategy.exact or strategy.lossless for _, strategy in self.choices)

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if not self.choices:
            raise SettingsError("strategies by site need at least one pattern ('*' matches every site)")
        patterns = [pattern for pattern, _ in self.choices]
        for number, pattern in enumerate(patterns):
            if pattern_text(pattern) in patterns[:number]:
                raise SettingsError(f"sites pattern '{pattern}' is given twice")
        return self

    def strategy_at(self, site: Site) -> int | None:
        """Which of :attr:`choices` has the site; None if no pattern matches it."""
        for number in reversed(range(len(self.choices))):
            if SitePatterns(self.choices[number][0]).selects(site):
                return number
        return None

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        """Makes the codec of the site's own strategy, which is given the same generator as if it had all sites."""
        number = self.strategy_at(site)
        return None if number is None else self.choices[number][1].codec(site, generator)

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        """Lets every strategy coordinate its own sites."""
        owners = [self.strategy_at(use.site) for use in sites]
        for number, (_, strategy) in enumerate(self.choices):
            strategy.coordinate([use for use, owner in zip(sites, owners, strict=True) if owner == number])

    def recomputation(self) -> Recomputation | None:
        """That of the one strategy that recomputes, if one does; one that gives way only if it is alone."""
        found = [policy for _, strategy in self.choices if (policy := strategy.recomputation()) is not None]
        return min(found, key=lambda policy: policy.gives_way, default=None)

    def changes_the_graph(self) -> bool:
        """Whether one of the strategies does."""
        return any(strategy.changes_the_graph() for _, strategy in self.choices)

    def wrap(self, model: nn.Module) -> AbstractContextManager[object]:
        """Enters what every strategy does to the model, in order, and leaves it in the opposite order."""
        return self._wrapped(model)

    @contextmanager
    def _wrapped(self, model: nn.Module) -> Iterator[None]:
        entered: list[Compressor] = []
        with ExitStack() as stack:
            for _, strategy in self.choices:
                if strategy not in entered:  # what acts on the whole model acts on it once
                    stack.enter_context(strategy.wrap(model))
                    entered.append(strategy)
            yield

    def unmatched_message(self, sites: Sequence[Site]) -> str:
        """What a user is told of patterns that match no site, its own and those of its strategies; empty if all do."""
        there = list(dict.fromkeys(sites))
        lines = [unmatched_message(text, there) for text, _ in self.choices if SitePatterns(text).unmatched(there)]
        lines += [strategy.unmatched_message(there) for _, strategy in self.choices]
        return "\n".join(filter(None, lines))


def pattern_text(pattern: str | int) -> str:
    """A pattern as text: an integer is a width.

    Raises:
        SettingsError: it can't be read, or excludes.
    """
    SitePatterns([pattern])
    if isinstance(pattern, int):
        return f"width:{pattern}"
    if pattern.startswith("!"):
        body = pattern.removeprefix("!")
        raise SettingsError(f"sites pattern '{pattern}' excludes (allowed: '{body}' with the strategy none)")
    return pattern
