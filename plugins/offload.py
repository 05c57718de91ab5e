"""``offload``: keeps activations in the host's memory, and fetches them for the backward pass.

Exact. On the device nothing is left; the bytes in host memory are told apart, as ``offloaded_bytes``. Every storage is
copied once, however many operators save it. On CUDA copies go through pinned memory, in a stream of their own, while
the forward pass goes on. A model on the CPU has its activations in host memory already: there nothing is done.

Source: ``torch.autograd.graph.save_on_cpu``. It departs from it in that aliases are copied once, weights are left where
they are, and copies don't wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site, hookimpl


class Offload(Compressor):
    """Exact: activations are kept in host memory."""

    name: ClassVar[str] = "offload"
    exact: ClassVar[bool] = True

    pin_memory: bool = Field(True, description="copy through page-locked memory, without waiting (CUDA)")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return OffloadCodec(self, site.width, generator.device)


class OffloadCodec(Codec):
    """Copies the rows of one site to the host; counts bytes and holds none."""

    def __init__(self, settings: Offload, width: int, device: torch.device) -> None:
        self.settings = settings
        self.D = width
        self.on_host = device.type == "cpu"
        self.offloaded_bytes = 0
        self._step_bytes = 0

    def encode(self, X: Tensor) -> Payload:
        if self.on_host:
            return Dense(X)
        self._step_bytes += X.nbytes
        return HostRows(X, self.settings.pin_memory)

    def end_step(self) -> None:
        self.offloaded_bytes, self._step_bytes = self._step_bytes, 0

    def discard_step(self) -> None:
        self._step_bytes = 0

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * rows * self.D * itemsize if self.on_host else 0

    def statistics(self) -> dict[str, float]:
        return {"offloaded_bytes": self.offloaded_bytes}


class HostRows(Payload):
    """Rows ``(N, D)`` in host memory.

    Args:
        X: rows on any device.
        pin_memory: whether to copy through page-locked memory, in a stream of its own.
    """

    def __init__(self, X: Tensor, pin_memory: bool) -> None:
        self._device = X.device
        asynchronous = pin_memory and X.is_cuda
        self._host = torch.empty(X.shape, dtype=X.dtype, device="cpu", pin_memory=asynchronous)
        self._copied: torch.cuda.Event | None = None
        if not asynchronous:
            self._host.copy_(X)
            return
        stream = _copying_stream(X.device)
        stream.wait_stream(torch.cuda.current_stream(X.device))
        with torch.cuda.stream(stream):
            self._host.copy_(X, non_blocking=True)
            self._copied = stream.record_event()
        X.record_stream(stream)  # the rows' memory is not given away before they are copied

    def decode(self) -> Tensor:
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)
        return self._host.to(self._device, non_blocking=self._copied is not None, copy=True)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self._host,)


@cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream in which a device's rows are copied to the host."""
    return torch.cuda.Stream(device)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``offload``."""
    return [Offload]
