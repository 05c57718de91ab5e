"""Several workloads in one number or one curve: interquartile means and performance profiles. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compbench.report.statistics import FEWEST_PAIRS, Floats

RESAMPLES = 10_000

CONFIDENCE = 0.95
"""Of the bootstrap's intervals."""

_TRIMMED = 0.25


def interquartile_mean(values: Floats) -> Floats:
    """The mean of the middle half of each sample: a quarter of the values, rounded down, is left out at either end.

    Args:
        values: ``(..., n)``, one sample a row.

    Returns:
        Means, ``(...)``.
    """
    n = values.shape[-1]
    cut = int(_TRIMMED * n)
    middle: Floats = np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return middle


def stratified_interval(
    strata: Sequence[Floats], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """A 95 % interval of the interquartile mean over all strata, by the bootstrap within each.

    Every resample draws as many values from each stratum as it has, with replacement; the ends are the percentiles of
    the interquartile means. Values are first spread about their stratum's mean by ``sqrt(n / (n - 1))``: a resample of
    few values varies by so much less than a new sample would.

    Args:
        strata: one sample a stratum.
        seed: of the random draws; the same one gives the same interval.
        resamples: how many.

    Returns:
        The interval; None where a stratum has fewer than three values, whose spread nobody knows.
    """
    if not strata or min(len(stratum) for stratum in strata) < FEWEST_PAIRS:
        return None
    random = np.random.default_rng(seed)
    drawn = []
    for stratum in strata:
        n, mean = len(stratum), stratum.mean()
        spread = mean + (stratum - mean) * math.sqrt(n / (n - 1))
        drawn.append(spread[random.integers(0, n, (resamples, n))])
    means = interquartile_mean(np.concatenate(drawn, axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def performance_ratios(costs: Floats) -> Floats:
    """What each solver costs in the unit of the cheapest solver of the same problem (Dolan and More 2002).

    Args:
        costs: ``(problems, solvers)``, positive; infinite where a solver failed. Somebody has solved every problem.

    Returns:
        Ratios of at least 1, of the same shape; infinite for failures.
    """
    ratios: Floats = costs / costs.min(axis=1, keepdims=True)
    return ratios


def share_within(ratios: Floats, factor: float) -> Floats:
    """The share of problems that each solver did at no more than ``factor`` times the least cost, ``(solvers,)``."""
    # Costs that are equal on paper may differ by rounding once they have been divided.
    shares: Floats = (ratios <= factor * (1 + 1e-12)).mean(axis=0)
    return shares


def profile_steps(ratios: Floats) -> list[tuple[float, float]]:
    """One solver's performance profile: each factor at which its share of problems grows, with the share from there on.

    Args:
        ratios: of one solver, ``(problems,)``.
    """
    finite, counts = np.unique(ratios[np.isfinite(ratios)], return_counts=True)
    return [(float(f), float(s)) for f, s in zip(finite, counts.cumsum() / len(ratios), strict=True)]
