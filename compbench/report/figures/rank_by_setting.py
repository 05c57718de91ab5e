"""Final ranks against what a suite's matrix varies: an arm's mean over its sites, and each site of an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import altair as alt

from compbench.report.axes import shown
from compbench.report.figures.charts import axis_of, finished, fitted
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key, short_labels, text_width
from compbench.report.figures.units import in_title, listed, number, stem
from compbench.report.outcome import Outcome
from compbench.report.verdicts import REFERENCE
from compbench.run.result import CellResult

_NAME, _TITLE = "rank_by", "Rank"
MOST_SITES = 12
"""Of one figure: those whose ranks differ most."""

MOST_VALUES_WITH_TICKS = 8

_PLOT_HEIGHT = 130
_MARK_HEIGHT = 4.5
_WIDEST_LABEL = 110

Ranks = Mapping[str, float]
"""Columns of the basis at the end of a training, by site."""


@dataclass
class _Line:
    """What is comparable along an axis: an arm, with the values of all other axes of the matrix but the depth.

    Attributes:
        label: the arm and these values.
        depth: the deepest recursion, unless that is the axis; then None.
        values: those of the axis, by their text, since ``True`` and ``1`` are one key of a dictionary.
        seeds: by the same text, the ranks of each seed.
    """

    label: str
    depth: int | None
    values: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, list[Ranks]] = field(default_factory=dict)

    def add(self, value: Any, ranks: Ranks) -> None:
        """The ranks of one more cell."""
        self.values[shown(value)] = value
        self.seeds.setdefault(shown(value), []).append(ranks)


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
    ranks = {
        cell.key: (cell.result, found)
        for cell in outcome.cells
        if cell.result and cell.status == "ok" and (found := final_ranks(cell.result))
    }
    if not ranks:
        reason = "No cell that ended well has a strategy that tells the rank of a site."
        return [NoFigure(_NAME, f"{_TITLE} by setting", reason)]
    axes = ["depth", *dict.fromkeys(axis for result, _ in ranks.values() for axis in result.cell.variant)]
    figures: list[Figure | NoFigure] = []
    for axis in axes:
        if lines := _lines(list(ranks.values()), axis):
            figures.append(_of_arms(axis, lines, _key(outcome, axis)))
            figures += [figure for line in lines if (figure := _of_sites(axis, line))]
    reason = "The cells with ranks have the same value on every axis of the matrix, and a comparison needs two."
    return figures or [NoFigure(_NAME, f"{_TITLE} by setting", reason)]


def _label(result: CellResult, axis: str) -> str:
    others = (f"{name}={value}" for name, value in result.cell.variant.items() if name != axis)
    return " ".join([result.cell.arm, *others])


def _lines(cells: Sequence[tuple[CellResult, Ranks]], axis: str) -> list[_Line]:
    """Those with two values or more; of several depths the deepest that has them."""
    found: dict[tuple[str, int | None], _Line] = {}
    for result, ranks in cells:
        if axis != "depth" and axis not in result.cell.variant:
            continue
        value = result.cell.depth if axis == "depth" else result.cell.variant[axis]
        label, depth = _label(result, axis), None if axis == "depth" else result.cell.depth
        found.setdefault((label, depth), _Line(label, depth)).add(value, ranks)
    deepest: dict[str, _Line] = {}
    for (label, depth), line in found.items():
        if len(line.seeds) > 1 and (label not in deepest or (depth or 0) > (deepest[label].depth or 0)):
            deepest[label] = line
    return list(deepest.values())


def _key(outcome: Outcome, axis: str) -> Key:
    """All arms of the suite, with ranks or without, so that each has the colour that it has in other figures."""
    is_reference: dict[str, bool] = {}
    for cell in outcome.cells:
        if cell.result:
            strategy = [plugin.name for plugin in cell.result.cell.strategy]
            is_reference.setdefault(_label(cell.result, axis), strategy == [REFERENCE])
    return Key("arm", short_labels(sorted(is_reference, key=lambda arm: not is_reference[arm])))


def _ordered(lines: Sequence[_Line]) -> tuple[dict[str, Any], bool]:
    """All values of some lines by their text, and whether they are numbers: ascending then, else as they occur."""
    values = {text: value for line in lines for text, value in line.values.items()}
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values.values())
    return (dict(sorted(values.items(), key=lambda item: item[1])) if numeric else values), numeric


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"rank": fmean(values), "lowest": min(values), "highest": max(values), "seeds": len(values)}


def _at(depths: set[int | None]) -> str:
    known = sorted(depth for depth in depths if depth is not None)
    return f" at depth {listed(map(str, known))}" if known else ""


def _of_arms(axis: str, lines: Sequence[_Line], key: Key) -> Figure:
    values, numeric = _ordered(lines)
    title = f"{_TITLE} by {in_title(axis)}{_at({line.depth for line in lines})}"
    sentences = [
        f"The rank that bases end with, the mean over the sites that a strategy compresses, by {axis}"
        f"{_at({line.depth for line in lines})}. Marks are means over seeds, with the range of the seeds as a bar.",
    ]
    rows: list[dict[str, Any]] = []
    for line in lines:
        points = {
            text: _spread([fmean(ranks.values()) for ranks in line.seeds[text]])
            for text in values
            if text in line.seeds
        }
        arm = key.labels[line.label]
        rows += [{"arm": arm, "value": values[text] if numeric else text, **point} for text, point in points.items()]
        told = [f"{number(point['rank'])} at {text}" for text, point in points.items()]
        sentences.append(f"{line.label}: {listed(told)}.")
        counts = {len(ranks) for of_value in line.seeds.values() for ranks in of_value}
        if len(counts) > 1:
            sentences.append(
                f"{line.label} compresses {min(counts)} to {max(counts)} sites: its means are of different ones."
            )
    chart = _arms_chart(rows, [line.label for line in lines], values, numeric, key, in_title(axis))
    return Figure(f"{_NAME}_{stem(axis)}", title, " ".join(sentences), chart)


def _arms_chart(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    values: Mapping[str, Any],
    numeric: bool,
    key: Key,
    title: str,
) -> dict[str, Any]:
    pick = key.pick()
    shared: dict[str, Any] = {"color": key.colour(names), "opacity": pick.opacity}
    if numeric:
        few = len(values) <= MOST_VALUES_WITH_TICKS
        ticks = alt.Axis(grid=False, values=list(values.values())) if few else alt.Axis(grid=False, tickCount=6)
        shared["x"] = alt.X("value:Q", title=title, axis=ticks).scale(zero=False, nice=False, padding=8)
    else:
        shared["x"] = alt.X("value:N", title=title, axis=alt.Axis(labelAngle=0)).scale(domain=list(values), padding=0.3)
        shared["xOffset"] = alt.XOffset("arm:N").scale(domain=[key.labels[name] for name in names], padding=0.5)
    scale = alt.Scale(domain=[0, 1.08 * max(row["highest"] for row in rows)], nice=False)
    told = [alt.Tooltip("arm:N"), alt.Tooltip("value:Q" if numeric else "value:N", title=title), *_told()]
    y = alt.Y("rank:Q", title="mean rank of sites (columns)", axis=axis_of(tickCount=5), scale=scale)
    seeds = alt.Chart(alt.NamedData("ranks")).mark_rule()
    seeds = seeds.encode(y=alt.Y("lowest:Q", scale=scale), y2="highest:Q", **shared)
    marks = alt.Chart(alt.NamedData("ranks")).mark_point(size=22, filled=True)
    marks = marks.encode(y=y, shape=key.shape(names), tooltip=told, **shared)
    layers = [marks, seeds]
    if numeric:  # between other values there is nothing
        line = alt.Chart(alt.NamedData("ranks")).mark_line(strokeWidth=1.1)
        layers = [line.encode(y=y, strokeDash=key.dash(names), **shared), seeds, marks]
    layers[0] = layers[0].properties(name="ranks").add_params(pick.parameter)
    return finished(fitted(layers, _PLOT_HEIGHT + key.legend_height(names)), ranks=rows)


def _told() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("rank:Q", title="mean over seeds", format=".4~g"),
        alt.Tooltip("lowest:Q", format=".4~g"),
        alt.Tooltip("highest:Q", format=".4~g"),
        alt.Tooltip("seeds:Q"),
    ]


def _of_sites(axis: str, line: _Line) -> Figure | None:
    """Those that are compressed at several values; None where there is none."""
    values, _ = _ordered([line])
    spreads: dict[str, dict[str, dict[str, float]]] = {}
    for text in values:
        for site in dict.fromkeys(name for ranks in line.seeds[text] for name in ranks):
            of_seeds = [ranks[site] for ranks in line.seeds[text] if site in ranks]
            spreads.setdefault(site, {})[text] = _spread(of_seeds)
    met = len(spreads)
    spreads = {site: of_site for site, of_site in spreads.items() if len(of_site) > 1}
    if not spreads:
        return None
    change = {site: _range(of_site) for site, of_site in spreads.items()}
    most = sorted(spreads, key=lambda site: -change[site])[:MOST_SITES]  # sorting is stable: else as they are met
    sites = [site for site in spreads if site in most]
    where = f"{line.label}{_at({line.depth})}"
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
        told = [f"{number(point['rank'])} at {value}" for value, point in spreads[widest].items()]
        sentences.append(f"It differs most at {widest}: {listed(told)}.")
    same = sum(not changed for changed in change.values())
    if same:
        sentences.append(f"{same} of {len(spreads)} sites have the same mean rank at all values.")
    chart = _sites_chart({site: spreads[site] for site in sites}, list(values), in_title(axis))
    name = f"{_NAME}_{stem(axis)}_of_sites_{stem(line.label)}"
    return Figure(name, f"{_TITLE} of each site by {in_title(axis)}: {where}", " ".join(sentences), chart)


def _range(of_site: Mapping[str, Mapping[str, float]]) -> float:
    means = [point["rank"] for point in of_site.values()]
    return max(means) - min(means)


def _sites_chart(
    spreads: Mapping[str, Mapping[str, Mapping[str, float]]], values: Sequence[str], title: str
) -> dict[str, Any]:
    labels = short_labels(spreads)
    key = Key("value", short_labels(values))
    rows: list[dict[str, Any]] = [
        {"site": labels[site], "value": key.labels[value], **point}
        for site, of_site in spreads.items()
        for value, point in of_site.items()
    ]
    extent = round(min(_WIDEST_LABEL, max(map(text_width, labels.values())) + 4))
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
    seeds = alt.Chart(alt.NamedData("ranks"), name="sites").mark_rule()
    seeds = seeds.encode(x=alt.X("lowest:Q", scale=scale), x2="highest:Q", **shared).add_params(pick.parameter)
    x = alt.X("rank:Q", title="rank (columns)", axis=alt.Axis(tickCount=6), scale=scale)
    told = [alt.Tooltip("site:N"), alt.Tooltip("value:N", title=title), *_told()]
    marks = alt.Chart(alt.NamedData("ranks")).mark_point(size=18, filled=True)
    marks = marks.encode(x=x, shape=key.shape(values, title), tooltip=told, **shared)
    height = round(len(spreads) * (_MARK_HEIGHT * len(values) + 4)) + 30 + key.legend_height(values, title)
    return finished(fitted([seeds, marks], height), ranks=rows)
