"""The settings of capture, for suites and for :func:`compbench.compress` alike."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Attention = Literal["recompute", "raw", "literal"]


class CaptureSettings(BaseModel):
    """What a session compresses, and how it treats attention."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention: Attention = Field(
        "recompute",
        description=(
            "recompute: compress q, k, v and recompute attention's output and log-sum-exp from them; "
            "raw: leave what attention saves as it is; "
            "literal: compress q, k, v beside the exact log-sum-exp, which breaks the softmax (for study)"
        ),
    )
    minimum_elements: int = Field(1024, ge=1, description="storages with fewer elements are left raw")
