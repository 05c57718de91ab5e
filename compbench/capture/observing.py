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
from compbench.capture.recompute import mapped
from compbench.capture.special import describe_special

SavedPlace = tuple[torch.dtype, torch.Size, tuple[int, ...], int | torch.SymInt]
"""Element type, shape, strides and offset of a saved tensor."""

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


class Operator:
    """An operator that ran, with all that it took.

    Args:
        function: what ran.
        arguments: its arguments, whose tensors are kept as they are.
        keywords: its keywords.
        output: what it gave.
        address: that of the storage that it saved.
        saved: what it saved of it; one of its arguments, or what autocast made of one.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Any,
        keywords: Mapping[str, Any],
        output: Tensor,
        address: int,
        saved: SavedPlace,
    ) -> None:
        self._function = function
        self._saved_dtype, self._shape, self._stride, self._offset = saved
        self._takes_gradient: list[bool] = []
        places: list[int] = []
        casts: list[int] = []

        def detached(tensor: Tensor) -> Tensor:
            place = len(self._takes_gradient)
            self._takes_gradient.append(tensor.requires_grad)
            if not describe_special(tensor):
                if tensor.untyped_storage()._cdata == address:
                    places.append(place)
                elif tensor.dtype != self._saved_dtype and tensor.numel() == self._shape.numel():
                    casts.append(place)
            return tensor.detach()

        self._arguments = mapped(arguments, detached)
        self._keywords = mapped(dict(keywords), detached)
        self._places = frozenset(places)
        self._cast = casts[0] if casts and not places else None
        self._device = output.device.type
        enabled = torch.is_autocast_enabled(self._device)
        self._dtype = torch.get_autocast_dtype(self._device) if enabled else None

    @property
    def takes_what_it_saved(self) -> bool:
        """Whether the saved tensor is among the arguments; else it is something that the operator made."""
        return bool(self._places) or self._cast is not None

    def gradients(self, storage: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """The gradients of all inputs that take one, with other contents of the saved tensor's storage.

        Args:
            storage: its elements, in the place of those that it had.
            gradient: of the operator's output.
        """
        inputs: list[Tensor] = []
        places = iter(range(len(self._takes_gradient)))

        def given(tensor: Tensor) -> Tensor:
            place = next(places)
            if place in self._places:
                tensor = storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            elif place == self._cast:
                rebuilt = storage.as_strided(self._shape, self._stride, self._offset)
                tensor = rebuilt.reshape(tensor.shape).to(tensor.dtype)
            if not self._takes_gradient[place]:
                return tensor
            inputs.append(tensor.detach().requires_grad_())
            return inputs[-1]

        casting = torch.autocast(self._device, dtype=self._dtype, cache_enabled=False) if self._dtype else nullcontext()
        # Hooks that keep everything stand in front of the session's.
        with torch.enable_grad(), saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor), casting:
            output = self._function(*mapped(self._arguments, given), **mapped(self._keywords, given))
            found = torch.autograd.grad(output, inputs, gradient.to(output.dtype), materialize_grads=True)
        return tuple(found)


def operator_observer(entry: Entry, operator: Operator, place: int) -> Observer:
    """Shows an entry's codec what the operator's gradients would be with other rows."""
    reference = weakref.ref(entry)

    def observe(gradients: Sequence[Tensor | None]) -> None:
        entry, gradient = reference(), gradients[place]
        if entry is None or entry.payload is None or entry.book.codec is None or gradient is None:
            return
        codec, payload, fold = entry.book.codec, entry.payload, entry.fold

        def gradients_with(rows: Tensor) -> tuple[Tensor, ...]:
            storage = fold.unfold(rows.contiguous()).contiguous()
            return operator.gradients(storage, gradient.detach())

        plainly(gradient.device.type, lambda function: codec.observe_operator(payload, function), gradients_with)

    return observe
