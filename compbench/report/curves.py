"""Strategies' own figures over training: the data of a figure, one row a point."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean

from compbench.errors import SettingsError, unknown
from compbench.report.formats import Table
from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.wording import NOT_AVAILABLE, figures, words

_SHOWN_STEPS = 8
"""The most steps that a table for people has."""


@dataclass(frozen=True)
class Point:
    """One statistic of one cell after one training step; the fields are the CSV's columns.

    Attributes:
        step: training steps done, from 1.
        statistic: its name, such as ``fidelity``.
        value: over all sites that have it; counts are sums, other figures means.
    """

    arm: str
    depth: int
    seed: int
    step: int
    statistic: str
    value: float


COLUMNS = tuple(field.name for field in fields(Point))


def curve_points(outcome: Outcome, statistics: Sequence[str]) -> list[Point]:
    """The points of some statistics' curves: arms in the suite's order, then by depth, seed, statistic and step.

    A cell that did not end well has those of the steps that it made. A strategy without the statistic has none, and
    neither have steps before its first figure.

    Args:
        outcome: the suite's results.
        statistics: their names; one that is given twice counts once.

    Raises:
        SettingsError: no record has a curve of that name.
    """
    known = {name for cell in outcome.cells for point in _curve(cell) for name in point if name != "step"}
    for name in statistics:
        if name not in known:
            raise SettingsError(unknown("curve", name, known))
    return [
        Point(arm, depth, cell.seed, int(point["step"]), name, point[name])
        for (arm, depth), cells in outcome.groups.items()
        for cell in sorted(cells, key=lambda cell: cell.seed)
        for name in dict.fromkeys(statistics)
        for point in _curve(cell)
        if name in point
    ]


def _curve(cell: PlannedCell) -> Sequence[dict[str, float]]:
    return cell.result.statistics_curve if cell.result else ()


def curves_table(outcome: Outcome, statistics: Sequence[str]) -> Table:
    """A row for each curve of an arm at a depth, its mean over seeds at a few of its steps; as raw numbers every point.

    Raises:
        SettingsError: as :func:`curve_points` does.
    """
    points = curve_points(outcome, statistics)
    steps = sorted({point.step for point in points})
    shown = _spread(steps)
    values: dict[tuple[str, int, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    seeds: dict[tuple[str, int, str], set[int]] = defaultdict(set)
    for point in points:
        curve = point.arm, point.depth, point.statistic
        values[curve][point.step].append(point.value)
        seeds[curve].add(point.seed)
    cells = [
        [
            arm,
            str(depth),
            statistic,
            str(len(seeds[arm, depth, statistic])),
            *(_value(fmean(at[step])) if step in at else NOT_AVAILABLE for step in shown),
        ]
        for (arm, depth, statistic), at in values.items()
    ]
    headers = ["arm", "depth", "statistic", "seeds", *(f"step {step}" for step in shown)]
    sentences = [
        "after a training step, what the strategy tells of itself, over its sites: counts added up, other figures on "
        "average. Mean over the seeds that got so far; '-' where there is no figure (yet).",
    ]
    if len(shown) < len(steps):
        sentences.append(f"{len(shown)} of {len(steps)} points of a curve are shown; csv and json have all of them.")
    without = [arm for arm in dict.fromkeys(cell.arm for cell in outcome.cells) if arm not in {p.arm for p in points}]
    if without:
        sentences.append(f"without any such figure: {', '.join(without)}.")
    sentences += [
        f"{cell.arm} at depth {cell.depth}, seed {cell.seed}: {cell.status}, so that its curve ends early."
        for cell in outcome.cells
        if _curve(cell) and cell.status != "ok"
    ]
    return Table(
        headers,
        cells,
        ("arm", "statistic"),
        sentences,
        caption=f"{outcome.name}: {', '.join(map(words, dict.fromkeys(statistics)))} over training",
        columns=COLUMNS,
        records=[asdict(point) for point in points],
        facts={"suite": outcome.name, "description": outcome.description.strip()},
    )


def _value(value: float) -> str:
    """Four digits; what is not quite 1 does not look as if it were."""
    return ">0.9999" if 0.99995 <= value < 1 else figures(value, 4)


def _spread(steps: Sequence[int]) -> list[int]:
    """A few of the steps, the first and the last among them, as far apart as they allow."""
    if len(steps) <= _SHOWN_STEPS:
        return list(steps)
    return [steps[round(number * (len(steps) - 1) / (_SHOWN_STEPS - 1))] for number in range(_SHOWN_STEPS)]
