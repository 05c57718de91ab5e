"""All figures of a suite's results, in the order in which a reader wants them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from compbench.report.figures.curves_over_training import training_loss, validation_curves
from compbench.report.figures.differences import accuracy_by_seed
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.gradient_by_setting import gradient_by_setting
from compbench.report.figures.memory_by_depth import memory_by_depth
from compbench.report.figures.pareto import pareto
from compbench.report.figures.rank_and_fidelity import rank_and_fidelity
from compbench.report.figures.rank_by_setting import rank_by_setting
from compbench.report.figures.saved_bytes_by_site import saved_bytes_by_site
from compbench.report.outcome import Outcome

_MAKERS: tuple[Callable[[Outcome], list[Figure | NoFigure]], ...] = (
    memory_by_depth,
    pareto,
    accuracy_by_seed,
    validation_curves,
    training_loss,
    rank_and_fidelity,
    rank_by_setting,
    gradient_by_setting,
    saved_bytes_by_site,
)


def make_figures(outcome: Outcome) -> list[Figure | NoFigure]:
    """The figures of a suite's results, and for each that these can't give, the reason.

    The same results give the same specifications, byte for byte. No two have the same name: arms and metrics whose
    names differ in what a file's name can't have are counted.
    """
    figures: dict[str, Figure | NoFigure] = {}
    for make in _MAKERS:
        for figure in make(outcome):
            name, number = figure.name, 1
            while name in figures:
                number += 1
                name = f"{figure.name}-{number}"
            figures[name] = replace(figure, name=name)
    return list(figures.values())
