"""Text that comes from suites, plugins and records, in Markdown: it is shown as it is, and formats nothing."""

from __future__ import annotations

import html
import re

from compbench.report.formats.markdown import escaped as escaped_within
from compbench.report.formats.text import visible

_START = re.compile(r"^(\d*)([#+\-=.)>|])")
"""What would begin a heading, a list, a quotation or a line."""


def escaped(text: str) -> str:
    """One line of Markdown that shows the text; a name such as ``batch_size`` needs no escape, and has none."""
    return _START.sub(r"\1\\\2", escaped_within(visible(text)))


def fenced(text: str) -> str:
    """A block of code that shows the text, whatever backticks are in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def image(text: str, path: str, width: int) -> str:
    """An image at a relative path, whose letters need no escape, so many pixels wide; Markdown has no widths."""
    return f'<img src="{path}" alt="{html.escape(visible(text))}" width="{width}">'
