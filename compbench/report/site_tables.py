"""The sites of a suite's cells as tables: those that are compressed, those left raw, and the totals of several arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compbench.measure.site_listing import ListedSite
from compbench.report.formats import Table
from compbench.run.listing import Listing

COLUMNS = (
    *("arm", "depth", "site", "module", "role", "calls", "rows", "width", "dtype", "raw_bytes", "kept_bytes", "rank"),
    *("propagating", "reason"),
)
"""Of the raw numbers: a row a site."""

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_UNKNOWN = "?"


def compressed_table(listing: Listing) -> Table:
    """The sites that the strategy compresses, those of one module side by side."""
    headers = ("site", "calls", "rows", "width", "dtype", "raw", "kept", "saved %", "rank", "error")
    cells = [
        [
            *_place(site),
            size(site.raw_bytes),
            size(site.kept_bytes),
            _saved(site.raw_bytes, site.kept_bytes),
            "" if site.rank is None else str(site.rank),
            "propagating" if site.propagating else "weight-only",
        ]
        for site in _by_module(listing.sites)
        if not site.reason
    ]
    return Table(headers, cells, ("site", "dtype", "error"), caption=f"{title(listing)}: sites that are compressed")


def raw_table(listing: Listing) -> Table:
    """The sites that are left raw, with the reason."""
    headers = ("site left raw", "calls", "rows", "width", "dtype", "raw", "reason")
    cells = [[*_place(s), size(s.raw_bytes), s.reason] for s in _by_module(listing.sites) if s.reason]
    return Table(
        headers, cells, ("site left raw", "dtype", "reason"), caption=f"{title(listing)}: sites that are left raw"
    )


def totals_table(listings: Sequence[Listing]) -> Table:
    """A row a cell."""
    headers = ("arm", "depth", "sites", "left raw", "raw", "kept", "saved %")
    return Table(headers, [_totals(listing) for listing in listings], ("arm",), caption="totals")


def all_sites(listings: Sequence[Listing]) -> Table:
    """Every site of every cell, a row each, with its raw numbers."""
    records: list[dict[str, Any]] = []
    for listing in listings:
        for site in listing.sites:
            found = site.record()
            records.append({"arm": listing.cell.label, "depth": listing.cell.depth, "site": found.pop("name"), **found})
    records = [{name: record[name] for name in COLUMNS} for record in records]
    return Table(COLUMNS, [], (), columns=COLUMNS, records=records)


def title(listing: Listing) -> str:
    """What cell a listing is of."""
    cell = listing.cell
    return f"{cell.label}, depth {cell.depth}, batch {cell.training.batch_size}, {cell.training.precision}"


def total(listing: Listing) -> str:
    """What all sites of a cell come to, in one line."""
    unknown = sum(site.kept_bytes is None for site in listing.sites)
    told = f"; {unknown} sites can't tell beforehand what they will keep" if unknown else ""
    saved = _saved(listing.raw_bytes, listing.kept_bytes)
    return f"total: raw {size(listing.raw_bytes)}, kept {size(listing.kept_bytes)}, saved {saved} %{told}"


def size(found: int | None) -> str:
    """A number of bytes with three digits, in the unit that suits it."""
    if found is None:
        return _UNKNOWN
    for divisor, unit in _UNITS:
        amount = float(f"{found / divisor:.3g}")
        if amount >= 1:
            return f"{amount:.{2 if amount < 10 else 1 if amount < 100 else 0}f} {unit}"
    return f"{found} B"


def _place(site: ListedSite) -> list[str]:
    return [site.name, str(site.calls), str(site.rows), str(site.width), site.dtype]


def _totals(listing: Listing) -> list[str]:
    raw = sum(bool(site.reason) for site in listing.sites)
    return [
        listing.cell.label,
        str(listing.cell.depth),
        str(len(listing.sites) - raw),
        str(raw),
        size(listing.raw_bytes),
        size(listing.kept_bytes),
        _saved(listing.raw_bytes, listing.kept_bytes),
    ]


def _by_module(listed: Sequence[ListedSite]) -> list[ListedSite]:
    """The sites with those of one module side by side, modules in the order in which they were first met."""
    order = {module: place for place, module in enumerate(dict.fromkeys(site.module for site in listed))}
    return sorted(listed, key=lambda site: order[site.module])


def _saved(raw: int, kept: int | None) -> str:
    return _UNKNOWN if kept is None else f"{100 * (1 - kept / raw):.1f}" if raw else "0.0"
