"""What cells differ in along one axis of a suite's matrix, as lines of arms, and the chart of a number against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Generic, TypeVar

import altair as alt

from compbench.report.axes import shown
from compbench.report.figures.charts import axis_of, finished, fitted
from compbench.report.figures.figure import Figure
from compbench.report.figures.key import Key, short_labels
from compbench.report.figures.units import in_title, listed, number, stem
from compbench.report.outcome import Outcome
from compbench.report.verdicts import REFERENCE
from compbench.run.result import CellResult

MOST_VALUES_WITH_TICKS = 8

_PLOT_HEIGHT = 130

Found = TypeVar("Found")
Points = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By the label of a line and the text of a value, what :func:`spread` gives."""


@dataclass
class Line(Generic[Found]):
    """What is comparable along an axis: an arm, with the values of all other axes of the matrix but the depth.

    Attributes:
        label: the arm and these values.
        depth: the deepest recursion, unless that is the axis; then None.
        values: those of the axis, by their text, since ``True`` and ``1`` are one key of a dictionary.
        seeds: by the same text, what was found of each seed.
    """

    label: str
    depth: int | None
    values: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, list[Found]] = field(default_factory=dict)

    def add(self, value: Any, found: Found) -> None:
        """One more cell."""
        self.values[shown(value)] = value
        self.seeds.setdefault(shown(value), []).append(found)


def axes_of(results: Sequence[CellResult]) -> list[str]:
    """The axes of the matrix along which some cells may differ, the depth first."""
    return ["depth", *dict.fromkeys(axis for result in results for axis in result.cell.variant)]


def lines_along(axis: str, cells: Sequence[tuple[CellResult, Found]]) -> list[Line[Found]]:
    """Those with two values or more; of several depths the deepest that has them."""
    lines: dict[tuple[str, int | None], Line[Found]] = {}
    for result, found in cells:
        if axis != "depth" and axis not in result.cell.variant:
            continue
        value = result.cell.depth if axis == "depth" else result.cell.variant[axis]
        label, depth = _label(result, axis), None if axis == "depth" else result.cell.depth
        lines.setdefault((label, depth), Line(label, depth)).add(value, found)
    deepest: dict[str, Line[Found]] = {}
    for (label, depth), line in lines.items():
        if len(line.seeds) > 1 and (label not in deepest or (depth or 0) > (deepest[label].depth or 0)):
            deepest[label] = line
    return list(deepest.values())


def key_along(axis: str, outcome: Outcome) -> Key:
    """All arms of the suite, drawn or not, so that each has the colour that it has in other figures."""
    is_reference: dict[str, bool] = {}
    for cell in outcome.cells:
        if cell.result:
            strategy = [plugin.name for plugin in cell.result.cell.strategy]
            is_reference.setdefault(_label(cell.result, axis), strategy == [REFERENCE])
    return Key("arm", short_labels(sorted(is_reference, key=lambda arm: not is_reference[arm])))


def ordered(lines: Sequence[Line[Found]]) -> tuple[dict[str, Any], bool]:
    """All values of some lines by their text, and whether they are numbers: ascending then, else as they occur."""
    values = {text: value for line in lines for text, value in line.values.items()}
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values.values())
    return (dict(sorted(values.items(), key=lambda item: item[1])) if numeric else values), numeric


def at_depth(lines: Sequence[Line[Found]]) -> str:
    """At which depths some lines are, with a space before it; empty along the depth."""
    depths = sorted({line.depth for line in lines if line.depth is not None})
    return f" at depth {listed(map(str, depths))}" if depths else ""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and range over seeds."""
    return {"mean": fmean(values), "lowest": min(values), "highest": max(values), "seeds": len(values)}


def points_along(lines: Sequence[Line[Found]], of: Callable[[Found], float]) -> Points:
    """A number of each cell, as its spread over seeds, in the order of the axis."""
    values, _ = ordered(lines)
    return {
        line.label: {text: spread([of(found) for found in line.seeds[text]]) for text in values if text in line.seeds}
        for line in lines
    }


def told(points: Mapping[str, Mapping[str, float]]) -> str:
    """The means of one line, each with its value, in a clause."""
    return listed([f"{number(point['mean'])} at {text}" for text, point in points.items()])


def figure_along(
    name: str,
    title: str,
    axis: str,
    points: Points,
    lines: Sequence[Line[Found]],
    key: Key,
    y: alt.Y,
    sentences: Sequence[str],
) -> Figure:
    """The figure of a number against an axis.

    Args:
        name: the beginning of its name, which ends with the axis.
        title: what it shows, without the axis.
        axis: of the matrix.
        points: the numbers.
        lines: those that are drawn.
        key: the colours of the lines.
        y: the vertical axis.
        sentences: its caption.
    """
    chart = chart_along(in_title(axis), points, lines, key, y)
    return Figure(f"{name}_{stem(axis)}", f"{title} by {in_title(axis)}{at_depth(lines)}", " ".join(sentences), chart)


def tooltips() -> list[alt.Tooltip]:
    """Of what :func:`spread` gives."""
    return [
        alt.Tooltip("mean:Q", title="mean over seeds", format=".4~g"),
        alt.Tooltip("lowest:Q", format=".4~g"),
        alt.Tooltip("highest:Q", format=".4~g"),
        alt.Tooltip("seeds:Q"),
    ]


def chart_along(
    title: str,
    points: Points,
    lines: Sequence[Line[Found]],
    key: Key,
    y: alt.Y,
) -> dict[str, Any]:
    """Means over seeds with their range, joined by a line where the values of the axis are numbers.

    Args:
        title: of the horizontal axis.
        points: the numbers.
        lines: those that are drawn.
        key: the colours of the lines.
        y: the vertical axis of the field ``mean``, with its scale.
    """
    values, numeric = ordered(lines)
    names = [line.label for line in lines]
    rows = [
        {"arm": key.labels[name], "value": values[text] if numeric else text, **points[name][text]}
        for name in names
        for text in values
        if text in points[name]
    ]
    pick = key.pick()
    shared: dict[str, Any] = {"color": key.colour(names), "opacity": pick.opacity}
    if numeric:
        few = len(values) <= MOST_VALUES_WITH_TICKS
        ticks = alt.Axis(grid=False, values=list(values.values())) if few else alt.Axis(grid=False, tickCount=6)
        shared["x"] = alt.X("value:Q", title=title, axis=ticks).scale(zero=False, nice=False, padding=8)
    else:
        shared["x"] = alt.X("value:N", title=title, axis=alt.Axis(labelAngle=0)).scale(domain=list(values), padding=0.3)
        shared["xOffset"] = alt.XOffset("arm:N").scale(domain=[key.labels[name] for name in names], padding=0.5)
    told = [alt.Tooltip("arm:N"), alt.Tooltip("value:Q" if numeric else "value:N", title=title), *tooltips()]
    seeds = alt.Chart(alt.NamedData("points")).mark_rule().encode(y=alt.Y("lowest:Q"), y2="highest:Q", **shared)
    marks = alt.Chart(alt.NamedData("points")).mark_point(size=22, filled=True)
    marks = marks.encode(y=y, shape=key.shape(names), tooltip=told, **shared)
    layers = [marks, seeds]
    if numeric:  # between other values there is nothing
        line = alt.Chart(alt.NamedData("points")).mark_line(strokeWidth=1.1)
        layers = [line.encode(y=y, strokeDash=key.dash(names), **shared), seeds, marks]
    layers[0] = layers[0].properties(name="along").add_params(pick.parameter)
    return finished(fitted(layers, _PLOT_HEIGHT + key.legend_height(names)), points=rows)


def vertical(title: str, domain: Sequence[float]) -> alt.Y:
    """The vertical axis of :func:`chart_along`."""
    return alt.Y("mean:Q", title=title, axis=axis_of(tickCount=5), scale=alt.Scale(domain=list(domain), nice=False))


def _label(result: CellResult, axis: str) -> str:
    others = (f"{name}={value}" for name, value in result.cell.variant.items() if name != axis)
    return " ".join([result.cell.arm, *others])
