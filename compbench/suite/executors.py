"""What a suite may say of the executors that can run it: section ``executor``, a mapping for each by its name.

Which of them runs it is said on the command line, so that one file serves a laptop and a cluster.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ExecutorName = Literal["local", "ray", "slurm"]
"""The names that ``--executor`` takes, which are the fields of :class:`Executors`."""


class LocalSettings(BaseModel):
    """Cells on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: int | None = Field(None, ge=1, description="cells at a time; by default one a pair of cores, or one a GPU")


class RaySettings(BaseModel):
    """Cells as tasks of Ray."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = Field(
        None, description="auto, HOST:PORT, or local: a Ray of its own on this machine, which is the default"
    )
    cpus: int | None = Field(None, ge=1, description="CPUs reserved for a cell; by default the suite's threads, or 1")
    gpus: int | None = Field(None, ge=0, description="GPUs reserved for a cell; by default 1 on cuda, and none on cpu")
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="amounts of further resources of the nodes, as the cluster names them"
    )
    runtime_env: dict[str, Any] = Field({}, description="Ray's runtime environment, such as {pip: [einops]}")


class SlurmSettings(BaseModel):
    """Cells as jobs of Slurm, by submitit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = Field(None, description="partition; by default Slurm's own")
    minutes: int | None = Field(None, ge=1, description="time of a job; by default 5 more than timeout_seconds")
    cpus: int | None = Field(None, ge=1, description="CPUs of a job; by default the suite's threads, or 1")
    gpus: int | None = Field(None, ge=0, description="GPUs of a job; by default 1 on cuda, and none on cpu")
    memory_gb: float | None = Field(None, gt=0, description="memory of a job; by default Slurm's own")
    account: str | None = Field(None, description="whom the time is charged to")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="features that a node must have")
    jobs: int | None = Field(
        None,
        ge=1,
        description="most jobs in the queue at a time; by default 100, or on this machine what its cores allow",
    )
    setup: list[str] = Field([], description="lines of the job's script before the cell, such as 'module load cuda'")
    sbatch: dict[str, Any] = Field({}, description="further options of sbatch, such as {mail-type: END}")
    folder: str = Field("slurm-jobs", description="where jobs leave their results; all nodes must see it")
    cluster: Literal["slurm", "local"] = Field("slurm", description="local: processes of this machine, to try it out")


class Executors(BaseModel):
    """The settings of each executor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    local: LocalSettings = LocalSettings()
    ray: RaySettings = RaySettings()
    slurm: SlurmSettings = SlurmSettings()
