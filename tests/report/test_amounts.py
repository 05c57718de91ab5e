"""Numbers in sentences: short, with their unit, and never better than they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compbench.report.amounts import amount, called, tolerance

VALUES = st.floats(1e-7, 1e6)


@given(VALUES)
def test_rounded_up_it_is_no_less_and_rounded_down_no_more(value):
    up, down = (float(amount("norm", value, rounding)) for rounding in ("up", "down"))
    assert down <= value * (1 + 1e-8)
    assert up >= value * (1 - 1e-8)
    assert up - down <= 0.11 * value


@given(VALUES)
def test_the_nearest_is_within_a_twentieth(value):
    assert float(amount("norm", -value)) == pytest.approx(value, rel=0.051)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("solved", 0.12, "12 points"),
        ("solved", -0.004, "0.4 points"),
        ("solved", 0.01, "1 point"),
        ("solved", 0.00999, "1 point"),
        ("solved", 0.0, "0 points"),
        ("perplexity", 0.25, "0.25"),
        ("perplexity", 3141.59, "3100"),
        ("perplexity", 1e-9, "1.0e-09"),
    ],
)
def test_amounts_have_their_unit(metric, value, text):
    assert amount(metric, value) == text


def test_what_is_round_is_not_rounded_further():
    assert amount("solved", 0.07, "up") == "7 points"
    assert amount("solved", 0.29, "down") == "29 points"


def test_a_margin_is_told_as_it_was_declared():
    assert [tolerance("solved", margin) for margin in (0.05, 0.01, 0.005)] == ["5 points", "1 point", "0.5 points"]
    assert tolerance("perplexity", 0.125) == "0.125"


def test_known_metrics_are_words_and_others_are_names():
    assert [called(metric) for metric in ("token_accuracy", "bits_per_token")] == ["token accuracy", "`bits_per_token`"]
