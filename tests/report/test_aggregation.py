"""Interquartile means, their bootstrap and performance profiles against scipy, hand-made cases and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compbench.report.aggregation import (
    interquartile_mean,
    performance_ratios,
    profile_steps,
    share_within,
    stratified_interval,
)

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


@given(VALUES)
def test_the_interquartile_mean_is_scipys_trimmed_mean(values):
    assert interquartile_mean(np.array(values)) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)


def test_the_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([100.0, 1, 2, 3, -50])) == 2
    assert interquartile_mean(np.array([7.0, 1, 1])) == 3  # of three values a quarter is none
    np.testing.assert_allclose(interquartile_mean(np.array([[0.0, 1, 2, 9], [4, 4, 4, 0]])), [1.5, 4])


def test_the_interval_is_scipys_bootstrap_of_one_stratum_whose_values_are_spread():
    values = np.random.default_rng(0).exponential(1.0, 12)
    spread = values.mean() + (values - values.mean()) * np.sqrt(12 / 11)
    expected = stats.bootstrap(
        (spread,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        random_state=1,
    ).confidence_interval
    assert stratified_interval([values], resamples=20_000) == pytest.approx((expected.low, expected.high), abs=0.04)


def test_seeds_are_drawn_within_their_task():
    # Drawn over all tasks together, the mean of so different ones would vary by tenths.
    low, high = stratified_interval([np.array([0.0, 0.01, 0.02]), np.array([1.0, 1.01, 1.02])])
    assert 0.49 < low < high < 0.53


def test_the_same_scores_have_the_same_interval_and_equal_ones_a_point():
    strata = [np.array([0.9, 1.0, 0.95]), np.array([0.5, 0.6, 0.8, 0.7])]
    assert stratified_interval(strata) == stratified_interval(strata)
    assert stratified_interval(strata, seed=1) != stratified_interval(strata)
    assert stratified_interval([np.array([1.0] * 4)]) == (1, 1)


@pytest.mark.parametrize("strata", [[], [[1.0, 2.0]], [[1.0, 2.0, 3.0], [1.0]]])
def test_a_task_of_fewer_than_three_scores_has_no_interval(strata):
    assert stratified_interval([np.array(stratum) for stratum in strata]) is None


def test_the_interval_covers_what_the_page_says():
    random = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        low, high = stratified_interval([random.normal(mean, 0.05, 5) for mean in (1.0, 0.95)], resamples=500)
        held += low <= 0.975 <= high
    assert held / 300 == pytest.approx(0.935, abs=0.04)


COSTS = np.array([[1.0, 2.0, np.inf], [3.0, 1.5, 1.5], [4.0, 4.0, 2.0], [1.0, 1.05, 10.0]])


def test_a_performance_profile_by_hand():
    ratios = performance_ratios(COSTS)
    np.testing.assert_allclose(ratios, [[1, 2, np.inf], [2, 1, 1], [2, 2, 1], [1, 1.05, 10]])
    np.testing.assert_allclose(share_within(ratios, 1), [0.5, 0.25, 0.5])
    np.testing.assert_allclose(share_within(ratios, 2), [1, 1, 0.5])
    np.testing.assert_allclose(share_within(ratios, 1e9), [1, 1, 0.75])
    assert profile_steps(ratios[:, 0]) == [(1, 0.5), (2, 1)]
    assert profile_steps(ratios[:, 2]) == [(1, 0.5), (10, 0.75)]  # the failure is never done
    assert profile_steps(np.array([np.inf])) == []


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), min_size=1, max_size=8), st.floats(1, 20))
def test_the_steps_are_the_share_at_every_factor(costs, factor):
    ratios = performance_ratios(np.array(costs))
    for solver in range(3):
        shares = [share for at, share in profile_steps(ratios[:, solver]) if at <= factor * (1 + 1e-12)]
        assert share_within(ratios, factor)[solver] == pytest.approx(shares[-1] if shares else 0)
        assert profile_steps(ratios[:, solver])[-1][1] == 1
