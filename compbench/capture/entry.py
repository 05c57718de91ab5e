"""What stands in autograd's graph for a saved tensor: its storage as a payload, or the tensor itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from compbench.capture.folding import Fold
from compbench.capture.ledger import SavedLedger
from compbench.compressor import Payload
from compbench.errors import PluginError

_MODIFIED = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: "
    "a saved {dtype} tensor of shape {shape} is at version {found}; expected version {expected} instead"
)


class Raw:
    """A saved tensor that is kept as it is."""

    def __init__(self, tensor: Tensor, ledgers: tuple[SavedLedger, ...]) -> None:
        # Detached, since a saved output that knew its node would be a cycle that nothing frees; it shares the version.
        self._tensor = tensor.detach()
        self._version = tensor._version
        self.ledgers = ledgers
        for ledger in ledgers:
            ledger.hold((self._tensor,))

    def unpack(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: it was modified in place since; torch leaves this check to whoever sets hooks.
        """
        check_version(self._tensor, self._version)
        return self._tensor

    def __del__(self) -> None:
        for ledger in self.ledgers:
            ledger.release((self._tensor,))


class Entry:
    """One version of one storage, compressed once for all the views of it that operators save.

    The weak reference keeps the storage's address from being given to another one as long as the entry lives, so that
    the address can name it.
    """

    def __init__(
        self, tensor: Tensor, fold: Fold, payload: Payload, owner: str, ledgers: tuple[SavedLedger, ...]
    ) -> None:
        storage = tensor.untyped_storage()
        self.source_bytes = storage.nbytes()
        self.owner = owner
        self.fold = fold
        self.dtype = tensor.dtype
        self.device_type = tensor.device.type
        self.payload = payload
        self._weak = StorageWeakRef(storage)
        self._tensors = payload.tensors()
        self._opaque = payload.opaque_bytes()
        self._rebuilt: StorageWeakRef | None = None
        # A payload that keeps the rows themselves is as open to changes in place as a raw tensor.
        aliased = any(kept.untyped_storage()._cdata == storage._cdata for kept in self._tensors)
        self._guard = (tensor.detach(), tensor._version) if aliased else None
        for ledger in ledgers:
            ledger.hold(self._tensors, self._opaque)
        self._ledgers = ledgers

    def storage(self) -> Tensor:
        """The storage's elements, rebuilt, ``(N * D,)``. Views that are unpacked together share it.

        Raises:
            PluginError: the payload decoded to another shape or type than was encoded.
        """
        if self._guard is not None:
            check_version(*self._guard)
        if self._rebuilt is not None:
            alive = torch.UntypedStorage._new_with_weak_ptr(self._rebuilt.cdata)
            if alive is not None:
                return torch.empty(0, dtype=self.dtype, device=alive.device).set_(alive)
        rows = self.payload.decode()
        expected = (self.fold.rows, self.fold.width)
        if tuple(rows.shape) != expected or rows.dtype != self.dtype:
            raise PluginError(
                f"{self.owner}: decode() gave {rows.dtype} rows of shape {tuple(rows.shape)}; "
                f"{self.dtype} of shape {expected} were encoded"
            )
        flat = self.fold.unfold(rows)
        # From here on the storage's offset is 0, as views of the original count from its beginning.
        if flat.storage_offset() or not flat.is_contiguous() or flat.untyped_storage().nbytes() != self.source_bytes:
            flat = flat.clone(memory_format=torch.contiguous_format)
        self._rebuilt = StorageWeakRef(flat.untyped_storage())
        return flat

    def __del__(self) -> None:
        for ledger in getattr(self, "_ledgers", ()):
            ledger.release(self._tensors, self._opaque)


class View:
    """A saved tensor whose storage is compressed: the entry, and where in the storage the tensor lies."""

    def __init__(self, tensor: Tensor, entry: Entry) -> None:
        self.entry = entry
        self._place = tensor.shape, tensor.stride(), tensor.storage_offset()

    def unpack(self) -> Tensor:
        """The tensor, at its rebuilt values."""
        return self.entry.storage().as_strided(*self._place)


def check_version(tensor: Tensor, version: int) -> None:
    """Raises what torch raises when a saved tensor was changed before its use."""
    if tensor._version != version:
        raise RuntimeError(
            _MODIFIED.format(dtype=tensor.dtype, shape=tuple(tensor.shape), found=tensor._version, expected=version)
        )
