"""Names and numbers as people read them."""

from __future__ import annotations

import math
from typing import TypeGuard

from compbench.report.formats.table import ABSENT

RATES = ("token_accuracy", "solved")
"""Metrics that are fractions of what could be right: shown in percent, and their differences in points."""

NOT_AVAILABLE = ABSENT
"""What stands where there is no figure."""

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def is_there(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show: neither none, nor one that is not finite."""
    return value is not None and math.isfinite(value)


def words(name: str) -> str:
    """A name as it reads in a sentence."""
    return name.replace("_", " ")


def figures(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent unless it is tiny."""
    if not is_there(value):
        return NOT_AVAILABLE
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:.{digits - 1}e}" if magnitude < -4 else f"{value:.{max(0, digits - 1 - magnitude)}f}"


def fixed(value: float | None, decimals: int) -> str:
    """A number with so many decimals; what is rounded to zero has no sign."""
    if not is_there(value):
        return NOT_AVAILABLE
    text = f"{value:.{decimals}f}"
    return text if float(text) else text.removeprefix("-")


def cosine(value: float | None) -> str:
    """Four decimals; what is not quite 1 does not look as if it were."""
    if not is_there(value):
        return NOT_AVAILABLE
    return ">0.9999" if 0.99995 <= value < 1 else fixed(value, 4)


def difference(metric: str, value: float | None) -> str:
    """A difference of a metric: in percentage points for a rate, else in the metric's own unit."""
    return fixed(None if value is None else 100 * value, 2) if metric in RATES else figures(value)


def difference_unit(metric: str) -> str:
    """What :func:`difference` counts in, with a space before it, or nothing."""
    return " points" if metric in RATES else ""


def unit_of_bytes(largest: float) -> tuple[float, str]:
    """The decimal unit for sizes of which the largest is this one: the bytes in it, and its name."""
    return next((pair for pair in _BYTES if largest >= pair[0]), _BYTES[-1])


def listed(names: list[str]) -> str:
    """Names as a sentence has them: with commas, and an ``and`` before the last."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
