"""The executor on Slurm, by submitit: each cell is a job that runs the very process a local run would start.

Jobs outlive the process that has submitted them. A note beside the jobs says which job is whose cell's, so that a later
run takes over what is still queued, running or has ended meanwhile, and submits nothing twice. The folder of jobs must
be one that all nodes see; the results folder need not be.

Slurm's own list of jobs is asked now and then, as there is nobody who would tell: ``squeue`` needs no accounting.
"""

from __future__ import annotations

import json
import math
import queue
import shlex
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from compbench.errors import SettingsError, one_line
from compbench.extras import optional_package
from compbench.run.affinity import usable_cores
from compbench.run.cell_process import CellJob, Command, Limits, ProcessEnd, cell_command, utc_now
from compbench.run.checkpoints import Checkpointing
from compbench.run.executor import Ended, Event, LogPath, Lost, Started, Stopping, StopSignals
from compbench.run.files import write_atomically
from compbench.run.node import Files, NodeEnd, run_on_node
from compbench.run.pending import Pending
from compbench.run.slots import Slot
from compbench.suite.cell import Cell
from compbench.suite.executors import SlurmSettings

POLL_SECONDS = {"slurm": 2.0, "local": 0.2}
"""How often jobs are looked at."""

MOST_JOBS = 100
"""As many jobs are in the queue, unless the suite says otherwise: queues are shared, and some limit each user."""

UNSEEN_SECONDS = 30.0
"""How long a job may be in no list, and its result not be seen, before it is given up: shared folders lag behind."""

SPARE_MINUTES = 5
"""Slurm's limit is that much later than the cell's own, which leaves a record that says so."""

ALIVE = {
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "SUSPENDED",
    "REQUEUED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
}


@dataclass
class _Job:
    cell: Cell
    job: Any
    token: str
    place: str = ""
    unseen_since: float | None = field(default=None)


@dataclass(frozen=True)
class _Signalled:
    number: int
    count: int


class SlurmExecutor:
    """Runs cells as jobs of Slurm; an :class:`~compbench.run.executor.Executor`.

    Args:
        suite: The suite's name, which is that of its folder of jobs.
        settings: What the suite says of Slurm.
        on_gpu: Whether cells need a GPU, unless the settings say how many.
        threads: Threads of a cell; None for as many as the CPUs that are asked for.
        limits: What each cell's process may take.
        jobs: Most jobs in the queue; None leaves it to the settings.
        command: Makes the command of a cell's process.
        checkpointing: Where trainings are saved now and then, if they are; of use where nodes see that folder.
        trace_steps: How many steps of each cell are traced at its end; 0: none.

    Raises:
        SettingsError: submitit is not installed, or it is not said how long a cell may take.
    """

    def __init__(
        self,
        suite: str,
        settings: SlurmSettings,
        on_gpu: bool = False,
        threads: int | None = None,
        limits: Limits | None = None,
        jobs: int | None = None,
        command: Command = cell_command,
        checkpointing: Checkpointing | None = None,
        trace_steps: int = 0,
    ) -> None:
        self._submitit = optional_package("submitit", "slurm", "--executor slurm")
        self._settings = settings
        self._limits = limits or Limits()
        self._command = command
        self._checkpointing = checkpointing
        self._trace_steps = trace_steps
        cpus = settings.cpus or threads or 1
        own = max(1, len(usable_cores()) // cpus)
        self._most = jobs or settings.jobs or (own if settings.cluster == "local" else MOST_JOBS)
        self._threads = threads or cpus
        self._parameters = _parameters(
            suite, settings, cpus, int(on_gpu) if settings.gpus is None else settings.gpus, self._limits
        )
        self._folder = Path(settings.folder).absolute() / suite
        self._submitter: Any = None
        self._jobs: dict[str, _Job] = {}
        self._plugins: dict[str, Files] = {}
        self._events: queue.SimpleQueue[_Signalled] = queue.SimpleQueue()
        # SimpleQueue.put is safe in a signal handler.
        self._signals = StopSignals(lambda number, count: self._events.put(_Signalled(number, count)))

    @property
    def stopped_by(self) -> int | None:
        """The signal that interrupted the run, if one has."""
        return self._signals.first

    @property
    def capacity(self) -> int:
        """The most jobs that are in the queue; how many of them run is Slurm's to say."""
        return self._most

    def describe(self) -> str:
        """Where jobs go, and what each asks for."""
        where = f"partition {self._settings.partition}" if self._settings.partition else "its default partition"
        gpus = self._parameters.get("gpus_per_node", 0)
        asked = f"{self._parameters['cpus_per_task']} CPU, " + (f"{gpus} GPU, " if gpus else "")
        by = "by Slurm" if self._settings.cluster == "slurm" else "by submitit on this machine, as Slurm would:"
        return f"{by} in {where} ({asked}{self._parameters['time']} min each; at most {self._most} in the queue)"

    def script(self) -> str:
        """The text that ``sbatch`` is handed for each cell."""
        from submitit.slurm.slurm import _convert_mem, _make_sbatch_string

        asked = dict(self._parameters)
        if "mem_gb" in asked:
            asked["mem"] = _convert_mem(asked.pop("mem_gb"))
        command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(self._folder)])
        text: str = _make_sbatch_string(command=command, folder=self._folder, **asked)
        return text

    def __enter__(self) -> SlurmExecutor:
        for program in ("sbatch", "squeue", "scancel") if self._settings.cluster == "slurm" else ():
            if shutil.which(program) is None:
                raise SettingsError(f"--executor slurm needs the program '{program}': this machine submits to no Slurm")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._submitter = self._submitit.AutoExecutor(self._folder, cluster=self._settings.cluster)
            if self._settings.cluster == "slurm":
                self._submitter.update_parameters(
                    **{_AUTO.get(k, f"slurm_{k}"): v for k, v in self._parameters.items()}
                )
            else:
                self._submitter.update_parameters(timeout_min=self._parameters["time"])
        except OSError as error:
            raise SettingsError(f"folder of jobs '{self._folder}' can't be written: {error.strerror}") from error
        except (RuntimeError, ValueError) as error:
            raise SettingsError(f"--executor slurm: {one_line(error)}") from error
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job in self._jobs.values():
            self._cancel(job)
        self._jobs.clear()
        self._signals.__exit__(kind, error, trace)

    def run(self, pending: Pending, log_path: LogPath) -> Generator[Event, None, None]:
        """Runs the cells in their order, as far as Slurm keeps to it, and says what happens.

        After a signal that asks to stop, jobs are cancelled: what they would still give is not waited for.
        """
        while True:
            while self.stopped_by is None and len(self._jobs) < self._most and (cell := pending.take()) is not None:
                yield from self._submit(cell)
            if not self._jobs:
                return
            with suppress(queue.Empty):
                signalled = self._events.get(timeout=POLL_SECONDS[self._settings.cluster])
                if signalled.count == 1:
                    yield Stopping(signalled.number, sum(bool(job.place) for job in self._jobs.values()))
                yield from self._stop()
            for job in list(self._jobs.values()):
                if not job.place and not pending.wanted(job.cell):
                    self._give_up(job)
            states = self._states()
            for job in list(self._jobs.values()):
                yield from self._look_at(job, states, log_path)

    def _submit(self, cell: Cell) -> Generator[Event, None, None]:
        """Submits a cell's job, or takes over the one that an earlier run has left."""
        left = self._left_behind(cell)
        if left is not None:
            self._jobs[cell.key] = left
            return
        token = uuid.uuid4().hex
        slot = Slot("slurm", self._threads)
        work = CellJob(cell, slot, self._limits, self._command, self._checkpointing, self._trace_steps)
        try:
            job = self._submitter.submit(run_as_job, work, self._files(cell), str(self._folder / f"{token}.place"))
        except Exception as error:  # what sbatch refuses is told by several exceptions
            why = f"Slurm refuses its job: {_refusal(error)}"
            yield Started(cell, "the queue")
            yield Ended(cell, "the queue", ProcessEnd(None, utc_now(), 0.0, error=why))
            return
        self._jobs[cell.key] = _Job(cell, job, token)
        write_atomically(self._note(cell), json.dumps({"job": job.job_id, "token": token}))

    def _files(self, cell: Cell) -> Files | None:
        folder = cell.plugins_dir
        if folder is not None and folder not in self._plugins:
            self._plugins[folder] = Files.of(Path(folder))
        return None if folder is None else self._plugins[folder]

    def _note(self, cell: Cell) -> Path:
        return self._folder / f"{cell.key}.job.json"

    def _left_behind(self, cell: Cell) -> _Job | None:
        """The job of a cell that an earlier run has submitted and not seen the end of."""
        try:
            note = json.loads(self._note(cell).read_text(encoding="utf-8"))
            job = self._submitter.job_class(self._folder, note["job"])
            return _Job(cell, job, str(note["token"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _states(self) -> dict[str, str]:
        """What Slurm says of this user's jobs, by their numbers; submitit's own of those on this machine."""
        if self._settings.cluster == "local":
            return {job.job.job_id: "PENDING" for job in self._jobs.values() if not job.job.done()}
        command = ["squeue", "--me", "--noheader", "--states=all", "--format=%i %T"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return {job.job.job_id: "UNKNOWN" for job in self._jobs.values()}  # The controller may be restarting.
        return dict(line.split(maxsplit=1) for line in asked.stdout.splitlines() if " " in line)

    def _look_at(self, job: _Job, states: dict[str, str], log_path: LogPath) -> Generator[Event, None, None]:
        """What has become of a job since it was last looked at."""
        if not job.place:
            with suppress(OSError):
                job.place = (self._folder / f"{job.token}.place").read_text(encoding="utf-8")
                yield Started(job.cell, job.place)
        if job.job.paths.result_pickle.exists():
            yield self._ended(job, log_path)
            return
        state = states.get(job.job.job_id, "gone").strip()
        if state in ALIVE or state == "UNKNOWN":
            job.unseen_since = None
            return
        job.unseen_since = job.unseen_since or time.monotonic()
        patience = UNSEEN_SECONDS if self._settings.cluster == "slurm" else 1.0
        if time.monotonic() - job.unseen_since > patience:
            self._forget(job)
            yield self._without_result(job, state, log_path)

    def _ended(self, job: _Job, log_path: LogPath) -> Event:
        place = job.place or "a node"
        try:
            came: NodeEnd = job.job.result()
        except Exception as error:  # whatever the job has raised, or its result can't be read
            why = f"its process was never started: {_last_line(error)}"
            ended = Ended(job.cell, place, ProcessEnd(None, utc_now(), 0.0, error=why))
        else:
            log_path(job.cell.key).write_bytes(came.log)
            ended = Ended(job.cell, place, came.end, came.machine)
        self._forget(job)
        return ended

    def _without_result(self, job: _Job, state: str, log_path: LogPath) -> Event:
        """What is to be said of a job that Slurm has ended."""
        place = job.place or "a node"
        log_path(job.cell.key).write_text(f"job {job.job.job_id} has ended as {state}\n", encoding="utf-8")
        why = f"Slurm has ended its job {job.job.job_id}: {state}"
        if state == "OUT_OF_MEMORY":
            return Ended(job.cell, place, ProcessEnd(None, utc_now(), 0.0, oom_killed=True, error=why))
        if state in {"TIMEOUT", "DEADLINE", "CANCELLED"}:  # By whom, Slurm says; not that it should run again.
            return Ended(job.cell, place, ProcessEnd(None, utc_now(), 0.0, error=why))
        return Lost(job.cell, place, why)

    def _stop(self) -> Generator[Event, None, None]:
        for job in list(self._jobs.values()):
            self._give_up(job)
            if job.place:
                yield Ended(job.cell, job.place, ProcessEnd(None, utc_now(), 0.0, interrupted=True))

    def _give_up(self, job: _Job) -> None:
        self._cancel(job)
        self._forget(job)

    def _cancel(self, job: _Job) -> None:
        with suppress(Exception):  # It may have ended just now.
            job.job.cancel(check=False)
        self._remove_files(job)

    def _forget(self, job: _Job) -> None:
        self._jobs.pop(job.cell.key, None)
        self._remove_files(job)

    def _remove_files(self, job: _Job) -> None:
        """A job without its note is nobody's: no later run takes it over."""
        for path in (self._note(job.cell), self._folder / f"{job.token}.place"):
            path.unlink(missing_ok=True)
        for path in self._folder.glob(f"{job.job.job_id}_*"):
            path.unlink(missing_ok=True)
        for link in self._folder.glob(".submission_file_*.sh"):
            if link.is_symlink() and not link.exists():  # It led to one of these.
                link.unlink(missing_ok=True)


_AUTO = {
    "time": "timeout_min",
    "job_name": "name",
    **{name: name for name in ("cpus_per_task", "gpus_per_node", "mem_gb")},
}
"""What submitit calls otherwise than sbatch, where it submits to several kinds of clusters."""


def run_as_job(job: CellJob, plugins: Files | None, place: str) -> NodeEnd:
    """The job: leaves word of where it runs, and runs the cell."""
    write_atomically(Path(place), socket.gethostname())
    return run_on_node(job, plugins)


def _parameters(suite: str, settings: SlurmSettings, cpus: int, gpus: int, limits: Limits) -> dict[str, Any]:
    """What each job asks for, as sbatch calls it."""
    minutes = settings.minutes
    if minutes is None and limits.timeout_seconds is not None:
        minutes = math.ceil((limits.timeout_seconds + limits.grace_seconds) / 60) + SPARE_MINUTES
    if minutes is None:
        raise SettingsError(
            "--executor slurm: it is not said how long a cell may take (allowed: timeout_seconds in the suite, "
            "--timeout, or minutes under slurm in its section 'executor')"
        )
    asked = {
        "job_name": f"compbench-{suite}",
        "time": minutes,
        "cpus_per_task": cpus,
        "gpus_per_node": gpus or None,
        "mem_gb": settings.memory_gb,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "setup": list(settings.setup) or None,
        "additional_parameters": dict(settings.sbatch) or None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _refusal(error: Exception) -> str:
    """What sbatch has said; submitit's own sentence ends in it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _last_line(error: Exception) -> str:
    """The line of a traceback that says what was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("---")]
    raised = [line for line in lines if "Error" in line.partition(":")[0] and " " not in line.partition(":")[0]]
    return (raised or lines or [type(error).__name__])[-1]
