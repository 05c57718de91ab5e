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
    streams = [(stream, stream.get_state()) for stream in held_streams(model)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for stream, state in streams:
            stream.set_state(state)


def held_streams(model: nn.Module) -> list[torch.Generator]:
    """The random streams that are attributes of a model's modules, each once."""
    values = [value for module in model.modules() for value in vars(module).values()]
    return list(dict.fromkeys(value for value in values if isinstance(value, torch.Generator)))
