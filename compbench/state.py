"""What an object's attributes hold, as plain data, and back: the default way in which codecs are saved and loaded.

Knows tensors, numbers and random generators; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)

_ATTRIBUTES = "__attributes__"
"""The only key of a dictionary that stands for an object."""


class StateError(TypeError):
    """An attribute can't be saved, or can't be loaded into."""


def attributes_state(thing: object, given: tuple[type, ...] = ()) -> dict[str, Any]:
    """The attributes of an object as plain data: what ``torch.load(weights_only=True)`` can read back.

    Tensors are copied; what shares one tensor here shares one there. Generators become their state. Objects with
    attributes of their own become dictionaries.

    Args:
        thing: an object with attributes.
        given: types of attributes that are left out, since whoever makes the object again gives them to it.

    Raises:
        StateError: an attribute of a kind that is not known.
    """
    return _Saver(given).attributes(thing, type(thing).__name__)


def load_attributes(thing: object, state: Mapping[str, Any], given: tuple[type, ...] = ()) -> None:
    """Gives an object that was just made the attributes that :func:`attributes_state` took from another.

    Raises:
        StateError: the two do not have the same attributes, or a part is missing that only its class could make.
    """
    _Loader(given).attributes(thing, state, type(thing).__name__)


def _own_attributes(thing: object, path: str) -> dict[str, Any]:
    if any(getattr(owner, "__slots__", ()) for owner in type(thing).__mro__) or not hasattr(thing, "__dict__"):
        raise StateError(f"{path} is a {type(thing).__name__}: override state_dict() and load_state_dict()")
    return vars(thing)


class _Saver:
    def __init__(self, given: tuple[type, ...]) -> None:
        self._given = given
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}  # with the original, so that its id is not given away

    def attributes(self, thing: object, path: str) -> dict[str, Any]:
        return {
            name: self._value(value, f"{path}.{name}")
            for name, value in _own_attributes(thing, path).items()
            if not isinstance(value, self._given)
        }

    def _value(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return self._copies.setdefault(id(value), (value, value.detach().clone()))[1]
        if isinstance(value, torch.Generator):
            return value.get_state()
        if type(value) in _PLAIN:
            return value
        if type(value) in (list, tuple):
            return type(value)(self._value(item, f"{path}[{i}]") for i, item in enumerate(value))
        if type(value) is dict:
            return {key: self._value(item, f"{path}[{key!r}]") for key, item in value.items()}
        if callable(value) or isinstance(value, type):
            raise StateError(f"{path} is a {type(value).__name__}: override state_dict() and load_state_dict()")
        return {_ATTRIBUTES: self.attributes(value, path)}


class _Loader:
    def __init__(self, given: tuple[type, ...]) -> None:
        self._given = given
        self._copies: dict[int, Tensor] = {}

    def attributes(self, thing: object, state: Mapping[str, Any], path: str) -> None:
        own = {n: v for n, v in _own_attributes(thing, path).items() if not isinstance(v, self._given)}
        if set(own) - set(state):
            raise StateError(f"{path}: the state has no {', '.join(sorted(set(own) - set(state)))}")
        for name, value in state.items():
            if isinstance(getattr(thing, name, None), self._given):
                raise StateError(f"{path}.{name} is not part of a state")
            loaded = self._value(own.get(name), value, f"{path}.{name}")
            if loaded is not own.get(name):
                setattr(thing, name, loaded)

    def _value(self, own: Any, value: Any, path: str) -> Any:
        """What an attribute that is ``own`` now becomes."""
        if isinstance(own, torch.Generator):
            own.set_state(value)
            return own
        if isinstance(value, Tensor):
            return self._copies.setdefault(id(value), value.detach().clone())
        if isinstance(value, Mapping) and _ATTRIBUTES in value:
            if own is None:
                raise StateError(f"{path} is not there yet when it is loaded: override load_state_dict()")
            self.attributes(own, value[_ATTRIBUTES], path)
            return own
        if isinstance(value, (list, tuple)) and type(value) is not torch.Size:
            before = [*own] if isinstance(own, (list, tuple)) else []
            before += [None] * (len(value) - len(before))
            return type(value)(
                self._value(mine, item, f"{path}[{i}]")
                for i, (mine, item) in enumerate(zip(before, value, strict=False))
            )
        if isinstance(value, Mapping):
            known = own if isinstance(own, dict) else {}
            return {key: self._value(known.get(key), item, f"{path}[{key!r}]") for key, item in value.items()}
        return value
