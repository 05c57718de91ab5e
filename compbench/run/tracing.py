"""Cells under torch's profiler, each in a process of its own: ``python -m compbench.run.tracing SPEC OUT FOLDER N M``.

SPEC is a cell as JSON, made ready as for a run; it trains M steps, the first of its training, and then N steps are
traced under its strategy and N plain ones. OUT is where the times go as JSON; the traces go to FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from compbench.errors import StoreError
from compbench.measure.tracing import Trace, trace_steps
from compbench.run.cell import ended_by, prepare
from compbench.run.cell_process import Limits, ProcessEnd, module_command
from compbench.run.ending import result_of
from compbench.run.executor import Ended, Started
from compbench.run.files import write_atomically
from compbench.run.pending import Pending
from compbench.run.result import Status
from compbench.run.scheduler import Scheduler
from compbench.run.slots import plan_slots
from compbench.run.training import Record, train
from compbench.suite.cell import Cell
from compbench.suite.suite import Suite


class CellTrace(BaseModel):
    """What became of tracing one cell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    status: Status
    reason: str = Field("", description="why there is no trace, in one line")
    trained_steps: int = Field(0, description="steps under the strategy before those that were traced")
    calibrated: float | None = Field(None, description="share of the sites that are calibrated, where they tell it")
    trace: Trace | None = None


def trace_cell(cell: Cell, folder: Path, steps: int, warmup: int) -> CellTrace:
    """Traces one cell in this process; whatever became of it is in what is returned.

    Args:
        cell: The cell.
        folder: Where its traces go.
        steps: How many steps of each kind are traced.
        warmup: How many training steps come first, at most as many as the cell trains.
    """
    try:
        prepared = prepare(cell)
        step, session = prepared.step, prepared.session
        order = prepared.order[:warmup]
        with session:
            train(step, session, prepared.data.train, order, prepared.optimizer, cell.training, Record(), _no_probe)
            # As in a run: what compresses nothing is plain autograd.
            traced = session if session.compresses else None
            with nullcontext() if traced else session.paused():
                trace = trace_steps(step, traced, step.batch(prepared.data.train, order[0]), steps, folder)
            calibrated = session.statistics().get("calibrated")
    except Exception as error:
        status, reason = ended_by(error)
        return CellTrace(cell=cell, status=status, reason=reason)
    return CellTrace(cell=cell, status="ok", trained_steps=len(order), calibrated=calibrated, trace=trace)


def _no_probe(steps_done: int) -> None:
    """Nothing is looked at in the training."""


@dataclass
class Tracer:
    """Traces cells of a suite one after the other, each in a process with the environment that a run gives it.

    Args:
        suite: The suite; its device, threads and timeout hold.
        directory: Where each cell gets a folder of its key's name.
        steps: How many steps of each kind are traced.
        warmup: How many training steps come first.
        tell: Is handed each cell that begins.
    """

    suite: Suite
    directory: Path
    steps: int
    warmup: int
    tell: Callable[[Cell], None]
    stopped_by: int | None = field(default=None, init=False)
    """The signal that interrupted the tracing, if one has."""

    def run(self, cells: Sequence[Cell]) -> Iterator[CellTrace]:
        """Traces the cells, and gives each result as it is there.

        Raises:
            SettingsError: The device is not there.
            StoreError: The folder can't be written.
        """
        slots = plan_slots(self.suite.device, 1, self.suite.threads)
        for cell in cells:
            try:
                self.folder(cell).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"can't write to {self.folder(cell)}: {error.strerror or error}") from error
        limits = Limits(self.suite.timeout_seconds, memory_bytes=self.suite.memory_limit)
        by_key = {cell.key: cell for cell in cells}

        def command(spec: Path, out: Path) -> list[str]:
            folder = self.folder(by_key[spec.name.removesuffix(".cell.json")])
            numbers = str(self.steps), str(self.warmup)
            return module_command("compbench.run.tracing", str(spec), str(out), str(folder), *numbers)

        with (
            Scheduler(slots, limits, command) as scheduler,
            closing(scheduler.run(Pending(cells), self.log_path)) as events,
        ):
            for event in events:
                match event:
                    case Started(cell):
                        self.tell(cell)
                    case Ended(cell, _, end) if not end.interrupted:
                        yield self._result(cell, end, limits)
            self.stopped_by = scheduler.stopped_by

    def folder(self, cell: Cell) -> Path:
        """Where the traces of a cell go."""
        return self.directory / cell.key

    def log_path(self, key: str) -> Path:
        """Where goes what a cell's process prints."""
        return self.directory / key / "trace.log"

    def _result(self, cell: Cell, end: ProcessEnd, limits: Limits) -> CellTrace:
        if end.record is not None:
            return CellTrace.model_validate_json(end.record)
        how = result_of(cell, end, self.log_path(cell.key), "", limits)
        status, reason = ("crashed", "") if how is None else (how.status, how.reason)
        return CellTrace(cell=cell, status=status, reason=reason)


def main(arguments: list[str]) -> int:
    """Reads SPEC, traces the cell and writes OUT; returns the exit status."""
    if len(arguments) != 5:
        print("usage: python -m compbench.run.tracing SPEC OUT FOLDER N M", file=sys.stderr)
        return 2
    spec, out, folder = map(Path, arguments[:3])
    steps, warmup = map(int, arguments[3:])
    cell = Cell.model_validate_json(spec.read_text(encoding="utf-8"))
    result = trace_cell(cell, folder, steps, warmup)
    print(result.status, result.reason)
    write_atomically(out, result.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
