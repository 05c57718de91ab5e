"""What an analysis gives: named numbers, and a row for every measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Row = Mapping[str, str | int | float | None]
"""A measurement in long format: what was measured where, and ``value``."""


class Settings(BaseModel):
    """The options that all analyses have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int | None = Field(None, ge=1, description="held-out examples of a pass; null: as many as a batch has")


class SiteSettings(Settings):
    """Those of analyses that look at sites."""

    sites: tuple[str | int, ...] = Field((), description="patterns of sites, as in the capture's sites; empty: all")


@dataclass(frozen=True)
class Analysis:
    """What was found.

    Attributes:
        summary: Named numbers; where one can't be given it is None.
        rows: Every measurement.
    """

    summary: dict[str, Any]
    rows: Sequence[Row]


def number(value: float) -> float | None:
    """A number that JSON has; None for what is none."""
    value = float(value)
    return value if math.isfinite(value) else None
