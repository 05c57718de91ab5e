"""GitHub's Markdown as a parser of Markdown reads it."""

import pytest
from markdown_it import MarkdownIt

from compbench.report.formats import Table, as_text
from compbench.report.formats.text import visible
from tests.report.formats.hostile import TEXTS, table

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def parsed(text):
    """The cells of the only table and the items of the only list, as plain text; nothing else may be there."""
    cells, items, inside = [], [], []
    for token in PARSER.parse(text):
        if token.nesting == 1:
            inside.append(token.type.removesuffix("_open"))
            if inside[-1] == "tr":
                cells.append([])
        elif token.nesting == -1:
            inside.pop()
        else:
            assert token.type == "inline", token
            plain = "".join(child.content for child in token.children)
            marks = [child.type for child in token.children if child.type not in ("text", "text_special")]
            assert inside[-1] in ("th", "td", "paragraph"), inside
            if inside[-1] == "paragraph":
                assert inside[:-1] == ["bullet_list", "list_item"], inside
                items.append((plain, marks))
            else:
                cells[-1].append((plain, marks))
    return cells, items


def test_whatever_text_says_it_is_read_back_as_text():
    cells, items = parsed(as_text(table(), "github"))
    bold = ["strong_open", "strong_close"]
    assert [row[0] for row in cells[1:]] == [(visible(text), bold if text else []) for text in TEXTS]
    assert all(row[2] == ("-0.5 ± 0.1", bold) for row in cells[1:])
    assert items[0] == ("bold: the best.", [])
    said = [text for text in TEXTS if visible(text)] + [f"of {text}: no" for text in TEXTS]
    assert [item for item in items[1:] if item[0]] == [(visible(text), []) for text in said]


def test_numbers_are_set_flush_right_and_words_flush_left():
    text = as_text(Table(["arm", "depth"], [["laser", "4"]], words=["arm"]), "github")
    assert 'style="text-align:left">laser<' in PARSER.render(text)
    assert 'style="text-align:right">4<' in PARSER.render(text)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("keeps `Z Q^T`, 2 * 16 bits", "keeps <code>Z Q^T</code>, 2 * 16 bits"),
        ("`a|b` and <b>", "<code>a|b</code> and &lt;b&gt;"),
        ("`*x*` and *x*", "<code>*x*</code> and *x*"),
        ("one ` alone", "one ` alone"),
    ],
)
def test_code_is_code_where_a_table_has_it(text, html):
    rendered = PARSER.render(as_text(Table(["keeps"], [[text]], words=["keeps"], code=True), "github"))
    assert f">{html}</td>" in rendered


def test_a_table_without_rows_is_one():
    assert "<th>arm</th>" in PARSER.render(as_text(Table(["arm"], [], words=["arm"]), "github"))
