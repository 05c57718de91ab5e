"""Cells under torch's profiler, each in a process of its own: ``python -m compbench.run.tracing SPEC OUT FOLDER``.

SPEC is a cell as JSON, made ready as for a run; it trains a few steps, the first of its training, and then some are
traced under its strategy and as many plain ones. OUT is where the times go as JSON; the traces go to FOLDER. A run that
is asked to trace does the same at the end of each of its cells, after the whole training.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compbench.errors import StoreError
from compbench.measure.tracing import Trace, trace_steps
from compbench.run.cell_process import Limits, ProcessEnd, module_command
from compbench.run.ending import result_of
from compbench.run.executor import Ended, Started
from compbench.run.files import write_atomically
from compbench.run.pending import Pending
from compbench.run.preparing import Prepared, ended_by, prepare
from compbench.run.result import Status
from compbench.run.scheduler import Scheduler
from compbench.run.slots import plan_slots
from compbench.run.trace_folder import DESCRIPTION
from compbench.run.training import Record
from compbench.run.turns import Turns
from compbench.suite.cell import Cell


@dataclass(frozen=True)
class TraceSettings:
    """What is traced.

    Attributes:
        steps: How many steps of each kind, at most.
        stacks: Whether every Python function is noted.
    """

    steps: int
    stacks: bool = False


class CellTrace(BaseModel):
    """What became of tracing one cell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    status: Status
    reason: str = Field("", description="why there is no trace, in one line")
    trained_steps: int = Field(0, description="steps under the strategy before those that were traced")
    asked_steps: int = Field(0, description="steps of each kind that were asked for")
    calibrated: float | None = Field(None, description="share of the sites calibrated by then, where they tell it")
    alone: bool | None = Field(None, description="whether other cells on the same cores or GPU had paused meanwhile")
    trace: Trace | None = None

    def record(self) -> dict[str, Any]:
        """As plain data that names no folder of this machine; the folder of the traces has the name of the key."""
        cell = self.cell
        return {
            "key": cell.key,
            "arm": cell.arm,
            "label": cell.label,
            "depth": cell.depth,
            "seed": cell.seed,
            "variant": cell.variant,
            **self.model_dump(mode="json", exclude={"cell"}),
        }


def trace_cell(cell: Cell, folder: Path, settings: TraceSettings, warmup: int) -> CellTrace:
    """Traces one cell in this process; whatever became of it is in what is returned.

    Args:
        cell: The cell.
        folder: Where its traces go.
        settings: What is traced.
        warmup: How many training steps come first, at most as many as the cell trains.
    """
    try:
        prepared = prepare(cell)
        order = prepared.order[:warmup]
        with prepared.session:
            prepared.train(Record(), _no_probe, order)
            return trace_prepared(cell, prepared, settings, folder, len(order))
    except Exception as error:
        status, reason = ended_by(error)
        return CellTrace(cell=cell, status=status, reason=reason)


def trace_prepared(
    cell: Cell, prepared: Prepared, settings: TraceSettings, folder: Path, trained_steps: int
) -> CellTrace:
    """Traces steps of a cell whose session is open; other cells on the same cores pause meanwhile.

    Args:
        cell: The cell.
        prepared: It, after some training.
        settings: What is traced.
        folder: Where its traces go.
        trained_steps: How many steps it has trained.
    """
    step, session = prepared.step, prepared.session
    found = CellTrace(cell=cell, status="ok", trained_steps=trained_steps, asked_steps=settings.steps)
    try:
        batch = step.batch(prepared.data.train, prepared.order[0])
        calibrated = session.statistics().get("calibrated")
        # As in a run: what compresses nothing is plain autograd.
        traced = session if session.compresses else None
        with nullcontext() if traced else session.paused(), Turns.inherited().alone() as alone:
            trace = trace_steps(step, traced, batch, settings.steps, folder, settings.stacks)
    except Exception as error:
        status, reason = ended_by(error)
        return found.model_copy(update={"status": status, "reason": reason})
    return found.model_copy(update={"calibrated": calibrated, "alone": alone, "trace": trace})


def write_description(folder: Path, traced: CellTrace) -> None:
    """Puts all numbers of a trace beside its files; what can't be written is told in the log alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / DESCRIPTION, json.dumps(traced.record(), indent=1) + "\n")
    except OSError:
        traceback.print_exc()


def _no_probe(steps_done: int) -> None:
    """Nothing is looked at in the training."""


@dataclass
class Tracer:
    """Traces cells one after the other, each in a process with the environment that a run gives it.

    Args:
        device: Where they run: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads that each may use; None shares the cores out.
        limits: What each may take.
        directory: Where each cell gets a folder of its key's name.
        settings: What is traced.
        warmup: How many training steps come first.
        tell: Is handed each cell that begins.
    """

    device: str
    threads: int | None
    limits: Limits
    directory: Path
    settings: TraceSettings
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
        slots = plan_slots(self.device, 1, self.threads)
        for cell in cells:
            try:
                self.folder(cell).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"can't write to {self.folder(cell)}: {error.strerror or error}") from error
        by_key = {cell.key: cell for cell in cells}

        def command(spec: Path, out: Path) -> list[str]:
            folder = self.folder(by_key[spec.name.removesuffix(".cell.json")])
            options = ["--steps", str(self.settings.steps), "--warmup", str(self.warmup)]
            options += ["--stacks"] if self.settings.stacks else []
            return module_command("compbench.run.tracing", str(spec), str(out), str(folder), *options)

        with (
            Scheduler(slots, self.limits, command) as scheduler,
            closing(scheduler.run(Pending(cells), self.log_path)) as events,
        ):
            for event in events:
                match event:
                    case Started(cell):
                        self.tell(cell)
                    case Ended(cell, _, end) if not end.interrupted:
                        yield self._result(cell, end)
            self.stopped_by = scheduler.stopped_by

    def folder(self, cell: Cell) -> Path:
        """Where the traces of a cell go."""
        return self.directory / cell.key

    def log_path(self, key: str) -> Path:
        """Where goes what a cell's process prints."""
        return self.directory / key / "trace.log"

    def _result(self, cell: Cell, end: ProcessEnd) -> CellTrace:
        if end.record is not None:
            return CellTrace.model_validate_json(end.record)
        how = result_of(cell, end, self.log_path(cell.key), "", self.limits)
        status, reason = ("crashed", "") if how is None else (how.status, how.reason)
        return CellTrace(cell=cell, status=status, reason=reason)


def main(arguments: list[str]) -> int:
    """Reads SPEC, traces the cell and writes OUT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m compbench.run.tracing", description="Traces one cell.")
    parser.add_argument("spec", type=Path, metavar="SPEC", help="the cell, as JSON")
    parser.add_argument("out", type=Path, metavar="OUT", help="where its times go")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where its traces go")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="steps of each kind that are traced")
    parser.add_argument("--warmup", type=int, default=10, metavar="N", help="training steps before that")
    parser.add_argument("--stacks", action="store_true", help="note every Python function")
    options = parser.parse_args(arguments)
    cell = Cell.model_validate_json(options.spec.read_text(encoding="utf-8"))
    result = trace_cell(cell, options.folder, TraceSettings(options.steps, options.stacks), options.warmup)
    write_description(options.folder, result)
    print(result.status, result.reason)
    write_atomically(options.out, result.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
