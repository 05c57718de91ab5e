"""Deep supervision by the same training loop: carried states, halting, a moving average, and going on later."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.measure.step import Step
from compbench.registry import Registry
from compbench.run.averaging import WeightAverage, weights_of
from compbench.run.carrying import Carried
from compbench.run.cell import run_cell
from compbench.run.optimizers import make_optimizer
from compbench.run.training import Record, evaluate, example_order, learning_rate_factor, train
from compbench.run.training_state import TrainingState
from compbench.seeds import generator
from compbench.suite.cell import Cell, PluginReference, Training
from compbench.workloads.maze_task import Mazes
from compbench.workloads.supervision import next_state, with_new_examples

FIELDS = {"grid": 5, "train_mazes": 36, "validation_mazes": 12, "hidden": 16, "heads": 2, "inner": 24}
THREE = Mazes(**FIELDS, h_cycles=2, gradient="last_cycle", l_cycles=2, supervision_steps=3)
HALTING = Mazes(**FIELDS, profile="trm", l_cycles=2, supervision_steps=4, prefix=2)


class Stepwise:
    """A training that can be taken a few steps at a time."""

    def __init__(self, workload: Mazes, ema: float | None = None, steps: int = 8) -> None:
        torch.manual_seed(7)
        self.settings = Training(steps=steps, batch_size=4, learning_rate=3e-3, warmup_steps=2, ema=ema)
        self.data = workload.data(0)
        self.step = Step(workload, workload.build(generator(0, "initialisation")), torch.device("cpu"))
        self.session = Session(self.step.model, Registry.load().compressor("int8"), CaptureSettings())
        self.order = example_order(36, self.settings, 0)
        self.optimizer = make_optimizer(self.step.model, self.settings)
        self.record = Record()
        self.carried = Carried.of(self.step)
        self.average = None if ema is None else WeightAverage(self.step.model, ema)
        self.state = TrainingState(
            self.step.model, self.optimizer, self.session, self.record, {}, self.carried, self.average
        )

    def go(self, to: int) -> None:
        train(
            self.step,
            self.session,
            self.data.train,
            self.order[:to],
            self.optimizer,
            self.settings,
            self.record,
            lambda done: None,
            self.carried,
            self.average,
        )


def test_states_are_carried_for_as_many_steps_and_then_other_examples_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = Mazes.forward

    def watched(self: Mazes, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> object:
        answer = forward(self, model, batch)
        seen.append((batch, answer))
        return answer

    monkeypatch.setattr(Mazes, "forward", watched)
    training = Stepwise(THREE)
    with training.session:
        training.go(7)
    model = training.step.model
    for number, (batch, _) in enumerate(seen):
        # Examples stay for three steps; those of the order's other steps are passed over, as in the reference.
        assert torch.equal(batch["inputs"], training.data.train["inputs"][training.order[number - number % 3]])
        if number == 0:
            assert "z_H" not in batch
        elif number % 3 == 0:
            assert torch.equal(batch["z_H"], model.z_H.expand_as(batch["z_H"]))
            assert torch.equal(batch["z_L"], model.z_L.expand_as(batch["z_L"]))
        else:
            before = seen[number - 1][1]
            assert torch.equal(batch["z_H"], before.z_H)
            assert torch.equal(batch["z_L"], before.z_L)
            assert not batch["z_H"].requires_grad


def test_steps_share_their_sites() -> None:
    training = Stepwise(THREE)
    with training.session:
        training.go(1)
        first = {site.name for site in training.session.sites()}
        training.go(7)
        assert {site.name for site in training.session.sites()} == first


@pytest.mark.parametrize("workload", [THREE, HALTING])
def test_a_training_that_goes_on_is_bit_identical(workload: Mazes) -> None:
    whole = Stepwise(workload, ema=0.9)
    with whole.session:
        whole.go(8)
    first = Stepwise(workload, ema=0.9)
    with first.session:
        first.go(4)
        state = copy.deepcopy(first.state.state_dict())
    second = Stepwise(workload, ema=0.9)
    with second.session:
        second.state.load_state_dict(state)
        second.go(8)
    assert second.record.loss_curve == whole.record.loss_curve
    assert second.average is not None
    assert whole.average is not None
    for ours, other in zip(second.average.values, whole.average.values, strict=True):
        assert torch.equal(ours, other)
    assert whole.carried is not None
    assert second.carried is not None
    assert whole.carried.state is not None
    assert second.carried.state is not None
    for name, values in whole.carried.state.items():
        assert torch.equal(values, second.carried.state[name]), name


def test_the_halting_head_learns_whether_all_is_right_beside_the_answer() -> None:
    model, batch = HALTING.build(generator(0, "initialisation")), HALTING.data(0).train
    answer = HALTING.forward(model, batch)
    assert torch.equal(answer.halt, torch.full((36,), -5.0))
    right = F.one_hot(batch["targets"], 5).float() * 3
    right[:10] = right[:10].roll(1, dims=-1)
    answer = answer._replace(logits=right, halt=torch.linspace(-2, 2, 36))
    alone = HALTING.loss(answer._replace(halt=None), batch)
    solved = torch.tensor([0.0] * 10 + [1.0] * 26)
    q = answer.halt.double()
    binary = -(solved * q.sigmoid().log() + (1 - solved) * (1 - q.sigmoid()).log()).mean()
    assert HALTING.loss(answer, batch).item() == pytest.approx(alone.item() + 0.5 * binary.item(), rel=1e-6)


def test_supervision_ends_when_the_head_says_so_or_the_steps_are_used_up() -> None:
    model, data = HALTING.build(generator(0, "initialisation")), HALTING.data(0).train
    batch = {name: values[:4] for name, values in data.items()}
    answer = HALTING.forward(model, batch)._replace(halt=torch.tensor([1.0, -1.0, 1.0, -1.0]))
    halted = next_state(answer, {**batch, "steps": torch.tensor([0, 0, 3, 3])}, steps=4, exploration=0.0)
    assert halted["halted"].tolist() == [True, False, True, True]
    assert halted["steps"].tolist() == [1, 1, 4, 4]
    fresh = {name: values[10:14] for name, values in data.items()}
    entered = with_new_examples(model, halted, fresh)
    assert torch.equal(entered["inputs"][[0, 2, 3]], fresh["inputs"][[0, 2, 3]])
    assert torch.equal(entered["inputs"][1], batch["inputs"][1])
    assert torch.equal(entered["z_L"][1], answer.z_L[1])
    assert torch.equal(entered["z_L"][0], model.z_L.expand_as(entered["z_L"][0]))
    assert entered["steps"].tolist() == [0, 1, 0, 0]
    assert "halted" not in entered


def test_exploration_keeps_examples_for_a_random_number_of_steps() -> None:
    batch = {"inputs": torch.zeros(4000, 1), "steps": torch.ones(4000, dtype=torch.int64)}
    answer = HALTING.forward(HALTING.build(generator(0)), HALTING.data(0).train)
    answer = answer._replace(halt=torch.ones(4000), z_H=torch.zeros(4000, 1), z_L=torch.zeros(4000, 1))
    torch.manual_seed(0)
    halted = next_state(answer, batch, steps=16, exploration=0.4)["halted"].double().mean().item()
    # Two steps are done: of the explored, only those of which two are asked stop, one in fifteen.
    assert halted == pytest.approx(0.6 + 0.4 / 15, abs=0.02)


def test_evaluations_take_all_supervision_steps() -> None:
    model, batch = HALTING.build(generator(0)), HALTING.data(0).validation
    answer = model(batch["inputs"])
    for _ in range(3):
        answer = model(batch["inputs"], answer.z_H.detach(), answer.z_L.detach())
    step = Step(HALTING, model, torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(step.prediction(batch).logits, answer.logits)
    found = evaluate(step, batch, 5, [])
    right = (answer.logits.argmax(-1) == batch["targets"]).double()
    assert found["token_accuracy"] == pytest.approx(right.mean().item())


def test_the_average_is_that_of_its_formula_and_metrics_are_taken_with_it() -> None:
    training = Stepwise(THREE, ema=0.8, steps=5)
    assert training.average is not None
    expected = [p.detach().double().clone() for p in training.step.model.parameters()]
    with training.session:
        for to in range(1, 6):
            training.go(to)
            for index, parameter in enumerate(training.step.model.parameters()):
                expected[index] = 0.8 * expected[index] + 0.2 * parameter.detach().double()
    own = [p.detach().clone() for p in training.step.model.parameters()]
    with weights_of(training.average):
        for parameter, value in zip(training.step.model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.detach().double(), value, atol=1e-6, rtol=1e-5)
    for parameter, value in zip(training.step.model.parameters(), own, strict=True):
        assert torch.equal(parameter, value)


def test_a_constant_rate_stays_after_the_warmup() -> None:
    factors = [learning_rate_factor(step, 4, 20, "constant") for step in range(20)]
    assert factors == [1 / 5, 2 / 5, 3 / 5, 4 / 5, *[1.0] * 16]


@pytest.mark.parametrize("strategy", ["none", "int8"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam_atan2"])
def test_the_profile_is_trained_by_the_same_cell(optimizer: str, strategy: str) -> None:
    fields = {**FIELDS, "profile": "trm", "supervision_steps": 3, "prefix": 2}
    cell = Cell(
        suite="s",
        arm=strategy,
        depth=3,
        seed=0,
        workload=PluginReference(name="mazes", fields=fields),
        strategy=(PluginReference(name=strategy),),
        training=Training(optimizer=optimizer, steps=6, batch_size=8, schedule="constant", ema=0.9, gradient_clip=None),
        measuring={"time_pairs": 0, "flops": False},
    )
    result = run_cell(cell)
    assert (result.status, result.reason, len(result.loss_curve)) == ("ok", "", 6)
    assert set(result.metrics) == {"token_accuracy", "solved"}
    assert result.memory is not None
    assert (result.memory.saved_bytes < result.memory.uncompressed_bytes) == (strategy == "int8")
    plain = cell.model_copy(update={"training": Training(steps=6, batch_size=8, gradient_clip=None)})
    assert plain.key != cell.key
