"""A cell before its first step, and what an exception that has ended it says of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compbench.capture import Session
from compbench.errors import CompbenchError, PluginError, SettingsError, UnsupportedError
from compbench.measure.step import Step
from compbench.registry import Reference, Registry
from compbench.run.averaging import WeightAverage
from compbench.run.carrying import Carried
from compbench.run.exhaustion import out_of_memory
from compbench.run.lean import PlainMeta
from compbench.run.optimizers import make_optimizer
from compbench.run.result import Status
from compbench.run.training import DivergedError, Record, example_order, train
from compbench.seeds import generator, stream
from compbench.suite.cell import Cell, PluginReference, Training
from compbench.workloads.abilities import FromFiles, Verifying
from compbench.workloads.base import Data
from compbench.workloads.trying import try_transformers


def ended_by(error: Exception) -> tuple[Status, str]:
    """The status of a cell that an exception has ended, and the reason; what needs looking into goes to the log."""
    match error:
        case UnsupportedError():
            return "unsupported", str(error)
        case DivergedError():
            return "diverged", str(error)
    evidence = out_of_memory(error)
    traceback.print_exception(error)
    if evidence is not None:
        line = _one_line(error)
        return "oom", line if line.startswith(evidence) else f"{line} ({evidence})"
    return "failed", str(error) if isinstance(error, CompbenchError) else _one_line(error)


@dataclass
class Prepared:
    """A cell before its first step: the model with its data, and the strategy's session, which is not open yet.

    Attributes:
        order: the training examples of every step, ``(steps, batch_size)``.
        sources: hashes of the files that define strategy and workload.
        settings: how it is trained.
        carried: what one training step hands on to the next; None: nothing.
        average: the moving average of the weights; None: there is none.
    """

    registry: Registry
    step: Step
    session: Session
    data: Data
    order: Tensor
    optimizer: torch.optim.Optimizer
    sources: dict[str, str]
    settings: Training
    carried: Carried | None
    average: WeightAverage | None

    def train(self, record: Record, after: Callable[[int], None], order: Tensor | None = None) -> None:
        """Trains the model, the session being open, with all that belongs to its training; see :func:`train`.

        Args:
            record: where the loss curve goes.
            after: called after each step with the number of steps done.
            order: the examples of the steps, where not all of them are trained.

        Raises:
            DivergedError: a loss that is not finite.
        """
        train(
            self.step,
            self.session,
            self.data.train,
            self.order if order is None else order,
            self.optimizer,
            self.settings,
            record,
            after,
            self.carried,
            self.average,
        )


def prepare(cell: Cell) -> Prepared:
    """Makes what a cell trains, from its seed alone; draws on torch's global random stream, which it seeds.

    Raises:
        PluginError: a plugin is not the one that the suite was validated with, or can't be loaded.
        SettingsError: the device or the optimiser's package is not there, a batch is larger than the training set, a
            model sees what it is to predict, or a pretrained one lacks weights.
    """
    registry = Registry.load(Path(cell.plugins_dir) if cell.plugins_dir else None)
    workload = registry.workload(cell.workload.name, **cell.workload.fields).at_depth(cell.depth)
    compressor = registry.compressor([{member.name: member.fields} for member in cell.strategy])
    _check_source("workload", cell.workload, *registry.reference(workload))
    for reference, found in zip(cell.strategy, registry.reference(compressor), strict=True):
        _check_source("strategy", reference, found)

    device = torch.device(cell.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device '{cell.device}' is not there (available: cpu)")
    torch.manual_seed(stream(cell.seed, "global"))
    data = workload.data(stream(cell.seed, "data"))
    with PlainMeta():
        model = workload.build(generator(cell.seed, "initialisation"))
    if isinstance(workload, Verifying):
        with torch.random.fork_rng(devices=()):
            workload.verify(model, data)
    try_transformers(workload, model, data)
    step = Step(workload, model.to(device), device, cell.training.precision)
    order = example_order(len(next(iter(data.train.values()))), cell.training, cell.seed)
    session = Session(model, compressor, cell.capture, cell.seed)
    sources = registry.sources(workload) | registry.sources(compressor)
    if isinstance(workload, FromFiles):
        sources |= workload.data_files()
    return Prepared(
        registry,
        step,
        session,
        data,
        order,
        make_optimizer(model, cell.training),
        sources,
        cell.training,
        Carried.of(step),
        None if cell.training.ema is None else WeightAverage(model, cell.training.ema),
    )


def _check_source(kind: str, reference: PluginReference, found: Reference) -> None:
    """The plugin must be the one that the suite was validated with: its source is part of the cell's identity."""
    if reference.source and found.source != reference.source:
        raise PluginError(f"{kind} '{reference.name}' has changed since the run began; run again")


def _one_line(error: BaseException) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
