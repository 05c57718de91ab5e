"""Tables that sort by what they show."""

import math

import pytest

from compbench.report.formats import Table
from compbench.report.page.tables import quantity, sortable


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("71.8", 71.8),
        ("-0.1154", -0.1154),
        ("1,234,567", 1234567),
        ("3.00e-07", 3e-7),
        ("85.90 ± 8.06", 85.9),
        ("21.6 [5.1, 38.0]", 21.6),
        ("0.0312 (0.0156)", 0.0312),
        ("3/5", 3),
        ("-", None),
        ("", None),
        ("unknown", None),
    ],
)
def test_a_number_is_sorted_by_the_first_number_that_is_shown(text, number):
    assert quantity(text).number == number
    assert quantity(text).text == text


def test_what_is_shown_as_nearly_one_comes_between():
    texts = ["0.9998", "0.9999", ">0.9999", "1.0000"]
    numbers = [quantity(text).number for text in texts]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 4
    assert quantity("<0.01").number < quantity("0.01").number


@pytest.mark.parametrize("text", ["nan", "nan ± nan", "inf", "-inf", "NaN", "Infinity"])
def test_what_is_not_finite_is_no_number(text):
    found = quantity(text)
    assert found.text == "not finite"
    assert found.number is None


def test_rows_are_chosen_by_arm_depth_status_and_verdict_where_these_differ():
    headers = ["arm", "depth", "status", "seeds", "solved verdict"]
    cells = [
        ["none", "16", "ok", "2", "reference"],
        ["int8", "4", "ok", "3", "degraded"],
        ["int8", "16", "ok", "3", "-"],
    ]
    table = sortable("name", "title", Table(headers, cells, ("arm", "status", "solved verdict")))
    choices = {column.header: column.choices for column in table.columns}
    assert choices == {
        "arm": ("none", "int8"),
        "depth": ("4", "16"),
        "status": (),
        "seeds": (),
        "solved verdict": ("reference", "degraded", "-"),
    }


def test_the_best_and_the_tone_of_a_cell_come_along():
    table = Table(
        ["arm", "solved"],
        [["a", "1.0"], ["b", "2.0"]],
        ("arm",),
        best={(1, 1)},
        best_sentence="bold.",
        tones={(0, 0): "bad"},
    )
    found = sortable("name", "title", table)
    assert [[(v.best, v.tone) for v in row] for row in found.rows] == [
        [(False, "bad"), (False, "")],
        [(False, ""), (True, "")],
    ]
    assert found.sentences == ["bold."]
    assert not math.isnan(found.rows[0][1].number)
