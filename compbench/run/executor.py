"""What places cells: the local scheduler, and whatever else can start a process on some machine.

For the author of an executor. The runner knows cells, records and the results folder; an executor knows machines. It
is one module with one class that follows :class:`Executor`, a settings model in ``compbench/suite/executors.py``
(validated with the suite, section ``executor``) and a line in ``compbench/run/executors.py``, which makes it by its
name.

- ``run`` is handed a :class:`~compbench.run.pending.Pending`. It takes cells from it by ``take()`` as it can place
  them, and never holds back the events of cells that have ended: on each ``Ended`` the runner keeps the record and
  decides what follows (a crashed cell is put back, deeper ones are withdrawn, all are withdrawn after
  ``--fail-fast``). The generator ends when ``take()`` gives nothing, none of its cells is running, **and** ``take()``
  still gives nothing after its last event. ``run`` is called again, within the same context, when cells come free
  that another run in the same results folder had claimed, and has not finished.
- An executor that hands cells to a cluster's own queue takes more than can run at once. Until it has said ``Started``
  of a cell it asks ``pending.wanted(cell)`` now and then, and withdraws from the cluster what is not: nothing is to
  be said of such cells.
- Where a cell runs call :func:`compbench.run.cell_process.run_cell_process` with a
  :class:`~compbench.run.cell_process.CellJob`: that is the process group, the time limit, the memory limit, orphans
  and what tells an out-of-memory kill. It gives a :class:`~compbench.run.cell_process.ProcessEnd` with the record's
  text and the files of the trace, if there is one, and the log. All of it can be pickled, and it needs no folder of
  the driver. ``machine.describe_machine()`` called there describes that node.
- Before ``Ended`` is yielded the log is at ``log_path(cell.key)``; the record is in the event. The runner stores the
  machine, the record and the trace. An executor writes nothing else to the results folder.
- ``Lost`` says that the node of a cell is gone. It is no crash of the cell: the runner puts the cell back into
  ``pending``, where ``take()`` finds it.
- After a signal (``STOP_SIGNALS``, handled while the context lasts; :class:`StopSignals` does it) ``stopped_by`` is
  its number, ``Stopping`` is yielded, no further cell is started and the running ones are asked to stop, killed at
  the second signal. Their ``Ended`` have ``interrupted`` set, and the runner keeps no record of those that have
  written none.
- Entering the context connects; what can't be reached is a ``SettingsError`` then, before anything is run. Leaving
  it, in whatever way, leaves no process behind. The constructor only checks settings.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from compbench.run.cell_process import ProcessEnd
from compbench.run.machine import Machine
from compbench.run.pending import Pending
from compbench.suite.cell import Cell

LogPath = Callable[[str], Path]
"""Where the log of a cell, by its key, belongs."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Started:
    """A cell's process is about to start; ``place`` is what the display calls where."""

    cell: Cell
    place: str


@dataclass(frozen=True)
class Ended:
    """A cell's process has ended; its log is where it belongs.

    Attributes:
        end: How it ended, with its record.
        machine: What it ran on; None if that was never found out, and then the driver's is taken.
    """

    cell: Cell
    place: str
    end: ProcessEnd
    machine: Machine | None = None


@dataclass(frozen=True)
class Lost:
    """The node on which a cell ran is gone; what the cell has done there is lost, and it is to be placed again."""

    cell: Cell
    place: str
    why: str


@dataclass(frozen=True)
class Stopping:
    """A signal has asked this process to stop: the running cells were asked to, and no further one is started.

    Attributes:
        number: The signal.
        running: How many cells are running.
    """

    number: int
    running: int


Event = Started | Ended | Lost | Stopping


class Executor(Protocol):
    """Places cells and says what becomes of them; see the head of this module."""

    @property
    def stopped_by(self) -> int | None:
        """The signal that interrupted the run, if one has."""

    @property
    def capacity(self) -> int:
        """About how many cells run at a time, at least 1; time estimates go by it."""

    def describe(self) -> str:
        """Where cells run, as it follows "3 to run": ``on 2 slots (cpu 0, cpu 1; 1 thread each)``."""

    def script(self) -> str:
        """What it hands to a queue for a cell, to be looked at before that; empty where there is no such thing."""

    def __enter__(self) -> Self:
        """Connects; signals are handled from now on."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends whatever still runs."""

    def run(self, pending: Pending, log_path: LogPath) -> Generator[Event, None, None]:
        """Runs the cells in the order in which ``pending`` gives them, and says what happens."""


class StopSignals:
    """Handles, while its context lasts, the signals that ask this process to stop.

    Args:
        on_signal: Is called with the signal and how many have come by now, in the handler: it may only do what is
            safe there, such as ``SimpleQueue.put``.
    """

    def __init__(self, on_signal: Callable[[int, int], None]) -> None:
        self.first: int | None = None
        self._on_signal = on_signal
        self._count = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # As under nohup.
                    self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.first = self.first or number
        self._count += 1
        self._on_signal(number, self._count)
