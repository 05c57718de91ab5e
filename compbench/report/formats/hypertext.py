"""Tables in HTML that mean what they are without any style sheet."""

from __future__ import annotations

import html
import re

from compbench.report.formats.table import Table
from compbench.report.formats.text import visible

_NUMBER = "text-align: right; padding: 0 0.5em"
_WORD = "text-align: left; padding: 0 0.5em"
_UNBROKEN = "; white-space: nowrap"


def as_html(table: Table) -> str:
    """A table with its caption, the headers of its columns and rows, and a list of its sentences."""
    lines = ["<table>"]
    if table.caption:
        lines.append(f"<caption>{escaped(table.caption)}</caption>")
    sides = [_WORD if header in table.words else _NUMBER for header in table.headers]
    headers = zip(table.headers, sides, strict=True)
    lines += ["<thead>", "<tr>"]
    lines += [f'<th scope="col" style="{side}">{escaped(header)}</th>' for header, side in headers]
    lines += ["</tr>", "</thead>", "<tbody>"]
    # The first column that has a name says what a row is.
    key = next((place for place, header in enumerate(table.headers) if header), 0)
    for row, texts in enumerate(table.cells):
        cells = (_cell(table, row, column, sides[column], column == key) for column in range(len(texts)))
        lines += ["<tr>", *cells, "</tr>"]
    lines += ["</tbody>", "</table>"]
    items = [f"<li>{escaped(sentence)}</li>" for sentence in table.all_sentences]
    return "\n".join([*lines, *(["<ul>", *items, "</ul>"] if items else [])]) + "\n"


def escaped(text: str) -> str:
    """Text that is no markup, in an element or in an attribute."""
    return html.escape(visible(text))


def _cell(table: Table, row: int, column: int, side: str, is_key: bool) -> str:
    text = table.cells[row][column]
    shown = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(text)) if table.code else escaped(text)
    if (row, column) in table.best:
        shown = f"<strong>{shown}</strong>"
    style = side + _UNBROKEN if side == _NUMBER else side
    return f'<th scope="row" style="{style}">{shown}</th>' if is_key else f'<td style="{style}">{shown}</td>'
