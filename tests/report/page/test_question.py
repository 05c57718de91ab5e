"""The question that a suite asks, in words."""

import pytest

from compbench.report.page.question import question
from tests.report.made_up import cell, outcome, result


def test_several_arms_are_asked_about_against_the_reference_with_their_margins():
    results = [result(arm, depth) for depth in (8, 2) for arm in ("none", "laser", "int8")]
    assert question(outcome(results, margins={"solved": 0.05, "token_accuracy": 0.005})) == (
        "How much less does a step under `laser` and `int8` hold for its backward pass than one under `none` at "
        "recursion depths 2 and 8, what do their steps cost in time, and do they lose less than 5 points of solved and "
        "0.5 points of token accuracy?"
    )


def test_one_arm_is_one_and_without_margins_what_is_measured_is_named():
    assert question(outcome([result("none"), result("laser")])) == (
        "How much less does a step under `laser` hold for its backward pass than one under `none` at recursion depth "
        "4, what do its steps cost in time, and what becomes of token accuracy and solved?"
    )


def test_one_arm_is_asked_whether_it_loses():
    asked = question(outcome([result("none"), result("laser")], margins={"solved": 0.01}))
    assert asked.endswith("what do its steps cost in time, and does it lose less than 1 point of solved?")


def test_an_arm_that_compresses_nothing_is_the_reference_whatever_it_is_called():
    results = [result("plain", strategy=("none",)), result("laser")]
    assert "than one under `plain` at" in question(outcome(results))


@pytest.mark.parametrize(
    ("results", "start"),
    [
        (
            [result("none")],
            "What does a step without compression hold for its backward pass at recursion depth 4, and ",
        ),
        ([result("laser")], "What does a step under `laser` hold for its backward pass at recursion depth 4, what "),
        (
            [result("none"), *(result(f"arm{number}") for number in range(9))],
            "How much less does a step under each of 9 arms hold",
        ),
        (
            [result("none", status="failed", reason="no"), result("laser", status="oom", reason="no")],
            "How much less does a step under `laser` hold for its backward pass than one under `none` at recursion "
            "depth 4, and what do its steps cost in time?",
        ),
    ],
)
def test_what_is_not_there_is_not_asked_about(results, start):
    asked = question(outcome(results))
    assert asked.startswith(start)
    assert asked.endswith("?")


def test_cells_that_were_not_run_are_asked_about_too():
    assert "`int8`" in question(outcome([result("none")], missing=[cell("int8")]))
