"""The figures of the measuring passes, as plain records."""

from __future__ import annotations

from typing import Any, Literal

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


PhaseName = Literal["forward", "backward", "update"]
"""The phases of a timed step; ``update`` is the strategy's own end of step, not the optimiser."""


class Phase(_Record):
    """One phase of the timed steps. A plain step has no update, so that there is no ratio for it."""

    seconds: float = Field(description="median over the compressed steps")
    uncompressed_seconds: float
    ratio: float | None = Field(None, description="compressed over uncompressed, median of pairs; none for update")
    ratio_quartiles: tuple[float, float] | None = None


class Time(_Record):
    """Wall-clock of interleaved pairs of steps: forward, backward and the strategy's end of step.

    What is None or empty was not measured when the record was made.
    """

    ratio: float = Field(description="compressed over uncompressed, median of pairs")
    ratio_quartiles: tuple[float, float]
    pairs: int
    step_seconds: float = Field(description="median compressed step")
    uncompressed_step_seconds: float
    threads: int
    allocator: str = Field(description="glibc's tunables as set for the process, 'default', or \"system's default\"")
    phases: dict[PhaseName, Phase] = Field(default_factory=dict)
    page_faults: int | None = Field(
        None, description="minor page faults of a compressed step, median: memory that the step paged in"
    )
    uncompressed_page_faults: int | None = None
    alone: bool | None = Field(
        None, description="whether other cells on the same cores or GPU had paused; false: one did not within a minute"
    )


class Flops(_Record):
    """Floating-point operations of one step, by phase; a multiplication and an addition are two."""

    forward: int
    backward: int
    update: int

    @property
    def total(self) -> int:
        """Of the whole step."""
        return self.forward + self.backward + self.update


class Arithmetic(_Record):
    """What a step computes: matrix products, convolutions and attention, wherever they happen within it."""

    flops: Flops = Field(description="of a step under the strategy")
    uncompressed_flops: Flops

    @property
    def ratio(self) -> float | None:
        """Operations of a compressed step over those of an uncompressed one; None where the model has none."""
        return self.flops.total / self.uncompressed_flops.total if self.uncompressed_flops.total else None


class Fidelity(_Record):
    """Gradients on one held-out batch, against the exact ones at the same weights."""

    gradient_cosine_start: float = Field(description="after the third step, when every basis has been initialised")
    gradient_cosine: float = Field(description="after the last step; all parameters as one vector")
    smallest_parameter_cosine: float = Field(description="after the last step; the parameter that fares worst")
