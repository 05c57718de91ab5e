"""Numbers as a figure and its caption have them: bytes in one unit for all, rates in percent."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

from compbench.report.tables import RATES, figures, words

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


_HARMLESS = dict.fromkeys("\"'`", "\N{RIGHT SINGLE QUOTATION MARK}") | {"\\": "\N{SET MINUS}"}
_LONGEST_TITLE = 40


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
    return metric_unit(metric).of(f"held-out {in_title(metric)}")


def in_title(metric: str) -> str:
    """A metric in the title of an axis or a tooltip, of at most 40 characters.

    Vega-Lite writes titles into expressions without escaping them: what could end a string there is replaced.
    """
    text = "".join(_HARMLESS.get(character, character) for character in words(metric) if character.isprintable())
    return text if len(text) <= _LONGEST_TITLE else f"{text[: _LONGEST_TITLE - 1]}\N{HORIZONTAL ELLIPSIS}"


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no zeros behind them; what is rounding alone is 0."""
    text = f"{value:.{digits}g}" if abs(value) > 1e-7 else "0"
    return figures(value, digits) if "e" in text else text


def percent(share: float) -> str:
    """A share in percent; what is nearly nothing is not spelled out."""
    return f"{number(100 * share, 2)} %" if share >= 1e-4 else "below 0.01 %"


def listed(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def left_out(groups: Iterable[tuple[str, int]], drawn: Container[tuple[str, int]], what: str) -> list[str]:
    """Sentences on the arms and depths that a figure does not have.

    Args:
        groups: arms and depths of the suite.
        drawn: those that the figure has.
        what: what the others are without.
    """
    missing: dict[int, list[str]] = {}
    depths: dict[int, int] = {}
    for arm, depth in groups:
        depths[depth] = depths.get(depth, 0) + 1
        if (arm, depth) not in drawn:
            missing.setdefault(depth, []).append(arm)
    nothing = [str(depth) for depth in sorted(missing) if len(missing[depth]) == depths[depth]]
    sentences = [f"No arm has {what} at depth {listed(nothing)}."] if nothing else []
    return sentences + [
        f"Without {what} at depth {depth}: {listed(arms)}."
        for depth, arms in sorted(missing.items())
        if str(depth) not in nothing
    ]


def stem(name: str) -> str:
    """A name as part of a file's name, of at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", name).strip("-.")[:60] or "unnamed"
