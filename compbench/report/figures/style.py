"""How figures look: one column of a paper wide, with colours, shapes and dashes that tell arms apart.

A specification names no colour of its own. What depends on the background is in its ``config``, which is one of two
constants, so that a figure is made dark by putting the other one in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from compbench.report.figures.figure import Specification

COLUMN_WIDTH = 240
"""Width of a figure in points, of which an inch has 72: 3.33 in, or 84.7 mm, one column of most papers."""

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
"""The first of these comes with the renderer, so that files do not depend on the fonts of a machine."""

FONT_SIZE = 7
"""In points, of everything but the title of an axis."""

TITLE_SIZE = 7.5

LIGHT_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8000")
"""Okabe and Ito's colours; their yellow, which is hardly seen on white, is darkened."""

DARK_COLOURS = ("#FFFFFF", "#4BA6E8", "#E8743B", "#00B585", "#D98BB6", "#E69F00", "#8CD0F5", "#F0E442")
"""The same in the same order, light enough for a dark background."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")

DASHES = ([1, 0], [5, 2], [2, 1.5], [6, 1.5, 1.5, 1.5], [8, 3], [3, 3], [8, 1.5, 1.5, 1.5, 1.5, 1.5], [1, 2])

_LONGEST_LABEL = 30


def _config(ink: str, soft: str, grid: str, background: str | None, colours: Sequence[str]) -> dict[str, Any]:
    labels = {"labelFontSize": FONT_SIZE, "titleFontSize": TITLE_SIZE, "labelColor": ink, "titleColor": ink}
    # A second weight is a second font, and files with two of them are not the same twice: the renderer orders fonts by
    # chance.
    plain = {"titleFontWeight": "normal", "labelFontWeight": "normal"}
    return {
        "background": background,
        "font": FONT,
        "padding": 2,
        "view": {"stroke": None},
        "axis": {
            **labels,
            **plain,
            "domainColor": soft,
            "tickColor": soft,
            "gridColor": grid,
            "gridWidth": 0.5,
            "domainWidth": 0.5,
            "tickWidth": 0.5,
            "tickSize": 3,
            "labelPadding": 2,
            "titlePadding": 4,
        },
        "header": {**labels, **plain, "labelPadding": 2, "titlePadding": 2},
        "legend": {
            **labels,
            **plain,
            "orient": "bottom",
            "direction": "horizontal",
            "symbolSize": 26,
            "symbolStrokeWidth": 1.2,
            "rowPadding": 1,
            "columnPadding": 6,
            "titlePadding": 3,
            "offset": 6,
            "labelLimit": COLUMN_WIDTH,
            "titleLimit": COLUMN_WIDTH,
        },
        "title": {"color": ink, "fontSize": TITLE_SIZE, "fontWeight": "normal", "offset": 4},
        "text": {"color": ink, "fontSize": FONT_SIZE},
        "rule": {"color": soft, "strokeWidth": 0.8},
        "tick": {"color": ink},
        "style": {"bound": {"stroke": soft, "strokeWidth": 0.8}, "margin": {"stroke": ink, "strokeDash": [3, 2]}},
        "range": {"category": list(colours)},
    }


LIGHT_CONFIG = _config("#1A1A1A", "#666666", "#E3E3E3", "white", LIGHT_COLOURS)
"""The ``config`` of every figure's specification."""

DARK_CONFIG = _config("#E8E8E8", "#A0A0A0", "#3A3A3A", None, DARK_COLOURS)
"""The ``config`` to put in its place on a dark background, which shows through."""


def dark(specification: Specification) -> dict[str, Any]:
    """A figure's specification for a dark background."""
    return {**specification, "config": DARK_CONFIG}


@dataclass(frozen=True)
class Pick:
    """A click in the legend that brings out one arm; files show all."""

    parameter: alt.Parameter
    opacity: Any


def picked() -> Pick:
    """A pick of the field ``arm``. Its name is fixed, as Altair's own would count up from figure to figure."""
    parameter = alt.selection_point(name="picked", fields=["arm"], bind="legend")
    return Pick(parameter, alt.when(parameter).then(alt.value(1)).otherwise(alt.value(0.12)))


def arm_encodings(
    arms: Sequence[str], shown: Sequence[str], title: str | None = None, *, lines: bool = False
) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Colour, shape and dash by the field ``arm``: the same for an arm in every figure of a suite.

    No two of 64 arms have the same colour and shape, or colour and dash.

    Args:
        arms: the labels of all arms of the suite, in its order.
        shown: those that the figure has.
        title: of the legend.
        lines: whether the legend shows lines with their dashes, as for a figure that has no marks of a shape.
    """
    legend = alt.Legend(title=title, values=list(shown), columns=_legend_columns(shown))
    if lines:
        legend = alt.Legend(**legend.to_dict(), symbolType="stroke", symbolSize=120)
    places = [(number + number // len(SHAPES)) % len(SHAPES) for number in range(len(arms))]
    shapes, dashes = [SHAPES[place] for place in places], [DASHES[place] for place in places]
    return (
        alt.Color("arm:N", legend=legend).scale(domain=list(arms)),
        alt.Shape("arm:N", legend=legend).scale(domain=list(arms), range=shapes),
        alt.StrokeDash("arm:N", legend=legend if lines else None).scale(domain=list(arms), range=dashes),
    )


def labels_of(names: Iterable[str]) -> dict[str, str]:
    """Names as a figure has room for them: long ones are shortened in their middle, and no two become the same."""
    labels: dict[str, str] = {}
    for name in names:
        label = text = "".join(character if character.isprintable() else "�" for character in name)
        if len(text) > _LONGEST_LABEL:
            half = (_LONGEST_LABEL - 1) // 2
            label = f"{text[:half]}…{text[-half:]}"
        number = 2
        while label in labels.values():
            label = f"{label.rpartition(' (')[0] or label} ({number})" if number > 2 else f"{label} (2)"
            number += 1
        labels[name] = label
    return labels


def _legend_columns(labels: Sequence[str]) -> int:
    """As many as a figure has room for; a character is about half as wide as it is high."""
    widest = 20 + 0.5 * FONT_SIZE * max(map(len, labels), default=1)
    return max(1, min(len(labels), int(COLUMN_WIDTH // widest)))


def legend_height(labels: Sequence[str]) -> int:
    """Points that a legend of these labels takes below a figure."""
    return 8 + 10 * -(-len(labels) // _legend_columns(labels))


def fitted(layers: Sequence[alt.Chart], height: int) -> alt.LayerChart:
    """Layers as a chart that is a column wide, and so high, with axes and legend."""
    size = alt.AutoSizeParams(type="fit", contains="padding")
    return alt.LayerChart(layer=list(layers)).properties(width=COLUMN_WIDTH, height=height, autosize=size)


def finished(chart: Any, **datasets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The specification of a chart, checked against Vega-Lite's schema, for a light background.

    Args:
        chart: an Altair chart of any kind, whose data are named.
        datasets: the data by their names.
    """
    specification: dict[str, Any] = chart.to_dict()
    named = {name: [_rounded(row) for row in rows] for name, rows in datasets.items()}
    return {**specification, "datasets": named, "config": LIGHT_CONFIG}


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the last digits of its numbers, which differ from one machine's arithmetic to another's."""
    return {name: float(f"{value:.9g}") if isinstance(value, float) else value for name, value in row.items()}
