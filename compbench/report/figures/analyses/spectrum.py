"""Figures of ``spectrum``: cosines over training at 8, 16 and 32 bits, and the ranks of every site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compbench.analysis.result import Row
from compbench.report.figures.analyses.common import (
    cell_of,
    grid,
    key_of,
    labels_of,
    others,
    shown_sites,
    training_step,
    vertical,
)
from compbench.report.figures.charts import finished, fitted
from compbench.report.figures.figure import Figure
from compbench.report.figures.units import number

_SITES = 2


def cosines(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """PCA's cosine over training: a column a site, a row a width of numbers, a line a rank."""
    summary = content["summary"]
    sites = shown_sites(summary["sites"], _SITES)
    labels = labels_of(sites)
    names = [f"rank {rank}" for rank in summary["ranks"]]
    bits = [f"{width} bits" for width in summary["bits"]]
    key = key_of("line", names)
    pick = key.pick()
    data = [
        {
            "panel": f"{row['bits']} bits",
            "column": labels[str(row["site"])],
            "line": f"rank {row['rank']}",
            "step": row["step"],
            "cosine": row["value"],
        }
        for row in rows
        if row["quantity"] == "cosine" and row["quantised"] == "after" and row["site"] in sites
    ]
    drawn = list(dict.fromkeys(str(row["line"]) for row in data))
    chart = (
        alt.Chart()
        .mark_line(strokeWidth=1.1)
        .encode(
            x=training_step(),
            y=vertical("cosine", "cosine", extent=24),
            color=key.colour(drawn, lines=True),
            strokeDash=key.dash(drawn, lines=True),
            opacity=pick.opacity,
            tooltip=["column:N", "panel:N", "line:N", "step:Q", alt.Tooltip("cosine:Q", format=".6f")],
        )
        .add_params(pick.parameter)
    )
    columns = [labels[site] for site in sites]
    specification = finished(grid([chart], "cosines", bits, columns, 58, extent=24), cosines=data)
    low = {site: summary["sites"][site] for site in sites}
    told = [
        f"{site} at rank {rank} and 32 bits: {number(low[site][f'cosine_rank_{rank}_bits_32'], 4)} at the end, "
        f"{number(low[site][f'lowest_cosine_rank_{rank}_bits_32'], 4)} at its lowest"
        for site in sites
        for rank in summary["ranks"][-2:-1]
        if f"cosine_rank_{rank}_bits_32" in low[site]
    ]
    caption = (
        "Cosine of activations and their rebuild by PCA over training, with the basis recomputed exactly for each "
        "batch and the coefficients at 8 (INT8), 16 (bfloat16) and 32 bits. "
        f"{'; '.join(told)}. {cell_of(content)}{others(summary['sites'], sites)}"
    )
    return Figure("spectrum", "PCA over training at 8, 16 and 32 bits", caption, specification)


def ranks(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """Of every site: its width, the rank that its linear layer allows, its numerical rank, that at fidelity 0.95."""
    sites = content["summary"]["sites"]
    kinds = {
        "width": "width",
        "bound of the linear layer": "rank_bound",
        "numerical rank": "numerical_rank",
        "rank at fidelity 0.95": "rank_at_fidelity_0.95",
    }
    labels = labels_of(list(sites))
    key = key_of("kind", list(kinds), beside=labels.values())
    pick = key.pick()
    data = [
        {"site": labels[name], "kind": kind, "rank": site[field]}
        for name, site in sites.items()
        for kind, field in kinds.items()
        if site[field]
    ]
    drawn = [kind for kind in kinds if any(row["kind"] == kind for row in data)]
    chart = (
        alt.Chart(alt.NamedData("ranks"))
        .mark_point(filled=True, size=28)
        .encode(
            x=alt.X(
                "rank:Q", title="directions", axis=alt.Axis(values=[4**power for power in range(9)], format="~g")
            ).scale(type="log", base=2),
            y=alt.Y("site:N", title=None, sort=list(labels.values())),
            color=key.colour(drawn),
            shape=key.shape(drawn),
            opacity=pick.opacity,
            tooltip=["site:N", "kind:N", "rank:Q"],
        )
        .add_params(pick.parameter)
    )
    height = 40 + 13 * len(sites) + key.legend_height(drawn)
    bounded = {name: site for name, site in sites.items() if site["rank_bound"] is not None}
    held = sum(bool(site["rank_bound_holds"]) for site in bounded.values())
    bound = f" The bound of the linear layer holds at {held} of {len(bounded)} sites that have one." if bounded else ""
    caption = (
        f"How many directions the activations of each site fill at step {content['summary']['last_step']}.{bound} "
        f"{cell_of(content)}"
    )
    title = "Width, bound, numerical rank and rank at fidelity 0.95"
    return Figure("spectrum_ranks", title, caption, finished(fitted([chart], height), ranks=data))
