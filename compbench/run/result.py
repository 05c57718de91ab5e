"""What a cell leaves behind: one JSON record, whatever became of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compbench.measure.results import Arithmetic, Fidelity, Memory, Time
from compbench.run.environment import Environment
from compbench.run.schema import CELL
from compbench.suite.cell import Cell

SCHEMA_VERSION = CELL.version
"""Of the records that are written. Those of earlier versions are upgraded as they are read; what their version did not
know is then None or empty."""

Status = Literal["ok", "oom", "timeout", "crashed", "failed", "diverged", "unsupported", "skipped"]

Exactness = Literal["exact", "lossless", "lossy"]


class CellResult(BaseModel):
    """The record of one cell."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    schema_version: int = SCHEMA_VERSION
    key: str
    cell: Cell
    status: Status
    reason: str = Field("", description="why the status is not ok, in one line")
    log: str = Field("", description="path of the log, relative to the suite's results folder")
    log_tail: list[str] = Field(default_factory=list, description="the log's last lines, when the status is not ok")
    machine: str = Field("", description="hash of the machine's description, machines/HASH.json")
    environment: Environment | None = Field(None, description="what the cell's process ran under; None if unknown")
    started_at: str = Field("", description="UTC, ISO 8601")
    seconds: float = Field(0.0, description="of the cell's process, and of earlier ones whose training it went on with")
    earlier_seconds: float = Field(
        0.0, description="of these, those of earlier processes, each up to its last checkpoint: what came after is lost"
    )
    resumed_from: list[int] = Field(
        default_factory=list, description="the steps from which the training went on after its process had ended"
    )
    sources: dict[str, str] = Field(
        default_factory=dict,
        description="SHA-256 of each file of strategies and workload, beside what tells them apart",
    )
    attempts: int = Field(
        1, description="how often the cell was run until it gave this record; more after crashes alone"
    )
    exactness: Exactness | None = Field(
        None,
        description="what the strategy says of itself. exact: what it rebuilds is what was saved, bit for bit; "
        "lossless: gradients differ by rounding at most",
    )
    weights_hash: str = Field("", description="SHA-256 of the initial weights; equal for all arms of a seed and depth")
    order_hash: str = Field("", description="SHA-256 of the order of training examples")
    parameters: int = 0
    loss_curve: list[float] = Field(default_factory=list, description="training loss of every step")
    statistics_curve: list[dict[str, float]] = Field(
        default_factory=list, description="the strategy's figures over training, about 100 points, each with its step"
    )
    site_curves: dict[str, dict[str, list[tuple[int, float]]]] = Field(
        default_factory=dict,
        description="each site's rank and fidelity over training, about 50 points as step and value; none where it was "
        "left raw",
    )
    validation_curve: list[dict[str, float]] = Field(
        default_factory=list, description="held-out metrics over training, each point with its step, the last included"
    )
    skipped_batches: int = Field(0, description="batches whose gradients the strategy asked not to apply")
    metrics: dict[str, float] = Field(default_factory=dict, description="held-out metrics after the last step")
    statistics: dict[str, float] = Field(default_factory=dict, description="the strategy's counters, summed over sites")
    memory: Memory | None = None
    time: Time | None = None
    arithmetic: Arithmetic | None = None
    fidelity: Fidelity | None = None
