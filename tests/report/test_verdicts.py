"""What may be said of an arm, and what may not."""

import numpy as np
import pytest
from scipy import stats

from compbench.capture.settings import CaptureSettings
from compbench.report.statistics import seeds_needed
from compbench.report.verdicts import judge
from compbench.suite.cell import PluginReference
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


def test_a_metric_that_is_not_a_number_is_no_pair():
    verdict = verdict_of([*REFERENCE[:4], float("nan")])
    assert (verdict.pairs, verdict.dropped) == (4, 1)


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
