"""The memory pass: saved bytes (tier 1), peak over the static state (tier 2) and the process' peak (tier 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compbench.capture import CaptureSettings, Session
from compbench.compressor import Codec, Compressor, Site
from compbench.measure.live import LiveLedger, resident_peak_bytes
from compbench.measure.results import Memory
from compbench.measure.step import Step
from compbench.records import Batch


class Uncompressed(Compressor):
    """Autograd as it is: what every strategy's memory is compared with."""

    name = "uncompressed"
    exact = True

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        """None: nothing is compressed."""
        return None


@dataclass(frozen=True)
class StepMemory:
    """The memory of one step.

    Attributes:
        saved_bytes: unique storages held for backward at their maximum.
        peak_bytes: peak of live bytes over the static state of plain training; what codecs hold between steps is added.
        peak_phase: ``forward``, ``backward``, ``update`` or ``optimizer``.
        allocator_peak_bytes: CUDA's allocator peak over what was allocated before the step, plus the codecs' state.
    """

    saved_bytes: int
    peak_bytes: int
    peak_phase: str
    allocator_peak_bytes: int | None


def step_memory(
    step: Step,
    session: Session,
    batch: Batch,
    optimizer: torch.optim.Optimizer | None,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> StepMemory:
    """Runs one whole training step under instruments; the session must be open, and a step be behind it.

    Args:
        step: the model.
        session: its session.
        batch: the examples.
        optimizer: takes part in the step, if there is one.
        on_phase: is told of every phase that begins, and of the end by an empty name.
    """
    cuda = step.device.type == "cuda"
    step.clear_gradients()
    state_bytes = session.state_bytes
    before = 0
    if cuda:
        step.synchronize()
        torch.cuda.reset_peak_memory_stats(step.device)
        before = torch.cuda.memory_allocated(step.device)
    with LiveLedger() as ledger:

        def begin(phase: str) -> None:
            ledger.phase = phase
            on_phase(phase)

        with session.step():
            begin("forward")
            loss = step.loss(batch)
            begin("backward")
            loss.backward()
            del loss
            begin("update")
        begin("optimizer")
        if optimizer is not None:
            optimizer.step()
        on_phase("")
    allocator = torch.cuda.max_memory_allocated(step.device) - before + state_bytes if cuda else None
    return StepMemory(session.peak_saved_bytes, ledger.peak_bytes + state_bytes, ledger.peak_phase, allocator)


def measure_memory(
    step: Step,
    session: Session,
    batch: Batch,
    optimizer: torch.optim.Optimizer | None,
    training_peak_saved_bytes: int,
    warm_up: bool = True,
) -> Memory:
    """Measures a step under the strategy and an uncompressed one, on the same batch.

    Each is measured after a step of its own, so that libraries' workspaces and optimiser state are there.

    Args:
        step: the model.
        session: its session, open.
        batch: the examples of a training step.
        optimizer: takes part in the step; its learning rate should be zero, so that weights stay.
        training_peak_saved_bytes: the most that was held for backward in any training step.
        warm_up: whether that step is still to be done; else there were one of each since the last evaluation.
    """
    plain = Session(step.model, Uncompressed(), CaptureSettings())
    with session.paused(), plain:
        if warm_up:
            step_memory(step, plain, batch, optimizer)
        uncompressed = step_memory(step, plain, batch, optimizer)
    if warm_up:
        step_memory(step, session, batch, optimizer)
    compressed = step_memory(step, session, batch, optimizer)
    step.clear_gradients()
    return Memory(
        saved_bytes=compressed.saved_bytes,
        uncompressed_bytes=uncompressed.saved_bytes,
        training_peak_saved_bytes=training_peak_saved_bytes,
        state_bytes=session.state_bytes,
        peak_delta_bytes=compressed.peak_bytes,
        uncompressed_peak_delta_bytes=uncompressed.peak_bytes,
        peak_phase=compressed.peak_phase,
        allocator_peak_delta_bytes=compressed.allocator_peak_bytes,
        uncompressed_allocator_peak_delta_bytes=uncompressed.allocator_peak_bytes,
        process_peak_bytes=resident_peak_bytes(),
        sites=[report.record() for report in session.sites()],
    )
