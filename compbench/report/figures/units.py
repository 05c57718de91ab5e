"""Numbers as a figure and its caption have them: bytes in one unit for all, rates in percent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compbench.report.tables import RATES, figures, words

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


@dataclass(frozen=True)
class Unit:
    """What numbers are divided by before they are shown, and what they are then in; empty where they have no unit."""

    divisor: float
    name: str

    def of(self, quantity: str) -> str:
        """The title of an axis: the quantity, with its unit."""
        return f"{quantity} ({self.name})" if self.name else quantity


def bytes_unit(sizes: Iterable[float]) -> Unit:
    """The largest unit in which the largest of some sizes is at least one."""
    largest = max(sizes, default=0)
    return Unit(*next((pair for pair in _BYTES if largest >= pair[0]), _BYTES[-1]))


def metric_unit(metric: str) -> Unit:
    """Percent for rates, else the metric's own."""
    return Unit(0.01, "%") if metric in RATES else Unit(1.0, "")


def difference_in(metric: str) -> Unit:
    """Points for differences of rates, else the metric's own unit."""
    return Unit(0.01, "points") if metric in RATES else Unit(1.0, "")


def metric_title(metric: str) -> str:
    """The title of a metric's axis."""
    return metric_unit(metric).of(f"held-out {words(metric)}")


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no zeros behind them."""
    text = f"{value:.{digits}g}"
    return figures(value, digits) if "e" in text else text


def percent(share: float) -> str:
    """A share in percent; what is nearly nothing is not spelled out."""
    return f"{number(100 * share, 2)} %" if share >= 1e-4 else "below 0.01 %"


def listed(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
