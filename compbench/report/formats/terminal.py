"""Tables for a terminal, drawn by rich; and for a pipe, where nothing depends on the terminal."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from compbench.report.formats.table import Table, Tone, folded, header_lines
from compbench.report.formats.text import visible

_GAP = 2
"""Columns of the terminal between two columns of the table."""

_NARROWEST_PROSE = 24
"""Columns of words are not made narrower than this, if they are as wide."""

_LONGEST_WORD = 40
"""Words up to this length are not broken."""

_MOST_FOR_KEYS = 2 / 3
"""The share of a line that columns which tell rows apart may take, if they are to stand in every part."""

_WIDEST = 100_000
_TONES: dict[Tone, str] = {"good": "green", "doubtful": "yellow", "bad": "red"}


@dataclass(frozen=True)
class Screen:
    """What text is shown on. By default a file or a pipe, in which lines may be of any length.

    Attributes:
        width: columns of the terminal; None for lines as long as they need be.
        styles: whether bold type can be shown.
        colours: whether colours can, and are wanted.
    """

    width: int | None = None
    styles: bool = False
    colours: bool = False


@dataclass(frozen=True)
class _Column:
    """A column as text.

    Attributes:
        narrowest: the least width in which no number and no word of ordinary length is broken.
    """

    place: int
    header: Sequence[str]
    texts: Sequence[str]
    words: bool
    narrowest: int


def as_terminal(table: Table, screen: Screen) -> str:
    """A table as it is drawn on a screen.

    Columns in which all rows have the same are told in a sentence. A table that is too wide is shown in parts, one
    under the other, each with the columns that tell its rows apart. No number is ever broken.
    """
    shown = folded(table)
    columns = [_column(shown, place) for place in range(len(shown.headers))]
    parts = [columns] if screen.width is None else _parts(columns, _keys(columns, screen.width), screen.width)
    sentences = shown.all_sentences if screen.styles else shown.sentences
    items = "\n".join(_item(visible(sentence), screen.width) for sentence in sentences)
    return "\n\n".join([*(_drawn(shown, part, screen) for part in parts), *([items] if items else [])]) + "\n"


def _column(table: Table, place: int) -> _Column:
    texts = [visible(row[place]) for row in table.cells]
    header = header_lines(table.headers[place], max(map(cell_len, texts), default=0))
    in_words = table.headers[place] in table.words
    narrowest = max(map(cell_len, [*header, *texts]), default=0)
    if in_words:
        longest = max((cell_len(word) for text in (*header, *texts) for word in text.split()), default=0)
        narrowest = min(narrowest, max(min(longest, _LONGEST_WORD), _NARROWEST_PROSE))
    return _Column(place, header, texts, in_words, narrowest)


def _keys(columns: Sequence[_Column], width: int) -> int:
    """How many columns at the beginning tell the rows apart; one where those would take too much of a line."""
    for count in range(1, len(columns)):
        rows = list(zip(*(column.texts for column in columns[:count]), strict=True))
        if len(set(rows)) == len(rows):
            return count if _least_width(columns[:count]) <= _MOST_FOR_KEYS * width else 1
    return min(1, len(columns))


def _parts(columns: Sequence[_Column], keys: int, width: int) -> list[Sequence[_Column]]:
    """The columns of each part; all parts begin with the first ones."""
    parts: list[Sequence[_Column]] = []
    part = list(columns[:keys])
    for column in columns[keys:]:
        if len(part) > keys and _least_width([*part, column]) > width:
            parts.append(part)
            part = list(columns[:keys])
        part.append(column)
    return [*parts, part]


def _least_width(part: Sequence[_Column]) -> int:
    return sum(column.narrowest + _GAP for column in part) - _GAP


def _drawn(table: Table, part: Sequence[_Column], screen: Screen) -> str:
    drawn = RichTable(
        box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False, header_style=""
    )
    height = max((len(column.header) for column in part), default=0)
    for column in part:
        drawn.add_column(
            Text("\n".join([*[""] * (height - len(column.header)), *column.header])),
            justify="left" if column.words else "right",
            no_wrap=not column.words,
            overflow="fold",
            min_width=column.narrowest,
        )
    for row in range(len(table.cells)):
        if row in table.sections:
            drawn.add_section()
        # As Text, since brackets in it are no markup.
        drawn.add_row(*(Text(c.texts[row], style=_style(table, row, c.place, screen)) for c in part))
    file = io.StringIO()
    # What rich would find out for itself, from the environment, is told: the same table gives the same bytes.
    console = Console(
        file=file,
        width=_WIDEST if screen.width is None else max(screen.width, _least_width(part)),
        force_terminal=screen.styles,
        force_interactive=False,
        force_jupyter=False,
        color_system="standard" if screen.styles else None,
        no_color=not screen.colours,
        legacy_windows=False,
    )
    console.print(drawn)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _style(table: Table, row: int, column: int, screen: Screen) -> Style:
    tone = table.tones.get((row, column)) if screen.colours else None
    return Style(bold=(row, column) in table.best or None, color=_TONES[tone] if tone else None)


def _item(sentence: str, width: int | None) -> str:
    if width is None:
        return f"- {sentence}"
    return textwrap.fill(
        sentence, width, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
