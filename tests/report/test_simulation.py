"""The tables of docs/statistics.md are those that the simulation prints."""

from pathlib import Path

import pytest

from tests.report.simulation import tables

PAGE = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text().splitlines()
TABLES = tables()


def of_page(table):
    """The rows of a table on the page, as lists of cells."""
    start = PAGE.index("| " + " | ".join(table.headers) + " |")
    rows = []
    for line in PAGE[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_the_tables_of_the_page_are_those_that_are_printed(table):
    rows = {row[0]: row[1:] for row in of_page(table)}
    assert list(rows) == [label for label, _ in table.rows]
    for label, cells in table.rows:
        assert len(rows[label]) == len(cells) == len(table.headers) - 1
        if label in (table.checked or rows):
            assert rows[label] == [cell() for cell in cells], f"{table.title}: {label}"


def shares(title, labels=None):
    """The percentages of a table of the page, by row."""
    (table,) = [table for table in TABLES if table.title == title]
    return {
        row[0]: [float(cell.removesuffix(" %")) / 100 for cell in row[1:] if cell.endswith("%")]
        for row in of_page(table)
        if labels is None or row[0] in labels
    }


def test_under_the_margin_false_claims_are_as_rare_as_is_said():
    allowed = 0.05 + 3 * (0.05 * 0.95 / 20_000) ** 0.5
    normal = ("normal", "shares of 1,000 examples", "heavy tails (t with 3 degrees of freedom)")
    assert all(share <= allowed for row in shares("False claims of one comparison", normal).values() for share in row)
    in_family = 0.05 + 3 * (0.05 * 0.95 / 5_000) ** 0.5
    for unadjusted, *adjusted in shares("False claims in a family").values():
        assert unadjusted > 0.08
        assert all(share <= in_family for share in adjusted)


def test_the_power_is_within_two_points_of_the_table():
    for row in shares("Power").values():
        assert all(abs(share - 0.8) < 0.02 for share in row[:4])
        assert row[4] > 0.8
