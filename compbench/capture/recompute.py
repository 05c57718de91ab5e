"""Tensors that are not kept but computed again in the backward pass, operator by operator, from what is kept.

Every operator of the model is seen as it runs. Where a strategy's :class:`Recomputation` allows it, a recipe is noted
in the place of its output: the function and what stands for its arguments. If autograd saves the output later, it gets
the recipe. What a recipe begins with, its leaves, is kept like any saved tensor: raw, or by the strategy's codec.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from compbench.capture.entry import View
from compbench.capture.functions import scale_and_shift
from compbench.capture.handing import Handle
from compbench.capture.modules import ModuleTracker
from compbench.capture.recipes import (
    Argument,
    Awaited,
    Deferred,
    Keeper,
    LinearAtRank,
    Part,
    Recipe,
    ScaledRows,
    Shortcut,
    mapped,
    tensors_in,
)
from compbench.capture.special import describe_special
from compbench.capture.steps import Steps
from compbench.capture.versions import VersionGuard, place_of
from compbench.compressor import Recomputation, Site
from compbench.errors import CaptureError
from compbench.site_patterns import SitePatterns

_ARITHMETIC = ("add", "sub", "mul", "truediv", "pow")
_CHEAP = frozenset(
    {"sub", "add", "mul", "div", "neg", "rsub", "pow", "square", "sqrt", "rsqrt", "abs", "exp", "log", "clamp", "where"}
    | {"silu", "gelu", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "softmax"}
    | {"rms_norm", "layer_norm", scale_and_shift.__name__, "to", "float", "half", "bfloat16", "type", "type_as"}
    | {"cat", "concat", "stack", "contiguous", "clone", "reshape", "flatten", "embedding"}
    | {f"__{side}{name}__" for name in _ARITHMETIC for side in ("", "r")}
    | {"__neg__"}
)
"""Elementwise operators, norms, copies and look-ups: little arithmetic, and no random numbers."""
_PRODUCTS = frozenset({"linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "einsum"})
_SUMS = frozenset({"add", "__add__", "__radd__"})
_ATTENTION = "scaled_dot_product_attention"
_ANY = _CHEAP | _PRODUCTS | {_ATTENTION, "conv1d", "conv2d", "conv3d"}


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
        loses_nothing: whether gradients are those of autograd, up to rounding at most: then parts of a product may be
            kept by themselves, and what is added over and over in the place of the sums.
    """

    def __init__(
        self,
        policy: Recomputation,
        model: nn.Module,
        modules: ModuleTracker,
        steps: Steps,
        keeper: Keeper,
        linear_at_rank: LinearAtRank | None = None,
        loses_nothing: bool = False,
    ) -> None:
        self._policy = policy
        self._loses_nothing = loses_nothing
        self._linear_at_rank = linear_at_rank
        self._modules = modules
        self._steps = steps
        self._keeper = keeper
        self._kept_sites = SitePatterns(policy.keep)
        self._inside = frozenset(chosen_modules(model, policy.modules)) if policy.operators == "any" else None
        self._calls = 0
        self._names = _ANY if self._inside is not None else _CHEAP | _PRODUCTS | {_ATTENTION}
        # The recipes of storages that are alive, by address; a storage that dies takes its own away.
        self._recipes: dict[int, Recipe] = {}
        # Products that are wider than what they are made of, of which a part may come to be kept.
        self._awaited: dict[int, tuple[StorageWeakRef, VersionGuard]] = {}
        # What was added to something, and nobody keeps.
        self._added: dict[int, tuple[StorageWeakRef, VersionGuard]] = {}
        self._arguments: list[int] | None = None
        self._deferred: list[Deferred] = []
        self._copied: int | None = None
        if self._inside is not None:
            modules.entering = self._enter

    def forget(self) -> None:
        """Forgets all recipes but those that stand in a graph; tensors that outlive their step hold nothing more."""
        self._recipes.clear()
        self._awaited.clear()
        self._added.clear()

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

    def concerns(self, name: str) -> bool:
        """Whether anything about an operator may be noted."""
        return name in self._names

    def run(
        self, name: str, function: Callable[..., Any], arguments: Any, keywords: Mapping[str, Any], again: Any
    ) -> Any:
        """Runs an operator, and notes how its output is computed where that is allowed.

        Args:
            name: the operator's.
            function: the operator, which is what a recipe will call.
            arguments: its arguments.
            keywords: its keywords.
            again: runs it now, as the session would.
        """
        values: Handle | None = None
        if name == _ATTENTION and self._awaited:
            if self._apart(arguments):
                try:
                    return again(name, function, arguments, keywords)
                finally:
                    self._copied = None
            values = self._values(arguments, keywords)  # noqa: F841 - held until attention has saved them itself
        if not self._allowed(name, arguments, keywords) or torch._C._functorch.peek_interpreter_stack() is not None:
            return again(name, function, arguments, keywords)
        tensors = tensors_in(arguments)
        if keywords:
            tensors += tensors_in(keywords)
        if any(map(describe_special, tensors)):
            return again(name, function, arguments, keywords)
        addresses = [tensor.untyped_storage()._cdata for tensor in tensors]
        self._arguments = addresses
        try:
            output = again(name, function, arguments, keywords)
            self._arguments = None
            if isinstance(output, Tensor) and not describe_special(output):
                address = output.untyped_storage()._cdata
                if address not in addresses and not self._is_kept(output):
                    self._note_output(name, function, arguments, keywords, output, tensors)
            return output
        finally:
            self._arguments = None
            if self._deferred:
                self._settle()

    def _settle(self) -> None:
        """Finds what stands for the outputs that an operator has saved, now that it has run."""
        deferred, self._deferred = self._deferred, []
        for late in deferred:
            tensor, late.tensor = late.tensor, None
            if tensor is not None:
                late.handle = self._keeper.pack(tensor, late.carries_gradient)

    def _note_output(
        self,
        name: str,
        function: Any,
        arguments: Any,
        keywords: Mapping[str, Any],
        output: Tensor,
        tensors: Sequence[Tensor],
    ) -> None:
        """Notes how an output is computed, or that a part of it may come to be kept."""
        product = name in _PRODUCTS
        sources = self._sources(name, tensors)
        if sources is not None and (not product or self._policy.operators != "cheap" or self._kept_at_rank(tensors[0])):
            self._note(function, arguments, keywords, output, sources)
        elif product:
            address = output.untyped_storage()._cdata
            self._awaited[address] = StorageWeakRef(output.untyped_storage()), VersionGuard(output)

    def _allowed(self, name: str, arguments: Any, keywords: Mapping[str, Any]) -> bool:
        if name not in _ANY or (keywords and (keywords.get("out") is not None or keywords.get("inplace"))):
            return False
        if name == _ATTENTION and (keywords.get("dropout_p") or any(arguments[4:5])):
            return False
        if name == "embedding":
            # With a largest norm it may change its weight. What a lossy strategy keeps of a sum that an embedding goes
            # into is better than what follows from what it keeps of the parts.
            changes = keywords.get("max_norm") or any(arguments[3:4])
            return not changes and (self._loses_nothing or self._running_inside())
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
        if not self._loses_nothing or self._policy.operators != "cheap" or len(operands) < 3:
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
        recipe = self._noted(rows)
        scaled = None if recipe is None else recipe.scaled
        handle = self._keeper.pack_leaf(rows) if scaled is None else scaled.rows
        payload = handle.whole_payload() if isinstance(handle, View) else None
        rank = None if payload is None else payload.rank()
        return rank is not None and rank < rows.shape[-1]

    def _running_inside(self) -> bool:
        return self._inside is not None and any(path in self._inside for _, path in self._modules.stack)

    def _sources(self, name: str, tensors: Sequence[Tensor]) -> list[Recipe | bool] | None:
        """Where arguments come from again: a recipe; True where they are kept or will be, False where they may be.

        None where some could not be had without keeping what nobody else keeps.
        """
        sources: list[Recipe | bool] = []
        for tensor in tensors:
            if self._keeper.has(tensor):
                sources.append(True)
                continue
            recipe = self._noted(tensor)
            if recipe is not None:
                sources.append(recipe)
            elif self._inside is not None:
                sources.append(True)
            elif self._is_awaited(tensor):
                sources.append(False)
            elif name in _SUMS and self._is_added_again(tensor):
                sources.append(True)
            else:
                return None
        return sources

    def _is_added_again(self, tensor: Tensor) -> bool:
        """Whether a tensor is added for the second time or more: kept once, it spares the sums that it goes into.

        So it is with the input of a recursion that is added at every call. Only where nothing is lost: what a lossy
        strategy keeps of a sum is better than what follows from what it keeps of the parts.
        """
        if not self._loses_nothing:
            return False
        address = tensor.untyped_storage()._cdata
        known = self._added.get(address)
        if known is not None and not known[0].expired():
            return known[1].version == tensor._version and known[1].counts(tensor)
        # The weak reference keeps the address from being given to another storage.
        self._added[address] = StorageWeakRef(tensor.untyped_storage()), VersionGuard(tensor)
        return False

    def _is_kept(self, output: Tensor) -> bool:
        """Whether the strategy's patterns say that an output is kept though it could be recomputed."""
        if not self._policy.keep or not output.dim():
            return False
        width = output.shape[-1]
        return self._kept_sites.selects(Site(self._modules.path, f"{self._modules.tag}_{width}", width))

    def _note(
        self, function: Any, arguments: Any, keywords: Mapping[str, Any], output: Tensor, sources: list[Recipe | bool]
    ) -> None:
        parents: list[Recipe] = []
        awaited: dict[Awaited, None] = {}
        following = iter(sources)
        product = getattr(function, "__name__", "") in _PRODUCTS

        def stand_in(tensor: Tensor) -> Argument:
            source, differentiable = next(following), product and tensor.requires_grad
            if isinstance(source, Recipe):
                parents.append(source)
                awaited.update(dict.fromkeys(source.awaited))
                return Argument(Part(source, place_of(tensor)), differentiable)
            if not source:
                leaf = Awaited(tensor)
                awaited[leaf] = None
                return Argument(leaf, differentiable)
            return Argument(self._keeper.pack_leaf(tensor), differentiable)

        arguments, keywords = mapped(arguments, stand_in), mapped(keywords, stand_in) if keywords else {}
        recipe = Recipe(function, arguments, keywords, output, parents, self._shortcut(function, arguments, keywords))
        recipe.awaited = tuple(awaited)
        if function is scale_and_shift:
            handles = [argument.handle if isinstance(argument, Argument) else None for argument in arguments]
            if isinstance(handles[0], View):
                recipe.scaled = ScaledRows(handles[0], handles[1], handles[2])
        storage = output.untyped_storage()
        self._recipes[storage._cdata] = recipe
        recipe.gone = weakref.ref(storage, partial(_forget, self._recipes, storage._cdata))

    def _shortcut(self, function: Any, arguments: Any, keywords: Mapping[str, Any]) -> Shortcut | None:
        """A linear layer's output at the rank of its rows, where they have one."""
        at_rank = self._linear_at_rank
        if at_rank is None or getattr(function, "__name__", "") != "linear":
            return None
        given = [*arguments, *keywords.values()]
        handles = [argument.handle for argument in given if isinstance(argument, Argument)]
        if len(handles) != len([argument for argument in given if argument is not None]):
            return None
        if set(keywords) - {"weight", "bias"}:
            return None
        first = handles[0]
        rows = ScaledRows(first) if isinstance(first, View) else None
        if isinstance(first, Part):
            rows = first.scaled_rows()
        if rows is None:
            return None
        weight, bias = handles[1], handles[2] if len(handles) > 2 else None
        return lambda: at_rank(rows, weight, bias)

    def _enter(self, path: str, arguments: Any) -> None:
        """Cuts the chain of recipes where a segment begins: what comes in there is kept."""
        assert self._inside is not None  # noqa: S101 - only then is it called
        if not self._modules.stack:
            self._calls = 0
        if path not in self._inside or self._running_inside():
            return
        if self._calls % self._policy.segment == 0:
            for tensor in tensors_in(arguments):
                if not describe_special(tensor):
                    self._recipes.pop(tensor.untyped_storage()._cdata, None)
        self._calls += 1


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


def _forget(recipes: dict[int, Recipe], address: int, gone: weakref.ref[Any]) -> None:
    """Takes the recipe of a storage that has died out, unless its address has gone to another one."""
    found = recipes.get(address)
    if found is not None and found.gone is gone:
        del recipes[address]
