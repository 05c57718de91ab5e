"""The figure of ``linearity``: errors of projections and autoencoders on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compbench.analysis.result import Row
from compbench.report.figures.analyses.common import cell_of, key_of, labels_of
from compbench.report.figures.charts import finished, logarithmic, panels
from compbench.report.figures.figure import Figure
from compbench.report.figures.style import COLUMN_WIDTH
from compbench.report.figures.units import number

_METHODS = {
    "pca": "PCA",
    "centred_pca": "PCA with mean",
    "random_autoencoder": "autoencoder, random start",
    "pca_autoencoder": "autoencoder, PCA start",
}


def errors(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """A panel a site, a row a code size, a point a fit."""
    summary = content["summary"]
    sites = list(summary["sites"])
    labels = labels_of(sites)
    key = key_of("method", list(_METHODS.values()))
    pick = key.pick()
    data = [
        {
            "panel": labels[str(row["site"])],
            "code": f"code {row['code']}",
            "method": _METHODS[str(row["method"])],
            "error": row["value"],
        }
        for row in rows
        if row["rows"] == "held out"
    ]
    drawn = list(_METHODS.values())
    log = logarithmic(float(row["error"] or 0) for row in data)
    axis = alt.Axis(values=log[1], format="~g") if log else alt.Axis(tickCount=5)
    x = alt.X("error:Q", title="relative error on held-out rows", axis=axis)
    chart = (
        alt.Chart()
        .mark_point(filled=True, size=28)
        .encode(
            x=x.scale(log[0]) if log else x,
            y=alt.Y("code:N", title=None, sort=[f"code {code}" for code in summary["codes"]]),
            color=key.colour(drawn),
            shape=key.shape(drawn),
            opacity=pick.opacity,
            tooltip=["panel:N", "code:N", "method:N", alt.Tooltip("error:Q", format=".4f")],
        )
        .add_params(pick.parameter)
    )
    names = [labels[site] for site in sites]
    facets = panels([chart], "errors", names, alt.Step(13), COLUMN_WIDTH - 44)
    gain = summary["largest_gain"]
    told = ""
    if gain is not None:
        better = "less" if gain > 0 else "more"
        told = (
            f" The best autoencoder's error is {number(100 * abs(gain), 2)} % {better} than that of PCA at "
            f"{summary['largest_gain_site']} with code size {summary['largest_gain_code']}, where it did best."
        )
    settings = content["settings"]
    caption = (
        f"Relative error of projections and of autoencoders with {settings['layers']} hidden layer"
        f"{'s' if settings['layers'] > 1 else ''} of {settings['hidden']} units at equal code sizes, on held-out rows; "
        f"{settings['restarts']} of each kind.{told} {cell_of(content)}"
    )
    return Figure("linearity", "Projections against autoencoders", caption, finished(facets, errors=data))
