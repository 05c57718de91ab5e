"""The arms that no other arm beats: saved bytes, time ratio and accuracy at each depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from compbench.report.figures.charts import axis_of, finished, logarithmic, panel_width, stacked
from compbench.report.figures.exactness import Evidence, exact_arms
from compbench.report.figures.figure import Figure, NoFigure
from compbench.report.figures.key import Key, arms_key
from compbench.report.figures.metrics import finite, main_metric
from compbench.report.figures.units import bytes_unit, listed, metric_title, metric_unit, stem
from compbench.report.outcome import Outcome
from compbench.report.rows import Row, make_rows, ok_results
from compbench.report.tables import words

_TITLE = "Saved memory, time and accuracy"
_PANEL_HEIGHT = 90
_LEGEND = "filled: on the Pareto front; ringed: exact"
_ON_FRONT, _BEATEN = "on the front", "beaten"


@dataclass(frozen=True)
class Candidate:
    """An arm at a depth by what it is judged by; None where that was not measured.

    Attributes:
        saved_bytes: the fewer, the better; median over seeds.
        time_ratio: the smaller, the better; median over seeds.
        score: a held-out metric, the higher, the better; mean over seeds.
        spread: standard deviation of the score over seeds; 0 for one seed.
    """

    arm: str
    saved_bytes: int | None
    time_ratio: float | None
    score: float | None
    spread: float
    seeds: int


def pareto_front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which points are on the front: no other is at most as dear in everything and cheaper in something.

    Args:
        costs: ``(points, objectives)``, the less the better.
    """
    points = np.asarray(costs, dtype=np.float64)
    no_dearer = np.all(points[:, None, :] <= points[None, :, :], axis=2)
    cheaper = np.any(points[:, None, :] < points[None, :, :], axis=2)
    beaten: npt.NDArray[np.bool_] = np.any(no_dearer & cheaper, axis=0)
    return [not is_beaten for is_beaten in beaten.tolist()]


def pareto(outcome: Outcome) -> list[Figure | NoFigure]:
    """A figure for each depth, and each workload and training there, at which two arms or more can be compared."""
    rows = make_rows(outcome)
    metric = main_metric(outcome, rows)
    if metric is None:
        return [NoFigure("pareto", _TITLE, "No cell that ended well has a held-out metric.")]
    found: list[Figure | NoFigure] = []
    for depth in sorted({row.depth for row in rows}):
        tasks: dict[str, list[Row]] = {}
        for row in rows:
            if row.depth == depth and row.seeds:
                tasks.setdefault(_task(row), []).append(row)
        for of_task in tasks.values():
            where = f"depth {depth}" + (_in_common(of_task) if len(tasks) > 1 else "")
            figure = _figure(outcome, where, metric, [_candidate(row, metric) for row in of_task])
            found += [figure] if figure else []
    if found:
        return found
    reason = "At no depth do two arms have both saved bytes and a held-out metric, and one alone is not compared."
    return [NoFigure("pareto", _TITLE, reason)]


def _task(row: Row) -> str:
    """What the arms of a figure have in common: what is trained and how, whatever is compressed."""
    cell = ok_results(row.cells)[0].cell
    return f"{cell.workload.model_dump_json()} {cell.training.model_dump_json()}"


def _in_common(rows: Sequence[Row]) -> str:
    """The values of matrix axes that all of some rows share, such as ``, hidden=64``."""
    variants = [ok_results(row.cells)[0].cell.variant for row in rows]
    shared = [(axis, value) for axis, value in variants[0].items() if all(v.get(axis) == value for v in variants)]
    return "".join(f", {axis}={value}" for axis, value in shared)


def _candidate(row: Row, metric: str) -> Candidate:
    scores = finite(result.metrics.get(metric) for result in ok_results(row.cells))
    return Candidate(
        row.arm,
        row.saved_bytes,
        next(iter(finite([row.time_ratio])), None),
        float(np.mean(scores)) if scores else None,
        float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
        row.seeds,
    )


def _figure(outcome: Outcome, where: str, metric: str, candidates: Sequence[Candidate]) -> Figure | None:
    timed = any(candidate.time_ratio is not None for candidate in candidates)
    complete = [
        candidate
        for candidate in candidates
        if None not in (candidate.saved_bytes, candidate.score) and (candidate.time_ratio is not None or not timed)
    ]
    if len(complete) < 2:
        return None
    costs = [(c.saved_bytes or 0, -(c.score or 0.0), *((c.time_ratio or 0.0,) if timed else ())) for c in complete]
    front = dict(zip([candidate.arm for candidate in complete], pareto_front(costs), strict=True))
    exact = {arm: how for arm, how in exact_arms(outcome).items() if arm in front}
    key = arms_key(outcome)
    key = key.relabelled({arm: f"{key.labels[arm]}, exact" for arm in exact})
    left_out = [candidate.arm for candidate in candidates if candidate.arm not in front]
    caption = _caption(where, metric, timed, front, exact, left_out)
    chart = _chart(complete, front, exact, key, metric, timed)
    return Figure(f"pareto_{stem(where.replace(', ', '_').replace(' ', '_'))}", f"{_TITLE} at {where}", caption, chart)


def _chart(
    complete: Sequence[Candidate],
    front: Mapping[str, bool],
    exact: Mapping[str, Evidence],
    key: Key,
    metric: str,
    timed: bool,
) -> dict[str, Any]:
    unit, score_unit = bytes_unit(c.saved_bytes or 0 for c in complete), metric_unit(metric)
    rows = [
        {
            "arm": key.labels[c.arm],
            "saved": (c.saved_bytes or 0) / unit.divisor,
            "ratio": c.time_ratio,
            "score": (c.score or 0.0) / score_unit.divisor,
            "low": ((c.score or 0.0) - c.spread) / score_unit.divisor,
            "high": ((c.score or 0.0) + c.spread) / score_unit.divisor,
            "seeds": c.seeds,
            "front": _ON_FRONT if front[c.arm] else _BEATEN,
            "exact": c.arm in exact,
        }
        for c in complete
    ]
    shown = list(front)
    log = logarithmic((c.saved_bytes or 0) / unit.divisor for c in complete)
    scale, ticks = log if log else (alt.Scale(zero=False, padding=8), None)
    x = alt.X("saved:Q", title=unit.of("saved for backward"), scale=scale)
    x = x.axis(values=ticks, format="~g") if ticks else x.axis(tickCount=5)
    pick = key.pick()
    filling = alt.FillOpacity("front:O", legend=None).scale(domain=[_ON_FRONT, _BEATEN], range=[1, 0])
    told = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("saved:Q", title=f"saved, {unit.name}", format=".4~g"),
        alt.Tooltip("score:Q", title=metric_title(metric), format=".4~g"),
        *([alt.Tooltip("ratio:Q", title="time ratio", format=".3~g")] if timed else []),
        alt.Tooltip("seeds:Q"),
        alt.Tooltip("front:N", title="Pareto front"),
    ]

    base = alt.Chart(alt.NamedData("arms"))
    colour, opacity = key.colour(shown, _LEGEND), pick.opacity

    def panel(y: alt.Y, x: alt.X, first: Sequence[alt.Chart]) -> alt.LayerChart:
        marks = base.mark_point(size=30, strokeWidth=1.2, filled=False).encode(
            x=x,
            y=y,
            color=colour,
            fill=alt.Fill("arm:N", legend=colour["legend"], scale=colour["scale"]),
            fillOpacity=filling,
            shape=key.shape(shown, _LEGEND),
            opacity=opacity,
            tooltip=told,
        )
        rings = base.mark_point(style="ring").encode(x=x, y=y, opacity=opacity)
        rings = rings.transform_filter(alt.FieldEqualPredicate(field="exact", equal=True))
        layers = [*first, marks, rings]
        return alt.LayerChart(layer=layers).properties(width=panel_width(), height=_PANEL_HEIGHT)

    score = alt.Y("score:Q", title=metric_title(metric), axis=axis_of(tickCount=5)).scale(zero=False, padding=6)
    ratio = alt.Y("ratio:Q", title="time ratio", axis=axis_of(tickCount=5)).scale(zero=False, padding=6)
    above = x.title(None) if timed else x
    spread = base.mark_rule().encode(x=above, y=alt.Y("low:Q"), y2="high:Q", color=colour, opacity=opacity)
    charts = [panel(score, above, [spread.properties(name="spread").add_params(pick.parameter)])]
    if timed:
        charts.append(panel(ratio, x, []))
    return finished(stacked(charts), arms=rows)


def _caption(
    where: str,
    metric: str,
    timed: bool,
    front: Mapping[str, bool],
    exact: Mapping[str, Evidence],
    left_out: Sequence[str],
) -> str:
    by = ["saved bytes (median over seeds)", f"held-out {words(metric)} (mean over seeds)"]
    by += ["time ratio, a step with the strategy over one without (median over seeds)"] if timed else []
    on, beaten = [arm for arm in front if front[arm]], [arm for arm in front if not front[arm]]
    sentences = [
        f"Arms at {where} by {listed(by)}; bars are plus and minus one standard deviation over seeds.",
        f"Filled marks are on the Pareto front, where no other arm is at least as good in all {len(by)} and better in "
        f"one: {listed(on)}.",
    ]
    if beaten:
        sentences.append(f"Hollow marks are beaten: {listed(beaten)}.")
    sentences.append("The front is that of these figures as measured; it does not know how far seeds scatter.")
    said, seen = ([arm for arm, how in exact.items() if how == kind] for kind in ("said", "seen"))
    if said:
        sentences.append(
            f"Ringed arms lose nothing but rounding, as their strategies say of themselves: {listed(said)}."
        )
    if seen:
        sentences.append(
            "Ringed arms lost nothing, as every loss of their trainings is that of the training without compression, "
            f"bit for bit: {listed(seen)}."
        )
    if not exact:
        sentences.append("Of none of these arms do the records show that it is exact.")
    if not timed:
        sentences.append("No time was measured, so that the front knows of none.")
    if left_out:
        sentences.append(f"Left out, since one of these figures is not there: {listed(left_out)}.")
    return " ".join(sentences)
