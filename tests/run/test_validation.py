"""Held-out metrics over training: taken when said, and a training that does not notice."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.measure.step import Step
from compbench.records import Metric
from compbench.registry import Registry
from compbench.run.cell import run_cell
from compbench.run.training import evaluate
from compbench.run.validation import look, validation_steps
from compbench.seeds import generator
from compbench.suite.cell import Cell, Measuring, PluginReference, Training
from compbench.workloads.trm_maze import TRMMaze

WORKLOAD = {"grid": 7, "hidden": 32, "heads": 2, "inner": 96, "train_mazes": 64, "validation_mazes": 16}


def cell(points: int | None, *strategy: str) -> Cell:
    return Cell(
        suite="test",
        arm="arm",
        depth=3,
        seed=1,
        workload=PluginReference(name="trm_maze", fields=WORKLOAD),
        strategy=tuple(PluginReference(name=name) for name in strategy),
        training=Training(steps=9, batch_size=8, learning_rate=3e-3, warmup_steps=2),
        measuring=Measuring(time_pairs=0, memory=False, flops=False, gradient_cosine=False, validation_points=points),
    )


def test_points_are_spread_evenly_and_the_last_step_is_left_to_the_end() -> None:
    training = Training(steps=100, batch_size=64)
    assert validation_steps(4, training, 1000) == {25, 50, 75}
    assert validation_steps(1, training, 1000) == validation_steps(0, training, 1000) == frozenset()
    assert validation_steps(1000, training, 1000) == set(range(1, 100))
    assert validation_steps(None, training, 10) == set(range(5, 100, 5))


@pytest.mark.parametrize(("steps", "batch_size", "examples"), [(1200, 64, 1000), (600, 16, 300), (200, 8, 70)])
def test_by_default_they_take_no_more_than_a_tenth_of_the_training(steps: int, batch_size: int, examples: int) -> None:
    found = validation_steps(None, Training(steps=steps, batch_size=batch_size), examples)
    passes_of_training, passes_of_looking = 3 * steps * batch_size, len(found) * examples
    assert 4 <= len(found) <= 19
    assert passes_of_looking <= 0.1 * passes_of_training


def test_by_default_there_are_five_points_however_much_they_cost() -> None:
    assert validation_steps(None, Training(steps=20, batch_size=32), 128) == {4, 8, 12, 16}
    assert validation_steps(None, Training(steps=3, batch_size=32), 5000) == {1, 2}


@pytest.mark.parametrize("strategy", [("none",), ("laser",), ("checkpoint", "int8"), ("recompute",), ("offload",)])
def test_a_training_that_is_looked_at_is_the_same_bit_for_bit(strategy: tuple[str, ...]) -> None:
    alone, looked_at = run_cell(cell(0, *strategy)), run_cell(cell(3, *strategy))
    assert (alone.status, alone.reason) == (looked_at.status, looked_at.reason) == ("ok", "")
    assert looked_at.loss_curve == alone.loss_curve
    assert looked_at.metrics == alone.metrics
    assert looked_at.statistics == alone.statistics
    assert alone.validation_curve == []
    assert [point["step"] for point in looked_at.validation_curve] == [3, 6, 9]
    assert looked_at.validation_curve[-1] == {"step": 9, **looked_at.metrics}
    assert looked_at.validation_curve[0]["token_accuracy"] != looked_at.metrics["token_accuracy"]


def test_the_points_are_the_metrics_of_a_training_that_ends_there() -> None:
    # The learning rate of a step depends on how many there are, so that the shorter training is the longer one's start
    # only where it is constant: warm-up without end.
    def at(steps: int, points: int) -> Cell:
        training = Training(steps=steps, batch_size=8, learning_rate=3e-3, warmup_steps=1000)
        return cell(points, "none").model_copy(update={"training": training})

    whole, half = run_cell(at(8, 2)), run_cell(at(4, 1))
    assert whole.validation_curve[0] == {"step": 4, **half.metrics}


def test_a_look_puts_random_streams_and_buffers_back() -> None:
    workload = TRMMaze(**WORKLOAD).at_depth(3)
    model = workload.build(generator(0, "initialisation"))
    model.register_buffer("seen", torch.zeros(1))

    def draws(workload: object, output: torch.Tensor, batch: object) -> torch.Tensor:
        model.seen.add_(1)
        random.random()
        return torch.rand(len(output)) + np.random.rand()

    step, validation = Step(workload, model, torch.device("cpu")), workload.data(0).validation
    session = Session(model, Registry.load().compressor("none"), CaptureSettings())
    metric = Metric("draws", draws)

    def streams() -> list[object]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]

    with session:
        before = streams()
        found = look(step, session, validation, 8, [metric])
        assert streams() == before
    assert model.seen.item() == 0
    evaluate(step, validation, 8, [metric])
    assert model.seen.item() == 2, "the metric would have changed it"
    assert set(found) == {"token_accuracy", "solved", "draws"}
