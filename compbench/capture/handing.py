"""What unpacks a saved tensor: ordinarily its values; for the session's own operators what stands for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class Handle(Protocol):
    """What stands in the graph for a tensor: as it is, a view of a payload, or a recipe."""

    def unpack(self) -> Tensor:
        """The tensor."""


class _Handing(threading.local):
    """Where handles go in this thread, while one of the session's operators asks for them."""

    def __init__(self) -> None:
        self.handles: list[Handle] | None = None


_handing = _Handing()
_STAND_IN = torch.empty(0)


def unpack(handle: Handle) -> Tensor:
    """The unpack hook: the tensor, unless an operator has asked for its handle."""
    if _handing.handles is None:
        return handle.unpack()
    _handing.handles.append(handle)
    return _STAND_IN


@contextmanager
def handed_over() -> Iterator[list[Handle]]:
    """While it is open, ``ctx.saved_tensors`` puts handles into the list and rebuilds nothing.

    Autograd's own checks stay: it says so where a graph was used up, and lets go of what it keeps when it should.
    """
    outer = _handing.handles
    handles: list[Handle] = []
    _handing.handles = handles
    try:
        yield handles
    finally:
        _handing.handles = outer
