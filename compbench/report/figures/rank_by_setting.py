"""Final ranks against what a suite's matrix varies: an arm's mean over its sites, and each site of an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import altair as alt

from compbench.report.figures.along_axis import (
    Line,
    at_depth,
    axes_of,
    figure_along,
    key_along,
    lines_along,
    ordered,
    points_along,
    spread,
    told,
    tooltips,
    vertical,
)
from compbench.report.figures.charts import axis_of, finished, fitted
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key, short_labels, text_width
from compbench.report.figures.style import COLUMN_WIDTH
from compbench.report.figures.units import in_title, listed, number, stem
from compbench.report.outcome import Outcome
from compbench.run.result import CellResult

_NAME, _TITLE = "rank_by", "Rank"
MOST_SITES = 12
"""Of one figure: those whose ranks differ most."""

_MARK_HEIGHT = 4.5
_WIDEST_LABEL = 110

Ranks = Mapping[str, float]
"""Columns of the basis at the end of a training, by site."""


def final_ranks(result: CellResult) -> dict[str, float]:
    """The ranks that the bases of a cell end with, by site, without sites that are left raw or have no rank."""
    found = {}
    for site in result.memory.sites if result.memory else ():
        rank = site.get("statistics", {}).get("rank")
        if not site.get("reason") and isinstance(rank, (int, float)) and rank >= 1:
            found[str(site["name"])] = float(rank)
    return found


def rank_by_setting(outcome: Outcome) -> list[Figure | NoFigure]:
    """For each axis of the matrix with several values, one figure that compares arms, and one of the sites of each."""
    cells: list[tuple[CellResult, Ranks]] = [
        (cell.result, ranks)
        for cell in outcome.cells
        if cell.result and cell.status == "ok" and (ranks := final_ranks(cell.result))
    ]
    if not cells:
        reason = "No cell that ended well has a strategy that tells the rank of a site."
        return [NoFigure(_NAME, f"{_TITLE} by setting", reason)]
    figures: list[Figure | NoFigure] = []
    for axis in axes_of([result for result, _ in cells]):
        if lines := lines_along(axis, cells):
            figures.append(_of_arms(axis, lines, key_along(axis, outcome)))
            figures += [figure for line in lines if (figure := _of_sites(axis, line))]
    reason = "The cells with ranks have the same value on every axis of the matrix, and a comparison needs two."
    return figures or [NoFigure(_NAME, f"{_TITLE} by setting", reason)]


def _of_arms(axis: str, lines: Sequence[Line[Ranks]], key: Key) -> Figure:
    sentences = [
        f"The rank that bases end with, the mean over the sites that a strategy compresses, by {axis}"
        f"{at_depth(lines)}. Marks are means over seeds, with the range of the seeds as a bar.",
    ]
    points = points_along(lines, lambda ranks: fmean(ranks.values()))
    for line in lines:
        sentences.append(f"{line.label}: {told(points[line.label])}.")
        counts = {len(ranks) for of_value in line.seeds.values() for ranks in of_value}
        if len(counts) > 1:
            sentences.append(
                f"{line.label} compresses {min(counts)} to {max(counts)} sites: its means are of different ones."
            )
    highest = max(point["highest"] for of_line in points.values() for point in of_line.values())
    y = vertical("mean rank of sites (columns)", (0, 1.08 * highest))
    return figure_along(_NAME, _TITLE, axis, points, lines, key, y, sentences)


def _of_sites(axis: str, line: Line[Ranks]) -> Figure | None:
    """Those that are compressed at several values; None where there is none."""
    values, _ = ordered([line])
    spreads: dict[str, dict[str, dict[str, float]]] = {}
    for text in values:
        for site in dict.fromkeys(name for ranks in line.seeds[text] for name in ranks):
            of_seeds = [ranks[site] for ranks in line.seeds[text] if site in ranks]
            spreads.setdefault(site, {})[text] = spread(of_seeds)
    met = len(spreads)
    spreads = {site: of_site for site, of_site in spreads.items() if len(of_site) > 1}
    if not spreads:
        return None
    change = {site: _range(of_site) for site, of_site in spreads.items()}
    most = sorted(spreads, key=lambda site: -change[site])[:MOST_SITES]  # sorting is stable: else as they are met
    sites = [site for site in spreads if site in most]
    where = f"{line.label}{at_depth([line])}"
    sentences = [
        f"The rank that the basis of each site ends with, by {axis}: {where}. Marks are means over seeds, with the "
        "range of the seeds as a bar.",
    ]
    if len(sites) < len(spreads):
        sentences.append(f"{len(sites)} of {len(spreads)} sites are drawn, those whose ranks differ most.")
    if alone := met - len(spreads):
        sentences.append(f"{alone} of {met} sites are compressed at one value alone, and left out.")
    widest = most[0]
    if change[widest]:
        told = [f"{number(point['mean'])} at {value}" for value, point in spreads[widest].items()]
        sentences.append(f"It differs most at {widest}: {listed(told)}.")
    same = sum(not changed for changed in change.values())
    if same:
        sentences.append(f"{same} of {len(spreads)} sites have the same mean rank at all values.")
    chart = _sites_chart({site: spreads[site] for site in sites}, list(values), in_title(axis))
    name = f"{_NAME}_{stem(axis)}_of_sites_{stem(line.label)}"
    return Figure(name, f"{_TITLE} of each site by {in_title(axis)}: {where}", " ".join(sentences), chart)


def _range(of_site: Mapping[str, Mapping[str, float]]) -> float:
    means = [point["mean"] for point in of_site.values()]
    return max(means) - min(means)


def _sites_chart(
    spreads: Mapping[str, Mapping[str, Mapping[str, float]]], values: Sequence[str], title: str
) -> dict[str, Any]:
    labels = short_labels(spreads)
    extent = round(min(_WIDEST_LABEL, max(map(text_width, labels.values())) + 4))
    key = Key("value", short_labels(values), room=COLUMN_WIDTH - extent)
    rows: list[dict[str, Any]] = [
        {"site": labels[site], "value": key.labels[value], **point}
        for site, of_site in spreads.items()
        for value, point in of_site.items()
    ]
    axis = axis_of(extent, title=None, labelLimit=extent, ticks=False, grid=True)
    pick = key.pick()
    scale = alt.Scale(domain=[0, 1.05 * max(row["highest"] for row in rows)], nice=False)
    y = alt.Y("site:N", axis=axis).scale(domain=list(labels.values()), paddingInner=0.2, paddingOuter=0.1)
    shared = {
        "y": y,
        "yOffset": alt.YOffset("value:N").scale(domain=list(key.labels.values())),
        "color": key.colour(values, title),
        "opacity": pick.opacity,
    }
    seeds = alt.Chart(alt.NamedData("points"), name="sites").mark_rule()
    seeds = seeds.encode(x=alt.X("lowest:Q", scale=scale), x2="highest:Q", **shared).add_params(pick.parameter)
    x = alt.X("mean:Q", title="rank (columns)", axis=alt.Axis(tickCount=6), scale=scale)
    told = [alt.Tooltip("site:N"), alt.Tooltip("value:N", title=title), *tooltips()]
    marks = alt.Chart(alt.NamedData("points")).mark_point(size=18, filled=True)
    marks = marks.encode(x=x, shape=key.shape(values, title), tooltip=told, **shared)
    height = round(len(spreads) * (_MARK_HEIGHT * len(values) + 4)) + 30 + key.legend_height(values, title)
    return finished(fitted([seeds, marks], height), points=rows)
