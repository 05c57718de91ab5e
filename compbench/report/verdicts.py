"""Verdicts on a metric: every arm and depth against the uncompressed reference, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.rows import ok_results
from compbench.report.statistics import ALPHA, FEWEST_PAIRS, Floats, PairedTest, holm, paired_test, seeds_needed
from compbench.run.result import CellResult

REFERENCE = "none"
"""The strategy that arms are compared with: the one that compresses nothing."""

Decision = Literal["reference", "non-inferior", "degraded", "inconclusive", "not tested", "not paired"]

_UNFINISHED = ("ok", "missing", "skipped")


@dataclass(frozen=True)
class Verdict:
    """What can be said of an arm at a depth about one metric.

    Attributes:
        pairs: seeds in which both the arm and the reference have the metric.
        dropped: planned seeds of the arm without such a pair.
        test: the paired tests, None where nothing was tested.
        adjusted_p: ``test.p_non_inferior`` after Holm's adjustment over all tested arms and depths.
        correlation: Pearson's, between arm and reference over the pairs; None where one of them does not vary.
        seeds_needed: seeds that would settle an inconclusive comparison; see :func:`~.statistics.seeds_needed`.
        note: why, in a clause; empty where the numbers say all.
    """

    metric: str
    margin: float
    arm: str
    depth: int
    decision: Decision
    pairs: int = 0
    dropped: int = 0
    test: PairedTest | None = None
    adjusted_p: float | None = None
    correlation: float | None = None
    seeds_needed: int | None = None
    note: str = ""


def judge(outcome: Outcome, metric: str, margin: float) -> list[Verdict]:
    """The verdicts on one metric, in the order of the table's rows; none for what has not been run at all.

    The family of Holm's adjustment is every arm and depth of the suite that could be tested.

    Args:
        outcome: the suite's results.
        metric: a held-out metric, the higher the better.
        margin: the tolerable loss, in the metric's unit.
    """
    references = _references(outcome)
    verdicts, failed = [], []
    for (arm, depth), cells in outcome.groups.items():
        if not any(cell.result for cell in cells):
            continue
        verdicts.append(_compare(Verdict(metric, margin, arm, depth, "not tested"), cells, references))
        failed.append(sum(cell.status not in _UNFINISHED for cell in cells))
    tested = [(index, verdict.test) for index, verdict in enumerate(verdicts) if verdict.test]
    non_inferior = holm([test.p_non_inferior for _, test in tested])
    worse = holm([test.p_worse for _, test in tested])
    beyond = holm([test.p_beyond for _, test in tested])
    for (index, _), *p_values in zip(tested, non_inferior, worse, beyond, strict=True):
        verdicts[index] = _decide(verdicts[index], p_values, failed[index], len(tested))
    return verdicts


def _is_reference(result: CellResult) -> bool:
    return [plugin.name for plugin in result.cell.strategy] == [REFERENCE]


def _task(result: CellResult) -> tuple[int, str, int]:
    """What a pair has in common: all but the strategy. Axes of the strategy alone are thus not in it."""
    cell = result.cell
    settings = (cell.workload, cell.training, cell.capture)
    return cell.depth, " ".join(part.model_dump_json() for part in settings), cell.seed


def _references(outcome: Outcome) -> dict[tuple[int, str, int], CellResult]:
    """Records of the reference by task. Of several such arms the suite's first one counts."""
    found: dict[tuple[int, str, int], CellResult] = {}
    for cell in outcome.cells:
        if cell.result and _is_reference(cell.result):
            found.setdefault(_task(cell.result), cell.result)
    return found


def _compare(
    empty: Verdict, cells: Sequence[PlannedCell], references: dict[tuple[int, str, int], CellResult]
) -> Verdict:
    """The verdict as far as one arm and depth alone decides it."""
    if any(cell.result and _is_reference(cell.result) for cell in cells):
        return replace(empty, decision="reference")
    pairs = []
    results = ok_results(cells)
    for result in results:
        reference = references.get(_task(result))
        if reference and reference.status == "ok" and _has(result, empty.metric) and _has(reference, empty.metric):
            pairs.append((result, reference))
    found = replace(empty, pairs=len(pairs), dropped=len(cells) - len(pairs))
    unlike = [str(result.cell.seed) for result, reference in pairs if not _alike(result, reference)]
    if unlike:
        note = f"initial weights or order of examples differ from the reference's for seed {', '.join(unlike)}"
        return replace(found, decision="not paired", note=note)
    if results and not any(empty.metric in result.metrics for result in results):
        return replace(found, note=f"there is no metric of this name (there are: {', '.join(results[0].metrics)})")
    if len(pairs) < FEWEST_PAIRS:
        return replace(found, note="fewer than three pairs")
    ours = np.array([result.metrics[empty.metric] for result, _ in pairs])
    theirs = np.array([reference.metrics[empty.metric] for _, reference in pairs])
    if not theirs.any():
        return replace(found, note="the reference scores 0 for every seed, so there is nothing to lose")
    return replace(found, test=paired_test(ours - theirs, empty.margin), correlation=_correlation(ours, theirs))


def _has(result: CellResult, metric: str) -> bool:
    return math.isfinite(result.metrics.get(metric, math.nan))


def _alike(result: CellResult, reference: CellResult) -> bool:
    """Whether two cells started from the same weights and saw the same examples; no hash is no evidence of it."""
    hashes = (result.weights_hash, result.order_hash)
    return all(hashes) and hashes == (reference.weights_hash, reference.order_hash)


def _correlation(ours: Floats, theirs: Floats) -> float | None:
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


def _decide(verdict: Verdict, p_values: Sequence[float], failed: int, family: int) -> Verdict:
    """The verdict after adjustment: within the margin is what the suite asked for, so that is looked at first."""
    test = verdict.test
    if test is None:
        return verdict
    non_inferior, worse, beyond = (p < ALPHA for p in p_values)
    verdict = replace(verdict, adjusted_p=p_values[0])
    if non_inferior and not failed:
        note = "worse than the reference, by less than the margin" if worse else ""
        return replace(verdict, decision="non-inferior", note=note)
    if worse:
        return replace(verdict, decision="degraded", note="beyond the margin" if beyond else "")
    if failed:
        note = f"{failed} of its seeds failed, so those that remain can't show non-inferiority"
        return replace(verdict, decision="inconclusive", note=note)
    return replace(verdict, decision="inconclusive", seeds_needed=seeds_needed(verdict.margin, test.sd, family))
