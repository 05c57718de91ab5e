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

from compbench.capture.entry import VersionGuard
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
_ANY = _CHEAP | _PRODUCTS | {"scaled_dot_product_attention", "conv1d", "conv2d", "conv3d", "embedding"}

_Place = tuple[torch.Size, tuple[int, ...], int | torch.SymInt]


class Handle(Protocol):
    """What stands for a tensor: as it is, a view of a payload, or a recipe."""

    def unpack(self) -> Tensor:
        """The tensor."""


class Keeper(Protocol):
    """Keeps the leaves of recipes."""

    def pack(self, tensor: Tensor) -> Handle:
        """What stands for a tensor."""

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor is kept already, is a weight, or carries no gradient."""


@dataclass(frozen=True)
class _Argument:
    """Where in a recipe's arguments a tensor goes."""

    handle: Handle


class Recipe:
    """How one storage is computed: a function and what stands for its arguments.

    Attributes:
        version: the storage's version that the recipe gives.
        handles: how many saved tensors stand in the graph by it.
        counted: whether a site has counted it.
    """

    __slots__ = (
        "__weakref__",
        "_arguments",
        "_cached",
        "_casting",
        "_function",
        "_keywords",
        "_layout",
        "counted",
        "handles",
        "parents",
        "version",
    )

    def __init__(
        self, function: Callable[..., Any], arguments: Any, keywords: Any, output: Tensor, parents: Sequence[Recipe]
    ) -> None:
        device = output.device.type
        self._function = function
        self._arguments = arguments
        self._keywords = keywords
        self._layout: _Place = output.shape, output.stride(), output.storage_offset()
        enabled = torch.is_autocast_enabled(device)
        self._casting = (device, torch.get_autocast_dtype(device) if enabled else None)
        self._cached: Tensor | None = None
        self.version = output._version
        self.parents = tuple(parents)
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

    def _compute(self) -> Tensor:
        with torch.no_grad(), self._cast():
            output = self._function(*_filled(self._arguments), **_filled(self._keywords))
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
        self._place: _Place = tensor.shape, tensor.stride(), tensor.storage_offset()
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

    __slots__ = ("handle", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor.detach()
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
    """

    def __init__(
        self, policy: Recomputation, model: nn.Module, modules: ModuleTracker, steps: Steps, keeper: Keeper
    ) -> None:
        self._policy = policy
        self._modules = modules
        self._steps = steps
        self._keeper = keeper
        self._kept_sites = SitePatterns(policy.keep)
        self._inside = frozenset(chosen_modules(model, policy.modules)) if policy.operators == "any" else None
        self._calls = 0
        # The recipes of storages that are alive, by address; a storage that dies takes its own away.
        self._recipes: dict[int, Recipe] = {}
        self._arguments: frozenset[int] | None = None
        self._deferred: list[Deferred] = []
        if self._inside is not None:
            modules.entering = self._enter

    def forget(self) -> None:
        """Forgets all recipes but those that stand in a graph; tensors that outlive their step hold nothing more."""
        self._recipes.clear()

    # ---------------------------------------------------------------- what is saved

    def find(self, tensor: Tensor, address: int) -> Recipe | None:
        """The recipe of the storage behind a tensor, at the version that it has."""
        recipe = self._recipes.get(address)
        return recipe if recipe is not None and recipe.version == tensor._version else None

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
        if not self._allowed(name, arguments, keywords):
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
                if address not in known and self._begins_from_what_is_kept(tensors) and not self._is_kept(output):
                    self._note(address, function, arguments, keywords, output)
            return output
        finally:
            self._arguments = None
            deferred, self._deferred = self._deferred, []
            for late in deferred:
                tensor, late.tensor = late.tensor, None
                if tensor is not None:
                    late.handle = self._keeper.pack(tensor)

    def _allowed(self, name: str, arguments: Any, keywords: Mapping[str, Any]) -> bool:
        if name not in _ANY or keywords.get("out") is not None or keywords.get("inplace"):
            return False
        if name == "scaled_dot_product_attention" and (keywords.get("dropout_p") or any(arguments[4:5])):
            return False
        if self._inside is not None:
            # Between the calls of one segment only what costs nothing.
            return self._running_inside() or (self._policy.segment > 1 and name in _CHEAP)
        if name in _CHEAP:
            return True
        return self._policy.operators == "expanding" and name in _PRODUCTS and _expands(name, arguments, keywords)

    def _running_inside(self) -> bool:
        assert self._inside is not None  # noqa: S101 - asked by the caller
        return any(path in self._inside for _, path in self._modules.stack)

    def _begins_from_what_is_kept(self, tensors: Sequence[Tensor]) -> bool:
        """Whether all arguments can be had again without keeping anything that nobody else keeps."""
        return self._inside is not None or all(
            self._keeper.has(tensor) or self.find(tensor, tensor.untyped_storage()._cdata) is not None
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

        def stand_in(tensor: Tensor) -> _Argument:
            handle = self._keeper.pack(tensor)
            if isinstance(handle, Recomputed):
                parents.append(handle.recipe)
                handle = _Part(handle)
            return _Argument(handle)

        recipe = Recipe(function, mapped(arguments, stand_in), mapped(dict(keywords), stand_in), output, parents)
        self._recipes[address] = recipe
        weakref.finalize(output.untyped_storage(), self._forget, address, weakref.ref(recipe)).atexit = False

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

    def __init__(self, handle: Recomputed) -> None:
        self._recipe = handle.recipe
        self._place = handle._place

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


def _filled(value: Any) -> Any:
    if isinstance(value, _Argument):
        return value.handle.unpack()
    if type(value) in (list, tuple):
        return type(value)(_filled(item) for item in value)
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items()}
    return value
