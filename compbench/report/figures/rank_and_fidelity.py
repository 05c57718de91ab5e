"""Rank and fidelity over training: of each arm over its sites, and of each site of an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from compbench.report.figures.charts import axis_of, finished, panel_width, stacked, thinned
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key, arms_key, short_labels
from compbench.report.figures.units import left_out, listed, number, stem
from compbench.report.outcome import Outcome
from compbench.report.rows import ok_results
from compbench.run.result import CellResult

STATISTICS = ("rank", "fidelity")

MOST_SITES = 12
"""Of one figure: those of the lowest fidelity."""

MOST_POINTS = 60

_NAME, _TITLE = "rank_and_fidelity_of_arms", "Rank and fidelity over training"
_SITES_NAME, _SITES_TITLE = "rank_and_fidelity_of_sites", "Rank and fidelity of each site over training"
_PANEL_HEIGHT = 90

Curve = Sequence[tuple[int, float]]
"""Steps and values."""

Curves = Mapping[str, Mapping[str, Curve]]
"""By arm or site, and by statistic."""


def rank_and_fidelity(outcome: Outcome) -> list[Figure | NoFigure]:
    """One figure that compares the arms, and one of the sites of each arm, at the deepest recursion that has any."""
    return [_of_arms(outcome), *_of_sites(outcome)]


def mean_over_seeds(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """The mean of several seeds' curves over the steps at which all of them have a number."""
    known = [{step: value for step, value in curve if math.isfinite(value)} for curve in curves]
    steps = sorted(set.intersection(*map(set, known))) if known else []
    return [(step, float(np.mean([curve[step] for curve in known]))) for step in steps]


def _of_arms(outcome: Outcome) -> Figure | NoFigure:
    found: dict[int, dict[str, Mapping[str, Curve]]] = {}
    for (arm, depth), cells in outcome.groups.items():
        results = ok_results(cells)
        curves = {name: mean_over_seeds([_overall(result, name) for result in results]) for name in STATISTICS}
        known: dict[str, Curve] = {
            name: thinned(curve, MOST_POINTS) for name, curve in curves.items() if len(curve) > 1
        }
        if known:
            found.setdefault(depth, {})[arm] = known
    if not found:
        return NoFigure(_NAME, _TITLE, "No strategy of a cell that ended well has told of rank or fidelity as it went.")
    depth = max(found)
    key = arms_key(outcome)
    groups = [group for group in outcome.groups if group[1] == depth]
    sentences = [
        f"What strategies tell of themselves after a step at depth {depth}, on average over their sites and over "
        "seeds: the rank of their bases, and the fidelity, the cosine between rows and what is rebuilt of them.",
        *(_ends(arm, curves) for arm, curves in found[depth].items()),
        *left_out(groups, {(arm, depth) for arm in found[depth]}, "such figures"),
    ]
    return Figure(_NAME, f"{_TITLE} at depth {depth}", " ".join(sentences), _chart(found[depth], key))


def _overall(result: CellResult, name: str) -> Curve:
    return [(int(point["step"]), point[name]) for point in result.statistics_curve if name in point]


@dataclass(frozen=True)
class _Sites:
    """The curves of the sites of one arm at one depth, over so many seeds."""

    curves: Curves
    seeds: int


def _of_sites(outcome: Outcome) -> list[Figure | NoFigure]:
    found: dict[str, tuple[int, _Sites]] = {}
    for (arm, depth), cells in outcome.groups.items():  # depths ascending: the deepest is the last
        results = [result for result in ok_results(cells) if result.site_curves]
        if curves := _site_curves(results):
            found[arm] = depth, _Sites(curves, len(results))
    if not found:
        return [NoFigure(_SITES_NAME, _SITES_TITLE, _why_no_sites(outcome))]
    return [_of_arm(arm, depth, sites) for arm, (depth, sites) in found.items()]


def _why_no_sites(outcome: Outcome) -> str:
    results = ok_results(outcome.cells)
    if any(name in point for result in results for point in result.statistics_curve for name in STATISTICS):
        return (
            "The records are older than curves of single sites, and have rank and fidelity over all sites alone; "
            f"these are in {_NAME}."
        )
    return "No strategy of a cell that ended well has told of rank or fidelity as it went."


def _site_curves(results: Sequence[CellResult]) -> dict[str, dict[str, Curve]]:
    sites = dict.fromkeys(site for result in results for site in result.site_curves)
    found: dict[str, dict[str, Curve]] = {}
    for site in sites:
        for name in STATISTICS:
            of_seeds = [
                result.site_curves[site][name] for result in results if name in result.site_curves.get(site, {})
            ]
            curve = mean_over_seeds(of_seeds)
            if len(curve) > 1:
                found.setdefault(site, {})[name] = thinned(curve, MOST_POINTS)
    return found


def _of_arm(arm: str, depth: int, sites: _Sites) -> Figure:
    shown = sorted(sites.curves, key=lambda site: (_lowest(sites.curves[site]), site))[:MOST_SITES]
    curves = {site: sites.curves[site] for site in sites.curves if site in shown}
    key = Key("site", short_labels(curves))
    over = f"on average over {sites.seeds} seeds" if sites.seeds > 1 else "of one seed"
    sentences = [
        f"Rank and fidelity of each site of {arm} after a step at depth {depth}, {over}; fidelity is the cosine "
        "between the rows that were saved there and what is rebuilt of them. A curve ends where its site is left raw.",
    ]
    if len(sites.curves) > len(curves):
        sentences.append(f"{len(curves)} of {len(sites.curves)} sites are drawn, those of the lowest fidelity.")
    ends = {site: of_site["fidelity"][-1][1] for site, of_site in curves.items() if "fidelity" in of_site}
    if ends:
        worst, best = min(ends, key=lambda site: ends[site]), max(ends, key=lambda site: ends[site])
        sentences.append(
            f"Fidelity ends between {number(ends[worst], 4)} ({worst}) and {number(ends[best], 4)} ({best})."
        )
    name = f"{_SITES_NAME}_{stem(arm)}"
    return Figure(name, f"{_SITES_TITLE}: {arm}, depth {depth}", " ".join(sentences), _chart(curves, key))


def _lowest(curves: Mapping[str, Curve]) -> float:
    return min((value for _, value in curves.get("fidelity", ())), default=math.inf)


def _ends(name: str, curves: Mapping[str, Curve]) -> str:
    parts = [
        f"{statistic} {number(curve[0][1], 4)} to {number(curve[-1][1], 4)}" for statistic, curve in curves.items()
    ]
    return f"{name}: {listed(parts)}."


def _chart(curves: Curves, key: Key) -> dict[str, Any]:
    names = [name for name in STATISTICS if any(name in of_one for of_one in curves.values())]
    rows = [
        {key.field: key.labels[one], "statistic": name, "step": step, "value": value}
        for one, of_one in curves.items()
        for name in names
        for step, value in of_one.get(name, ())
    ]
    pick = key.pick()
    highest = max((value for of_one in curves.values() for _, value in of_one.get("rank", ())), default=0.0)
    scales = {
        "rank": alt.Scale(domain=[0, 1.08 * highest], nice=False),
        "fidelity": alt.Scale(zero=False),
    }

    def panel(name: str) -> alt.Chart:
        title = None if name != names[-1] else "training step"
        told = [alt.Tooltip(f"{key.field}:N"), alt.Tooltip("step:Q"), alt.Tooltip("value:Q", title=name, format=".4~g")]
        lines: alt.Chart = alt.Chart(alt.NamedData("curves"), name=name).mark_line(
            strokeWidth=1.1, interpolate="step-after" if name == "rank" else "linear"
        )
        lines = lines.transform_filter(alt.FieldEqualPredicate(field="statistic", equal=name))
        lines = lines.encode(
            x=alt.X("step:Q", title=title, axis=alt.Axis(tickCount=5, grid=False)).scale(nice=False),
            y=alt.Y("value:Q", title=_AXES[name], axis=axis_of(tickCount=5), scale=scales[name]),
            color=key.colour(curves, lines=True),
            strokeDash=key.dash(curves, lines=True),
            opacity=pick.opacity,
            tooltip=told,
        )
        return lines.properties(width=panel_width(), height=_PANEL_HEIGHT)

    charts = [panel(name) for name in names]
    charts[0] = charts[0].add_params(pick.parameter)
    return finished(stacked(charts), curves=rows)


_AXES = {"rank": "rank (columns)", "fidelity": "fidelity (cosine)"}
