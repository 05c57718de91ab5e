"""The training loop: order, schedule and what it leaves behind."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext

import pytest
import torch

from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.errors import SettingsError
from compbench.measure.step import Step
from compbench.registry import Registry
from compbench.run.optimizers import make_optimizer
from compbench.run.training import (
    Record,
    evaluate,
    example_order,
    learning_rate_factor,
    train,
    weights_hash,
)
from compbench.seeds import generator
from compbench.suite.cell import Training
from compbench.workloads.trm_maze import TRMMaze

SMALL = TRMMaze(grid=7, hidden=32, heads=2, inner=96, train_mazes=64, validation_mazes=32).at_depth(3)


def test_every_epoch_has_every_example_at_most_once_in_a_new_order() -> None:
    order = example_order(50, Training(steps=12, batch_size=8), seed=3)
    assert order.shape == (12, 8)
    first, second = order[:6].flatten().tolist(), order[6:].flatten().tolist()
    assert len(set(first)) == len(set(second)) == 48
    assert first != second
    assert torch.equal(order, example_order(50, Training(steps=12, batch_size=8), seed=3))
    assert not torch.equal(order, example_order(50, Training(steps=12, batch_size=8), seed=4))


def test_a_batch_larger_than_the_training_set_is_an_error() -> None:
    with pytest.raises(SettingsError, match="batch_size is 65, but there are only 64"):
        example_order(64, Training(batch_size=65), seed=0)


def test_learning_rate_warms_up_linearly_and_falls_as_a_cosine_to_zero() -> None:
    factors = [learning_rate_factor(step, 10, 110) for step in range(111)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))


def run(strategy: object, steps: int = 20, precision: str = "fp32") -> tuple[list[float], str, torch.Tensor]:
    """Losses, the final weights' hash and the global random stream after a training."""
    torch.manual_seed(9)
    settings = Training(steps=steps, batch_size=8, learning_rate=3e-3, warmup_steps=4, precision=precision)
    data = SMALL.data(0)
    model = SMALL.build(generator(0, "initialisation"))
    step = Step(SMALL, model, torch.device("cpu"), precision)
    session = None if strategy is None else Session(model, strategy, CaptureSettings())
    record = Record()
    order = example_order(64, settings, 0)
    optimizer = make_optimizer(model, settings)
    with session or nullcontext():
        train(step, session, data.train, order, optimizer, settings, record, lambda done: None)
    return record.loss_curve, weights_hash(model), torch.get_rng_state()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["none", "identity"])
def test_uncompressed_strategies_are_bit_identical_to_no_session_over_20_steps(name: str, precision: str) -> None:
    plain = run(None, precision=precision)
    under = run(Registry.load().compressor(name), precision=precision)
    assert under[0] == plain[0]
    assert under[1] == plain[1]
    assert torch.equal(under[2], plain[2])


def test_a_lossy_strategy_trains_otherwise_and_leaves_the_global_stream_alone() -> None:
    plain = run(None)
    under = run(Registry.load().compressor({"int8": {"stochastic": True}}))
    assert under[1] != plain[1]
    assert torch.equal(under[2], plain[2])


def test_training_lowers_the_loss_and_ends_with_a_rate_of_zero() -> None:
    losses = run(None, steps=40)[0]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_rank_and_fidelity_of_each_site_are_kept_as_long_as_it_is_compressed() -> None:
    settings = Training(steps=56, batch_size=8, learning_rate=3e-3, warmup_steps=4)
    model = SMALL.build(generator(0, "initialisation"))
    strategy = Registry.load().compressor("laser", rank=4, max_rank=16, fidelity=1.0, patience=2)
    session = Session(model, strategy, CaptureSettings())
    record, seen = Record(), {}
    order = example_order(64, settings, 0)

    def note(done: int) -> None:
        seen[done] = {site.name: dict(site.statistics) for site in session.sites() if "rank" in site.statistics}

    with session:
        step = Step(SMALL, model, torch.device("cpu"))
        train(step, session, SMALL.data(0).train, order, make_optimizer(model, settings), settings, record, note)
    points = [*range(1, 57, 2), 56]
    assert set(record.sites) == set(seen[1]) > set(seen[56]), "a basis grew until its site was left raw"
    for site, curves in record.sites.items():
        for name in ("rank", "fidelity"):
            expected = [(at, seen[at][site][name]) for at in points if name in seen[at].get(site, {})]
            assert [at for at, _ in curves[name]] == [at for at, _ in expected]
            assert [value for _, value in curves[name]] == pytest.approx([value for _, value in expected], rel=1e-5)
    assert any(len({rank for _, rank in curves["rank"]}) > 1 for curves in record.sites.values())


def test_evaluation_is_the_mean_over_examples_whatever_the_batch() -> None:
    model = SMALL.build(generator(0, "initialisation"))
    step = Step(SMALL, model, torch.device("cpu"))
    validation = SMALL.data(0).validation
    whole = evaluate(step, validation, 32, [])
    parts = evaluate(step, validation, 5, [])
    assert set(whole) == {"token_accuracy", "solved"}
    for name, value in whole.items():
        assert math.isclose(value, parts[name], rel_tol=1e-7)
    output = step.output(step.batch(validation, slice(None)))
    right = (output.argmax(-1) == validation["targets"]).double()
    assert whole["token_accuracy"] == pytest.approx(right.mean().item(), abs=1e-7)
    assert whole["solved"] == pytest.approx(right.all(1).double().mean().item(), abs=1e-12)


def test_a_batch_whose_update_the_strategy_asks_to_skip_changes_no_weight_and_is_counted() -> None:
    settings = Training(steps=9, batch_size=8, learning_rate=3e-3, warmup_steps=0)
    strategy = Registry.load().compressor("laser", rank=4, max_rank=4, fidelity=1.0, patience=2, reset_batch="skipped")
    model = SMALL.build(generator(0, "initialisation"))
    step = Step(SMALL, model, torch.device("cpu"), "fp32")
    session, record, hashes = Session(model, strategy, CaptureSettings()), Record(), [weights_hash(model)]
    with session:
        train(
            step,
            session,
            SMALL.data(0).train,
            example_order(64, settings, 0),
            make_optimizer(model, settings),
            settings,
            record,
            lambda done: hashes.append(weights_hash(model)),
        )
    # Steps 2 and 3 fail (the first has no common basis yet), step 4 ends with a reset, and so on.
    unchanged = [number for number, (one, other) in enumerate(itertools.pairwise(hashes), 1) if one == other]
    assert unchanged == [4, 7]
    assert record.skipped_batches == 2
    assert len(record.loss_curve) == 9
