"""Functions of tensors that run as they are, or as ``torch.compile`` makes them: one pass over memory.

Operator by operator, rows of 8 bits are six passes over memory and as many tensors between them. Compiled, a row is
read once. The functions are the same, so that codes are: bit for bit on the CPU where they come of comparisons,
divisions and roundings alone, and within one code where a sum is among them, which compiled code adds up in another
order.

Compiling took 15 to 25 seconds for the first function of a process, and 1 to 6 for every further one and for every
further dtype; 5 to 10 and less than one where torch had kept on disk what it made for an earlier process. No shape is
compiled into a kernel, so that all sites share it.

Functions run as they are

- where torch compiles nothing, or not what is meant: under dispatch modes (such as a ledger of live bytes, which so
  sees the tensors that are between the operators), under function modes, within another compiled function, and for
  tensors without values or of a class of their own;
- under ``torch.use_deterministic_algorithms``, so that no result depends on whether there is a compiler;
- on matrices of a single row or column, which torch would compile anew for, and on strided ones;
- where compiling failed, for want of a C++ compiler say. That is told once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from compbench.errors import CaptureWarning, one_line

Kernels = Literal["eager", "compiled"]

KERNELS = (
    "compiled: one pass over memory, by torch.compile, which takes 5 to 25 s in each process; eager where it can't be"
)
"""What the option says of itself."""

Result = TypeVar("Result")

_MOST_TOLD = 300


def run(kernels: Kernels, function: Callable[..., Result], *arguments: Any) -> Result:
    """What the function gives for the arguments; compiled where that was asked for and is possible.

    Args:
        kernels: ``eager`` or ``compiled``.
        function: a function of a module, which may change nothing but tensors of its own.
        arguments: matrices, vectors, settings. Each setting that differs is a further kernel.
    """
    if kernels == "eager" or not _can_be_compiled(arguments):
        return function(*arguments)
    result: Result = _compiled(function)(*arguments)
    return result


def _can_be_compiled(arguments: tuple[Any, ...]) -> bool:
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    return (
        all(type(each) is Tensor and each.is_contiguous() and min(each.shape, default=0) > 1 for each in tensors)
        and not torch.compiler.is_compiling()
        and not _get_current_dispatch_mode_stack()
        and not _get_current_function_mode_stack()
        and not torch.are_deterministic_algorithms_enabled()
    )


class _Compiled:
    """One function, compiled at its first call; the function itself once that has failed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._kernel: Callable[..., Any] | None = None
        self._failed = False

    def __call__(self, *arguments: Any) -> Any:
        if not self._failed:
            try:
                if self._kernel is None:
                    self._kernel = torch.compile(self._function, dynamic=True, fullgraph=True)
                # One state of gradients, and nothing that is known to be a view, or there would be kernels for others.
                with torch.no_grad():
                    return self._kernel(*(a.detach() if isinstance(a, Tensor) else a for a in arguments))
            except Exception as error:  # if the fault is not the compiler's the function itself tells of it
                self._failed = True
                _tell(_reason(error))
        return self._function(*arguments)


@cache
def _compiled(function: Callable[..., Any]) -> _Compiled:
    return _Compiled(function)


@cache
def _tell(reason: str) -> None:
    warnings.warn(f"kernels: compiled does not work here, kernels are eager: {reason}", CaptureWarning, stacklevel=2)


def _reason(error: BaseException) -> str:
    """What an error comes to, in the words of the innermost one."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    return one_line(error)[:_MOST_TOLD]
