"""The local executor: runs cells on slots of this machine, each in a process of its own, one on a slot at a time.

Knows nothing of results: what a process' end means is said by :mod:`compbench.run.ending`. Nothing here polls. A thread
for each process sees it to its end; ends and signals arrive through one queue, on which the loop sleeps.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from compbench.run.cell_process import NO_LIMITS, CellJob, CellProcess, Command, Limits, ProcessEnd, cell_command
from compbench.run.checkpoints import Checkpointing
from compbench.run.executor import Ended, Event, LogPath, Started, Stopping, StopSignals
from compbench.run.pending import Pending
from compbench.run.slots import Slot
from compbench.suite.cell import Cell


@dataclass(frozen=True)
class _Running:
    cell: Cell
    slot: Slot
    process: CellProcess
    thread: threading.Thread


@dataclass(frozen=True)
class _Exited:
    key: str
    end: ProcessEnd


@dataclass(frozen=True)
class _Signalled:
    number: int
    count: int


class Scheduler:
    """Runs cells on slots of this machine; an :class:`~compbench.run.executor.Executor`.

    Args:
        slots: Where cells are placed; each takes one at a time.
        limits: What each cell's process may take.
        command: Makes the command of a cell from the paths of its specification and of its record to be.
        checkpointing: Where trainings are saved now and then, if they are.
        trace_steps: How many steps of each cell are traced at its end; 0: none.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        limits: Limits = NO_LIMITS,
        command: Command = cell_command,
        checkpointing: Checkpointing | None = None,
        trace_steps: int = 0,
    ) -> None:
        self._slots = slots
        self._free = deque(slots)
        self._limits = limits
        self._command = command
        self._checkpointing = checkpointing
        self._trace_steps = trace_steps
        self._running: dict[str, _Running] = {}
        self._events: queue.SimpleQueue[_Exited | _Signalled] = queue.SimpleQueue()
        # SimpleQueue.put is safe in a signal handler.
        self._signals = StopSignals(lambda number, count: self._events.put(_Signalled(number, count)))
        self._context = ExitStack()
        self._folder = Path()

    @property
    def stopped_by(self) -> int | None:
        """The signal that interrupted the run, if one has."""
        return self._signals.first

    @property
    def capacity(self) -> int:
        """The number of slots."""
        return len(self._slots)

    def describe(self) -> str:
        """The slots in a few words."""
        threads = self._slots[0].threads
        names = ", ".join(slot.name for slot in self._slots)
        return (
            f"on {len(self._slots)} slot{'s' if len(self._slots) > 1 else ''} "
            f"({names}; {threads} thread{'s' if threads > 1 else ''} each)"
        )

    def script(self) -> str:
        """Nothing: processes are started as they are."""
        return ""

    def __enter__(self) -> Scheduler:
        self._folder = Path(self._context.enter_context(tempfile.TemporaryDirectory(prefix="compbench-")))
        self._context.enter_context(self._signals)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running.values():
            running.process.kill()
        for running in self._running.values():
            running.thread.join()
        self._running.clear()
        self._context.close()

    def run(self, pending: Pending, log_path: LogPath) -> Generator[Event, None, None]:
        """Runs the cells in their order, and says what happens.

        After a signal that asks to stop no further cell is started and the running ones are asked to stop; after a
        second one they are killed.
        """
        while True:
            while self._free and self.stopped_by is None and (cell := pending.take()) is not None:
                slot = self._free.popleft()
                yield Started(cell, slot.name)
                self._start(cell, slot, log_path(cell.key))
            if not self._running:
                return
            event = self._events.get()
            if isinstance(event, _Exited):
                ended = self._running.pop(event.key)
                self._free.append(ended.slot)
                yield Ended(ended.cell, ended.slot.name, event.end)
            elif stopping := self._interrupt(event):
                yield stopping

    def _start(self, cell: Cell, slot: Slot, log: Path) -> None:
        job = CellJob(cell, slot, self._limits, self._command, self._checkpointing, self._trace_steps)
        process = CellProcess(job)

        def see_to_the_end() -> None:
            end = None
            try:
                end = process.run(log, self._folder)
            finally:
                # A mistake of this program must not leave the loop waiting.
                self._events.put(_Exited(cell.key, end or ProcessEnd(None, "", 0.0, error="its thread has died")))

        thread = threading.Thread(target=see_to_the_end, daemon=True)
        self._running[cell.key] = _Running(cell, slot, process, thread)
        thread.start()

    def _interrupt(self, signalled: _Signalled) -> Stopping | None:
        for running in self._running.values():
            if signalled.count > 1:
                running.process.kill()
            else:
                running.process.stop()
        return Stopping(signalled.number, len(self._running)) if signalled.count == 1 else None
