"""How a strategy computes: without gradient and without autocast, in the types that it chooses itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def plainly(device_type: str) -> AbstractContextManager[object]:
    """A context without gradient, and without autocast on devices of a type."""
    return _without_autocast(device_type) if torch.is_autocast_enabled(device_type) else torch.no_grad()


@contextmanager
def _without_autocast(device_type: str) -> Iterator[None]:
    with torch.no_grad(), torch.autocast(device_type, enabled=False):
        yield
