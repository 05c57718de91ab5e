"""What a deeper cell takes, where shallower ones lie on a straight line: every call of a block takes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from compbench.measure.estimating import Estimate
from compbench.measure.results import Flops

LINE_POINTS = 3
"""Two define a line, and a third tells whether it is one."""

_BYTES = ("saved_bytes", "peak_delta_bytes", "highest_peak_bytes", "state_bytes", "parameters", "static_bytes")
_OF_NUMBERS = "would keep as much as it is"
"""In the place of reasons that tell how many bytes, which are others at each depth."""

_OF_SITES = ("calls", "raw_bytes", "kept_bytes")


def line_through(points: Sequence[tuple[int, int]], at: int) -> int | None:
    """The ordinate at ``at`` of the line through all points; None where there is none, or it is no whole number."""
    (x0, y0), *_, (x1, y1) = points
    slope = Fraction(y1 - y0, x1 - x0)
    if any(y0 + slope * (x - x0) != y for x, y in points):
        return None
    value = y0 + slope * (at - x0)
    return int(value) if value.denominator == 1 else None


def on_a_line(points: Sequence[tuple[int, Estimate]], depth: int) -> Estimate | None:
    """The estimate at a depth that follows from those of others; None where one figure does not lie on a line.

    Args:
        points: at least three depths with their estimates.
        depth: another depth.
    """
    estimates = [found for _, found in points]
    last = estimates[-1]
    if len(points) < LINE_POINTS or len({found.peak_phase for found in estimates}) > 1:
        return None
    figures: dict[str, Any] = {}
    for name in _BYTES:
        figures[name] = line_through([(at, getattr(found, name)) for at, found in points], depth)
    flops = {
        phase: line_through([(at, getattr(found.flops, phase)) for at, found in points], depth)
        for phase in Flops.model_fields
    }
    sites = _sites(points, depth)
    if sites is None or None in figures.values() or None in flops.values():
        return None
    return replace(last, **figures, flops=Flops(**{phase: value or 0 for phase, value in flops.items()}), sites=sites)


def _sites(points: Sequence[tuple[int, Estimate]], depth: int) -> tuple[dict[str, Any], ...] | None:
    """Each site with its calls and bytes on a line; None where the sites differ, or lie on none."""
    names = [[(site["name"], bool(site["reason"])) for site in found.sites] for _, found in points]
    if any(other != names[0] for other in names):
        return None
    made = []
    for index, site in enumerate(points[-1][1].sites):
        changed = {
            name: line_through([(at, found.sites[index][name]) for at, found in points], depth) for name in _OF_SITES
        }
        if None in changed.values():
            return None
        reasons = {found.sites[index]["reason"] for _, found in points}
        made.append({**site, **changed, "reason": site["reason"] if len(reasons) == 1 else _OF_NUMBERS})
    return tuple(made)
