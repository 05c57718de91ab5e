"""The numbers that verdicts and times rest on, as tables of a results page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compbench.report.amounts import tolerance
from compbench.report.outcome import Outcome
from compbench.report.pairing import is_reference, workload_label
from compbench.report.phrases import code, counted
from compbench.report.statistics import POWER, PairedTest
from compbench.report.tables import NOT_AVAILABLE, TONES, Table, as_text, difference, figures, words
from compbench.report.times import time_ratio, told_over
from compbench.report.verdicts import REFERENCE, Verdict, judge, why_no_verdict

VERDICTS_EXPLAINED = (
    "Differences are arm minus reference, or reference minus arm where lower is better: below 0 the arm is worse. "
    "The lower end of the 90 % interval is the one-sided 95 % bound; neither is adjusted. p is that of the "
    "paired t test against a loss of the margin or more, then adjusted by Holm's method over all arms and depths "
    "of the workload that could be tested, for each metric by itself. Exact p is that of the sign-flip test of the "
    "same question, with the smallest value that so many pairs can give; above 0.05 they are too few for it. "
    "Dropped are planned seeds without a pair, and how many of them failed on the arm's side; the correlation is "
    "that between arm and reference."
)
"""What stands above the tables of verdicts."""

VERDICTS_TITLE = f"Against `{REFERENCE}`, paired by seed"

TIMES_TITLE = "Time against the plain step"


@dataclass(frozen=True)
class Evidence:
    """The numbers that the verdicts on a metric rest on; in the title a name may stand between backticks."""

    title: str
    table: Table


def verdict_sections(outcome: Outcome) -> list[str]:
    """What the verdicts rest on, a table a metric, in Markdown; why there are none where there are none."""
    reason = without_verdicts(outcome)
    if reason:
        return [f"## {VERDICTS_TITLE}", reason]
    sections = [f"## {VERDICTS_TITLE}", VERDICTS_EXPLAINED]
    for evidence in verdict_evidence(outcome):
        sections += [f"### {evidence.title}", as_text(evidence.table, "github").strip()]
    return sections


def without_verdicts(outcome: Outcome) -> str:
    """Why there are no verdicts, in a sentence; empty where there are."""
    reason = why_no_verdict(outcome)
    return f"{reason[0].upper()}{reason[1:]} (`margins` in the suite's file)." if reason else ""


def verdict_evidence(outcome: Outcome) -> list[Evidence]:
    """What the verdicts on each metric rest on."""
    found = []
    for metric, margin in outcome.margins.items():
        verdicts = [verdict for verdict in judge(outcome, metric, margin) if verdict.decision != "reference"]
        better = "lower" if metric in outcome.lower_is_better else "higher"
        name = words(metric) if metric.isidentifier() else code(metric)
        title = f"{name}, {better} is better, margin {tolerance(metric, margin)}"
        found.append(Evidence(title, _verdict_table(outcome, metric, verdicts)))
    return found


def time_sections(outcome: Outcome) -> list[str]:
    """The time of each arm's step against the plain step, with intervals, in Markdown; nothing where nobody timed."""
    table = time_evidence(outcome)
    return [f"## {TIMES_TITLE}", as_text(table, "github").strip()] if table else []


def time_evidence(outcome: Outcome) -> Table | None:
    """The time of each arm's step against the plain step, with intervals; None where nobody timed."""
    cells = []
    for (arm, depth), group in outcome.groups.items():
        ratio = time_ratio(group)
        if ratio:
            known = ratio.low is not None and ratio.high is not None
            interval = f"{ratio.low:.3f} to {ratio.high:.3f}" if known else NOT_AVAILABLE
            cells.append([arm, str(depth), f"{ratio.value:.3f}", interval, told_over(ratio)])
    if not cells:
        return None
    sentences = [
        "time ratio: a step with the strategy over a plain one. Over seeds it is the geometric mean of their medians, "
        "with the t interval of the logarithms; within one process it is the median of the pairs, with an interval "
        "from their quartiles, which does not tell how much another process would differ.",
    ]
    if any(is_reference(cell.result.cell) for cell in outcome.cells if cell.result and cell.result.time):
        sentences.append(
            f"'{REFERENCE}' is the plain step timed against itself: how far it is from 1 is the noise of this clock."
        )
    headers = ["arm", "depth", "time ratio", "90 % interval", "over"]
    return Table(headers, cells, ("arm", "over"), sentences)


def _verdict_table(outcome: Outcome, metric: str, verdicts: Sequence[Verdict]) -> Table:
    headers = ["arm", "depth", "verdict", "pairs", "dropped", "mean difference", "SD", "smallest", "90 % interval"]
    headers += ["p", "Holm p", "exact p (floor)", "not worse", "correlation"]
    sentences = [
        f"{verdict.arm} at depth {verdict.depth}, {verdict.decision}: {note}."
        for verdict in verdicts
        if (note := verdict_note(verdict))
    ]
    return Table(
        headers,
        [_verdict_text(metric, verdict) for verdict in verdicts],
        ("arm", "verdict"),
        [*_families(outcome, verdicts), *sentences],
        tones={(row, 2): TONES[v.decision] for row, v in enumerate(verdicts) if v.decision in TONES},
    )


def _families(outcome: Outcome, verdicts: Sequence[Verdict]) -> list[str]:
    """How many comparisons each family has."""
    sizes = {verdict.workload: verdict.family for verdict in verdicts if verdict.test}
    if len(sizes) < 2:
        return [f"Holm's adjustment is over {counted(size, 'comparison')}." for size in sizes.values()]
    each = [f"{size} ({workload_label(outcome, workload)})" for workload, size in sizes.items()]
    return [f"Holm's adjustment is over the comparisons of each workload: {', '.join(each)}."]


def _verdict_text(metric: str, verdict: Verdict) -> list[str]:
    dropped = f"{verdict.dropped} ({verdict.failed} failed)" if verdict.failed else str(verdict.dropped)
    start = [verdict.arm, str(verdict.depth), verdict.decision, str(verdict.pairs), dropped]
    test = verdict.test
    if test is None:
        mean = difference(metric, verdict.mean) if verdict.pairs else NOT_AVAILABLE
        return [*start, mean, *[NOT_AVAILABLE] * 8]
    low, high = (difference(metric, end) for end in test.interval)
    tested = test.sd > 0  # else the differences are equal, and there is nothing that a test could go by
    return [
        *start,
        *(difference(metric, value) for value in (test.mean, test.sd, test.minimum)),
        f"{low} to {high}" if tested else NOT_AVAILABLE,
        figures(test.p_non_inferior) if tested else NOT_AVAILABLE,
        figures(verdict.adjusted_p) if tested else NOT_AVAILABLE,
        _exact(test),
        f"{test.not_worse}/{test.n}",
        NOT_AVAILABLE if verdict.correlation is None else f"{verdict.correlation:.2f}",
    ]


def _exact(test: PairedTest) -> str:
    if test.exact_p is None:
        return NOT_AVAILABLE
    return f"{figures(test.exact_p)} ({figures(test.exact_floor)}{'' if test.exact_can_pass else ', n too small'})"


def verdict_note(verdict: Verdict) -> str:
    """What is to be said beside a verdict's numbers, in a clause; empty where they say all."""
    notes = [verdict.note] if verdict.note else []
    if verdict.test and verdict.test.sd == 0:
        notes.append(f"all {verdict.test.n} differences are equal, so that their sign decides and nothing is tested")
    if verdict.decision == "inconclusive" and not verdict.failed:
        if verdict.seeds_needed is None:
            notes.append("at this SD a thousand seeds would be too few")
        else:
            notes.append(
                f"{verdict.seeds_needed} seeds would settle it with a probability of {100 * POWER:.0f} %, if the mean "
                "and the SD are as observed"
            )
    return "; ".join(notes)
