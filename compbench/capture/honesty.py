"""Finds memory that payloads and codecs keep alive and do not declare."""

from __future__ import annotations

import array
import gc
import logging
import mmap
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import CodeType, FrameType, FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor

from compbench.capture.special import parts
from compbench.compressor import Codec, Compressor, Payload, Site
from compbench.errors import PluginError

_BUFFERS = (bytes, bytearray, array.array, mmap.mmap)

_OTHERS = (
    # What is everybody's, or was given to the codec: whatever it leads to is not kept by the one that is looked at.
    type,
    ModuleType,
    CodeType,
    FrameType,
    logging.Logger,
    weakref.ref,
    torch.Generator,
    Compressor,
    Site,
)


class Held:
    """What an object keeps alive, wherever it keeps it: attributes, slots, containers, closures, bound arguments.

    Attributes:
        tensors: a description of each storage, such as ``a float32 tensor of shape (64, 24)``, by its address.
        tensor_bytes: bytes of these storages.
        opaque_bytes: bytes in NumPy arrays, byte strings and other buffers.
        object_bytes: bytes of all further Python objects: numbers, strings, containers, the objects themselves.
    """

    def __init__(self, owner: object) -> None:
        self.tensors: dict[int, str] = {}
        self.tensor_bytes = 0
        self.opaque_bytes = 0
        self.object_bytes = 0
        for thing in _reachable(owner):
            if isinstance(thing, Tensor):
                self._add_tensor(thing)
            elif isinstance(thing, torch.UntypedStorage):
                self._add_storage(thing, f"a storage of {thing.nbytes()} bytes")
            elif isinstance(thing, np.ndarray):
                self.opaque_bytes += thing.nbytes
            elif isinstance(thing, _BUFFERS):
                self.opaque_bytes += memoryview(thing).nbytes
            else:
                self.object_bytes += sys.getsizeof(thing)

    def undeclared(self, declared: Iterable[Tensor]) -> list[str]:
        """The tensors that are kept and not among those that are declared."""
        known = {part.untyped_storage()._cdata for tensor in declared for part in parts(tensor)}
        return [description for address, description in self.tensors.items() if address not in known]

    def _add_tensor(self, tensor: Tensor) -> None:
        dtype = str(tensor.dtype).removeprefix("torch.")
        for part in parts(tensor):
            self._add_storage(part.untyped_storage(), f"a {dtype} tensor of shape {tuple(tensor.shape)}")

    def _add_storage(self, storage: torch.UntypedStorage, description: str) -> None:
        if storage.nbytes() and storage._cdata not in self.tensors:
            self.tensors[storage._cdata] = description
            self.tensor_bytes += storage.nbytes()


def undeclared_by_payload(payload: Payload) -> str:
    """What a payload keeps and does not declare, in words; empty if it declares everything."""
    held = Held(payload)
    hidden = held.undeclared(payload.tensors())
    if hidden:
        return f"the payload keeps {hidden[0]} that tensors() does not declare"
    if held.opaque_bytes > payload.opaque_bytes():
        return (
            f"the payload keeps {held.opaque_bytes} bytes outside tensors and declares {payload.opaque_bytes()}; "
            "opaque_bytes() must count them"
        )
    return ""


def undeclared_by_codec(codec: Codec) -> str:
    """What a codec holds and does not declare, in words; empty if it declares everything."""
    hidden = Held(codec).undeclared(codec.state())
    return f"the codec holds {hidden[0]} that state() does not declare" if hidden else ""


def check_declared(payload: Payload, owner: str) -> None:
    """Compares what a payload keeps with what it declares.

    Raises:
        PluginError: it keeps a tensor that ``tensors()`` leaves out, or arrays or bytes beyond ``opaque_bytes()``.
    """
    hidden = undeclared_by_payload(payload)
    if hidden:
        raise PluginError(f"{owner}: {hidden}")


def check_state(codec: Codec, owner: str) -> None:
    """Compares the tensors that a codec holds with what it declares.

    Raises:
        PluginError: it holds a tensor that ``state()`` leaves out.
    """
    hidden = undeclared_by_codec(codec)
    if hidden:
        raise PluginError(f"{owner}: {hidden}")


def _reachable(owner: object) -> Iterator[object]:
    """An object and everything that it leads to, each thing once; what belongs to others is left out."""
    seen: dict[int, object] = {}  # with the things, so that no address is given to another meanwhile
    waiting = [owner]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or thing is None or (isinstance(thing, _OTHERS) and thing is not owner):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, np.ndarray) and thing.base is not None:
            waiting.append(thing.base)  # whose memory the view only shows
            continue
        yield thing
        waiting.extend(_parts(thing))


def _parts(thing: object) -> Iterable[object]:
    """What an object refers to."""
    if isinstance(thing, Tensor):
        return [vars(thing)] if vars(thing) else []
    if isinstance(thing, torch.UntypedStorage):
        return ()
    if isinstance(thing, torch.TypedStorage):
        return (thing._untyped_storage,)
    if isinstance(thing, np.ndarray):
        return thing.flat if thing.dtype.hasobject else ()
    if isinstance(thing, memoryview):
        return (thing.obj,)
    if isinstance(thing, FunctionType):
        return _captured(thing)
    if isinstance(thing, dict) and "__builtins__" in thing:
        return ()  # the globals of a module
    return gc.get_referents(thing)


def _captured(function: FunctionType) -> Iterable[object]:
    """What a function carries along: its closure and its default values, not its module."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not assigned yet
            yield cell.cell_contents
    yield from (function.__defaults__, function.__kwdefaults__, vars(function))
