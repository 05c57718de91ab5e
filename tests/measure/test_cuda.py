"""What only a CUDA device can show: allocator figures, device-side random streams, the thread of the backward pass."""

from __future__ import annotations

import pytest
import torch

from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.measure.fidelity import gradient_cosine
from compbench.measure.memory import measure_memory
from compbench.measure.step import Step
from compbench.measure.timing import measure_time
from compbench.records import Batch
from compbench.registry import Registry
from compbench.seeds import generator
from compbench.workloads.trm_maze import TRMMaze

pytestmark = pytest.mark.gpu

STRATEGIES = ["identity", "laser", "lance", "gale", "loract", "int8"]


@pytest.fixture
def parts() -> tuple[Step, Batch]:
    device = torch.device("cuda")
    workload = TRMMaze(grid=7, hidden=64, heads=2, inner=192, train_mazes=64, validation_mazes=32).at_depth(4)
    model = workload.build(generator(0, "initialisation")).to(device)
    step = Step(workload, model, device, "bf16")
    return step, step.batch(workload.data(0).train, slice(64))


def session_of(step: Step, name: str) -> Session:
    registry = Registry.load()
    fields = {"rank": 16} if "rank" in registry.compressors[name].record.model_fields else {}
    return Session(step.model, registry.compressor(name, **fields), CaptureSettings())


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_pass_runs_on_the_device(name: str, parts: tuple[Step, Batch]) -> None:
    step, batch = parts
    session = session_of(step, name)
    with session:
        for _ in range(3):
            with session.step():
                step.loss(batch).backward()
        assert gradient_cosine(step, session, batch).total > 0.5
        memory = measure_memory(step, session, batch, None, 0)
        assert memory.allocator_peak_delta_bytes is not None
        if name != "identity":
            assert memory.saved_bytes < memory.uncompressed_bytes
            assert memory.allocator_peak_delta_bytes < memory.uncompressed_allocator_peak_delta_bytes
        assert measure_time(step, session, batch, 2).ratio > 0


def test_the_ledger_and_the_allocator_agree_on_a_plain_step(parts: tuple[Step, Batch]) -> None:
    step, batch = parts
    with session_of(step, "none") as session:
        memory = measure_memory(step, session, batch, None, 0)
    assert memory.peak_delta_bytes == pytest.approx(memory.allocator_peak_delta_bytes, rel=0.05)


def test_identity_is_bit_identical_to_no_session(parts: tuple[Step, Batch]) -> None:
    step, batch = parts
    exact = step.gradients(batch)
    session = session_of(step, "identity")
    with session, session.step():
        kept = step.gradients(batch)
    assert all(torch.equal(a, b) for a, b in zip(exact, kept, strict=True))
