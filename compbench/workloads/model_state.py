"""What looking at a model must not change in it: its mode, its buffers, and the random streams that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode; then each of its modules in the mode that it had, whatever was set meanwhile."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Puts back what forward passes change in a model: its buffers, and the random streams that its modules hold."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    held = [
        value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Generator)
    ]
    streams = [(stream, stream.get_state()) for stream in held]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for stream, state in streams:
            stream.set_state(state)
