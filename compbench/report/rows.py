"""One row an arm and depth: the cells of all seeds as a few raw numbers under stable names."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import numpy as np

from compbench.measure.results import PhaseName, Time
from compbench.report.outcome import Outcome, PlannedCell
from compbench.run.result import CellResult, Status

_T = TypeVar("_T")

COLUMNS = (
    "arm",
    "depth",
    "status",
    "seeds",
    "saved_bytes",
    "uncompressed_bytes",
    "saving",
    "peak_delta_bytes",
    "peak_phase",
    "time_ratio",
    "token_accuracy_mean",
    "token_accuracy_sd",
    "solved_mean",
    "solved_sd",
    "gradient_cosine",
    "forward_ratio",
    "backward_ratio",
    "update_share",
    "step_seconds",
    "uncompressed_step_seconds",
    "flops",
    "uncompressed_flops",
    "flop_ratio",
    "gflop_per_second",
    "uncompressed_gflop_per_second",
    "page_faults",
    "uncompressed_page_faults",
)

STATUSES = get_args(Status)
"""The order in which statuses are counted."""


@dataclass(frozen=True)
class Sample:
    """A metric over seeds: its mean, and its standard deviation (n - 1), which one seed does not have."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Row:
    """An arm at a depth. Numbers are over the seeds whose status is ``ok``; None where there is no such number.

    Attributes:
        status: ``ok`` when every seed that was run is, else a count by status such as ``ok 1, oom 1``; ``missing`` when
            none was.
        seeds: number of seeds that are ok.
        saved_bytes: median over seeds; of an even number of seeds the lower of the two in the middle, so that the
            figure is one that was measured. So are ``uncompressed_bytes`` and ``peak_delta_bytes``.
        saving: ``1 - saved_bytes / uncompressed_bytes``.
        peak_phase: the phase of the seed that has the median peak.
        time_ratio: median over seeds.
        gradient_cosine: mean over seeds, after the last training step.
        forward_ratio: the step's forward phase over that of an uncompressed step, median over seeds; None, as all that
            follows, where the records are older than such figures. So is ``backward_ratio``.
        update_share: the strategy's own end of step over the whole uncompressed step, median over seeds.
        step_seconds: median over seeds, as ``uncompressed_step_seconds``.
        flops: counted operations of a step, median over seeds and a measured number, as ``uncompressed_flops``.
        flop_ratio: counted operations of a step over those of an uncompressed one, median over seeds.
        gflop_per_second: counted operations over the seconds that the step took, in billions, median over seeds. So is
            ``uncompressed_gflop_per_second``.
        page_faults: minor page faults of a step, median over seeds, as ``uncompressed_page_faults``.
        metrics: every held-out metric by name.
        cells: the cells that the row stands for.
    """

    arm: str
    depth: int
    status: str
    seeds: int
    saved_bytes: int | None
    uncompressed_bytes: int | None
    saving: float | None
    peak_delta_bytes: int | None
    peak_phase: str | None
    time_ratio: float | None
    gradient_cosine: float | None
    forward_ratio: float | None
    backward_ratio: float | None
    update_share: float | None
    step_seconds: float | None
    uncompressed_step_seconds: float | None
    flops: int | None
    uncompressed_flops: int | None
    flop_ratio: float | None
    gflop_per_second: float | None
    uncompressed_gflop_per_second: float | None
    page_faults: int | None
    uncompressed_page_faults: int | None
    metrics: Mapping[str, Sample]
    cells: tuple[PlannedCell, ...]

    def record(self) -> dict[str, Any]:
        """The raw numbers by the CSV's column names, in the CSV's order; None where there is none."""
        values: dict[str, Any] = {}
        for column in COLUMNS:
            metric, _, moment = column.rpartition("_")
            if moment in ("mean", "sd"):
                sample = self.metrics.get(metric)
                values[column] = getattr(sample, moment) if sample else None
            else:
                values[column] = getattr(self, column)
        return values


def make_rows(outcome: Outcome) -> list[Row]:
    """The rows of a suite's results: arms in the suite's order, depths ascending. No planned cell is left out."""
    return [_row(arm, depth, cells) for (arm, depth), cells in outcome.groups.items()]


def as_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV: bytes are integers, fractions are not rounded, a number that is not there is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row.record())
    return text.getvalue()


def ok_results(cells: Iterable[PlannedCell]) -> list[CellResult]:
    """The records of the cells that ended well."""
    return [cell.result for cell in cells if cell.result is not None and cell.result.status == "ok"]


def _row(arm: str, depth: int, cells: tuple[PlannedCell, ...]) -> Row:
    results = ok_results(cells)
    memories = [result.memory for result in results if result.memory]
    saved = _known(statistics.median_low, [memory.saved_bytes for memory in memories])
    uncompressed = _known(statistics.median_low, [memory.uncompressed_bytes for memory in memories])
    peak = _known(statistics.median_low, [memory.peak_delta_bytes for memory in memories])
    return Row(
        arm=arm,
        depth=depth,
        status=_status(cells),
        seeds=len(results),
        saved_bytes=saved,
        uncompressed_bytes=uncompressed,
        saving=None if saved is None or not uncompressed else 1 - saved / uncompressed,
        peak_delta_bytes=peak,
        peak_phase=next((memory.peak_phase for memory in memories if memory.peak_delta_bytes == peak), None),
        time_ratio=_known(statistics.median, [result.time.ratio for result in results if result.time]),
        gradient_cosine=_known(_mean, [result.fidelity.gradient_cosine for result in results if result.fidelity]),
        **_time_figures([result.time for result in results if result.time]),
        **_flop_figures(results),
        metrics=_metrics(results),
        cells=cells,
    )


def _time_figures(times: Sequence[Time]) -> dict[str, Any]:
    """Where the time of a step goes; None in older records' stead."""
    phased = [time for time in times if time.phases]

    def ratios(phase: PhaseName) -> list[float]:
        return [ratio for time in phased if (ratio := time.phases[phase].ratio) is not None]

    return {
        "forward_ratio": _known(statistics.median, ratios("forward")),
        "backward_ratio": _known(statistics.median, ratios("backward")),
        "update_share": _known(
            statistics.median, [time.phases["update"].seconds / time.uncompressed_step_seconds for time in phased]
        ),
        "step_seconds": _known(statistics.median, [time.step_seconds for time in times]),
        "uncompressed_step_seconds": _known(statistics.median, [time.uncompressed_step_seconds for time in times]),
        "page_faults": _known(
            statistics.median_low, [time.page_faults for time in times if time.page_faults is not None]
        ),
        "uncompressed_page_faults": _known(
            statistics.median_low,
            [time.uncompressed_page_faults for time in times if time.uncompressed_page_faults is not None],
        ),
    }


def _flop_figures(results: Sequence[CellResult]) -> dict[str, Any]:
    """The arithmetic of a step, and how fast it was done."""
    counted = [result.arithmetic for result in results if result.arithmetic]
    timed = [(result.arithmetic, result.time) for result in results if result.arithmetic and result.time]
    return {
        "flops": _known(statistics.median_low, [found.flops.total for found in counted]),
        "uncompressed_flops": _known(statistics.median_low, [found.uncompressed_flops.total for found in counted]),
        "flop_ratio": _known(statistics.median, [found.ratio for found in counted if found.ratio is not None]),
        "gflop_per_second": _known(
            statistics.median, [found.flops.total / time.step_seconds / 1e9 for found, time in timed]
        ),
        "uncompressed_gflop_per_second": _known(
            statistics.median,
            [found.uncompressed_flops.total / time.uncompressed_step_seconds / 1e9 for found, time in timed],
        ),
    }


def _status(cells: Sequence[PlannedCell]) -> str:
    counts = Counter(cell.status for cell in cells if cell.result is not None)
    if not counts:
        return "missing"
    if set(counts) == {"ok"}:
        return "ok"
    return ", ".join(f"{status} {counts[status]}" for status in STATUSES if counts[status])


def _metrics(results: Sequence[CellResult]) -> dict[str, Sample]:
    names = dict.fromkeys(name for result in results for name in result.metrics)
    samples = {}
    for name in names:
        values = [result.metrics[name] for result in results if name in result.metrics]
        samples[name] = Sample(_mean(values), float(np.std(values, ddof=1)) if len(values) > 1 else None)
    return samples


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _known(measure: Callable[[list[_T]], _T], values: list[_T]) -> _T | None:
    return measure(values) if values else None
