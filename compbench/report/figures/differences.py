"""What an arm loses against the reference, seed by seed, and the margin that the suite declares tolerable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt

from compbench.report.figures.charts import finished, panel_width, panels
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key, arms_key, text_width
from compbench.report.figures.metrics import main_metric
from compbench.report.figures.units import Unit, difference_in, in_title, left_out, number, stem
from compbench.report.outcome import Outcome
from compbench.report.rows import make_rows, ok_results
from compbench.report.statistics import FEWEST_PAIRS, paired_test
from compbench.report.tables import words
from compbench.report.verdicts import REFERENCE
from compbench.run.result import CellResult

_WIDEST_LABEL = 110
_ROW_HEIGHT = 12

_MOST_SAID = 12
"""Arms and depths of which a caption says the numbers; of more they are in the table."""

Group = tuple[str, int]
"""An arm and a depth."""


@dataclass(frozen=True)
class Differences:
    """One arm at one depth against the reference, in the metric's own unit.

    Attributes:
        by_seed: arm minus reference, of the seeds in which both have the metric.
        mean: over these.
        bound: one-sided 95 % lower confidence bound of the true mean; None for fewer than three pairs.
    """

    by_seed: Mapping[int, float]
    mean: float
    bound: float | None


def paired_differences(outcome: Outcome, metric: str) -> dict[Group, Differences]:
    """The differences of every arm and depth that has a pair; the reference itself has none.

    A pair are two cells that ended well, of the same seed, depth, workload and training, whose initial weights and
    order of examples are the same.
    """
    references = {_task(result): result for result in reversed(ok_results(outcome.cells)) if _is_reference(result)}
    found: dict[Group, Differences] = {}
    for group, cells in outcome.groups.items():
        results = [result for result in ok_results(cells) if not _is_reference(result)]
        pairs = [(result, reference) for result in results if (reference := references.get(_task(result)))]
        by_seed = {
            result.cell.seed: result.metrics[metric] - reference.metrics[metric]
            for result, reference in pairs
            if _alike(result, reference) and _has(result, metric) and _has(reference, metric)
        }
        if by_seed:
            values = list(by_seed.values())
            bound = paired_test(values, 0).lower_bound if len(values) >= FEWEST_PAIRS else None
            found[group] = Differences(by_seed, math.fsum(values) / len(values), bound)
    return found


def accuracy_by_seed(outcome: Outcome) -> list[Figure | NoFigure]:
    """A figure for each metric that has a margin; without any margin, one for the main metric."""
    title = f"Differences to '{REFERENCE}' by seed"
    main = main_metric(outcome, make_rows(outcome))
    metrics = list(outcome.margins) or ([main] if main else [])
    if not metrics:
        return [NoFigure("accuracy_by_seed", title, "No cell that ended well has a held-out metric.")]
    return [_figure(outcome, metric, outcome.margins.get(metric)) for metric in metrics]


def _figure(outcome: Outcome, metric: str, margin: float | None) -> Figure | NoFigure:
    name, title = f"accuracy_by_seed_{stem(metric)}", f"Difference to '{REFERENCE}' by seed: held-out {words(metric)}"
    found = paired_differences(outcome, metric)
    if not found:
        reason = f"No arm shares a seed with '{REFERENCE}' in which both ended well and have {words(metric)}."
        return NoFigure(name, title, reason)
    key = arms_key(outcome)
    return Figure(name, title, _caption(outcome, metric, margin, found), _chart(found, metric, margin, key))


def _chart(found: Mapping[Group, Differences], metric: str, margin: float | None, key: Key) -> dict[str, Any]:
    unit = difference_in(metric)
    names = [f"depth {depth}" for depth in sorted({depth for _, depth in found})]
    arms = [label for arm, label in key.labels.items() if any(arm == drawn for drawn, _ in found)]
    extent = round(min(_WIDEST_LABEL, max(map(text_width, arms)) + 4))
    axis = alt.Axis(title=None, minExtent=extent, maxExtent=extent, labelLimit=extent, ticks=False, domain=False)
    x = alt.X("difference:Q", title=unit.of(f"{in_title(metric)}: arm minus {REFERENCE}"), axis=alt.Axis(tickCount=5))
    x = x.scale(zero=True, padding=4)
    y = alt.Y("arm:N", axis=axis).scale(domain=arms)
    colour = alt.Color("arm:N", legend=None).scale(domain=list(key.labels.values()))
    of_seed = [alt.Tooltip("arm:N"), alt.Tooltip("seed:O"), _told("difference", "difference", unit)]
    of_mean = [alt.Tooltip("arm:N"), _told("difference", "mean", unit), _told("bound", "95 % lower bound", unit)]
    of_mean.append(alt.Tooltip("seeds:Q"))
    bounds = [
        _only("mean").mark_rule(strokeWidth=1.2).encode(x=x, x2="bound:Q", y=y, color=colour),
        _only("mean").mark_tick(thickness=1.2, size=6).encode(x="bound:Q", y=y, color=colour, tooltip=of_mean),
    ]
    layers = [
        _only("zero").mark_rule().encode(x=x),
        *([_only("margin").mark_rule(style="margin").encode(x=x)] if margin is not None else []),
        *(bounds if any(differences.bound is not None for differences in found.values()) else []),
        _only("mean").mark_tick(thickness=2.2, size=9).encode(x=x, y=y, color=colour, tooltip=of_mean),
        _only("seed").mark_point(size=14, strokeWidth=1).encode(x=x, y=y, color=colour, tooltip=of_seed),
    ]
    chart = panels(layers, "differences", names, alt.Step(_ROW_HEIGHT), panel_width(extent - 12))
    return finished(chart, differences=_rows(found, margin, key, unit))


def _told(field: str, title: str, unit: Unit) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=unit.of(title), format=".3~g")


def _only(kind: str) -> alt.Chart:
    """Of the figure's data, which are of several kinds, those of one."""
    return alt.Chart().transform_filter(alt.FieldEqualPredicate(field="kind", equal=kind))


def _rows(
    found: Mapping[Group, Differences], margin: float | None, key: Key, unit: Unit
) -> Iterator[dict[str, str | int | float | None]]:
    for depth in sorted({depth for _, depth in found}):
        lines = {"zero": 0.0} if margin is None else {"zero": 0.0, "margin": -margin}
        for kind, value in lines.items():
            yield {"kind": kind, "panel": f"depth {depth}", "difference": value / unit.divisor}
    for (arm, depth), differences in found.items():
        shared: dict[str, str | int | float | None] = {"arm": key.labels[arm], "panel": f"depth {depth}"}
        bound = None if differences.bound is None else differences.bound / unit.divisor
        mean = {"difference": differences.mean / unit.divisor, "bound": bound, "seeds": len(differences.by_seed)}
        yield {"kind": "mean", **shared, **mean}
        for seed, value in sorted(differences.by_seed.items()):
            yield {"kind": "seed", **shared, "seed": seed, "difference": value / unit.divisor}


def _caption(outcome: Outcome, metric: str, margin: float | None, found: Mapping[Group, Differences]) -> str:
    unit = difference_in(metric)

    def of(value: float) -> str:
        told = number(value / unit.divisor)
        return f"{told} {'point' if told in ('1', '-1') and unit.name == 'points' else unit.name}".strip()

    sentences = [
        f"Held-out {words(metric)} of each arm minus that of '{REFERENCE}' with the same seed, initial weights and "
        "examples: circles are seeds, the thick bar is their mean, and the line reaches down to the one-sided 95 % "
        "lower confidence bound of the true mean.",
        f"The dashed line is the margin, a loss of {of(margin)}; verdicts, which are adjusted for all arms and depths, "
        "are in the table."
        if margin is not None
        else "The suite declares no margin for it.",
    ]
    if any(differences.bound is None for differences in found.values()):
        sentences.append("With fewer than three pairs there is no bound.")
    if len(found) <= _MOST_SAID:
        for (arm, depth), differences in found.items():
            pairs = f"{len(differences.by_seed)} pair{'s' * (len(differences.by_seed) > 1)}"
            bound = "" if differences.bound is None else f", bound {of(differences.bound)}"
            sentences.append(f"{arm} at depth {depth}: mean {of(differences.mean)}{bound}, {pairs}.")
    references = {(cell.arm, cell.depth) for cell in outcome.cells if cell.result and _is_reference(cell.result)}
    return " ".join(
        [*sentences, *left_out([group for group in outcome.groups if group not in references], found, "a pair")]
    )


def _is_reference(result: CellResult) -> bool:
    return [plugin.name for plugin in result.cell.strategy] == [REFERENCE]


def _task(result: CellResult) -> tuple[int, int, str]:
    """What two cells of a pair have in common: all but the strategy."""
    cell = result.cell
    settings = (cell.workload, cell.training, cell.capture)
    return cell.seed, cell.depth, " ".join(part.model_dump_json() for part in settings)


def _alike(result: CellResult, reference: CellResult) -> bool:
    """Whether two trainings started from the same weights and saw the same examples; no hash is no evidence of it."""
    hashes = (result.weights_hash, result.order_hash)
    return all(hashes) and hashes == (reference.weights_hash, reference.order_hash)


def _has(result: CellResult, metric: str) -> bool:
    return math.isfinite(result.metrics.get(metric, math.nan))
