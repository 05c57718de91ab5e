"""The step of a cell's training on the CPU, made without preparing the training: for listing sites and for plans."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from compbench.measure.step import Step
from compbench.records import Batch
from compbench.registry import Registry
from compbench.run.lean import NoMemory
from compbench.run.training import example_order
from compbench.seeds import generator, stream
from compbench.suite.cell import Cell
from compbench.workloads.base import Data

_CPU = torch.device("cpu")


class StepMaker:
    """Makes models with batches; cells that train the same share what was made last, and all depths the data.

    Args:
        registry: where workloads are looked up.
        values: whether the models need values; without any, a model of whatever size takes no memory.
    """

    def __init__(self, registry: Registry, values: bool = False) -> None:
        self._registry = registry
        self._values = values
        self._step_key = ""
        self._step: tuple[Step, Batch] | None = None
        self._data_key = ""
        self._data: Data | None = None

    def step(self, cell: Cell, batch_size: int | None = None) -> tuple[Step, Batch]:
        """The model of a cell, with the batch of its first training step.

        Args:
            cell: the cell.
            batch_size: examples of the batch, in the place of the training's; more than there are come again.

        Raises:
            SettingsError: the cell could not be trained either.
        """
        parts = cell.workload.model_dump_json(), cell.training.model_dump_json()
        key = "\n".join([str(cell.depth), str(cell.seed), str(batch_size), *parts])
        if self._step is None or key != self._step_key:
            workload = self._registry.workload(cell.workload.name, **cell.workload.fields).at_depth(cell.depth)
            data_key = f"{cell.seed}\n{parts[0]}"
            if self._data is None or data_key != self._data_key:
                self._data, self._data_key = workload.data(stream(cell.seed, "data")), data_key
            once = cell.training.model_copy(update={"steps": 1})
            examples = len(next(iter(self._data.train.values())))
            if batch_size is None:
                (rows,) = example_order(examples, once, cell.seed)
            else:
                rows = torch.arange(batch_size) % examples
            with nullcontext() if self._values else NoMemory():
                model = workload.build(generator(cell.seed, "initialisation"))
            step = Step(workload, model, _CPU, once.precision)
            self._step, self._step_key = (step, step.batch(self._data.train, rows)), key
        return self._step
