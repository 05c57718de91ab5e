"""A strategy in the place of another: the same in all that a session asks of it, but for its codecs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from pydantic import SerializeAsAny
from torch import nn

from compbench.compressor import Compressor, Recomputation, Site


class StandIn(Compressor):
    """Treats a model as a strategy does; a subclass says what its codecs are.

    ``coordinate`` is not handed on: it is for the strategy's own codecs, and a stand-in may put others in their place.
    """

    strategy: SerializeAsAny[Compressor]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The strategy's own."""
        return self.strategy.name

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether the strategy is, on which the treatment of attention depends."""
        return self.strategy.exact

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """Whether the strategy is."""
        return self.strategy.lossless

    def unmatched_message(self, sites: Sequence[Site]) -> str:
        """The strategy's own."""
        return self.strategy.unmatched_message(sites)

    def recomputation(self) -> Recomputation | None:
        """What the strategy has recomputed."""
        return self.strategy.recomputation()

    def changes_the_graph(self) -> bool:
        """Whether the strategy does."""
        return self.strategy.changes_the_graph()

    def wrap(self, model: nn.Module) -> AbstractContextManager[object]:
        """What the strategy does to the model."""
        return self.strategy.wrap(model)
