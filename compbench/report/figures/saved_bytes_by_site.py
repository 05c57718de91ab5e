"""Where the saved bytes are: a bar for each site of the model and each arm."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import altair as alt

from compbench.report.figures.charts import axis_of, finished, fitted
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key, arms_key, short_labels, text_width
from compbench.report.figures.units import Unit, bytes_unit, left_out, number
from compbench.report.outcome import Outcome
from compbench.report.rows import ok_results

_NAME, _TITLE = "saved_bytes_by_site", "Saved bytes by site"
MOST_SITES = 12
"""The others are one bar together."""

MOST_ARMS = 8
"""Of one figure; more arms are in further figures."""

_BAR_HEIGHT = 3.4
_WIDEST_LABEL = 110

Sizes = Mapping[str, int]
"""Bytes that a step keeps, by site."""


def kept_by_site(outcome: Outcome, arm: str, depth: int) -> dict[str, int]:
    """Bytes of each site, in the order in which they were first met; empty if not measured.

    They are those of the seed whose saved bytes are the median, so that they add up to a figure that the table has.
    """
    memories = [result.memory for result in ok_results(outcome.groups.get((arm, depth), ())) if result.memory]
    memories = [memory for memory in memories if memory.sites]
    if not memories:
        return {}
    median = statistics.median_low(memory.saved_bytes for memory in memories)
    sites = next(memory.sites for memory in memories if memory.saved_bytes == median)
    found: dict[str, int] = {}
    for site in sites:  # what is left raw for several reasons has a name for each, and what it is called is the same
        found[str(site["name"])] = found.get(str(site["name"]), 0) + int(site["kept_bytes"])
    return found


def saved_bytes_by_site(outcome: Outcome) -> list[Figure | NoFigure]:
    """The sites of the deepest recursion that has any; one figure for up to eight arms."""
    for depth in sorted({depth for _, depth in outcome.groups}, reverse=True):
        arms = [arm for arm, at in outcome.groups if at == depth]
        found = {arm: sizes for arm in arms if any((sizes := kept_by_site(outcome, arm, depth)).values())}
        if found:
            return list(_figures(outcome, depth, found))
    return [NoFigure(_NAME, _TITLE, "No cell that ended well has its memory measured site by site.")]


def _figures(outcome: Outcome, depth: int, found: Mapping[str, Sizes]) -> Iterable[Figure]:
    key = arms_key(outcome)
    arms = [arm for arm in key.labels if arm in found]
    parts = [arms[start : start + MOST_ARMS] for start in range(0, len(arms), MOST_ARMS)]
    for number_of_part, part in enumerate(parts, start=1):
        suffix = "" if len(parts) == 1 else f"_{number_of_part}"
        title = f"{_TITLE} at depth {depth}" + ("" if len(parts) == 1 else f", part {number_of_part} of {len(parts)}")
        sizes = {arm: found[arm] for arm in part}
        caption = _caption(outcome, depth, sizes, found)
        yield Figure(f"{_NAME}{suffix}", title, caption, _chart(sizes, key))


def _largest(sizes: Mapping[str, Sizes]) -> list[str]:
    """The sites that keep most under any of some arms, the largest first; those that keep nothing are left out."""
    most: dict[str, int] = {}
    for of_arm in sizes.values():
        for site, size in of_arm.items():
            most[site] = max(most.get(site, 0), size)
    kept = [site for site, size in most.items() if size]
    return sorted(kept, key=lambda site: (-most[site], site))


def _chart(sizes: Mapping[str, Sizes], key: Key) -> dict[str, Any]:
    largest = _largest(sizes)
    shown, others = largest[:MOST_SITES], largest[MOST_SITES:]
    labels = short_labels(shown)
    bars = [(arm, labels[site], of_arm[site]) for arm, of_arm in sizes.items() for site in shown if of_arm.get(site)]
    names = [labels[site] for site in shown]
    if others:
        names.append(f"{len(others)} other site{'s' * (len(others) > 1)}")
        bars += [(arm, names[-1], sum(of_arm.get(site, 0) for site in others)) for arm, of_arm in sizes.items()]
    unit = bytes_unit(size for _, _, size in bars)
    rows = [{"arm": key.labels[arm], "site": site, "size": size / unit.divisor} for arm, site, size in bars]
    arms = [key.labels[arm] for arm in sizes]
    extent = round(min(_WIDEST_LABEL, max(map(text_width, names)) + 4))
    axis = axis_of(extent, title=None, labelLimit=extent, ticks=False)
    pick = key.pick()
    chart = (
        alt.Chart(alt.NamedData("sites"), name="bars")
        .mark_bar()
        .encode(
            x=alt.X("size:Q", title=unit.of("saved for backward"), axis=alt.Axis(tickCount=5)),
            y=alt.Y("site:N", axis=axis).scale(domain=names, paddingInner=0.25, paddingOuter=0.1),
            yOffset=alt.YOffset("arm:N").scale(domain=arms),
            color=key.colour(sizes),
            opacity=pick.opacity,
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("site:N"),
                alt.Tooltip("size:Q", title=unit.of("saved"), format=".4~g"),
            ],
        )
        .add_params(pick.parameter)
    )
    height = round(len(names) * (_BAR_HEIGHT * len(arms) + 4)) + 30 + key.legend_height(sizes)
    return finished(fitted([chart], height), sites=rows)


def _caption(outcome: Outcome, depth: int, sizes: Mapping[str, Sizes], found: Mapping[str, Sizes]) -> str:
    largest = _largest(sizes)
    unit = bytes_unit(sum(of_arm.values()) for of_arm in sizes.values())
    sentences = [
        f"What each site keeps for the backward pass at depth {depth}, in {unit.name} (1 {unit.name} is "
        f"{unit.divisor:,.0f} bytes), of the seed whose saved bytes are the median; the bars of an arm add up to them. "
        "Where an arm has no bar it keeps nothing, or its operators save under the name of another site.",
        *(_largest_share(arm, of_arm, unit) for arm, of_arm in sizes.items()),
    ]
    if len(largest) > MOST_SITES:
        sentences.append(f"The {MOST_SITES} largest of {len(largest)} sites have bars of their own.")
    if len(found) > len(sizes):
        sentences.append(f"{len(sizes)} of {len(found)} arms; the others are in the other parts of this figure.")
    groups = [group for group in outcome.groups if group[1] == depth]
    drawn = {(arm, depth) for arm in found}
    return " ".join([*sentences, *left_out(groups, drawn, "figures by site")])


def _largest_share(arm: str, sizes: Sizes, unit: Unit) -> str:
    total = sum(sizes.values())
    site = max(sizes, key=lambda name: sizes[name])
    share = 100 * sizes[site] / total
    return f"{arm} keeps {number(total / unit.divisor)} {unit.name}, {share:.0f} % of it at {site}."
