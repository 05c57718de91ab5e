"""What a session can't work with, or can't see into: said by name, never passed over."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from compbench.errors import UnsupportedError

_PLAIN = frozenset({Tensor, nn.Parameter, FakeTensor})
_COMPILED_CODE = "_functorch/_aot_autograd"
_FRAMES = 40


def describe_special(tensor: Tensor) -> str:
    """What is special about a tensor without a storage of rows (sparse, nested, of a class of its own), or nothing."""
    if type(tensor) in _PLAIN and tensor.layout is torch.strided and not tensor.is_nested:
        return ""
    if tensor.layout is not torch.strided and type(tensor) in _PLAIN:
        return f"{str(tensor.layout).removeprefix('torch.')} layout"
    return "nested tensor" if tensor.is_nested else f"tensor of class {type(tensor).__name__}"


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The plain tensors that hold a tensor's memory: itself, or what a sparse or wrapped one is made of.

    Empty where nothing tells, as with MKL-DNN's own layout.
    """
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return tuple(part for name in names for part in parts(getattr(tensor, name)))
    if tensor.layout is not torch.strided:
        return ()
    return (tensor.values(),) if tensor.is_nested else (tensor,)


def refuse_model(model: nn.Module) -> None:
    """Refuses models in which what is saved does not come to a session, or not as what it is.

    Raises:
        UnsupportedError: a module is compiled, is TorchScript, or is sharded or replicated over devices.
    """
    for path, module in model.named_modules():
        name = path or type(module).__name__
        if _is_compiled(module):
            raise UnsupportedError(
                f"module '{name}' is compiled: torch.compile runs all unpack hooks at the "
                "start of the backward pass, so nothing would be saved (pytorch#148222); compress the model uncompiled"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedError(f"module '{name}' is TorchScript, which hides its layers; compress the Python model")
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise UnsupportedError(
                f"module '{name}' is DataParallel, which runs copies of the model in threads of their own; "
                "use DistributedDataParallel, with a session in each process"
            )
        if type(module).__name__ in ("FullyShardedDataParallel", "FSDPModule") or _is_sharded(module):
            raise UnsupportedError(
                f"module '{name}' has sharded parameters (FSDP), whose gathered copies look like activations; "
                "use DistributedDataParallel"
            )


def refuse_compiled_function(path: str) -> None:
    """Looks whether code that torch.compile made is running, for a function inside a module's forward.

    Raises:
        UnsupportedError: it is.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame is None:
            return
        if _COMPILED_CODE in frame.f_code.co_filename.replace("\\", "/"):
            where = f"module '{path}'" if path else "the model's own forward"
            raise UnsupportedError(
                f"{where} runs a function that torch.compile made: it runs all unpack hooks at the start of "
                "the backward pass, so nothing would be saved (pytorch#148222), and what it saves can't be told apart; "
                "run it uncompiled, or choose sites outside it"
            )
        frame = frame.f_back


def _is_compiled(module: nn.Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo")
    wrapped = dynamo is not None and isinstance(module, dynamo.eval_frame.OptimizedModule)
    return wrapped or getattr(module, "_compiled_call_impl", None) is not None


def _is_sharded(module: nn.Module) -> bool:
    return any(type(p).__name__ == "DTensor" for p in _own_parameters(module))


def _own_parameters(module: nn.Module) -> Iterable[nn.Parameter]:
    return module.parameters(recurse=False)
