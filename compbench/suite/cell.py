"""A cell: one run of a suite, workload x strategy x depth x seed, as plain data that a process can be handed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from compbench.capture.settings import CaptureSettings
from compbench.measure.allocator import Allocator

_Beta = Annotated[float, Field(ge=0, lt=1)]
"""The decay rate of a moment; at 1 it would take nothing in."""


class Training(BaseModel):
    """How a model is trained: linear warm-up, then cosine decay to zero unless the schedule is another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch_size: int = Field(64, ge=1, description="examples in a batch")
    optimizer: Literal["adamw", "adam_atan2"] = Field(
        "adamw",
        description="adamw, or adam_atan2: an arctangent in the place of the quotient, as in the reference Tiny "
        "Recursive Model (extra atan2)",
    )
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate, reached after the warm-up")
    warmup_steps: int = Field(50, ge=0, description="steps of linear warm-up")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="after the warm-up: cosine decay to zero, or the peak learning rate to the end"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of the moving average of weights that held-out metrics are taken with; "
        "null: the weights themselves",
    )
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")
    betas: tuple[_Beta, _Beta] = Field((0.9, 0.95), description="the optimiser's decay rates of the two moments")
    gradient_clip: float | None = Field(1.0, gt=0, description="largest norm of the whole gradient; null: no clipping")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="fp32, or bf16 autocast over fp32 parameters")


_UNSAID = CaptureSettings(routes="hooks").model_dump(mode="json")
"""What a key leaves out. It stays as it was when cells were first named, whatever the defaults have become."""


class Measuring(BaseModel):
    """Which passes a cell makes beside its training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: bool = Field(True, description="measure saved bytes and peak delta")
    time_pairs: int = Field(5, ge=0, description="pairs of one compressed and one uncompressed step; 0: no timing")
    gradient_cosine: bool = Field(True, description="compare gradients with the exact ones, early and at the end")
    flops: bool = Field(True, description="count the floating-point operations of a step")
    validation_points: int | None = Field(
        None,
        ge=0,
        description="how often held-out metrics are taken over the training; null: 20 times, or fewer, down to 5, "
        "where that would take more than a tenth of it",
    )
    allocator: Allocator = Field(
        "reuse", description="reuse: the process keeps the memory that it frees; default: as the system does it"
    )


class PluginReference(BaseModel):
    """A strategy or workload by name, with the fields that differ from their defaults, and the hash of its source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fields: dict[str, Any] = Field(default_factory=dict)
    source: str = Field("", description="SHA-256 of the file that defines it")


class Cell(BaseModel):
    """One run of a suite. Its :attr:`key` names the work: what differs from the defaults, and the plugins' source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    arm: str
    depth: int
    seed: int
    workload: PluginReference
    strategy: tuple[PluginReference, ...]
    variant: dict[str, Any] = Field(default_factory=dict, description="values of further matrix axes")
    training: Training = Training()
    measuring: Measuring = Measuring()
    capture: CaptureSettings = CaptureSettings()
    device: str = "cpu"
    plugins_dir: str | None = Field(None, description="absolute path of the project's own plugins, if any")

    @property
    def label(self) -> str:
        """What a table's row is called: the arm, and values of further matrix axes, such as ``laser hidden=128``."""
        return " ".join([self.arm, *(f"{axis}={value}" for axis, value in self.variant.items())])

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this cell other work than another: whatever of it is not left out as a default."""
        identity = self.model_dump(mode="json", exclude_defaults=True, exclude={"suite", "plugins_dir", "capture"})
        capture = self.capture.model_dump(mode="json")
        if changed := {name: value for name, value in capture.items() if value != _UNSAID[name]}:
            identity["capture"] = changed
        return identity

    @cached_property
    def key(self) -> str:
        """A readable and unique file name: label, depth and seed, and 12 digits of the identity's hash."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        readable = re.sub(r"[^A-Za-z0-9_.=-]+", "-", self.label)
        return f"{readable}-d{self.depth}-s{self.seed}-{digest[:12]}"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, whose key is its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)
        return copied
