"""What may be said in words, and that no sentence says more than its numbers."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compbench.report.findings import findings
from compbench.report.summary import readme
from compbench.report.verdicts import judge
from compbench.suite.cell import PluginReference
from tests.report.made_up import cell, outcome, result, scores

REFERENCE = np.array([0.80, 0.82, 0.84, 0.81, 0.83])
NOISE = np.array([0.001, -0.001, 0.0005, -0.0005, 0.0])


def said(results, margins=None, **fields):
    """The opening, and the sentences on arms."""
    opening, *sentences = findings(outcome(results, margins=margins, **fields))
    return opening, sentences


def sentence(values, margin=0.01, metric="solved", reference=REFERENCE, **fields):
    """What is said of one arm beside the reference."""
    results = scores("none", reference, metric) + scores("int8", values, metric, ratio=1.06)
    _, (found,) = said(results, {metric: margin}, **fields)
    return found


def test_an_arm_that_is_shown_to_lose_less_than_the_margin():
    found = sentence(REFERENCE - 0.001 + 2 * NOISE)
    assert found == (
        "At depth 4 `int8` saves 75 % at 1.06 times the time (1.06 to 1.06 over 5 seeds): "
        "non-inferior within 1 point of solved (loses at most 0.26 points at 95 %)."
    )


def test_the_bound_is_never_told_better_than_it_is():
    values = REFERENCE - 0.001 + 2 * NOISE
    (verdict,) = judge(outcome(scores("none", REFERENCE) + scores("int8", values)), "solved", 0.01)[1:]
    told = float(re.search(r"at most ([\d.]+) points", sentence(values))[1])
    assert -100 * verdict.test.lower_bound <= told < -100 * verdict.test.lower_bound + 0.01
    degraded = REFERENCE - 0.1234 + 2 * NOISE
    (verdict,) = judge(outcome(scores("none", REFERENCE) + scores("int8", degraded)), "solved", 0.01)[1:]
    told = float(re.search(r"at least ([\d.]+) points", sentence(degraded))[1])
    assert -100 * verdict.test.upper_bound - 1 < told <= -100 * verdict.test.upper_bound


@pytest.mark.parametrize(
    ("values", "margin", "clause"),
    [
        (REFERENCE + 0.01 + NOISE, 0.01, "non-inferior within 1 point of solved (loses nothing at 95 %)."),
        (
            REFERENCE - 0.004 + NOISE,
            0.01,
            "non-inferior within 1 point of solved "
            "(it does lose: 0.4 points on average, and at most 0.48 points at 95 %).",
        ),
        (
            REFERENCE - 0.12 + NOISE,
            0.01,
            "degraded by 12 points of solved (at least 11.9 points at 95 %, beyond the margin of 1 point).",
        ),
        (
            REFERENCE - 0.0101 + NOISE,
            0.01,
            "degraded by 1 point of solved "
            "(at least 0.93 points at 95 %, whether beyond the margin of 1 point is open).",
        ),
        (
            REFERENCE + 20 * NOISE,
            0.01,
            "inconclusive on solved: 5 seeds leave a loss of up to 1.6 points open; about 17 seeds would settle it.",
        ),
        (
            REFERENCE + 400 * NOISE,
            0.001,
            "inconclusive on solved: 5 seeds leave a loss of up to 30.2 points open; "
            "more than a thousand seeds would be needed to settle it.",
        ),
        (
            REFERENCE,
            0.01,
            "non-inferior within 1 point of solved (the same score in each of its 5 pairs, "
            "so that there is no spread to test by).",
        ),
        (
            REFERENCE - 0.25,
            0.01,
            "degraded by 25 points of solved (25 points worse in each of its 5 pairs, "
            "so that there is no spread to test by; beyond the margin of 1 point).",
        ),
    ],
)
def test_each_verdict_has_its_words(values, margin, clause):
    assert sentence(values, margin).partition(": ")[2] == clause


def test_among_many_comparisons_what_would_pass_alone_is_said_to():
    values = REFERENCE - 0.005 + 4 * NOISE
    results = scores("none", REFERENCE)
    for arm in "abcdefgh":
        results += scores(arm, values)
    _, sentences = said(results, {"solved": 0.01})
    assert re.search(
        r"inconclusive on solved: by itself it would pass \(it loses at most 0\.81 points at 95 %\), but not among "
        r"8 comparisons \(p 0\.096 after Holm\); about \d+ seeds would settle it\.$",
        sentences[0],
    )


def test_a_metric_of_which_less_is_better_is_told_in_its_own_unit():
    reference = np.array([3.1, 3.4, 3.2, 3.3, 3.15])
    found = sentence(reference + 0.5 + 10 * NOISE, 0.2, "perplexity", reference, lower_is_better=["perplexity"])
    assert found.partition(": ")[2] == (
        "degraded by 0.5 of `perplexity` (at least 0.49 at 95 %, beyond the margin of 0.2)."
    )
    assert "non-inferior" in sentence(
        reference - 0.5 + 10 * NOISE, 0.2, "perplexity", reference, lower_is_better=["perplexity"]
    )


def test_failed_and_missing_seeds_are_told_with_how():
    results = scores("none", REFERENCE) + scores("int8", REFERENCE + NOISE)
    results[-1] = result("int8", seed=4, status="diverged", reason="nan")
    _, (found,) = said(results, {"solved": 0.01}, missing=[cell("int8", seed=5)])
    assert found.startswith("At depth 4 `int8` (1 of 6 seeds failed: diverged, 1 of 6 seeds not run) saves 75 %")
    assert "inconclusive on solved, since 1 of 6 seeds failed (diverged) and those that remain can't show" in found
    assert "would settle" not in found


def test_a_loss_with_a_failed_seed_claims_no_more_than_the_loss():
    results = scores("none", REFERENCE) + scores("int8", REFERENCE - 0.004 + NOISE)
    results.append(result("int8", seed=5, status="oom", reason="no memory"))
    _, (found,) = said(results, {"solved": 0.01})
    assert found.endswith(
        "degraded by 0.4 points of solved (at least 0.32 points at 95 %, at most 0.48 points, within the margin of 1 "
        "point, and 1 seed failed)."
    )


def test_an_arm_without_any_result():
    results = scores("none", REFERENCE[:3])
    results += [result("int8", seed=s, status=status, reason="x") for s, status in enumerate(["oom", "oom", "crashed"])]
    _, (found,) = said(results, {"solved": 0.01})
    assert found == "At depth 4 `int8` has no result: 3 of 3 seeds failed (oom 2, crashed 1)."
    _, (found,) = said(results, {"solved": 0.01}, missing=[cell("int8", seed=3)])
    assert found.endswith("3 of 4 seeds failed (oom 2, crashed 1), the others have not been run.")


def test_a_reference_that_failed_is_told_and_so_is_what_that_means():
    results = [result("none", seed=s, status="oom", reason="x") for s in range(3)] + scores("int8", REFERENCE[:3])
    _, (reference, found) = said(results, {"solved": 0.01})
    assert reference == "At depth 4 `none` has no result: 3 of 3 seeds failed (oom)."
    assert found.endswith(
        "no verdict on solved, since `none` itself failed there (oom), and there is nothing to compare with."
    )


def test_runs_that_did_not_start_alike():
    results = scores("none", REFERENCE) + scores("int8", REFERENCE)
    results[-1] = results[-1].model_copy(update={"weights_hash": "other"})
    _, (found,) = said(results, {"solved": 0.01})
    assert found.endswith(
        "not compared on solved, since initial weights or order of examples differ from the reference's for seed 4."
    )


@pytest.mark.parametrize(
    ("values", "went", "pairs"),
    [([0.75], "5 points worse on solved", "its one pair"), ([0.80, 0.86], "2 points better on solved", "its 2 pairs")],
)
def test_one_or_two_pairs_are_an_observation_and_no_verdict(values, went, pairs):
    opening, (found,) = said(scores("none", REFERENCE[:2]) + scores("int8", values), {"solved": 0.01})
    assert found.endswith(f"no verdict, since 3 pairs are the least ({went}, in {pairs}).")
    assert "these seeds show nothing" in opening


def test_one_seed_has_a_time_with_an_interval_over_its_pairs_and_says_so():
    made = result("int8", metrics={})
    made = made.model_copy(update={"time": made.time.model_copy(update={"ratio_quartiles": (1.4, 1.6), "pairs": 9})})
    opening, (found,) = said([result("none", ratio=1.01), made])
    assert found == "At depth 4 `int8` saves 75 % at 1.50 times the time (1.36 to 1.65 over 9 pairs)."
    assert "over pairs (of steps in the one process that there is, which do not tell how much" in opening
    assert opening.endswith("the plain step timed against itself gives 1.01.")


def test_costs_that_nobody_measured_are_said_to_be_missing():
    _, (found,) = said([result("int8", memory=None, time=None)])
    assert found == "At depth 4 `int8` was not measured for memory and time."
    _, (found,) = said([result("int8", time=None)])
    assert found == "At depth 4 `int8` saves 75 %, and its time was not measured."
    _, (found,) = said([result("int8", memory=None)])
    assert found == "At depth 4 `int8` was not measured for memory and takes 1.50 times the time."


@pytest.mark.parametrize(
    ("saved", "words"),
    [(1_000_000, "saves nothing"), (1_250_000, "keeps 25 % more"), (999, "saves 99.9 %"), (290_000, "saves 71 %")],
)
def test_savings_in_words(saved, words):
    _, (found,) = said([result("int8", saved=saved, time=None)])
    assert found.startswith(f"At depth 4 `int8` {words}, and")


def test_a_suite_without_margins_gets_no_verdict_and_a_word_on_why():
    opening, (found,) = said(scores("none", REFERENCE) + scores("int8", REFERENCE))
    assert opening.startswith("No verdicts: the suite declares no margins, and without a tolerable loss")
    assert found.endswith("over 5 seeds).")


def test_a_metric_that_nobody_measured_is_told_once_with_what_there_is():
    results = scores("none", REFERENCE) + scores("int8", REFERENCE) + scores("laser", REFERENCE)
    opening, sentences = said(results, {"sovled": 0.01})
    assert "Nobody measured `sovled`, for which the suite declares a margin (measured were: `solved`)." in opening
    assert not any("sovled" in found for found in sentences)


def test_what_has_not_been_run_is_named_by_depth():
    missing = [cell("int8", depth=8), cell("laser", depth=8), cell("laser", depth=2)]
    _, sentences = said(scores("none", REFERENCE), {"solved": 0.01}, missing=missing)
    assert sentences == [
        "At depth 2 nothing has been run of `laser`.",
        "At depth 8 nothing has been run of `int8` and `laser`.",
    ]


def test_the_opening_says_what_these_seeds_can_show():
    results = scores("none", REFERENCE)
    for arm in "abcdefgh":
        results += scores(arm, REFERENCE + 20 * NOISE)
    opening, _ = said(results, {"solved": 0.01})
    # The SD is that of 20 * NOISE; five seeds show 2.48 SDs among eight comparisons and 1.36 in one.
    sd = 100 * np.std(20 * NOISE, ddof=1)
    assert "On solved 5 seeds and 8 comparisons, whose paired differences have an SD of 1.6 points, show" in opening
    assert f"{np.ceil(10 * 2.48 * sd) / 10:g}" == "4"
    assert "with 80 % power within 4 points at best (2.2 points if there were only one), if nothing is lost" in opening
    assert re.search(r"the margin of 1 point would take about 3\d seeds\.", opening)
    opening, _ = said(results, {"solved": 0.05})
    assert "if nothing is lost: enough for the margin of 5 points." in opening


def test_the_opening_tells_the_workloads_of_a_suite_apart():
    results = []
    for hidden in (64, 128):
        fields = {
            "variant": {"hidden": hidden},
            "workload": PluginReference(name="trm_maze", fields={"hidden": hidden}),
        }
        results += scores("none", REFERENCE, **fields) + scores("int8", REFERENCE + hidden * NOISE / 8, **fields)
    opening, sentences = said(results, {"solved": 0.05})
    assert "On solved of `hidden=64` 5 seeds and a single comparison" in opening
    assert "On solved of `hidden=128` 5 seeds and a single comparison" in opening
    assert "`int8 hidden=64`" in sentences[0]


def test_a_store_of_failures_alone():
    results = [result(arm, seed=s, status="crashed", reason="x") for arm in ("none", "int8") for s in range(3)]
    opening, sentences = said(results, {"solved": 0.01})
    assert "No cell ended well, so that there is nothing to compare." in opening
    assert [found.partition("has")[0] for found in sentences] == ["At depth 4 `none` ", "At depth 4 `int8` "]


def test_a_single_arm():
    opening, sentences = said(scores("none", REFERENCE), {"solved": 0.01})
    assert opening.startswith("Nothing but the reference `none` has been run")
    assert sentences == []
    _, (found,) = said(scores("int8", REFERENCE), {"solved": 0.01})
    assert found.endswith("`none` has not been run under the same conditions, and there is nothing to compare with.")


HOSTILE = "a`b|c<script>*x*\n# head\x1b[31m"


def test_names_are_no_markup_and_stay_on_their_line():
    results = scores("none", REFERENCE, HOSTILE) + scores(HOSTILE, REFERENCE + NOISE, HOSTILE)
    for found in findings(outcome(results, margins={HOSTILE: 0.01}, missing=[cell(HOSTILE, depth=8)])):
        assert found.isprintable()
        outside = "".join(found.split("`")[::2])  # what stands between backticks is shown as it is
        assert not re.search(r"[<>*#|\\]|script|head", outside)
        assert found.count("`") % 2 == 0


SCORES = st.lists(
    st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, float("nan"), float("inf")]), st.floats(0, 1)),
    min_size=1,
    max_size=5,
)


def record(arm, seed, value):
    if value is None:
        return result(arm, seed=seed, status="failed", reason="x")
    return result(arm, seed=seed, metrics={"solved": value})


@settings(max_examples=80)
@given(
    reference=SCORES, arms=st.lists(SCORES, max_size=3), margin=st.sampled_from([0.001, 0.05, 0.5]), less=st.booleans()
)
def test_whatever_was_recorded_no_sentence_has_a_number_that_is_none_or_claims_what_the_verdict_does_not(
    reference, arms, margin, less
):
    results = [record("none", seed, value) for seed, value in enumerate(reference)]
    for number, values in enumerate(arms):
        results += [record(f"arm{number}", seed, value) for seed, value in enumerate(values)]
    made = outcome(results, margins={"solved": margin}, lower_is_better=["solved"] if less else [])
    found = findings(made)
    assert not any(re.search(r"\bnan\b|\binf\b|None|-0\b", text) for text in found)
    assert not re.search(r"\|\s*(nan|inf|-inf|None)\s*\|", readme(made).partition("## Against")[2])
    decisions = {verdict.arm: verdict for verdict in judge(made, "solved", margin)}
    for text in found[1:]:
        arm = re.match(r"At depth 4 `(.*?)`", text)[1]
        assert ("non-inferior within" in text) == (decisions[arm].decision == "non-inferior")
        assert ("degraded by" in text) == (decisions[arm].decision == "degraded")
        assert ("inconclusive on" in text) == (decisions[arm].decision == "inconclusive")
