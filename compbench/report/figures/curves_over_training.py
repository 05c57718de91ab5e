"""Held-out metrics and the loss against the training step: a line an arm, with a band over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from compbench.report.figures.charts import axis_of, finished, logarithmic, panel_width, panels, thinned
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key, arms_key
from compbench.report.figures.units import Unit, left_out, metric_title, metric_unit, stem
from compbench.report.outcome import Outcome
from compbench.report.rows import ok_results
from compbench.report.tables import words
from compbench.run.result import CellResult

MOST_POINTS = 100
"""Of one curve; a panel is about 200 points wide."""

_MOST_ROWS = 6000
"""Of a figure: with many curves each has fewer points."""

_FEWEST_POINTS = 12
_PANEL_HEIGHT = 100

Curve = Mapping[int, float]
"""A figure of one cell after so many training steps."""


@dataclass(frozen=True)
class BandPoint:
    """A curve at one step: the mean over seeds, and the lowest and the highest of them."""

    step: int
    mean: float
    low: float
    high: float


def band(curves: Sequence[Curve]) -> list[BandPoint]:
    """The curves of several seeds as one, over the steps at which all of them have a number."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = [(step, np.array([curve[step] for curve in curves])) for step in steps]
    return [BandPoint(step, float(v.mean()), float(v.min()), float(v.max())) for step, v in values]


def averaged(curve: Curve, width: int) -> Curve:
    """The means of a curve over so many steps each, at the last of these; the last mean may be over fewer."""
    if width == 1:
        return curve
    parts: dict[int, list[float]] = {}
    for step, value in curve.items():
        parts.setdefault((step - 1) // width, []).append(value)
    last = max(curve, default=0)
    return {min((part + 1) * width, last): float(np.mean(values)) for part, values in parts.items()}


@dataclass(frozen=True)
class _Subject:
    """What a figure follows over training.

    Attributes:
        curve: it of one cell; empty where the record does not have it.
        what: it in a sentence.
        noisy: whether single steps say little, so that a curve is thinned by averages over steps.
    """

    name: str
    title: str
    axis: str
    unit: Unit
    curve: Callable[[CellResult], Curve]
    what: str
    noisy: bool = False


def validation_curves(outcome: Outcome) -> list[Figure | NoFigure]:
    """A figure for each metric of which records have a curve."""
    title = "Held-out metrics over training"
    results = ok_results(outcome.cells)
    metrics = dict.fromkeys(
        name for result in results for point in result.validation_curve for name in point if name != "step"
    )
    if not metrics:
        why = "No cell ended well." if not results else _NO_CURVES
        return [NoFigure("validation", title, why)]
    return [_figure(outcome, _of_metric(metric)) for metric in metrics]


_NO_CURVES = (
    "No record has held-out metrics over training: they are older than such curves, or their suite asked for none "
    "(validation_points: 0)."
)


def training_loss(outcome: Outcome) -> list[Figure | NoFigure]:
    """The loss of every step."""

    def losses(result: CellResult) -> Curve:
        return {step: loss for step, loss in enumerate(result.loss_curve, start=1) if math.isfinite(loss)}

    what = "Training loss"
    return [
        _figure(
            outcome, _Subject("training_loss", "Training loss", "training loss", Unit(1, ""), losses, what, noisy=True)
        )
    ]


def _of_metric(metric: str) -> _Subject:
    def curve(result: CellResult) -> Curve:
        points = result.validation_curve
        return {int(point["step"]): point[metric] for point in points if math.isfinite(point.get(metric, math.nan))}

    title = f"Held-out {words(metric)} over training"
    return _Subject(f"validation_{stem(metric)}", title, metric_title(metric), metric_unit(metric), curve, title)


def _figure(outcome: Outcome, subject: _Subject) -> Figure | NoFigure:
    seeds: dict[tuple[str, int], list[Curve]] = {}
    for group, cells in outcome.groups.items():
        curves = [curve for result in ok_results(cells) if len(curve := subject.curve(result)) > 1]
        if curves:
            seeds[group] = curves
    most = max(_FEWEST_POINTS, min(MOST_POINTS, _MOST_ROWS // max(1, len(seeds))))
    length = max((len(curve) for curves in seeds.values() for curve in curves), default=0)
    width = -(-length // most) if subject.noisy else 1
    seeds = {group: [averaged(curve, width) for curve in curves] for group, curves in seeds.items()}
    bands = {group: points for group, curves in seeds.items() if len(points := band(curves)) > 1}
    if not bands:
        reason = "No cell that ended well has a curve of it with two points or more."
        return NoFigure(subject.name, subject.title, reason)
    shown = {group: thinned(points, most) for group, points in bands.items()}
    key = arms_key(outcome)
    rows = [
        {
            "arm": key.labels[arm],
            "panel": f"depth {depth}",
            "step": point.step,
            "mean": point.mean / subject.unit.divisor,
            "low": point.low / subject.unit.divisor,
            "high": point.high / subject.unit.divisor,
            "seeds": len(seeds[arm, depth]),
        }
        for (arm, depth), points in shown.items()
        for point in points
    ]
    chart = _chart(rows, list(dict.fromkeys(arm for arm, _ in bands)), subject, key)
    caption = _caption(outcome, subject, {group: len(seeds[group]) for group in bands}, _thinning(bands, most, width))
    return Figure(subject.name, subject.title, caption, chart)


def _chart(rows: Sequence[Mapping[str, Any]], arms: Sequence[str], subject: _Subject, key: Key) -> dict[str, Any]:
    pick = key.pick()
    log = logarithmic(row[name] for row in rows for name in ("low", "high")) if subject.unit.name != "%" else None
    scale, ticks = log if log else (alt.Scale(zero=False), None)
    axis = axis_of(values=ticks, format="~g") if ticks else axis_of(tickCount=5)
    x = alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=5, grid=False)).scale(nice=False)
    told = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("step:Q"),
        *(alt.Tooltip(f"{name}:Q", title=f"{name} {subject.unit.name}".strip(), format=".4~g") for name in _TOLD),
        alt.Tooltip("seeds:Q"),
    ]
    colour = key.colour(arms, lines=True)
    area = (
        alt.Chart()
        .mark_area(opacity=0.18, line=False)
        .encode(x=x, y=alt.Y("low:Q", title=subject.axis, axis=axis, scale=scale), y2="high:Q", color=colour)
    )
    line = (
        alt.Chart(name="lines")
        .mark_line(strokeWidth=1.1)
        .encode(
            x=x,
            y=alt.Y("mean:Q"),
            color=colour,
            strokeDash=key.dash(arms, lines=True),
            opacity=pick.opacity,
            tooltip=told,
        )
    )
    names = list(dict.fromkeys(row["panel"] for row in rows))
    chart = panels([area, line.add_params(pick.parameter)], "curves", names, _PANEL_HEIGHT, panel_width())
    return finished(chart, curves=rows)


_TOLD = ("mean", "low", "high")


def _caption(
    outcome: Outcome,
    subject: _Subject,
    seeds: Mapping[tuple[str, int], int],
    thinning: str,
) -> str:
    counts = sorted(set(seeds.values()))
    sentences = [f"{subject.what}: mean over seeds, with a band from the lowest seed to the highest."]
    if counts == [1]:
        sentences = [f"{subject.what}, of one seed, so that there is no band."]
    elif len(counts) == 1:
        sentences.append(f"{counts[0]} seeds each.")
    else:
        sentences.append(f"{counts[0]} to {counts[-1]} seeds.")
    if thinning:
        sentences.append(thinning)
    ended = [cell for cell in outcome.cells if cell.result and cell.status != "ok"]
    if ended:
        cells = (
            "1 cell that did not end well is" if len(ended) == 1 else f"{len(ended)} cells that did not end well are"
        )
        sentences.append(f"{cells} left out.")
    return " ".join([*sentences, *left_out(outcome.groups, seeds, "such a curve")])


def _thinning(bands: Mapping[tuple[str, int], Sequence[BandPoint]], most: int, width: int) -> str:
    if width > 1:
        return f"Each point is the mean over {width} steps."
    longest = max(len(points) for points in bands.values())
    return f"{most} of up to {longest:,} points of each curve are drawn, evenly spread." if longest > most else ""
