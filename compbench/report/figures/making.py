"""All figures of a suite's results, in the order in which a reader wants them."""

from __future__ import annotations

from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.memory_by_depth import memory_by_depth
from compbench.report.outcome import Outcome


def make_figures(outcome: Outcome) -> list[Figure | NoFigure]:
    """The figures of a suite's results, and for each that these can't give, the reason.

    The same results give the same specifications, byte for byte.
    """
    return [figure for make in (memory_by_depth,) for figure in make(outcome)]
