"""Paired tests for few seeds: is an arm not worse than the reference by more than a margin? Pure functions.

A difference is always a gain of one seed, in the unit of the metric: arm minus reference, or reference minus arm where
lower is better. That a test does not find a loss is no evidence that there is none; hence the one-sided test of
non-inferiority, whose null hypothesis is that the loss is at least the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
"""Level of every test, and of the family after Holm's adjustment."""

CONFIDENCE = 1 - 2 * ALPHA
"""Of two-sided intervals: each of their ends is a one-sided bound at the level of the tests."""

POWER = 0.8
"""Chance of settling a comparison for which :func:`seeds_needed` gives the number of seeds."""

FEWEST_PAIRS = 3
"""With fewer pairs nothing is tested."""

MOST_EXACT_PAIRS = 40
"""Beyond this many pairs the exact test, which takes about 2 ** (n / 2) steps, is left out."""

_ROUNDING = 1e-12
"""Differences of fractions closer than this differ by rounding alone."""

_MOST_SEEDS = 1000

_LARGEST_EFFECT = 50.0
"""Standard deviations; nothing larger is looked at."""

# 90 % of normal samples of 3, 4, ... have their median at most this many of their own interquartile ranges from the
# true one (quartiles interpolated, 4 million samples each). Odd and even sizes differ, since quartiles then fall on
# values or between them.
_MEDIAN_IN_RANGES = (1.863, 1.350, 1.403, 0.957, 0.816, 0.717, 0.710, 0.609, 0.574, 0.530, 0.526, 0.478, 0.464)


@dataclass(frozen=True)
class PairedTest:
    """What ``n`` paired differences say about a margin.

    Attributes:
        sd: standard deviation of the differences (n - 1).
        interval: two-sided 90 % confidence interval of the true mean difference, by the t distribution.
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
    interval: tuple[float, float]
    p_non_inferior: float
    p_worse: float
    p_beyond: float
    exact_p: float | None
    exact_floor: float
    not_worse: int

    @property
    def lower_bound(self) -> float:
        """One-sided 95 % lower confidence bound of the true mean difference, not adjusted for other comparisons."""
        return self.interval[0]

    @property
    def upper_bound(self) -> float:
        """One-sided 95 % upper confidence bound, likewise."""
        return self.interval[1]

    @property
    def exact_can_pass(self) -> bool:
        """Whether so many pairs could show anything by the exact test, if all of them went the same way."""
        return self.exact_floor <= ALPHA


@dataclass(frozen=True)
class Ratio:
    """A ratio of times with its 90 % confidence interval.

    Attributes:
        value: the geometric mean over seeds, or the median of the pairs of one cell.
        low: lower end of the interval; None, as ``high``, where there is too little to tell.
        n: how many ``over``.
        over: what the interval is over: seeds, each a process of its own, or pairs of steps within one process.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    over: Literal["seeds", "pairs"]


def paired_test(differences: Sequence[float] | Floats, margin: float, magnitude: float = 1.0) -> PairedTest:
    """The one-sided paired t tests against ``-margin`` and against 0, with their companions.

    Equal differences in all pairs leave nothing to estimate: then the sign of their distance to the margin decides, and
    p-values are 0 or 1.

    Args:
        differences: one a seed, positive where the arm is better; at least two.
        margin: the tolerable loss, not negative.
        magnitude: the largest of the scores that were subtracted, which tells what of a difference is rounding.

    Raises:
        ValueError: fewer than two differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        raise ValueError(f"a paired test needs two differences, {n} given")
    rounding = _ROUNDING * magnitude
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if sd <= rounding:
        sd = 0.0
    reach = _t_quantile(n) * sd / math.sqrt(n)
    return PairedTest(
        n=n,
        mean=mean,
        sd=sd,
        minimum=float(values.min()),
        interval=(mean - reach, mean + reach),
        p_non_inferior=float(p_above(values, -margin, rounding)),
        p_worse=float(p_above(-values, 0.0, rounding)),
        p_beyond=float(p_above(-values, margin, rounding)),
        exact_p=sign_flip(values + margin, magnitude) if n <= MOST_EXACT_PAIRS else None,
        exact_floor=0.5**n,
        not_worse=int((values >= -rounding).sum()),
    )


def p_above(samples: Floats, bound: float, rounding: float = _ROUNDING) -> Floats:
    """One-sided p-values of the t test that true means are above a bound.

    Args:
        samples: ``(..., n)``, one sample a row; at least two values each.
        bound: what the means are tested against.
        rounding: a sample whose standard deviation is no larger is decided by its sign: its p-value is 0 or 1.

    Returns:
        p-values, ``(...)``.
    """
    n = samples.shape[-1]
    above = samples.mean(axis=-1) - bound
    sd = samples.std(axis=-1, ddof=1)
    flat = sd <= rounding
    t = above * math.sqrt(n) / np.where(flat, 1.0, sd)
    p: Floats = np.where(flat, np.where(above > rounding, 0.0, 1.0), special.stdtr(n - 1, -t))
    return p


def _t_quantile(n: int) -> float:
    """What a one-sided 95 % bound of a mean of ``n`` values lies standard errors from it."""
    return float(special.stdtrit(n - 1, 1 - ALPHA))


def sign_flip(values: Sequence[float] | Floats, magnitude: float = 1.0) -> float:
    """Exact one-sided p-value that values symmetric about their mean have a mean above 0.

    The share of the ``2 ** n`` ways to choose the signs whose sum is at least the observed one; it is never below
    ``2 ** -n``. The sums are counted from the sorted sums of two halves, so 30 values take 2 ** 15 steps.

    Args:
        values: at least one.
        magnitude: of the numbers from which the values were computed, which tells what of them is rounding.
    """
    numbers = np.asarray(values, dtype=np.float64)
    half = len(numbers) // 2
    left, right = _signed_sums(numbers[:half]), np.sort(_signed_sums(numbers[half:]))
    # Sums that are equal on paper differ by rounding; they must count as equal, or the observed one may be missed.
    threshold = numbers.sum() - _ROUNDING * (magnitude + np.abs(numbers).sum())
    reached = len(right) - np.searchsorted(right, threshold - left)
    return float(reached.sum()) / 2.0 ** len(numbers)


def _signed_sums(values: Floats) -> Floats:
    sums: Floats = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums + value, sums - value))
    return sums


def largest_exact_family(n: int) -> int:
    """The largest family, under Holm's adjustment, in which the exact test of ``n`` pairs can still reject anything."""
    return int(ALPHA * 2.0**n)


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


def power(n: int, effect: float, sd: float, level: float = ALPHA) -> float:
    """Chance that the one-sided t test of ``n`` pairs rejects.

    Args:
        n: number of pairs, at least two.
        effect: how far the true mean lies beyond what it is tested against: the margin, if there is no true difference.
        sd: standard deviation of the differences, above 0.
        level: level of the test.
    """
    noncentrality = min(effect / sd, _LARGEST_EFFECT) * math.sqrt(n)
    critical = -special.stdtrit(n - 1, level)
    chance = 1 - float(special.nctdtr(n - 1, noncentrality, critical))
    if math.isnan(chance):  # its series has not converged, which happens far out
        from scipy import stats  # takes over a second, and can nearly always be done without

        chance = float(stats.nct.sf(critical, n - 1, noncentrality))
    return chance


def seeds_needed(effect: float, sd: float, family: int = 1) -> int | None:
    """Fewest seeds with which the one-sided test rejects with 80 % power.

    Args:
        effect: how far the truth lies beyond what is tested: the margin, if there is no true difference.
        sd: standard deviation of the differences, as observed.
        family: number of comparisons; each is asked to pass at ``ALPHA / family``, Holm's strictest step.

    Returns:
        At least three; None if 1,000 seeds would not do.
    """
    if effect <= 0:
        return None
    if sd == 0:
        return FEWEST_PAIRS
    level = ALPHA / family
    if power(_MOST_SEEDS, effect, sd, level) < POWER:
        return None
    low, high = FEWEST_PAIRS - 1, _MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, effect, sd, level) < POWER:
            low = middle
        else:
            high = middle
    return high


def seeds_to_settle(mean: float, sd: float, margin: float, family: int = 1) -> int | None:
    """Fewest seeds that settle a comparison with 80 % power, one way or the other, if the truth is as observed.

    A mean loss that is nearer to none than to the margin is taken to become non-inferior, one that is nearer to the
    margin, or beyond it, to become shown. A gain that was observed is not counted on.

    Args:
        mean: the mean difference, as observed.
        sd: standard deviation of the differences, as observed.
        margin: the tolerable loss.
        family: as in :func:`seeds_needed`.
    """
    return seeds_needed(max(margin + min(mean, 0.0), -mean), sd, family)


def smallest_margin(n: int, sd: float, family: int = 1) -> float | None:
    """The smallest margin within which ``n`` seeds show non-inferiority with 80 % power, if nothing is lost.

    Args:
        n: number of pairs, at least two.
        sd: standard deviation of the differences.
        family: as in :func:`seeds_needed`.

    Returns:
        In the unit of ``sd``; None if 50 standard deviations would be too few.
    """
    level = ALPHA / family
    low, high = 0.0, _LARGEST_EFFECT
    if power(n, high, 1.0, level) < POWER:
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        if power(n, middle, 1.0, level) < POWER:
            low = middle
        else:
            high = middle
    return high * sd


def pooled_sd(tests: Sequence[PairedTest]) -> float:
    """One standard deviation for several comparisons: the root of the mean variance, weighted by degrees of freedom."""
    freedom = sum(test.n - 1 for test in tests)
    return math.sqrt(sum((test.n - 1) * test.sd**2 for test in tests) / freedom)


def ratio_over_seeds(ratios: Sequence[float]) -> Ratio:
    """The geometric mean of positive ratios, one a seed, with the t interval of the mean logarithm.

    One ratio has no interval.
    """
    logarithms = np.log(np.asarray(ratios, dtype=np.float64))
    n, mean = len(logarithms), float(logarithms.mean())
    if n < 2:
        return Ratio(math.exp(mean), None, None, n, "seeds")
    reach = _t_quantile(n) * float(logarithms.std(ddof=1)) / math.sqrt(n)
    return Ratio(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), n, "seeds")


def ratio_within_cell(median: float, quartiles: tuple[float, float], pairs: int) -> Ratio:
    """A median of ratios of pairs of steps in one process, with an interval from their quartiles.

    The interval holds the true median of nine in ten such samples, if the logarithms of the ratios are independent and
    normal. It tells how well this process has measured, and not how much another process would differ. Fewer than three
    pairs have none, nor have quartiles that are equal, which no clock gives.

    Args:
        median: the median ratio, above 0.
        quartiles: the lower and the upper one.
        pairs: how many there were.
    """
    spread = math.log(quartiles[1] / quartiles[0]) if quartiles[0] > 0 else 0.0
    if pairs < 3 or spread <= 0:
        return Ratio(median, None, None, pairs, "pairs")
    reach = _median_in_ranges(pairs) * spread
    return Ratio(median, median * math.exp(-reach), median * math.exp(reach), pairs, "pairs")


def _median_in_ranges(n: int) -> float:
    """How many interquartile ranges of a normal sample of ``n`` its median is from the true one at most, in 90 %."""
    if n - 3 < len(_MEDIAN_IN_RANGES):
        return _MEDIAN_IN_RANGES[n - 3]
    normal = special.ndtri(1 - ALPHA)
    # The limit for large samples, and a term for their size that the table's last values suggest.
    limit = normal * math.sqrt(math.pi / 2) / (2 * special.ndtri(0.75)) / math.sqrt(n)
    return float(limit * (1 + 2.6 / n))
