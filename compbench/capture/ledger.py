"""Tier 1 of the memory figures: the bytes that autograd holds for the backward pass, storage by storage."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from torch import Tensor

Held = tuple[tuple[int, int], ...]
"""Storages by address, each with its bytes. Whoever has such a list keeps the storages alive."""


def storages_of(tensors: Iterable[Tensor]) -> Held:
    """The storages behind tensors; one that several of them share stands there as often."""
    return tuple((storage._cdata, storage.nbytes()) for storage in (tensor.untyped_storage() for tensor in tensors))


class SavedLedger:
    """Counts unique storages that are held for backward, now and at their maximum.

    A storage that several tensors share counts once, with all its bytes. Whoever reports a storage as held must keep it
    alive until reporting it as released: an address names a storage only that long.
    """

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        # Backward of CUDA tensors runs in a thread of its own, and the garbage collector may release from any.
        self._lock = threading.RLock()
        self.current_bytes = 0
        self.peak_bytes = 0

    def hold(self, held: Held, opaque_bytes: int = 0) -> None:
        """Adds storages, and bytes outside tensors, to what is held."""
        with self._lock:
            for address, size in held:
                holders = self._holders.get(address, 0)
                self._holders[address] = holders + 1
                if not holders:
                    self.current_bytes += size
            self.current_bytes += opaque_bytes
            if self.current_bytes > self.peak_bytes:
                self.peak_bytes = self.current_bytes

    def release(self, held: Held, opaque_bytes: int = 0) -> None:
        """Takes back what was reported by :meth:`hold`, in the same words."""
        with self._lock:
            for address, size in held:
                holders = self._holders[address] - 1
                if holders:
                    self._holders[address] = holders
                else:
                    del self._holders[address]
                    self.current_bytes -= size
            self.current_bytes -= opaque_bytes

    def restart_peak(self) -> None:
        """Forgets the maximum so far; what is held now is the new one."""
        with self._lock:
            self.peak_bytes = self.current_bytes
