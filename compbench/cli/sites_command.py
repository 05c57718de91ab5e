"""``compbench sites``: what a suite's cells will save, site by site, before anything is trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from compbench.measure.site_listing import ListedSite
from compbench.registry import Registry, default_plugins_dir
from compbench.run.listing import Lister, Listing
from compbench.run.naming import find_named, one_of_all_seeds

HELP = """
Lists every site of a suite's model, with what its arms will keep there; trains nothing.

A site is a place where autograd saves an activation. One step runs without values, on shapes alone, so that it takes
seconds and little memory whatever the size of the model; what a strategy keeps is what it expects once it has settled.
The patterns of the suite's capture.sites are followed. Seeds make no difference and are left out.

\b
Examples:
  compbench sites quick --only arm=laser           one arm, at the suite's deepest recursion
  compbench sites suites/trm_depth_paper.yaml      every arm, and a table of their totals
  compbench sites mine.yaml --only depth=4,8 --json
  compbench sites laser-d4-s0-1f2e3d4c5b6a         one cell by its key, or by its record's path

Exit status: 0 listed, 2 bad input, such as a pattern that matches no site.
"""

_COLUMNS = ("site", "calls", "rows", "width", "dtype", "raw", "kept", "saved %", "rank", "error")
_RAW_COLUMNS = ("site left raw", "calls", "rows", "width", "dtype", "raw", "reason")
_TOTALS = ("arm", "depth", "sites", "left raw", "raw", "kept", "saved %")
_WORDS = {"site", "dtype", "error", "site left raw", "reason", "arm"}
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_UNKNOWN = "?"


def sites(
    target: Annotated[
        str, typer.Argument(help="A suite, a cell's key, or the path of a cell's record.", metavar="SUITE|CELL")
    ],
    results: Annotated[
        Path, typer.Option(help="Folder in which a cell's key is looked for, as for compbench run.", metavar="DIR")
    ] = Path("results"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="List part of the suite: AXIS=VALUE[,VALUE...], as in compbench run; without a depth, the deepest.",
            metavar="PATTERN",
        ),
    ] = None,
    values: Annotated[
        bool,
        typer.Option(
            "--values", help="Run a real, uncompressed step instead, for models that ask for values of their tensors."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    plugins_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with plugins of your own; by default ./plugins if there is one.", metavar="DIR"),
    ] = None,
) -> None:
    """Lists every site of a suite's model, with what its arms will keep there."""
    registry = Registry.load(plugins_dir if plugins_dir is not None else default_plugins_dir())
    cells = one_of_all_seeds(find_named(target, results, registry, device="cpu"), only or (), registry, _warn)
    lister = Lister(registry, values)
    listings = []
    for cell in cells:
        listings.append(lister.sites(cell))
        if not as_json:
            _print_listing(listings[-1])
    if as_json:
        typer.echo(json.dumps({"suite": cells[0].suite, "cells": [record(listing) for listing in listings]}, indent=2))
    elif len(listings) > 1:
        _print_table(_TOTALS, [_totals(listing) for listing in listings])


def record(listing: Listing) -> dict[str, Any]:
    """One cell's sites as plain data."""
    cell = listing.cell
    return {
        "arm": cell.arm,
        "depth": cell.depth,
        "variant": cell.variant,
        "raw_bytes": listing.raw_bytes,
        "kept_bytes": listing.kept_bytes,
        "sites": [site.record() for site in listing.sites],
    }


def _print_listing(listing: Listing) -> None:
    cell = listing.cell
    typer.echo(f"{cell.label}, depth {cell.depth}, batch {cell.training.batch_size}, {cell.training.precision}\n")
    by_module = _by_module(listing.sites)
    compressed = [site for site in by_module if not site.reason]
    raw = [site for site in by_module if site.reason]
    if compressed:
        rows = [
            (
                site.name,
                str(site.calls),
                str(site.rows),
                str(site.width),
                site.dtype,
                _size(site.raw_bytes),
                _size(site.kept_bytes),
                _saved(site.raw_bytes, site.kept_bytes),
                "" if site.rank is None else str(site.rank),
                "propagating" if site.propagating else "weight-only",
            )
            for site in compressed
        ]
        _print_table(_COLUMNS, rows)
    if raw:
        _print_table(
            _RAW_COLUMNS,
            [(s.name, str(s.calls), str(s.rows), str(s.width), s.dtype, _size(s.raw_bytes), s.reason) for s in raw],
        )
    unknown = sum(site.kept_bytes is None for site in listing.sites)
    told = f"; {unknown} sites can't tell beforehand what they will keep" if unknown else ""
    kept = _size(listing.kept_bytes)
    saved = _saved(listing.raw_bytes, listing.kept_bytes)
    typer.echo(f"total: raw {_size(listing.raw_bytes)}, kept {kept}, saved {saved} %{told}\n")


def _totals(listing: Listing) -> tuple[str, ...]:
    raw = sum(bool(site.reason) for site in listing.sites)
    return (
        listing.cell.label,
        str(listing.cell.depth),
        str(len(listing.sites) - raw),
        str(raw),
        _size(listing.raw_bytes),
        _size(listing.kept_bytes),
        _saved(listing.raw_bytes, listing.kept_bytes),
    )


def _by_module(listed: Sequence[ListedSite]) -> list[ListedSite]:
    """The sites with those of one module side by side, modules in the order in which they were first met."""
    order = {module: place for place, module in enumerate(dict.fromkeys(site.module for site in listed))}
    return sorted(listed, key=lambda site: order[site.module])


def _size(size: int | None) -> str:
    if size is None:
        return _UNKNOWN
    for divisor, unit in _UNITS:
        amount = float(f"{size / divisor:.3g}")
        if amount >= 1:
            return f"{amount:.{2 if amount < 10 else 1 if amount < 100 else 0}f} {unit}"
    return f"{size} B"


def _saved(raw: int, kept: int | None) -> str:
    return _UNKNOWN if kept is None else f"{100 * (1 - kept / raw):.1f}" if raw else "0.0"


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that fits the terminal, or plain columns where the output goes elsewhere."""
    console = Console()
    if not console.is_terminal:
        align = ["left" if column in _WORDS else "right" for column in columns]
        typer.echo(tabulate(rows, headers=columns, tablefmt="simple", disable_numparse=True, colalign=align) + "\n")
        return
    table = Table()
    for column in columns:
        table.add_column(column, justify="left" if column in _WORDS else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
