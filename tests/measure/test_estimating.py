"""An estimate made without values says to the byte what real steps take, under every strategy that ships."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from compbench.capture import CaptureSettings, Session
from compbench.compressor import Codec, Compressor, Dense, Payload, Site
from compbench.errors import UnsupportedError
from compbench.measure.arithmetic import count_flops
from compbench.measure.estimating import Estimate, estimate
from compbench.measure.foresight import Foresights
from compbench.measure.memory import StepMemory, step_memory
from compbench.measure.step import Step
from compbench.records import Batch
from compbench.registry import Registry
from compbench.run.optimizers import make_optimizer
from compbench.seeds import generator
from compbench.suite.cell import Training

STEPS = 4
TRAINING = Training(batch_size=8, learning_rate=1e-3)
ROUTES = [CaptureSettings(routes="hooks"), CaptureSettings(routes="operators")]

STRATEGIES: dict[str, Any] = {
    **{
        name: name for name in ("none", "identity", "checkpoint", "recompute", "offload", "int8", "fp8", "gist", "topk")
    },
    **{name: {name: {"rank": 4}} for name in ("lance", "gale", "loract", "asi", "past", "oracle_svd")},
    **{name: {name: {"rank": 4}} for name in ("random_projection",)},
    "velora": "velora",
    "row_sample": "row_sample",
    "laser": {"laser": {"rank": 4, "max_rank": 32, "fidelity": 0.99, "patience": 100}},
    "laser, of half the width": {"laser": {"rank": 16, "max_rank": 16}},  # pays by the calls that share a basis alone
    "hosvd": {"hosvd": {"energy": 0.9}},
    "hosvd, ranks alike": {"hosvd": {"energy": 0.9, "ranks": "shared"}},
    "lance by energy": {"lance": {"rank": 32, "energy": 0.9}},
    "lance, calibrated late": {"lance": {"rank": 4, "warmup": 2}},
    "lance_tucker": "lance_tucker",
    "lance_tucker, positions": {"lance_tucker": {"sequence_length": 25}},
    "actnn": "actnn",
    "actnn, samples": {"actnn": {"samples": 8}},
    "auto": {"auto": {"quiet": True}},
    "laser+int8": [{"laser": {"rank": 4, "max_rank": 32, "fidelity": 0.99, "patience": 100}}, "int8"],
    "laser+actnn": [{"laser": {"rank": 4, "max_rank": 32}}, "actnn"],
    "checkpoint+laser": ["checkpoint", {"laser": {"rank": 4, "max_rank": 32}}],
    "by site": {
        "sites": {"*": "int8", "*/mlp_*": {"laser": {"rank": 4, "max_rank": 32, "fidelity": 0.99, "patience": 100}}}
    },
}
BY_NAME = {name.split(",")[0].split(" by ")[0] for name in STRATEGIES if "+" not in name and name != "by site"}
NOT_ESTIMABLE = {"memory_budget"}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


@pytest.fixture(scope="module")
def foresights(registry: Registry) -> Foresights:
    return Foresights({name: found.record for name, found in registry.foresights.items()})


@pytest.fixture
def made(registry: Registry) -> tuple[Step, Batch]:
    fields = {"grid": 5, "train_mazes": 8, "validation_mazes": 4, "hidden": 32, "heads": 2, "inner": 48}
    workload = registry.workload("trm_maze", **fields).at_depth(3)
    step = Step(workload, workload.build(generator(0, "initialisation")), torch.device("cpu"))
    return step, step.batch(workload.data(0).train, slice(8))


def really(
    step: Step, batch: Batch, compressor: Compressor, settings: CaptureSettings, steps: int = STEPS
) -> tuple[StepMemory, dict[str, dict[str, float]], int, Any]:
    """The last of some real steps, what the codecs say then, their state, and its operations."""
    optimizer = make_optimizer(step.model, TRAINING)
    session = Session(step.model, compressor, settings, 0)
    with session:
        for _ in range(steps - 1):
            step_memory(step, session, batch, optimizer)
        # By these the last step encodes; a rank may move at its end.
        statistics = {site.name: site.statistics for site in session.sites() if site.statistics}
        state = session.state_bytes
        memory = step_memory(step, session, batch, optimizer)
        flops = count_flops(step, session, batch)
    step.clear_gradients()
    return memory, statistics, state, flops


make = partial(make_optimizer, settings=TRAINING)


def test_every_strategy_that_ships_is_estimated(registry: Registry) -> None:
    assert set(registry.compressors) <= BY_NAME | NOT_ESTIMABLE


@pytest.mark.parametrize("settings", ROUTES, ids=lambda settings: settings.routes)
@pytest.mark.parametrize("spec", STRATEGIES.values(), ids=STRATEGIES)
def test_bytes_are_those_of_real_steps(
    spec: Any, settings: CaptureSettings, made: tuple[Step, Batch], registry: Registry, foresights: Foresights
) -> None:
    step, batch = made
    compressor = registry.compressor(spec)
    memory, statistics, state, flops = really(step, batch, compressor, settings)
    found = estimate(step, compressor, settings, batch, make, 0, foresights, statistics)
    assert found.saved_bytes == memory.saved_bytes
    assert found.peak_delta_bytes == pytest.approx(memory.peak_bytes, rel=0.01)
    assert found.peak_phase == memory.peak_phase
    if settings.routes == "hooks":  # by operators, sites have a basis that are computed again from the second step on
        assert found.state_bytes == state
    if not found.held:  # a rank may have moved in the step whose operations were counted
        assert found.flops == flops
    assert found.parameters == sum(parameter.numel() for parameter in step.model.parameters())


def test_the_optimisers_state_is_static(made: tuple[Step, Batch], registry: Registry, foresights: Foresights) -> None:
    step, batch = made
    found = estimate(step, None, ROUTES[0], batch, make)
    sizes = [tensor.nbytes for tensor in (*step.model.parameters(), *step.model.buffers())]
    moments = 2 * sum(parameter.nbytes for parameter in step.model.parameters())
    counts = 4 * len(list(step.model.parameters()))  # a step counter each
    assert found.static_bytes == sum(sizes) + moments + counts


def test_the_references_optimiser_is_estimated(made: tuple[Step, Batch], registry: Registry) -> None:
    step, batch = made
    training = Training(optimizer="adam_atan2", batch_size=8)
    found = estimate(step, None, ROUTES[0], batch, partial(make_optimizer, settings=training))
    sizes = [tensor.nbytes for tensor in (*step.model.parameters(), *step.model.buffers())]
    assert found.static_bytes == sum(sizes) + 2 * sum(parameter.nbytes for parameter in step.model.parameters())
    optimizer, session = (
        make_optimizer(step.model, training),
        Session(step.model, registry.compressor("none"), ROUTES[0]),
    )
    with session:
        memory = [step_memory(step, session, batch, optimizer) for _ in range(2)][-1]
    state = [value for of_one in optimizer.state.values() for value in of_one.values() if isinstance(value, Tensor)]
    assert found.static_bytes == sum(sizes) + sum(tensor.nbytes for tensor in state)
    assert (found.saved_bytes, found.peak_phase) == (memory.saved_bytes, memory.peak_phase)
    assert found.peak_delta_bytes == pytest.approx(memory.peak_bytes, rel=0.01)


def test_extremes_enclose_what_a_training_comes_to(
    made: tuple[Step, Batch], registry: Registry, foresights: Foresights
) -> None:
    step, batch = made
    for spec in (STRATEGIES["laser"], "hosvd", "lance_tucker", STRATEGIES["laser+int8"], STRATEGIES["by site"]):
        compressor = registry.compressor(spec)
        memory, *_ = really(step, batch, compressor, ROUTES[0])
        least, most = (
            estimate(step, compressor, ROUTES[0], batch, make, 0, foresights, extreme=extreme)
            for extreme in ("least", "most")
        )
        assert least.undecided
        assert least.saved_bytes <= memory.saved_bytes <= most.saved_bytes, spec


def test_the_model_is_as_it_was(made: tuple[Step, Batch], registry: Registry, foresights: Foresights) -> None:
    step, batch = made
    before = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    random = torch.get_rng_state()
    estimate(step, registry.compressor("laser"), ROUTES[0], batch, make, 0, foresights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.model.state_dict().items())
    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


class Asking(Compressor):
    """Looks at the values of what it encodes."""

    name = "asking"

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return AskingCodec()


class AskingCodec(Codec):
    def encode(self, rows: Tensor) -> Payload:
        return Dense(rows * rows.abs().max().item())


class Converting(Asking):
    """Leaves torch."""

    name = "converting"

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return ConvertingCodec()


class ConvertingCodec(Codec):
    def encode(self, rows: Tensor) -> Payload:
        return Dense(torch.from_numpy(rows.numpy() + 1))


@pytest.mark.parametrize("compressor", [Asking(), Converting()], ids=lambda compressor: compressor.name)
def test_who_asks_for_values_is_named_with_its_line(compressor: Compressor, made: tuple[Step, Batch]) -> None:
    step, batch = made
    with pytest.raises(UnsupportedError, match=r"^test_estimating\.py, line \d+, in encode\(\) ") as refused:
        estimate(step, compressor, ROUTES[0], batch, make)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "why"), [("memory_budget", "compiles the model"), ("auto", "measured errors")])
def test_what_can_not_be_told_says_why(
    name: str, why: str, made: tuple[Step, Batch], registry: Registry, foresights: Foresights
) -> None:
    step, batch = made
    with pytest.raises(UnsupportedError, match=f"strategy '{name}': .*{why}"):
        estimate(step, registry.compressor(name), ROUTES[0], batch, make, 0, foresights)


def test_a_calibration_that_the_training_does_not_come_to_is_left_out(
    made: tuple[Step, Batch], registry: Registry, foresights: Foresights
) -> None:
    step, batch = made
    late = registry.compressor({"lance": {"rank": 4, "warmup": 50}})
    short, long = (estimate(step, late, ROUTES[0], batch, make, 0, foresights, steps=steps) for steps in (50, 51))
    assert short.saved_bytes > 0.95 * estimate(step, None, ROUTES[0], batch, make).saved_bytes
    assert long.saved_bytes < short.saved_bytes / 2


def test_the_highest_peak_is_that_of_the_calibration(
    made: tuple[Step, Batch], registry: Registry, foresights: Foresights
) -> None:
    step, batch = made
    found: Estimate = estimate(step, registry.compressor(STRATEGIES["lance"]), ROUTES[0], batch, make, 0, foresights)
    plain = estimate(step, None, ROUTES[0], batch, make)
    assert found.highest_peak_bytes > plain.peak_delta_bytes > found.peak_delta_bytes
