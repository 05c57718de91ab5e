"""Tensors that are not kept but computed again in the backward pass, operator by operator, from what is kept.

Every operator of the model is seen as it runs. Where a strategy's :class:`Recomputation` allows it, a recipe is noted
in the place of its output: the function and what stands for its arguments. If autograd saves the output later, it gets
the recipe. What a recipe begins with, its leaves, is kept like any saved tensor: raw, or by the strategy's codec.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from compbench.capture.entry import Entry, Place, VersionGuard, View, place_of
from compbench.capture.handing import Handle
from compbench.capture.modules import ModuleTracker
from compbench.capture.special import describe_special
from compbench.capture.steps import Steps
from compbench.compressor import Recomputation, Site
from compbench.errors import CaptureError
from compbench.site_patterns import SitePatterns

_ARITHMETIC = ("add", "sub", "mul", "truediv", "pow")
_CHEAP = frozenset(
    {"sub", "add", "mul", "div", "neg", "rsub", "pow", "square", "sqrt", "rsqrt", "abs", "exp", "log", "clamp", "where"}
    | {"silu", "gelu", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "softmax"}
    | {"rms_norm", "layer_norm", "to", "float", "half", "bfloat16", "type", "type_as"}
    | {"cat", "concat", "stack", "contiguous", "clone", "reshape", "flatten"}
    | {f"__{side}{name}__" for name in _ARITHMETIC for side in ("", "r")}
    | {"__neg__"}
)
"""Elementwise operators, norms and copies: little arithmetic, and no random numbers."""
_PRODUCTS = frozenset({"linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "einsum"})
_ATTENTION = "scaled_dot_product_attention"
_ANY = _CHEAP | _PRODUCTS | {_ATTENTION, "conv1d", "conv2d", "conv3d", "embedding"}


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
LinearAtRank = Callable[[View, Handle, Handle | None], Tensor | None]


def _unpacked(handle: Handle) -> Tensor:
    return handle.unpack()


class _Awaited:
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


@dataclass(frozen=True)
class _Argument:
    """Where in a recipe's arguments a tensor goes."""

    handle: Handle


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
        "guard",
        "handles",
        "parents",
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
        self.awaited: tuple[_Awaited, ...] = ()
        self.handles = 0
        self.counted = False

    def value(self) -> Tensor:
        """The tensor that the function gave, computed again; what it comes from is computed before, if need be."""
        cached = self._cached
        if cached is None:
            order = self._missing()
            uses = Counter(parent for recipe in order for parent in recipe.parents)
            for recipe in order:
                recipe._cached = cached = recipe._compute()
                for parent in recipe.parents:
                    uses[parent] -= 1
                    if not uses[parent] and not parent.handles:  # nobody will ask for it
                        parent._cached = None
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
            if isinstance(handle, _Awaited) and handle.handle is not None:
                handle = handle.handle
            if isinstance(handle, _Part) and handle._recipe in changed:
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
        settled = [handle.handle if isinstance(handle, _Awaited) else handle for handle in handles]
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

        Without recursion: a segment of many calls is a chain of hundreds of recipes.
        """
        order: dict[Recipe, None] = {}
        waiting: list[Recipe] = [self]
        while waiting:
            recipe = waiting[-1]
            missing = [parent for parent in recipe.parents if parent._cached is None and parent not in order]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            order[recipe] = None
        return list(order)

    def _compute(self, unpack: Callable[[Handle], Tensor] = _unpacked) -> Tensor:
        if self._shortcut is not None and unpack is _unpacked:
            with torch.no_grad(), self._cast():
                output = self._shortcut()
            if output is not None:
                shape, stride, _ = self._layout
                return output.view(-1).as_strided(shape, stride)
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

    __slots__ = ("_guard", "_number", "_place", "_steps", "recipe")

    def __init__(self, tensor: Tensor, recipe: Recipe, steps: Steps) -> None:
        self.recipe = recipe
        recipe.handles += 1
        self._guard = VersionGuard(tensor)
        self._place = place_of(tensor)
        self._steps = steps
        self._number = steps.done

    def unpack(self) -> Tensor:
        """The tensor.

        Raises:
            CaptureError: its step has ended.
            RuntimeError: it was modified in place since it was saved.
        """
        self._steps.use(self._number)
        self._guard.check()
        return self.recipe.value().as_strided(*self._place)

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


class Recomputer:
    """Notes recipes while a model runs.

    Args:
        policy: what may be recomputed.
        model: the model.
        modules: which module is running.
        steps: the session's steps.
        keeper: keeps leaves.
        linear_at_rank: gives what a linear layer gave again, from rows that are kept at a low rank; with it a layer
            whose output is wider than its input is recomputed under every policy where its rows are kept so.
        keeps_apart: whether parts of a product may be kept by themselves; for strategies that lose nothing.
    """

    def __init__(
        self,
        policy: Recomputation,
        model: nn.Module,
        modules: ModuleTracker,
        steps: Steps,
        keeper: Keeper,
        linear_at_rank: LinearAtRank | None = None,
        keeps_apart: bool = False,
    ) -> None:
        self._policy = policy
        self._keeps_apart = keeps_apart and policy.operators == "cheap"
        self._linear_at_rank = linear_at_rank
        self._modules = modules
        self._steps = steps
        self._keeper = keeper
        self._kept_sites = SitePatterns(policy.keep)
        self._inside = frozenset(chosen_modules(model, policy.modules)) if policy.operators == "any" else None
        self._calls = 0
        # The recipes of storages that are alive, by address; a storage that dies takes its own away.
        self._recipes: dict[int, Recipe] = {}
        # Products that are wider than what they are made of, of which a part may come to be kept.
        self._awaited: dict[int, tuple[StorageWeakRef, VersionGuard]] = {}
        self._arguments: frozenset[int] | None = None
        self._deferred: list[Deferred] = []
        self._copied: int | None = None
        if self._inside is not None:
            modules.entering = self._enter

    def forget(self) -> None:
        """Forgets all recipes but those that stand in a graph; tensors that outlive their step hold nothing more."""
        self._recipes.clear()
        self._awaited.clear()

    # ---------------------------------------------------------------- what is saved

    def find(self, tensor: Tensor, address: int) -> Recipe | None:
        """The recipe of the storage behind a tensor, at the version that it has, if all that it begins with is kept."""
        recipe = self._noted(tensor, address)
        if recipe is None:
            return None
        return recipe if all(leaf.settle(self._keeper) for leaf in recipe.awaited) else None

    def _noted(self, tensor: Tensor, address: int | None = None) -> Recipe | None:
        """The recipe of a tensor, whether or not what it begins with is kept yet."""
        recipe = self._recipes.get(tensor.untyped_storage()._cdata if address is None else address)
        if recipe is None or recipe.version != tensor._version:
            return None
        # A part that counts its changes by itself does not tell whether the storage is as the recipe gives it.
        if not recipe.guard.counts(tensor):
            return None
        # A view that reads the storage as another type, or with other signs, is not told by its place alone.
        return recipe if recipe.dtype is tensor.dtype and not (tensor.is_neg() or tensor.is_conj()) else None

    def has_recipe(self, tensor: Tensor) -> bool:
        """Whether a tensor is computed again, once what it begins with is kept."""
        return not describe_special(tensor) and self._noted(tensor) is not None

    def copies(self, address: int) -> bool:
        """Whether a part of this storage is to be kept as a copy of its own; see :meth:`_apart`."""
        return address == self._copied

    def defers(self, address: int) -> bool:
        """Whether a storage that is being saved is new: an output of the operator that is running."""
        return self._arguments is not None and address not in self._arguments

    def defer(self, tensor: Tensor) -> Deferred:
        """Stands for an output until its operator has run."""
        self._deferred.append(Deferred(tensor))
        return self._deferred[-1]

    # ---------------------------------------------------------------- what runs

    def run(self, function: Callable[..., Any], arguments: Any, keywords: Mapping[str, Any], again: Any) -> Any:
        """Runs an operator, and notes how its output is computed where that is allowed.

        Args:
            function: the operator, which is what a recipe will call.
            arguments: its arguments.
            keywords: its keywords.
            again: runs it now, as the session would.
        """
        name = getattr(function, "__name__", "")
        values: Handle | None = None
        if self._awaited and name == _ATTENTION:
            if self._apart(arguments):
                try:
                    return again()
                finally:
                    self._copied = None
            values = self._values(arguments, keywords)  # noqa: F841 - held until attention has saved them itself
        if not self._allowed(name, arguments, keywords) or torch._C._functorch.peek_interpreter_stack() is not None:
            return again()
        tensors = [*_tensors(arguments), *_tensors(keywords)]
        if any(describe_special(tensor) for tensor in tensors):
            return again()
        self._arguments = frozenset(tensor.untyped_storage()._cdata for tensor in tensors)
        try:
            output = again()
            known, self._arguments = self._arguments, None
            if isinstance(output, Tensor) and not describe_special(output):
                address = output.untyped_storage()._cdata
                if address not in known and not self._is_kept(output):
                    product = name in _PRODUCTS
                    noted = self._begins_from_what_is_kept(tensors) and (
                        not product or self._policy.operators != "cheap" or self._kept_at_rank(tensors[0])
                    )
                    if noted:
                        self._note(address, function, arguments, keywords, output)
                    elif product:
                        self._awaited[address] = StorageWeakRef(output.untyped_storage()), VersionGuard(output)
            return output
        finally:
            self._arguments = None
            deferred, self._deferred = self._deferred, []
            for late in deferred:
                tensor, late.tensor = late.tensor, None
                if tensor is not None:
                    late.handle = self._keeper.pack(tensor, late.carries_gradient)

    def _allowed(self, name: str, arguments: Any, keywords: Mapping[str, Any]) -> bool:
        if name not in _ANY or keywords.get("out") is not None or keywords.get("inplace"):
            return False
        if name == _ATTENTION and (keywords.get("dropout_p") or any(arguments[4:5])):
            return False
        if self._inside is not None:
            # Between the calls of one segment only what costs nothing.
            return self._running_inside() or (self._policy.segment > 1 and name in _CHEAP)
        if name in _CHEAP:
            return True
        return name in _PRODUCTS and _expands(name, arguments, keywords)

    def _values(self, arguments: Any, keywords: Mapping[str, Any]) -> Handle | None:
        """Keeps attention's values before it runs, so that what they were made together with may begin with them."""
        values = arguments[2] if len(arguments) > 2 else keywords.get("value")
        if isinstance(values, Tensor) and not describe_special(values) and self._is_awaited(values):
            return self._keeper.pack_leaf(values)
        return None

    def _apart(self, operands: Sequence[Any]) -> bool:
        """Whether attention's queries, keys and values are kept each by itself, which it then sees to.

        Values that are a part of one product keep all of it alive, and queries and keys would be computed from it
        again. Where the three together are no larger it is as well to keep them, and of the values a copy: nothing is
        then computed again. Only where nothing is lost: codecs are for what the model makes, not for copies of it.
        """
        if not self._keeps_apart or len(operands) < 3:
            return False
        three = operands[:3]
        if not all(isinstance(operand, Tensor) and not describe_special(operand) for operand in three):
            return False
        whole = three[2].untyped_storage()
        recipes = [self._noted(operand) for operand in three[:2]]
        if not self._is_awaited(three[2]) or sum(operand.nbytes for operand in three) > whole.nbytes():
            return False
        if not all(recipe is not None and recipe.awaited for recipe in recipes):
            return False
        for operand in three[:2]:
            self._recipes.pop(operand.untyped_storage()._cdata, None)
        self._copied = whole._cdata
        return True

    def _is_awaited(self, tensor: Tensor) -> bool:
        found = self._awaited.get(tensor.untyped_storage()._cdata)
        if found is None:
            return False
        reference, guard = found
        # Parts that count their changes by themselves don't tell whether the storage is as it was.
        return not reference.expired() and guard.version == tensor._version and guard.counts(tensor)

    def _kept_at_rank(self, rows: Tensor) -> bool:
        """Whether a linear layer's rows are kept as ``Z Q^T`` of a rank below their width."""
        handle = self._keeper.pack_leaf(rows)
        payload = handle.whole_payload() if isinstance(handle, View) else None
        rank = None if payload is None else payload.rank()
        return rank is not None and rank < rows.shape[-1]

    def _running_inside(self) -> bool:
        assert self._inside is not None  # noqa: S101 - asked by the caller
        return any(path in self._inside for _, path in self._modules.stack)

    def _begins_from_what_is_kept(self, tensors: Sequence[Tensor]) -> bool:
        """Whether all arguments can be had again without keeping anything that nobody else keeps."""
        return self._inside is not None or all(
            self._keeper.has(tensor) or self._noted(tensor) is not None or self._is_awaited(tensor)
            for tensor in tensors
        )

    def _is_kept(self, output: Tensor) -> bool:
        """Whether the strategy's patterns say that an output is kept though it could be recomputed."""
        if not self._policy.keep or not output.dim():
            return False
        width = output.shape[-1]
        return self._kept_sites.selects(Site(self._modules.path, f"{self._modules.tag}_{width}", width))

    def _note(self, address: int, function: Any, arguments: Any, keywords: Any, output: Tensor) -> None:
        parents: list[Recipe] = []
        awaited: dict[_Awaited, None] = {}

        def stand_in(tensor: Tensor) -> _Argument:
            if not self._keeper.has(tensor):
                recipe = self._noted(tensor)
                if recipe is not None:
                    parents.append(recipe)
                    awaited.update(dict.fromkeys(recipe.awaited))
                    return _Argument(_Part(recipe, place_of(tensor)))
                if self._inside is None:
                    leaf = _Awaited(tensor)
                    awaited[leaf] = None
                    return _Argument(leaf)
            return _Argument(self._keeper.pack_leaf(tensor))

        arguments, keywords = mapped(arguments, stand_in), mapped(dict(keywords), stand_in)
        recipe = Recipe(function, arguments, keywords, output, parents, self._shortcut(function, arguments, keywords))
        recipe.awaited = tuple(awaited)
        self._recipes[address] = recipe
        weakref.finalize(output.untyped_storage(), self._forget, address, weakref.ref(recipe)).atexit = False

    def _shortcut(self, function: Any, arguments: Any, keywords: Mapping[str, Any]) -> Shortcut | None:
        """A linear layer's output at the rank of its rows, where they have one."""
        at_rank = self._linear_at_rank
        if at_rank is None or getattr(function, "__name__", "") != "linear":
            return None
        given = [*arguments, *keywords.values()]
        handles = [argument.handle for argument in given if isinstance(argument, _Argument)]
        rows = handles[0] if len(handles) == len([argument for argument in given if argument is not None]) else None
        if not isinstance(rows, View) or set(keywords) - {"weight", "bias"}:
            return None
        weight, bias = handles[1], handles[2] if len(handles) > 2 else None
        return lambda: at_rank(rows, weight, bias)

    def _forget(self, address: int, reference: weakref.ref[Recipe]) -> None:
        if self._recipes.get(address) is reference():
            self._recipes.pop(address, None)

    def _enter(self, path: str, arguments: Any) -> None:
        """Cuts the chain of recipes where a segment begins: what comes in there is kept."""
        assert self._inside is not None  # noqa: S101 - only then is it called
        if not self._modules.stack:
            self._calls = 0
        if path not in self._inside or self._running_inside():
            return
        if self._calls % self._policy.segment == 0:
            for tensor in _tensors(arguments):
                if not describe_special(tensor):
                    self._recipes.pop(tensor.untyped_storage()._cdata, None)
        self._calls += 1


class _Part:
    """An argument that is itself recomputed: like :class:`Recomputed`, but nobody's saved tensor."""

    __slots__ = ("_place", "_recipe")

    def __init__(self, recipe: Recipe, place: Place) -> None:
        self._recipe = recipe
        self._place = place

    def unpack(self) -> Tensor:
        return self._recipe.value().as_strided(*self._place)


def chosen_modules(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The paths of the modules that patterns choose, or without patterns of those that a model is made of.

    These are the members of its outermost lists and sequences of modules; without any, its composite children; without
    those, the model itself.

    Raises:
        CaptureError: a pattern matches no module.
    """
    named = dict(model.named_modules())
    if patterns:
        for pattern in patterns:
            if not any(fnmatchcase(path, pattern) for path in named):
                paths = ", ".join(path for path in list(named)[:12] if path)
                raise CaptureError(f"modules pattern '{pattern}' matches no module of the model (it has {paths}, ...)")
        return [path for path in named if any(fnmatchcase(path, pattern) for pattern in patterns)]
    lists = [path for path, module in named.items() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    outermost = [path for path in lists if not any(path != o and path.startswith(f"{o}." if o else "") for o in lists)]
    members = [
        f"{path}.{name}" if path else name
        for path in outermost
        for name, module in named[path].named_children()
        if any(True for _ in module.parameters())
    ]
    if members:
        return members
    composite = [
        name
        for name, module in model.named_children()
        if any(True for _ in module.children()) and any(True for _ in module.parameters())
    ]
    return composite or [""]


def _expands(name: str, arguments: Any, keywords: Mapping[str, Any]) -> bool:
    """Whether a product gives more than its largest argument that is no weight: then the argument is what to keep."""
    if name != "linear":
        return False
    weight = arguments[1] if len(arguments) > 1 else keywords.get("weight")
    return isinstance(weight, Tensor) and weight.dim() == 2 and weight.shape[0] > weight.shape[1]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Arguments with every tensor among them changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


def _handles(value: Any) -> Iterator[Handle]:
    if isinstance(value, _Argument):
        yield value.handle
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _handles(item)
    elif isinstance(value, dict):
        yield from _handles(list(value.values()))


def _filled(value: Any, unpack: Callable[[Handle], Tensor]) -> Any:
    if isinstance(value, _Argument):
        return unpack(value.handle)
    if type(value) in (list, tuple):
        return type(value)(_filled(item, unpack) for item in value)
    if isinstance(value, dict):
        return {key: _filled(item, unpack) for key, item in value.items()}
    return value
