"""The figure of ``drift``: principal angles of bases over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compbench.analysis.result import Row
from compbench.report.figures.analyses.common import (
    cell_of,
    key_of,
    labels_of,
    others,
    shown_sites,
    training_step,
    vertical,
)
from compbench.report.figures.charts import finished, panel_width, panels
from compbench.report.figures.figure import Figure
from compbench.report.figures.units import number

_SITES = 4
_LINES = {
    ("pca", "mean_angle_successive"): "PCA, successive",
    ("pca", "mean_angle_first"): "PCA, to the first",
    ("strategy", "mean_angle_successive"): "strategy, successive",
    ("strategy", "mean_angle_first"): "strategy, to its first",
}


def angles(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """A panel a site: mean principal angles to the snapshot before and to the first."""
    summary = content["summary"]
    sites = shown_sites(summary["sites"], _SITES)
    labels = labels_of(sites)
    key = key_of("line", list(_LINES.values()))
    pick = key.pick()
    data = [
        {
            "panel": labels[str(row["site"])],
            "line": _LINES[str(row["basis"]), str(row["quantity"])],
            "step": row["step"],
            "degrees": row["value"],
        }
        for row in rows
        if row["site"] in sites and (row["basis"], row["quantity"]) in _LINES
    ]
    drawn = [line for line in _LINES.values() if any(row["line"] == line for row in data)]
    chart = (
        alt.Chart()
        .mark_line(strokeWidth=1.1, point=alt.OverlayMarkDef(size=8))
        .encode(
            x=training_step(),
            y=vertical("degrees", "angle (degrees)", alt.Scale(domainMin=0)),
            color=key.colour(drawn, lines=True),
            strokeDash=key.dash(drawn, lines=True),
            opacity=pick.opacity,
            tooltip=["panel:N", "line:N", "step:Q", alt.Tooltip("degrees:Q", format=".2f")],
        )
        .add_params(pick.parameter)
    )
    facets = panels([chart], "angles", [labels[site] for site in sites], 58, panel_width())
    counted = [f"{summary[name]} {name}" for name in ("expansions", "resets") if summary[name] is not None]
    told = [
        f"{site} keeps {number(of['pca_overlap_first_last'], 2)} of its first {summary['rank']} directions"
        for site in sites
        if (of := summary["sites"][site])["pca_overlap_first_last"] is not None
    ]
    own = "" if summary["strategy_has_basis"] else " The strategy has no basis of its own."
    caption = (
        "Mean principal angles between bases of successive snapshots, and to the first one; PCA of rank "
        f"{summary['rank']}. "
        f"{'; '.join(told)}.{own}{' Over the training: ' + ', '.join(counted) + '.' if counted else ''} "
        f"{cell_of(content)}{others(summary['sites'], sites)}"
    )
    return Figure("drift", "How bases turn over training", caption, finished(facets, angles=data))
