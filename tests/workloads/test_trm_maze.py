"""The workload: settings, depth, data, loss and metrics."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compbench.errors import SettingsError
from compbench.workloads.trm_maze import TRMMaze, log_stablemax

TINY = TRMMaze(grid=5, train_mazes=30, validation_mazes=10, hidden=16, heads=2, inner=24, l_cycles=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numpy_stablemax(logits):
    s = np.where(logits >= 0, logits + 1, 1 / (1 - np.minimum(logits, 0)))
    return np.log(s / s.sum(axis=-1, keepdims=True))


def test_the_defaults_are_the_laser_profile():
    default = TRMMaze()
    assert (default.grid, default.hidden, default.heads, default.layers) == (11, 512, 8, 1)
    assert (default.h_cycles, default.l_cycles, default.gradient, default.depth) == (1, 24, "all", 25)


@pytest.mark.parametrize(
    ("settings", "depth", "l_cycles"),
    [
        ({}, 2, 1),
        ({}, 25, 24),
        ({"h_cycles": 3}, 12, 3),
        ({"h_cycles": 3, "gradient": "last_cycle"}, 7, 6),
    ],
)
def test_depth_counts_the_block_calls_that_carry_gradient(settings, depth, l_cycles):
    workload = TINY.model_copy(update=settings).at_depth(depth)
    assert (workload.depth, workload.l_cycles) == (depth, l_cycles)
    model = workload.build(generator())
    with_gradient = []
    model.get_submodule(workload.recurrent_modules(model)[0]).register_forward_hook(
        lambda module, inputs, output: with_gradient.append(output.requires_grad)
    )
    workload.forward(model, workload.data(0).train)
    assert sum(with_gradient) == depth


@pytest.mark.parametrize(
    ("settings", "depth", "allowed"),
    [
        ({}, 0, "integers from 2"),
        ({}, 1, "integers from 2"),
        ({"h_cycles": 3}, 7, "multiples of 3 from 6"),
        ({"h_cycles": 3}, 3, "multiples of 3 from 6"),
        ({"h_cycles": 3, "gradient": "last_cycle"}, 1, "integers from 2"),
    ],
)
def test_a_depth_that_does_not_exist_is_refused_with_those_that_do(settings, depth, allowed):
    with pytest.raises(SettingsError, match=f"no depth {depth} .*allowed: {allowed}"):
        TINY.model_copy(update=settings).at_depth(depth)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": 8}, "grid 8 .*odd numbers from 5"),
        ({"grid": 3}, "greater than or equal to 5"),
        ({"grid": 7, "train_mazes": 13_000}, "14,000 distinct mazes .* has 13,824"),
        ({"heads": 3}, "heads 3 does not divide hidden 512 .*allowed: heads 1, 2, 4"),
        ({"hidden": 24, "heads": 8}, "heads 8 does not divide hidden 24 .*allowed: heads 1, 2, 3, 4, 6, 12"),
        ({"hidden": 15, "heads": 3}, "allowed: an even hidden"),
        ({"l_cycles": 0}, "greater than or equal to 1"),
        ({"loss_function": "softmax"}, "cross_entropy"),
        ({"width": 64}, "width"),
    ],
)
def test_a_bad_setting_is_refused_with_what_is_allowed(settings, message):
    with pytest.raises(ValidationError, match=message):
        TRMMaze(**settings)


def test_train_and_validation_have_no_maze_in_common():
    data = TRMMaze(grid=7, train_mazes=12_800, validation_mazes=1000).data(0)
    train, validation = (
        {maze.numpy().tobytes() for maze in split["inputs"]} for split in (data.train, data.validation)
    )
    assert (len(train), len(validation)) == (12_800, 1000)
    assert not train & validation


def test_a_leak_between_the_splits_is_noticed(monkeypatch):
    from compbench.workloads import mazes

    once = mazes.generate(5, 20, 0)
    twice = mazes.Mazes(np.concatenate([once.inputs] * 2), np.concatenate([once.targets] * 2))
    monkeypatch.setattr(mazes, "generate", lambda grid, count, seed: twice)
    with pytest.raises(RuntimeError, match="10 held-out mazes"):
        TINY.data(0)


def test_data_is_the_same_bytes_for_the_same_seed():
    first, again, other = (TINY.data(seed).train["inputs"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (30, 25)
    assert first.dtype == torch.int64


def test_data_does_not_depend_on_the_depth():
    assert torch.equal(TINY.at_depth(2).data(0).train["inputs"], TINY.at_depth(8).data(0).train["inputs"])


def test_output_has_logits_of_every_position():
    model = TINY.build(generator())
    assert TINY.forward(model, TINY.data(0).train).shape == (30, 25, 5)


@pytest.mark.parametrize("name", ["cross_entropy", "stablemax"])
def test_losses_equal_their_formula_in_numpy(name):
    workload = TINY.model_copy(update={"loss_function": name})
    batch = workload.data(0).train
    logits = torch.randn(30, 25, 5, generator=generator()) * 3
    x = logits.double().numpy()
    log_probability = numpy_stablemax(x) if name == "stablemax" else x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(log_probability, batch["targets"].numpy()[..., None], axis=-1)
    loss = workload.loss(logits, batch)
    assert loss.dtype == (torch.float64 if name == "stablemax" else torch.float32)
    assert loss.item() == pytest.approx(-chosen.mean(), rel=1e-6)


def test_stablemax_has_finite_and_right_gradients_at_its_corners():
    logits = torch.tensor([[0.0, 1.0, -1.0, 50.0, -50.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(-log_stablemax(logits)[0, 1], logits)
    steps = torch.eye(5, dtype=torch.float64) * 1e-6
    numeric = [
        (numpy_stablemax((logits - h).detach().numpy()) - numpy_stablemax((logits + h).detach().numpy()))[0, 1] / 2e-6
        for h in steps
    ]
    np.testing.assert_allclose(gradient[0].numpy(), numeric, atol=1e-7)


def test_solved_wants_every_position_right():
    targets = TINY.data(0).train["targets"][:4]
    logits = torch.nn.functional.one_hot(targets, 5).float()
    logits[1, 3] = logits[1, 3].roll(1)
    logits[2, :5] = logits[2, :5].roll(1, dims=-1)
    found = TINY.metrics(logits, {"targets": targets})
    assert found["solved"].tolist() == [1, 0, 0, 1]
    assert found["token_accuracy"].tolist() == pytest.approx([1, 24 / 25, 20 / 25, 1])


@pytest.mark.parametrize("name", ["cross_entropy", "stablemax"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_few_steps_lower_the_loss(name, bf16):
    workload = TINY.model_copy(update={"loss_function": name})
    batch, model = workload.data(0).train, workload.build(generator())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = workload.loss(workload.forward(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.7
