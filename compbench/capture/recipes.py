"""Recipes: how a tensor that is not kept is computed again, from what stands for what it was computed from."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from compbench.capture.entry import Entry, View
from compbench.capture.handing import Handle
from compbench.capture.steps import Steps
from compbench.capture.versions import Place, VersionGuard, place_of
from compbench.capture.weight_gradients import Scaling
from compbench.errors import CaptureError


class Keeper(Protocol):
    """Keeps the leaves of recipes."""

    def pack(self, tensor: Tensor, carries_gradient: bool | None = None) -> Handle:
        """What stands for a tensor."""

    def pack_leaf(self, tensor: Tensor) -> Handle:
        """What stands for a tensor that a recipe begins with."""

    def kept(self, address: int, place: Place, guard: VersionGuard, dtype: torch.dtype) -> Handle | None:
        """What stands for a tensor of a storage that is kept."""

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor is kept already, is a weight, or carries no gradient."""


Shortcut = Callable[[], Tensor | None]


@dataclass(frozen=True)
class ScaledRows:
    """Rows that are kept, times a weight and plus a bias, as a norm ends: what stands for each of the three."""

    rows: View
    weight: Handle | None = None
    bias: Handle | None = None

    def scaling(self) -> Scaling:
        """The weight and the bias."""
        return Scaling(*(None if handle is None else handle.unpack() for handle in (self.weight, self.bias)))


LinearAtRank = Callable[[ScaledRows, Handle, Handle | None], Tensor | None]


def _unpacked(handle: Handle) -> Tensor:
    return handle.unpack()


class Awaited:
    """A tensor that a recipe begins with and that nobody keeps yet; its storage may be kept by the time that it counts.

    So are queries and keys made of a product whose values attention saves after them. Holds no memory.
    """

    __slots__ = ("_dtype", "_guard", "_place", "_storage", "handle")

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._guard = VersionGuard(tensor)
        self._place, self._dtype = place_of(tensor), tensor.dtype
        self.handle: Handle | None = None

    def settle(self, keeper: Keeper) -> bool:
        """Whether the storage is kept by now, as it was."""
        if self.handle is None and not self._storage.expired():
            # The weak reference keeps the address from being given to another storage.
            self.handle = keeper.kept(self._storage.cdata, self._place, self._guard, self._dtype)
        return self.handle is not None

    def unpack(self) -> Tensor:
        """The tensor."""
        assert self.handle is not None  # noqa: S101 - a recipe stands for nothing until all of it is settled
        return self.handle.unpack()


class Argument:
    """Where in a recipe's arguments a tensor goes.

    Torch may multiply matrices in another order, and round otherwise, where they take no gradient: ``differentiable``
    says that this one did.
    """

    __slots__ = ("differentiable", "handle")

    def __init__(self, handle: Handle, differentiable: bool = False) -> None:
        self.handle = handle
        self.differentiable = differentiable


class Recipe:
    """How one storage is computed: a function and what stands for its arguments.

    A shortcut, where there is one, gives the same for less, or None where it can't.

    Attributes:
        version: the storage's version that the recipe gives.
        guard: knows which tensors count their changes together with it.
        dtype: its element type.
        handles: how many saved tensors stand in the graph by it.
        counted: whether a site has counted it.
        awaited: what it begins with, itself or through its parents, and that nobody kept when it was noted.
        gone: refers to the storage, and takes the recipe from where it is noted when that dies.
        scaled: what it gives, where that is nothing but rows that are kept and scaled.
    """

    __slots__ = (
        "__weakref__",
        "_arguments",
        "_cached",
        "_casting",
        "_function",
        "_keywords",
        "_layout",
        "_shortcut",
        "awaited",
        "counted",
        "dtype",
        "gone",
        "guard",
        "handles",
        "parents",
        "scaled",
        "version",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Any,
        keywords: Any,
        output: Tensor,
        parents: Sequence[Recipe],
        shortcut: Shortcut | None,
    ) -> None:
        device = output.device.type
        self._function = function
        self._arguments = arguments
        self._keywords = keywords
        self._layout = place_of(output)
        enabled = torch.is_autocast_enabled(device)
        self._casting = (device, torch.get_autocast_dtype(device) if enabled else None)
        self._cached: Tensor | None = None
        self._shortcut = shortcut
        self.version = output._version
        self.guard = VersionGuard(output)
        self.dtype = output.dtype
        self.parents = tuple(parents)
        self.awaited: tuple[Awaited, ...] = ()
        self.gone: weakref.ref[Any] | None = None
        self.scaled: ScaledRows | None = None
        self.handles = 0
        self.counted = False

    def value(self) -> Tensor:
        """The tensor that the function gave, computed again; what it comes from is computed before, if need be."""
        cached = self._cached
        if cached is None:
            order = self._missing()
            uses = Counter(parent for recipe in order for parent in recipe.parents)
            for recipe in order:
                recipe._cached = recipe._compute()
                for parent in recipe.parents:
                    uses[parent] -= 1
                    if not uses[parent] and not parent.handles:  # nobody will ask for it
                        parent._cached = None
            cached = self._cached
            if not self.handles:
                self._cached = None
        assert cached is not None  # noqa: S101 - the last that was computed is this one
        return cached

    def entries(self) -> list[Entry]:
        """The compressed storages that it begins with, each once."""
        found = (entry for recipe in self._lineage() for entry in recipe._own_entries())
        return list({id(entry): entry for entry in found}.values())

    def value_with(self, entry: Entry, storage: Tensor) -> Tensor:
        """The tensor that the function would have given with other contents of a storage that it begins with.

        Args:
            entry: stands for that storage.
            storage: its elements, in the place of those that it has.
        """
        changed: dict[Recipe, Tensor] = {}

        def unpack(handle: Handle) -> Tensor:
            if isinstance(handle, Awaited) and handle.handle is not None:
                handle = handle.handle
            if isinstance(handle, Part) and handle._recipe in changed:
                return changed[handle._recipe].as_strided(*handle._place)
            if isinstance(handle, View) and handle.entry is entry:
                return storage.as_strided(*handle.place)
            return handle.unpack()

        for recipe in self._lineage():
            if any(parent in changed for parent in recipe.parents) or entry in recipe._own_entries():
                changed[recipe] = recipe._compute(unpack)
        return changed[self] if self in changed else self.value()

    def _own_entries(self) -> list[Entry]:
        handles = [*_handles(self._arguments), *_handles(self._keywords)]
        settled = [handle.handle if isinstance(handle, Awaited) else handle for handle in handles]
        return [handle.entry for handle in settled if isinstance(handle, View)]

    def _lineage(self) -> list[Recipe]:
        """It and all that it is computed from, each recipe after those that it takes its arguments from."""
        order: dict[Recipe, None] = {}
        waiting: list[Recipe] = [self]
        while waiting:
            missing = [parent for parent in waiting[-1].parents if parent not in order]
            if missing:
                waiting += missing
            else:
                order[waiting.pop()] = None
        return list(order)

    def _missing(self) -> list[Recipe]:
        """What has to be computed, each recipe after those that it takes its arguments from, this one last.

        What a shortcut gives is there already, and what it is computed from is then not asked for. Without recursion: a
        segment of many calls is a chain of hundreds of recipes.
        """
        order: dict[Recipe, None] = {}
        waiting: list[Recipe] = [self]
        while waiting:
            recipe = waiting[-1]
            if recipe._cached is None and recipe._shortcut is not None:
                recipe._cached = recipe._by_shortcut(recipe._shortcut)
            if recipe._cached is not None:
                waiting.pop()
                continue
            missing = [parent for parent in recipe.parents if parent._cached is None and parent not in order]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            order[recipe] = None
        return list(order)

    def _by_shortcut(self, shortcut: Shortcut) -> Tensor | None:
        with torch.no_grad(), self._cast():
            output = shortcut()
        if output is None:
            return None
        shape, stride, _ = self._layout
        return output.view(-1).as_strided(shape, stride)

    def _compute(self, unpack: Callable[[Handle], Tensor] = _unpacked) -> Tensor:
        with torch.no_grad(), self._cast():
            output = self._function(*_filled(self._arguments, unpack), **_filled(self._keywords, unpack))
        if (output.shape, output.stride(), output.storage_offset()) != self._layout:
            name = getattr(self._function, "__name__", self._function)
            raise CaptureError(f"{name} gave a tensor of another layout when it ran again; it can't be recomputed")
        return output  # type: ignore[no-any-return]

    def _cast(self) -> AbstractContextManager[object]:
        device, dtype = self._casting
        if dtype is not None:
            return torch.autocast(device, dtype=dtype, cache_enabled=False)
        return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class Recomputed:
    """A saved tensor that is computed again: the recipe of its storage, and where in it the tensor lies."""

    __slots__ = ("_number", "_place", "_steps", "recipe")

    def __init__(self, tensor: Tensor, recipe: Recipe, steps: Steps) -> None:
        self.recipe = recipe
        recipe.handles += 1
        self._place = place_of(tensor)
        self._steps = steps
        self._number = steps.done

    def unpack(self) -> Tensor:
        """The tensor.

        Raises:
            CaptureError: its step has ended.
            RuntimeError: it was modified in place since it was saved.
        """
        self._check()
        return self.recipe.value().as_strided(*self._place)

    def scaled_rows(self) -> ScaledRows | None:
        """What it is, where that is kept rows that are scaled, all of them in their order; or None.

        Raises:
            CaptureError: its step has ended.
            RuntimeError: it was modified in place since it was saved.
        """
        scaled = self.recipe.scaled
        if scaled is None or not scaled.rows.is_all_of(self._place):
            return None
        self._check()
        return scaled

    def _check(self) -> None:
        self._steps.use(self._number)
        self.recipe.guard.check(self._place[0])  # which counts the tensor's changes too, or it had no recipe

    def __del__(self) -> None:
        recipe = getattr(self, "recipe", None)
        if recipe is not None:
            recipe.handles -= 1


class Deferred:
    """An output that its own operator saves: what stands for it is known once the operator has run."""

    __slots__ = ("carries_gradient", "handle", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        # Detached, since a saved output that knew its node would be a cycle that nothing frees.
        self.tensor: Tensor | None = tensor.detach()
        self.carries_gradient = tensor.requires_grad
        self.handle: Handle | None = None

    def unpack(self) -> Tensor:
        """The tensor."""
        assert self.handle is not None  # noqa: S101 - set as soon as the operator has run
        return self.handle.unpack()


class Part:
    """An argument that is itself recomputed: like :class:`Recomputed`, but nobody's saved tensor."""

    __slots__ = ("_place", "_recipe")

    def __init__(self, recipe: Recipe, place: Place) -> None:
        self._recipe = recipe
        self._place = place

    def scaled_rows(self) -> ScaledRows | None:
        """What it is, where that is kept rows that are scaled, all of them in their order; or None."""
        scaled = self._recipe.scaled
        return scaled if scaled is not None and scaled.rows.is_all_of(self._place) else None

    def unpack(self) -> Tensor:
        """The tensor."""
        return self._recipe.value().as_strided(*self._place)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors among arguments, in their order."""
    found: list[Tensor] = []
    for item in value.values() if isinstance(value, Mapping) else value:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple, Mapping)):
            found += tensors_in(item)
    return found


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Arguments, in tuples, lists and dictionaries, with every tensor among them changed."""
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return type(value)([_changed(item, change) for item in value])


def _changed(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return mapped(value, change) if type(value) in (tuple, list, dict) else value


def _handles(value: Any) -> Iterator[Handle]:
    if isinstance(value, Argument):
        yield value.handle
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _handles(item)
    elif isinstance(value, dict):
        yield from _handles(list(value.values()))


def _filled(value: Any, unpack: Callable[[Handle], Tensor]) -> Any:
    if isinstance(value, dict):
        return {key: _in_place(item, unpack) for key, item in value.items()}
    return type(value)([_in_place(item, unpack) for item in value])


def _in_place(value: Any, unpack: Callable[[Handle], Tensor]) -> Any:
    kind = type(value)
    if kind is Argument:
        tensor = unpack(value.handle)
        return tensor.detach().requires_grad_() if value.differentiable else tensor
    return _filled(value, unpack) if kind in (tuple, list, dict) else value
