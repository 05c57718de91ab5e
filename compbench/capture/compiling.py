"""A module's forward as one graph, compiled by torch, while sessions and ledgers look on.

``torch.compile`` traces whatever runs: also a session's hooks on modules and its function mode, which are no part of
the model. And it compiles nothing at all under a dispatch mode, such as a ledger of live bytes. So the first are set
aside while a compiled module is called, and the second up to the graph itself, whose operators they see like any other.
What a graph saves for its backward pass comes to the session's saved-tensor hooks, as everywhere.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch._guards import active_fake_mode
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from compbench.capture.operators import OperatorTracker
from compbench.capture.session import modules_unfollowed
from compbench.errors import CompbenchError, UnsupportedError

Backend = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]
"""What makes a function of a graph and examples of what it takes, as ``torch.compile`` has it."""

_MISSING = object()
_MOST_TOLD = 300


class Compiled:
    """Runs the forward of one module as one graph.

    Graphs are made when they are needed, and made anew where shapes, types or the module's own attributes differ.
    They hold nothing of the module, and no other ``Compiled`` uses them.

    Args:
        backend: what makes a function of a graph.
        name: the module's path, for messages.

    Raises:
        UnsupportedError: torch can't compile here, on this Python say.
    """

    def __init__(self, backend: Backend, name: str) -> None:
        self._backend = backend
        self._name = name
        self._ran = False
        self._aside: list[TorchDispatchMode] = []
        # Torch keeps graphs with the code that they are made of, and what it learns of shapes under the code's name.
        # Code and a name of its own: graphs of its own.
        code = _call.__code__.replace(co_name=f"compiled_{secrets.token_hex(8)}")
        try:
            self._run = torch.compile(FunctionType(code, globals()), backend=self._made, fullgraph=True)
        except RuntimeError as error:
            raise UnsupportedError(f"torch.compile does not run here: {error}") from error

    @contextmanager
    def runs(self, module: nn.Module) -> Iterator[None]:
        """The module's forward is the compiled one, wherever gradients are wanted.

        It is put where torch has a compiled module's call, which deep copies and pickles of the module leave out.

        Raises:
            UnsupportedError: the module is compiled already.
        """
        if module._compiled_call_impl is not None:
            raise UnsupportedError(f"{self._named} is compiled already; compress it uncompiled")

        def call(*arguments: Any, **keywords: Any) -> Any:
            # The hooks on the module itself run as ever; only the forward that they enclose is another one.
            own = vars(module).get("forward", _MISSING)
            forward = module.forward

            def compiled(*arguments: Any, **keywords: Any) -> Any:
                restore()
                return self(forward, *arguments, **keywords)

            def restore() -> None:
                if vars(module).get("forward") is compiled:
                    if own is _MISSING:
                        del vars(module)["forward"]
                    else:
                        vars(module)["forward"] = own

            vars(module)["forward"] = compiled
            try:
                return module._call_impl(*arguments, **keywords)
            finally:
                restore()

        held = vars(module).get("_compiled_call_impl", _MISSING)
        vars(module)["_compiled_call_impl"] = call
        try:
            yield
        finally:
            if held is _MISSING:
                del vars(module)["_compiled_call_impl"]
            else:
                vars(module)["_compiled_call_impl"] = held

    def __call__(self, forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Calls a module's forward; as it is where there are no gradients, or tensors without values.

        Raises:
            UnsupportedError: it can't be compiled, or not as one graph.
        """
        if not torch.is_grad_enabled() or active_fake_mode() is not None:
            return forward(*arguments, **keywords)
        self._ran = False
        try:
            with modules_unfollowed(), _operators_unseen(), self._no_dispatch_modes():
                output = self._run(forward, *arguments, **keywords)
        except Exception as error:
            if self._ran:  # the graph's own failure, as the module's would be
                raise
            with torch.no_grad():
                forward(*arguments, **keywords)  # if the module can't run at all, that is what to tell
            raise UnsupportedError(self._told(error)) from error
        if not self._ran:
            raise UnsupportedError(f"{self._named} can't be compiled: torch made no graph of it")
        return output

    @property
    def _named(self) -> str:
        return f"module '{self._name}'" if self._name else "the model"

    def _made(self, graph: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        """The backend's function, to which dispatch modes are put back."""
        function = self._backend(graph, examples)

        def run(*arguments: Any) -> Any:
            self._ran = True
            with ExitStack() as stack:
                for mode in self._aside:
                    stack.callback(TorchDispatchMode.__exit__, mode, None, None, None)
                    TorchDispatchMode.__enter__(mode)
                return function(*arguments)

        return torch.compiler.disable(run)  # type: ignore[no-any-return]

    @contextmanager
    def _no_dispatch_modes(self) -> Iterator[None]:
        """No dispatch mode is active; the graph finds them in ``_aside``.

        They are left and entered as torch does it, whatever their classes do beside that when they are.
        """
        outer, self._aside = self._aside, _get_current_dispatch_mode_stack()
        with ExitStack() as stack:
            for mode in reversed(self._aside):
                TorchDispatchMode.__exit__(mode, None, None, None)
                stack.callback(TorchDispatchMode.__enter__, mode)
            try:
                yield
            finally:
                self._aside = outer

    def _told(self, error: BaseException) -> str:
        """Why the module can't be compiled, in one line."""
        causes = [error]
        while (inner := getattr(causes[-1], "inner_exception", None) or causes[-1].__cause__) is not None:
            causes.append(inner)
        own = next((cause for cause in causes if isinstance(cause, CompbenchError)), None)
        return f"{self._named} can't be compiled as one graph: {_reason(str(error)) if own is None else own}"


def _call(forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    return forward(*arguments, **keywords)


def _reason(text: str) -> str:
    """What torch's account of a failure comes to: what happened, why, and in which line of the model."""
    lines = [line.strip() for line in text.strip().splitlines()]
    explained = next((line for line in lines if line.startswith("Explanation: ")), "").removeprefix("Explanation: ")
    what = " ".join(filter(None, [lines[0] if lines else "", explained and f"({explained})"]))[:_MOST_TOLD]
    places = [place for place in re.findall(r'File "(.+)", line (\d+)', text) if place[0] != __file__]
    return f"{what} at {places[-1][0]}:{places[-1][1]}" if places else what


@contextmanager
def _operators_unseen() -> Iterator[None]:
    """The function modes of sessions are set aside; others, such as a default device, belong to the model."""
    modes = _get_current_function_mode_stack()
    others = [mode for mode in modes if not isinstance(mode, OperatorTracker)]
    _replace_function_modes(others)
    try:
        yield
    finally:
        _replace_function_modes(modes)


def _replace_function_modes(modes: Sequence[Any]) -> None:
    for _ in _get_current_function_mode_stack():
        _pop_mode()
    for mode in modes:
        _push_mode(mode)
