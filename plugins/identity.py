"""``identity``: every activation takes each step of being compressed, and nothing is changed.

It keeps the rows as they are, not a copy. Losses, gradients and random streams must equal those of ``none`` bit for
bit, and what it costs in time is what capturing costs without any arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site, hookimpl


class Identity(Compressor):
    """Captures every activation and keeps it unchanged: the control for the capture itself."""

    name: ClassVar[str] = "identity"
    exact: ClassVar[bool] = True

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return IdentityCodec()


class IdentityCodec(Codec):
    """Holds nothing."""

    def encode(self, rows: Tensor) -> Payload:
        return Dense(rows)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``identity``."""
    return [Identity]
