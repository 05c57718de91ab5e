"""The time of an arm's step as a ratio to the plain step, with an interval, and over what that is."""

from __future__ import annotations

import math
from collections.abc import Iterable

from compbench.report.outcome import PlannedCell
from compbench.report.rows import ok_results
from compbench.report.statistics import Ratio, ratio_over_seeds, ratio_within_cell


def time_ratio(cells: Iterable[PlannedCell]) -> Ratio | None:
    """The ratio of an arm at a depth; None where nobody has timed it.

    Each cell has the median of its interleaved pairs of steps. Of several cells, which are of several seeds, the
    interval is over these; of one it is over its pairs.
    """
    times = [result.time for result in ok_results(cells) if result.time]
    times = [time for time in times if math.isfinite(time.ratio) and time.ratio > 0]
    if not times:
        return None
    if len(times) > 1:
        return ratio_over_seeds([time.ratio for time in times])
    (time,) = times
    return ratio_within_cell(time.ratio, time.ratio_quartiles, time.pairs)


def told_over(ratio: Ratio) -> str:
    """What a ratio's interval is over, such as ``5 seeds`` or ``9 pairs of steps in one process``."""
    return f"{ratio.n} seeds" if ratio.over == "seeds" else f"{ratio.n} pairs of steps in one process"
