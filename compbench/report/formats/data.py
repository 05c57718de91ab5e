"""Tables for programs: raw numbers under stable names, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence

from compbench.report.formats.table import Table

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that spreadsheets take for a formula."""


def as_csv(columns: Sequence[str], records: Iterable[Mapping[str, object]]) -> str:
    """Records as CSV: a line each, under a line of names.

    Numbers are not rounded; what is not there, or is no finite number, is left empty. Text that a spreadsheet would
    take for a formula has an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_field(column) for column in columns])
    writer.writerows([_field(record[column]) for column in columns] for record in records)
    return text.getvalue()


def as_json(table: Table) -> str:
    """A table as one object: its facts, its columns, a row of raw numbers each, and its sentences.

    What is not there, or is no finite number, is null.
    """
    content = {
        **table.facts,
        "columns": list(table.data_columns),
        "rows": [dict(record) for record in table.data],
        "sentences": list(table.sentences),
    }
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _field(value: object) -> object:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        text = _encodable(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return value


def _plain(value: object) -> object:
    """A value as strict JSON has it."""
    if isinstance(value, Mapping):
        return {_encodable(str(key)): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _encodable(value) if isinstance(value, str) else value


def _encodable(text: str) -> str:
    """Text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
