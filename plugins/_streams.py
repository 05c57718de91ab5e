"""Random numbers for single calls, without asking the device and without a trace of steps that were only probed."""

from __future__ import annotations

import torch

from compbench.seeds import stream


class CallStream:
    """Gives every draw of a codec a seed of its own, hashed from the codec's seed and a counter on the host.

    A draw depends on how many were made in the steps before, not on what a generator was used for in between, so that a
    step that is discarded leaves later ones as they would have been without it.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._seed = generator.initial_seed()
        self._generator = generator
        self._draws = 0
        self._draws_before_step = 0

    def next_seed(self) -> int:
        """The seed of the next draw."""
        self._draws += 1
        return stream(self._seed, "draw", str(self._draws))

    def next(self) -> torch.Generator:
        """The codec's own generator, seeded for the next draw; good until the draw after it."""
        return self._generator.manual_seed(self.next_seed())

    def end_step(self) -> None:
        """Keeps the draws of the step that ends."""
        self._draws_before_step = self._draws

    def discard_step(self) -> None:
        """Takes back the draws since the last step ended."""
        self._draws = self._draws_before_step
