"""Charts that are a column wide, alone or one above the other, as finished specifications."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from compbench.report.figures.style import COLUMN_WIDTH, LIGHT_CONFIG

NUMBERS_EXTENT = 20
"""Points that the labels of an axis of numbers have."""

_AROUND_PANEL = 24
"""Points beside a panel and the labels of its axis: the title of that axis, its ticks, and what stays free."""


def panel_width(extent: int = NUMBERS_EXTENT) -> int:
    """Points that a panel has beside an axis whose labels take ``extent`` points."""
    return COLUMN_WIDTH - extent - _AROUND_PANEL


def axis_of(extent: int = NUMBERS_EXTENT, **settings: Any) -> alt.Axis:
    """A vertical axis whose labels take ``extent`` points whatever they are, so that panels stand below each other."""
    return alt.Axis(minExtent=extent, maxExtent=extent, **settings)


def fitted(layers: Sequence[alt.Chart], height: int) -> alt.LayerChart:
    """Layers as one chart that is a column wide, and so high, with axes and legend."""
    size = alt.AutoSizeParams(type="fit", contains="padding")
    return alt.LayerChart(layer=list(layers)).properties(width=COLUMN_WIDTH, height=height, autosize=size)


def panels(
    layers: Sequence[alt.Chart], data: str, names: Sequence[str], height: int | alt.Step, width: int
) -> alt.FacetChart:
    """Layers once for each value of the field ``panel``, one above the other, with its name over it.

    Args:
        layers: charts without data of their own.
        data: the name of the data.
        names: the values of ``panel``, in their order.
        height: of one of them, without axes.
        width: the same.
    """
    layered = alt.LayerChart(layer=list(layers), data=alt.NamedData(data)).properties(width=width, height=height)
    header = alt.Header(title=None, labelAnchor="start", labelOrient="top")
    row = alt.Row("panel:N", sort=list(names), header=header)
    return layered.facet(row=row, spacing=6)


def stacked(charts: Sequence[alt.Chart | alt.LayerChart]) -> alt.VConcatChart:
    """Charts one above the other, with one legend and the same horizontal axis."""
    shared = alt.Resolve(scale=alt.ScaleResolveMap(x="shared"))
    return alt.VConcatChart(vconcat=list(charts), spacing=8, resolve=shared)


def finished(chart: Any, **datasets: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The specification of a chart, checked against Vega-Lite's schema, for a light background.

    Args:
        chart: an Altair chart of any kind, whose data have names.
        datasets: the data by these.
    """
    specification: dict[str, Any] = chart.to_dict()
    named = {name: [_rounded(row) for row in rows] for name, rows in datasets.items()}
    return {**specification, "datasets": named, "config": LIGHT_CONFIG}


def logarithmic(values: Iterable[float]) -> tuple[alt.Scale, list[float]] | None:
    """A logarithmic scale for some values and the numbers at its ticks; None where a linear one does as well.

    That is where a value is 0 or below, or where the largest is less than five times the smallest.
    """
    known = list(values)
    low, high = min(known), max(known)
    if low <= 0 or high < 5 * low:
        return None
    low, high = 0.85 * low, 1.15 * high
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) < 5 else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return scale, [tick for tick in ticks if low <= tick <= high]


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of some items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the last digits of its numbers, which differ from one machine's arithmetic to another's."""
    return {name: float(f"{value:.9g}") if isinstance(value, float) else value for name, value in row.items()}
