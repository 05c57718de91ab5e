"""Differences and margins of metrics as sentences tell them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from compbench.report.phrases import code
from compbench.report.tables import RATES, difference_unit, figures, words

Rounding = Literal["nearest", "up", "down"]

_ROUNDED: Mapping[Rounding, Callable[[float], int]] = {"nearest": round, "up": math.ceil, "down": math.floor}


def called(metric: str) -> str:
    """A metric as it is called in a sentence: the well-known ones in words, others by their name."""
    return words(metric) if metric in RATES else code(metric)


def amount(metric: str, value: float, rounding: Rounding = "nearest") -> str:
    """A difference of a metric, of which the sign is left out, with two significant digits and its unit.

    Above 10, where two digits would move a bound by much, bounds have three.

    Args:
        metric: which; rates are told in points.
        value: the difference, in the metric's own unit.
        rounding: up for what is "at most", down for what is "at least", so that the words stay true.
    """
    scaled = abs(value) * (100 if metric in RATES else 1)
    if scaled == 0:
        return "0" + difference_unit(metric)
    digits = 3 if scaled >= 10 and rounding != "nearest" else 2
    step = 10.0 ** (math.floor(math.log10(scaled)) - digits + 1)
    # Seven tenths are not quite 7 * 0.1: what is a multiple of the step up to rounding is not moved to the next.
    multiple = round(scaled / step, 9)
    rounded = _ROUNDED[rounding](multiple) * step
    text = figures(rounded, digits) if step < 1 else f"{rounded:.0f}"
    if "." in text and "e" not in text:
        text = text.rstrip("0").rstrip(".")
    unit = difference_unit(metric)
    return text + (unit.removesuffix("s") if text == "1" else unit)


def tolerance(metric: str, margin: float) -> str:
    """A margin as the suite declares it."""
    text = f"{round(100 * margin, 9):g}" if metric in RATES else f"{margin:g}"
    unit = difference_unit(metric)
    return text + (unit.removesuffix("s") if text == "1" else unit)
