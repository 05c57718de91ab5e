"""One cell's life, in a process of its own: ``python -m compbench.run.cell SPEC OUT [--checkpoint FILE]``.

SPEC is a cell as JSON; OUT is where its record goes, whole or not at all; FILE is where its training is saved now and
then, from which another such process goes on. Passes follow one another: training (accuracy), a few steps under
instruments (arithmetic, memory), and interleaved steps without any (time). Gradients are compared with the exact ones
early and at the end of training. With ``--trace FOLDER`` a few more steps are traced when all that is done and the
record is written, so that no figure of it knows of them. The exit status is 0 whenever a record was written.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compbench.compressor import Compressor
from compbench.measure.arithmetic import measure_arithmetic
from compbench.measure.fidelity import GradientCosine, gradient_cosine
from compbench.measure.memory import measure_memory
from compbench.measure.results import Arithmetic, Fidelity, Memory, Time
from compbench.measure.timing import measure_time
from compbench.run.averaging import weights_of
from compbench.run.environment import describe_environment
from compbench.run.files import write_atomically
from compbench.run.preparing import Prepared, ended_by, prepare
from compbench.run.result import CellResult, Exactness, Status
from compbench.run.training import PROBED_STEP, Record, evaluate, tensor_hash, weights_hash
from compbench.run.training_state import Checkpointer, TrainingState, UnusableStateError
from compbench.run.turns import Turns
from compbench.run.validation import look, validation_steps
from compbench.suite.cell import Cell

Then = Callable[[CellResult, Prepared], None]
"""Is handed the record of a cell that has ended well, while its session is open still; raises nothing."""


@dataclass
class _Findings:
    """What has been found out so far; whatever happens next, it is in the record."""

    training: Record = field(default_factory=Record)
    values: dict[str, Any] = field(default_factory=dict)
    cosines: dict[int, GradientCosine] = field(default_factory=dict)
    memory: Memory | None = None
    time: Time | None = None
    arithmetic: Arithmetic | None = None


def run_cell(cell: Cell, checkpointer: Checkpointer | None = None, then: Then | None = None) -> CellResult:
    """Runs a cell and returns its record, whatever became of it; nothing but an interrupt is raised.

    Args:
        cell: the cell.
        checkpointer: saves its training now and then, and goes on with one that was saved; None trains in one go.
        then: what is done beside, when all figures are taken; it comes to nothing in the record.
    """
    started = datetime.datetime.now(datetime.UTC)
    clock = time.monotonic()
    findings = _Findings()

    def record(status: Status, reason: str) -> CellResult:
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

    try:
        with ExitStack() as stack:
            try:
                prepared = stack.enter_context(_run(cell, findings, checkpointer))
            except UnusableStateError as error:
                print(f"the checkpoint is removed, since it can't be loaded, and the training begins anew: {error}")
                findings = _Findings()
                prepared = stack.enter_context(_run(cell, findings, checkpointer))
            result = record("ok", "")
            if then is not None:
                then(result, prepared)
        return result
    except Exception as error:
        return record(*ended_by(error))


@contextmanager
def _run(cell: Cell, findings: _Findings, checkpointer: Checkpointer | None) -> Iterator[Prepared]:
    """All passes of a cell; the session is open until the context ends."""
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
    average = prepared.average
    state = TrainingState(
        step.model, optimizer, session, findings.training, findings.cosines, prepared.carried, average
    )

    def after(steps_done: int) -> None:
        if steps_done in probed:
            findings.cosines[steps_done] = gradient_cosine(step, session, unseen)
        if steps_done in looked_at:
            with weights_of(average):
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
            prepared.train(findings.training, after)
        with session.paused(), weights_of(average):
            metrics = evaluate(step, data.validation, batch_size, extra)
        findings.values["metrics"] = metrics
        if cell.measuring.validation_points != 0:
            findings.training.validation.append({"step": cell.training.steps, **metrics})
        findings.values["statistics"] = session.statistics()

        batch = step.batch(data.train, order[0])
        # A strategy that compresses nothing is plain autograd: its time ratio shows the noise of this measurement.
        timed = session if session.compresses else None
        with nullcontext() if timed else session.paused():
            if cell.measuring.flops:
                findings.arithmetic = measure_arithmetic(step, timed, batch)
        if cell.measuring.memory:
            # The steps that were counted have warmed up what the memory pass would.
            findings.memory = measure_memory(
                step,
                session,
                batch,
                optimizer,
                findings.training.peak_saved_bytes,
                warm_up=findings.arithmetic is None,
            )
        if cell.measuring.time_pairs:
            with nullcontext() if timed else session.paused(), turns.alone() as alone:
                found = measure_time(step, timed, batch, cell.measuring.time_pairs)
            findings.time = found.model_copy(update={"alone": alone})
        yield prepared


def _exactness(compressor: Compressor) -> Exactness:
    if compressor.exact:
        return "exact"
    return "lossless" if compressor.lossless else "lossy"


def _fidelity(cosines: dict[int, GradientCosine], cell: Cell) -> Fidelity | None:
    last = cosines.get(cell.training.steps)
    if last is None:
        return None
    return Fidelity(
        gradient_cosine_start=cosines[min(cosines)].total,
        gradient_cosine=last.total,
        smallest_parameter_cosine=last.smallest,
    )


def main(arguments: list[str]) -> int:
    """Reads SPEC, runs the cell and writes OUT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m compbench.run.cell", description="Runs one cell.")
    parser.add_argument("spec", type=Path, metavar="SPEC", help="the cell, as JSON")
    parser.add_argument("out", type=Path, metavar="OUT", help="where its record goes")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="where its training is saved, and gone on from")
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0, metavar="N", help="how often it is saved")
    parser.add_argument("--trace", type=Path, metavar="FOLDER", help="where the trace of some more steps goes")
    parser.add_argument("--trace-steps", type=int, default=3, metavar="N", help="how many steps are traced")
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

    def trace(result: CellResult, prepared: Prepared) -> None:
        _write(options.out, result)  # First, so that nothing that becomes of the trace takes the record with it.
        # Only now: what a cell loads before it is measured is the same with and without a trace.
        from compbench.run.tracing import TraceSettings, trace_prepared, write_description

        settings = TraceSettings(options.trace_steps)
        traced = trace_prepared(cell, prepared, settings, options.trace, cell.training.steps)
        write_description(options.trace, traced)
        print("trace:", traced.status, traced.reason)

    result = run_cell(cell, checkpointer, trace if options.trace is not None else None)
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
