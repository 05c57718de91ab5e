"""The keys of a suite that are plain values: its name, where and how long it runs, and what is allowed of each."""

from __future__ import annotations

import re
from typing import Annotated

import torch
from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator

from compbench.suite.suite import CHECKPOINT_MINUTES

SMALLEST_MEMORY_LIMIT = 10**9
"""Bytes; a process that has loaded torch on a CPU has asked for 0.4 GB before it does anything."""

DEVICES_ELSEWHERE = ("cpu", "cuda")
"""The devices that a suite can name where others place its cells; which GPU it is, they say."""


class Head(BaseModel):
    """The keys of a suite that are plain values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    margins: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    lower_is_better: list[str] = []
    device: str | None = None
    threads: int | None = Field(None, ge=1)
    timeout_seconds: float | None = Field(None, gt=0)
    checkpoint_minutes: float = Field(CHECKPOINT_MINUTES, ge=0, allow_inf_nan=False)
    memory_limit: ByteSize | None = None

    @field_validator("memory_limit")
    @classmethod
    def _leaves_room_to_begin(cls, memory_limit: ByteSize | None) -> ByteSize | None:
        if memory_limit is not None:
            check_memory_limit(memory_limit)
        return memory_limit

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}(?<!\.)", name):
            raise ValueError("it names a folder (allowed: letters, digits, _, - and ., a letter or digit first)")
        return name

    @field_validator("device")
    @classmethod
    def _is_there(cls, device: str | None) -> str | None:
        available = available_devices()
        if device is not None and device not in available:
            raise ValueError(f"no such device here (available: {', '.join(available)})")
        return device


class HeadElsewhere(Head):
    """The same for cells that run on other machines: which devices those have is not known here."""

    @field_validator("device")
    @classmethod
    def _is_there(cls, device: str | None) -> str | None:
        if device not in (None, *DEVICES_ELSEWHERE):
            raise ValueError(f"not to be had from a cluster (allowed: {', '.join(DEVICES_ELSEWHERE)})")
        return device


def check_memory_limit(memory_limit: int) -> None:
    """Whether a cell's process can begin under this limit.

    Raises:
        ValueError: It can't.
    """
    if memory_limit < SMALLEST_MEMORY_LIMIT:
        raise ValueError("torch alone takes a good part of that (allowed: 1GB or more)")


def available_devices() -> list[str]:
    """The devices that a suite can name here."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]


def default_device() -> str:
    """Where a suite that names no device runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"
