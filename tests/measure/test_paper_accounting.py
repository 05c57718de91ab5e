"""The paper's Tables 1 and 2 to the printed digit, and what another way of counting would print."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compbench.errors import SettingsError
from compbench.measure.paper_accounting import (
    AccountedSite,
    Accounting,
    paper_sites,
    sites_of_record,
    without_ranks,
)


def gigabytes(number: int) -> str:
    return f"{number / 1e9:.3f}"


def test_table_1_is_reproduced_to_the_printed_digit() -> None:
    per_call = Accounting()
    smaller, larger = per_call.total(paper_sites(128)), per_call.total(paper_sites(256))
    assert gigabytes(smaller.raw_bytes) == gigabytes(larger.raw_bytes) == "2.850"
    assert gigabytes(smaller.compressed_bytes) == "1.136"
    assert gigabytes(larger.compressed_bytes) == "1.225"
    assert f"{smaller.saving:.0%}" == "60%"


def test_table_2_is_reproduced_to_the_printed_digit() -> None:
    savings = {site.name: f"{100 * Accounting().saving(site):.1f}" for site in paper_sites(128)}
    assert savings == {
        "mlp_3072": "92.5",
        "attn_1536": "57.3",
        "mlp_1536": "53.6",
        "attn_512": "-12.8",  # printed as 0 % (overhead)
        "mlp_512": "-10.6",  # printed as 0 % (overhead)
        "attn_64": "0.0",
    }


def test_a_basis_that_is_shared_gives_other_totals() -> None:
    shared = Accounting(basis="shared")
    assert gigabytes(shared.total(paper_sites(128)).compressed_bytes) == "0.904"
    assert gigabytes(shared.total(paper_sites(256)).compressed_bytes) == "0.955"
    assert f"{100 * shared.saving(paper_sites(128)[0]):.1f}" == "95.7"


def test_a_basis_for_attn_64_as_well_would_change_the_last_digit_at_256() -> None:
    attention = AccountedSite("attn_64", 64, 7744, 75, rank=64)
    for rank, total in ((128, "1.137"), (256, "1.226")):
        assert gigabytes(Accounting().total([*paper_sites(rank)[:-1], attention]).compressed_bytes) == total


@pytest.mark.parametrize(
    ("calls", "accounting", "total"),
    [
        (24, Accounting(), "1.091"),
        (25, Accounting(raw_where_larger=True), "1.090"),
        (25, Accounting(basis_element_bytes=2), "1.015"),
    ],
)
def test_other_readings_do_not_give_the_printed_total(calls: int, accounting: Accounting, total: str) -> None:
    assert gigabytes(accounting.total(paper_sites(128, calls)).compressed_bytes) == total


def test_the_widest_site_has_64_percent_of_the_savings_and_not_65() -> None:
    sites, accounting = paper_sites(128), Accounting()
    total = accounting.total(sites)
    saved = sites[0].raw_bytes - accounting.compressed_bytes(sites[0])
    assert f"{100 * saved / (total.raw_bytes - total.compressed_bytes):.1f}" == "64.2"


def test_bytes_are_those_of_the_matrices() -> None:
    site = AccountedSite("s", width=6, rows=10, matrices=3, rank=2, element_bytes=4)
    assert site.raw_bytes == 3 * 10 * 6 * 4
    assert Accounting().coefficient_bytes(site) == 3 * 10 * 2 * 4
    assert Accounting().basis_bytes(site) == 3 * 6 * 2 * 4
    assert Accounting("shared").basis_bytes(site) == 6 * 2 * 4
    assert Accounting().compressed_bytes(site) == 240 + 144
    assert Accounting().saving(site) == pytest.approx(1 - 384 / 720)
    (raw,) = without_ranks([site])
    assert Accounting().compressed_bytes(raw) == raw.raw_bytes


def test_raw_where_larger_never_costs() -> None:
    full = AccountedSite("s", width=8, rows=4, matrices=5, rank=8)
    assert Accounting().saving(full) < 0
    assert Accounting(raw_where_larger=True).saving(full) == 0


@pytest.mark.parametrize("change", [{"rank": 0}, {"rank": 7}, {"width": 0}, {"rows": -1}, {"matrices": 0}])
def test_impossible_sites_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="site 's'"):
        replace(AccountedSite("s", width=6, rows=10, matrices=3, rank=2), **change)


def test_a_records_sites_are_those_with_a_rank() -> None:
    common = {"width": 8, "rows": 10, "calls": 3, "dtype": "bfloat16", "reason": ""}
    found = sites_of_record(
        [
            {"name": "a", **common, "statistics": {"rank": 2.0}},
            {"name": "b", **common, "statistics": {"bits": 8.0}},
            {"name": "c", **common, "statistics": {"rank": 2.0}, "reason": "carries no gradient"},
            {"name": "d", **common, "dtype": "float32", "statistics": {"rank": 4.4}},
        ]
    )
    assert found == [AccountedSite("a", 8, 10, 3, 2, 2), AccountedSite("d", 8, 10, 3, 4, 4)]
