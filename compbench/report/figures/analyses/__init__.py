"""The figures of analyses, made of what their files say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compbench.analysis.result import Row
from compbench.report.figures.analyses.distribution import densities, int8_errors
from compbench.report.figures.analyses.drift import angles
from compbench.report.figures.analyses.gradient import alignment, bounds
from compbench.report.figures.analyses.linearity import errors
from compbench.report.figures.analyses.spectrum import cosines, ranks
from compbench.report.figures.analyses.trajectory import paths, steps
from compbench.report.figures.figure import Figure

Maker = Callable[[Mapping[str, Any], Sequence[Row]], Figure]

_MAKERS: Mapping[str, Sequence[Maker]] = {
    "spectrum": (cosines, ranks),
    "linearity": (errors,),
    "distribution": (densities, int8_errors),
    "gradient": (bounds, alignment),
    "drift": (angles,),
    "trajectory": (paths, steps),
}


def analysis_figures(content: Mapping[str, Any], rows: Sequence[Row]) -> list[Figure]:
    """The figures of an analysis; the first one has its name.

    Args:
        content: What its JSON says.
        rows: What its CSV says.
    """
    return [make(content, rows) for make in _MAKERS[content["analysis"]]]
