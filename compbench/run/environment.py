"""What a cell's process ran under that bears on its times, beside the machine: allocator, threads and cores."""

from __future__ import annotations

import os
import re
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from compbench.measure.allocator import REUSE, c_library
from compbench.run.affinity import Placement, placement


class Environment(BaseModel):
    """The process of a cell, as it finds itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allocator: Literal["reuse", "default", "own"] = Field(
        description="reuse: glibc keeps its memory; default: nothing is set; own: the user's own tunables hold"
    )
    tunables: str = Field("", description="glibc's tunables, as the variable GLIBC_TUNABLES has them")
    c_library: str = Field(description="the C library, whose allocator is meant; tunables are glibc's alone")
    preloaded: list[str] = Field(
        default_factory=list, description="names of libraries loaded before all others, such as another allocator"
    )
    threads: int = Field(description="threads of torch's operators")
    placement: Placement = Field(
        description="own: no other cell of the run is on these cores; shared; refused; unknown"
    )
    cores: list[int] | None = Field(None, description="cores that the process may run on, by the system's numbers")


def describe_environment() -> Environment:
    """This process as it is now. Nothing in it names a person or a folder."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    placed, cores = placement()
    return Environment(
        allocator=_allocator(tunables),
        tunables=tunables,
        c_library=c_library(),
        preloaded=[os.path.basename(path) for path in re.split(r"[ :]+", os.environ.get("LD_PRELOAD", "")) if path],
        threads=torch.get_num_threads(),
        placement=placed,
        cores=cores,
    )


def _allocator(tunables: str) -> Literal["reuse", "default", "own"]:
    if not tunables or not c_library().startswith("glibc"):
        return "default"
    return "reuse" if tunables == REUSE else "own"
