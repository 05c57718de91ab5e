"""The executor on a Ray cluster: each cell is a Ray task that runs the very process a local run would start.

A task is never retried by Ray (``max_retries=0``): what is to be run again is the runner's to say. It is a generator
whose first value says where it has begun, and whose second is all that comes back. A thread for each task waits for
these; they and signals arrive through one queue. No more tasks are placed than the cluster has room for.
"""

from __future__ import annotations

import itertools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from compbench.errors import SettingsError, one_line
from compbench.extras import optional_package
from compbench.run.affinity import usable_cores
from compbench.run.cell_process import CellJob, Command, Limits, ProcessEnd, cell_command, utc_now
from compbench.run.checkpoints import Checkpointing
from compbench.run.executor import Ended, Event, LogPath, Lost, Started, Stopping, StopSignals
from compbench.run.node import Files, NodeEnd, tell_and_run
from compbench.run.pending import Pending
from compbench.run.slots import Slot, visible_gpus
from compbench.suite.cell import Cell
from compbench.suite.executors import RaySettings

LOCAL = "local"
"""The address that stands for a Ray of this run's own, on this machine."""

ANSWER_SECONDS = 12.0
"""How long a cluster may take to answer. The whole command is to fail within 15 s."""

_PROBE = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
"""


@dataclass
class _Task:
    cell: Cell
    values: Any
    place: str = ""


@dataclass(frozen=True)
class _Told:
    task: int
    value: object


@dataclass(frozen=True)
class _Over:
    """A task gives no further value; ``error`` is Ray's reason, if it has one."""

    task: int
    error: Exception | None


@dataclass(frozen=True)
class _Signalled:
    number: int
    count: int


class RayExecutor:
    """Runs cells as Ray tasks; an :class:`~compbench.run.executor.Executor`.

    Args:
        settings: What the suite says of Ray; its ``address`` is where the cluster is.
        on_gpu: Whether cells need a GPU, unless the settings say how many.
        threads: Threads of a cell; None for as many as the CPUs that are reserved for it.
        limits: What each cell's process may take.
        jobs: Cells at a time; None for as many as the cluster has room for.
        command: Makes the command of a cell's process.
        checkpointing: Where trainings are saved now and then; of use where nodes share the results folder.
        trace_steps: How many steps of each cell are traced at its end; 0: none.
    """

    def __init__(
        self,
        settings: RaySettings,
        on_gpu: bool = False,
        threads: int | None = None,
        limits: Limits | None = None,
        jobs: int | None = None,
        command: Command = cell_command,
        checkpointing: Checkpointing | None = None,
        trace_steps: int = 0,
    ) -> None:
        self._ray = optional_package("ray", "ray", "--executor ray")
        self._address = settings.address or os.environ.get("RAY_ADDRESS") or LOCAL
        self._settings = settings
        self._cpus = settings.cpus or threads or 1
        self._gpus = settings.gpus if settings.gpus is not None else int(on_gpu)
        self._threads = threads or self._cpus
        self._limits = limits or Limits()
        self._jobs = jobs
        self._command = command
        self._checkpointing = checkpointing
        self._trace_steps = trace_steps
        self._numbers = itertools.count()
        self._tasks: dict[int, _Task] = {}
        self._plugins: dict[str, Any] = {}
        self._events: queue.SimpleQueue[_Told | _Over | _Signalled] = queue.SimpleQueue()
        # SimpleQueue.put is safe in a signal handler.
        self._signals = StopSignals(lambda number, count: self._events.put(_Signalled(number, count)))

    @property
    def stopped_by(self) -> int | None:
        """The signal that interrupted the run, if one has."""
        return self._signals.first

    @property
    def needs(self) -> dict[str, float]:
        """What is reserved for a cell, as Ray names it."""
        return {"CPU": self._cpus, "GPU": self._gpus, **self._settings.resources}

    @property
    def capacity(self) -> int:
        """Cells that the nodes have room for, and at most as many as were asked for; 1 while nothing is known."""
        room = sum(self._rooms()) if self._ray.is_initialized() else self._jobs or 1
        return max(1, min(room, self._jobs or room))

    def describe(self) -> str:
        """What is reserved for a cell, and where."""
        reserved = ", ".join(f"{amount:g} {name}" for name, amount in self.needs.items() if amount)
        where = "on this machine" if self._address == LOCAL else f"at {self._address}"
        if not self._ray.is_initialized():
            return f"by Ray {where} ({reserved} a cell)"
        nodes = sum(room > 0 for room in self._rooms())
        return f"by Ray {where} on {nodes} node{'s' if nodes != 1 else ''} ({self.capacity} at a time, {reserved} each)"

    def script(self) -> str:
        """Nothing: a task has no text."""
        return ""

    def __enter__(self) -> RayExecutor:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._settings.runtime_env:
            options["runtime_env"] = self._settings.runtime_env
        if self._address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options |= {"num_cpus": len(usable_cores()), "num_gpus": len(visible_gpus()), "include_dashboard": False}
            options |= {"resources": dict(self._settings.resources), "object_store_memory": 200_000_000}
        else:
            _check_that_it_answers(self._address)
        try:
            self._ray.init(address=self._address, **options)
        except Exception as error:
            raise SettingsError(f"Ray at '{self._address}' can't be used: {one_line(error)}") from error
        try:
            self._check_that_a_cell_fits()
        except SettingsError:
            self._ray.shutdown()
            raise
        self._signals.__enter__()  # Only now: Ray has put handlers of its own in place.
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            self._kill(task)
        self._tasks.clear()
        self._signals.__exit__(kind, error, trace)
        # The workers of this run end with the connection, and with a worker the guards of its cells.
        self._ray.shutdown()

    def run(self, pending: Pending, log_path: LogPath) -> Generator[Event, None, None]:
        """Runs the cells in their order, and says what happens.

        After a signal that asks to stop the running cells are killed: what a cancelled task gives is lost, so that
        there is nothing to wait for.
        """
        while True:
            while self.stopped_by is None and len(self._tasks) < self.capacity and (cell := pending.take()) is not None:
                self._place(cell)
            if not self._tasks:
                return
            event = self._events.get()
            if isinstance(event, _Signalled):
                if event.count == 1:
                    yield Stopping(event.number, len(self._tasks))
                for task in self._tasks.values():
                    self._kill(task)
            elif event.task in self._tasks:
                yield from self._news(event, log_path)
            self._drop_unwanted(pending)

    def _place(self, cell: Cell) -> None:
        slot = Slot("ray", self._threads)  # Which GPU it sees is Ray's to say, by the environment of the worker.
        job = CellJob(cell, slot, self._limits, self._command, self._checkpointing, self._trace_steps)
        options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "resources": dict(self._settings.resources)}
        task = self._ray.remote(_run).options(
            name=f"compbench {cell.key}", num_returns="streaming", max_retries=0, **options
        )
        number = next(self._numbers)
        self._tasks[number] = _Task(cell, task.remote(job, self._files(cell)))
        threading.Thread(target=self._follow, args=(number, self._tasks[number].values), daemon=True).start()

    def _files(self, cell: Cell) -> Any:
        """The user's plugins, put once where all nodes can get them."""
        folder = cell.plugins_dir
        if folder is None:
            return None
        if folder not in self._plugins:
            self._plugins[folder] = self._ray.put(Files.of(Path(folder)))
        return self._plugins[folder]

    def _follow(self, number: int, values: Any) -> None:
        """Waits for what a task gives, in a thread of its own."""
        error = None
        try:
            for reference in values:
                self._events.put(_Told(number, self._ray.get(reference)))
        except Exception as raised:  # Ray's own errors, and whatever the task has raised
            error = raised
        self._events.put(_Over(number, error))

    def _news(self, event: _Told | _Over, log_path: LogPath) -> Generator[Event, None, None]:
        task = self._tasks[event.task]
        match event:
            case _Told(number, str() as place):
                self._tasks[number].place = place
                yield Started(task.cell, place)
            case _Told(number, NodeEnd() as came):
                del self._tasks[number]
                log_path(task.cell.key).write_bytes(came.log)
                yield Ended(task.cell, task.place, came.end, came.machine)
            case _Over(number, error):
                del self._tasks[number]
                yield self._without_result(task, error, log_path)

    def _without_result(self, task: _Task, error: Exception | None, log_path: LogPath) -> Event:
        """What is to be said of a task that has ended and given nothing."""
        exceptions = self._ray.exceptions
        place, said = task.place or "a node", one_line(error) if error is not None else "its task has ended"
        if self.stopped_by is not None:
            return Ended(task.cell, place, ProcessEnd(None, utc_now(), 0.0, interrupted=True))
        log_path(task.cell.key).write_text(f"nothing came back from {place}: {said}\n", encoding="utf-8")
        if isinstance(error, exceptions.OutOfMemoryError):
            why = "Ray's memory monitor has ended it, for want of memory on its node"
            return Ended(task.cell, place, ProcessEnd(None, utc_now(), 0.0, oom_killed=True, error=why))
        of_the_task = (exceptions.RayTaskError, exceptions.RuntimeEnvSetupError, exceptions.TaskUnschedulableError)
        if isinstance(error, of_the_task):
            why = f"its process was never started: {said}"
            return Ended(task.cell, place, ProcessEnd(None, utc_now(), 0.0, error=why))
        return Lost(task.cell, place, _reason(error))

    def _drop_unwanted(self, pending: Pending) -> None:
        """Cancels tasks that have not begun and that nobody wants any more."""
        for number, task in list(self._tasks.items()):
            if not task.place and not pending.wanted(task.cell):
                self._kill(task)
                del self._tasks[number]

    def _kill(self, task: _Task) -> None:
        with suppress(Exception):  # It may have ended, or its node.
            self._ray.cancel(task.values, force=True)

    def _rooms(self) -> list[int]:
        """For how many cells at a time there is room on each node, if nobody else uses it."""
        needed = {name: amount for name, amount in self.needs.items() if amount}
        return [
            min(int(node["Resources"].get(name, 0) // amount) for name, amount in needed.items())
            for node in self._ray.nodes()
            if node["Alive"]
        ]

    def _check_that_a_cell_fits(self) -> None:
        """Raises a SettingsError where no node has what a cell needs: Ray would wait for one for ever."""
        if any(self._rooms()):
            return
        needed = ", ".join(f"{amount:g} {name}" for name, amount in self.needs.items() if amount)
        there = [
            ", ".join(
                f"{amount:g} {name}"
                for name, amount in sorted(node["Resources"].items())
                if not name.startswith("node:") and "memory" not in name
            )
            or "nothing"
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        raise SettingsError(f"no node of the Ray cluster has {needed} for a cell (there is: {'; '.join(there)})")


def _run(job: CellJob, plugins: Files | None) -> Generator[object, None, None]:
    """The task."""
    import ray

    yield from tell_and_run(job, plugins, ray.get_runtime_context().get_node_id()[:6])


def _reason(error: Exception | None) -> str:
    """Ray's reason in a few words; its messages are paragraphs."""
    if error is None:
        return "its task has ended"
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0].partition('. ')[0]}" if first else type(error).__name__


def _check_that_it_answers(address: str) -> None:
    """Tries to connect, in a process that can be killed: Ray itself tries for minutes, or aborts its process.

    Raises:
        SettingsError: It does not answer in time, or refuses.
    """
    command = [sys.executable, "-c", _PROBE, address]
    try:
        tried = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SettingsError(f"Ray at '{address}' does not answer within {ANSWER_SECONDS:g} s") from error
    if tried.returncode:
        lines = [line.strip() for line in tried.stderr.splitlines() if line.strip()]
        raise SettingsError(f"Ray at '{address}' can't be used: {lines[-1] if lines else 'it refuses'}")
