"""A table as data: text for people, and raw numbers for programs. It knows neither formats nor what it is about."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from compbench.report.formats.text import visible

Place = tuple[int, int]
"""A row and a column, both counted from 0."""

ABSENT = "-"
"""What stands where there is no figure."""

Tone = Literal["good", "doubtful", "bad"]
"""What a cell says, for formats that have colours."""


@dataclass(frozen=True)
class Table:
    """A table.

    Text may come from plugins: every format shows it as it is, whatever it would mean in that format.

    Attributes:
        headers: names of the columns.
        cells: one list of strings a row, as long as ``headers``.
        words: the columns that hold words and are set flush left; numbers are set flush right.
        sentences: what stands under it.
        caption: what it is, in a clause; not all formats show it.
        best: places whose figure is the best of those that it is compared with: bold, where a format has that.
        best_sentence: what ``best`` means; shown where ``best`` is.
        tones: what single places say.
        sections: rows with which a new group begins, the first row left out.
        foldable: columns that are told in a sentence, where there is little room and all rows have the same in them;
            with each the texts that don't count.
        code: whether pairs of backticks in cells enclose code.
        columns: stable names of the raw numbers; by default those of ``headers``.
        records: the raw numbers by name, a row each, of as many rows as they like; by default the cells' text.
        facts: what else there is to know, for formats that have room for it.
    """

    headers: Sequence[str]
    cells: Sequence[Sequence[str]]
    words: Collection[str]
    sentences: Sequence[str] = ()
    caption: str = ""
    best: Collection[Place] = frozenset()
    best_sentence: str = ""
    tones: Mapping[Place, Tone] = field(default_factory=dict)
    sections: Collection[int] = ()
    foldable: Mapping[str, Collection[str]] = field(default_factory=dict)
    code: bool = False
    columns: Sequence[str] = ()
    records: Sequence[Mapping[str, object]] | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def data_columns(self) -> Sequence[str]:
        """The names of the raw numbers."""
        return self.columns or self.headers

    @property
    def data(self) -> Sequence[Mapping[str, object]]:
        """The raw numbers, one record a row."""
        if self.records is not None:
            return self.records
        return [dict(zip(self.data_columns, row, strict=True)) for row in self.cells]

    @property
    def all_sentences(self) -> list[str]:
        """The sentences of a format that shows which figures are best."""
        return [*([self.best_sentence] if self.best and self.best_sentence else []), *self.sentences]


def header_lines(header: str, width: int) -> list[str]:
    """A header in lines that are no wider than what stands under it, if its words allow that."""
    text = visible(header)
    return textwrap.wrap(text, max([1, width, *map(len, text.split())]))


def folded(table: Table) -> Table:
    """The table without those of its ``foldable`` columns in which all rows have the same; a sentence tells that."""
    if len(table.cells) < 2:
        return table
    same = {
        index: next(iter(values))
        for index, header in enumerate(table.headers)
        if header in table.foldable and len(values := _texts(table, index) - set(table.foldable[header])) == 1
    }
    if not same:
        return table
    kept = [index for index in range(len(table.headers)) if index not in same]
    moved = {old: new for new, old in enumerate(kept)}
    everywhere = [index for index in same if not set(table.foldable[table.headers[index]]) & _texts(table, index)]
    sentences = []
    for indices, clause in ((everywhere, "in every row"), (set(same) - {*everywhere}, "in every row that has one")):
        told = [f"{table.headers[i]} {same[i]}" for i in sorted(indices) if same[i] != ABSENT]
        sentences += [f"{clause}: {', '.join(told)}."] if told else []
    absent = ", ".join(table.headers[index] for index, text in same.items() if text == ABSENT)
    sentences += [f"no row has a figure of: {absent}."] if absent else []
    return replace(
        table,
        headers=[table.headers[index] for index in kept],
        cells=[[row[index] for index in kept] for row in table.cells],
        best={(row, moved[column]) for row, column in table.best if column in moved},
        tones={(row, moved[column]): tone for (row, column), tone in table.tones.items() if column in moved},
        sentences=[*sentences, *table.sentences],
    )


def _texts(table: Table, column: int) -> set[str]:
    return {row[column] for row in table.cells}
