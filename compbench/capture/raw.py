"""Saved tensors that are kept as they are, and how what is alive is found again by the address of its storage."""

from __future__ import annotations

import weakref
from typing import TypeVar

import torch
from torch import Tensor

from compbench.capture.ledger import Held, SavedLedger, storages_of
from compbench.capture.sites import SiteBook
from compbench.capture.special import parts
from compbench.capture.steps import Steps
from compbench.capture.versions import Place, VersionGuard, modified

_T = TypeVar("_T")
Alive = dict[int, weakref.ref[_T]]
"""What is alive, by the address of its storage. The references are weak, and whatever dies takes its own away."""


def look_up(alive: Alive[_T], address: int) -> _T | None:
    """What is alive at an address, if anything is."""
    reference = alive.get(address)
    return None if reference is None else reference()


def forget(alive: Alive[_T], address: int) -> None:
    """Takes the reference at an address away, unless what it refers to is alive: a successor at the same address."""
    reference = alive.get(address)
    if reference is not None and reference() is None:
        del alive[address]


class Raw:
    """A saved tensor that is kept as it is.

    Args:
        tensor: the tensor, of any layout and type.
        steps: the steps of the session that it belongs to, if it belongs to one.
        ledgers: where its storages are counted.
        book: the site that saved it first.
        alive: the session's raw storages by address, from which this one takes itself when it dies.
        address: that of the tensor's storage.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_alive",
        "_held",
        "_ledgers",
        "_number",
        "_steps",
        "_tensor",
        "_version",
        "book",
    )

    def __init__(
        self,
        tensor: Tensor,
        steps: Steps | None = None,
        ledgers: tuple[SavedLedger, ...] = (),
        book: SiteBook | None = None,
        alive: Alive[Raw] | None = None,
        address: int = 0,
    ) -> None:
        # Detached, since a saved output that knew its node would be a cycle that nothing frees; it shares the version.
        self._tensor = tensor.detach()
        self._version = tensor._version
        self._steps = steps
        self._number = 0 if steps is None else steps.done
        self.book = book
        self._ledgers = ledgers
        self._held: Held = storages_of(parts(self._tensor)) if ledgers else ()
        for ledger in ledgers:
            ledger.hold(self._held)
        self._address = address
        self._alive = alive
        if alive is not None:
            alive[address] = weakref.ref(self)

    @property
    def tensor(self) -> Tensor:
        """The tensor, unchecked."""
        return self._tensor

    def part(self, place: Place, version: int, dtype: torch.dtype) -> Raw | None:
        """Another tensor of the same storage, kept with it; None where it is of another version or type."""
        if version != self._version or dtype is not self._tensor.dtype:
            return None
        return Raw(self._tensor.as_strided(*place), self._steps, self._ledgers, self.book)

    def unpack(self) -> Tensor:
        """The tensor.

        Raises:
            CaptureError: its step has ended.
            RuntimeError: it was modified in place since; torch leaves this check to whoever sets hooks.
        """
        if self._steps is not None:
            self._steps.use(self._number)
        if self._tensor._version != self._version:
            raise modified(self._tensor.dtype, self._tensor.shape, self._tensor._version, self._version)
        return self._tensor

    def __del__(self) -> None:
        alive = getattr(self, "_alive", None)
        if alive is not None:
            forget(alive, self._address)
        for ledger in getattr(self, "_ledgers", ()):
            ledger.release(self._held)


class Copied:
    """A saved part of a storage that is kept as a copy, so that the rest of the storage is freed."""

    __slots__ = ("_guard", "_raw")

    def __init__(self, tensor: Tensor, steps: Steps, ledgers: tuple[SavedLedger, ...], book: SiteBook) -> None:
        self._guard = VersionGuard(tensor)
        self._raw = Raw(tensor.detach().clone(), steps, ledgers, book)

    def unpack(self) -> Tensor:
        """The tensor.

        Raises:
            CaptureError: its step has ended.
            RuntimeError: it was modified in place since it was saved.
        """
        self._guard.check()
        return self._raw.unpack()
