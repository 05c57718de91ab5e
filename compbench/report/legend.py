"""What the columns of a table are, in sentences under it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from compbench.report.axes import Axes, shown
from compbench.report.columns import VERDICT, Column, Spread
from compbench.report.outcome import Outcome
from compbench.report.rows import Row
from compbench.report.verdicts import REFERENCE, Decision
from compbench.report.wording import RATES, difference, difference_unit, words

_DECISIONS: dict[Decision, str] = {
    "non-inferior": "non-inferior: shown to lose less than the margin",
    "degraded": "degraded: shown to be worse",
    "inconclusive": "inconclusive: these seeds show neither, which is no evidence that nothing is lost",
    "not tested": "not tested: fewer than three pairs, or nothing to compare",
    "not paired": "not paired: the runs of a seed did not start alike, so they can't be compared",
}

_SPREADS: dict[Spread, str] = {
    "sd": "Mean ± standard deviation over seeds.",
    "interval": "Mean over seeds, and the 95 % t interval of the true mean, which knows no bounds of the metric.",
}

_CENTRES = {"median": "Median over seeds.", "measured median": "Median over seeds.", "mean": "Mean over seeds."}

_PHASES = {"forward_ratio", "backward_ratio", "update_share"}

_TOPICS = (
    (
        _PHASES,
        "time ratio: a step with the strategy over a plain one, without the optimiser; forward, backward: the same of "
        "these two phases alone; update: the strategy's own end of step, in percent of the plain step, which has none.",
    ),
    (
        {"step_seconds", "uncompressed_step_seconds"},
        "step, plain step: seconds of these in one process, interleaved. Medians over seeds, as all figures of time.",
    ),
    (
        {"flop_ratio", "gflop_per_second", "uncompressed_gflop_per_second"},
        "FLOP ratio: matrix products, convolutions and attention of a step over those of a plain one; GFLOP/s: how "
        "fast they were done, all else of the step included.",
    ),
    (
        {"page_faults", "uncompressed_page_faults"},
        "page faults: pages of memory that a step had to ask the system for; few where the allocator keeps its memory.",
    ),
)
"""Columns that belong together, and what they are."""

_TIME_RATIO = "time ratio: a step with the strategy over one without, interleaved in one process. Median over seeds."

_GRADIENT_COSINE = (
    "gradient cosine: all parameters' gradient against the exact one, on one held-out batch after the last training "
    "step. Mean over seeds."
)

_MOST_VALUES = 6


def legend(columns: Sequence[Column], divisor: float, unit: str, spread: Spread) -> list[str]:
    """What the columns show; columns that belong together have one sentence.

    Args:
        columns: those of the table.
        divisor: the bytes in the unit of sizes.
        unit: its name.
        spread: what stands beside the mean of a metric.
    """
    names = {column.name for column in columns}
    status = "status: ok when every seed that was run is; " if "status" in names else ""
    sentences = [f"{status}figures are over the seeds that are ok, and '-' is a figure that is not there."]
    sentences += _memory(names, f"1 {unit} is {divisor:,.0f} bytes" if divisor > 1 else "B is bytes")
    if "time_ratio" in names and not names & _PHASES:
        sentences.append(_TIME_RATIO)
    topics = [topic for topic in _TOPICS if names & topic[0]]
    sentences += [sentence for _, sentence in topics]
    metrics = [quantity for column in columns if (quantity := column.quantity) and column.spreads]
    sentences += [f"{q.title}: {q.meaning}. {_SPREADS[spread]}" for q in metrics if q.name in RATES]
    others = [quantity.title for quantity in metrics if quantity.name not in RATES]
    if others:
        sentences.append(f"{', '.join(others)}: over held-out examples. {_SPREADS[spread]}")
    if "gradient_cosine" in names:
        sentences.append(_GRADIENT_COSINE)
    told = {"saved_bytes", "saving", "peak_delta_bytes", "time_ratio", "gradient_cosine"}
    told = told.union(*(topic[0] for topic in topics))
    return sentences + _others([c for c in columns if c.quantity and not c.spreads and c.name not in told])


def verdict_legend(outcome: Outcome, columns: Sequence[Column], occurring: Collection[Decision | None]) -> list[str]:
    """What the verdicts of a table say.

    Args:
        outcome: with the margins.
        columns: those of the table; nothing is said where none has verdicts.
        occurring: the decisions that are to be explained; None where a row has none.
    """
    judged = [column.name.removesuffix(VERDICT) for column in columns if column.name.endswith(VERDICT)]
    if not judged:
        return []
    margins = [
        f"{difference(metric, margin)}{difference_unit(metric)} of {words(metric)}"
        for metric, margin in outcome.margins.items()
        if metric in judged
    ]
    none = ["verdicts are of an arm at a depth, over all its seeds: rows of other cells have none."]
    return [
        f"verdict: against '{REFERENCE}' at the same depth, paired by seed, at a tolerable loss of "
        f"{' and '.join(margins)} (one-sided paired t test at 5 %, Holm over all arms and depths of a workload that "
        "are tested).",
        *(f"{sentence}." for decision, sentence in _DECISIONS.items() if decision in occurring),
        *(none if None in occurring else []),
    ]


def grouping_legend(rows: Sequence[Row], axes: Mapping[str, Axes], varied: Sequence[str]) -> list[str]:
    """In what cells of one row differ beside their seed, where they do.

    Args:
        rows: those of the table.
        axes: the axes of every cell, by its key.
        varied: the axes that are looked at.
    """
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for axis in varied:
            values = dict.fromkeys(shown(axes[cell.key].get(axis)) for cell in row.cells if cell.result)
            if len(values) > 1:
                found.setdefault(axis, {}).update(values)
    if not found:
        return []
    told = ", ".join(f"{axis} ({_few(list(values))})" for axis, values in found.items())
    return [f"rows stand for cells that differ in {told}: each figure is over all of them, and so is its spread."]


def _memory(names: set[str], size: str) -> list[str]:
    sentences = []
    saved = "saved: what is held for the backward pass at its most in a step, every storage once"
    saving = "saving: the share of the same step's without the strategy that is not held"
    if {"saved_bytes", "saving"} <= names:
        sentences.append(f"{saved} ({size}); {saving}. Medians over seeds.")
    elif "saved_bytes" in names:
        sentences.append(f"{saved} ({size}). Median over seeds.")
    elif "saving" in names:
        sentences.append(f"{saving}. Median over seeds.")
    if "peak_delta_bytes" in names:
        phase = (
            ", and the phase of the step in which it falls (update is the strategy's own end of step)"
            if "peak_phase" in names
            else ""
        )
        sentences.append(
            f"peak delta: highest live memory of a step beyond the static state of plain training{phase}. Median over "
            "seeds."
        )
    return sentences


def _others(columns: Sequence[Column]) -> list[str]:
    """What figures are that no other sentence tells of, and their moments."""
    usual = {column.quantity.name for column in columns if column.quantity and not column.moment}
    told: dict[str, str] = {}
    for column in columns:
        if quantity := column.quantity:
            centre = f" {_CENTRES[quantity.centre]}" if quantity.name in usual else ""
            told.setdefault(quantity.name, f"{quantity.title}: {quantity.meaning}.{centre}")
    sentences = list(told.values())
    moments = {column.moment for column in columns if column.moment}
    clauses = [
        clause
        for names, clause in (
            (("sd",), "SD: standard deviation over seeds"),
            (("low", "high"), "95 % low, high: the t interval of the true mean"),
            (("min", "max"), "min, max: over seeds"),
            (("mean", "median"), "mean, median: over seeds"),
        )
        if moments & set(names)
    ]
    return [*sentences, *([f"{'; '.join(clauses)}."] if clauses else [])]


def _few(values: Sequence[str]) -> str:
    more = len(values) - _MOST_VALUES
    return ", ".join(values[:_MOST_VALUES]) + (f" and {more} more" if more > 0 else "")
