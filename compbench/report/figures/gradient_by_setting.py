"""What is left of gradients against what a suite's matrix varies: the cosine with the exact gradient, a line an arm."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compbench.measure.results import Fidelity
from compbench.report.figures.along_axis import (
    Line,
    at_depth,
    axes_of,
    figure_along,
    key_along,
    lines_along,
    points_along,
    told,
    vertical,
)
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key
from compbench.report.figures.units import number
from compbench.report.outcome import Outcome
from compbench.report.verdicts import REFERENCE
from compbench.run.result import CellResult

_NAME, _TITLE = "gradient_by", "Gradient cosine"


def gradient_by_setting(outcome: Outcome) -> list[Figure | NoFigure]:
    """For each axis of the matrix with several values, one figure of all arms but the reference."""
    cells: list[tuple[CellResult, Fidelity]] = [
        (cell.result, fidelity)
        for cell in outcome.cells
        if cell.result
        and cell.status == "ok"
        and [plugin.name for plugin in cell.result.cell.strategy] != [REFERENCE]
        and (fidelity := cell.result.fidelity)
        and math.isfinite(fidelity.gradient_cosine)
        and math.isfinite(fidelity.gradient_cosine_start)
    ]
    figures: list[Figure | NoFigure] = [
        _of_arms(axis, lines, key_along(axis, outcome))
        for axis in axes_of([result for result, _ in cells])
        if (lines := lines_along(axis, cells))
    ]
    reason = (
        "The cells whose gradients were compared have the same value on every axis of the matrix, and a comparison "
        "needs two."
        if cells
        else "No cell that ended well has its gradient compared with the exact one under a strategy."
    )
    return figures or [NoFigure(_NAME, f"{_TITLE} by setting", reason)]


def _of_arms(axis: str, lines: Sequence[Line[Fidelity]], key: Key) -> Figure:
    sentences = [
        f"The cosine of the gradient of all parameters with the exact one, on one held-out batch after the last "
        f"training step, by {axis}{at_depth(lines)}. Marks are means over seeds, with the range of the seeds as a bar.",
    ]
    points = points_along(lines, lambda found: found.gradient_cosine)
    for line in lines:
        early = [found.gradient_cosine_start for seeds in line.seeds.values() for found in seeds]
        sentences.append(
            f"{line.label}: {told(points[line.label])}; after the third step it was {number(min(early))} to "
            f"{number(max(early))}."
        )
    lowest = min(0.0, *(point["lowest"] for of_line in points.values() for point in of_line.values()))
    y = vertical("gradient cosine", (1.08 * lowest, 1.02))
    return figure_along(_NAME, _TITLE, axis, points, lines, key, y, sentences)
