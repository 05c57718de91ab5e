"""What a suite's results show, in sentences that are made from the numbers: one an arm and depth.

Names that others chose stand between backticks, and nothing in them is markup; all other words are this module's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compbench.report.amounts import amount, called, tolerance
from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.pairing import FAILED, is_reference, workload_label
from compbench.report.phrases import by_count, code, counted, listed
from compbench.report.rows import Row, make_rows, ok_results
from compbench.report.statistics import (
    FEWEST_PAIRS,
    PairedTest,
    Ratio,
    pooled_sd,
    seeds_needed,
    smallest_margin,
)
from compbench.report.tables import RATES, figures
from compbench.report.times import time_ratio
from compbench.report.verdicts import REFERENCE, Verdict, judge, why_no_verdict


def findings(outcome: Outcome) -> list[str]:
    """What the results show: first a paragraph on what these seeds can show at all, then a sentence an arm and depth.

    The reference has no sentence of its own, unless it failed; what has not been run is named in the last ones.
    """
    verdicts = {metric: judge(outcome, metric, margin) for metric, margin in outcome.margins.items()}
    rows = make_rows(outcome)
    shown = [row for row in rows if _has_been_run(row)]
    measured = _measured(outcome)
    of_row: dict[tuple[str, int], list[Verdict]] = {}
    for metric in verdicts:
        for verdict in verdicts[metric] if metric in measured else ():
            of_row.setdefault((verdict.arm, verdict.depth), []).append(verdict)
    found = [" ".join(_opening(outcome, verdicts, shown, measured))]
    found += [text for row in shown if (text := _of_row(row, of_row.get((row.arm, row.depth), [])))]
    return found + _not_run([row for row in rows if not _has_been_run(row)])


def _measured(outcome: Outcome) -> list[str]:
    """The metrics that any cell has, in order of appearance."""
    return [*dict.fromkeys(metric for result in outcome.results.values() for metric in result.metrics)]


# The opening


def _opening(
    outcome: Outcome, verdicts: Mapping[str, Sequence[Verdict]], shown: Sequence[Row], measured: Sequence[str]
) -> list[str]:
    sentences = []
    if not any(ok_results(row.cells) for row in shown):
        sentences.append("No cell ended well, so that there is nothing to compare.")
    elif all(_is_reference(row) for row in shown):
        sentences.append(f"Nothing but the reference `{REFERENCE}` has been run, so that there is nothing to compare.")
    elif not outcome.margins:
        reason = why_no_verdict(outcome)
        sentences.append(f"{reason[0].upper()}{reason[1:]}.")
    else:
        sentences.append(
            f"Every arm is compared with `{REFERENCE}` at the same depth, paired by seed; bounds are at 95 % for each "
            "comparison by itself, verdicts are adjusted for all comparisons of a workload."
        )
        sentences += _what_seeds_can_show(outcome, verdicts, measured)
    return sentences + _on_times(shown)


def _what_seeds_can_show(
    outcome: Outcome, verdicts: Mapping[str, Sequence[Verdict]], measured: Sequence[str]
) -> list[str]:
    """The smallest margin that these seeds could show, a sentence a metric and family."""
    sentences, untested = [], []
    for metric, found in verdicts.items():
        families: dict[str, list[PairedTest]] = {}
        for verdict in found:
            if verdict.test:
                families.setdefault(verdict.workload, []).append(verdict.test)
        sentences += [_power_of(outcome, metric, families, workload) for workload in families]
        if metric not in measured:
            there = f" (measured were: {', '.join(map(code, measured))})" if measured else ""
            sentences.append(f"Nobody measured {code(metric)}, for which the suite declares a margin{there}.")
        elif not families:
            untested.append((called(metric), max((verdict.pairs for verdict in found), default=0)))
    # Where there were pairs enough and still no test, each arm says why.
    few = [name for name, most in untested if most < FEWEST_PAIRS]
    if few:
        most = max(most for _, most in untested if most < FEWEST_PAIRS)
        pairs = f"more than {counted(most, 'pair')}" if most else "a pair"
        sentences.append(
            f"On {listed(few)} no arm has {pairs} of seeds with the reference, and {FEWEST_PAIRS} are the least from "
            "which anything can be told: these seeds show nothing, and how many would is not known before."
        )
    return sentences


def _power_of(outcome: Outcome, metric: str, families: Mapping[str, Sequence[PairedTest]], workload: str) -> str:
    tests, margin = families[workload], outcome.margins[metric]
    family, n = len(tests), max(test.n for test in tests)
    sd = pooled_sd(tests)
    of = f" of {code(workload_label(outcome, workload))}" if len(families) > 1 else ""
    among = "a single comparison" if family == 1 else f"{family} comparisons"
    start = f"On {called(metric)}{of} {counted(n, 'seed')} and {among}"
    if sd == 0:
        return f"{start} show every arm to differ by the same in all pairs."
    spread = f"whose paired differences have an SD of {amount(metric, sd)}"
    smallest = smallest_margin(n, sd, family)
    if smallest is None:
        return f"{start}, {spread}, can hardly show anything."
    alone = smallest_margin(n, sd)
    single = f" ({amount(metric, alone, 'up')} if there were only one)" if family > 1 and alone is not None else ""
    text = (
        f"{start}, {spread}, show non-inferiority with 80 % power within {amount(metric, smallest, 'up')} at best"
        f"{single}, if nothing is lost"
    )
    if smallest <= margin:
        return f"{text}: enough for the margin of {tolerance(metric, margin)}."
    needed = seeds_needed(margin, sd, family)
    seeds = "more than a thousand seeds" if needed is None else f"about {counted(needed, 'seed')}"
    return f"{text}: the margin of {tolerance(metric, margin)} would take {seeds}."


def _on_times(shown: Sequence[Row]) -> list[str]:
    """What times are, and how far this clock is from 1 where nothing differs."""
    ratios = [ratio for row in shown if not _is_reference(row) and (ratio := time_ratio(row.cells))]
    if not ratios:
        return []
    over = {ratio.over for ratio in ratios if ratio.low is not None}
    said = ["Times are ratios to the plain step in the same process"]
    if over:
        said.append(f", with 90 % intervals over {' or '.join(sorted(over, reverse=True))}")
    if "pairs" in over:
        said.append(" (of steps in the one process that there is, which do not tell how much another would differ)")
    own = [ratio.value for row in shown if _is_reference(row) and (ratio := time_ratio(row.cells))]
    if own:
        ends = sorted({f"{value:.2f}" for value in own})
        span = ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"
        said.append(f"; the plain step timed against itself gives {span}")
    return ["".join(said) + "."]


# An arm at a depth


def _of_row(row: Row, verdicts: Sequence[Verdict]) -> str:
    """The sentence on an arm at a depth; empty for a reference that ended well."""
    start = f"At depth {row.depth} {code(row.arm)}"
    ok = ok_results(row.cells)
    if not ok:
        return f"{start} has no result: {_without_result(row.cells)}."
    incomplete = _incomplete(row.cells)
    if _is_reference(row):
        return f"{start}, the reference, is incomplete: {incomplete}." if _failures(row.cells) else ""
    whose = f" ({incomplete})" if incomplete else ""
    clauses = [*_untested(verdicts), *(_clause(verdict, row.cells) for verdict in verdicts)]
    told = "; ".join(clause for clause in clauses if clause)
    return f"{start}{whose} {_costs(row)}{': ' if told else ''}{told}."


def _has_been_run(row: Row) -> bool:
    return any(cell.result for cell in row.cells)


def _is_reference(row: Row) -> bool:
    return any(cell.result and is_reference(cell.result.cell) for cell in row.cells)


def _failures(cells: Sequence[PlannedCell]) -> list[str]:
    return [cell.status for cell in cells if cell.status in FAILED]


def _without_result(cells: Sequence[PlannedCell]) -> str:
    failures = _failures(cells)
    what = f"{len(failures)} of {counted(len(cells), 'seed')} failed ({by_count(failures)})"
    missing = len(cells) - len(failures)
    return f"{what}, the others have not been run" if missing else what


def _incomplete(cells: Sequence[PlannedCell]) -> str:
    """What is lacking of the seeds that were planned, in a clause; empty where nothing is."""
    failures = _failures(cells)
    missing = sum(cell.result is None for cell in cells)
    parts = [f"{len(failures)} of {counted(len(cells), 'seed')} failed: {by_count(failures)}"] if failures else []
    parts += [f"{missing} of {counted(len(cells), 'seed')} not run"] if missing else []
    return ", ".join(parts)


def _costs(row: Row) -> str:
    """What it saves and how long its step takes, as a predicate."""
    ratio = time_ratio(row.cells)
    if row.saving is None:
        memory = "was not measured for memory"
        return f"{memory} and takes {_times(ratio)}" if ratio else f"{memory} and time"
    percent = f"{abs(100 * row.saving):.0f}"
    if percent == "0":
        memory = "saves nothing"
    elif row.saving > 0:
        memory = f"saves {_saved(row.saving)} %"
    else:
        memory = f"keeps {percent} % more"
    return f"{memory} at {_times(ratio)}" if ratio else f"{memory}, and its time was not measured"


def _saved(saving: float) -> str:
    """Percent without decimals, and with one where it would look like all."""
    return f"{100 * saving:.0f}" if saving < 0.985 else f"{int(1000 * saving) / 10:.1f}"


def _times(ratio: Ratio) -> str:
    text = f"{ratio.value:.2f} times the time"
    if ratio.low is None or ratio.high is None:
        return f"{text} (of {counted(ratio.n, 'seed')}, without an interval)" if ratio.over == "seeds" else text
    return f"{text} ({ratio.low:.2f} to {ratio.high:.2f} over {ratio.n} {ratio.over})"


# A verdict


def _untested(verdicts: Sequence[Verdict]) -> list[str]:
    """Why nothing can be said, a clause a reason with the metrics that it holds for."""
    few = [verdict for verdict in verdicts if not verdict.test and 0 < verdict.pairs < FEWEST_PAIRS]
    few = [verdict for verdict in few if verdict.decision == "not tested"]
    clauses = []
    if few:
        went = listed([_went(verdict.metric, verdict.mean or 0.0) for verdict in few])
        of = "its one pair" if few[0].pairs == 1 else f"its {few[0].pairs} pairs"
        clauses.append(f"no verdict, since {FEWEST_PAIRS} pairs are the least ({went}, in {of})")
    metrics: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if not verdict.test and verdict.decision != "reference" and verdict not in few:
            what = "not compared" if verdict.decision == "not paired" else "no verdict"
            metrics.setdefault((what, verdict.note), []).append(called(verdict.metric))
    return clauses + [f"{what} on {listed(names)}, since {note}" for (what, note), names in metrics.items()]


def _went(metric: str, mean: float) -> str:
    """Which way a mean went, as an observation."""
    if mean == 0:
        return f"equal on {called(metric)}"
    return f"{amount(metric, mean)} {'better' if mean > 0 else 'worse'} on {called(metric)}"


def _clause(verdict: Verdict, cells: Sequence[PlannedCell]) -> str:
    """The verdict on a metric; empty where nothing was tested."""
    if verdict.test is None:
        return ""
    if verdict.decision == "non-inferior":
        return _non_inferior(verdict, verdict.test)
    if verdict.decision == "degraded":
        return _degraded(verdict, verdict.test)
    return _inconclusive(verdict, verdict.test, cells)


def _non_inferior(verdict: Verdict, test: PairedTest) -> str:
    metric = verdict.metric
    text = f"non-inferior within {tolerance(metric, verdict.margin)} of {called(metric)}"
    if test.sd == 0:
        return f"{text} ({_in_every_pair(metric, test)})"
    if test.lower_bound >= 0:
        return f"{text} (loses nothing at 95 %)"
    most = f"at most {amount(metric, test.lower_bound, 'up')} at 95 %"
    if verdict.note:  # a loss that is shown, within the margin
        return f"{text} (it does lose: {amount(metric, test.mean)} on average, and {most})"
    return f"{text} (loses {most})"


def _in_every_pair(metric: str, test: PairedTest) -> str:
    pairs = f"in each of its {test.n} pairs, so that there is no spread to test by"
    if abs(test.mean) < 1e-12:
        return f"the same score {pairs}"
    return f"{amount(metric, test.mean)} {'better' if test.mean > 0 else 'worse'} {pairs}"


def _degraded(verdict: Verdict, test: PairedTest) -> str:
    metric = verdict.metric
    text = f"degraded by {amount(metric, test.mean)} of {called(metric)}"
    margin = tolerance(metric, verdict.margin)
    beyond = f"whether beyond the margin of {margin} is open"
    if verdict.beyond:
        beyond = f"beyond the margin of {margin}"
    elif test.lower_bound > -verdict.margin:
        beyond = f"at most {amount(metric, test.lower_bound, 'up')}, within the margin of {margin}"
    if verdict.failed and not verdict.beyond:
        beyond += f", and {counted(verdict.failed, 'seed')} failed"
    if test.sd == 0:
        return f"{text} ({_in_every_pair(metric, test)}; {beyond})"
    return f"{text} (at least {amount(metric, test.upper_bound, 'down')} at 95 %, {beyond})"


def _inconclusive(verdict: Verdict, test: PairedTest, cells: Sequence[PlannedCell]) -> str:
    metric = verdict.metric
    text = f"inconclusive on {called(metric)}"
    if verdict.failed:
        failures = _failures(cells)
        how = f" ({by_count(failures)})" if failures else ""
        return (
            f"{text}, since {verdict.failed} of {counted(len(cells), 'seed')} failed{how} and those that remain can't "
            f"show non-inferiority ({_open_loss(metric, test, 'they lose at most')} at 95 %)"
        )
    seeds = (
        "more than a thousand seeds would be needed to settle it"
        if verdict.seeds_needed is None
        else f"about {counted(verdict.seeds_needed, 'seed')} would settle it"
    )
    if test.lower_bound > -verdict.margin:
        p = figures(verdict.adjusted_p, 2)
        return (
            f"{text}: by itself it would pass ({_open_loss(metric, test)} at 95 %), but not among {verdict.family} "
            f"comparisons (p {p} after Holm); {seeds}"
        )
    return f"{text}: {counted(test.n, 'seed')} leave {_open_loss(metric, test, 'a loss of up to')} open; {seeds}"


def _open_loss(metric: str, test: PairedTest, most: str = "it loses at most") -> str:
    """The loss that a test leaves possible."""
    if metric in RATES and test.lower_bound <= -1:
        return "any loss"
    return f"{most} {amount(metric, min(test.lower_bound, 0.0), 'up')}"


# What there is nothing of


def _not_run(rows: Sequence[Row]) -> list[str]:
    """The arms that have not been run at all, a sentence a depth."""
    arms: dict[int, list[str]] = {}
    for row in rows:
        arms.setdefault(row.depth, []).append(code(row.arm))
    return [f"At depth {depth} nothing has been run of {listed(names)}." for depth, names in sorted(arms.items())]
