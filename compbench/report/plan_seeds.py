"""What the seeds of a suite can show, before it runs or on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from compbench.report.amounts import amount, called, tolerance
from compbench.report.outcome import Outcome
from compbench.report.pairing import REFERENCE, axes, is_reference, workload_of
from compbench.report.phrases import code, counted
from compbench.report.statistics import FEWEST_PAIRS, pooled_sd, seeds_needed, smallest_margin
from compbench.report.verdicts import judge
from compbench.suite.cell import Cell


def what_seeds_show(cells: Sequence[Cell], margins: Mapping[str, float], outcome: Outcome | None) -> list[str]:
    """The smallest margin that the seeds show with 80 % power, a sentence a metric and workload.

    A family of comparisons is every arm and depth of a workload, as in the verdicts that a run will give.

    Args:
        cells: the cells of the suite.
        margins: the tolerable losses that it declares.
        outcome: results that tell how far paired differences spread; without them the answer is in units of that.
    """
    if not margins:
        return [
            "The suite declares no margins: its seeds can't show an arm to be non-inferior, since nothing says to what."
        ]
    families: dict[str, list[Cell]] = {}
    for cell in cells:
        families.setdefault(workload_of(cell), []).append(cell)
    sentences = []
    for workload, own in families.items():
        of = ""
        if len(families) > 1:
            of = f" of {code(' '.join(f'{axis}={value}' for axis, value in axes(own[0], 'workload').items()))}"
        known = [_sd(outcome, metric, margin, workload) for metric, margin in margins.items()]
        sentences += _of_family(own, margins, known, of)
    return list(dict.fromkeys(sentences))


def _sd(outcome: Outcome | None, metric: str, margin: float, workload: str) -> float | None:
    """How far paired differences spread in the results there are; None where none tell."""
    verdicts = judge(outcome, metric, margin) if outcome is not None else []
    tests = [verdict.test for verdict in verdicts if verdict.test and verdict.workload == workload]
    return pooled_sd(tests) if tests else None


def _of_family(cells: Sequence[Cell], margins: Mapping[str, float], sds: Sequence[float | None], of: str) -> list[str]:
    if not any(is_reference(cell) for cell in cells):
        return [f"No arm{of} is `{REFERENCE}`: there is nothing to compare with."]
    family = len({(cell.label, cell.depth) for cell in cells if not is_reference(cell)})
    if not family:
        return [f"There is no arm{of} beside `{REFERENCE}`, and nothing to show."]
    seeds = max(Counter((cell.label, cell.depth) for cell in cells).values())
    start = f"{counted(seeds, 'seed')} and {counted(family, 'comparison')}"
    if seeds < FEWEST_PAIRS:
        return [f"With {start}{of} nothing can be shown: {FEWEST_PAIRS} seeds are the least that tell anything."]
    in_sds = smallest_margin(seeds, 1.0, family)
    if in_sds is None:
        return [f"{start}{of} can hardly show anything."]
    alone = smallest_margin(seeds, 1.0) if family > 1 else None
    sentences = []
    for (metric, margin), sd in zip(margins.items(), sds, strict=True):
        shown = f"On {called(metric)}{of} {start} show non-inferiority with 80 % power within"
        if sd is None:
            single = "" if alone is None else f" ({alone:.2g} if there were only one)"
            sentences.append(
                f"{shown} {in_sds:.2g} standard deviations of the paired differences at best{single}, if nothing is "
                f"lost. None is known yet; for the margin of {tolerance(metric, margin)} one may be "
                f"{amount(metric, margin / in_sds, 'down')} at most."
            )
        elif sd == 0:
            sentences.append(
                f"{shown} any margin, if all pairs differ by the same, as they do in the results there are."
            )
        else:
            needed = seeds_needed(margin, sd, family)
            enough = "enough" if in_sds * sd <= margin else "not enough"
            would = "more than a thousand seeds" if needed is None else counted(needed, "seed")
            sentences.append(
                f"{shown} {amount(metric, in_sds * sd, 'up')} at best, if nothing is lost and paired differences "
                f"spread as in the results there are (an SD of {amount(metric, sd)}): {enough} for the margin of "
                f"{tolerance(metric, margin)}, which takes {would}."
            )
    return sentences
