"""Which version of a storage a tensor is of, and where in the storage it lies; neither holds the memory."""

from __future__ import annotations

import functools
import weakref

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_MODIFIED = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: "
    "a saved {dtype} tensor of shape {shape} is at version {found}; expected version {expected} instead"
)

_set_version = torch._C._autograd._unsafe_set_version_counter

Place = tuple[torch.Size, tuple[int, ...], int | torch.SymInt]
"""Shape, strides and offset of a tensor in its storage."""


def place_of(tensor: Tensor) -> Place:
    """Where a tensor lies in its storage."""
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def share_counter(counter: Tensor, tensor: Tensor) -> bool:
    """Whether two tensors count their changes together."""
    # Torch does not say which tensors share a counter: move this one, look at the other, and move it back.
    before = tensor._version
    here = counter._version
    _set_version((counter,), (here + 1,))
    shared = tensor._version != before
    _set_version((counter,), (here,))
    return shared


def version_counter(tensor: Tensor) -> Tensor:
    """A tensor without memory that counts the changes made to ``tensor`` in place: versions outlive what they count."""
    counter = tensor.detach()
    # A fake tensor's stand-in must be fake too, and no real tensor may meet it later.
    counter.data = torch.empty(0) if isinstance(tensor, FakeTensor) else _nothing(tensor.device)
    return counter


class VersionGuard:
    """Remembers the version of a tensor, and none of its memory."""

    __slots__ = ("_counter", "_dtype", "_shape", "_tensor", "_version")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)
        self._counter = version_counter(tensor)
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
        return share_counter(self._counter, tensor)

    @property
    def version(self) -> int | None:
        """The version remembered; None if the tensor was changed since."""
        return self._version if self._counter._version == self._version else None

    def check(self, shape: torch.Size | None = None) -> None:
        """Raises what torch raises when a saved tensor, of this shape or that remembered, changed before its use."""
        if self._counter._version != self._version:
            raise modified(self._dtype, shape or self._shape, self._counter._version, self._version)


@functools.cache
def _nothing(device: torch.device) -> Tensor:
    return torch.empty(0, device=device)


def modified(dtype: torch.dtype, shape: torch.Size, found: int, expected: int) -> RuntimeError:
    """What torch raises when a saved tensor was changed before its use."""
    return RuntimeError(_MODIFIED.format(dtype=dtype, shape=tuple(shape), found=found, expected=expected))
