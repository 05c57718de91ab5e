"""Figures of ``distribution``: densities beside the Gaussian's, and what INT8 costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compbench.analysis.result import Row
from compbench.report.figures.analyses.common import cell_of, key_of, labels_of, others, shown_sites
from compbench.report.figures.charts import axis_of, finished, fitted, panel_width, panels
from compbench.report.figures.figure import Figure
from compbench.report.figures.units import number

_SITES = 4
_FLOOR = 1e-7


def densities(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """A panel a site: the density of its standardised values, on a logarithmic axis, and the normal one."""
    summary = content["summary"]
    sites = shown_sites(summary["sites"], _SITES)
    labels = labels_of(sites)
    names = ["values", "normal distribution"]
    key = key_of("line", names)
    pick = key.pick()
    last = [row for row in rows if row["quantity"] == "density" and row["step"] == summary["last_step"]]
    data: list[dict[str, Any]] = []
    for row in last:
        if row["site"] in sites:
            x = float(row["sigmas"] or 0)
            normal = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
            for line, density in (("values", float(row["value"] or 0)), ("normal distribution", normal)):
                if density >= _FLOOR:
                    data.append({"panel": labels[str(row["site"])], "line": line, "sigmas": x, "density": density})
    ticks = [1e-6, 1e-4, 1e-2, 1.0]
    scale = alt.Scale(type="log", domain=[_FLOOR, 1.0], nice=False)
    chart = (
        alt.Chart()
        .mark_line(strokeWidth=1.1)
        .encode(
            x=alt.X("sigmas:Q", title="standard deviations from the mean", axis=alt.Axis(tickCount=7)),
            y=alt.Y("density:Q", title="density", axis=axis_of(values=ticks, format=".0e"), scale=scale),
            color=key.colour(names, lines=True),
            strokeDash=key.dash(names, lines=True),
            opacity=pick.opacity,
            tooltip=["panel:N", "line:N", "sigmas:Q", alt.Tooltip("density:Q", format=".3~g")],
        )
        .add_params(pick.parameter)
    )
    facets = panels([chart], "densities", [labels[site] for site in sites], 62, panel_width())
    told = [
        f"{site}: excess kurtosis {number(summary['sites'][site]['excess_kurtosis'] or 0)}, "
        f"{number(100 * summary['sites'][site]['outliers_3_sigma'], 2)} % beyond three standard deviations"
        for site in sites
    ]
    caption = (
        f"Densities of the values of a site, standardised, at step {summary['last_step']}. {'; '.join(told)}; of a "
        f"normal distribution {number(100 * summary['gaussian_outliers_3_sigma'], 2)} %. {cell_of(content)}"
        f"{others(summary['sites'], sites)}"
    )
    return Figure("distribution", "Values beside a normal distribution", caption, finished(facets, densities=data))


def int8_errors(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """Of every site: relative MSE of INT8 alone, of a projection alone, and of both together."""
    summary = content["summary"]
    sites = summary["sites"]
    rank = summary["ranks"][-2:][0]
    kinds = {
        "INT8, largest value": "int8_relative_mse_max",
        "INT8, 4 sigma": "int8_relative_mse_4sigma",
        f"rank {rank}": f"projection_relative_mse_rank_{rank}",
        f"rank {rank} with INT8": f"total_relative_mse_max_rank_{rank}",
    }
    labels = labels_of(list(sites))
    key = key_of("kind", list(kinds), beside=labels.values())
    pick = key.pick()
    data = [
        {"site": labels[name], "kind": kind, "mse": site[field]}
        for name, site in sites.items()
        for kind, field in kinds.items()
        if site.get(field)
    ]
    chart = (
        alt.Chart(alt.NamedData("errors"))
        .mark_point(filled=True, size=28)
        .encode(
            x=alt.X("mse:Q", title="relative mean squared error", axis=alt.Axis(format=".0e", tickCount=5)).scale(
                type="log"
            ),
            y=alt.Y("site:N", title=None, sort=list(labels.values())),
            color=key.colour(list(kinds)),
            shape=key.shape(list(kinds)),
            opacity=pick.opacity,
            tooltip=["site:N", "kind:N", alt.Tooltip("mse:Q", format=".3~g")],
        )
        .add_params(pick.parameter)
    )
    height = 40 + 13 * len(sites) + key.legend_height(list(kinds))
    worst = max(sites.values(), key=lambda site: site["int8_relative_mse_max"] or 0)
    caption = (
        f"What symmetric INT8 costs, with a scale by the largest value of a call or by four standard deviations, what "
        f"PCA of rank {rank} costs, and both together. The most that INT8 costs by the largest value is "
        f"{number(100 * (worst['int8_relative_mse_max'] or 0), 2)} % of the energy. {cell_of(content)}"
    )
    return Figure("distribution_int8", "Error by component", caption, finished(fitted([chart], height), errors=data))
