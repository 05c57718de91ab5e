"""Which metrics a workload has, found without training: a few held-out examples go through a new model."""

from __future__ import annotations

import torch

from compbench.measure.step import Step
from compbench.seeds import generator, stream
from compbench.workloads.base import Workload

_EXAMPLES = 2


def metric_names(workload: Workload, seed: int = 0) -> tuple[str, ...] | None:
    """The names of a workload's own metrics, in its order; None where it can't be run here.

    Its data and its model are made as for a cell of this seed, on the CPU, so that it takes as long as that does.
    """
    try:
        data = workload.data(stream(seed, "data"))
        model = workload.build(generator(seed, "initialisation"))
        step = Step(workload, model, torch.device("cpu"))
        batch = step.batch(data.validation, slice(_EXAMPLES))
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            return tuple(workload.metrics(step.prediction(batch), batch))
    except Exception:  # whatever is wrong with it, its cells will say
        return None
