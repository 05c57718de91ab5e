"""What a store that was joined from several says of them: enough that nothing which was left out is hidden."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compbench.run.schema import MERGED

Prefer = Literal["first", "oldest", "newest"]
"""Which of several records of one cell is taken: that of the store that was named first, or by when they began."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class JoinedStore(_Record):
    """One of the stores, of which no name is kept: it would be a place on somebody's machine."""

    cells: int = Field(description="records that were taken from it")
    machines: list[str] = Field(default_factory=list, description="hashes of the machines that these ran on, sorted")


class LeftOut(_Record):
    """A record that was not taken, since another one of the same cell was."""

    key: str
    label: str = Field(description="what the row of a table is called")
    depth: int
    seed: int
    prefer: Prefer = Field(description="the rule that decided")
    kept_status: str
    status: str
    reason: str = ""
    machine: str = ""
    started_at: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)


class MergeRecord(_Record):
    """How a store came to be of several."""

    schema_version: int = MERGED.version
    stores: list[JoinedStore] = Field(description="in the order in which they were named")
    left_out: list[LeftOut] = Field(default_factory=list)
    times: Literal["shown", "left out"] = Field(
        "shown", description="left out: tables show no times, which are in the records all the same"
    )
