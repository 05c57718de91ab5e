"""Held-out metrics while a training is under way, which goes on as if nobody had looked."""

from __future__ import annotations

from compbench.capture import Session
from compbench.measure.step import Step
from compbench.records import Batch, Metric
from compbench.run.training import evaluate
from compbench.run.training_state import random_state, set_random_state
from compbench.suite.cell import Training
from compbench.workloads.model_state import left_as_it_was

POINTS = 20
"""How often held-out metrics are taken over a training, unless that costs too much."""

_LARGEST_SHARE = 0.1
"""Of a training's time, that they may take; a forward pass is taken for a third of a step."""

FEWEST_POINTS = 5
"""However much they cost: a curve of fewer shows nothing."""


def validation_steps(points: int | None, training: Training, examples: int) -> frozenset[int]:
    """The numbers of steps done after which held-out metrics are taken, evenly spread over the training.

    The last step is not among them: it has its metrics in any case.

    Args:
        points: how many of them, the last step included; None: :data:`POINTS`, or fewer where they cost too much, but
            :data:`FEWEST_POINTS` at least.
        training: the settings of the training.
        examples: held-out examples.
    """
    if points is None:
        affordable = 3 * _LARGEST_SHARE * training.steps * training.batch_size / examples
        points = max(FEWEST_POINTS, min(POINTS, int(affordable)))
    return frozenset(training.steps * number // points for number in range(1, points)) - {0, training.steps}


def look(step: Step, session: Session, data: Batch, batch_size: int, extra: list[Metric]) -> dict[str, float]:
    """The metrics of :func:`~compbench.run.training.evaluate` between two steps.

    Random streams and the model's buffers, which a forward pass may change, are put back.
    """
    streams = random_state(step.device)
    with session.paused(), left_as_it_was(step.model):
        metrics = evaluate(step, data, batch_size, extra)
    set_random_state(streams, step.device)
    return metrics
