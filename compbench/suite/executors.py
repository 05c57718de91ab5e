"""What a suite may say of the executors that can run it: section ``executor``, a mapping for each by its name.

Which of them runs it is said on the command line, so that one file serves a laptop and a cluster.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ExecutorName = Literal["local"]
"""The names that ``--executor`` takes, which are the fields of :class:`Executors`."""


class LocalSettings(BaseModel):
    """Cells on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: int | None = Field(None, ge=1, description="cells at a time; by default one a pair of cores, or one a GPU")


class Executors(BaseModel):
    """The settings of each executor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    local: LocalSettings = LocalSettings()
