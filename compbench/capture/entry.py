"""What stands in autograd's graph for a saved tensor: its storage as a payload, or the tensor itself."""

from __future__ import annotations

import functools
import weakref
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef

from compbench.capture.folding import Fold
from compbench.capture.ledger import Held, SavedLedger, storages_of
from compbench.capture.plainly import plainly
from compbench.capture.sites import SiteBook
from compbench.capture.special import parts
from compbench.capture.steps import Steps
from compbench.compressor import Payload
from compbench.errors import PluginError

_MODIFIED = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: "
    "a saved {dtype} tensor of shape {shape} is at version {found}; expected version {expected} instead"
)

_set_version = torch._C._autograd._unsafe_set_version_counter

_T = TypeVar("_T")
Place = tuple[torch.Size, tuple[int, ...], int | torch.SymInt]
"""Shape, strides and offset of a tensor in its storage."""
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
            raise _modified(self._tensor.dtype, self._tensor.shape, self._tensor._version, self._version)
        return self._tensor

    def __del__(self) -> None:
        alive = getattr(self, "_alive", None)
        if alive is not None:
            forget(alive, self._address)
        for ledger in getattr(self, "_ledgers", ()):
            ledger.release(self._held)


class LastRebuilt:
    """The storage that was rebuilt last: operators that follow each other in the backward pass often share one.

    It is held until another one is rebuilt, or nobody can ask for it any more.
    """

    __slots__ = ("_of", "_storage")

    def __init__(self) -> None:
        self._of: weakref.ref[Entry] | None = None
        self._storage: Tensor | None = None

    def get(self, entry: Entry) -> Tensor | None:
        """The storage of an entry, if it was the last."""
        return self._storage if self._of is not None and self._of() is entry else None

    def put(self, entry: Entry, storage: Tensor) -> None:
        """Holds the storage of an entry in the place of the one before it."""
        self._of = weakref.ref(entry, self._let_go)
        self._storage = storage

    def _let_go(self, reference: weakref.ref[Entry]) -> None:
        if self._of is reference:
            self._of = self._storage = None


class Entry:
    """One version of one storage, compressed once for all the views of it that operators save.

    The weak reference keeps the storage's address from being given to another one as long as the entry lives, so that
    the address can name it.

    Args:
        tensor: a saved tensor whose storage was encoded.
        fold: how the storage became rows.
        payload: what the strategy made of the rows.
        owner: the strategy, for messages.
        steps: the session's steps.
        ledger: the session's ledger; the site's is its book's.
        book: the site's book.
        entries: the session's live entries by address, from which this one takes itself when it dies.
        last: holds what was rebuilt last.
    """

    __slots__ = (
        "__weakref__",
        "_guard",
        "_held",
        "_last",
        "_ledger",
        "_opaque",
        "_rebuilt",
        "_weak",
        "address",
        "book",
        "device",
        "dtype",
        "entries",
        "fold",
        "number",
        "original",
        "owner",
        "payload",
        "source_bytes",
        "steps",
        "version",
        "views",
        "watched",
    )

    def __init__(
        self,
        tensor: Tensor,
        fold: Fold,
        payload: Payload,
        owner: str,
        steps: Steps,
        ledger: SavedLedger,
        book: SiteBook,
        entries: Alive[Entry],
        last: LastRebuilt,
    ) -> None:
        storage = tensor.untyped_storage()
        self.address = storage._cdata
        self.source_bytes = storage.nbytes()
        self.fold = fold
        self.payload: Payload | None = payload
        self.original: Tensor | None = None
        self.owner = owner
        self.dtype = tensor.dtype
        self.device = tensor.device
        self.version = tensor._version
        self.steps = steps
        self.number = steps.done
        self.book = book
        self._weak = StorageWeakRef(storage)
        self._rebuilt: StorageWeakRef | None = None
        self._last = last
        self.views = 0
        self.watched = False  # whether its codec wants to see gradients
        self._guard = _version_counter(tensor)
        self._opaque = payload.opaque_bytes()
        # What lies on another device, as in the host's memory, is not what is held here.
        self._held = storages_of(kept for kept in payload.tensors() if kept.device == tensor.device)
        self._ledger = ledger
        ledger.hold(self._held, self._opaque)
        book.ledger.hold(self._held, self._opaque)
        self.entries = entries
        entries[self.address] = weakref.ref(self)

    def counts(self, tensor: Tensor) -> bool:
        """Whether the entry's version is that of ``tensor``: parts of a storage may have counters of their own.

        ``unsafe_chunk``, with which recurrent layers part their gates, and ``.data`` give tensors such counters.
        """
        return _share_counter(self._guard, tensor)

    def keep(self, tensor: Tensor, reason: str) -> None:
        """Keeps the storage itself after all, in the place of the payload: somebody holds it in any case."""
        self.book.reason = reason
        if self.original is None:
            held = storages_of((tensor,))
            for ledger in (self._ledger, self.book.ledger):
                ledger.release(self._held, self._opaque)
                ledger.hold(held)
            self.original, self.payload = tensor.detach(), None
            self._held, self._opaque = held, 0

    def is_at_hand(self) -> bool:
        """Whether the storage is rebuilt already, or was kept after all."""
        rebuilt = self._rebuilt is not None and not self._rebuilt.expired()
        return rebuilt or self.payload is None or self._last.get(self) is not None

    def check_version(self, shape: torch.Size) -> None:
        """Raises what torch raises when a saved tensor was changed before its use."""
        if self._guard._version != self.version:
            raise _modified(self.dtype, shape, self._guard._version, self.version)

    def storage(self) -> Tensor:
        """The storage's elements, rebuilt, behind a tensor of any shape; views that are unpacked together share it.

        Raises:
            PluginError: the payload decoded to another shape, type or device than was encoded.
        """
        last = self._last.get(self)
        if last is not None:
            return last
        if self._rebuilt is not None:
            alive = torch.UntypedStorage._new_with_weak_ptr(self._rebuilt.cdata)
            if alive is not None:
                return torch.empty(0, dtype=self.dtype, device=self.device).set_(alive)
        if self.payload is None:
            assert self.original is not None  # noqa: S101 - one of the two is always there
            return self.original
        flat = self.fold.unfold(self._decoded(self.payload))
        # From here on the storage's offset is 0, as views of the original count from its beginning.
        if flat.storage_offset() or not flat.is_contiguous() or flat.untyped_storage().nbytes() != self.source_bytes:
            flat = flat.reshape(-1).clone()
        if self.views > 1:
            self._rebuilt = StorageWeakRef(flat.untyped_storage())
            self._last.put(self, flat)
        return flat

    def _decoded(self, payload: Payload) -> Tensor:
        try:
            rows = plainly(self.device.type, type(payload).decode, payload)
        except Exception as error:
            error.add_note(f"raised by decode(): {self.book.owned_by(self.owner)}")
            raise
        expected = (self.fold.rows, self.fold.width)
        if rows.shape != expected or rows.dtype is not self.dtype or rows.device != self.device:
            raise PluginError(
                f"{self.book.owned_by(self.owner)}: decode() gave {rows.dtype} rows of shape {tuple(rows.shape)} "
                f"on {rows.device}; {self.dtype} of shape {expected} on {self.device} were encoded"
            )
        return rows

    def __del__(self) -> None:
        entries = getattr(self, "entries", None)
        if entries is not None:
            forget(entries, self.address)
            self._ledger.release(self._held, self._opaque)
            self.book.ledger.release(self._held, self._opaque)


class View:
    """A saved tensor whose storage is compressed: the entry, and where in the storage the tensor lies."""

    __slots__ = ("_offset", "_shape", "_stride", "entry")

    def __init__(self, entry: Entry, place: Place) -> None:
        self.entry = entry
        entry.views += 1
        self._shape, self._stride, self._offset = place

    @property
    def place(self) -> Place:
        """Shape, strides and offset of the tensor in its storage."""
        return self._shape, self._stride, self._offset

    def is_all_of(self, place: Place) -> bool:
        """Whether a tensor in this place has the elements of this one, in their order, in rows of the same width."""
        shape, stride, offset = place
        same = shape[-1:] == self._shape[-1:] and shape.numel() == self._shape.numel()
        return same and not offset and _contiguous(shape, stride)

    def whole_payload(self) -> Payload | None:
        """The payload, where the tensor is all of its rows in their order and can be computed with unrebuilt; or None.

        Raises:
            CaptureError: its step has ended.
            RuntimeError: it was modified in place since it was saved.
        """
        payload, fold = self.entry.payload, self.entry.fold
        if payload is None or fold.positions or self._shape[-1:] != (fold.width,) or self._offset:
            return None
        if payload.rank() is None and type(payload).weight_gradient is Payload.weight_gradient:
            return None
        if self._shape.numel() != fold.rows * fold.width or not _contiguous(self._shape, self._stride):
            return None
        self._check()
        return payload

    def image_at_rank(self) -> tuple[Tensor, Tensor] | None:
        """Images ``(B, k, ...)`` of the coefficients of images ``(B, C, ...)``, and the basis ``(C, k)``.

        None where the tensor is not all of its rows, with a row for each position and a column for each channel, or
        where these are not kept as a product.

        Raises:
            CaptureError: its step has ended.
            RuntimeError: it was modified in place since it was saved.
        """
        payload, fold = self.entry.payload, self.entry.fold
        if payload is None or payload.rank() is None or self._offset or self._shape[1:2] != (fold.width,):
            return None
        order = self._shape, self._stride
        if not fold.positions:  # channels last in memory
            order = (
                torch.Size((self._shape[0], *self._shape[2:], self._shape[1])),
                (self._stride[0], *self._stride[2:], self._stride[1]),
            )
        if self._shape.numel() != fold.rows * fold.width or not _contiguous(*order):
            return None
        self._check()
        factors = payload.factors()
        if factors is None:
            return None
        coefficients, basis = factors
        images = coefficients.view(self._shape[0], *self._shape[2:], -1).movedim(-1, 1)
        return (images.contiguous() if fold.positions else images), basis

    def _check(self) -> None:
        self.entry.steps.use(self.entry.number)
        self.entry.check_version(self._shape)

    def unpack(self) -> Tensor:
        """The tensor, at its rebuilt values.

        Raises:
            CaptureError: its step has ended.
            RuntimeError: it was modified in place since it was saved.
        """
        self._check()
        return self.entry.storage().as_strided(self._shape, self._stride, self._offset)


def _share_counter(counter: Tensor, tensor: Tensor) -> bool:
    # Torch does not say which tensors share a counter: move this one, look at the other, and move it back.
    before = tensor._version
    here = counter._version
    _set_version((counter,), (here + 1,))
    shared = tensor._version != before
    _set_version((counter,), (here,))
    return shared


def _contiguous(shape: torch.Size, stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True


def _version_counter(tensor: Tensor) -> Tensor:
    """A tensor without memory that counts the changes made to ``tensor`` in place: versions outlive what they count."""
    counter = tensor.detach()
    # A fake tensor's stand-in must be fake too, and no real tensor may meet it later.
    counter.data = torch.empty(0) if isinstance(tensor, FakeTensor) else _nothing(tensor.device)
    return counter


def place_of(tensor: Tensor) -> Place:
    """Where a tensor lies in its storage."""
    return tensor.shape, tensor.stride(), tensor.storage_offset()


class VersionGuard:
    """Remembers the version of a tensor, and none of its memory."""

    __slots__ = ("_counter", "_dtype", "_shape", "_tensor", "_version")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)
        self._counter = _version_counter(tensor)
        self._version = tensor._version
        self._shape, self._dtype = tensor.shape, tensor.dtype

    @property
    def counter(self) -> Tensor:
        """A tensor without memory that counts with the one remembered."""
        return self._counter

    def counts(self, tensor: Tensor) -> bool:
        """Whether the version is that of ``tensor``; see :meth:`Entry.counts`."""
        own = self._tensor()
        if own is not None and (tensor is own or tensor._base is own):  # views count with their base
            return True
        return _share_counter(self._counter, tensor)

    @property
    def version(self) -> int | None:
        """The version remembered; None if the tensor was changed since."""
        return self._version if self._counter._version == self._version else None

    def check(self, shape: torch.Size | None = None) -> None:
        """Raises what torch raises when a saved tensor, of this shape or that remembered, changed before its use."""
        if self._counter._version != self._version:
            raise _modified(self._dtype, shape or self._shape, self._counter._version, self._version)


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


@functools.cache
def _nothing(device: torch.device) -> Tensor:
    return torch.empty(0, device=device)


def _modified(dtype: torch.dtype, shape: torch.Size, found: int, expected: int) -> RuntimeError:
    return RuntimeError(_MODIFIED.format(dtype=dtype, shape=tuple(shape), found=found, expected=expected))
