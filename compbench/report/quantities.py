"""What can be read off a cell's record: each figure with its name, its unit, and which way is better."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from compbench.measure.results import PhaseName
from compbench.report.wording import RATES, words
from compbench.run.result import CellResult

Number = int | float

Unit = Literal["bytes", "share", "ratio", "milliseconds", "seconds", "count", "operations", "cosine", "rate", "number"]
"""``share`` and ``rate`` are fractions that are shown in percent, with one decimal and with two."""

Kind = Literal["memory", "time", "arithmetic", "quality"]
"""What a figure depends on: memory and arithmetic on the settings, time on the machine too, quality on the training."""

Better = Literal["less", "more"]

Centre = Literal["median", "measured median", "mean"]
"""What stands for several cells; the measured median of an even number is the lower of the two in the middle."""

MOMENTS = ("mean", "median", "sd", "low", "high", "min", "max")
"""What a name may end in: of a figure ``time_ratio`` there are also ``time_ratio_sd``, ``time_ratio_min`` and so on."""

STATISTIC = "statistics."
"""How the names of the strategies' own figures begin."""

CONFIDENCE = 0.95
"""Of the intervals ``low`` to ``high``."""


@dataclass(frozen=True)
class Quantity:
    """One figure of a cell.

    Attributes:
        name: as in the CSV.
        of: the figure of a record; None where it was not measured.
        title: what people call it, without the unit.
        meaning: what it is, in a clause.
        against_plain: whether it compares the strategy's step with the plain one, so that the reference's own is not
            its merit.
    """

    name: str
    of: Callable[[CellResult], Number | None]
    unit: Unit
    kind: Kind
    centre: Centre
    title: str
    meaning: str
    better: Better | None = None
    against_plain: bool = False

    def values(self, results: Iterable[CellResult]) -> list[Number]:
        """The figures of those records that have it."""
        return [value for result in results if (value := self.of(result)) is not None]

    def over(self, results: Iterable[CellResult]) -> Number | None:
        """What stands for several records; None where none has the figure, or where one is no finite number."""
        if self.name == "saving":  # of the medians, so that a row's three figures agree
            saved, plain = (QUANTITIES[name].over(results) for name in ("saved_bytes", "uncompressed_bytes"))
            return None if saved is None or not plain else 1 - saved / plain
        return central(self.values(results), self.centre)


def central(values: Sequence[Number], centre: Centre) -> Number | None:
    """The centre of some figures; None where there is none, or one of them is no finite number."""
    if not values or not all(map(math.isfinite, values)):
        return None
    if centre == "mean":
        return float(np.mean(values))
    return statistics.median_low(values) if centre == "measured median" else float(statistics.median(values))


def moment(values: Sequence[Number], name: str) -> Number | None:
    """One of :data:`MOMENTS`; None where so few figures have none. ``low`` and ``high`` are :func:`interval`'s."""
    if name in ("mean", "median"):
        return central(values, "mean" if name == "mean" else "median")
    if central(values, "mean") is None:
        return None
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    if len(values) < 2:
        return None
    if name == "sd":
        return float(np.std(values, ddof=1))
    low, high = interval(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))
    return low if name == "low" else high


def interval(mean: float, sd: float, n: int) -> tuple[float, float]:
    """The two-sided 95 % t interval of a true mean, from ``n`` values, at least two."""
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
    return mean - half, mean + half


def metric(name: str, judged: bool = False) -> Quantity:
    """A held-out metric.

    Args:
        name: its name.
        judged: whether the suite has a margin for it, which says that higher is better.
    """
    better: Better | None = "more" if judged or name in RATES else None
    unit: Unit = "rate" if name in RATES else "number"
    meaning = _METRICS.get(name, "over held-out examples")
    return Quantity(name, lambda r: r.metrics.get(name), unit, "quality", "mean", words(name), meaning, better)


def statistic(name: str) -> Quantity:
    """One of the figures that strategies tell of themselves, by its name without :data:`STATISTIC`."""
    meaning = "what the strategy tells of itself after training, over its sites"
    return Quantity(
        STATISTIC + name, lambda r: r.statistics.get(name), "number", "quality", "mean", words(name), meaning
    )


_METRICS = {
    "token_accuracy": "held-out tokens that are right",
    "solved": "held-out examples with every token right",
}


def _phase(name: PhaseName) -> Callable[[CellResult], float | None]:
    return lambda r: r.time.phases[name].ratio if r.time and r.time.phases else None


def _update(result: CellResult) -> float | None:
    time = result.time
    if time is None or not time.phases or not time.uncompressed_step_seconds:
        return None
    return time.phases["update"].seconds / time.uncompressed_step_seconds


def _saving(result: CellResult) -> float | None:
    memory = result.memory
    return 1 - memory.saved_bytes / memory.uncompressed_bytes if memory and memory.uncompressed_bytes else None


def _speed(result: CellResult) -> float | None:
    """Billions of operations in a second of the strategy's step."""
    if result.arithmetic is None or result.time is None or not result.time.step_seconds:
        return None
    return result.arithmetic.flops.total / result.time.step_seconds / 1e9


def _plain_speed(result: CellResult) -> float | None:
    if result.arithmetic is None or result.time is None or not result.time.uncompressed_step_seconds:
        return None
    return result.arithmetic.uncompressed_flops.total / result.time.uncompressed_step_seconds / 1e9


def _memory(name: str, title: str, meaning: str, better: Better | None = None) -> Quantity:
    def of(result: CellResult) -> int | None:
        found: int | None = getattr(result.memory, name, None)
        return found

    return Quantity(name, of, "bytes", "memory", "measured median", title, meaning, better)


def _time(
    name: str,
    of: Callable[[CellResult], Number | None],
    title: str,
    meaning: str,
    unit: Unit = "ratio",
    centre: Centre = "median",
    better: Better | None = "less",
    against_plain: bool = False,
) -> Quantity:
    return Quantity(name, of, unit, "time", centre, title, meaning, better, against_plain)


QUANTITIES: Mapping[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        _memory("saved_bytes", "saved", "held for the backward pass at its most in a step, every storage once", "less"),
        _memory("uncompressed_bytes", "plain saved", "what the same step without the strategy holds"),
        Quantity(
            "saving",
            _saving,
            "share",
            "memory",
            "median",
            "saving",
            "the share of the same step's without the strategy that is not held",
            "more",
            against_plain=True,
        ),
        _memory(
            "peak_delta_bytes",
            "peak delta",
            "highest live memory of a step beyond the static state of plain training",
            "less",
        ),
        _memory("uncompressed_peak_delta_bytes", "plain peak delta", "the same of a step without the strategy"),
        _memory(
            "training_peak_saved_bytes",
            "most saved in training",
            "the most held for the backward pass in any training step, calibration included",
            "less",
        ),
        _memory("state_bytes", "state", "what the strategy holds between steps: bases, accumulators", "less"),
        _memory(
            "allocator_peak_delta_bytes",
            "allocator peak delta",
            "CUDA's allocator at its peak, over the static state",
            "less",
        ),
        _memory("process_peak_bytes", "process peak", "resident set or reserved memory at its highest; no measure"),
        _time(
            "time_ratio",
            lambda r: r.time.ratio if r.time else None,
            "time ratio",
            "a step with the strategy over one without, interleaved in one process",
            against_plain=True,
        ),
        _time(
            "forward_ratio",
            _phase("forward"),
            "forward",
            "the same of the forward phase",
            against_plain=True,
        ),
        _time(
            "backward_ratio",
            _phase("backward"),
            "backward",
            "the same of the backward phase",
            against_plain=True,
        ),
        _time(
            "update_share",
            _update,
            "update",
            "the strategy's own end of step over the plain step",
            "share",
            against_plain=True,
        ),
        _time(
            "step_seconds",
            lambda r: r.time.step_seconds if r.time else None,
            "step",
            "a step with the strategy",
            "milliseconds",
        ),
        _time(
            "uncompressed_step_seconds",
            lambda r: r.time.uncompressed_step_seconds if r.time else None,
            "plain step",
            "a step without it in the same process",
            "milliseconds",
            better=None,
        ),
        _time(
            "page_faults",
            lambda r: r.time.page_faults if r.time else None,
            "page faults",
            "pages of memory that a step had to ask the system for",
            "count",
            "measured median",
            better=None,
        ),
        _time(
            "uncompressed_page_faults",
            lambda r: r.time.uncompressed_page_faults if r.time else None,
            "plain page faults",
            "the same of a plain step",
            "count",
            "measured median",
            better=None,
        ),
        _time(
            "gflop_per_second",
            _speed,
            "GFLOP/s",
            "how fast a step's operations were done, all else of the step included",
            "number",
            better=None,
        ),
        _time(
            "uncompressed_gflop_per_second",
            _plain_speed,
            "plain GFLOP/s",
            "the same of a plain step",
            "number",
            better=None,
        ),
        _time("seconds", lambda r: r.seconds, "cell s", "of the cell's whole process", "seconds", better=None),
        Quantity(
            "flops",
            lambda r: r.arithmetic.flops.total if r.arithmetic else None,
            "operations",
            "arithmetic",
            "measured median",
            "GFLOP",
            "matrix products, convolutions and attention of a step",
            "less",
        ),
        Quantity(
            "uncompressed_flops",
            lambda r: r.arithmetic.uncompressed_flops.total if r.arithmetic else None,
            "operations",
            "arithmetic",
            "measured median",
            "plain GFLOP",
            "the same of a plain step",
        ),
        Quantity(
            "flop_ratio",
            lambda r: r.arithmetic.ratio if r.arithmetic else None,
            "ratio",
            "arithmetic",
            "median",
            "FLOP ratio",
            "operations of a step over those of a plain one",
            "less",
            against_plain=True,
        ),
        Quantity(
            "parameters",
            lambda r: r.parameters or None,
            "count",
            "arithmetic",
            "measured median",
            "parameters",
            "weights of the model",
        ),
        Quantity(
            "gradient_cosine",
            lambda r: r.fidelity.gradient_cosine if r.fidelity else None,
            "cosine",
            "quality",
            "mean",
            "gradient cosine",
            "all parameters' gradient against the exact one, after the last training step",
            "more",
            against_plain=True,
        ),
        Quantity(
            "gradient_cosine_start",
            lambda r: r.fidelity.gradient_cosine_start if r.fidelity else None,
            "cosine",
            "quality",
            "mean",
            "gradient cosine at the start",
            "the same after the third training step",
            "more",
            against_plain=True,
        ),
        Quantity(
            "smallest_parameter_cosine",
            lambda r: r.fidelity.smallest_parameter_cosine if r.fidelity else None,
            "cosine",
            "quality",
            "mean",
            "smallest cosine",
            "the gradient cosine of the parameter that fares worst",
            "more",
            against_plain=True,
        ),
        Quantity(
            "final_loss",
            lambda r: r.loss_curve[-1] if r.loss_curve else None,
            "number",
            "quality",
            "mean",
            "final loss",
            "the training loss of the last step",
            "less",
        ),
    )
}
"""The figures that every workload has, by name."""
