"""What stands in autograd's graph for a saved tensor whose storage is compressed: the payload, and a view of it."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from compbench.capture.folding import Fold
from compbench.capture.ledger import SavedLedger, storages_of
from compbench.capture.plainly import plainly
from compbench.capture.raw import Alive, forget
from compbench.capture.sites import SiteBook
from compbench.capture.steps import Steps
from compbench.capture.versions import Place, modified, share_counter, version_counter
from compbench.compressor import Payload
from compbench.errors import PluginError


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
        self._guard = version_counter(tensor)
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
        return share_counter(self._guard, tensor)

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
            raise modified(self.dtype, shape, self._guard._version, self.version)

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


def _contiguous(shape: torch.Size, stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True
