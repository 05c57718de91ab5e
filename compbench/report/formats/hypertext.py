"""Tables in HTML that mean what they are without any style sheet."""

from __future__ import annotations

import html
import re

from compbench.report.formats.table import Table
from compbench.report.formats.text import visible

_NUMBER = ' style="text-align: right"'
_WORD = ' style="text-align: left"'


def as_html(table: Table) -> str:
    """A table with its caption, the headers of its columns and rows, and a list of its sentences."""
    lines = ["<table>"]
    if table.caption:
        lines.append(f"<caption>{escaped(table.caption)}</caption>")
    sides = [_WORD if header in table.words else _NUMBER for header in table.headers]
    headers = zip(table.headers, sides, strict=True)
    lines += ["<thead>", "<tr>"]
    lines += [f'<th scope="col"{side}>{escaped(header)}</th>' for header, side in headers]
    lines += ["</tr>", "</thead>", "<tbody>"]
    for row, texts in enumerate(table.cells):
        cells = (_cell(table, row, column, sides[column]) for column in range(len(texts)))
        lines += ["<tr>", *cells, "</tr>"]
    lines += ["</tbody>", "</table>"]
    items = [f"<li>{escaped(sentence)}</li>" for sentence in table.all_sentences]
    return "\n".join([*lines, *(["<ul>", *items, "</ul>"] if items else [])]) + "\n"


def escaped(text: str) -> str:
    """Text that is no markup, in an element or in an attribute."""
    return html.escape(visible(text))


def _cell(table: Table, row: int, column: int, side: str) -> str:
    text = table.cells[row][column]
    shown = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(text)) if table.code else escaped(text)
    if (row, column) in table.best:
        shown = f"<strong>{shown}</strong>"
    return f'<th scope="row"{side}>{shown}</th>' if column == 0 else f"<td{side}>{shown}</td>"
