"""What must never be compressed: parameters, buffers, and copies of weights made for autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

from compbench.capture.special import parts
from compbench.errors import CaptureError

# Operators through which a weight passes unchanged but for its type, its shape or its place in memory.
_COPIES = frozenset(
    {
        "ToCopyBackward0",
        "TBackward0",
        "TransposeBackward0",
        "TransposeBackward1",
        "PermuteBackward0",
        "ViewBackward0",
        "UnsafeViewBackward0",
        "ReshapeAliasBackward0",
        "ExpandBackward0",
        "SliceBackward0",
        "SelectBackward0",
        "SplitBackward0",
        "SplitWithSizesBackward0",
        "SqueezeBackward0",
        "SqueezeBackward1",
        "UnsqueezeBackward0",
        "AsStridedBackward0",
        "AliasBackward0",
        "CloneBackward0",
        "NumpyTBackward0",
        "MhBackward0",
        "UnbindBackward0",
        "UnsafeSplitBackward0",
        "SqueezeBackward2",
        "CatBackward0",
        "StackBackward0",
    }
)


class Weights:
    """Tells a model's weights from its activations, by storage and by where a tensor comes from in the graph."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._storages: frozenset[int] = frozenset()
        self._pins: list[StorageWeakRef] = []
        self._shapes: frozenset[tuple[int, ...]] = frozenset()
        self.devices: frozenset[torch.device] = frozenset()
        self.refresh()

    def refresh(self) -> None:
        """Looks the model's parameters and buffers up again: they may have been replaced since."""
        held = [*self._model.parameters(), *self._model.buffers()]
        if any(is_lazy(tensor) for tensor in held):
            raise CaptureError("the model has parameters without a shape yet (lazy modules); run one forward first")
        storages = [part.untyped_storage() for tensor in held for part in parts(tensor)]
        self.devices = frozenset(tensor.device for tensor in held)
        addresses = frozenset(storage._cdata for storage in storages)
        if addresses != self._storages:
            # A weak reference keeps an address from being given to an activation once its weight has been replaced.
            self._pins = [StorageWeakRef(storage) for storage in storages]
            self._storages = addresses
        self._shapes = frozenset(
            shape
            for parameter in self._model.parameters()
            if not parameter.requires_grad and parameter.dim() > 1
            for shape in (tuple(parameter.shape), tuple(reversed(parameter.shape)))
        )

    def holds(self, tensor: Tensor, address: int | None = None) -> bool:
        """Whether the tensor lies in the memory of a parameter or buffer, or of a leaf that somebody optimises.

        Args:
            tensor: any tensor.
            address: that of its storage, where it is known already.
        """
        if address is None:
            if any(part.untyped_storage()._cdata in self._storages for part in parts(tensor)):
                return True
        elif address in self._storages:
            return True
        base = tensor if tensor._base is None else tensor._base
        return base.is_leaf and base.requires_grad

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether the tensor is a parameter of the model itself, not a view or a copy of one."""
        return tensor.is_leaf and tensor.untyped_storage()._cdata in self._storages

    def copied_into(self, tensor: Tensor) -> bool:
        """Whether the tensor is made of parameters by copying alone, such as autocast's copy in 16 bits."""
        node = tensor.grad_fn
        if node is None:
            # A frozen weight's copy has no history; its shape and autocast give it away.
            return (
                not tensor.requires_grad
                and torch.is_autocast_enabled(tensor.device.type)
                and tuple(tensor.shape) in self._shapes
            )
        return node.name() in _COPIES and _leads_to_leaves(node)


def _leads_to_leaves(node: Node) -> bool:
    """Whether nothing but copies lies between a node and the leaves that it comes from."""
    if node.name() == "torch::autograd::AccumulateGrad":
        return True
    sources = [source for source, _ in node.next_functions]
    return node.name() in _COPIES and all(source is not None and _leads_to_leaves(source) for source in sources)
