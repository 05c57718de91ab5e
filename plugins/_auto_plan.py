"""The plan of ``auto``: what each candidate costs at each site, the best choice within the budget, and its table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from ._auto_calibration import Trial
from ._knapsack import best_choices

COMPUTED_AGAIN = "computed again"


@dataclass(frozen=True)
class Line:
    """What the plan does at one site.

    Attributes:
        site: the site's name.
        raw_bytes: what its rows take.
        trial: the candidate that it was given.
        cost: what that costs the gradient: a squared error, in units of the whole gradient.
    """

    site: str
    raw_bytes: int
    trial: Trial
    cost: float


def plan(
    places: Sequence[tuple[str, int, Sequence[Trial]]], costs: Sequence[Sequence[float]], budget: int
) -> list[Line] | None:
    """The choice of a candidate for each site that costs least within a budget.

    Args:
        places: of each site its name, the bytes of its rows and its trials.
        costs: of these trials.
        budget: bytes that all sites may keep together.

    Returns:
        A line for each site; None if even the smallest candidates keep more.
    """
    chosen: Sequence[int] | None
    if sum(raw_bytes for _, raw_bytes, _ in places) <= budget:
        chosen = [next(n for n, trial in enumerate(trials) if trial.codec is None) for *_, trials in places]
    else:
        sizes = [[trial.kept_bytes for trial in trials] for *_, trials in places]
        chosen = best_choices([list(zip(*pair, strict=True)) for pair in zip(sizes, costs, strict=True)], budget)
    if chosen is None:
        return None
    return [
        Line(site, raw_bytes, trials[n], own[n])
        for (site, raw_bytes, trials), own, n in zip(places, costs, chosen, strict=True)
    ]


def costs_of(places: Sequence[Sequence[Trial]], total: float) -> list[list[float]] | None:
    """The error of each candidate at each site, in units of the whole gradient; None where they can't be told.

    Args:
        places: the trials of each site.
        total: squared norm of the whole gradient.
    """
    if not math.isfinite(total):
        return None
    costs = [[trial.cost(total) if trial.measured else None for trial in trials] for trials in places]
    known: dict[str, list[float]] = {}
    for trials, own in zip(places, costs, strict=True):
        for trial, cost in zip(trials, own, strict=True):
            if cost is not None:
                known.setdefault(trial.label, []).append(cost)
    every = [cost for own in known.values() for cost in own]
    if not all(map(math.isfinite, every)) or not any(every):
        return None
    usual = {label: math.fsum(own) / len(own) for label, own in known.items()}
    return [
        [usual.get(trial.label, max(every)) if cost is None else cost for trial, cost in zip(trials, own, strict=True)]
        for trials, own in zip(places, costs, strict=True)
    ]


def table(lines: Sequence[Line], budget: int, recomputed: int) -> str:
    """The plan in words.

    Args:
        lines: the plan.
        budget: bytes that could be spent.
        recomputed: bytes of what is computed again.
    """
    raw = sum(line.raw_bytes for line in lines) + recomputed
    kept = sum(line.trial.kept_bytes for line in lines)
    rows = [
        (line.site, line.trial.label, f"{line.raw_bytes:,}", f"{line.trial.kept_bytes:,}", f"{line.cost:.1e}")
        for line in lines
    ]
    if recomputed:
        rows.append((COMPUTED_AGAIN, "", f"{recomputed:,}", "0", "0"))
    rows.append(("all", "", f"{raw:,}", f"{kept:,}", f"{sum(line.cost for line in lines):.1e}"))
    headers = ("site", "strategy", "raw bytes", "kept bytes", "squared error")
    align = ("left", "left", "right", "right", "right")
    text = tabulate(rows, headers=headers, colalign=align, disable_numparse=True)
    return f"auto's plan, for a budget of {budget:,} bytes ({100 * (1 - kept / raw):.1f} % saved):\n{text}"
