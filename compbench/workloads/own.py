"""A user's own model as a workload: ``workload: {module: mypackage.training:Workload}``.

The class needs no import of compbench. It has ``build``, ``batches``, ``loss`` and ``evaluate``; the parameters of its
constructor are the workload's fields, and ``depth`` among them, if it is, is set by the suite's axis. A subclass of
:class:`compbench.Workload` may be named in the same way.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import torch
from pydantic import ConfigDict, Field, create_model
from torch import Tensor, nn

from compbench.errors import PluginError, SettingsError, nearest, one_line
from compbench.records import Batch
from compbench.workloads.base import Data, Workload

METHODS: Mapping[str, str] = {
    "build": "build(self) -> torch.nn.Module",
    "batches": "batches(self, split, seed) -> iterable of dictionaries of tensors; split is 'train' or 'validation'",
    "loss": "loss(self, model, batch) -> scalar tensor",
    "evaluate": "evaluate(self, model, batch) -> dictionary of tensors, one value an example",
}
"""What a class must have."""

_EXAMPLES = 4
"""How many are tried out before the first step."""

_made: dict[str, tuple[type, type[Workload]]] = {}


def is_own(name: str) -> bool:
    """Whether a workload's name is that of a class in a module, ``package.module:Class``."""
    return ":" in name


def own_workload(name: str) -> type[Workload]:
    """The workload that a user's class is.

    Args:
        name: ``package.module:Class``; the module may be in the current folder.

    Raises:
        PluginError: the module can't be imported, or its class lacks a method.
        SettingsError: the name has another form.
    """
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), class_name]):
        raise SettingsError(f"module '{name}' has no such form (allowed: package.module:Class)")
    found = _class(name, module_name, class_name)
    known = _made.get(name)
    if known is not None and known[0] is found:
        return known[1]
    made = _subclass(name, found) if issubclass(found, Workload) else _adapter(name, found)
    _made[name] = found, made
    return made


def _class(name: str, module_name: str, class_name: str) -> type:
    with _current_folder_last():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # a user's module may raise anything
            raise PluginError(
                f"module '{module_name}' of workload '{name}' can't be imported: {one_line(error)}"
            ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise PluginError(f"module '{module_name}' has no class '{class_name}'{nearest(class_name, classes)}")
    return found


@contextmanager
def _current_folder_last() -> Iterator[None]:
    """The current folder is looked in for modules, after all others: a file of the user's shadows nothing."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(folder)
        sys.path.reverse()


def _subclass(name: str, found: type[Workload]) -> type[Workload]:
    """The same workload under the name by which it is found again."""
    made = create_model(found.__name__, __base__=found, __module__=found.__module__, __doc__=found.__doc__)
    made.name = name
    return made


def _adapter(name: str, found: type) -> type[Workload]:
    missing = [text for method, text in METHODS.items() if not callable(getattr(found, method, None))]
    if missing:
        raise PluginError(f"workload '{name}' lacks {'; '.join(missing)}")
    made = create_model(
        found.__name__,
        __base__=OwnWorkload,
        __module__=found.__module__,
        __doc__=inspect.getdoc(found),
        **_fields(name, found),
    )
    made.name = name
    made.own_class = found
    return made


def _fields(name: str, found: type) -> dict[str, Any]:
    """The constructor's parameters as fields of a pydantic model."""
    constructor: Any = vars(found).get("__init__", getattr(found, "__init__", None))
    hints = {} if constructor is object.__init__ else get_type_hints(constructor)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(found).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PluginError(f"workload '{name}' has the constructor parameter {parameter} (allowed: named ones)")
        if hasattr(OwnWorkload, parameter.name):
            raise PluginError(f"workload '{name}': its constructor can't have a parameter named {parameter.name}")
        default = ... if parameter.default is parameter.empty else parameter.default
        if parameter.name == "depth":
            default = 1 if default is ... else default
        fields[parameter.name] = (
            hints.get(parameter.name, Any),
            Field(default, description="a parameter of the class's constructor"),
        )
    return fields


class OwnWorkload(Workload):
    """A user's class seen as a workload. Its output is what ``loss`` or ``evaluate`` have given."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    own_class: ClassVar[type]

    @property
    def own(self) -> Any:
        """An instance of the user's class, a new one each time: it must not keep anything."""
        return self.own_class(**{field: getattr(self, field) for field in type(self).model_fields})

    def at_depth(self, depth: int) -> Self:
        """The same with ``depth`` for its constructor.

        Raises:
            SettingsError: the constructor takes none, and it is not 1.
        """
        if "depth" in type(self).model_fields:
            return self.model_copy(update={"depth": depth})
        if depth != 1:
            raise SettingsError(f"workload '{self.name}' takes no depth in its constructor (allowed: depth 1)")
        return self

    def build(self, generator: torch.Generator) -> nn.Module:
        """The user's model; what it draws from torch's global stream is seeded by ``generator``.

        Raises:
            PluginError: it is no module.
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(generator.initial_seed())
            model = self.own.build()
        if not isinstance(model, nn.Module):
            raise PluginError(f"workload '{self.name}': build gave {_kind(model)} (expected: a torch.nn.Module)")
        return model

    def data(self, seed: int) -> Data:
        """All batches of both splits, as whole tensors.

        Raises:
            PluginError: they are none, or not alike; the message says which.
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return Data(*(self._whole(split, self.own.batches(split, seed)) for split in ("train", "validation")))

    def _whole(self, split: str, batches: Iterable[Batch]) -> Batch:
        where = f"workload '{self.name}': batches('{split}', seed)"
        if not isinstance(batches, Iterable) or isinstance(batches, (Tensor, Mapping, str)):
            raise PluginError(f"{where} gave {_kind(batches)} (expected: an iterable of dictionaries of tensors)")
        gathered: list[Batch] = []
        for number, batch in enumerate(batches):
            if not isinstance(batch, Mapping) or not batch or not all(isinstance(v, Tensor) for v in batch.values()):
                found = _kind(batch) if not isinstance(batch, Mapping) else f"a dictionary of {_kinds(batch.values())}"
                raise PluginError(f"{where}: batch {number} is {found} (expected: a dictionary of tensors)")
            sizes = {name: tuple(values.shape) for name, values in batch.items()}
            if len({shape[:1] for shape in sizes.values()}) > 1 or any(not shape for shape in sizes.values()):
                raise PluginError(f"{where}: batch {number} has shapes {sizes} (expected: the same first dimension)")
            if gathered and {n: s[1:] for n, s in sizes.items()} != {n: v.shape[1:] for n, v in gathered[0].items()}:
                first = {name: tuple(values.shape) for name, values in gathered[0].items()}
                raise PluginError(f"{where}: batch {number} has shapes {sizes}, and batch 0 {first} (expected: alike)")
            gathered.append(dict(batch))
        if not gathered:
            raise PluginError(f"{where} gave no batch (expected: at least one)")
        return {name: torch.cat([batch[name] for batch in gathered]) for name in gathered[0]}

    def verify(self, model: nn.Module, data: Data) -> None:
        """Tries loss and metrics on a few examples.

        Raises:
            PluginError: one of them gives another shape, or the loss has no gradient.
        """
        for split in (data.train, data.validation):
            examples = min(_EXAMPLES, len(next(iter(split.values()))))
            batch = {name: values[:examples].clone() for name, values in split.items()}
            loss = self.own.loss(model, batch)
            if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point() or not loss.requires_grad:
                raise PluginError(
                    f"workload '{self.name}': loss gave {_kind(loss)} (expected: a scalar tensor with a gradient)"
                )
            with torch.no_grad():
                metrics = self.own.evaluate(model, batch)
            if not isinstance(metrics, Mapping) or not metrics:
                raise PluginError(f"workload '{self.name}': evaluate gave {_kind(metrics)} (expected: a dictionary)")
            for name, values in metrics.items():
                if not isinstance(values, Tensor) or values.shape != (examples,):
                    raise PluginError(
                        f"workload '{self.name}': evaluate gave {_kind(values)} for '{name}' and {examples} examples "
                        f"(expected: a tensor of shape ({examples},))"
                    )

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The user's loss: model and loss are one function here."""
        loss: Tensor = self.own.loss(model, batch)
        return loss

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """The output, which is the loss."""
        return output

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The user's metrics."""
        return dict(self.own.evaluate(model, batch))

    def metrics(self, output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """What :meth:`predict` gave."""
        return output


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        gradient = "" if value.requires_grad else ", without a gradient"
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}{gradient}"
    return f"{type(value).__name__}"


def _kinds(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(_kind(value) for value in values)) or "nothing"
