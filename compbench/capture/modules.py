"""Which module of a model is running: the path that gives a site its name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from compbench.capture.steps import Steps


class ModuleTracker:
    """Follows the forward pass of one model, module by module.

    Hooks are registered for all modules of the process, and modules looked up by identity, so that the model itself is
    not touched: a deep copy of it, made for an exponential moving average say, carries nothing of the session.

    Args:
        model: the model.
        steps: told when the model begins a forward pass with gradients.
        elsewhere: called with a module and its path when that begins one in another thread than the session's.
    """

    def __init__(self, model: nn.Module, steps: Steps, elsewhere: Callable[[nn.Module, str], None]) -> None:
        # With the modules themselves: the identity of one that was replaced may be given to another.
        self._modules = list(model.modules())
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._tags = {path: _tag(path, module) for path, module in model.named_modules()}
        self.convolutional = any(isinstance(module, _ConvNd) for module in model.modules())
        self.stack: list[tuple[int, str]] = []  # what runs, innermost last: identity and path
        self._handles: list[RemovableHandle] = []
        self._counts: list[dict[str, int]] = []
        self._steps = steps
        self._elsewhere = elsewhere
        self._thread = threading.get_ident()
        self.entering: Callable[[str, Any], None] | None = None  # called with path and arguments before a module runs

    def has(self, module: nn.Module) -> bool:
        """Whether a module is the model or part of it."""
        return id(module) in self._paths

    @property
    def path(self) -> str:
        """Path of the innermost module that is running; the empty string is the model itself."""
        return self.stack[-1][1]

    @property
    def tag(self) -> str:
        """The innermost running module in one word: its name, or that of the block that it is a layer of."""
        return self._tags[self.path]

    def count(self, role: str) -> int:
        """How often this was called with ``role`` before in the current call of the innermost module."""
        counts = self._counts[-1]
        counts[role] = counts.get(role, 0) + 1
        return counts[role] - 1

    def start(self) -> None:
        """Begins to follow the model, in this thread."""
        self._thread = threading.get_ident()
        self._register()

    def _register(self) -> None:
        self._handles = [
            register_module_forward_pre_hook(self._entered),
            register_module_forward_hook(self._left, always_call=True),
        ]

    def _unregister(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _entered(self, module: nn.Module, arguments: Any) -> None:
        path = self._paths.get(id(module))
        if path is None:
            return
        if not self._here():
            if torch.is_grad_enabled():
                self._elsewhere(module, path)
            return
        if not self.stack and torch.is_grad_enabled():
            self._steps.ran = True
        if self.entering is not None and torch.is_grad_enabled():
            self.entering(path, arguments)
        self.stack.append((id(module), path))
        self._counts.append({})

    def _left(self, module: nn.Module, arguments: Any, output: Any) -> None:
        # A module whose forward never began, since another hook raised, is not on the stack.
        if self.stack and self.stack[-1][0] == id(module) and self._here():
            self.stack.pop()
            self._counts.pop()

    def _here(self) -> bool:
        """Whether this thread is the session's, or one of autograd's, which recompute what was checkpointed."""
        return threading.get_ident() == self._thread or torch._C._current_graph_task_id() != -1

    def stop(self) -> None:
        """Ends following the model."""
        self._unregister()
        self.reset()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Modules run without being followed; what they do counts as done by the one that is running."""
        self._unregister()
        try:
            yield
        finally:
            self._register()

    def reset(self) -> None:
        """Forgets a forward pass that an interrupt has cut off: torch calls no hooks for it."""
        self.stack.clear()
        self._counts.clear()


def _tag(path: str, module: nn.Module) -> str:
    names = path.split(".")
    if len(names) > 1 and not any(True for _ in module.children()):
        names.pop()  # a layer, such as a Linear, is known by the block that it is part of
    readable = [name for name in names if name and not name.isdigit()]
    return readable[-1] if readable else type(module).__name__.lower()
