"""The paper's accounting of made-up records: bytes that can be worked out by hand."""

from __future__ import annotations

import pytest

from compbench.report.accounting_tables import arm_savings, arms_table, printed_savings, printed_totals, site_savings
from tests.report.made_up import memory, outcome, result


def site(name: str, rank: int | None, kept: int, reason: str = "") -> dict:
    return {
        "name": name,
        "module": "m",
        "role": name,
        "width": 10,
        "rows": 100,
        "calls": 4,
        "dtype": "float32",
        "raw_bytes": 4 * 100 * 10 * 4,
        "kept_bytes": kept,
        "reason": reason,
        "propagating": True,
        "statistics": {} if rank is None else {"rank": float(rank)},
    }


def with_sites(seed: int, *sites: dict, arm: str = "laser"):
    return result(arm, seed=seed, memory=memory().model_copy(update={"sites": list(sites)}))


def test_an_arm_is_counted_at_its_final_ranks_beside_what_was_measured() -> None:
    raw = site("raw", None, 16_000, reason="has no rows")
    found = outcome([with_sites(0, site("a", 2, 3_280), raw), with_sites(1, site("a", 4, 6_560), raw)])
    (arm,) = arm_savings(found)
    assert (arm.seeds, arm.sites, arm.raw_bytes) == (2, 1, 16_000)
    coefficients, basis = 4 * 100 * 3 * 4, 10 * 3 * 4  # at the mean rank, which bytes are linear in
    assert arm.per_call_bytes == coefficients + 4 * basis
    assert arm.shared_bytes == coefficients + basis
    assert (arm.uncompressed_bytes, arm.saved_bytes) == (1_000_000, 250_000)
    (row,) = site_savings(found)
    assert row.ranks == (2, 4)
    assert row.per_call == pytest.approx(1 - (coefficients + 4 * basis) / 16_000)
    assert row.shared == pytest.approx(1 - (coefficients + basis) / 16_000)
    assert row.measured == pytest.approx(1 - 4_920 / 16_000)


def test_arms_without_ranks_are_named_and_have_no_row() -> None:
    found = outcome([with_sites(0, site("a", 2, 3_280)), with_sites(0, site("a", None, 4_000), arm="int8")])
    table = arms_table(found)
    assert [row[0] for row in table.cells] == ["laser"]
    assert "no site with a rank, and so no row: int8." in table.sentences


def test_the_papers_tables_show_what_is_printed_and_what_is_counted() -> None:
    totals = {row[0]: row[1:] for row in printed_totals().cells}
    assert totals["baseline"] == ["2.85", "2.850", "0.0", "2.850", "0.0"]
    assert totals["k = 256"][:2] + totals["k = 256"][3:4] == ["1.23", "1.225", "0.955"]
    assert totals["k = 128"][:2] + totals["k = 128"][3:4] == ["1.14", "1.136", "0.904"]
    assert "4.94 GB are alive" in " ".join(printed_totals().sentences)
    for row in printed_savings().cells[:3]:
        assert row[3] == row[4]
