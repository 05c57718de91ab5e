"""The figures of the measuring passes, as plain records."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Memory(_Record):
    """Tier 1: saved bytes; tier 2: peak over the static state; tier 3: the process' peak."""

    saved_bytes: int = Field(description="unique storages held for backward at their maximum in a step")
    uncompressed_bytes: int = Field(description="the same without the strategy, on the same batch in the same process")
    training_peak_saved_bytes: int = Field(
        description="the most held for backward in any training step, calibration and first steps included"
    )
    state_bytes: int = Field(description="what the codecs hold between steps: bases, accumulators")
    peak_delta_bytes: int = Field(description="peak of live bytes in a step over the static state of plain training")
    uncompressed_peak_delta_bytes: int
    peak_phase: str = Field(description="forward, backward, update (the strategy's end of step) or optimizer")
    allocator_peak_delta_bytes: int | None = Field(None, description="CUDA's allocator peak over the static state")
    uncompressed_allocator_peak_delta_bytes: int | None = None
    process_peak_bytes: int = Field(description="resident set (CPU) or reserved memory (CUDA) at its highest")
    sites: list[dict[str, Any]] = Field(default_factory=list, description="one entry a site, as Session.sites() has it")


class Time(_Record):
    """Wall-clock of interleaved pairs of steps: forward, backward and the strategy's end of step."""

    ratio: float = Field(description="compressed over uncompressed, median of pairs")
    ratio_quartiles: tuple[float, float]
    pairs: int
    step_seconds: float = Field(description="median compressed step")
    uncompressed_step_seconds: float
    threads: int
    allocator: str = Field(description="glibc's tunables as set for the process, or 'default'")


class Fidelity(_Record):
    """Gradients on one held-out batch, against the exact ones at the same weights."""

    gradient_cosine_start: float = Field(description="after the third step, when every basis has been initialised")
    gradient_cosine: float = Field(description="after the last step; all parameters as one vector")
    smallest_parameter_cosine: float = Field(description="after the last step; the parameter that fares worst")
