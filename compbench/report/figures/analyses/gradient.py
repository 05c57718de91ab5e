"""Figures of ``gradient``: measured errors over Theorem 1's bound, and alignment by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from compbench.analysis.result import Row
from compbench.report.figures.analyses.common import cell_of, key_of, labels_of
from compbench.report.figures.charts import finished, fitted, logarithmic
from compbench.report.figures.figure import Figure
from compbench.report.figures.units import number

_PROVED, _ESTIMATED = "constant proved", "constant estimated"
_SHORT = {"scaled_dot_product_attention": "attention"}
_PLACES = {"median": "median_bound_ratio", "largest": "largest_bound_ratio"}


def bounds(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """Of every operator that saves a site's rows: the measured error over the bound, median and largest."""
    summary = content["summary"]
    named = {
        (site, op): f"{site.rpartition('.')[2]} {_SHORT.get(op, op)}"
        for site, of in summary["sites"].items()
        for op in of["operators"]
    }
    if len(set(named.values())) < len(named):  # several layers have modules of one name
        named = {(site, op): f"{site} {_SHORT.get(op, op)}" for site, op in named}
    labels = labels_of(list(named.values()))
    key = key_of("constant", [_PROVED, _ESTIMATED])
    pick = key.pick()
    data = [
        {
            "operator": labels[name],
            "constant": _ESTIMATED if of["constant"] == "estimated" else _PROVED,
            "which": which,
            "ratio": of[field],
        }
        for (site, op), name in named.items()
        for which, field in _PLACES.items()
        if (of := summary["sites"][site]["operators"][op])[field]
    ]
    drawn = [name for name in (_PROVED, _ESTIMATED) if any(row["constant"] == name for row in data)]
    x = alt.X("ratio:Q", title="error over bound (largest: hollow)")
    log = logarithmic([*(float(row["ratio"]) for row in data), 1.0])
    x = x.scale(log[0]).axis(values=log[1], format="~g") if log else x
    y = alt.Y("operator:N", title=None, sort=[row["operator"] for row in data])
    points = [
        alt.Chart(alt.NamedData("ratios"), name=which)
        .mark_point(filled=which == "median", size=28)
        .transform_filter(alt.FieldEqualPredicate(field="which", equal=which))
        .encode(
            x=x,
            y=y,
            color=key.colour(drawn),
            shape=key.shape(drawn),
            opacity=pick.opacity,
            tooltip=["operator:N", "constant:N", "which:N", alt.Tooltip("ratio:Q", format=".3~g")],
        )
        for which in _PLACES
    ]
    rule = alt.Chart(alt.NamedData("one")).mark_rule().encode(x=alt.X("ratio:Q"))
    layers = [points[0].add_params(pick.parameter), points[1], rule]
    height = 50 + 13 * len(dict.fromkeys(row["operator"] for row in data)) + key.legend_height(drawn)
    linear = sum(of["constant"] == "zero" for site in summary["sites"].values() for of in site["operators"].values())
    caption = (
        f"Error of the gradient at rows projected to rank {summary['rank']}, over the bound of Theorem 1. Of "
        f"{summary['proved_units']:,} errors whose bound is proved {summary['bound_violations']:,} are above it. An "
        "estimated constant is the largest ratio seen on other examples, and bounds nothing. At "
        f"{linear} linear {'layer' if linear == 1 else 'layers'} the theorem's constant is 0, and its error too; of "
        f"their weights' gradients it says nothing. {cell_of(content)}"
    )
    specification = finished(fitted(layers, height), ratios=data, one=[{"ratio": 1.0}])
    return Figure("gradient", "Measured errors and Theorem 1's bound", caption, specification)


def alignment(content: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """The cosine with exact gradients against depth."""
    summary = content["summary"]
    lines = {
        "strategy_cosine": f"{summary['strategy']}, all parameters",
        "strategy_smallest_cosine": f"{summary['strategy']}, the worst",
        "pca_cosine": f"PCA of rank {summary['rank']}, all",
        "pca_smallest_cosine": f"PCA of rank {summary['rank']}, the worst",
    }
    labels = labels_of(list(lines.values()))
    key = key_of("line", list(labels.values()))
    pick = key.pick()
    data = [
        {"line": labels[line], "depth": int(depth), "cosine": of[field]}
        for depth, of in summary["depths"].items()
        for field, line in lines.items()
        if of.get(field) is not None
    ]
    drawn = list(dict.fromkeys(row["line"] for row in data))
    chart = (
        alt.Chart(alt.NamedData("cosines"))
        .mark_line(strokeWidth=1.1, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("depth:Q", title="recursion calls", axis=alt.Axis(values=sorted({row["depth"] for row in data}))),
            y=alt.Y("cosine:Q", title="gradient cosine").scale(zero=False),
            color=key.colour(drawn, lines=True),
            strokeDash=key.dash(drawn, lines=True),
            opacity=pick.opacity,
            tooltip=["line:N", "depth:Q", alt.Tooltip("cosine:Q", format=".6f")],
        )
        .add_params(pick.parameter)
    )
    own = summary["depths"].get(str(content["depth"]), {})
    told = [
        f"{whose} {number(value, 4)}"
        for whose, value in (("strategy", own.get("strategy_cosine")), ("projection", own.get("pca_cosine")))
        if value is not None
    ]
    at = f" At depth {content['depth']}: {', '.join(told)}." if told else ""
    caption = (
        "Cosine of the gradients of held-out examples with the exact ones, at the same weights with more or fewer "
        f"calls: the cell's strategy, and PCA of a fixed rank at every site.{at} {cell_of(content)}"
    )
    return Figure("gradient_by_depth", "Alignment by depth", caption, finished(fitted([chart], 150), cosines=data))
