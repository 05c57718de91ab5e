"""Text from elsewhere in Markdown, against a reader of Markdown: what is shown is the text."""

import html
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from compbench.report.markdown import escaped, fenced, image

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
AWKWARD = st.text(st.sampled_from("ab1_*`<>[]()!\\|#-+=~&;:. \n\"'/"), max_size=30)


def shown(page):
    """What a reader sees of the only paragraph or item of a page; fails if there is anything else in it."""
    found = re.fullmatch(r"(?:<ul>\n<li>|<p>)(.*)(?:</li>\n</ul>|</p>)", READER.render(page).strip(), re.DOTALL)
    assert found, READER.render(page)
    assert "<" not in found[1], found[1]
    return html.unescape(found[1])


@given(AWKWARD.filter(lambda text: text.split()))
@pytest.mark.parametrize("before", ["", "x "])
def test_a_line_is_shown_as_it_is(before, text):
    line = " ".join((before + text).split())
    assert shown(escaped(line)) == line
    assert shown(f"- failed: {escaped(line)}") == f"failed: {line}"


@pytest.mark.parametrize("text", ["batch_size 64, betas [0.9, 0.95]", "p = 0.05 (of 3 % > 1 %)", "a | b"])
def test_what_formats_nothing_has_no_escapes(text):
    assert escaped(text) == text


@given(AWKWARD.filter(lambda text: text.strip()))
def test_a_block_of_code_shows_its_text_and_ends_where_it_should(text):
    page = fenced(text) + "\n\n# after\n"
    found = re.fullmatch(r"<pre><code>(.*)\n</code></pre>\n<h1>after</h1>\n", READER.render(page), re.DOTALL)
    assert found
    assert html.unescape(found[1]) == text


@given(AWKWARD.filter(lambda text: text.split()))
def test_an_image_has_its_text_and_leads_where_it_should(text):
    """HTML that Markdown leaves as it is, and that a reader of HTML reads as one image."""
    found = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    reader.handle_data = lambda data: found.append(data) if data.strip() else None
    reader.feed(
        READER.render(f"before\n\n{image(text, 'figures/x.svg', 400)}\n\nafter").removeprefix("<p>before</p>\n")
    )
    (img, after, said) = found
    assert img == ("img", {"src": "figures/x.svg", "alt": " ".join(text.split()), "width": "400"})
    assert (after[0], said) == ("p", "after")
