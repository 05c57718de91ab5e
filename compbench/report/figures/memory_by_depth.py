"""Memory against depth: one line an arm, and the law ``M = a + b n`` that it follows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from compbench.measure.results import Memory
from compbench.report.figures.charts import finished, fitted
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key, arms_key
from compbench.report.figures.units import Unit, bytes_unit, listed, number, percent
from compbench.report.outcome import Outcome
from compbench.report.rows import ok_results

_PLOT_HEIGHT = 140

_NOTHING = 5e-4
"""Of a law in its unit: what is not worth a digit."""


@dataclass(frozen=True)
class Law:
    """Memory as a linear function of depth, ``M = a + b n``, by least squares over all cells.

    Attributes:
        intercept_bytes: ``a``, what does not grow with depth.
        bytes_per_call: ``b``, what a further call of the recursion costs.
        largest_residual: the cell that is furthest from the law, as a share of what was measured there.
        depths: those that there are, ascending.
    """

    intercept_bytes: float
    bytes_per_call: float
    largest_residual: float
    depths: tuple[int, ...]

    def at(self, depth: int) -> float:
        """Bytes at a depth."""
        return self.intercept_bytes + self.bytes_per_call * depth


def fitted_law(depths: Sequence[int], sizes: Sequence[int]) -> Law | None:
    """The law through some cells; None where they are all of one depth.

    Args:
        depths: of each cell.
        sizes: bytes of each cell.
    """
    if len(set(depths)) < 2:
        return None
    n, measured = np.asarray(depths, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    centred = n - n.mean()
    slope = float(centred @ measured / (centred @ centred))
    intercept = float(measured.mean() - slope * n.mean())
    residuals = np.abs(measured - intercept - slope * n) / np.maximum(measured, 1.0)
    return Law(intercept, slope, float(residuals.max()), tuple(sorted(set(depths))))


@dataclass(frozen=True)
class _Quantity:
    """What is drawn against depth."""

    name: str
    title: str
    axis: str
    what: str
    size: Callable[[Memory], int]


_QUANTITIES = (
    _Quantity(
        "memory_by_depth",
        "Saved memory against recursion depth",
        "saved for backward",
        "what is held for the backward pass at its most in a step",
        lambda memory: memory.saved_bytes,
    ),
    _Quantity(
        "peak_memory_by_depth",
        "Peak memory against recursion depth",
        "peak over static state",
        "the highest live memory of a step beyond the static state of plain training",
        lambda memory: memory.peak_delta_bytes,
    ),
)


def memory_by_depth(outcome: Outcome) -> list[Figure | NoFigure]:
    """Saved bytes and peak delta against depth, each with the law that every arm follows."""
    return [_figure(outcome, quantity) for quantity in _QUANTITIES]


def _figure(outcome: Outcome, quantity: _Quantity) -> Figure | NoFigure:
    arms: dict[str, list[tuple[int, int]]] = {}
    for (arm, depth), cells in outcome.groups.items():
        found = [(depth, quantity.size(result.memory)) for result in ok_results(cells) if result.memory]
        arms.setdefault(arm, []).extend(found)
    measured = {arm: pairs for arm, pairs in arms.items() if pairs}
    depths = sorted({depth for pairs in measured.values() for depth, _ in pairs})
    if not measured:
        return NoFigure(quantity.name, quantity.title, "No cell that ended well has its memory measured.")
    if len(depths) < 2:
        reason = f"All cells with measured memory are of depth {depths[0]}, and a slope needs two depths."
        return NoFigure(quantity.name, quantity.title, reason)
    laws = {arm: fitted_law(*zip(*pairs, strict=True)) for arm, pairs in measured.items()}
    unit = bytes_unit(size for pairs in measured.values() for _, size in pairs)
    key = arms_key(outcome)
    key = key.relabelled({arm: f"{key.labels[arm]}: {_formula(law, unit)}" for arm, law in laws.items() if law})
    chart = _chart(measured, laws, key, quantity, unit)
    return Figure(quantity.name, quantity.title, _caption(list(arms), measured, laws, quantity, unit), chart)


def _chart(
    measured: Mapping[str, Sequence[tuple[int, int]]],
    laws: Mapping[str, Law | None],
    key: Key,
    quantity: _Quantity,
    unit: Unit,
) -> dict[str, Any]:
    sizes = [
        {"arm": key.labels[arm], "depth": depth, **_of_seeds([size for n, size in pairs if n == depth], unit)}
        for arm, pairs in measured.items()
        for depth in sorted({depth for depth, _ in pairs})
    ]
    lines = [
        {"arm": key.labels[arm], "depth": depth, "size": law.at(depth) / unit.divisor}
        for arm, law in laws.items()
        if law
        for depth in (law.depths[0], law.depths[-1])
    ]
    title = f"law M = a + b n, in {unit.name}"
    depths = sorted({depth for pairs in measured.values() for depth, _ in pairs})
    axis = alt.Axis(values=depths, grid=False, format="d")
    x = alt.X("depth:Q", title="recursion depth n (calls)", axis=axis)
    x = x.scale(zero=False, nice=False, padding=6)
    y = alt.Y("size:Q", title=unit.of(quantity.axis), axis=alt.Axis(tickCount=5)).scale(zero=True)
    pick = key.pick()
    shared = {"x": x, "color": key.colour(measured, title), "opacity": pick.opacity}
    fit = alt.Chart(alt.NamedData("laws"), name="lines").mark_line(strokeWidth=1.2)
    fit = fit.encode(y=y, strokeDash=key.dash(measured, title), **shared).add_params(pick.parameter)
    seeds = alt.Chart(alt.NamedData("sizes")).mark_rule().encode(y=alt.Y("smallest:Q"), y2="largest:Q", **shared)
    told = [
        alt.Tooltip("arm:N", title="arm and law"),
        alt.Tooltip("depth:Q", title="depth"),
        alt.Tooltip("size:Q", title=f"median, {unit.name}", format=".4~g"),
        alt.Tooltip("seeds:Q", title="seeds"),
    ]
    marks = alt.Chart(alt.NamedData("sizes")).mark_point(size=22, filled=True)
    marks = marks.encode(y=y, shape=key.shape(measured, title), tooltip=told, **shared)
    chart = fitted([fit, seeds, marks], _PLOT_HEIGHT + key.legend_height(measured, title))
    return finished(chart, sizes=sizes, laws=lines)


def _of_seeds(sizes: Sequence[int], unit: Unit) -> dict[str, float]:
    return {
        "size": statistics.median_low(sizes) / unit.divisor,
        "smallest": min(sizes) / unit.divisor,
        "largest": max(sizes) / unit.divisor,
        "seeds": len(sizes),
    }


def _formula(law: Law, unit: Unit) -> str:
    """``a + b n``, in a unit."""
    a, b = (value / unit.divisor for value in (law.intercept_bytes, law.bytes_per_call))
    a, b = (0.0 if abs(value) < _NOTHING else value for value in (a, b))
    return f"{number(a)} {'-' if b < 0 else '+'} {number(abs(b))} n"


def _caption(
    arms: Sequence[str],
    measured: Mapping[str, Sequence[tuple[int, int]]],
    laws: Mapping[str, Law | None],
    quantity: _Quantity,
    unit: Unit,
) -> str:
    sentences = [
        f"{quantity.title}: {quantity.what}, in {unit.name} (1 {unit.name} is {unit.divisor:,.0f} bytes).",
        "Marks are medians over seeds, with the range of the seeds as a bar; lines are the law M = a + b n, fitted by "
        "least squares to the cells of each arm, with a what does not grow and b what a further call costs.",
    ]
    fitted_arms = {arm: law for arm, law in laws.items() if law}
    if not fitted_arms:
        sentences.append("No arm was measured at two depths, so that there is no law.")
    for arm, law in fitted_arms.items():
        tested = len(law.depths) > 2
        misfit = f"largest residual {percent(law.largest_residual)} of what was measured" if tested else ""
        sentences.append(f"{arm}: M = {_formula(law, unit)} {unit.name}{misfit and ', '}{misfit}.")
    two = [arm for arm, law in fitted_arms.items() if len(law.depths) == 2]
    if two:
        sentences.append(f"Two depths do not test a line, as any two lie on one: {listed(two)}.")
    one = [arm for arm in measured if arm not in fitted_arms]
    if one and fitted_arms:
        sentences.append(f"Measured at one depth alone, and without a law: {listed(one)}.")
    missing = [arm for arm in arms if arm not in measured]
    if missing:
        sentences.append(f"Without measured memory: {listed(missing)}.")
    return " ".join(sentences)
