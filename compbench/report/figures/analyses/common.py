"""What figures of analyses share: which sites they show, lines with a legend, and what a caption ends with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from compbench.report.figures.charts import axis_of
from compbench.report.figures.key import Key, short_labels, text_width
from compbench.report.figures.style import COLUMN_WIDTH


def shown_sites(sites: Mapping[str, Mapping[str, Any]], most: int) -> list[str]:
    """The widest site of each kind of place, such as ``mlp`` of ``mlp_3072``, widest first, at most so many."""
    widest: dict[str, str] = {}
    for name, site in sites.items():
        kind = str(site["role"]).rpartition("_")[0]
        if kind not in widest or sites[widest[kind]]["width"] < site["width"]:
            widest[kind] = name
    return sorted(widest.values(), key=lambda name: (-sites[name]["width"], name))[:most]


def labels_of(names: Sequence[str]) -> dict[str, str]:
    """Names as panels and axes have room for them."""
    return short_labels(names)


def cell_of(content: Mapping[str, Any]) -> str:
    """What a caption says of the cell and of its training."""
    text = f"Cell {content['cell']}"
    if content["same_training"] is not True:
        text += f" (training repeated; {content['same_training_reason']})"
    return f"{text}."


def others(sites: Mapping[str, Any], shown: Sequence[str]) -> str:
    """Where the sites are that a figure does not show."""
    left = len(sites) - len(shown)
    return f" The CSV has {left} more {'site' if left == 1 else 'sites'}." if left else ""


def key_of(field: str, names: Sequence[str], beside: Iterable[str] = ()) -> Key:
    """A colour, a shape and a dash for each of some names, in their order.

    Args:
        field: of the data.
        names: what the legend has.
        beside: labels of the vertical axis, left of the legend, where they are long.
    """
    room = COLUMN_WIDTH - max(map(text_width, beside), default=0)
    return Key(field, dict(zip(names, names, strict=True)), room)


def grid(
    layers: Sequence[alt.Chart],
    data: str,
    rows: Sequence[str],
    columns: Sequence[str],
    height: int,
    *,
    extent: int = 20,
    free_axes: bool = False,
) -> alt.FacetChart:
    """Layers once for each pair of the fields ``panel`` and ``column``, with the names over and beside them.

    Args:
        layers: Charts without data of their own.
        data: The name of the data.
        rows: Values of ``panel``.
        columns: Values of ``column``.
        height: Of one panel, without axes.
        extent: Points that the labels of the vertical axis have.
        free_axes: Whether each panel has axes by itself.
    """
    width = (COLUMN_WIDTH - 28 - (extent + 6) * (len(columns) if free_axes else 1)) // len(columns) - 6
    layered = alt.LayerChart(layer=list(layers), data=alt.NamedData(data)).properties(width=width, height=height)
    header = alt.Header(title=None, labelOrient="top", labelAnchor="start")
    chart = layered.facet(
        row=alt.Row("panel:N", sort=list(rows), header=header),
        column=alt.Column("column:N", sort=list(columns), header=alt.Header(title=None)),
        spacing=6,
    )
    return chart.resolve_scale(x="independent", y="independent") if free_axes else chart


def vertical(field: str, title: str, scale: alt.Scale | None = None, extent: int = 20, **axis: Any) -> alt.Y:
    """A vertical axis of numbers."""
    encoded = alt.Y(f"{field}:Q", title=title, axis=axis_of(extent, tickCount=4, **axis))
    return encoded.scale(zero=False) if scale is None else encoded.scale(scale)


def training_step() -> alt.X:
    """The horizontal axis of what is followed over training."""
    return alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=3, grid=False)).scale(nice=False)
