"""``checkpoint``: keeps the input of each call, and computes the call again in the backward pass.

Exact: the same operators run again on the same numbers. What is kept is one tensor a segment, and what the operators
save beside activations (norms' 1/rms, attention's log-sum-exp, dropout's masks). A longer segment keeps less and holds
more at once when its calls are computed again; ``segment`` at the number of calls is the extreme.

Source: gradient checkpointing (Chen et al., arXiv 1604.06174), as ``torch.utils.checkpoint`` has it for single calls.
It departs from that thus:

- Calls are not run again as a whole: only operators whose output some backward needs, so that a call's last product is
  not computed twice.
- Random numbers are not drawn again: what dropout gives is kept.
- A segment may span several calls and what lies between them, with no change to the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field

from compbench import Codec, Compressor, Recomputation, Site, hookimpl


class Checkpoint(Compressor):
    """Exact: keeps the input of every segment of calls and computes the rest again."""

    name: ClassVar[str] = "checkpoint"
    exact: ClassVar[bool] = True

    segment: int = Field(1, ge=1, description="calls that are computed again together, from one kept input")
    modules: tuple[str, ...] = Field(
        (),
        description="globs over the paths of the modules whose calls these are; none: the blocks the model is made of",
    )

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None

    def recomputation(self) -> Recomputation:
        return Recomputation("any", modules=self.modules, segment=self.segment)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``checkpoint``."""
    return [Checkpoint]
