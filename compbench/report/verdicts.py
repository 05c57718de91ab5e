"""Verdicts on a metric: every arm and depth against the uncompressed reference, paired by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.pairing import REFERENCE as REFERENCE
from compbench.report.pairing import (
    Pair,
    References,
    conditions,
    find_pairs,
    find_references,
    gains,
    has_failed,
    is_reference,
    score,
    workload_of,
)
from compbench.report.phrases import code
from compbench.report.statistics import ALPHA, FEWEST_PAIRS, Floats, PairedTest, holm, paired_test, seeds_to_settle

Decision = Literal["reference", "non-inferior", "degraded", "inconclusive", "not tested", "not paired"]


@dataclass(frozen=True)
class Verdict:
    """What can be said of an arm at a depth about one metric.

    Attributes:
        pairs: seeds in which both the arm and the reference have the metric.
        dropped: planned seeds of the arm without such a pair.
        failed: how many of these failed on the arm's side; the others have not been run, or the reference has no score.
        mean: the mean difference of the pairs, positive where the arm is better; None where there is no pair.
        test: the paired tests, None where nothing was tested.
        family: number of comparisons that Holm's adjustment was over: arms and depths of the workload that were tested.
        adjusted_p: ``test.p_non_inferior`` after Holm's adjustment.
        correlation: Pearson's, between arm and reference over the pairs; None where one of them does not vary.
        seeds_needed: seeds that would settle an inconclusive comparison; see :func:`~.statistics.seeds_to_settle`.
        beyond: whether a loss of more than the margin is shown.
        note: why, in a clause; empty where the numbers say all.
        workload: the workload with its settings, which tells families apart.
    """

    metric: str
    margin: float
    arm: str
    depth: int
    decision: Decision
    pairs: int = 0
    dropped: int = 0
    failed: int = 0
    mean: float | None = None
    test: PairedTest | None = None
    family: int = 0
    adjusted_p: float | None = None
    correlation: float | None = None
    seeds_needed: int | None = None
    beyond: bool = False
    note: str = ""
    workload: str = ""


def judge(outcome: Outcome, metric: str, margin: float) -> list[Verdict]:
    """The verdicts on one metric, in the order of the table's rows; none for what has not been run at all.

    A family of Holm's adjustment is every arm and depth of one workload that could be tested.

    Args:
        outcome: the suite's results, which say whether less of the metric is better.
        metric: a held-out metric.
        margin: the tolerable loss, in the metric's unit.
    """
    references = find_references(outcome.cells)
    verdicts = []
    for (arm, depth), cells in outcome.groups.items():
        results = [cell.result for cell in cells if cell.result]
        if results:
            empty = Verdict(metric, margin, arm, depth, "not tested", workload=workload_of(results[0].cell))
            verdicts.append(_compare(empty, cells, references, outcome))
    families: dict[str, list[int]] = defaultdict(list)
    for index, verdict in enumerate(verdicts):
        if verdict.test:
            families[verdict.workload].append(index)
    for family in families.values():
        for index, verdict in zip(family, _decide([verdicts[index] for index in family]), strict=True):
            verdicts[index] = verdict
    return verdicts


def why_no_verdict(outcome: Outcome) -> str:
    """Why a suite's arms get no verdict, in a sentence; empty where they do."""
    if outcome.margins:
        return ""
    return (
        "no verdicts: the suite declares no margins, and without a tolerable loss that was set beforehand nothing can "
        "be called non-inferior"
    )


def _compare(empty: Verdict, cells: Sequence[PlannedCell], references: References, outcome: Outcome) -> Verdict:
    """The verdict as far as one arm and depth alone decides it."""
    metric = empty.metric
    results = [cell.result for cell in cells if cell.result]
    if is_reference(results[0].cell):
        return replace(empty, decision="reference")
    pairs = find_pairs(cells, references, metric)
    failed = sum(has_failed(cell, metric) for cell in cells)
    found = replace(empty, pairs=len(pairs), dropped=len(cells) - len(pairs), failed=failed)
    unlike = [str(pair.ours.cell.seed) for pair in pairs if not pair.alike]
    if unlike:
        note = f"initial weights or order of examples differ from the reference's for seed {', '.join(unlike)}"
        return replace(found, decision="not paired", note=note)
    if not pairs:
        return replace(found, note=_why_no_pairs(found, cells, references))
    differences = np.array(gains(pairs, metric, outcome))
    found = replace(found, mean=float(differences.mean()))
    if len(pairs) < FEWEST_PAIRS:
        return replace(found, note="fewer than three pairs")
    ours, theirs = _scores(pairs, metric)
    note = _why_nothing_to_lose(theirs, empty.margin) if metric not in outcome.lower_is_better else ""
    if note:
        return replace(found, note=note)
    magnitude = float(np.abs([ours, theirs]).max())
    test = paired_test(differences, empty.margin, magnitude)
    return replace(found, test=test, correlation=_correlation(ours, theirs))


def _why_no_pairs(verdict: Verdict, cells: Sequence[PlannedCell], references: References) -> str:
    """What is missing: the metric, the arm's cells, or the reference."""
    ok = [cell.result for cell in cells if cell.result and cell.result.status == "ok"]
    if not ok:
        return "no seed ended well"
    if not any(verdict.metric in result.metrics for result in ok):
        there = ", ".join(map(code, ok[0].metrics)) or "none"
        return f"it was not measured (measured were: {there})"
    if not any(score(result, verdict.metric) is not None for result in ok):
        return "it is no finite number for any seed"
    ours = {conditions(result.cell)._replace(seed=0) for result in ok}
    theirs = [result for place, result in references.items() if place._replace(seed=0) in ours]
    if not theirs:
        return f"`{REFERENCE}` has not been run under the same conditions, and there is nothing to compare with"
    if all(result.status != "ok" for result in theirs):
        how = ", ".join(dict.fromkeys(result.status for result in theirs))
        return f"`{REFERENCE}` itself failed there ({how}), and there is nothing to compare with"
    return f"`{REFERENCE}` has no score for any of its seeds"


def _why_nothing_to_lose(theirs: Floats, margin: float) -> str:
    """Why an arm that has learnt nothing would pass, where it would: scores that begin at 0 are within the margin."""
    if not theirs.any():
        return "the reference scores 0 for every seed, so there is nothing to lose"
    if theirs.min() >= 0 and theirs.mean() <= margin:
        return "the reference scores no more than the margin, so that an arm which scores 0 would pass"
    return ""


def _scores(pairs: Sequence[Pair], metric: str) -> tuple[Floats, Floats]:
    ours = np.array([pair.ours.metrics[metric] for pair in pairs])
    return ours, np.array([pair.theirs.metrics[metric] for pair in pairs])


def _correlation(ours: Floats, theirs: Floats) -> float | None:
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    return float(ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)))


def _decide(family: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of a family: each kind of claim is adjusted for all comparisons in which it could be made."""
    tests = [verdict.test for verdict in family if verdict.test]
    adjusted = [
        holm([test.p_non_inferior for test in tests]),
        holm([test.p_worse for test in tests]),
        holm([test.p_beyond for test in tests]),
    ]
    return [
        _decided(verdict, test, p_values, len(family))
        for verdict, test, *p_values in zip(family, tests, *adjusted, strict=True)
    ]


def _decided(verdict: Verdict, test: PairedTest, p_values: Sequence[float], family: int) -> Verdict:
    """The verdict after adjustment: within the margin is what the suite asked for, so that is looked at first."""
    non_inferior, worse, beyond = (p < ALPHA for p in p_values)
    verdict = replace(verdict, adjusted_p=p_values[0], family=family)
    if non_inferior and not verdict.failed:
        note = "worse than the reference, by less than the margin" if worse else ""
        return replace(verdict, decision="non-inferior", note=note)
    failed = f"{verdict.failed} of its seeds failed, so those that remain can't show non-inferiority"
    if worse:
        note = "beyond the margin" if beyond else failed if non_inferior else ""
        return replace(verdict, decision="degraded", note=note, beyond=beyond)
    if verdict.failed:
        return replace(verdict, decision="inconclusive", note=failed)
    needed = seeds_to_settle(test.mean, test.sd, verdict.margin, family)
    return replace(verdict, decision="inconclusive", seeds_needed=needed)
