"""The memory and the arithmetic of a training step, found without running one: its code goes over fake tensors.

What runs is what a cell runs: the model, the session with the strategy, the optimiser, under the same ledgers as in the
memory pass. Tensors have shapes and no values, so that a step of any size takes the time of its Python and no memory
to speak of. Where a strategy would look at values, it is told what to expect (:meth:`Codec.expected`); where its rank
would follow from them, the rank is given (:meth:`Compressor.settled`).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compbench.capture import CaptureSettings, Session
from compbench.compressor import Compressor
from compbench.errors import CompbenchError, UnsupportedError
from compbench.measure.arithmetic import flop_counter
from compbench.measure.foresight import Extreme, Foresights, Settled, Statistics
from compbench.measure.live import static_bytes
from compbench.measure.memory import Uncompressed, step_memory
from compbench.measure.results import Flops
from compbench.measure.step import Step
from compbench.measure.without_values import NEEDS_VALUES, without_values
from compbench.records import Batch

_MOST_STEPS = 5
"""After which a strategy that has not settled is taken as it is."""


@dataclass(frozen=True)
class Estimate:
    """What a training step takes.

    Attributes:
        saved_bytes: unique storages held for backward at their maximum, in a step after those in which it calibrates.
        peak_delta_bytes: peak of live bytes over the static state in such a step.
        peak_phase: the phase in which that falls: forward, backward, update or optimizer.
        highest_peak_bytes: the highest such peak of all steps, calibration included.
        state_bytes: what the codecs hold between steps.
        parameters: elements of all parameters.
        static_bytes: what is there before a step of plain training: parameters, buffers, the optimiser's state.
        flops: of a step, by phase.
        sites: one entry a site, as :meth:`Session.sites` has it.
        undecided: names of the sites at which values decide what is kept, and nothing is known of them.
        about: names of those at which values decide, and a usual case was taken.
        held: whether values decide at any site, and what is known of them was taken.
    """

    saved_bytes: int
    peak_delta_bytes: int
    peak_phase: str
    highest_peak_bytes: int
    state_bytes: int
    parameters: int
    static_bytes: int
    flops: Flops
    sites: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    undecided: frozenset[str] = frozenset()
    about: frozenset[str] = frozenset()
    held: bool = False


def estimate(
    step: Step,
    compressor: Compressor | None,
    settings: CaptureSettings,
    batch: Batch,
    optimizer: Any,
    seed: int = 0,
    foresights: Foresights | None = None,
    statistics: Statistics | None = None,
    steps: int = 1_000_000,
    extreme: Extreme = "least",
) -> Estimate:
    """Estimates a step of a training under a strategy.

    Args:
        step: the model, which is as it was afterwards, without gradients.
        compressor: the strategy; None for plain training.
        settings: what is compressed.
        batch: the examples of one step.
        optimizer: makes the optimiser for a model; its learning rate plays no part.
        seed: seed of the strategy's random streams.
        foresights: what is known of strategies beforehand.
        statistics: what the strategy's figures are at each site at the end of the training, as far as they are known.
        steps: optimiser steps of the training.
        extreme: at sites of which nothing is known, what values leave open is settled where least or most is kept.

    Raises:
        UnsupportedError: the model or the strategy asks for values, or can't be estimated; the message names it.
    """
    settled = None
    if compressor is not None:
        settled = Settled.of(compressor, foresights or Foresights({}), statistics or {}, steps, extreme)
    strategy, capture = (Uncompressed(), CaptureSettings()) if settled is None else (settled, settings)
    try:
        with without_values(step.model, batch) as examples:
            found = _settled_step(step, Session(step.model, strategy, capture, seed), examples, optimizer(step.model))
    except NEEDS_VALUES as error:
        where = _culprit(error)
        raise UnsupportedError(f"{where} asks for a tensor's value, and there is none ({_said(error)})") from error
    except CompbenchError:
        raise
    except Exception as error:  # what a model or a plugin does with tensors that have no memory may raise anything
        raise UnsupportedError(f"{_culprit(error)} fails without values: {_said(error)}") from error
    finally:
        step.clear_gradients()
    return found if settled is None else replace(found, **settled.decisions())


def _settled_step(step: Step, session: Session, batch: Batch, optimizer: torch.optim.Optimizer) -> Estimate:
    """Steps until the strategy has settled, and what the last of them took."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    totals: list[int] = []
    with session:
        seen = [step_memory(step, session, batch, optimizer)]
        before, after = None, _signature(session)
        while after != before and len(seen) < _MOST_STEPS:
            totals.clear()
            with flop_counter() as counter:
                seen.append(step_memory(step, session, batch, optimizer, partial(_note, totals, counter)))
            before, after = after, _signature(session)
        sites = tuple(report.record() for report in session.sites())
        state_bytes = session.state_bytes
    parameters = list(step.model.parameters())
    of_optimizer = [value for state in optimizer.state.values() for value in state.values()]
    static = [*parameters, *step.model.buffers(), *(value for value in of_optimizer if isinstance(value, Tensor))]
    last = seen[-1]
    return Estimate(
        saved_bytes=last.saved_bytes,
        peak_delta_bytes=last.peak_bytes,
        peak_phase=last.peak_phase,
        highest_peak_bytes=max(memory.peak_bytes for memory in seen),
        state_bytes=state_bytes,
        parameters=sum(parameter.numel() for parameter in parameters),
        static_bytes=static_bytes(static),
        flops=Flops(forward=totals[1], backward=totals[2] - totals[1], update=totals[3] - totals[2]),
        sites=sites,
    )


def _signature(session: Session) -> object:
    """What stays the same from step to step once a settled strategy keeps what it goes on keeping.

    A site that does not pay by itself is raw until its calls are known, and then calibrates, a step later than others.
    """
    return session.state_bytes, [(site.name, bool(site.reason)) for site in session.sites()]


def _note(totals: list[int], counter: FlopCounterMode, phase: str) -> None:
    totals.append(counter.get_total_flops())


def _culprit(error: BaseException) -> str:
    """Where it went wrong: file, line and function of the last frame of a plugin or model, or else of compbench's own.

    Torch's frames, and those of the engine where it called what belongs to others, tell a user nothing.
    """
    own, library = str(Path(__file__).parents[1]), str(Path(torch.__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(library)]
    others = [frame for frame in frames if not frame.filename.startswith(own)]
    of_models = [frame for frame in frames if frame.filename.startswith(str(Path(own) / "workloads"))]
    last = (others or of_models or frames)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}, in {last.name}()"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
