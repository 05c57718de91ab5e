"""Figures of ``trajectory``: paths of states in a plane, and their steps from call to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compbench.analysis.result import Row
from compbench.report.figures.analyses.common import cell_of, grid, key_of, vertical
from compbench.report.figures.charts import finished, panel_width, panels
from compbench.report.figures.figure import Figure
from compbench.report.figures.units import number


def paths(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """A panel a snapshot: the states of some positions in the plane of most energy, joined call by call."""
    module, of = next(iter(content["summary"]["modules"].items()))
    points: dict[tuple[Any, Any, Any], dict[str, Any]] = {}
    for row in rows:
        if row["module"] == module and str(row["quantity"]).startswith("plane_"):
            place = points.setdefault((row["step"], row["row"], row["call"]), {})
            place[str(row["quantity"])] = row["value"]
    steps = list(dict.fromkeys(step for step, _, _ in points))
    names = {step: f"step {step}" for step in steps}
    rows_shown = list(dict.fromkeys(row for _, row, _ in points))
    position = {row: f"position {row}" for row in rows_shown}
    key = key_of("position", list(position.values()))
    pick = key.pick()
    data = [
        {
            "panel": "",
            "column": names[step],
            "position": position[row],
            "call": call,
            "first": place["plane_1"],
            "second": place["plane_2"],
        }
        for (step, row, call), place in points.items()
    ]
    drawn = list(position.values())
    x = alt.X("first:Q", title="first direction", axis=alt.Axis(tickCount=3, grid=False)).scale(zero=False)
    y = vertical("second", "second direction")
    line = (
        alt.Chart()
        .mark_line(strokeWidth=0.9)
        .encode(x=x, y=y, color=key.colour(drawn, lines=True), order="call:O", opacity=pick.opacity)
    )
    told = ["position:N", "call:O", alt.Tooltip("first:Q", format=".3f"), alt.Tooltip("second:Q", format=".3f")]
    dots = (
        alt.Chart()
        .mark_point(filled=True)
        .encode(
            x=x,
            y=y,
            color=key.colour(drawn, lines=True),
            size=alt.Size("call:Q", legend=None).scale(range=[3, 36]),
            tooltip=told,
            opacity=pick.opacity,
        )
    )
    chart = grid([line.add_params(pick.parameter), dots], "paths", [""], list(names.values()), 95, free_axes=True)
    share = of["plane_share"]
    caption = (
        f"States after each call of '{module}' in the plane of the two directions of most centred energy, for some "
        "positions of held-out examples; larger points are later calls. "
        f"At step {content['summary']['last_step']} that plane has {number(100 * (share or 0), 2)} % of it. "
        f"{cell_of(content)}"
    )
    return Figure("trajectory", "States call after call", caption, finished(chart, paths=data))


def steps(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """How far a call moves the states, and how they are aligned with the last ones."""
    module, of = next(iter(content["summary"]["modules"].items()))
    quantities = {
        "relative_step": "step over norm",
        "cosine_to_last": "cosine with the last state",
        "participation_ratio": "participation ratio",
    }
    names = [f"step {step}" for step in dict.fromkeys(row["step"] for row in rows)]
    key = key_of("line", names)
    pick = key.pick()
    data = [
        {
            "panel": quantities[str(row["quantity"])],
            "line": f"step {row['step']}",
            "call": row["call"],
            "value": row["value"],
        }
        for row in rows
        if row["module"] == module and row["quantity"] in quantities
    ]
    chart = (
        alt.Chart()
        .mark_line(strokeWidth=1.1, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("call:Q", title="call", axis=alt.Axis(tickMinStep=1, format="d", grid=False)),
            y=vertical("value", ""),
            color=key.colour(names, lines=True),
            strokeDash=key.dash(names, lines=True),
            opacity=pick.opacity,
            tooltip=["panel:N", "line:N", "call:Q", alt.Tooltip("value:Q", format=".4~g")],
        )
        .add_params(pick.parameter)
    )
    facets = panels([chart], "steps", list(quantities.values()), 58, panel_width()).resolve_scale(y="independent")
    moved = of["relative_step_last"]
    caption = (
        f"How far each call of '{module}' moves its states, their cosine with those after the last call, and over how "
        f"many directions they spread. The last call of {of['calls']} moves them by {number(100 * (moved or 0), 2)} % "
        f"of their norm at step {content['summary']['last_step']}. {cell_of(content)}"
    )
    return Figure("trajectory_steps", "Steps from call to call", caption, finished(facets, steps=data))
