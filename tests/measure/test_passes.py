"""The passes on a small model: what they report is what a plain computation gives, and nothing is left behind."""

from __future__ import annotations

import math
import mmap
import time as clock

import pytest
import torch
from torch import Tensor, nn

from compbench import Batch, Data, Workload
from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.measure.fidelity import gradient_cosine
from compbench.measure.memory import measure_memory
from compbench.measure.step import Step
from compbench.measure.timing import PHASES, measure_time, time_step
from tests.capture import zoo


class Tied(Workload):
    """A gated layer, run several times."""

    name = "tied"
    calls: int = 4

    def at_depth(self, depth: int) -> Tied:
        return self.model_copy(update={"calls": depth})

    def build(self, generator: torch.Generator) -> nn.Module:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mlp = zoo.GatedMLP(64, 96)

            def forward(model, x: Tensor) -> Tensor:
                for _ in range(self.calls):
                    x = x + model.mlp(x)
                return x

        return Model()

    def data(self, seed: int) -> Data:
        rows = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))
        return Data(train={"x": rows[:48]}, validation={"x": rows[48:]})

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["x"])

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return (output - 1).square().mean()

    def metrics(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"error": (output - 1).abs().mean(dim=1)}


def parts(calls: int = 4) -> tuple[Step, Batch]:
    torch.manual_seed(0)
    workload = Tied(calls=calls)
    step = Step(workload, workload.build(torch.Generator()), torch.device("cpu"))
    return step, step.batch(workload.data(0).train, slice(48))


def session_of(step: Step, compressor: object) -> Session:
    # Through hooks: every storage is encoded by itself, and nothing follows from another.
    return Session(step.model, compressor, CaptureSettings(minimum_elements=16, routes="hooks"))


def test_cosine_is_one_without_compression_and_leaves_nothing_behind() -> None:
    step, batch = parts()
    state = torch.get_rng_state()
    with session_of(step, zoo.Keep()) as session:
        found = gradient_cosine(step, session, batch)
    assert found.total == pytest.approx(1, abs=1e-12)
    assert found.smallest == pytest.approx(1, abs=1e-12)
    assert all(p.grad is None for p in step.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_cosine_is_that_of_the_gradients() -> None:
    step, batch = parts()
    session = session_of(step, zoo.Half())
    exact = step.gradients(batch)
    with session, session.step():
        near = step.gradients(batch)
    a, b = (torch.cat([g.flatten() for g in grads]).double() for grads in (exact, near))
    with session_of(step, zoo.Half()) as session:
        found = gradient_cosine(step, session, batch)
    assert found.total == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-12)
    assert found.smallest < found.total < 1


def test_a_gradient_that_is_gone_or_not_finite_is_the_smallest_cosine() -> None:
    def spoiled(value: float) -> float:
        class Spoils(zoo.Half):
            """Spoils what down's weight gradient is made of."""

            name = "spoils"

            def codec(self, site, generator):
                class SpoilsCodec(zoo.HalfCodec):
                    def encode(self, rows: Tensor):
                        return super().encode(rows * value if site.module.endswith("down") else rows)

                return SpoilsCodec()

        step, batch = parts(calls=1)
        with session_of(step, Spoils()) as session:
            return gradient_cosine(step, session, batch).smallest

    assert spoiled(0.0) == 0
    assert math.isnan(spoiled(math.nan))


def test_memory_of_half_precision_is_half_of_what_it_compresses() -> None:
    step, batch = parts()
    optimizer = torch.optim.SGD(step.model.parameters(), lr=0.0)
    before = [p.clone() for p in step.model.parameters()]
    with session_of(step, zoo.Half()) as session:
        memory = measure_memory(step, session, batch, optimizer, 0)
    compressed = [site for site in memory.sites if not site["reason"]]
    assert sum(s["kept_bytes"] for s in compressed) * 2 == sum(s["raw_bytes"] for s in compressed)
    spared = sum(s["raw_bytes"] - s["kept_bytes"] for s in compressed)
    assert memory.uncompressed_bytes - memory.saved_bytes == spared
    assert memory.peak_delta_bytes < memory.uncompressed_peak_delta_bytes
    assert memory.peak_delta_bytes > memory.saved_bytes
    assert all(torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))


def test_memory_without_a_strategy_is_the_uncompressed_one_to_the_byte() -> None:
    step, batch = parts()
    with session_of(step, zoo.Nothing()) as session:
        memory = measure_memory(step, session, batch, None, 0)
    assert memory.saved_bytes == memory.uncompressed_bytes
    assert memory.peak_delta_bytes == memory.uncompressed_peak_delta_bytes
    assert memory.peak_phase == "backward"


def test_what_codecs_hold_between_steps_counts_for_the_peak() -> None:
    class Hoarder(zoo.Copy):
        """Copies, and holds a megabyte at each site."""

        name = "hoarder"

        def codec(self, site, generator):
            class HoarderCodec(zoo.CopyCodec):
                hoard = torch.zeros(2**18)

                def state(self):
                    return (self.hoard,)

            return HoarderCodec()

    step, batch = parts()
    with session_of(step, zoo.Copy()) as session:
        copied = measure_memory(step, session, batch, None, 0)
    with session_of(step, Hoarder()) as session:
        hoarded = measure_memory(step, session, batch, None, 0)
    sites = sum(1 for site in hoarded.sites if not site["reason"])
    assert hoarded.state_bytes == sites * 2**20
    assert hoarded.peak_delta_bytes - copied.peak_delta_bytes == sites * 2**20


def test_timing_counts_pairs_and_leaves_no_gradients() -> None:
    step, batch = parts()
    with session_of(step, zoo.Half()) as session:
        time = measure_time(step, session, batch, 4)
    assert time.pairs == 4
    assert time.ratio_quartiles[0] <= time.ratio <= time.ratio_quartiles[1]
    assert all(p.grad is None for p in step.model.parameters())


@pytest.mark.parametrize("phase", PHASES)
def test_timing_finds_a_strategy_that_sleeps_and_says_when(phase: str) -> None:
    class SleepingPayload(zoo.Dense):
        def decode(self) -> Tensor:
            clock.sleep(0.05 * (phase == "backward"))
            return super().decode()

    class SleepsCodec(zoo.CopyCodec):
        def encode(self, rows: Tensor) -> zoo.Dense:
            clock.sleep(0.05 * (phase == "forward"))
            return SleepingPayload(rows.clone())

        def end_step(self) -> None:
            clock.sleep(0.05 * (phase == "update"))

    class Sleeps(zoo.Copy):
        """Sleeps at each site, in one of the phases."""

        name = "sleeps"

        def codec(self, site, generator):
            return SleepsCodec()

    step, batch = parts(calls=1)
    with session_of(step, Sleeps()) as session:
        time = measure_time(step, session, batch, 3)
    assert time.step_seconds - time.uncompressed_step_seconds > 0.05
    assert time.ratio > 2
    for name, found in time.phases.items():
        assert (found.seconds - found.uncompressed_seconds > 0.05) == (name == phase), name
    assert time.phases["update"].ratio is None
    assert all(time.phases[name].ratio > 0 for name in ("forward", "backward"))


def test_the_phases_of_a_step_add_up_to_it() -> None:
    step, batch = parts()
    with session_of(step, zoo.Half()) as session:
        compressed = time_step(step, session, batch)
        with session.paused():
            plain = time_step(step, None, batch)
    for taken in (compressed, plain):
        assert tuple(taken.phases) == PHASES
        assert all(seconds >= 0 for seconds in taken.phases.values())
        assert sum(taken.phases.values()) == pytest.approx(taken.seconds, rel=1e-9)


def test_memory_that_a_step_touches_for_the_first_time_is_counted_in_page_faults() -> None:
    class Maps(zoo.Copy):
        """Maps a megabyte of memory at each end of a step, page by page, and gives it back."""

        name = "maps"

        def codec(self, site, generator):
            class MapsCodec(zoo.CopyCodec):
                def end_step(self) -> None:
                    with mmap.mmap(-1, 2**20) as memory:
                        for start in range(0, 2**20, mmap.PAGESIZE):
                            memory[start] = 1

            return MapsCodec()

    step, batch = parts(calls=1)
    with session_of(step, Maps()) as session:
        time = measure_time(step, session, batch, 2)
        sites = sum(1 for site in session.sites() if not site.reason)
    assert time.page_faults - time.uncompressed_page_faults >= 0.5 * sites * 2**20 / mmap.PAGESIZE
