"""``recompute``: keeps what was dear to compute, and computes what was cheap again in the backward pass.

Exact: the same operators run again on the same numbers. With ``bitwise: false`` linear layers and norms run as the
session's own operators, whose gradients are those of torch's up to rounding: norms keep their outputs, which the next
layer keeps as well, and a weight's gradient is summed up in place over its calls.

- ``cheap`` recomputes norms, activation functions, sums, products of elements, casts and copies. Outputs of linear
  layers and of attention are kept.
- ``inputs`` also recomputes linear layers that widen (q, k, v in one; gate and up), so that nothing wider than the
  block's own width is kept: the sums of the residual stream and attention's output.

Source: selective recomputation (Korthikanti et al., arXiv 2205.05198), there for attention's softmax and dropout; here
for whatever the presets say. It departs from it in that operators are chosen by what they are, in any model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator

from compbench import Codec, Compressor, Recomputation, Site, hookimpl
from compbench.site_patterns import SitePatterns


class Recompute(Compressor):
    """Exact: keeps products and attention, and computes norms, activations and widening layers again."""

    name: ClassVar[str] = "recompute"
    lossless: ClassVar[bool] = True

    preset: Literal["cheap", "inputs"] = Field(
        "inputs", description="cheap: what costs next to nothing; inputs: also linear layers wider than their input"
    )
    keep: tuple[str | int, ...] = Field(
        (), description="patterns of sites that are kept though they could be recomputed; as capture.sites has them"
    )

    bitwise: bool = Field(
        True, description="false: by operators that round otherwise than torch's, and are faster; see capture.routes"
    )

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether every bit of the gradients is that of plain autograd."""
        return self.bitwise

    @field_validator("keep")
    @classmethod
    def _readable(cls, keep: tuple[str | int, ...]) -> tuple[str | int, ...]:
        SitePatterns(keep)
        return keep

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None

    def recomputation(self) -> Recomputation:
        return Recomputation("cheap" if self.preset == "cheap" else "expanding", keep=self.keep)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``recompute``."""
    return [Recompute]
