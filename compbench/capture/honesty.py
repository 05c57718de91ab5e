"""Finds memory that payloads and codecs keep alive and do not declare."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from compbench.compressor import Codec, Payload
from compbench.errors import PluginError


def check_declared(payload: Payload, owner: str) -> None:
    """Compares what a payload's attributes hold with what it declares.

    Raises:
        PluginError: it keeps a tensor that ``tensors()`` leaves out, or arrays or bytes beyond ``opaque_bytes()``.
    """
    declared = {tensor.untyped_storage()._cdata for tensor in payload.tensors()}
    opaque = 0
    for value in _reachable(payload, set()):
        if isinstance(value, Tensor):
            if value.untyped_storage()._cdata not in declared:
                raise PluginError(
                    f"{owner}: the payload keeps a {value.dtype} tensor of shape {tuple(value.shape)} "
                    "that tensors() does not declare"
                )
        elif isinstance(value, np.ndarray):
            opaque += value.nbytes
        else:
            opaque += len(value)
    if opaque > payload.opaque_bytes():
        raise PluginError(
            f"{owner}: the payload keeps {opaque} bytes outside tensors and declares {payload.opaque_bytes()}; "
            "opaque_bytes() must count them"
        )


def check_state(codec: Codec, owner: str) -> None:
    """Compares the tensors that a codec's attributes hold with what it declares.

    Raises:
        PluginError: it holds a tensor that ``state()`` leaves out.
    """
    declared = {tensor.untyped_storage()._cdata for tensor in codec.state()}
    for value in _reachable(codec, set()):
        if isinstance(value, Tensor) and value.untyped_storage()._cdata not in declared:
            raise PluginError(
                f"{owner}: the codec holds a {value.dtype} tensor of shape {tuple(value.shape)} "
                "that state() does not declare"
            )


def _reachable(value: Any, seen: set[int]) -> Iterator[Tensor | np.ndarray[Any, Any] | bytes | bytearray]:
    """The tensors, arrays and byte strings that a value's attributes and containers lead to."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (Tensor, np.ndarray, bytes, bytearray)):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _reachable(item, seen)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _reachable(item, seen)
    elif not isinstance(value, (type, ModuleType, FunctionType, MethodType)):
        yield from _reachable(getattr(value, "__dict__", {}), seen)
        for owner in type(value).__mro__:
            slots = getattr(owner, "__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                yield from _reachable(getattr(value, name, None), seen)
