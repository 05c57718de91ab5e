"""A memory snapshot of a GPU: every block that its allocator gave out or took back in some steps, and who asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MOST_ENTRIES = 100_000
"""Of the history: the last ones are kept. A step of a model of some hundred operators a call has a few thousand."""


@contextmanager
def memory_history(path: Path) -> Iterator[None]:
    """Records what happens in the allocator while the context lasts, and writes it for pytorch.org/memory_viz.

    Only Python's stacks are noted: those of C++ take many times as long to be written out. Recording ends in any case;
    where the context ends in an error, nothing is written.

    Args:
        path: a pickle, in an existing folder; there whole or not at all. It names the source files of the stacks.

    Raises:
        OSError: it can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    torch.cuda.memory._record_memory_history(max_entries=MOST_ENTRIES, stacks="python")
    try:
        yield
        torch.cuda.memory._dump_snapshot(str(temporary))
        os.replace(temporary, path)
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
        temporary.unlink(missing_ok=True)
