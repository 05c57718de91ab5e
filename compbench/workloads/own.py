"""A user's own model as a workload: ``workload: {module: mypackage.training:Workload}``.

The class needs no import of compbench. It has ``build``, ``batches``, ``loss`` and ``evaluate``; the parameters of its
constructor are the workload's fields, and ``depth`` among them, if it is, is set by the suite's axis. A subclass of
:class:`compbench.Workload` may be named in the same way.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, get_type_hints

import torch
from pydantic import ConfigDict, Field, create_model
from torch import Tensor, nn

from compbench.errors import CompbenchError, PluginError, SettingsError, nearest, one_line
from compbench.records import Batch
from compbench.workloads.base import Data, Workload
from compbench.workloads.model_state import evaluating, left_as_it_was

METHODS: Mapping[str, str] = {
    "build": "build(self) -> torch.nn.Module",
    "batches": "batches(self, split, seed) -> iterable of dictionaries of tensors; split is 'train' or 'validation'",
    "loss": "loss(self, model, batch) -> scalar tensor",
    "evaluate": "evaluate(self, model, batch) -> dictionary of tensors, one value an example",
}
"""What a class must have."""

_EXAMPLES = 4
"""How many are tried out before the first step."""

_LARGEST_SHARE = 0.25
"""Of the machine's memory, that batches may take before they are joined; what never ends is told so."""

_TENSOR_BYTES = 1024
"""What a tensor takes besides its values, about; it counts where batches are small and many."""

_TAKEN = ("name", "module", "own_class")
"""Names that a suite or the adapter has for itself."""

_made: dict[str, tuple[type, type[Workload]]] = {}


def is_own(name: str) -> bool:
    """Whether a workload's name is that of a class in a module, ``package.module:Class``."""
    return ":" in name


def own_workload(name: str) -> type[Workload]:
    """The workload that a user's class is.

    Args:
        name: ``package.module:Class``; the module may be in the current folder.

    Raises:
        PluginError: the module can't be imported, or its class lacks a method or has fields that can't be.
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
        except (Exception, SystemExit) as error:  # a user's module may raise anything, or be a script that ends
            raise PluginError(
                f"module '{module_name}' of workload '{name}' can't be imported: {one_line(error)}"
            ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise PluginError(f"module '{module_name}' has no class '{class_name}'{nearest(class_name, classes)}")
    if inspect.isabstract(found):
        methods = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise PluginError(f"workload '{name}' is abstract: it leaves out {methods} (allowed: a class with all methods)")
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
    fields = _fields(name, found)
    try:
        made = create_model(
            found.__name__,
            __base__=OwnWorkload,
            __module__=found.__module__,
            __doc__=inspect.getdoc(found),
            **fields,
        )
    except Exception as error:  # of types that are none, or names that no field can have
        raise PluginError(
            f"workload '{name}': its constructor's parameters can't be fields: {one_line(error)}"
        ) from error
    made.name = name
    made.own_class = found
    return made


def _fields(name: str, found: type) -> dict[str, Any]:
    """The constructor's parameters as fields of a pydantic model."""
    constructor: Any = vars(found).get("__init__", getattr(found, "__init__", None))
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(found).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PluginError(f"workload '{name}' has the constructor parameter {parameter} (allowed: named ones)")
        if hasattr(OwnWorkload, parameter.name) or parameter.name in _TAKEN or parameter.name.startswith("_"):
            raise PluginError(f"workload '{name}': its constructor can't have a parameter named {parameter.name}")
        default = ... if parameter.default is parameter.empty else parameter.default
        if parameter.name == "depth":
            default = 1 if default is ... else default
        if isinstance(default, Tensor):
            raise PluginError(
                f"workload '{name}' has a tensor as default of {parameter.name} (allowed: what a suite can write)"
            )
        fields[parameter.name] = (
            _type(constructor, parameter.name),
            Field(default, description="a parameter of the class's constructor"),
        )
    return fields


def _type(constructor: Any, name: str) -> Any:
    """What a parameter is annotated with; anything where that is not there at run time, as for type checkers alone."""
    annotations = getattr(constructor, "__annotations__", {})
    if name not in annotations:
        return Any
    alone = SimpleNamespace(__annotations__={name: annotations[name]})
    try:
        return get_type_hints(alone, globalns=getattr(constructor, "__globals__", {}))[name]
    except Exception:  # evaluating what a user wrote may raise anything
        return Any


class OwnWorkload(Workload):
    """A user's class seen as a workload. Its output is what ``loss`` or ``evaluate`` have given."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    own_class: ClassVar[type]

    @property
    def own(self) -> Any:
        """An instance of the user's class, a new one each time: it must not keep anything.

        Raises:
            PluginError: its constructor has raised something.
        """
        with self._calling("its constructor"):
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
            PluginError: it is no module, or ``build`` has raised something.
        """
        with torch.random.fork_rng(devices=()), self._calling("build"):
            torch.manual_seed(generator.initial_seed())
            model = self.own.build()
        if not isinstance(model, nn.Module):
            raise PluginError(f"workload '{self.name}': build gave {_kind(model)} (expected: a torch.nn.Module)")
        return model

    def data(self, seed: int) -> Data:
        """All batches of both splits, as whole tensors on the CPU, without a graph.

        Raises:
            PluginError: they are none, not alike, more than fits, or ``batches`` has raised something; the message says
                which.
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return Data(*(self._whole(split, seed) for split in ("train", "validation")))

    def _whole(self, split: str, seed: int) -> Batch:
        where = f"workload '{self.name}': batches('{split}', seed)"
        with self._calling("batches", f"('{split}', seed)"):
            batches = self.own.batches(split, seed)
        if not isinstance(batches, Iterable) or isinstance(batches, (Tensor, Mapping, str)):
            raise PluginError(f"{where} gave {_kind(batches)} (expected: an iterable of dictionaries of tensors)")
        gathered: list[Batch] = []
        taken, most = 0, _LARGEST_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with self._calling("batches", f"('{split}', seed)"):
            for number, batch in enumerate(batches):
                checked = _checked(batch, gathered[0] if gathered else None, f"{where}: batch {number}")
                taken += sum(values.nbytes + _TENSOR_BYTES for values in checked.values())
                if taken > most:
                    raise PluginError(
                        f"{where} gave {number + 1:,} batches, more than {most / 1e9:,.1f} GB (expected: an end "
                        "before; they are held in memory, and the training repeats them by itself)"
                    )
                gathered.append(checked)
        whole = {name: torch.cat([batch[name] for batch in gathered]) for name in gathered[0]} if gathered else {}
        if not whole or not len(next(iter(whole.values()))):
            raise PluginError(f"{where} gave no {'example' if whole else 'batch'} (expected: at least one)")
        return whole

    def verify(self, model: nn.Module, data: Data) -> None:
        """Tries loss and metrics on a few examples; the model is as it was afterwards.

        Raises:
            PluginError: one of them gives another shape or raises something, or the loss has no gradient.
        """
        for split, whole in (("train", data.train), ("validation", data.validation)):
            examples = min(_EXAMPLES, len(next(iter(whole.values()))))
            batch = {name: values[:examples].clone() for name, values in whole.items()}
            shapes = ", ".join(f"{name} {tuple(values.shape)} {values.dtype}" for name, values in batch.items())
            with left_as_it_was(model):
                with self._calling("loss", f" of {examples} {split} examples ({shapes})"):
                    loss = self.own.loss(model, _copy(batch))
                if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point() or not loss.requires_grad:
                    raise PluginError(
                        f"workload '{self.name}': loss gave {_kind(loss)} (expected: a scalar tensor with a gradient)"
                    )
                with (
                    torch.no_grad(),
                    evaluating(model),
                    self._calling("evaluate", f" of {examples} {split} examples ({shapes})"),
                ):
                    self._metrics(self.own.evaluate(model, _copy(batch)), examples)

    def _metrics(self, metrics: object, examples: int) -> dict[str, Tensor]:
        """What ``evaluate`` gave, if it is what it should be."""
        where = f"workload '{self.name}': evaluate gave"
        if not isinstance(metrics, Mapping) or not metrics:
            found = "an empty dictionary" if isinstance(metrics, Mapping) else _kind(metrics)
            raise PluginError(f"{where} {found} (expected: a dictionary of tensors by name)")
        for name, values in metrics.items():
            if not isinstance(name, str):
                raise PluginError(f"{where} a metric named {name!r} (expected: a string)")
            if not isinstance(values, Tensor) or values.shape != (examples,) or values.is_complex() or values.is_meta:
                raise PluginError(
                    f"{where} {_kind(values)} for '{name}' and {examples} examples "
                    f"(expected: a tensor of shape ({examples},) of real numbers)"
                )
        return dict(metrics)

    @contextmanager
    def _calling(self, method: str, what: str = "") -> Iterator[None]:
        """Says in which of the user's methods something was raised; running out of memory stays what it is."""
        try:
            yield
        except (CompbenchError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a user's method may raise anything
            if "allocate memory" in str(error):  # the CPU's allocator has no class of its own
                raise
            raise PluginError(f"workload '{self.name}': {method}{what} raised {one_line(error)}") from error

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The user's loss: model and loss are one function here."""
        loss: Tensor = self.own.loss(model, _copy(batch))
        return loss

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """The output, which is the loss."""
        return output

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The user's metrics.

        Raises:
            PluginError: they are not one value an example.
        """
        return self._metrics(self.own.evaluate(model, _copy(batch)), len(next(iter(batch.values()))))

    def metrics(self, output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """What :meth:`predict` gave."""
        return output


def _copy(batch: Batch) -> Batch:
    """Another dictionary of the same tensors: a method that takes one out takes it from nobody else."""
    return dict(batch)


def _checked(batch: object, first: Batch | None, where: str) -> Batch:
    """A batch as tensors on the CPU, if it is one and like the first."""
    if not isinstance(batch, Mapping) or not batch or not all(isinstance(v, Tensor) for v in batch.values()):
        pairs = batch.items() if isinstance(batch, Mapping) else ()
        others = [f"{_kind(values)} for {name!r}" for name, values in pairs if not isinstance(values, Tensor)]
        found = f"a dictionary with {', '.join(others) or 'nothing'}" if isinstance(batch, Mapping) else _kind(batch)
        raise PluginError(f"{where} is {found} (expected: a dictionary of tensors)")
    for name, values in batch.items():
        if values.layout != torch.strided or values.is_meta or values.is_nested:
            form = "without values" if values.is_meta else f"of layout {values.layout}"
            raise PluginError(f"{where} has a tensor {form} for '{name}' (expected: dense tensors with values)")
    sizes = {name: tuple(values.shape) for name, values in batch.items()}
    if len({shape[:1] for shape in sizes.values()}) > 1 or any(not shape for shape in sizes.values()):
        raise PluginError(f"{where} has shapes {sizes} (expected: the same first dimension)")
    if first is not None:
        if {n: s[1:] for n, s in sizes.items()} != {n: v.shape[1:] for n, v in first.items()}:
            raise PluginError(
                f"{where} has shapes {sizes}, and batch 0 { {n: tuple(v.shape) for n, v in first.items()} } "
                "(expected: alike)"
            )
        for name, values in batch.items():
            if values.dtype != first[name].dtype:
                raise PluginError(
                    f"{where} has {values.dtype} for '{name}', and batch 0 {first[name].dtype} (expected: alike)"
                )
    return {name: values.detach().cpu() for name, values in batch.items()}


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        gradient = "" if value.requires_grad else ", without a gradient"
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}{gradient}"
    return f"{type(value).__name__}"
