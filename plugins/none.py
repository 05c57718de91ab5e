"""``none``: autograd keeps what it always keeps. The arm that every other one is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from compbench import Codec, Compressor, Site, hookimpl


class NoCompression(Compressor):
    """Keeps every activation as autograd does."""

    name: ClassVar[str] = "none"
    exact: ClassVar[bool] = True

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``none``."""
    return [NoCompression]
