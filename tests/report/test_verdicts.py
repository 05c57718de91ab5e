"""What may be said of an arm, and what may not."""

import numpy as np
import pytest
from scipy import stats

from compbench.capture.settings import CaptureSettings
from compbench.report.outcome import Outcome
from compbench.report.statistics import seeds_needed, seeds_to_settle
from compbench.report.verdicts import judge, why_no_verdict
from compbench.suite.cell import Measuring, PluginReference, Training
from tests.report.made_up import cell, outcome, result, scores

REFERENCE = [0.80, 0.82, 0.84, 0.81, 0.83]
NOISE = np.array([0.001, -0.001, 0.0005, -0.0005, 0.0])


def verdicts(results, margin=0.01, metric="solved", **fields):
    return {(v.arm, v.depth): v for v in judge(outcome(results, **fields), metric, margin)}


def verdict_of(values, margin=0.01, **fields):
    return verdicts(scores("none", REFERENCE) + scores("laser", values), margin, **fields)["laser", 4]


def test_a_loss_below_the_margin_is_non_inferior_with_the_p_value_of_the_shifted_test():
    values = np.array(REFERENCE) - 0.002 + NOISE
    verdict = verdict_of(values)
    assert (verdict.decision, verdict.pairs, verdict.dropped) == ("non-inferior", 5, 0)
    expected = stats.ttest_rel(values, np.array(REFERENCE) - 0.01, alternative="greater").pvalue
    assert verdict.adjusted_p == pytest.approx(expected)
    assert verdict.correlation == pytest.approx(np.corrcoef(values, REFERENCE)[0, 1])


def test_a_shown_loss_within_the_margin_is_named():
    verdict = verdict_of(np.array(REFERENCE) - 0.004 + NOISE)
    assert verdict.decision == "non-inferior"
    assert verdict.note == "worse than the reference, by less than the margin"


@pytest.mark.parametrize(("loss", "note"), [(0.05, "beyond the margin"), (0.0101, "")])
def test_a_shown_loss_is_degraded(loss, note):
    verdict = verdict_of(np.array(REFERENCE) - loss + NOISE)
    assert (verdict.decision, verdict.note) == ("degraded", note)


def test_a_large_spread_is_inconclusive_and_says_how_many_seeds_would_settle_it():
    verdict = verdict_of(np.array(REFERENCE) + 20 * NOISE)
    assert verdict.decision == "inconclusive"
    assert verdict.test.sd == pytest.approx(np.std(20 * NOISE, ddof=1))
    # Normal approximation: ((1.645 + 0.842) SD / margin) ^ 2, plus a little for the t distribution.
    approximation = ((1.645 + 0.842) * verdict.test.sd / 0.01) ** 2
    assert approximation < verdict.seeds_needed < approximation + 4


def test_the_more_comparisons_the_more_seeds_are_needed():
    values = np.array(REFERENCE) + 20 * NOISE
    alone = verdict_of(values)
    both = verdicts(scores("none", REFERENCE) + scores("laser", values) + scores("int8", values))["laser", 4]
    assert both.seeds_needed == seeds_needed(0.01, alone.test.sd, family=2) > alone.seeds_needed


def test_two_pairs_are_not_tested():
    results = scores("none", REFERENCE[:2]) + scores("laser", REFERENCE[:2])
    verdict = verdicts(results)["laser", 4]
    assert (verdict.decision, verdict.pairs, verdict.test) == ("not tested", 2, None)


def test_identical_runs_are_non_inferior():
    verdict = verdict_of(REFERENCE)
    assert (verdict.decision, verdict.adjusted_p) == ("non-inferior", 0.0)


def test_a_reference_that_has_learnt_nothing_shows_nothing():
    results = scores("none", [0.0] * 5) + scores("laser", [0.0] * 5)
    verdict = verdicts(results)["laser", 4]
    assert verdict.decision == "not tested"
    assert "nothing to lose" in verdict.note


@pytest.mark.parametrize("field", ["weights_hash", "order_hash"])
@pytest.mark.parametrize("value", ["other", ""])
def test_runs_that_did_not_start_alike_are_never_compared(field, value):
    results = scores("none", REFERENCE) + scores("laser", REFERENCE)
    results[-1] = results[-1].model_copy(update={field: value})
    verdict = verdicts(results)["laser", 4]
    assert (verdict.decision, verdict.test) == ("not paired", None)
    assert verdict.note.endswith("for seed 4")


def test_without_hashes_on_both_sides_nothing_is_known_to_be_paired():
    blank = {"weights_hash": "", "order_hash": ""}
    results = scores("none", REFERENCE, **blank) + scores("laser", REFERENCE, **blank)
    assert verdicts(results)["laser", 4].decision == "not paired"


def test_a_failed_seed_is_dropped_counted_and_rules_out_non_inferiority():
    results = scores("none", REFERENCE) + scores("laser", REFERENCE)
    results[-1] = result("laser", seed=4, status="diverged", reason="loss is nan")
    verdict = verdicts(results)["laser", 4]
    assert (verdict.decision, verdict.pairs, verdict.dropped) == ("inconclusive", 4, 1)
    assert verdict.note.startswith("1 of its seeds failed")


def test_a_failed_seed_does_not_hide_a_loss():
    results = scores("none", REFERENCE) + scores("laser", np.array(REFERENCE) - 0.1 + NOISE)
    results[-1] = result("laser", seed=4, status="oom", reason="no memory")
    assert verdicts(results)["laser", 4].decision == "degraded"


def test_seeds_that_are_missing_or_that_the_reference_lost_are_dropped_and_counted():
    results = scores("none", REFERENCE[:4]) + scores("laser", REFERENCE)
    results[3] = result("none", seed=3, status="timeout", reason="too long")
    verdict = verdicts(results, missing=[cell(seed=5)])["laser", 4]
    assert (verdict.decision, verdict.pairs, verdict.dropped) == ("non-inferior", 3, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_finite_number_is_no_pair_and_a_failed_seed(value):
    verdict = verdict_of([*REFERENCE[:4], value])
    assert (verdict.pairs, verdict.dropped, verdict.failed) == (4, 1, 1)
    assert verdict.decision == "inconclusive"


def test_a_seed_that_was_skipped_for_a_failure_counts_as_failed():
    results = scores("none", REFERENCE) + scores("laser", REFERENCE)
    results[-1] = result("laser", seed=4, status="skipped", reason="out of memory at depth 2")
    verdict = verdicts(results)["laser", 4]
    assert (verdict.decision, verdict.failed) == ("inconclusive", 1)


def test_a_reference_that_failed_takes_its_pair_and_no_verdict_with_it():
    results = scores("none", REFERENCE) + scores("laser", REFERENCE)
    results[4] = result("none", seed=4, status="oom", reason="no memory")
    verdict = verdicts(results)["laser", 4]
    assert (verdict.decision, verdict.pairs, verdict.dropped, verdict.failed) == ("non-inferior", 4, 1, 0)


@pytest.mark.parametrize("loss", [0.002, 0.05])
def test_where_less_is_better_more_is_a_loss(loss):
    reference = np.array([3.1, 3.4, 3.2, 3.3, 3.15])
    results = scores("none", reference, "perplexity") + scores("laser", reference + loss + NOISE, "perplexity")
    found = verdicts(results, metric="perplexity", lower_is_better=["perplexity"])["laser", 4]
    assert found.test.mean == pytest.approx(-loss)
    assert found.decision == ("non-inferior" if loss < 0.01 else "degraded")
    mistaken = verdicts(results, metric="perplexity")["laser", 4]
    assert mistaken.test.mean == pytest.approx(loss)


def test_where_less_is_better_a_reference_of_nothing_is_perfect_and_can_be_lost_against():
    results = scores("none", [0.0] * 5, "error") + scores("laser", np.array([0.2] * 5) + NOISE, "error")
    found = verdicts(results, metric="error", lower_is_better=["error"])["laser", 4]
    assert (found.decision, found.beyond) == ("degraded", True)


def test_a_reference_within_the_margin_of_nothing_is_not_tested():
    results = scores("none", [0.01, 0.02, 0.03]) + scores("laser", [0.0] * 3)
    verdict = verdicts(results, margin=0.05)["laser", 4]
    assert (verdict.decision, verdict.test) == ("not tested", None)
    assert "an arm which scores 0 would pass" in verdict.note
    assert verdicts(results, margin=0.015)["laser", 4].test


def test_a_shown_loss_within_the_margin_with_a_failed_seed_is_degraded_and_says_why():
    results = scores("none", REFERENCE) + scores("laser", np.array(REFERENCE) - 0.004 + NOISE)
    results.append(result("laser", seed=5, status="crashed", reason="gone"))
    results.append(result("none", seed=5, metrics={"solved": 0.8}))
    verdict = verdicts(results)["laser", 4]
    assert (verdict.decision, verdict.beyond) == ("degraded", False)
    assert verdict.note.startswith("1 of its seeds failed")


def test_an_inconclusive_comparison_never_asks_for_as_many_seeds_as_there_are():
    verdict = verdict_of(np.array(REFERENCE) - 0.0095 + 2 * NOISE)
    assert verdict.decision == "degraded"
    verdict = verdict_of(np.array(REFERENCE) - 0.009 + 15 * NOISE)
    assert verdict.decision == "inconclusive"
    assert verdict.seeds_needed == seeds_to_settle(verdict.test.mean, verdict.test.sd, 0.01) > 5


@pytest.mark.parametrize(
    "fields", [{"device": "cuda"}, {"measuring": Measuring(allocator="default")}, {"training": Training(steps=21)}]
)
def test_what_was_run_under_other_conditions_is_no_pair(fields):
    results = scores("none", REFERENCE) + scores("laser", REFERENCE, **fields)
    verdict = verdicts(results)["laser", 4]
    assert (verdict.pairs, verdict.mean) == (0, None)
    assert verdict.note == "`none` has not been run under the same conditions, and there is nothing to compare with"


def test_a_reference_that_failed_for_every_seed_is_named_with_how():
    results = [result("none", seed=seed, status="oom", reason="no memory") for seed in range(3)]
    verdict = verdicts(results + scores("laser", REFERENCE[:3]))["laser", 4]
    assert verdict.note == "`none` itself failed there (oom), and there is nothing to compare with"


def test_an_arm_of_failures_has_no_verdict_and_says_so():
    results = scores("none", REFERENCE[:3])
    results += [result("laser", seed=seed, status="oom", reason="no memory") for seed in range(3)]
    verdict = verdicts(results)["laser", 4]
    assert (verdict.decision, verdict.failed, verdict.note) == ("not tested", 3, "no seed ended well")


def test_a_suite_without_margins_says_why_there_is_no_verdict():
    made = outcome(scores("none", REFERENCE))
    assert why_no_verdict(made).startswith("no verdicts: the suite declares no margins")
    assert why_no_verdict(outcome(scores("none", REFERENCE), margins={"solved": 0.1})) == ""


def simulated(random, losses, margin, n=5):
    """An outcome of arms with these true losses; their differences from the one reference have an SD of 1 %."""
    reference = 0.8 + 0.01 * random.standard_normal(n) / np.sqrt(2)
    values = {"none": reference}
    for number, loss in enumerate(losses):
        values[f"arm{number}"] = 0.8 - loss + 0.01 * random.standard_normal(n) / np.sqrt(2)
    records = {}
    for arm, scored in values.items():
        for seed in range(n):
            if (arm, seed) not in TEMPLATES:
                TEMPLATES[arm, seed] = result(arm, seed=seed)
            template = TEMPLATES[arm, seed]
            metrics = {"solved": float(scored[seed])}
            records[template.key] = template.model_copy(update={"metrics": metrics})
    return Outcome("made_up", "", {"solved": margin}, list(records), "", records)


TEMPLATES = {}
"""Records by arm and seed, of which only the metrics change: making one takes longer than judging it."""


def claims(losses, margin, runs):
    """How often each arm is called non-inferior, and how often any that loses the margin is."""
    random = np.random.default_rng(0)
    each, wrong = np.zeros(len(losses)), 0
    for _ in range(runs):
        found = judge(simulated(random, losses, margin), "solved", margin)
        claimed = np.array([v.decision == "non-inferior" for v in found if v.decision != "reference"])
        each += claimed
        wrong += bool((claimed & (np.array(losses) >= margin)).any())
    return each / runs, wrong / runs


def test_among_arms_that_share_a_reference_any_false_claim_is_rarer_than_one_in_twenty():
    margin = 0.0248  # 2.48 SDs, in which five seeds and eight comparisons have 80 % power
    each, wrong = claims([0.0] * 4 + [margin] * 4, margin, runs=300)
    assert wrong < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
    assert each[:4].mean() > 0.78


def test_one_comparison_has_the_power_of_the_table():
    each, _ = claims([0.0], 0.0136, runs=1500)
    assert each[0] == pytest.approx(0.8, abs=0.02)


def test_an_unknown_metric_is_named_with_those_that_there_are():
    results = scores("none", REFERENCE) + scores("laser", REFERENCE)
    verdict = verdicts(results, metric="sovled")["laser", 4]
    assert (verdict.decision, verdict.note) == ("not tested", "it was not measured (measured were: `solved`)")


def test_the_reference_is_the_arm_of_that_strategy_whatever_the_arm_is_called():
    results = scores("plain", REFERENCE, strategy=("none",)) + scores("none", REFERENCE, strategy=("none", "int8"))
    found = verdicts(results)
    assert found["plain", 4].decision == "reference"
    assert found["none", 4].decision == "non-inferior"


def test_without_a_reference_nothing_is_tested():
    assert verdicts(scores("laser", REFERENCE))["laser", 4].decision == "not tested"


def test_pairs_are_of_one_depth():
    results = scores("none", REFERENCE, depth=2) + scores("laser", REFERENCE, depth=4)
    assert verdicts(results)["laser", 4].pairs == 0


def test_an_axis_of_the_strategy_alone_is_paired_with_the_one_reference():
    results = scores("none", REFERENCE)
    for rank in (8, 16):
        results += scores("laser", REFERENCE, variant={"laser.rank": rank})
    found = verdicts(results)
    assert [found[f"laser laser.rank={rank}", 4].pairs for rank in (8, 16)] == [5, 5]


def test_an_axis_of_the_workload_is_paired_with_the_reference_of_the_same_value():
    results = []
    for hidden, shift in ((64, 0.0), (128, 0.1)):
        fields = {
            "variant": {"hidden": hidden},
            "workload": PluginReference(name="trm_maze", fields={"hidden": hidden}),
        }
        results += scores("none", np.array(REFERENCE) + shift, **fields)
        results += scores("laser", np.array(REFERENCE) + shift - 0.05 + NOISE, **fields)
    found = verdicts(results)
    for hidden in (64, 128):
        assert found[f"laser hidden={hidden}", 4].test.mean == pytest.approx(-0.05)


def test_an_axis_of_capture_is_paired_with_the_reference_of_the_same_value():
    results = []
    for attention, shift in (("raw", 0.0), ("recompute", 0.1)):
        fields = {"variant": {"attention": attention}, "capture": CaptureSettings(attention=attention)}
        results += scores("none", np.array(REFERENCE) + shift, **fields)
        results += scores("laser", np.array(REFERENCE) + shift, **fields)
    found = verdicts(results)
    for attention in ("raw", "recompute"):
        assert found[f"laser attention={attention}", 4].test.mean == pytest.approx(0.0, abs=1e-12)


def hidden(width):
    """Fields of cells of a workload with this width."""
    return {
        "variant": {"hidden": width},
        "workload": PluginReference(name="trm_maze", fields={"hidden": width}),
    }


def test_each_workload_of_a_suite_is_a_family_of_its_own():
    values = np.array(REFERENCE) - 0.007 + 2 * NOISE
    alone = verdict_of(values)
    results = []
    for width, arms in ((64, "ab"), (128, "abcd")):
        results += scores("none", REFERENCE, **hidden(width))
        for arm in arms:
            results += scores(arm, values, **hidden(width))
    found = verdicts(results)
    for width, family in ((64, 2), (128, 4)):
        verdict = found[f"a hidden={width}", 4]
        assert verdict.family == family
        assert verdict.adjusted_p == pytest.approx(family * alone.adjusted_p)
    assert found["a hidden=64", 4].workload != found["a hidden=128", 4].workload


def test_axes_of_training_and_of_arms_stay_in_the_family():
    values = np.array(REFERENCE) - 0.007 + 2 * NOISE
    results = []
    for steps in (20, 40):
        fields = {"training": Training(steps=steps)}
        results += scores("none", REFERENCE, variant={"steps": steps}, **fields)
        for rank in (8, 16):
            results += scores("laser", values, variant={"steps": steps, "laser.rank": rank}, **fields)
    assert {verdict.family for verdict in verdicts(results).values() if verdict.test} == {4}


def test_holms_family_is_every_arm_and_depth_that_is_tested():
    values = np.array(REFERENCE) - 0.007 + 2 * NOISE  # p is about 0.008: enough alone, not among sixteen
    alone = verdict_of(values)
    assert alone.decision == "non-inferior"
    results = []
    for depth in (2, 4, 8, 16):
        results += scores("none", REFERENCE, depth=depth)
        for arm in ("a", "b", "c", "d"):
            results += scores(arm, values, depth=depth)
    results += scores("none", REFERENCE[:2], depth=32) + scores("a", REFERENCE[:2], depth=32)  # not tested
    found = verdicts(results)
    assert found["a", 2].adjusted_p == pytest.approx(16 * alone.adjusted_p)
    assert {found[arm, depth].decision for arm in "abcd" for depth in (2, 4, 8, 16)}.isdisjoint({"non-inferior"})


def test_what_has_not_been_run_has_no_verdict():
    results = scores("none", REFERENCE) + scores("laser", REFERENCE)
    assert list(verdicts(results, missing=[cell("int8")])) == [("none", 4), ("laser", 4)]
