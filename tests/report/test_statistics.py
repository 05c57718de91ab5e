"""The tests against scipy's own, textbook numbers, brute force and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compbench.report.statistics import ALPHA, holm, paired_test, power, seeds_needed, sign_flip

DIFFERENCES = [-0.012, 0.003, -0.004, 0.006, -0.001]
SPREAD = st.lists(st.integers(-1000, 1000), min_size=3, max_size=9).filter(lambda values: len(set(values)) > 1)


@given(values=SPREAD, margin=st.sampled_from([0.0, 0.005, 0.1]))
def test_the_test_is_scipys_paired_t_test_with_the_reference_shifted_down_by_the_margin(values, margin):
    reference = np.linspace(0.5, 0.8, len(values))
    arm = reference + np.array(values) / 1e4
    test = paired_test(arm - reference, margin)
    expected = stats.ttest_rel(arm, reference - margin, alternative="greater")
    assert test.p_non_inferior == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert test.p_beyond == pytest.approx(1 - expected.pvalue, rel=1e-6, abs=1e-9)
    assert test.p_worse == pytest.approx(stats.ttest_rel(arm, reference, alternative="less").pvalue, rel=1e-6)
    bound = stats.ttest_rel(arm, reference, alternative="greater").confidence_interval(0.95).low
    assert test.lower_bound == pytest.approx(bound, rel=1e-6, abs=1e-9)


def test_the_lower_bound_is_above_minus_the_margin_exactly_when_the_test_rejects():
    bound = paired_test(DIFFERENCES, 0.005).lower_bound
    assert paired_test(DIFFERENCES, -bound + 1e-9).p_non_inferior < ALPHA
    assert paired_test(DIFFERENCES, -bound - 1e-9).p_non_inferior > ALPHA


@pytest.mark.parametrize(
    ("constant", "non_inferior", "worse", "beyond"),
    [(0.0, 0, 1, 1), (0.01, 0, 1, 1), (-0.001, 0, 0, 1), (-0.005, 1, 0, 1), (-0.01, 1, 0, 0)],
)
def test_equal_differences_are_decided_by_their_sign(constant, non_inferior, worse, beyond):
    # 0.9 and 0.9 + constant: the differences agree up to rounding, which must not pass for a tiny spread.
    differences = [base + constant - base for base in (0.9, 0.1, 0.3, 0.77, 0.5)]
    test = paired_test(differences, 0.005)
    assert test.sd == 0
    assert (test.p_non_inferior, test.p_worse, test.p_beyond) == (non_inferior, worse, beyond)
    assert test.lower_bound == test.mean


def test_one_difference_is_no_sample():
    with pytest.raises(ValueError, match="needs two"):
        paired_test([0.1], 0.005)


def test_dominance_counts_ties_as_not_worse():
    assert paired_test([0.0, -0.1, 0.2, 0.3 - 0.1 - 0.2], 0.05).not_worse == 3


@given(values=st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_sign_flip_is_the_share_of_all_sign_patterns(values):
    numbers = np.array(values) / 10
    patterns = itertools.product((1, -1), repeat=len(values))
    reached = [sum(s * v for s, v in zip(signs, values, strict=True)) >= sum(values) for signs in patterns]
    assert sign_flip(numbers) == np.mean(reached)


def test_sign_flip_agrees_with_scipys_exact_permutation_test():
    values = np.array(DIFFERENCES) + 0.005
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flip(values) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("n", "floor"), [(3, 0.125), (5, 0.03125), (8, 0.00390625), (10, 0.0009765625), (40, 2**-40)])
def test_the_exact_tests_floor_is_reached_when_every_pair_wins(n, floor):
    test = paired_test(np.linspace(0.1, 0.2, n), 0.005)
    assert test.exact_p == test.exact_floor == floor


def test_the_exact_test_is_left_out_where_it_would_take_too_long():
    test = paired_test(np.linspace(-0.1, 0.2, 41), 0.005)
    assert test.exact_p is None
    assert test.p_non_inferior < ALPHA


def test_holm_on_a_worked_example():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not fall below the 0.06 before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_one_or_none_changes_nothing():
    assert holm([]) == []
    assert holm([0.3]) == [0.3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_p_values_and_bonferronis_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1, p * len(p_values)) or a == pytest.approx(p)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


@pytest.mark.parametrize(
    ("n", "alone", "of_eight"), [(3, 2.29, 6.53), (5, 1.36, 2.48), (8, 0.98, 1.53), (10, 0.85, 1.29)]
)
def test_power_agrees_with_simulated_tables(n, alone, of_eight):
    assert power(n, alone, 1.0) == pytest.approx(0.8, abs=0.01)
    assert power(n, of_eight, 1.0, ALPHA / 8) == pytest.approx(0.8, abs=0.01)


def rejections(n, mean, margin, runs=2000):
    samples = np.random.default_rng(0).normal(mean, 1.0, (runs, n))
    return np.mean([paired_test(sample, margin).p_non_inferior < ALPHA for sample in samples])


def test_at_a_true_loss_of_the_margin_one_in_twenty_passes():
    assert rejections(5, mean=-1.36, margin=1.36) == pytest.approx(0.05, abs=0.015)


def test_without_a_true_loss_the_simulated_power_is_the_computed_one():
    assert rejections(5, mean=0.0, margin=1.36) == pytest.approx(power(5, 1.36, 1.0), abs=0.03)
    assert rejections(8, mean=0.0, margin=0.7) == pytest.approx(power(8, 0.7, 1.0), abs=0.03)


@given(ratio=st.floats(0.2, 20), family=st.integers(1, 40))
def test_the_seeds_needed_are_the_fewest_that_have_the_power(ratio, family):
    needed = seeds_needed(ratio, 1.0, family)
    assert needed is not None
    assert needed >= 3
    assert power(needed, ratio, 1.0, ALPHA / family) >= 0.8
    assert needed == 3 or power(needed - 1, ratio, 1.0, ALPHA / family) < 0.8


def test_seeds_needed_says_so_when_no_reasonable_number_would_do():
    assert seeds_needed(0.001, 1.0) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.005, 0.0) == 3
    assert seeds_needed(1e6, 1.0) == 3
