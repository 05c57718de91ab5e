"""Tables that sort and filter: the text of each cell, and what it is sorted by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from compbench.report.formats import Table, Tone
from compbench.report.page.numbers import NOT_FINITE, finite_only
from compbench.report.wording import NOT_AVAILABLE

_FIRST_NUMBER = re.compile(r"(?P<bound>[<>]?)\s*(?P<number>[+-]?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?)")
_CHOSEN_BY = ("arm", "depth", "seed", "status")
_VERDICT = "verdict"


@dataclass(frozen=True)
class Value:
    """One cell of a table.

    Attributes:
        text: what is shown.
        number: what a column of numbers is sorted by; None where there is no number, which goes last.
        tone: what the cell says, for its colour; empty where it says nothing.
        best: whether it is the best of those that it is compared with.
    """

    text: str
    number: float | None = None
    tone: Tone | Literal[""] = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        header: its name.
        words: whether it holds words, which are set flush left and sorted by the alphabet.
        choices: values to choose rows by; empty where there is nothing to choose.
    """

    header: str
    words: bool
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class SortableTable:
    """A table as the page has it.

    Attributes:
        name: its anchor on the page.
        title: what it is called where its heading can't be seen.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    sentences: Sequence[str] = ()


def sortable(name: str, title: str, table: Table) -> SortableTable:
    """A table for people as one that sorts by what it shows."""
    headers, flush_left = table.headers, [header in table.words for header in table.headers]
    rows = []
    for row, texts in enumerate(table.cells):
        values = (word(text) if words else quantity(text) for text, words in zip(texts, flush_left, strict=True))
        rows.append(
            [
                replace(value, tone=table.tones.get((row, column), ""), best=(row, column) in table.best)
                for column, value in enumerate(values)
            ]
        )
    return SortableTable(name, title, columns(headers, flush_left, rows), rows, table.all_sentences)


def columns(headers: Sequence[str], words: Sequence[bool], rows: Sequence[Sequence[Value]]) -> list[Column]:
    """The columns of a table; by arm, depth, seed, status and verdict its rows can be chosen where they differ."""
    found = []
    for index, header in enumerate(headers):
        by = header in _CHOSEN_BY or header.endswith(_VERDICT)
        numbers = {row[index].text: row[index].number for row in rows} if by else {}
        texts = tuple(numbers) if words[index] else tuple(sorted(numbers, key=lambda text: numbers[text] or 0.0))
        found.append(Column(header, words[index], texts if len(texts) > 1 else ()))
    return found


def word(text: str) -> Value:
    """A cell that holds words."""
    return Value(text)


def quantity(text: str) -> Value:
    """A cell that holds a number, perhaps with its spread: it is sorted by the first number in it.

    ``>0.9999`` comes after what is shown as 0.9999, and before 1.
    """
    text = finite_only(text)
    if text in (NOT_AVAILABLE, NOT_FINITE):
        return Value(text)
    match = _FIRST_NUMBER.match(text.strip())
    if match is None:
        return Value(text)
    value = float(match["number"].replace(",", ""))
    step = {"": 0.0, "<": -1.0, ">": 1.0}[match["bound"]]
    return Value(text, value + step * 1e-9 * max(1.0, abs(value)))
