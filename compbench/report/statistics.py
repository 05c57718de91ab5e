"""Paired tests for few seeds: is an arm not worse than the reference by more than a margin? Pure functions.

A difference is always ``arm - reference`` of one seed, in the unit of the metric, the higher the better. That a test
does not find a loss is no evidence that there is none; hence the one-sided test of non-inferiority, whose null
hypothesis is that the loss is at least the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
"""Level of every test, and of the family after Holm's adjustment."""

POWER = 0.8
"""Chance of settling a comparison for which :func:`seeds_needed` gives the number of seeds."""

FEWEST_PAIRS = 3
"""With fewer pairs nothing is tested."""

MOST_EXACT_PAIRS = 40
"""Beyond this many pairs the exact test, which takes about 2 ** (n / 2) steps, is left out."""

_ROUNDING = 1e-12
"""Differences of fractions closer than this differ by rounding alone."""

_MOST_SEEDS = 1000


@dataclass(frozen=True)
class PairedTest:
    """What ``n`` paired differences say about a margin.

    Attributes:
        sd: standard deviation of the differences (n - 1).
        lower_bound: one-sided 95 % lower confidence bound of the true mean difference, not adjusted.
        p_non_inferior: p-value against "worse by the margin or more"; small means non-inferior.
        p_worse: p-value against "not worse at all"; small means worse.
        p_beyond: p-value against "worse by the margin at most"; small means worse by more than the margin.
        exact_p: the question of ``p_non_inferior`` by the exact sign-flip test; None beyond ``MOST_EXACT_PAIRS``.
        exact_floor: the smallest ``exact_p`` that ``n`` pairs can give.
        not_worse: number of pairs in which the arm is at least as good as the reference.
    """

    n: int
    mean: float
    sd: float
    minimum: float
    lower_bound: float
    p_non_inferior: float
    p_worse: float
    p_beyond: float
    exact_p: float | None
    exact_floor: float
    not_worse: int


def paired_test(differences: Sequence[float], margin: float) -> PairedTest:
    """The one-sided paired t tests against ``-margin`` and against 0, with their exact companion.

    Equal differences in all pairs leave nothing to estimate: then the sign of their distance to the margin decides, and
    p-values are 0 or 1.

    Args:
        differences: arm minus reference, one a seed; at least two.
        margin: the tolerable loss, not negative.

    Raises:
        ValueError: fewer than two differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        raise ValueError(f"a paired test needs two differences, {n} given")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if sd <= _ROUNDING:
        sd = 0.0
    error = sd / math.sqrt(n)
    exact_p = sign_flip(values + margin) if n <= MOST_EXACT_PAIRS else None
    return PairedTest(
        n=n,
        mean=mean,
        sd=sd,
        minimum=float(values.min()),
        lower_bound=mean - float(special.stdtrit(n - 1, 1 - ALPHA)) * error,
        p_non_inferior=_p_above(mean + margin, error, n),
        p_worse=_p_above(-mean, error, n),
        p_beyond=_p_above(-mean - margin, error, n),
        exact_p=exact_p,
        exact_floor=0.5**n,
        not_worse=int((values >= -_ROUNDING).sum()),
    )


def _p_above(mean: float, error: float, n: int) -> float:
    """One-sided p-value of the t test that a true mean is above 0, from its estimate and standard error."""
    if error == 0:
        return 0.0 if mean > _ROUNDING else 1.0
    return float(special.stdtr(n - 1, -mean / error))


def sign_flip(values: Sequence[float] | Floats) -> float:
    """Exact one-sided p-value that values symmetric about their mean have a mean above 0.

    The share of the ``2 ** n`` ways to choose the signs whose sum is at least the observed one; it is never below
    ``2 ** -n``. The sums are counted from the sorted sums of two halves, so 30 values take 2 ** 15 steps.
    """
    numbers = np.asarray(values, dtype=np.float64)
    half = len(numbers) // 2
    left, right = _signed_sums(numbers[:half]), np.sort(_signed_sums(numbers[half:]))
    # Sums that are equal on paper differ by rounding; they must count as equal, or the observed one may be missed.
    threshold = numbers.sum() - _ROUNDING * (1 + np.abs(numbers).sum())
    reached = len(right) - np.searchsorted(right, threshold - left)
    return float(reached.sum()) / 2.0 ** len(numbers)


def _signed_sums(values: Floats) -> Floats:
    sums: Floats = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums + value, sums - value))
    return sums


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for a family of tests by Holm's step-down method (Holm 1979), in the order given.

    The smallest of ``m`` is multiplied by ``m``, the next by ``m - 1`` and so on; none falls below one before it.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def power(n: int, margin: float, sd: float, level: float = ALPHA) -> float:
    """Chance that ``n`` pairs show non-inferiority when there is no true difference.

    Args:
        n: number of pairs, at least two.
        margin: the tolerable loss.
        sd: standard deviation of the differences, above 0.
        level: level of the one-sided t test.
    """
    from scipy import stats  # takes over a second, which a command that needs no power should not wait for

    # Beyond 50 standard deviations the power is 1, and the series of the noncentral distribution need not converge.
    effect = min(margin / sd, 50.0)
    return float(stats.nct.sf(stats.t.isf(level, n - 1), n - 1, effect * math.sqrt(n)))


def seeds_needed(margin: float, sd: float, family: int = 1) -> int | None:
    """Fewest seeds that show non-inferiority with 80 % power, if there is no true difference.

    Args:
        margin: the tolerable loss.
        sd: standard deviation of the differences, as observed.
        family: number of comparisons; each is asked to pass at ``ALPHA / family``, Holm's strictest step.

    Returns:
        At least three; None if 1,000 seeds would not do.
    """
    if margin <= 0:
        return None
    if sd == 0:
        return FEWEST_PAIRS
    level = ALPHA / family
    if power(_MOST_SEEDS, margin, sd, level) < POWER:
        return None
    low, high = FEWEST_PAIRS - 1, _MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, margin, sd, level) < POWER:
            low = middle
        else:
            high = middle
    return high
