"""The tests against scipy's own, textbook numbers, brute force and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compbench.report.statistics import (
    ALPHA,
    holm,
    largest_exact_family,
    p_above,
    paired_test,
    pooled_sd,
    power,
    ratio_over_seeds,
    ratio_within_cell,
    seeds_needed,
    seeds_to_settle,
    sign_flip,
    smallest_margin,
)

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
    interval = stats.ttest_1samp(arm - reference, 0).confidence_interval(0.9)
    assert test.interval == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert (test.lower_bound, test.upper_bound) == test.interval
    one_sample = stats.ttest_1samp(arm - reference, -margin, alternative="greater")
    assert test.p_non_inferior == pytest.approx(one_sample.pvalue, rel=1e-6, abs=1e-12)


def test_many_samples_are_tested_at_once_as_scipy_tests_each():
    samples = np.random.default_rng(0).normal(0.1, 1.0, (4, 7, 6))
    expected = stats.ttest_1samp(samples, -0.3, axis=-1, alternative="greater").pvalue
    np.testing.assert_allclose(p_above(samples, -0.3), expected, rtol=1e-9)
    samples[2, 3] = 0.25  # no spread: decided by the sign
    assert p_above(samples, -0.3)[2, 3] == 0
    assert p_above(samples, 0.25)[2, 3] == 1


@pytest.mark.parametrize("magnitude", [1e-9, 1.0, 1e6])
def test_what_is_rounding_depends_on_the_size_of_the_scores(magnitude):
    scores = np.array([0.9, 0.1, 0.3, 0.77, 0.5]) * magnitude
    equal = (scores + 0.001 * magnitude) - scores
    assert paired_test(equal, 0.01 * magnitude, magnitude).sd == 0
    spread = paired_test(0.001 * scores, 0.01 * magnitude, magnitude)
    assert spread.sd == pytest.approx(np.std(0.001 * scores, ddof=1))
    assert 0 < spread.p_non_inferior < 1


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


@pytest.mark.parametrize(("n", "family"), [(3, 0), (4, 0), (5, 1), (8, 12), (10, 51)])
def test_the_largest_family_in_which_the_exact_test_can_reject(n, family):
    assert largest_exact_family(n) == family
    floor = paired_test(np.linspace(0.1, 0.2, n), 0.005).exact_floor
    assert paired_test(np.linspace(0.1, 0.2, n), 0.005).exact_can_pass == (family > 0)
    # The smallest p-value can be in every place of the family.
    if family:
        assert holm([floor] * family)[0] < ALPHA
    assert holm([floor] * (family + 1))[0] > ALPHA


def closed_testing(p_values):
    """Holm's adjusted p-values by what they are: the largest of Bonferroni's over all sets that hold a hypothesis."""
    m = len(p_values)
    subsets = [s for size in range(1, m + 1) for s in itertools.combinations(range(m), size)]
    return [max(min(1, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s) for i in range(m)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_closed_testing_with_bonferronis_test(p_values):
    assert holm(p_values) == pytest.approx(closed_testing(p_values))


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


@pytest.mark.parametrize(("margin", "chance"), [(1.0, 0.30), (1.5, 0.74), (2.0, 0.95)])
def test_the_interval_is_within_the_margins_as_often_as_two_one_sided_tests_pass(margin, chance):
    # Simulated by others for five pairs and no true difference.
    samples = np.random.default_rng(1).normal(0.0, 1.0, (800, 5))
    intervals = np.array([paired_test(sample, margin).interval for sample in samples])
    assert (np.abs(intervals) < margin).all(axis=1).mean() == pytest.approx(chance, abs=0.04)


@given(n=st.integers(2, 300), effect=st.floats(0.001, 60), level=st.sampled_from([0.05, 0.05 / 8, 0.05 / 100]))
def test_power_is_that_of_scipys_noncentral_distribution(n, effect, level):
    expected = stats.nct.sf(stats.t.isf(level, n - 1), n - 1, min(effect, 50) * np.sqrt(n))
    assert power(n, effect * 2.0, 2.0, level) == pytest.approx(expected, abs=1e-9)


def test_power_is_known_where_the_quick_series_does_not_converge():
    assert power(8, 20.0, 1.0, ALPHA / 8) == pytest.approx(1.0)
    assert power(20, 11.0, 1.0, ALPHA / 100) == pytest.approx(1.0)


def rejections(n, mean, margin, runs=20_000):
    samples = np.random.default_rng(0).normal(mean, 1.0, (runs, n))
    assert p_above(samples[:3], -margin) == pytest.approx([paired_test(s, margin).p_non_inferior for s in samples[:3]])
    return np.mean(p_above(samples, -margin) < ALPHA)


def test_at_a_true_loss_of_the_margin_one_in_twenty_passes():
    for n in (3, 5, 10):
        assert rejections(n, mean=-1.36, margin=1.36) == pytest.approx(0.05, abs=0.005)


def test_without_a_true_loss_the_simulated_power_is_the_computed_one():
    assert rejections(5, mean=0.0, margin=1.36) == pytest.approx(power(5, 1.36, 1.0), abs=0.01)
    assert rejections(8, mean=0.0, margin=0.7) == pytest.approx(power(8, 0.7, 1.0), abs=0.01)


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


@given(n=st.integers(2, 60), family=st.integers(1, 40), sd=st.floats(0.001, 100))
def test_the_smallest_margin_is_the_one_with_the_power(n, family, sd):
    found = smallest_margin(n, sd, family)
    if found is None:
        assert power(n, 50.0, 1.0, ALPHA / family) < 0.8
    else:
        assert power(n, found, sd, ALPHA / family) == pytest.approx(0.8, abs=1e-4)


def test_the_smallest_margin_and_the_seeds_needed_say_the_same():
    for n in (4, 7, 12):
        margin = smallest_margin(n, 2.0, 8)
        assert seeds_needed(margin * 1.0001, 2.0, 8) == n
        assert seeds_needed(margin * 0.999, 2.0, 8) == n + 1


def test_a_comparison_is_settled_whichever_way_is_nearer():
    assert seeds_to_settle(0.0, 1.0, 1.0) == seeds_needed(1.0, 1.0)
    assert seeds_to_settle(5.0, 1.0, 1.0) == seeds_needed(1.0, 1.0)  # an observed gain is not counted on
    assert seeds_to_settle(-0.4, 1.0, 1.0) == seeds_needed(0.6, 1.0)
    assert seeds_to_settle(-0.7, 1.0, 1.0) == seeds_needed(0.7, 1.0)  # as a loss
    assert seeds_to_settle(-3.0, 1.0, 1.0, 8) == seeds_needed(3.0, 1.0, 8)
    assert seeds_to_settle(-0.5, 1.0, 1.0) == max(seeds_to_settle(mean, 1.0, 1.0) for mean in np.linspace(-2, 1, 61))


@pytest.mark.parametrize("mean", [0.0, -0.3, -0.8])
def test_so_many_seeds_do_settle_it_four_times_in_five(mean):
    needed = seeds_to_settle(mean, 1.0, 1.0)
    samples = np.random.default_rng(2).normal(mean, 1.0, (4000, needed))
    settled = (p_above(samples, -1.0) < ALPHA) | (p_above(-samples, 0.0) < ALPHA)
    assert settled.mean() > 0.79


@given(values=SPREAD, margin=st.floats(0.001, 0.2), family=st.integers(1, 20))
def test_what_is_not_settled_needs_more_seeds_than_there_are(values, margin, family):
    test = paired_test(np.array(values) / 1e4, margin)
    if test.p_non_inferior * family >= ALPHA and test.p_worse * family >= ALPHA:
        needed = seeds_to_settle(test.mean, test.sd, margin, family)
        assert needed is None or needed > test.n


def test_one_spread_for_several_comparisons_is_the_residual_of_an_analysis_of_variance():
    samples = [np.array([1.0, 2.0, 4.0]), np.array([0.0, 5.0, 5.0, 9.0, -3.0]), np.array([2.0, 2.0, 2.0])]
    within = sum(((sample - sample.mean()) ** 2).sum() for sample in samples) / sum(len(s) - 1 for s in samples)
    assert pooled_sd([paired_test(sample, 1.0) for sample in samples]) == pytest.approx(np.sqrt(within))


def test_a_ratio_over_seeds_is_the_geometric_mean_with_the_t_interval_of_its_logarithm():
    ratios = [1.1, 1.3, 0.9, 1.25]
    made = ratio_over_seeds(ratios)
    interval = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.9)
    assert made.value == pytest.approx(stats.gmean(ratios))
    assert (made.low, made.high) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    assert (made.n, made.over) == (4, "seeds")
    assert ratio_over_seeds([1.5]) == ratio_over_seeds([1.5]).__class__(pytest.approx(1.5), None, None, 1, "seeds")


@pytest.mark.parametrize("pairs", [3, 4, 5, 9, 12, 15, 16, 25, 60])
def test_the_interval_of_a_cells_pairs_holds_the_true_ratio_nine_times_in_ten(pairs):
    ratios = np.exp(0.1 * np.random.default_rng(pairs).standard_normal((3000, pairs))) * 1.5
    lower, upper = np.quantile(ratios, [0.25, 0.75], axis=1)
    made = [
        ratio_within_cell(float(m), (float(a), float(b)), pairs)
        for m, a, b in zip(np.median(ratios, axis=1), lower, upper, strict=True)
    ]
    assert np.mean([m.low <= 1.5 <= m.high for m in made]) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(("quartiles", "pairs"), [((1.4, 1.6), 2), ((1.5, 1.5), 9), ((0.0, 1.6), 9)])
def test_where_pairs_tell_nothing_there_is_no_interval(quartiles, pairs):
    made = ratio_within_cell(1.5, quartiles, pairs)
    assert (made.value, made.low, made.high, made.n, made.over) == (1.5, None, None, pairs, "pairs")
