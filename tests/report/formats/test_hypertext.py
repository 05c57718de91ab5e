"""HTML as a parser of HTML reads it."""

from html.parser import HTMLParser

from compbench.report.formats import Table, as_text
from compbench.report.formats.text import visible
from tests.report.formats.hostile import TEXTS, table

ALLOWED = {"table", "caption", "thead", "tbody", "tr", "th", "td", "strong", "ul", "li"}


class Page(HTMLParser):
    """The text of cells, items and caption, and every tag with its attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.rows, self.items, self.caption, self.tags = [], [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "li":
            self.items.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        elif "li" in self.open:
            self.items[-1] += data
        elif "caption" in self.open:
            self.caption += data


def test_whatever_text_says_it_is_read_back_as_text():
    page = Page(as_text(table(), "html"))
    assert {tag for tag, _ in page.tags} == ALLOWED
    assert [row[0] for row in page.rows[1:]] == [visible(text) for text in TEXTS]
    assert page.items == ["bold: the best.", *(visible(s) for s in table().sentences)]
    assert page.caption == visible(table().caption)
    assert {name for _, attributes in page.tags for name in attributes} == {"scope", "style"}


def test_headers_say_whose_they_are():
    page = Page(as_text(Table(["", "arm", "depth"], [["x", "laser", "4"]], words=["", "arm"]), "html"))
    assert [a["scope"] for tag, a in page.tags if tag == "th"] == ["col", "col", "col", "row"]
    assert page.rows == [["", "arm", "depth"], ["x", "laser", "4"]]
    assert "caption" not in {tag for tag, _ in page.tags}


def test_the_best_is_strong():
    text = as_text(Table(["arm", "saved"], [["a", "1"], ["b", "2"]], words=["arm"], best={(0, 1)}), "html")
    assert text.count("<strong>") == 1
    assert "<strong>1</strong>" in text


def test_code_is_code_where_a_table_has_it():
    text = as_text(Table(["keeps"], [["`a<b` and <b>"]], words=["keeps"], code=True), "html")
    assert "<code>a&lt;b</code> and &lt;b&gt;" in text
