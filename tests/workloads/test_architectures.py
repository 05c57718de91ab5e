"""Any task on any architecture: number by number the model of ``trm_maze``, with weights tied and untied."""

import math

import pytest
import torch
from pydantic import ValidationError

from compbench.errors import SettingsError
from compbench.fields import construct
from compbench.run.lean import PlainMeta
from compbench.workloads.architecture import ARCHITECTURES, OWN_FIELDS
from compbench.workloads.blocks import Block, Shape
from compbench.workloads.looped_lm import exit_log_probabilities, exit_loss
from compbench.workloads.maze_task import Mazes
from compbench.workloads.task import IGNORED, accuracies, apart
from compbench.workloads.trm_maze import TRMMaze
from compbench.workloads.universal_transformer import sinusoids

SIZES = {"grid": 5, "train_mazes": 30, "validation_mazes": 10, "hidden": 16, "heads": 2, "inner": 24}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def workload(architecture="trm", depth=4, **fields):
    return Mazes(**SIZES, architecture=architecture, **fields).at_depth(depth)


def losses_of_training(trained, steps=4):
    model, batch = trained.build(generator()), trained.data(0).train
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = trained.loss(trained.forward(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(
    "fields",
    [{}, {"h_cycles": 2}, {"h_cycles": 2, "gradient": "last_cycle", "layers": 2}, {"loss_function": "stablemax"}],
)
def test_mazes_on_trm_trains_as_trm_maze_does(fields):
    old, new = (kind(**SIZES, l_cycles=3, **fields) for kind in (TRMMaze, Mazes))
    assert old.depth == new.depth
    for split in ("train", "validation"):
        for name, values in getattr(old.data(3), split).items():
            assert torch.equal(values, getattr(new.data(3), split)[name])
    model, other = old.build(generator()), new.build(generator())
    assert list(model.state_dict()) == list(other.state_dict())
    batch = old.data(0).train
    assert torch.equal(old.forward(model, batch), new.forward(other, batch).logits)
    before, weights = losses_of_training(old)
    after, others = losses_of_training(new)
    # Not bit by bit: the mean of all positions is taken example by example here.
    assert after == pytest.approx(before, rel=1e-5)
    for weight, again in zip(weights, others, strict=True):
        torch.testing.assert_close(again, weight, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("tied", "blocks"), [(True, 1), (False, 4), (2, 2), (3, 3)])
@pytest.mark.parametrize("layers", [1, 2])
def test_untied_blocks_with_equal_weights_are_the_tied_model_and_share_out_its_gradient(
    architecture, tied, blocks, layers
):
    one, several = (workload(architecture, tied=kind, layers=layers) for kind in (True, tied))
    tied_model, model = one.build(generator()), several.build(generator(1))
    paths = several.recurrent_modules(model)
    assert len(paths) == blocks
    ours = dict(tied_model.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.data.copy_(ours[_tied_name(name, paths)])
    model.load_state_dict({k: v for k, v in tied_model.state_dict().items() if "block" not in k}, strict=False)
    batch = one.data(0).train
    loss, other = one.loss(one.forward(tied_model, batch), batch), several.loss(several.forward(model, batch), batch)
    assert loss.item() == pytest.approx(other.item(), rel=1e-6)
    loss.backward()
    other.backward()
    summed = {name: torch.zeros_like(parameter) for name, parameter in ours.items()}
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
        summed[_tied_name(name, paths)] += parameter.grad
    for name, parameter in ours.items():
        torch.testing.assert_close(summed[name], parameter.grad, atol=1e-6, rtol=1e-3)


def _tied_name(name, paths):
    if paths == ["block"]:
        return name
    for path in paths:
        if name.startswith(f"{path}."):
            return "block" + name.removeprefix(path)
    return name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False, 2])
def test_depth_counts_the_calls_that_carry_gradient(architecture, tied):
    deep = workload(architecture, depth=5, tied=tied)
    model = deep.build(generator())
    calls = []
    for path in deep.recurrent_modules(model):
        module = model.get_submodule(path)
        module.register_forward_hook(lambda module, inputs, output: calls.append((id(module), output.requires_grad)))
    deep.forward(model, deep.data(0).train)
    assert deep.depth == len(calls) == 5
    assert all(requires for _, requires in calls)
    order = [call for call, _ in calls]
    assert order == sorted(order, key=order.index), "a block runs neighbouring calls"
    assert len(set(order)) == {True: 1, False: 5, 2: 2}[tied]


def test_cycles_without_gradient_run_the_blocks_of_the_last():
    deep = workload(depth=3, tied=False, h_cycles=2, gradient="last_cycle")
    model = deep.build(generator())
    calls = []
    for path in deep.recurrent_modules(model):
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
    deep.forward(model, deep.data(0).train)
    assert calls == ["block.0", "block.1", "block.2"] * 2


@pytest.mark.parametrize(
    ("fields", "depth", "message"),
    [
        ({"tied": 6}, 5, "tied is 6, but there are 5 calls"),
        ({"architecture": "looped_lm", "tied": 3}, 2, "tied is 3, but there are 2 calls"),
        ({"architecture": "looped_lm"}, 0, "no depth 0 .*integers from 1"),
        ({"h_cycles": 2}, 5, "no depth 5 .*multiples of 2 from 4"),
    ],
)
def test_a_depth_that_does_not_exist_is_refused(fields, depth, message):
    with pytest.raises(SettingsError, match=message):
        Mazes(**SIZES, **fields).at_depth(depth)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loops": 3}, "loops is no field of architecture 'trm' .*universal_transformer, looped_lm"),
        ({"architecture": "looped_lm", "h_cycles": 2}, "h_cycles is no field of architecture 'looped_lm' .*with trm"),
        ({"architecture": "universal_transformer", "rope_theta": 5.0}, "rope_theta is no field"),
        ({"heads": 3}, "heads 3 does not divide hidden 16 .*heads 1, 2, 4, 8"),
        ({"halting": True}, "supervision_steps above 1"),
        ({"exit_entropy": 0.5, "architecture": "looped_lm"}, "exits: true"),
        ({"grid": 6}, "grid 6 .*odd numbers"),
        ({"profile": "gpt"}, "profile"),
    ],
)
def test_a_bad_setting_is_refused_with_what_is_allowed(fields, message):
    with pytest.raises(ValidationError, match=message):
        Mazes(**{**SIZES, **fields})


def test_one_block_is_written_as_true():
    assert construct(Mazes, {**SIZES, "tied": 2}, "").tied == 2
    with pytest.raises(SettingsError, match=r"tied is 1 .*allowed: true or false or an integer >= 2"):
        construct(Mazes, {**SIZES, "tied": 1}, "")


def test_fields_of_one_architecture_are_fields():
    assert set(OWN_FIELDS) <= set(Mazes.model_fields)


def test_a_profile_fills_in_what_is_left_out_and_nothing_else():
    filled = Mazes(profile="trm", hidden=64)
    assert (filled.hidden, filled.layers, filled.h_cycles, filled.supervision_steps) == (64, 2, 3, 16)
    assert Mazes(**filled.model_dump(exclude_defaults=True)) == filled


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_finite_differences(architecture):
    fields = {"exits": True} if architecture == "looped_lm" else {}
    some = workload(architecture, tied=2, **fields)
    model, batch = some.build(generator()).double(), {k: v[:3] for k, v in some.data(0).train.items()}

    def loss():
        # In float64 from end to end: the loss casts logits to fp32.
        answer = some.forward(model, batch)
        logs = torch.stack([logits.log_softmax(-1) for logits in answer.exits or (answer.logits,)])
        picked = logs.gather(-1, batch["targets"].expand(len(logs), -1, -1)[..., None])
        return -picked.mean() + (0 if answer.exit_logits is None else answer.exit_logits.square().mean())

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    for number, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        direction = torch.randn(parameter.shape, generator=generator(number), dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
                values.append(loss().item())
                parameter.sub_(direction, alpha=step)
        found = (values[0] - values[1]) / 2e-5
        assert found == pytest.approx((gradient * direction).sum().item(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("norms", ["post_layer", "sandwich_rms"])
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_equal_their_formula(norms, causal):
    shape = Shape(16, 2, 24, 1, positions=6, theta=None, causal=causal, norms=norms)
    block = Block(shape, generator()).double()
    for parameter in block.parameters():
        if parameter.ndim == 1:
            parameter.data.normal_(1, 0.3, generator=generator(1))
    x = torch.randn(2, 6, 16, generator=generator(2), dtype=torch.float64)

    def attention(y):
        q, k, v = (part.unflatten(-1, (2, 8)) for part in (y @ block.attn.qkv.weight.T).chunk(3, dim=-1))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(8)
        if causal:
            scores = scores + torch.full((6, 6), -math.inf).triu(1)
        return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2) @ block.attn.out.weight.T

    def gated(y):
        gate, up = (y @ block.mlp.gate_up.weight.T).chunk(2, dim=-1)
        return (gate * gate.sigmoid() * up) @ block.mlp.down.weight.T

    def layer_norm(y, norm):
        return (y - y.mean(-1, keepdim=True)) / (
            y.var(-1, keepdim=True, correction=0) + 1e-5
        ).sqrt() * norm.weight + norm.bias

    def rms(y, norm):
        return y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight

    if norms == "post_layer":
        middle = layer_norm(x + attention(x), block.after_attn)
        expected = layer_norm(middle + gated(middle), block.after_mlp)
    else:
        middle = x + rms(attention(rms(x, block.before_attn)), block.after_attn_rms)
        expected = middle + rms(gated(rms(middle, block.before_mlp)), block.after_mlp_rms)
    torch.testing.assert_close(block(x), expected)


def test_sinusoids_are_those_of_the_paper():
    made = sinusoids(3, 8)
    for place in range(3):
        for i in range(4):
            angle = (place + 1) / 10000 ** (2 * i / 8)
            assert made[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert made[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_exit_probabilities_are_the_chance_of_stopping_and_add_up_to_one():
    g = torch.randn(5, 3, generator=generator())
    stop = g.double().sigmoid()
    reached, expected = torch.ones(5, dtype=torch.float64), []
    for loop in range(3):
        expected.append(reached * stop[:, loop])
        reached = reached * (1 - stop[:, loop])
    expected = torch.stack([*expected, reached], dim=-1)
    found = exit_log_probabilities(g).exp()
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum(-1), torch.ones(5))
    losses = torch.rand(5, 4, generator=generator(1))
    entropy = -(expected * expected.log()).sum(-1)
    wanted = ((expected * losses).sum(-1) - 0.3 * entropy).mean()
    assert exit_loss(losses, g, 0.3).item() == pytest.approx(wanted.item(), rel=1e-5)
    counted = torch.arange(len(losses)) % 3 > 0
    chosen = exit_loss(losses[counted], g[counted], 0.3)
    assert exit_loss(losses, g, 0.3, counted).item() == pytest.approx(chosen.item(), rel=1e-5)


def test_exits_have_logits_of_every_loop_and_their_gate_learns():
    looped = workload("looped_lm", exits=True)
    model, batch = looped.build(generator()), looped.data(0).train
    answer = looped.forward(model, batch)
    assert len(answer.exits) == 4
    assert answer.exit_logits.shape == (30, 25, 3)
    assert torch.equal(answer.logits, answer.exits[-1])
    shorter = looped.at_depth(2)
    torch.testing.assert_close(shorter.forward(_same(shorter, model), batch).logits, answer.exits[1])
    looped.loss(answer, batch).backward()
    assert model.gate.weight.grad.abs().sum() > 0


def _same(shorter, model):
    other = shorter.build(generator(9))
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    ("profile", "layers", "parameters"), [("ouro_1.4b", 24, 1_434_652_673), ("ouro_2.6b", 48, 2_667_974_657)]
)
def test_published_shapes_have_the_parameters_of_their_formula(profile, layers, parameters, monkeypatch):
    # Layers stay on the meta device, on which they are made first: they have shapes there and no memory.
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda module, device: module)

    class Vocabulary(Mazes):
        name = "vocabulary"

        @property
        def vocabulary(self):
            return 49_152

    with PlainMeta():
        model = Vocabulary(profile=profile, grid=5, train_mazes=30, validation_mazes=10).build(generator())
    found = sum(parameter.numel() for parameter in model.parameters())
    layer = 4 * 2048**2 + 3 * 2048 * 5632 + 4 * 2048
    assert found == parameters == layers * layer + 2 * 49_152 * 2048 + 2048 + 2049
    assert float(profile[5:-1]) == pytest.approx(found / 1e9, abs=0.1)


def test_ignored_positions_count_for_nothing():
    targets = torch.tensor([[1, IGNORED, 2, 0], [IGNORED, IGNORED, 1, 1]])
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 2, 1], [0, 0, 1, 1]]), 3).float()
    found = accuracies(logits, targets)
    assert found["token_accuracy"].tolist() == pytest.approx([2 / 3, 1])
    assert found["solved"].tolist() == [0, 1]
    some = workload()
    loss = some._mean(some._losses(logits, targets), targets)
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.clamp(min=0).flatten(), reduction="none")
    each = each.view(2, 4)
    assert loss.item() == pytest.approx(((each[0, [0, 2, 3]].mean() + each[1, 2:].mean()) / 2).item())


def test_a_leak_between_the_splits_is_noticed():
    rows = torch.arange(12).view(4, 3)
    apart(rows[:2], rows[2:])
    with pytest.raises(RuntimeError, match="2 held-out examples"):
        apart(rows, rows[:2])
