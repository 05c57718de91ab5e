"""Quantising and moments against closed forms and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from compbench.analysis.moments import SIGMAS, Moments, count_outliers, gaussian_outliers
from compbench.analysis.quantising import at_bits, int8, max_scale, sigma_scale


def test_int8_of_uniform_values_errs_by_a_twelfth_of_the_squared_step():
    x = torch.rand(400_000, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    scale = max_scale(x)
    error = (x - int8(x, scale)).square().mean()
    assert float(error) == pytest.approx(float(scale) ** 2 / 12, rel=0.01)


def test_a_scale_by_sigmas_clips_what_is_beyond_and_nothing_else():
    x = torch.tensor([-1.0, 1.0] * 1000 + [50.0], dtype=torch.float64)
    scale = sigma_scale(x)
    assert float(scale) == pytest.approx(4 * float(x.std(correction=0)) / 127)
    back = int8(x, scale)
    assert float(back[-1]) == pytest.approx(127 * float(scale))
    assert float((back[:-1] - x[:-1]).abs().max()) <= float(scale) / 2 + 1e-12


def test_values_at_widths_are_what_the_formats_hold():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(at_bits(x, 32), x)
    assert torch.equal(at_bits(x, 16), x.bfloat16().float())
    assert len(at_bits(x, 8).unique()) <= 255
    assert torch.equal(at_bits(torch.zeros(5), 8), torch.zeros(5))
    with pytest.raises(ValueError, match="allowed: 8, 16, 32"):
        at_bits(x, 4)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_in_parts_are_scipys_of_the_whole_also_far_from_zero(offset):
    x = np.random.default_rng(0).gamma(2.0, size=(900, 6)) + offset
    moments = Moments()
    for part in np.split(x, 3):
        moments.add(torch.from_numpy(part))
    flat = x.ravel()
    assert moments.count == x.size
    assert moments.mean == pytest.approx(flat.mean())
    assert moments.standard_deviation == pytest.approx(flat.std())
    assert moments.skewness == pytest.approx(scipy.stats.skew(flat), rel=1e-6)
    assert moments.excess_kurtosis == pytest.approx(scipy.stats.kurtosis(flat), rel=1e-6)
    assert moments.channel_deviations().numpy() == pytest.approx(x.std(axis=0), rel=1e-6)


def test_gaussian_values_have_gaussian_outliers():
    x = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0)) * 3 + 1
    found = [count / x.numel() for count in count_outliers(x, 1.0, 3.0)]
    for share, sigmas in zip(found[:3], SIGMAS, strict=False):
        expected = 2 * scipy.stats.norm.sf(sigmas)
        assert gaussian_outliers(sigmas) == pytest.approx(expected)
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected / x.numel()))


def test_heavy_tails_have_more():
    x = torch.from_numpy(np.random.default_rng(0).standard_t(3, size=(1000, 100)))
    deviation = float(x.std())
    assert count_outliers(x, 0.0, deviation)[2] / x.numel() > 20 * gaussian_outliers(4)
