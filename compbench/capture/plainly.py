"""How a strategy computes: without gradient and without autocast, in the types that it chooses itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

_A = TypeVar("_A")
_R = TypeVar("_R")


def plainly(device_type: str, function: Callable[[_A], _R], argument: _A) -> _R:
    """``function(argument)`` without gradient, and without autocast on devices of a type."""
    if torch.is_autocast_enabled(device_type):
        with _without_autocast(device_type):
            return function(argument)
    if not torch.is_grad_enabled():  # the backward pass, nearly always
        return function(argument)
    with torch.no_grad():
        return function(argument)


@contextmanager
def _without_autocast(device_type: str) -> Iterator[None]:
    with torch.no_grad(), torch.autocast(device_type, enabled=False):
        yield
