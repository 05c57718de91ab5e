"""Several workloads, depths and suites at once: relative scores of each arm, and performance profiles of its costs.

A *task* is a workload with its settings at a depth, trained in one way. Arms are told apart by name and by the axes
that set how they compress; a name that stands for other settings in another suite is said to.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from compbench.errors import SettingsError, unknown
from compbench.report.aggregation import (
    interquartile_mean,
    performance_ratios,
    profile_steps,
    share_within,
    stratified_interval,
)
from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.pairing import (
    FAILED,
    REFERENCE,
    Pair,
    References,
    axes,
    conditions,
    find_references,
    has_failed,
    is_reference,
    score,
    workload_of,
)
from compbench.report.phrases import code, counted, listed
from compbench.report.statistics import FEWEST_PAIRS, Floats
from compbench.report.tables import RATES
from compbench.run.result import CellResult
from compbench.suite.cell import Cell

Cost = Literal["time", "saved bytes", "peak delta"]

COSTS: tuple[Cost, ...] = ("time", "saved bytes", "peak delta")


class Task(NamedTuple):
    """What is learnt: a suite's workload at a depth, and how it is trained."""

    suite: str
    workload: str
    training: str
    device: str
    depth: int


class Place(NamedTuple):
    """One cell's place: of several cells of the same place the first counts."""

    task: Task
    arm: str
    seed: int


@dataclass(frozen=True)
class RelativeScore:
    """An arm's scores of one metric relative to the reference's, over all its tasks and seeds.

    Attributes:
        mean: interquartile mean; 1 is as good as the reference, more is better.
        interval: 95 % by the bootstrap within each task; None where a task has fewer than three scores.
        tasks: in how many tasks it has any score.
        scores: how many there are, of all tasks and seeds.
        failed: how many of these are 0 because the cell failed.
        dropped: cells of the arm that have no relative score, because the reference has none above 0 or the two did not
            start alike.
    """

    metric: str
    arm: str
    mean: float
    interval: tuple[float, float] | None
    tasks: int
    scores: int
    failed: int
    dropped: int


@dataclass(frozen=True)
class Profile:
    """What the arms cost on each problem, in the unit of the cheapest arm of that problem.

    Attributes:
        cost: what it is of.
        arms: those that are in every task that any of them is in.
        ratios: ``(problems, arms)``; infinite where an arm failed. A problem is a task with a seed.
        left_out: problems that not all of the arms have been measured on.
        unsolved: problems on which all of the arms failed.
    """

    cost: Cost
    arms: Sequence[str]
    ratios: Floats
    left_out: int
    unsolved: int

    def share_within(self, factor: float) -> dict[str, float]:
        """The share of problems that each arm does at no more than ``factor`` times the least cost."""
        return dict(zip(self.arms, map(float, share_within(self.ratios, factor)), strict=True))

    def steps(self, arm: str) -> list[tuple[float, float]]:
        """An arm's whole profile; see :func:`~.aggregation.profile_steps`."""
        return profile_steps(self.ratios[:, self.arms.index(arm)])


@dataclass(frozen=True)
class Across:
    """What several results show together.

    Attributes:
        suites: their names, in the order given.
        metrics: of which relative scores were asked.
        tasks: how many there are.
        scores: a metric after the other, arms in order of appearance.
        profiles: of the costs that at least two arms have been measured for on a common problem.
        sentences: what a reader might be misled by if it went unsaid.
    """

    suites: Sequence[str]
    metrics: Sequence[str]
    tasks: int
    scores: Sequence[RelativeScore]
    profiles: Sequence[Profile]
    sentences: Sequence[str] = field(default=())


def compare_across(outcomes: Sequence[Outcome], metrics: Sequence[str] = (), arms: Sequence[str] = ()) -> Across:
    """Aggregates the results of one or more suites.

    Args:
        outcomes: at least one.
        metrics: those to aggregate; by default those that any suite has a margin for, else the well-known ones that
            were measured, else all that were.
        arms: names or glob patterns of the arms to look at, beside the reference; by default all.

    Raises:
        SettingsError: a metric that nobody has measured, or a pattern that no arm matches.
    """
    pool = _Pool(outcomes)
    chosen = pool.matching(arms)
    wanted = _metrics(outcomes, metrics)
    scores = [made for metric in wanted for arm in chosen if (made := pool.relative_score(metric, arm))]
    profiles = [profile for cost in COSTS if (profile := pool.profile(cost, [*pool.reference_arms, *chosen]))]
    found = Across([*dict.fromkeys(outcome.name for outcome in outcomes)], wanted, len(pool.tasks), scores, profiles)
    sentences = [*pool.remarks(chosen), *_on_scores(found), *_on_profiles(found, chosen)]
    return Across(found.suites, found.metrics, found.tasks, found.scores, found.profiles, sentences)


def task_of(cell: Cell) -> Task:
    """The task of a cell."""
    return Task(cell.suite, workload_of(cell), str(vars(cell.training)), cell.device, cell.depth)


def arm_of(cell: Cell) -> str:
    """What an arm is called where several workloads come together: without the axes of workload and training."""
    return " ".join([cell.arm, *(f"{axis}={value}" for axis, value in axes(cell, "arm").items())])


class _Pool:
    """The records of all outcomes by their places."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.cells: dict[Place, PlannedCell] = {}
        self.repeated = 0
        self.lower_is_better = {metric for outcome in outcomes for metric in outcome.lower_is_better}
        self.not_run: dict[str, int] = {}
        for outcome in outcomes:
            for cell in outcome.cells:
                if cell.result is None:
                    self.not_run[outcome.name] = self.not_run.get(outcome.name, 0) + 1
                    continue
                ours = cell.result.cell.model_copy(update={"suite": outcome.name})
                place = Place(task_of(ours), arm_of(ours), ours.seed)
                self.repeated += place in self.cells
                self.cells.setdefault(place, cell)
        self.tasks = [*dict.fromkeys(place.task for place in self.cells)]
        self.arms = [*dict.fromkeys(place.arm for place in self.cells)]
        self.reference_arms = [arm for arm in self.arms if all(is_reference(_record(c).cell) for c in self._of(arm))]
        self._references: Mapping[str, References] = {
            suite: find_references(cell for place, cell in self.cells.items() if place.task.suite == suite)
            for suite in dict.fromkeys(task.suite for task in self.tasks)
        }

    def _of(self, arm: str) -> list[PlannedCell]:
        return [cell for place, cell in self.cells.items() if place.arm == arm]

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """The arms that any pattern matches, without the reference."""
        arms = [arm for arm in self.arms if arm not in self.reference_arms]
        if not patterns:
            return arms
        found: set[str] = set()
        for pattern in patterns:
            matched = fnmatch.filter(arms, pattern)
            if not matched:
                raise SettingsError(unknown("arm", pattern, arms))
            found |= set(matched)
        return [arm for arm in arms if arm in found]

    def relative_score(self, metric: str, arm: str) -> RelativeScore | None:
        """An arm's relative scores; None where it has none."""
        strata: dict[Task, list[float]] = {}
        failed = dropped = 0
        for place, cell in self.cells.items():
            if place.arm != arm:
                continue
            ours = _record(cell)
            theirs = self._references[place.task.suite].get(conditions(ours.cell))
            relative = self._relative(metric, cell, theirs)
            if relative is None:
                dropped += 1
                continue
            failed += has_failed(cell, metric)
            strata.setdefault(place.task, []).append(relative)
        if not strata:
            return None
        samples = [np.array(values) for values in strata.values()]
        everything = np.concatenate(samples)
        return RelativeScore(
            metric=metric,
            arm=arm,
            mean=float(interquartile_mean(everything)),
            interval=stratified_interval(samples),
            tasks=len(strata),
            scores=len(everything),
            failed=failed,
            dropped=dropped,
        )

    def _relative(self, metric: str, cell: PlannedCell, theirs: CellResult | None) -> float | None:
        """A cell's score over its reference's, the other way round where less is better, and 0 where it failed."""
        base = score(theirs, metric)
        if theirs is None or base is None or base <= 0:
            return None
        if has_failed(cell, metric):
            return 0.0
        ours = _record(cell)
        value = score(ours, metric)
        if value is None or not Pair(ours, theirs).alike:
            return None
        if metric in self.lower_is_better:
            return base / value if value > 0 else None
        return value / base if value >= 0 else None

    def profile(self, cost: Cost, candidates: Sequence[str]) -> Profile | None:
        """The profile of those arms that are in all tasks; None where no two of them have a problem in common."""
        costs = {
            place: found
            for place, cell in self.cells.items()
            if place.arm in candidates and (found := _cost(cost, cell)) is not None
        }
        # Of the reference the cost is known where nobody has measured any; so it is of cells that failed.
        tasks = {p.task for p, found in costs.items() if p.arm not in self.reference_arms and math.isfinite(found)}
        costs = {place: found for place, found in costs.items() if place.task in tasks}
        covered = {arm: {place.task for place in costs if place.arm == arm} for arm in candidates}
        arms = [arm for arm in candidates if covered[arm] == tasks]
        if len(arms) < 2:
            return None
        problems = dict.fromkeys((place.task, place.seed) for place in costs if place.arm in arms)
        rows = [[costs.get(Place(task, arm, seed)) for arm in arms] for task, seed in problems]
        whole = [[value for value in row if value is not None] for row in rows]
        table = np.array([row for row in whole if len(row) == len(arms)])
        if not len(table):
            return None
        solved = np.isfinite(table).any(axis=1)
        if not solved.any():
            return None
        ratios = performance_ratios(table[solved])
        return Profile(cost, arms, ratios, len(problems) - len(table), int((~solved).sum()))

    def remarks(self, chosen: Sequence[str]) -> list[str]:
        """What is true of all that follows."""
        found = []
        if self.not_run:
            counts = [f"{counted(count, 'cell')} of {code(suite)}" for suite, count in self.not_run.items()]
            found.append(f"Not run, and no part of this: {listed(counts)}.")
        if self.repeated:
            found.append(
                f"In more than one of the folders: {counted(self.repeated, 'cell')}, of which the first counts."
            )
        different = []
        for arm in [*self.reference_arms, *chosen]:
            settings: dict[str, str] = {}
            for place, cell in self.cells.items():
                if place.arm == arm:
                    settings.setdefault(_settings(_record(cell).cell), place.task.suite)
            if len(settings) > 1:
                suites = [code(suite) for suite in dict.fromkeys(settings.values())]
                different.append(f"{code(arm)} (in {listed(suites)})")
        if different:
            found.append(f"One name stands for different settings, of the strategy or of capture: {listed(different)}.")
        return found


def _record(cell: PlannedCell) -> CellResult:
    if cell.result is None:
        raise ValueError(f"{cell.key} has no record")
    return cell.result


def _settings(cell: Cell) -> str:
    """What an arm's name stands for: its strategy, without the source, and what is captured."""
    members = [(member.name, sorted(member.fields.items(), key=str)) for member in cell.strategy]
    return f"{members} {vars(cell.capture)}"


def _cost(cost: Cost, cell: PlannedCell) -> float | None:
    """What a cell cost; infinite where it failed, None where nobody measured it."""
    result = _record(cell)
    if cell.status in FAILED:
        return math.inf
    if cost == "time":
        if is_reference(result.cell):
            return 1.0  # the plain step is what times are ratios to
        return result.time.ratio if result.time and 0 < result.time.ratio < math.inf else None
    if result.memory is None:
        return None
    # An arm that keeps nothing at all is as cheap as one that keeps a byte: ratios need something to divide by.
    return float(max(1, result.memory.saved_bytes if cost == "saved bytes" else result.memory.peak_delta_bytes))


def _metrics(outcomes: Iterable[Outcome], wanted: Sequence[str]) -> list[str]:
    outcomes = list(outcomes)
    results = [result for outcome in outcomes for result in outcome.results.values()]
    there = [*dict.fromkeys(name for result in results for name in result.metrics)]
    for metric in wanted:
        if metric not in there:
            raise SettingsError(unknown("metric", metric, there))
    declared = [metric for outcome in outcomes for metric in outcome.margins if metric in there]
    known = [metric for metric in RATES if metric in there]
    return [*dict.fromkeys(wanted or declared or known or there)]


def _on_scores(found: Across) -> list[str]:
    if not found.scores:
        return ["No arm has a score that can be related to the reference's."]
    sentences = [
        f"relative score: an arm's score over that of `{REFERENCE}` for the same seed, or the reverse where lower is "
        "better; 1 is as good. Shown is the interquartile mean over all tasks and seeds, with a 95 % interval by the "
        "bootstrap of seeds within each task.",
    ]
    if any(made.interval is None for made in found.scores):
        sentences.append(f"Without an interval: some task has fewer than {FEWEST_PAIRS} scores of that arm.")
    if any(made.failed for made in found.scores):
        sentences.append("A cell that failed has the score 0.")
    if any(made.dropped for made in found.scores):
        sentences.append(
            "Dropped are cells without a relative score: their reference has none above 0, or they did not start alike."
        )
    if len({made.tasks for made in found.scores}) > 1:
        sentences.append("Scores over different tasks can't be compared: see the column of tasks.")
    return sentences


def _on_profiles(found: Across, chosen: Sequence[str]) -> list[str]:
    if not found.profiles:
        return ["No two arms have been measured in all tasks, so that there are no performance profiles: compare less."]
    sentences = [
        "performance profile: the share of problems (a task with a seed) that an arm does at no more than so many "
        "times the cost of the cheapest arm there; an arm that failed never does. It depends on which arms are "
        f"compared. The cost of time is the ratio to the plain step, which is what `{REFERENCE}` is.",
    ]
    said: dict[str, list[str]] = {}
    for profile in found.profiles:
        absent = [code(arm) for arm in chosen if arm not in profile.arms]
        parts = [f"{counted(len(profile.ratios), 'problem')}"]
        if profile.left_out:
            parts.append(f"{profile.left_out} left out, on which not all of these arms were measured")
        if profile.unsolved:
            parts.append(f"{profile.unsolved} left out, on which all of them failed")
        if absent:
            parts.append(f"without {listed(absent)}, not measured in all tasks")
        said.setdefault("; ".join(parts), []).append(profile.cost)
    sentences += [f"{listed(costs)}: {text}." for text, costs in said.items()]
    return sentences
