"""The timing pass: a strategy's step as a ratio to the uncompressed step, interleaved in one process."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

import torch

from compbench.capture import Session
from compbench.measure.allocator import describe_allocator
from compbench.measure.results import Phase, PhaseName, Time
from compbench.measure.step import Step
from compbench.records import Batch

PHASES: tuple[PhaseName, ...] = get_args(PhaseName)


@dataclass(frozen=True)
class StepTime:
    """The clock's readings of one step.

    Attributes:
        seconds: the whole step.
        phases: seconds of each phase. On the CPU they add up to the whole; on a GPU they are the device's own, and
            leave out what the host needs to start its first operation and to learn that the last has ended.
        page_faults: minor page faults of the whole process meanwhile.
    """

    seconds: float
    phases: dict[PhaseName, float]
    page_faults: int


def measure_time(step: Step, session: Session | None, batch: Batch, pairs: int) -> Time:
    """Times pairs of one compressed and one uncompressed step, the order turning from pair to pair.

    A step is forward, backward and the strategy's end of step; the optimiser, which is the same for both, is left out.

    Args:
        step: the model.
        session: its session, open; None times the uncompressed step against itself.
        batch: the examples of a training step.
        pairs: how many pairs, at least 1; one more is run first and not counted.
    """
    compressed: list[StepTime] = []
    plain: list[StepTime] = []
    # What is there now needs no looking through: without it, collecting before each step takes no time.
    gc.collect()
    gc.freeze()
    try:
        for pair in range(-1, pairs):
            order = [(session, compressed), (None, plain)]
            for measured, times in order if pair % 2 else reversed(order):
                with session.paused() if session is not None and measured is None else nullcontext():
                    taken = time_step(step, measured, batch)
                if pair >= 0:
                    times.append(taken)
    finally:
        gc.unfreeze()
    step.clear_gradients()
    ratio, quartiles = _ratio([t.seconds for t in compressed], [t.seconds for t in plain])
    return Time(
        ratio=ratio,
        ratio_quartiles=quartiles,
        pairs=pairs,
        step_seconds=statistics.median(t.seconds for t in compressed),
        uncompressed_step_seconds=statistics.median(t.seconds for t in plain),
        threads=torch.get_num_threads(),
        allocator=describe_allocator(),
        phases={phase: _phase(phase, compressed, plain) for phase in PHASES},
        page_faults=statistics.median_low(t.page_faults for t in compressed),
        uncompressed_page_faults=statistics.median_low(t.page_faults for t in plain),
    )


def time_step(step: Step, session: Session | None, batch: Batch) -> StepTime:
    """Times one step; ``session`` is open, or None for an uncompressed step."""
    step.clear_gradients()
    gc.collect()
    step.synchronize()
    faults = _page_faults()
    marks = _Marks(step.device)
    with session.step() if session is not None else nullcontext():
        loss = step.loss(batch)
        marks.set()
        loss.backward()
        del loss  # and the graph with it, as where nothing but the backward pass refers to it
        marks.set()
    marks.set()
    step.synchronize()
    seconds = marks.seconds_so_far()
    return StepTime(seconds, dict(zip(PHASES, marks.durations(), strict=True)), _page_faults() - faults)


class _Marks:
    """Moments of a step: the clock's on the CPU; on a GPU those at which the device comes by. Nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._events: list[torch.cuda.Event] = []
        self._moments: list[float] = []
        self.set()

    def set(self) -> None:
        if self._stream is not None:
            self._events.append(self._stream.record_event(torch.cuda.Event(enable_timing=True)))
        self._moments.append(time.perf_counter())

    def seconds_so_far(self) -> float:
        """Seconds from the first mark to the last; on a GPU to now, which the caller has waited for."""
        end = self._moments[-1] if self._stream is None else time.perf_counter()
        return end - self._moments[0]

    def durations(self) -> list[float]:
        """Seconds between one mark and the next."""
        if self._stream is not None:
            return [a.elapsed_time(b) / 1000 for a, b in pairwise(self._events)]
        return [b - a for a, b in pairwise(self._moments)]


def _phase(phase: PhaseName, compressed: Sequence[StepTime], plain: Sequence[StepTime]) -> Phase:
    taken, without = ([t.phases[phase] for t in times] for times in (compressed, plain))
    # A plain step has no update: what the clock reads there is the clock.
    ratio, quartiles = (None, None) if phase == "update" else _ratio(taken, without)
    return Phase(
        seconds=statistics.median(taken),
        uncompressed_seconds=statistics.median(without),
        ratio=ratio,
        ratio_quartiles=quartiles,
    )


def _ratio(compressed: Sequence[float], plain: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The median of the pairs' ratios, and their quartiles."""
    ratios = [a / b for a, b in zip(compressed, plain, strict=True)]
    lower, _, upper = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return statistics.median(ratios), (lower, upper)


def _page_faults() -> int:
    """Minor page faults of this process so far: first touches of memory that the system had not given it yet."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
