"""Tables on a terminal: what a screen of some width shows, and what a pipe gets."""

import re

import pytest
from rich.cells import cell_len

from compbench.errors import SettingsError
from compbench.report.formats import Screen, Table, as_text
from tests.report.formats.hostile import TEXTS, table

ESCAPE = re.compile(r"\x1b\[([\d;]*)m")
WIDE = [f"{number * 111_111_111}.5" for number in range(1, 8)]


def wide(**fields):
    headers = ["arm", "depth", *(f"column {place}" for place in range(7))]
    rows = [[arm, depth, *WIDE] for arm in ("laser", "int8") for depth in ("4", "8")]
    return Table(headers, rows, words=["arm"], **fields)


def grid(text):
    """The lines of a table's rows, as lists of cells, part by part."""
    return [[re.split(r" {2,}", line) for line in part.splitlines()] for part in text.split("\n\n")]


def test_a_pipe_gets_lines_as_long_as_they_need_be_and_no_escapes():
    text = as_text(wide(sentences=["x " * 200]), "terminal")
    assert "\x1b" not in text
    header, rule, *rows = text.split("\n\n")[0].splitlines()
    assert header.split()[:2] == ["arm", "depth"]
    assert set(rule) == {"─"}
    assert [row.split() for row in rows] == [list(row) for row in wide().cells]
    assert len({len(row) for row in rows}) == 1
    assert text.splitlines()[-1] == f"- {('x ' * 200).strip()}"


@pytest.mark.parametrize("name", ["COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"])
def test_nothing_depends_on_the_environment(monkeypatch, name):
    screens = (None, Screen(70, styles=True, colours=True))
    expected = [as_text(wide(best={(0, 2)}, tones={(0, 0): "bad"}), "terminal", screen) for screen in screens]
    monkeypatch.setenv(name, "33")
    assert [as_text(wide(best={(0, 2)}, tones={(0, 0): "bad"}), "terminal", screen) for screen in screens] == expected


@pytest.mark.parametrize("width", [40, 60, 80, 100, 130])
def test_a_table_that_is_too_wide_is_shown_in_parts_that_each_fit(width):
    text = as_text(
        wide(sentences=["a sentence of more than forty letters is broken into lines"]), "terminal", Screen(width)
    )
    assert max(map(cell_len, text.splitlines())) <= width
    parts = grid(text)[:-1]
    assert [row for part in parts for row in part if row[0] == "laser"]
    for place, expected in enumerate(wide().cells):
        rows = [part[-4 + place] for part in parts]
        assert [row[:2] for row in rows] == [list(expected[:2])] * len(parts)  # every part says whose its rows are
        assert [cell for row in rows for cell in row[2:]] == list(expected[2:])


def test_a_number_is_not_broken_even_where_a_line_has_no_room_for_it():
    text = as_text(wide(), "terminal", Screen(5))
    for number in WIDE:
        assert number in text


def test_long_words_are_broken_into_lines_before_a_table_is():
    told = "a strategy that has very much to say of itself in its own words"
    text = as_text(
        Table(["arm", "n", "says"], [["laser", "12345", told]], words=["arm", "says"]), "terminal", Screen(44)
    )
    assert "\n\n" not in text
    assert max(map(cell_len, text.splitlines())) <= 44
    assert [line.split()[0] for line in text.splitlines()[1:]].count("laser") == 1
    assert re.sub(r"\s+", " ", text).strip().endswith("of itself in its own words") or "own words" in text


def test_headers_are_no_wider_than_what_stands_under_them_if_their_words_allow():
    header, second, *_ = as_text(
        Table(["gradient cosine", "saved MB"], [["0.9", "1"]], words=[]), "terminal"
    ).splitlines()
    assert (header.split(), second.split()) == (["gradient", "saved"], ["cosine", "MB"])


def test_text_is_shown_as_it_is_and_never_obeyed():
    for screen in (Screen(), Screen(200, styles=True, colours=True)):
        text = as_text(table(), "terminal", screen)
        assert set(ESCAPE.findall(text)) <= {"1", "0"}  # bold, for the best
        plain = ESCAPE.sub("", text)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\ufeff\u00ad]", plain)
        assert "[red]red[/red]" in plain
        assert r"\x1b[31mred\x1b[0m" in plain
        assert r"\u202egnp.exe" in plain
    rows = as_text(table(), "terminal").partition("\n\n- a|b\n")[0].splitlines()
    assert len([row for row in rows if "-0.5 ± 0.1" in row]) == len(TEXTS)


def test_the_best_is_bold_and_colours_say_what_is_bad_where_they_are_wanted():
    found = wide(best={(0, 2)}, best_sentence="bold: best.", tones={(1, 0): "bad"}, sentences=["what"])
    coloured = as_text(found, "terminal", Screen(200, styles=True, colours=True))
    assert f"\x1b[1m{WIDE[0]}\x1b[0m" in coloured
    assert "\x1b[31mlaser\x1b[0m" in coloured
    assert "bold: best." in coloured
    colourless = as_text(found, "terminal", Screen(200, styles=True))
    assert f"\x1b[1m{WIDE[0]}\x1b[0m" in colourless
    assert set(ESCAPE.findall(colourless)) == {"1", "0"}
    plain = as_text(found, "terminal", Screen(200))
    assert "\x1b" not in plain
    assert "bold" not in plain
    assert ESCAPE.sub("", coloured).replace("- bold: best.\n", "") == plain


def test_what_all_rows_have_in_common_is_a_sentence():
    headers = ["arm", "status", "seeds", "verdict", "saved"]
    rows = [
        ["none", "ok", "2", "reference", "-"],
        ["laser", "ok", "2", "not tested", "-"],
        ["int8", "ok", "2", "not tested", "-"],
    ]
    table = Table(
        headers, rows, words=["arm"], best={(0, 2)},
        foldable={"status": (), "verdict": ("reference",), "saved": ()}, sentences=["last."],
    )  # fmt: skip
    text = as_text(table, "terminal")
    assert text.splitlines()[0].split() == ["arm", "seeds"]
    told = "- in every row: status ok.\n- in every row that has one: verdict not tested.\n"
    assert text.endswith(f"{told}- no row has a figure of: saved.\n- last.\n")
    one = Table(headers, rows[:1], words=["arm"], foldable=table.foldable)
    assert as_text(one, "terminal").splitlines()[0].split() == headers
    differing = Table(headers, [*rows, ["x", "oom 1", "0", "degraded", "1"]], words=["arm"], foldable=table.foldable)
    assert as_text(differing, "terminal").splitlines()[0].split() == headers


def test_wide_letters_take_two_columns():
    text = as_text(Table(["arm", "n"], [["漢字", "1"], ["abcd", "2"]], words=["arm"]), "terminal")
    assert len({cell_len(line) for line in text.splitlines() if line[-1:] in "12"}) == 1


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(SettingsError, match=r"unknown format 'gitbub'; did you mean 'github'\? \(allowed: csv, "):
        as_text(wide(), "gitbub")
