"""One cell's process, from its start to its end, on whichever machine this runs.

``run_cell_process`` is what every executor calls where a cell is to run: a thread of the local scheduler, a Ray task
or a job of Slurm. All that it takes and gives back are values that can be pickled; it needs no results folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compbench.run import guard
from compbench.run.affinity import children_on
from compbench.run.checkpoints import Checkpointing
from compbench.run.oom_killer import kill_count
from compbench.run.slots import Slot
from compbench.run.trace_folder import take_trace
from compbench.run.turns import lock_files
from compbench.suite.cell import Cell

Command = Callable[[Path, Path], Sequence[str]]
"""Makes the command of a cell's process from the paths of its specification and of its record to be."""

GRACE_SECONDS = 5.0
"""How long a process that was asked to stop may take before it is killed."""

MARK = "COMPBENCH_CELL_PROCESS"
"""The variable by which the processes of a cell are known, should its guard be killed."""


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
class Limits:
    """What a cell's process may take.

    Attributes:
        timeout_seconds: How long it may run; None for no limit.
        grace_seconds: How long it may take to stop when asked to, before it is killed.
        memory_bytes: Bytes of memory that it may have for writing, GPU memory not among them; None for no limit.
    """

    timeout_seconds: float | None = None
    grace_seconds: float = GRACE_SECONDS
    memory_bytes: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True)
class CellJob:
    """A cell with all that its process needs, to be sent to where it runs.

    Attributes:
        cell: The cell. Its ``plugins_dir`` is a folder on the machine where it runs.
        slot: Threads, cores and GPU that it is given there.
        limits: What its process may take.
        command: Makes the command of its process; a function of a module, so that it can be sent.
        checkpointing: Where its training is saved now and then, if it is. Where that results folder is not there, the
            cell says so in its log, and trains without.
        trace_steps: How many steps are traced when all else is done; 0: none.
    """

    cell: Cell
    slot: Slot
    limits: Limits = NO_LIMITS
    command: Command = cell_command
    checkpointing: Checkpointing | None = None
    trace_steps: int = 0

    def arguments(self, spec: Path, out: Path, trace: Path) -> list[str]:
        """The command of its process."""
        checkpointing = self.checkpointing.arguments(self.cell.key) if self.checkpointing else []
        tracing = ["--trace", str(trace), "--trace-steps", str(self.trace_steps)] if self.trace_steps else []
        return [*self.command(spec, out), *checkpointing, *tracing]


@dataclass(frozen=True)
class ProcessEnd:
    """How a cell's process has ended, and with it all that it had started.

    Attributes:
        exit_status: As :class:`subprocess.Popen` has it, negative for a signal; None when it could not be started.
        started_at: UTC, ISO 8601.
        seconds: How long it took.
        record: The text that it wrote as its record; None if it has written none.
        timed_out: It was stopped because its time was up.
        interrupted: It was stopped because the run was.
        oom_killed: It was killed while the kernel's out-of-memory killer was at work in its control group.
        error: Why it could not be started, or its record not be read.
        peak_bytes: Most memory that one of its processes had resident; 0 if unknown.
        trace: The files of its trace by their names; None where none was asked for, or it has not been finished.
    """

    exit_status: int | None
    started_at: str
    seconds: float
    record: str | None = None
    timed_out: bool = False
    interrupted: bool = False
    oom_killed: bool = False
    error: str = ""
    peak_bytes: int = 0
    trace: Mapping[str, bytes] | None = None


class CellProcess:
    """A cell's process that can be asked to stop while another thread runs it."""

    def __init__(self, job: CellJob) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._guard: subprocess.Popen[bytes] | None = None
        self._stop_asked = False
        self._kill_asked = False

    def run(self, log: Path, folder: Path) -> ProcessEnd:
        """Runs the process to its end; raises nothing for whatever becomes of it.

        Args:
            log: Where goes all that it prints; what was there is lost.
            folder: An existing folder for its specification and its record.
        """
        spec, out = folder / f"{self._job.cell.key}.cell.json", folder / f"{self._job.cell.key}.result.json"
        trace = folder / f"{self._job.cell.key}.trace"
        started_at, began = utc_now(), time.monotonic()
        mark, kills = uuid.uuid4().hex, kill_count()
        try:
            out.unlink(missing_ok=True)
            shutil.rmtree(trace, ignore_errors=True)
            spec.write_text(self._job.cell.model_dump_json(), encoding="utf-8")
            with log.open("wb") as file, children_on(self._job.slot.cores):
                guarding = self._start(self._job.arguments(spec, out, trace), file.fileno(), mark)
        except OSError as error:
            return ProcessEnd(None, started_at, 0.0, error=f"can't start its process: {error}")
        if guarding is None:
            return ProcessEnd(None, started_at, 0.0, interrupted=True)
        report = self._wait(guarding, mark)
        exit_status = report.get("exit_status", guarding.returncode)
        record, unread = _read(out)
        return ProcessEnd(
            exit_status=exit_status,
            started_at=started_at,
            seconds=time.monotonic() - began,
            record=record,
            timed_out=report.get("timed_out", False),
            interrupted=report.get("stopped", False) or (not report and self._stop_asked),
            oom_killed=exit_status == -signal.SIGKILL and kill_count() > kills,
            error=report.get("error") or unread,
            peak_bytes=report.get("peak_bytes", 0),
            trace=take_trace(trace) if self._job.trace_steps else None,
        )

    def stop(self) -> None:
        """Asks the process to stop; it is killed after the grace. Does nothing once it has ended."""
        with self._lock:
            self._stop_asked = True
            if self._guard is not None:
                self._guard.terminate()

    def kill(self) -> None:
        """Kills the process and all that it has started, at once."""
        with self._lock:
            self._stop_asked = self._kill_asked = True
            self._let_go()

    def _let_go(self) -> None:
        # The guard kills all when nobody holds the other end of its standard input.
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(OSError):
                self._guard.stdin.close()

    def _start(self, command: Sequence[str], log: int, mark: str) -> subprocess.Popen[bytes] | None:
        """The guard of the process; None if it was to be stopped before it began."""
        limits = self._job.limits
        settings = {
            "timeout_seconds": None if limits.timeout_seconds is None else float(limits.timeout_seconds),
            "grace_seconds": float(limits.grace_seconds),
            "memory_bytes": None if limits.memory_bytes is None else int(limits.memory_bytes),
            "turns": lock_files(self._job.slot),
        }
        environment = self._job.slot.environment(os.environ, self._job.cell.measuring.allocator)
        with self._lock:
            if self._stop_asked:
                return None
            self._guard = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", guard.__file__, guard.encoded(settings), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment | {MARK: mark},
                start_new_session=True,
            )
            return self._guard

    def _wait(self, guarding: subprocess.Popen[bytes], mark: str) -> dict[str, Any]:
        """What the guard reports at the end; empty if it was killed, and then nothing of the cell is left either."""
        assert guarding.stdout is not None  # noqa: S101 - it is a pipe
        with guarding.stdout:
            text = guarding.stdout.read()
        guarding.wait()
        with self._lock:
            self._let_go()
            self._guard = None
        try:
            return guard.decoded(text.decode("ascii"))
        except ValueError:
            kill_marked(mark)
            return {}


def run_cell_process(job: CellJob) -> tuple[ProcessEnd, bytes]:
    """Runs a cell's process on this machine to its end, in a temporary folder.

    SIGTERM to the calling process is left to the caller. When the calling process dies, so does the cell's.

    Returns:
        How it ended, with its record, and all that it printed.
    """
    with tempfile.TemporaryDirectory(prefix="compbench-") as temporary:
        folder = Path(temporary)
        log = folder / "log"
        end = CellProcess(job).run(log, folder)
        return end, log.read_bytes() if log.exists() else b""


def kill_marked(mark: str) -> None:
    """Kills the processes whose environment has the mark, where the system has a list of processes."""
    wanted = f"{MARK}={mark}".encode()
    deadline, found = time.monotonic() + 5, True
    while found and time.monotonic() < deadline:  # One that has been killed may have started another just before.
        found = False
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    found = True


def utc_now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(out: Path) -> tuple[str | None, str]:
    """The record's text, if there is one; and why it can't be read."""
    try:
        return out.read_text(encoding="utf-8"), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, UnicodeDecodeError) as error:
        return None, f"its record can't be read ({error})"
