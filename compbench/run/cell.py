"""One cell's life, in a process of its own: ``python -m compbench.run.cell SPEC OUT [--checkpoint FILE]``.

SPEC is a cell as JSON; OUT is where its record goes, whole or not at all; FILE is where its training is saved now and
then, from which another such process goes on. Three passes follow one another: training
(accuracy), a few steps under instruments (memory), and interleaved steps without any (time); the last steps count the
arithmetic. Gradients are compared with the exact ones early and at the end of training. The exit status is 0 whenever a
record was written.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from compbench.capture import Session
from compbench.compressor import Compressor
from compbench.errors import CompbenchError, PluginError, SettingsError, UnsupportedError
from compbench.measure.arithmetic import measure_arithmetic
from compbench.measure.fidelity import GradientCosine, gradient_cosine
from compbench.measure.memory import measure_memory
from compbench.measure.results import Arithmetic, Fidelity, Memory, Time
from compbench.measure.step import Step
from compbench.measure.timing import measure_time
from compbench.registry import Reference, Registry
from compbench.run.environment import describe_environment
from compbench.run.exhaustion import out_of_memory
from compbench.run.files import write_atomically
from compbench.run.lean import PlainMeta
from compbench.run.result import CellResult, Exactness, Status
from compbench.run.training import (
    PROBED_STEP,
    DivergedError,
    Record,
    evaluate,
    example_order,
    make_optimizer,
    tensor_hash,
    train,
    weights_hash,
)
from compbench.run.training_state import Checkpointer, TrainingState, UnusableStateError
from compbench.run.turns import Turns
from compbench.run.validation import look, validation_steps
from compbench.seeds import generator, stream
from compbench.suite.cell import Cell, PluginReference
from compbench.workloads.base import Data


@dataclass
class _Findings:
    """What has been found out so far; whatever happens next, it is in the record."""

    training: Record = field(default_factory=Record)
    values: dict[str, Any] = field(default_factory=dict)
    cosines: dict[int, GradientCosine] = field(default_factory=dict)
    memory: Memory | None = None
    time: Time | None = None
    arithmetic: Arithmetic | None = None


def run_cell(cell: Cell, checkpointer: Checkpointer | None = None) -> CellResult:
    """Runs a cell and returns its record, whatever became of it; nothing but an interrupt is raised.

    Args:
        cell: the cell.
        checkpointer: saves its training now and then, and goes on with one that was saved; None trains in one go.
    """
    started = datetime.datetime.now(datetime.UTC)
    clock = time.monotonic()
    findings = _Findings()
    status: Status
    status, reason = "ok", ""
    try:
        try:
            _run(cell, findings, checkpointer)
        except UnusableStateError as error:
            print(f"the checkpoint is removed, since it can't be loaded, and the training begins anew: {error}")
            findings = _Findings()
            _run(cell, findings, checkpointer)
    except Exception as error:
        status, reason = ended_by(error)
    earlier_seconds = checkpointer.earlier_seconds if checkpointer else 0.0
    return CellResult(
        key=cell.key,
        cell=cell,
        status=status,
        reason=reason,
        started_at=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - clock + earlier_seconds,
        earlier_seconds=earlier_seconds,
        resumed_from=checkpointer.resumed_from if checkpointer else [],
        loss_curve=findings.training.loss_curve,
        statistics_curve=findings.training.statistics,
        site_curves=findings.training.sites,
        validation_curve=findings.training.validation,
        skipped_batches=findings.training.skipped_batches,
        fidelity=_fidelity(findings.cosines, cell),
        memory=findings.memory,
        time=findings.time,
        arithmetic=findings.arithmetic,
        environment=describe_environment(),
        **findings.values,
    )


def ended_by(error: Exception) -> tuple[Status, str]:
    """The status of a cell that an exception has ended, and the reason; what needs looking into goes to the log."""
    match error:
        case UnsupportedError():
            return "unsupported", str(error)
        case DivergedError():
            return "diverged", str(error)
    evidence = out_of_memory(error)
    traceback.print_exception(error)
    if evidence is not None:
        line = _one_line(error)
        return "oom", line if line.startswith(evidence) else f"{line} ({evidence})"
    return "failed", str(error) if isinstance(error, CompbenchError) else _one_line(error)


@dataclass
class Prepared:
    """A cell before its first step: the model with its data, and the strategy's session, which is not open yet.

    Attributes:
        order: the training examples of every step, ``(steps, batch_size)``.
        sources: hashes of the files that define strategy and workload.
    """

    registry: Registry
    step: Step
    session: Session
    data: Data
    order: Tensor
    optimizer: torch.optim.AdamW
    sources: dict[str, str]


def prepare(cell: Cell) -> Prepared:
    """Makes what a cell trains, from its seed alone; draws on torch's global random stream, which it seeds.

    Raises:
        PluginError: a plugin is not the one that the suite was validated with, or can't be loaded.
        SettingsError: the device is not there, or a batch is larger than the training set.
    """
    registry = Registry.load(Path(cell.plugins_dir) if cell.plugins_dir else None)
    workload = registry.workload(cell.workload.name, **cell.workload.fields).at_depth(cell.depth)
    compressor = registry.compressor([{member.name: member.fields} for member in cell.strategy])
    _check_source("workload", cell.workload, *registry.reference(workload))
    for reference, found in zip(cell.strategy, registry.reference(compressor), strict=True):
        _check_source("strategy", reference, found)

    device = torch.device(cell.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device '{cell.device}' is not there (available: cpu)")
    torch.manual_seed(stream(cell.seed, "global"))
    data = workload.data(stream(cell.seed, "data"))
    with PlainMeta():
        model = workload.build(generator(cell.seed, "initialisation"))
    step = Step(workload, model.to(device), device, cell.training.precision)
    order = example_order(len(next(iter(data.train.values()))), cell.training, cell.seed)
    session = Session(model, compressor, cell.capture, cell.seed)
    sources = registry.sources(workload) | registry.sources(compressor)
    return Prepared(registry, step, session, data, order, make_optimizer(model, cell.training), sources)


def _run(cell: Cell, findings: _Findings, checkpointer: Checkpointer | None) -> None:
    prepared = prepare(cell)
    findings.values["sources"] = prepared.sources
    findings.values["exactness"] = _exactness(prepared.session.compressor)
    step, session, data, order = prepared.step, prepared.session, prepared.data, prepared.order
    optimizer = prepared.optimizer
    findings.values["weights_hash"] = weights_hash(step.model)
    findings.values["parameters"] = sum(parameter.numel() for parameter in step.model.parameters())
    findings.values["order_hash"] = tensor_hash(order)
    unseen = step.batch(data.validation, slice(cell.training.batch_size))

    probed = {min(PROBED_STEP, cell.training.steps), cell.training.steps} if cell.measuring.gradient_cosine else set()

    extra = [registered.record for registered in prepared.registry.metrics.values()]
    examples, batch_size = len(next(iter(data.validation.values()))), 4 * cell.training.batch_size
    looked_at = validation_steps(cell.measuring.validation_points, cell.training, examples)

    turns = Turns.inherited()
    state = TrainingState(step.model, optimizer, session, findings.training, findings.cosines)

    def after(steps_done: int) -> None:
        if steps_done in probed:
            findings.cosines[steps_done] = gradient_cosine(step, session, unseen)
        if steps_done in looked_at:
            metrics = look(step, session, data.validation, batch_size, extra)
            findings.training.validation.append({"step": steps_done, **metrics})
        if checkpointer:
            checkpointer.after(steps_done, state)
        with checkpointer.between(steps_done, state) if checkpointer else nullcontext():
            turns.give_way()

    with session:
        with checkpointer.saving_when_stopped() if checkpointer else nullcontext():
            if checkpointer:
                checkpointer.resume(state)
            train(step, session, data.train, order, optimizer, cell.training, findings.training, after)
        with session.paused():
            metrics = evaluate(step, data.validation, batch_size, extra)
        findings.values["metrics"] = metrics
        if cell.measuring.validation_points != 0:
            findings.training.validation.append({"step": cell.training.steps, **metrics})
        findings.values["statistics"] = session.statistics()

        batch = step.batch(data.train, order[0])
        if cell.measuring.memory:
            findings.memory = measure_memory(step, session, batch, optimizer, findings.training.peak_saved_bytes)
        # A strategy that compresses nothing is plain autograd: its time ratio shows the noise of this measurement.
        timed = session if session.compresses else None
        with nullcontext() if timed else session.paused():
            if cell.measuring.time_pairs:
                with turns.alone() as alone:
                    found = measure_time(step, timed, batch, cell.measuring.time_pairs)
                findings.time = found.model_copy(update={"alone": alone})
            if cell.measuring.flops:
                findings.arithmetic = measure_arithmetic(step, timed, batch)


def _exactness(compressor: Compressor) -> Exactness:
    if compressor.exact:
        return "exact"
    return "lossless" if compressor.lossless else "lossy"


def _check_source(kind: str, reference: PluginReference, found: Reference) -> None:
    """The plugin must be the one that the suite was validated with: its source is part of the cell's identity."""
    if reference.source and found.source != reference.source:
        raise PluginError(f"{kind} '{reference.name}' has changed since the run began; run again")


def _fidelity(cosines: dict[int, GradientCosine], cell: Cell) -> Fidelity | None:
    last = cosines.get(cell.training.steps)
    if last is None:
        return None
    return Fidelity(
        gradient_cosine_start=cosines[min(cosines)].total,
        gradient_cosine=last.total,
        smallest_parameter_cosine=last.smallest,
    )


def _one_line(error: BaseException) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0]}" if first else type(error).__name__


def main(arguments: list[str]) -> int:
    """Reads SPEC, runs the cell and writes OUT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m compbench.run.cell", description="Runs one cell.")
    parser.add_argument("spec", type=Path, metavar="SPEC", help="the cell, as JSON")
    parser.add_argument("out", type=Path, metavar="OUT", help="where its record goes")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="where its training is saved, and gone on from")
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0, metavar="N", help="how often it is saved")
    options = parser.parse_args(arguments)
    try:
        cell = Cell.model_validate_json(options.spec.read_text())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        print(f"error: {options.spec} is not a cell: {error}", file=sys.stderr)
        return 2
    checkpointer = None
    if options.checkpoint is not None:
        checkpointer = Checkpointer(
            options.checkpoint, cell.key, cell.training.steps, 60 * options.checkpoint_minutes, _say
        )
    result = run_cell(cell, checkpointer)
    print(result.status, result.reason)
    return _write(options.out, result)


def _write(out: Path, result: CellResult) -> int:
    """Writes the record; on a full disk, one that says so. The exit status is 1 where there is no room for that."""
    try:
        write_atomically(out, result.model_dump_json(indent=1))
    except OSError as error:
        why = f"the record, of a cell that ended {result.status}, can't be written: {error.strerror or error}"
        failed = CellResult(key=result.key, cell=result.cell, status="failed", reason=why)
        try:
            write_atomically(out, failed.model_dump_json())
        except OSError:
            print(why)
            return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
