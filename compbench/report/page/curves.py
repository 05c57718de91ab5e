"""A training's loss as a small drawing in the text, for a first look; the record has every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from compbench.report.page.numbers import number

WIDTH, HEIGHT = 160, 28
_MOST_POINTS = 80


@dataclass(frozen=True)
class Curve:
    """A loss over training.

    Attributes:
        points: a polyline's, in a box of ``WIDTH`` by ``HEIGHT``.
        text: the same in words.
    """

    points: str
    text: str


def loss_curve(losses: Sequence[float]) -> Curve | None:
    """The curve of some losses, from the first step to the last; None where no step was made.

    Of many steps each point is the mean of several. Losses that are not finite have no place in the drawing, and are
    counted in the text.
    """
    if not losses:
        return None
    finite = [loss for loss in losses if math.isfinite(loss)]
    lost = len(losses) - len(finite)
    text = f"{len(losses):,} steps, from {number(losses[0])} to {number(losses[-1])}"
    if len(losses) == 1:
        text = f"one step, {number(losses[0])}"
    elif finite:
        text += f", lowest {number(min(finite))}"
    if lost:
        text += f"; {lost:,} not finite"
    return Curve(_polyline(_thinned(finite)), text)


def _thinned(values: Sequence[float]) -> list[float]:
    if len(values) <= _MOST_POINTS:
        return list(values)
    bounds = [round(index * len(values) / _MOST_POINTS) for index in range(_MOST_POINTS + 1)]
    return [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]


def _polyline(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    scale = (HEIGHT - 2) / (high - low) if high > low else 0.0
    return " ".join(
        f"{index * WIDTH / (len(values) - 1):.4g},{HEIGHT - 1 - scale * (value - low):.4g}"
        for index, value in enumerate(values)
    )
