"""Tier 2 of the memory figures on any device: a ledger of the bytes that are alive, operator by operator."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveLedger(TorchDispatchMode):
    """Counts the storages that are made while it is active and still alive, and their maximum.

    Whatever existed before, such as parameters, gradients that are reused and optimiser state, is the static state and
    not counted. Buffers that an operator uses within itself are not seen.

    Attributes:
        live_bytes: bytes alive now of what was made since the ledger was entered.
        peak_bytes: the highest of these.
        peak_phase: the ``phase`` in which the peak fell.
        phase: a name that the caller sets as a step goes on.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self.phase = ""
        self.peak_phase = ""
        self._alive: dict[int, int] = {}
        self._static: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = {
            value.untyped_storage()._cdata for value in tree_iter((args, kwargs or {})) if isinstance(value, Tensor)
        }
        for value in tree_iter(output):
            if isinstance(value, Tensor):
                self._see(value, inputs)
        return output

    def _see(self, tensor: Tensor, inputs: set[int]) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._alive:
            known = self._alive[address]
            if storage.nbytes() == known:
                return
            self.live_bytes -= known  # resized since
        elif address in inputs:
            return  # a view, or a result in place, of something that was there before
        else:
            weakref.finalize(storage, self._freed, address).atexit = False
        self._alive[address] = storage.nbytes()
        self.live_bytes += storage.nbytes()
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
            self.peak_phase = self.phase

    def _freed(self, address: int) -> None:
        self.live_bytes -= self._alive.pop(address, 0)


def static_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the unique storages behind tensors."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def resident_peak_bytes() -> int:
    """The process' highest resident set so far (CPU), or CUDA's reserved memory at its highest where CUDA is in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
