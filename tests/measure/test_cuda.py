"""What only a CUDA device can show: allocator figures, device-side random streams, the thread of the backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from compbench import Chain
from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.measure.arithmetic import measure_arithmetic
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
        time = measure_time(step, session, batch, 2)
        assert time.ratio > 0
        phases = sum(phase.seconds for phase in time.phases.values())
        assert 0 < phases < 1.2 * time.step_seconds
        assert measure_arithmetic(step, session, batch).ratio >= 1


OF_TORCH = {"oracle_svd", "hosvd"}
"""Strategies that decompose in the forward pass by torch's ``eigh``, which waits for the device by itself."""

COMPILING = {"memory_budget"}
"""Strategies that leave the passes to graphs of torch's making."""

NEVER_WAITING = sorted(
    name
    for name, plugin in Registry.load().compressors.items()
    if plugin.record.__module__.startswith("compbench_plugins.") and name not in OF_TORCH | COMPILING
)

WAITED = "called a synchronizing CUDA operation"


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_waiting_is_noticed() -> None:
    x = torch.ones(3, device="cuda")
    with waiting_is_an_error(), pytest.raises(RuntimeError, match=WAITED):
        x.sum().item()


@pytest.mark.parametrize("name", [*NEVER_WAITING, "laser+int8"])
def test_the_host_never_waits_in_forward_and_backward_passes(name: str, parts: tuple[Step, Batch]) -> None:
    """The first steps warm up libraries, and calibrate ``auto``."""
    step, batch = parts
    if name == "laser+int8":
        registry = Registry.load()
        chain = Chain(members=(registry.compressor("laser", rank=16), registry.compressor("int8")))
        session = Session(step.model, chain, CaptureSettings())
    else:
        session = session_of(step, name)
    with session:
        for number in range(6):
            with session.step():
                with waiting_is_an_error() if number >= 2 else nullcontext():
                    step.loss(batch).backward()


@pytest.mark.parametrize("name", ["laser", "lance", "gale", "loract", "asi", "velora"])
def test_a_step_ends_with_one_wait_at_most(name: str, parts: tuple[Step, Batch]) -> None:
    step, batch = parts
    with session_of(step, name) as session:
        for number in range(6):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                with session.step():
                    step.loss(batch).backward()
                    torch.cuda.set_sync_debug_mode("warn" if number >= 2 else "default")
                torch.cuda.set_sync_debug_mode("default")
            assert sum(WAITED in str(warning.message) for warning in told) <= 1


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
