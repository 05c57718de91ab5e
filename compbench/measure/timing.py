"""The timing pass: a strategy's step as a ratio to the uncompressed step, interleaved in one process."""

from __future__ import annotations

import gc
import os
import statistics
import time
from contextlib import nullcontext

import torch

from compbench.capture import Session
from compbench.measure.results import Time
from compbench.measure.step import Step
from compbench.records import Batch


def measure_time(step: Step, session: Session | None, batch: Batch, pairs: int) -> Time:
    """Times pairs of one compressed and one uncompressed step, the order turning from pair to pair.

    A step is forward, backward and the strategy's end of step; the optimiser, which is the same for both, is left out.

    Args:
        step: the model.
        session: its session, open; None times the uncompressed step against itself.
        batch: the examples of a training step.
        pairs: how many pairs, at least 1; one more is run first and not counted.
    """
    compressed: list[float] = []
    plain: list[float] = []
    # What is there now needs no looking through: without it, collecting before each step takes no time.
    gc.collect()
    gc.freeze()
    try:
        for pair in range(-1, pairs):
            order = [(session, compressed), (None, plain)]
            for measured, seconds in order if pair % 2 else reversed(order):
                with session.paused() if session is not None and measured is None else nullcontext():
                    taken = _step_seconds(step, measured, batch)
                if pair >= 0:
                    seconds.append(taken)
    finally:
        gc.unfreeze()
    step.clear_gradients()
    ratios = [a / b for a, b in zip(compressed, plain, strict=True)]
    lower, _, upper = statistics.quantiles(ratios, n=4, method="inclusive") if pairs > 1 else ratios * 3
    return Time(
        ratio=statistics.median(ratios),
        ratio_quartiles=(lower, upper),
        pairs=pairs,
        step_seconds=statistics.median(compressed),
        uncompressed_step_seconds=statistics.median(plain),
        threads=torch.get_num_threads(),
        allocator=os.environ.get("GLIBC_TUNABLES", "default"),
    )


def _step_seconds(step: Step, session: Session | None, batch: Batch) -> float:
    step.clear_gradients()
    gc.collect()
    step.synchronize()
    start = time.perf_counter()
    with session.step() if session is not None else nullcontext():
        step.loss(batch).backward()
    step.synchronize()
    return time.perf_counter() - start
