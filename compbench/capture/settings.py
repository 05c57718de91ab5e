"""The settings of capture, for suites and for :func:`compbench.compress` alike."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compbench.errors import SettingsError
from compbench.site_patterns import SitePatterns

Attention = Literal["recompute", "raw", "literal"]
Routes = Literal["operators", "weight_gradients", "hooks"]


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
    routes: Routes = Field(
        "operators",
        description=(
            "operators: run linear layers, convolutions, norms and gates as functions that compute with what was kept, "
            "at its rank, and keep nothing that follows from it; "
            "weight_gradients: compute weight gradients so, and keep what hooks would (for study); "
            "hooks: leave the model's operators as they are, and compress whatever they save"
        ),
    )
    minimum_elements: int = Field(1024, ge=1, description="storages with fewer elements are left raw")
    sites: tuple[str | int, ...] = Field(
        (),
        description=(
            "patterns of the sites to compress: globs over MODULE/ROLE, a module or a role, or widths ('width:>=512'); "
            "a leading ! excludes, and the last that matches decides; all others are left raw; empty: every site"
        ),
    )

    @field_validator("sites", mode="before")
    @classmethod
    def _listed(cls, sites: object) -> object:
        """A single pattern stands for the list of it; a list is what JSON has for a tuple."""
        if isinstance(sites, (str, int)) and not isinstance(sites, bool):
            return (sites,)
        return tuple(sites) if isinstance(sites, list) else sites

    @field_validator("sites")
    @classmethod
    def _readable(cls, sites: tuple[str | int, ...]) -> tuple[str | int, ...]:
        try:
            SitePatterns(sites)
        except SettingsError as error:  # pydantic gathers ValueErrors, with the field they belong to
            raise ValueError(str(error)) from error
        return sites
