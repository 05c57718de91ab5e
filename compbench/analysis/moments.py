"""Moments of numbers that come in parts, in float64: of all of them together, and of each column."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

SIGMAS = (2, 3, 4, 5)
"""Distances from the mean, in standard deviations, beyond which values are counted."""


def gaussian_outliers(sigmas: float) -> float:
    """``P(|x - mu| > S sigma)`` of a normal distribution."""
    return math.erfc(sigmas / math.sqrt(2))


@dataclass
class Moments:
    """Sums of powers of all values, about a fixed number near their mean, and of each column's.

    Powers about 0 would lose digits where the mean is far from it: the first part's mean is taken off.
    """

    count: int = 0
    shift: float = 0.0
    powers: list[float] = field(default_factory=lambda: [0.0] * 4)
    rows: int = 0
    columns: tuple[Tensor, Tensor] | None = None

    def add(self, rows: Tensor) -> None:
        """Takes down ``(N, D)``."""
        values = rows.double()
        if not self.count:
            self.shift = float(values.mean())
        shifted = values - self.shift
        power = shifted
        for order in range(4):
            self.powers[order] += float(power.sum())
            power = power * shifted
        sums = shifted.sum(0), shifted.square().sum(0)
        self.columns = sums if self.columns is None else (self.columns[0] + sums[0], self.columns[1] + sums[1])
        self.count += values.numel()
        self.rows += len(values)

    @property
    def mean(self) -> float:
        """The mean."""
        return self.shift + self.powers[0] / self.count

    def central(self, order: int) -> float:
        """The central moment of order 2, 3 or 4."""
        d = self.powers[0] / self.count
        raw = [1.0, d, *(power / self.count for power in self.powers[1:])]
        return sum(math.comb(order, i) * raw[i] * (-d) ** (order - i) for i in range(order + 1))

    @property
    def standard_deviation(self) -> float:
        """The standard deviation, of the population."""
        return math.sqrt(max(0.0, self.central(2)))

    @property
    def skewness(self) -> float:
        """The third standardised moment: 0 for symmetric distributions."""
        return self.central(3) / self.standard_deviation**3 if self.standard_deviation else math.nan

    @property
    def excess_kurtosis(self) -> float:
        """The fourth standardised moment less 3: 0 for a normal distribution, above 0 for heavy tails."""
        return self.central(4) / self.central(2) ** 2 - 3 if self.standard_deviation else math.nan

    def channel_deviations(self) -> Tensor:
        """The standard deviation of each column, ``(D,)``."""
        if self.columns is None:
            return torch.empty(0, dtype=torch.float64)
        mean = self.columns[0] / self.rows
        return (self.columns[1] / self.rows - mean.square()).clamp(min=0).sqrt()


def count_outliers(rows: Tensor, mean: float, deviation: float) -> list[int]:
    """How many values are further from a mean than each of :data:`SIGMAS` standard deviations."""
    distance = (rows.double() - mean).abs()
    return [int((distance > sigmas * deviation).sum()) for sigmas in SIGMAS]
