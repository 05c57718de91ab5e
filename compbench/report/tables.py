"""The table for people: rows as text in several formats, with sentences that say what is what."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from compbench.errors import PluginError, one_line
from compbench.records import Reporter
from compbench.report.outcome import Outcome
from compbench.report.remarks import joining_remarks, remarks
from compbench.report.rows import Row, Sample, as_csv, make_rows
from compbench.report.verdicts import REFERENCE, Decision, Verdict, judge

FORMATS = ("github", "latex_booktabs", "html", "csv")
"""The formats that need no plugin."""

RATES = ("token_accuracy", "solved")
"""Metrics that are fractions of what could be right: shown in percent, and their differences in points."""

TERMINAL = "simple"
"""The layout for a terminal: headers are broken into short lines, so that a row fits on one."""

NOT_AVAILABLE = "-"

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_NARROW = 10

_DECISIONS: dict[Decision, str] = {
    "non-inferior": "non-inferior: shown to lose less than the margin",
    "degraded": "degraded: shown to be worse",
    "inconclusive": "inconclusive: these seeds show neither, which is no evidence that nothing is lost",
    "not tested": "not tested: fewer than three pairs, or nothing to compare",
    "not paired": "not paired: the runs of a seed did not start alike, so they can't be compared",
}


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        headers: names of the columns.
        cells: one list of strings a row, as long as ``headers``.
        words: the columns that hold words and are set flush left; numbers are set flush right.
        sentences: what stands under it.
    """

    headers: Sequence[str]
    cells: Sequence[Sequence[str]]
    words: Sequence[str]
    sentences: Sequence[str] = ()


def render(outcome: Outcome, layout: str, times: bool = False) -> str:
    """The table of a suite's results in one of :data:`FORMATS`, or that of its times; CSV has the figures of both."""
    if layout == "csv":
        return as_csv(make_rows(outcome))
    return as_text(times_table(outcome) if times else results_table(outcome), layout)


def results_table(outcome: Outcome) -> Table:
    """A row an arm and depth, with a verdict for every metric that has a margin.

    Arms and depths of which nothing has been run yet are named in a sentence instead.
    """
    rows = make_rows(outcome)
    shown = [row for row in rows if any(cell.result for cell in row.cells)]
    verdicts = {metric: judge(outcome, metric, margin) for metric, margin in outcome.margins.items()}
    metrics = metric_names(shown)
    sizes = [size for row in shown for size in (row.saved_bytes, row.peak_delta_bytes) if size is not None]
    divisor, unit = next((pair for pair in _UNITS if max(sizes, default=0) >= pair[0]), _UNITS[-1])
    judged = [f"{words(metric)} verdict" for metric in verdicts]
    headers = ["arm", "depth", "status", "seeds", f"saved {unit}", "saving %", f"peak delta {unit}", "peak phase"]
    headers += ["time ratio", *map(_metric_header, metrics), "gradient cosine", *judged]
    decisions = {(v.metric, v.arm, v.depth): v.decision for found in verdicts.values() for v in found}
    cells = [
        [*_row_text(row, metrics, divisor), *(decisions[metric, row.arm, row.depth] for metric in verdicts)]
        for row in shown
    ]
    found = [verdict for metric in verdicts for verdict in verdicts[metric]]
    sentences = [*_legend(metrics, divisor, unit), *_verdict_legend(outcome, found), *remarks(rows, shown)]
    sentences += joining_remarks(outcome)
    return Table(headers, cells, ("arm", "status", "peak phase", *judged), sentences)


def times_table(outcome: Outcome) -> Table:
    """A row an arm and depth: where the time of a step goes, and what arithmetic it is for."""
    shown = [row for row in make_rows(outcome) if any(cell.result for cell in row.cells)]
    headers = ["arm", "depth", "time ratio", "forward", "backward", "update %", "step ms", "plain step ms"]
    headers += ["FLOP ratio", "GFLOP/s", "plain GFLOP/s", "page faults", "plain page faults"]
    sentences = [
        "time ratio: a step with the strategy over a plain one, without the optimiser; forward, backward: the same of "
        "these two phases alone; update: the strategy's own end of step, in percent of the plain step, which has none.",
        "step, plain step: seconds of these in one process, interleaved; figures are medians over seeds, and '-' is a "
        "figure that is not there.",
        "FLOP ratio: matrix products, convolutions and attention of a step over those of a plain one; GFLOP/s: how "
        "fast they were done, all else of the step included.",
        "page faults: pages of memory that a step had to ask the system for; few where the allocator keeps its memory.",
    ]
    return Table(headers, [_times_text(row) for row in shown], ("arm",), sentences)


def render_with(reporter: Reporter, outcome: Outcome) -> str:
    """The rows of a suite's results as a plugin's format has them.

    Raises:
        PluginError: the reporter raises, or returns something other than text.
    """
    return render_records_with(reporter, [row.record() for row in make_rows(outcome)])


def render_records_with(reporter: Reporter, records: Sequence[Mapping[str, Any]]) -> str:
    """Raw numbers by the CSV's column names, one record a row, as a plugin's format has them.

    Raises:
        PluginError: the reporter raises, or returns something other than text.
    """
    try:
        text = reporter.render(records)
    except Exception as error:
        raise PluginError(f"reporter '{reporter.name}' raised {one_line(error)}") from error
    if not isinstance(text, str):
        raise PluginError(f"reporter '{reporter.name}' returned {type(text).__name__} (allowed: str)")
    return text


def as_text(table: Table, layout: str) -> str:
    """A table and its sentences; in LaTeX these are comments, for a caption to be made of.

    Args:
        table: what to show.
        layout: ``github``, ``latex_booktabs``, ``html`` or :data:`TERMINAL`.
    """
    cells, headers = table.cells, table.headers
    if layout == "github":
        cells = [[_markdown(text) for text in row] for row in cells]
        headers = [_markdown(text) for text in headers]
    if layout == TERMINAL:
        headers = ["\n".join(textwrap.wrap(header, _NARROW)) for header in headers]
    text = tabulate(
        cells,
        headers=headers,
        tablefmt=layout,
        disable_numparse=True,
        colalign=["left" if header in table.words else "right" for header in table.headers] if cells else None,
    )
    if layout == "latex_booktabs":
        lines = [f"% {sentence}" for sentence in table.sentences]
        return "\n".join([text.replace("±", r"$\pm$"), *lines]) + "\n"
    if layout == "html":
        items = [f"<li>{html.escape(sentence)}</li>" for sentence in table.sentences]
        return "\n".join([text, "<ul>", *items, "</ul>"] if items else [text]) + "\n"
    items = [f"- {sentence}" for sentence in table.sentences]
    return "\n".join([text, "", *items] if items else [text]) + "\n"


def metric_names(rows: Iterable[Row]) -> list[str]:
    """The held-out metrics of some rows: the well-known ones first, then in order of appearance."""
    found = dict.fromkeys(name for row in rows for name in row.metrics)
    return [name for name in RATES if name in found] + [name for name in found if name not in RATES]


def words(name: str) -> str:
    """A name as it reads in a sentence."""
    return name.replace("_", " ")


def figures(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent unless it is tiny."""
    if value is None:
        return NOT_AVAILABLE
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:.{digits - 1}e}" if magnitude < -4 else f"{value:.{max(0, digits - 1 - magnitude)}f}"


def difference(metric: str, value: float | None) -> str:
    """A difference of a metric: in percentage points for a rate, else in the metric's own unit."""
    if value is None:
        return NOT_AVAILABLE
    return f"{100 * value:.2f}" if metric in RATES else figures(value)


def difference_unit(metric: str) -> str:
    """What :func:`difference` counts in, with a space before it, or nothing."""
    return " points" if metric in RATES else ""


def _row_text(row: Row, metrics: Sequence[str], divisor: float) -> list[str]:
    return [
        row.arm,
        str(row.depth),
        row.status,
        str(row.seeds),
        figures(None if row.saved_bytes is None else row.saved_bytes / divisor),
        NOT_AVAILABLE if row.saving is None else f"{100 * row.saving:.1f}",
        figures(None if row.peak_delta_bytes is None else row.peak_delta_bytes / divisor),
        row.peak_phase or NOT_AVAILABLE,
        _fixed(row.time_ratio, 2),
        *(_sample(metric, row.metrics.get(metric)) for metric in metrics),
        _cosine(row.gradient_cosine),
    ]


def _times_text(row: Row) -> list[str]:
    ratios = (row.time_ratio, row.forward_ratio, row.backward_ratio)
    share = None if row.update_share is None else 100 * row.update_share
    milliseconds = [None if s is None else 1000 * s for s in (row.step_seconds, row.uncompressed_step_seconds)]
    rates = (row.gflop_per_second, row.uncompressed_gflop_per_second)
    return [
        row.arm,
        str(row.depth),
        *(_fixed(ratio, 2) for ratio in ratios),
        _fixed(share, 1),
        *map(figures, milliseconds),
        _fixed(row.flop_ratio, 2),
        *map(figures, rates),
        *(NOT_AVAILABLE if n is None else f"{n:,}" for n in (row.page_faults, row.uncompressed_page_faults)),
    ]


def _fixed(value: float | None, decimals: int) -> str:
    return NOT_AVAILABLE if value is None else f"{value:.{decimals}f}"


def _metric_header(metric: str) -> str:
    return f"{words(metric)} %" if metric in RATES else words(metric)


def _sample(metric: str, sample: Sample | None) -> str:
    if sample is None:
        return NOT_AVAILABLE
    moments = [moment for moment in (sample.mean, sample.sd) if moment is not None]
    return " ± ".join(f"{100 * moment:.2f}" if metric in RATES else figures(moment) for moment in moments)


def _cosine(value: float | None) -> str:
    """Four decimals; what is not quite 1 does not look as if it were."""
    if value is None:
        return NOT_AVAILABLE
    return ">0.9999" if 0.99995 <= value < 1 else f"{value:.4f}"


def _markdown(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", r"\<")


def _legend(metrics: Sequence[str], divisor: float, unit: str) -> list[str]:
    size = f"1 {unit} is {divisor:,.0f} bytes" if divisor > 1 else "B is bytes"
    sentences = [
        "status: ok when every seed that was run is; figures are over the seeds that are ok, and '-' is a figure that "
        "is not there.",
        f"saved: what is held for the backward pass at its most in a step, every storage once ({size}); "
        "saving: the share of the same step's without the strategy that is not held. Medians over seeds.",
        "peak delta: highest live memory of a step beyond the static state of plain training, and the phase of the "
        "step in which it falls (update is the strategy's own end of step). Median over seeds.",
        "time ratio: a step with the strategy over one without, interleaved in one process. Median over seeds.",
    ]
    if "token_accuracy" in metrics:
        sentences.append("token accuracy: held-out tokens that are right. Mean ± standard deviation over seeds.")
    if "solved" in metrics:
        sentences.append("solved: held-out examples with every token right. Mean ± standard deviation over seeds.")
    others = [words(metric) for metric in metrics if metric not in RATES]
    if others:
        sentences.append(f"{', '.join(others)}: over held-out examples. Mean ± standard deviation over seeds.")
    sentences.append(
        "gradient cosine: all parameters' gradient against the exact one, on one held-out batch after the last "
        "training step. Mean over seeds."
    )
    return sentences


def _verdict_legend(outcome: Outcome, verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    margins = [
        f"{difference(metric, margin)}{difference_unit(metric)} of {words(metric)}"
        for metric, margin in outcome.margins.items()
    ]
    occurring = {verdict.decision for verdict in verdicts}
    return [
        f"verdict: against '{REFERENCE}' at the same depth, paired by seed, at a tolerable loss of "
        f"{' and '.join(margins)} (one-sided paired t test at 5 %, Holm over all arms and depths that are tested).",
        *(f"{sentence}." for decision, sentence in _DECISIONS.items() if decision in occurring),
    ]
