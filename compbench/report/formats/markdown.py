"""Tables in GitHub's Markdown. Text stays text: it can't leave its cell, and makes neither markup nor links."""

from __future__ import annotations

import re

from tabulate import tabulate

from compbench.report.formats.table import Table
from compbench.report.formats.text import visible

_SPECIAL = re.compile(
    r"[\\`~$<]"  # markup anywhere
    r"|(?<!\s)\*|\*(?!\s)"  # emphasis, but not between spaces
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # emphasis, but not within a word
    r"|\](?=[(\[:])"  # links, images and definitions
    r"|&(?=#?\w+;)"  # character references
)
_BLOCK = re.compile(r"(\d*)([#>+=|.)-])")
"""What makes a heading, a quotation or another list of a line that begins with it."""

_CODE = re.compile(r"(`[^`]+`)")


def as_github(table: Table) -> str:
    """A table as GitHub's Markdown has it, and a list of its sentences."""
    cells = [
        [_cell(text, table.code, (row, column) in table.best) for column, text in enumerate(texts)]
        for row, texts in enumerate(table.cells)
    ]
    text = tabulate(
        cells,
        headers=[_cell(header) for header in table.headers],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left" if header in table.words else "right" for header in table.headers] if cells else None,
    )
    items = [f"- {_BLOCK.sub(_quoted, escaped(visible(s)), count=1)}" for s in table.all_sentences]
    return "\n".join([text, "", *items] if items else [text]) + "\n"


def escaped(text: str) -> str:
    """Text that is no markup within a line."""
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", text)


def _cell(text: str, code: bool = False, best: bool = False) -> str:
    """Text that stays in its cell; where it may hold code, what stands between backticks is code."""
    parts = _CODE.split(visible(text)) if code else [visible(text)]
    shown = "".join(part if place % 2 else escaped(part) for place, part in enumerate(parts)).replace("|", r"\|")
    return f"**{shown}**" if best and shown else shown


def _quoted(found: re.Match[str]) -> str:
    return rf"{found[1]}\{found[2]}" if found.start() == 0 else found[0]
