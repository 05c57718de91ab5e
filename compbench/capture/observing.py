"""Shows codecs the gradients of the operators that saved their rows, when these begin their backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from compbench.capture.entry import Entry
from compbench.capture.plainly import plainly
from compbench.capture.recipes import Recipe, mapped
from compbench.capture.special import describe_special

Observer = Callable[[Sequence[Tensor | None]], None]
"""A hook that runs before a node of the graph, with the gradients of the node's outputs."""


def gradient_observer(entry: Entry, place: int) -> Observer:
    """Shows an entry's codec the gradient of output number ``place``, as rows."""
    reference = weakref.ref(entry)  # what the graph has let go of must not live on in its hooks

    def observe(gradients: Sequence[Tensor | None]) -> None:
        entry, gradient = reference(), gradients[place]
        if entry is not None and entry.payload is not None and entry.book.codec is not None and gradient is not None:
            codec, payload = entry.book.codec, entry.payload
            rows = gradient.detach().reshape(entry.fold.rows, -1)
            plainly(gradient.device.type, lambda gradient: codec.observe_gradient(payload, gradient), rows)

    return observe


class SavedTensor:
    """A tensor that an operator saves: one of its arguments, or what autocast made of one.

    Args:
        tensor: the tensor, of which nothing is held.
        entry: stands for rows that it depends on.
        recipe: how it is computed from them; None: it lies among them.
    """

    __slots__ = ("_entry", "address", "dtype", "place", "recipe")

    def __init__(self, tensor: Tensor, entry: Entry, recipe: Recipe | None) -> None:
        self._entry = weakref.ref(entry)
        self.address = tensor.untyped_storage()._cdata
        self.dtype = tensor.dtype
        self.place = tensor.shape, tensor.stride(), tensor.storage_offset()
        self.recipe = recipe

    def storage(self, entry: Entry, rows: Tensor) -> Tensor | None:
        """The contents of its storage with other contents ``rows`` of that behind an entry; None: as they are."""
        if self.recipe is not None:
            return self.recipe.value_with(entry, rows)
        return rows if self._entry() is entry else None

    def depends_on(self, entry: Entry) -> bool:
        """Whether it depends on the rows behind an entry."""
        return self._entry() is entry if self.recipe is None else entry in self.recipe.entries()

    def is_cast_of(self, tensor: Tensor) -> bool:
        """Whether it may be what autocast made of a tensor."""
        return tensor.dtype != self.dtype and tensor.numel() == self.place[0].numel()


class Operator:
    """An operator that ran, with all that it took.

    Args:
        function: what ran.
        arguments: its arguments, whose tensors are kept as they are unless they can be computed again.
        keywords: its keywords.
        output: what it gave.
        saved: what it saved that depends on rows whose codecs watch.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Any,
        keywords: Mapping[str, Any],
        output: Tensor,
        saved: Sequence[SavedTensor],
    ) -> None:
        self.function = function
        self.weights: list[bool] = []
        self._takes_gradient: list[bool] = []
        self._places: dict[int, SavedTensor] = {}
        self._layouts: dict[int, tuple[torch.Size, tuple[int, ...], int | torch.SymInt]] = {}
        by_address = {each.address: each for each in saved}
        casts: dict[int, SavedTensor] = {}

        def detached(tensor: Tensor) -> Tensor:
            place = len(self._takes_gradient)
            self._takes_gradient.append(tensor.requires_grad)
            if tensor.requires_grad:
                self.weights.append(tensor.is_leaf)
            if not describe_special(tensor):
                address = tensor.untyped_storage()._cdata
                if address in by_address:
                    self._places[place] = by_address[address]
                    self._layouts[place] = tensor.shape, tensor.stride(), tensor.storage_offset()
                    if by_address[address].recipe is not None:
                        return tensor.new_empty(0)  # it is computed again when it is asked for
                elif (cast := next((each for each in saved if each.is_cast_of(tensor)), None)) is not None:
                    casts.setdefault(place, cast)
            return tensor.detach()

        self._arguments = mapped(arguments, detached)
        self._keywords = mapped(dict(keywords), detached)
        self._casts = dict(list(casts.items())[:1]) if not self._places else {}
        self._device = output.device.type
        enabled = torch.is_autocast_enabled(self._device)
        self._dtype = torch.get_autocast_dtype(self._device) if enabled else None

    def takes(self, entry: Entry) -> bool:
        """Whether a saved tensor that depends on an entry is among the arguments; else the operator made it."""
        return any(saved.depends_on(entry) for saved in (*self._places.values(), *self._casts.values()))

    def gradients(self, entry: Entry, rows: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """The gradients of all inputs that take one, with other contents of the storage behind an entry.

        Args:
            entry: stands for that storage.
            rows: its elements, in the place of those that it had.
            gradient: of the operator's output.
        """
        inputs: list[Tensor] = []
        places = iter(range(len(self._takes_gradient)))
        used = {id(each): each for each in (*self._places.values(), *self._casts.values())}
        storages = {key: each.storage(entry, rows) for key, each in used.items()}

        def given(tensor: Tensor) -> Tensor:
            place = next(places)
            saved = self._places.get(place) or self._casts.get(place)
            storage = None if saved is None else storages[id(saved)]
            if saved is not None and storage is not None:
                if place in self._places:
                    tensor = storage.as_strided(*self._layouts[place])
                else:
                    tensor = storage.as_strided(*saved.place).reshape(tensor.shape).to(tensor.dtype)
            if not self._takes_gradient[place]:
                return tensor
            inputs.append(tensor.detach().requires_grad_())
            return inputs[-1]

        casting = torch.autocast(self._device, dtype=self._dtype, cache_enabled=False) if self._dtype else nullcontext()
        # Hooks that keep everything stand in front of the session's.
        with torch.enable_grad(), saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor), casting:
            output = self.function(*mapped(self._arguments, given), **mapped(self._keywords, given))
            found = torch.autograd.grad(output, inputs, gradient.to(output.dtype), materialize_grads=True)
        return tuple(found)


class OperatorGradients:
    """What ``Codec.observe_operator`` is handed: gives an operator's gradients with other rows, as a function does.

    Attributes:
        name: the operator's, such as ``silu``.
        output_gradient: the gradient of its output.
        weights: of each gradient that is given, whether it is that of a parameter.
    """

    def __init__(self, entry: Entry, operator: Operator, gradient: Tensor) -> None:
        self.name: str = getattr(operator.function, "__name__", type(operator.function).__name__)
        self.output_gradient = gradient.detach()
        self.weights = tuple(operator.weights)
        self._entry = entry
        self._operator = operator

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The gradients of all inputs that take one, if ``rows``, ``(N, D)``, had been those that were encoded."""
        storage = self._entry.fold.unfold(rows.contiguous()).contiguous()
        return self._operator.gradients(self._entry, storage, self.output_gradient)


def operator_observer(entry: Entry, operator: Operator, place: int) -> Observer:
    """Shows an entry's codec what the operator's gradients would be with other rows."""
    reference = weakref.ref(entry)

    def observe(gradients: Sequence[Tensor | None]) -> None:
        entry, gradient = reference(), gradients[place]
        if entry is None or entry.payload is None or entry.book.codec is None or gradient is None:
            return
        codec, payload = entry.book.codec, entry.payload
        gradients_with = OperatorGradients(entry, operator, gradient)
        plainly(gradient.device.type, lambda function: codec.observe_operator(payload, function), gradients_with)

    return observe
