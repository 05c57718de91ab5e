"""Executors by name: what ``--executor`` chooses from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compbench.errors import SettingsError
from compbench.run.cell_process import Command, Limits, cell_command
from compbench.run.checkpoints import Checkpointing
from compbench.run.executor import Executor
from compbench.run.scheduler import Scheduler
from compbench.run.slots import plan_slots
from compbench.suite.executors import ExecutorName
from compbench.suite.suite import Suite


@dataclass(frozen=True)
class ExecutorRequest:
    """What an executor is made of.

    Attributes:
        suite: The suite; its ``device``, ``threads`` and ``executors`` hold.
        limits: What each cell's process may take.
        jobs: Cells at a time, as the command line has it; None leaves it to the suite.
        command: Makes the command of a cell's process.
        address: Where the cluster is, in place of what the suite says; for Ray alone.
        checkpointing: Where trainings are saved now and then, if they are; goes into each ``CellJob``.
        trace_steps: How many steps of each cell are traced at its end, 0 for none; goes into each ``CellJob``.
    """

    suite: Suite
    limits: Limits
    jobs: int | None = None
    command: Command = cell_command
    address: str | None = None
    checkpointing: Checkpointing | None = None
    trace_steps: int = 0


def make_executor(name: ExecutorName, request: ExecutorRequest) -> Executor:
    """The executor of that name; nothing is started and nothing is connected to.

    Raises:
        SettingsError: It can't be used as asked: the device is not there, or a package that it needs.
    """
    if request.address is not None and name != "ray":
        raise SettingsError(f"--address beside --executor {name} (allowed: beside --executor ray)")
    return _MAKERS[name](request)


def _local(request: ExecutorRequest) -> Executor:
    suite = request.suite
    slots = plan_slots(suite.device, request.jobs or suite.executors.local.jobs, suite.threads)
    return Scheduler(slots, request.limits, request.command, request.checkpointing, request.trace_steps)


def _ray(request: ExecutorRequest) -> Executor:
    from compbench.run.ray_executor import RayExecutor

    suite = request.suite
    settings = suite.executors.ray
    if request.address is not None:
        settings = settings.model_copy(update={"address": request.address})
    on_gpu = suite.device.partition(":")[0] == "cuda"
    return RayExecutor(
        settings,
        on_gpu,
        suite.threads,
        request.limits,
        request.jobs,
        request.command,
        request.checkpointing,
        request.trace_steps,
    )


def _slurm(request: ExecutorRequest) -> Executor:
    from compbench.run.slurm_executor import SlurmExecutor

    suite = request.suite
    on_gpu = suite.device.partition(":")[0] == "cuda"
    return SlurmExecutor(
        suite.name,
        suite.executors.slurm,
        on_gpu,
        suite.threads,
        request.limits,
        request.jobs,
        request.command,
        request.checkpointing,
        request.trace_steps,
    )


# Each imports its own package when it is called: nobody needs Ray to run a suite at home.
_MAKERS: Mapping[ExecutorName, Callable[[ExecutorRequest], Executor]] = {"local": _local, "ray": _ray, "slurm": _slurm}
