"""Which held-out metrics figures are about."""

from __future__ import annotations

import math
from collections.abc import Iterable

from compbench.report.outcome import Outcome
from compbench.report.rows import Row, ok_results
from compbench.report.tables import metric_names


def finite(values: Iterable[float | None]) -> list[float]:
    """Those of some figures that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def measured(outcome: Outcome, metric: str) -> bool:
    """Whether a cell that ended well has a metric, as a number."""
    return bool(finite(result.metrics.get(metric) for result in ok_results(outcome.cells)))


def main_metric(outcome: Outcome, rows: Iterable[Row]) -> str | None:
    """The metric by which arms are told better or worse: the first that has a margin, else the first that was measured.

    None where there is no number of any.
    """
    names = dict.fromkeys([*outcome.margins, *metric_names(rows)])
    return next((name for name in names if measured(outcome, name)), None)
