"""Starts the processes of cells on slots and sees each to its end: in time, cut off, killed, or interrupted.

Knows nothing of results: what a process' end means is said by :mod:`compbench.run.ending`. Nothing here polls. A thread
for each process waits for its end, signals arrive through the same queue, and the loop sleeps on that queue until
the next deadline.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from compbench.run.affinity import children_on
from compbench.run.oom_killer import kill_count
from compbench.run.slots import Slot
from compbench.suite.cell import Cell

Command = Callable[[Path, Path], list[str]]

GRACE_SECONDS = 5.0
"""How long a process that was asked to stop may take before it is killed."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def cell_command(spec: Path, out: Path) -> list[str]:
    """The process of one cell: reads its specification from ``spec`` and writes its record to ``out``."""
    return module_command("compbench.run.cell", str(spec), str(out))


def module_command(module: str, *arguments: str) -> list[str]:
    """A process of this Python that runs a module."""
    # `python -m` puts the current folder first on the module path, where a user's `queue.py` would shadow a module that
    # torch needs. The process looks there if and only if this one does.
    looks_in_current_folder = any(Path(entry).resolve() == Path.cwd() for entry in sys.path)
    isolation = [] if looks_in_current_folder else ["-P"]
    return [sys.executable, *isolation, "-m", module, *arguments]


@dataclass(frozen=True)
class Started:
    """A cell's process is about to start on a slot."""

    cell: Cell
    slot: Slot


@dataclass(frozen=True)
class Ended:
    """A cell's process has ended, and with it all that it had started in its process group.

    Attributes:
        out: Where its record is, if it has written one.
        exit_status: As :class:`subprocess.Popen` has it, negative for a signal; None when it could not be started.
        timed_out: It was stopped because its time was up.
        interrupted: It was stopped because the run was.
        oom_killed: It was killed while the kernel's out-of-memory killer was at work in its control group.
        error: Why it could not be started.
    """

    cell: Cell
    slot: Slot
    out: Path
    exit_status: int | None
    started_at: str
    seconds: float
    timed_out: bool = False
    interrupted: bool = False
    oom_killed: bool = False
    error: str = ""


@dataclass(frozen=True)
class Stopping:
    """A signal has asked this process to stop: the running cells were asked to, and no further one is started.

    Attributes:
        number: The signal.
        running: How many cells are running.
    """

    number: int
    running: int


Event = Started | Ended | Stopping


@dataclass
class _Running:
    cell: Cell
    slot: Slot
    out: Path
    process: subprocess.Popen[bytes]
    deadline: float
    started: float = field(default_factory=time.monotonic)
    started_at: str = field(default_factory=lambda: utc_now())
    oom_kills: int = field(default_factory=kill_count)
    timed_out: bool = False
    interrupted: bool = False

    @property
    def stopping(self) -> bool:
        return self.timed_out or self.interrupted

    def signal(self, number: signal.Signals) -> None:
        # The process is not reaped yet, so its number, which is its group's too, can't have gone to another.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


@dataclass(frozen=True)
class _Exited:
    pid: int


@dataclass(frozen=True)
class _Signalled:
    number: int
    count: int


class Scheduler:
    """Runs cells, each in a process of its own, at most one on a slot at a time.

    Use as a context manager: signals that ask this process to stop are then its own to handle, and whatever it has
    started is gone when the context ends, however it ends.

    Args:
        slots: Where cells are placed; each takes one at a time.
        folder: An existing folder for specifications and records on their way.
        log_path: Where the output of a cell, by its key, goes.
        timeout_seconds: How long a cell may take.
        command: Makes the command of a cell from the paths of its specification and of its record to be.
        grace_seconds: How long a process may take to stop when asked to.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        folder: Path,
        log_path: Callable[[str], Path],
        timeout_seconds: float,
        command: Command = cell_command,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.stopped_by: int | None = None
        """The signal that interrupted the run, if one has."""
        self._free = deque(slots)
        self._folder = folder
        self._log_path = log_path
        self._timeout = timeout_seconds
        self._command = command
        self._grace = grace_seconds
        self._running: dict[int, _Running] = {}
        self._signals = 0
        self._events: queue.SimpleQueue[_Exited | _Signalled] = queue.SimpleQueue()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Scheduler:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # As under nohup.
                    self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running.values():
            running.signal(signal.SIGKILL)
            running.process.wait()
        self._running.clear()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def run(self, cells: Iterable[Cell]) -> Generator[Event, None, None]:
        """Runs the cells in their order, and says what happens.

        After a signal that asks to stop no further cell is started and the running ones are asked to stop; after a
        second one they are killed.
        """
        pending = deque(cells)
        while self._running or (pending and self.stopped_by is None):
            while pending and self._free and self.stopped_by is None:
                cell, slot = pending.popleft(), self._free.popleft()
                yield Started(cell, slot)
                failure = self._start(cell, slot)
                if failure is not None:
                    self._free.append(slot)
                    yield failure
            if self._running:
                event = self._wait()
                if event is not None:
                    yield event

    def _start(self, cell: Cell, slot: Slot) -> Ended | None:
        spec, out = self._folder / f"{cell.key}.cell.json", self._folder / f"{cell.key}.result.json"
        out.unlink(missing_ok=True)
        spec.write_text(cell.model_dump_json(), encoding="utf-8")
        try:
            with self._log_path(cell.key).open("wb") as log, children_on(slot.cores):
                process = subprocess.Popen(  # noqa: S603
                    self._command(spec, out),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=slot.environment(os.environ, cell.measuring.allocator),
                    start_new_session=True,
                )
        except OSError as error:
            return Ended(cell, slot, out, None, utc_now(), 0.0, error=f"can't start its process: {error}")
        self._running[process.pid] = _Running(cell, slot, out, process, time.monotonic() + self._timeout)
        threading.Thread(target=self._report_exit, args=(process.pid,), daemon=True).start()
        return None

    def _report_exit(self, pid: int) -> None:
        # Leaves the process unreaped: until the loop has ended its group, its number must not go to another process.
        with suppress(ChildProcessError):  # When the context has ended early, and reaped it.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._events.put(_Exited(pid))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        self._signals += 1
        self._events.put(_Signalled(number, self._signals))  # SimpleQueue.put is safe in a signal handler.

    def _wait(self) -> Event | None:
        """Sleeps until something happens or a deadline passes, and deals with it."""
        nearest = min(running.deadline for running in self._running.values()) - time.monotonic()
        try:
            event = self._events.get(timeout=min(max(0.0, nearest), threading.TIMEOUT_MAX))
        except queue.Empty:
            self._enforce_deadlines()
            return None
        if isinstance(event, _Signalled):
            return self._interrupt(event)
        return self._end(self._running.pop(event.pid))

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for running in self._running.values():
            if running.deadline > now:
                continue
            if running.stopping:
                running.signal(signal.SIGKILL)
                running.deadline = float("inf")
            else:
                running.timed_out = True
                running.signal(signal.SIGTERM)
                running.deadline = now + self._grace

    def _interrupt(self, signalled: _Signalled) -> Stopping | None:
        at_once = signalled.count > 1
        for running in self._running.values():
            if at_once:
                running.signal(signal.SIGKILL)
            elif not running.stopping:
                running.signal(signal.SIGTERM)
                running.deadline = time.monotonic() + self._grace
            running.interrupted = running.interrupted or not running.timed_out
        return None if at_once else Stopping(signalled.number, len(self._running))

    def _end(self, running: _Running) -> Ended:
        # A cell that has ended may have left processes behind, such as workers that load data.
        running.signal(signal.SIGKILL)
        exit_status = running.process.wait()
        self._free.append(running.slot)
        return Ended(
            cell=running.cell,
            slot=running.slot,
            out=running.out,
            exit_status=exit_status,
            started_at=running.started_at,
            seconds=time.monotonic() - running.started,
            timed_out=running.timed_out,
            interrupted=running.interrupted,
            oom_killed=exit_status == -signal.SIGKILL and kill_count() > running.oom_kills,
        )


def utc_now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
