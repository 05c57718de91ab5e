"""One row a group of cells, by default an arm and depth: all seeds as a few raw numbers under stable names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from compbench.report.axes import Axes, cell_axes, check_axes, grouped, shown
from compbench.report.formats import as_csv as records_as_csv
from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.quantities import MOMENTS, QUANTITIES, STATISTIC, Number, Quantity, metric, moment, statistic
from compbench.report.wording import RATES
from compbench.run.result import CellResult, Status
from compbench.run.selection import matching

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
"""Of the CSV, which has the mean and standard deviation of further metrics behind them."""

STATUSES = get_args(Status)
"""The order in which statuses are counted."""

BY_DEFAULT = ("arm", "depth")
"""The axes of a row unless others are asked for; the arm is then told with the values of further axes."""


@dataclass(frozen=True)
class Sample:
    """A metric over seeds: its mean, and its standard deviation (n - 1), which one seed does not have."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Row:
    """The cells of a group. Numbers are over those whose status is ``ok``; None where there is no such number.

    Attributes:
        axes: what the cells of the row have in common, by the axes that rows are grouped by.
        arm: the arm, with the values of further axes if all cells have the same; empty where they are of several arms.
        depth: the depth, or the least of several.
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
    axes: Axes = field(default_factory=dict)

    def record(self, columns: Sequence[str] = COLUMNS) -> dict[str, Any]:
        """The raw numbers of some columns, in that order; None where there is none."""
        return {column: self.value(column) for column in columns}

    def value(self, column: str) -> Any:
        """The raw number under a column's name; None where there is none.

        That is an axis, ``arm``, ``depth``, ``status``, ``seeds``, ``cells`` or ``peak_phase``, the name of a figure or
        metric, or one of these with a moment such as ``solved_sd``.
        """
        if column in self.axes:
            return self.axes[column]
        if column in PLAIN:
            return len(ok_results(self.cells)) if column == "cells" else getattr(self, column)
        quantity, of = figure(column, metric_names([self]), statistic_names([self]))
        if quantity is None:
            return None
        results = ok_results(self.cells)
        return moment(quantity.values(results), of) if of else quantity.over(results)

    @property
    def name(self) -> str:
        """What the row is called in a sentence."""
        if tuple(self.axes) == BY_DEFAULT:
            return f"{self.arm} at depth {self.depth}"
        return ", ".join(f"{axis} {shown(value)}" for axis, value in self.axes.items())


PLAIN = ("arm", "depth", "status", "seeds", "cells", "peak_phase")
"""Columns that are no figures."""


def make_rows(outcome: Outcome, by: Sequence[str] = (), only: Sequence[str] = ()) -> list[Row]:
    """The rows of a suite's results: arms in the suite's order, numbers ascending. No planned cell is left out.

    Args:
        outcome: the suite's results.
        by: the axes by which cells are grouped (:func:`~.axes.cell_axes`); by default arm and depth, where the arm is
            told with the values of further axes.
        only: which cells, as in ``compbench run --only``.

    Raises:
        SettingsError: there is no such axis, or no such cell.
    """
    check_axes(by, cell_axes(outcome), "--by")
    kept = chosen_cells(outcome, only) if only else set(outcome.keys)
    return rows_of(outcome, [cell for cell in outcome.cells if cell.key in kept], by)


def rows_of(outcome: Outcome, cells: Sequence[PlannedCell], by: Sequence[str] = ()) -> list[Row]:
    """The rows of some of the planned cells, by axes that there are."""
    if by:
        return [_row(axes, found) for axes, found in grouped(outcome, by, cells)]
    kept = {cell.key for cell in cells}
    groups = [
        (dict(zip(BY_DEFAULT, group, strict=True)), tuple(cell for cell in found if cell.key in kept))
        for group, found in outcome.groups.items()
    ]
    return [_row(axes, found) for axes, found in groups if found]


def chosen_cells(outcome: Outcome, only: Sequence[str]) -> set[str]:
    """The keys of the planned cells that match patterns as in ``compbench run --only``.

    Raises:
        SettingsError: a pattern that is none, names an unknown axis or matches nothing.
    """
    axes = cell_axes(outcome)
    written = [{name: shown(value) for name, value in found.items()} for found in axes.values()]
    return {key for key, chosen in zip(axes, matching(written, only), strict=True) if chosen}


def csv_columns(rows: Iterable[Row]) -> list[str]:
    """:data:`COLUMNS`, and the mean and standard deviation of all other metrics of some rows."""
    known = {column.rpartition("_")[0] for column in COLUMNS}
    others = [name for name in metric_names(rows) if name not in known]
    return [*COLUMNS, *(f"{name}_{moment}" for name in others for moment in ("mean", "sd"))]


def as_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV: bytes are integers, fractions are not rounded, a number that is not there is left empty."""
    listed = list(rows)
    columns = csv_columns(listed)
    return records_as_csv(columns, [row.record(columns) for row in listed])


def metric_names(rows: Iterable[Row]) -> list[str]:
    """The held-out metrics of some rows: the well-known ones first, then in order of appearance.

    One that has the name of another column is passed over; :func:`~.remarks.remarks` tells of it.
    """
    names = (name for row in rows for result in ok_results(row.cells) for name in result.metrics)
    found = dict.fromkeys(name for name in names if name not in QUANTITIES and name not in PLAIN)
    return [name for name in RATES if name in found] + [name for name in found if name not in RATES]


def statistic_names(rows: Iterable[Row]) -> list[str]:
    """The columns of what strategies tell of themselves, sorted."""
    results = (result for row in rows for result in ok_results(row.cells))
    return sorted({STATISTIC + name for result in results for name in result.statistics})


def figure(
    column: str, metrics: Collection[str], statistics: Collection[str], judged: Collection[str] = ()
) -> tuple[Quantity | None, str]:
    """The figure of a column's name, and the moment that it asks for, or none and an empty text.

    Args:
        column: such as ``saved_bytes``, ``solved``, ``solved_sd`` or ``statistics.rank``.
        metrics: the names of metrics that there are; one that has the name of another figure can't be asked for.
        statistics: those of strategies' own figures, as :func:`statistic_names` has them.
        judged: metrics for which the suite has a margin.
    """
    base, _, ending = column.rpartition("_")
    for name, of in ((column, ""), *([(base, ending)] if ending in MOMENTS else [])):
        if name in QUANTITIES:
            return QUANTITIES[name], of
        if name in metrics:
            return metric(name, name in judged), of
        if name in statistics:
            return statistic(name.removeprefix(STATISTIC)), of
    return None, ""


def ok_results(cells: Iterable[PlannedCell]) -> list[CellResult]:
    """The records of the cells that ended well."""
    return [cell.result for cell in cells if cell.result is not None and cell.result.status == "ok"]


def _row(axes: Axes, cells: tuple[PlannedCell, ...]) -> Row:
    results = ok_results(cells)
    labels, depths = ({getattr(cell, name) for cell in cells} for name in ("arm", "depth"))
    peak = QUANTITIES["peak_delta_bytes"].over(results)
    memories = [result.memory for result in results if result.memory]
    figures: dict[str, Any] = {name: QUANTITIES[name].over(results) for name in _FIGURES}
    return Row(
        arm=axes.get("arm", next(iter(labels)) if len(labels) == 1 else ""),
        depth=min(depths),
        status=_status(cells),
        seeds=len({result.cell.seed for result in results}),
        peak_phase=next((memory.peak_phase for memory in memories if memory.peak_delta_bytes == peak), None),
        metrics=_metrics(results),
        cells=cells,
        axes=axes,
        **figures,
    )


_FIGURES = tuple(name for name in COLUMNS if name in QUANTITIES)


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
        values: list[Number] = metric(name).values(results)
        mean = moment(values, "mean")
        if mean is not None:
            samples[name] = Sample(mean, moment(values, "sd"))
    return samples
