"""CSV and JSON as their own readers see them."""

import csv
import io
import json
import math

from compbench.report.formats import Table, as_text
from tests.report.formats.hostile import TEXTS

RECORDS = (
    {"arm": "laser", "saved_bytes": 123_456_789_012, "ratio": 0.1 + 0.2, "phase": None, "extra": "json alone"},
    {"arm": "int8", "saved_bytes": -1, "ratio": math.nan, "phase": "backward", "extra": [1, {"a": math.inf}]},
)
COLUMNS = ("arm", "saved_bytes", "ratio", "phase")


def numbers():
    return Table(
        COLUMNS, [], (), sentences=["what"], columns=COLUMNS, records=RECORDS, facts={"suite": "s", "margins": {}}
    )


def test_csv_has_numbers_as_they_are_and_nothing_where_there_is_none():
    first, second = csv.DictReader(io.StringIO(as_text(numbers(), "csv")))
    assert first == {"arm": "laser", "saved_bytes": "123456789012", "ratio": "0.30000000000000004", "phase": ""}
    assert float(first["ratio"]) == 0.1 + 0.2
    assert second == {"arm": "int8", "saved_bytes": "-1", "ratio": "", "phase": "backward"}


def test_csv_gives_text_back_as_it_was_but_for_what_a_spreadsheet_would_run():
    table = Table(["arm"], [[text] for text in TEXTS], words=["arm"])
    rows = list(csv.reader(io.StringIO(as_text(table, "csv"), newline="")))
    assert rows[0] == ["arm"]
    for text, (read,) in zip(TEXTS, rows[1:] if rows[-1] else [*rows[1:-1], [""]], strict=True):
        assert read == (f"'{text}" if text[:1] in ("=", "+", "-", "@") else text)


def test_json_is_strict_and_says_null_where_there_is_nothing():
    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(as_text(numbers(), "json"), parse_constant=refuse)
    assert list(content) == ["suite", "margins", "columns", "rows", "sentences"]
    assert content["columns"] == list(COLUMNS)
    assert content["rows"][0] == RECORDS[0]
    assert content["rows"][1] == {**RECORDS[1], "ratio": None, "extra": [1, {"a": None}]}
    assert content["sentences"] == ["what"]


def test_json_gives_text_back_as_it_was():
    table = Table(["arm"], [[text] for text in TEXTS], words=["arm"])
    assert [row["arm"] for row in json.loads(as_text(table, "json"))["rows"]] == list(TEXTS)


def test_half_a_character_does_not_stop_a_file_from_being_written():
    table = Table(["arm"], [["\ud800"]], words=["arm"])
    for layout in ("csv", "json", "github", "html", "latex_booktabs", "terminal"):
        assert b"ud800" in as_text(table, layout).encode()
