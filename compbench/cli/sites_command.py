"""``compbench sites``: what a suite's cells will save, site by site, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from compbench.cli.options import PluginsDir, registry_of
from compbench.cli.printing import formatted, show, warn
from compbench.errors import SettingsError, unknown
from compbench.report.formats import FORMATS, TERMINAL
from compbench.report.site_tables import all_sites, compressed_table, raw_table, title, total, totals_table
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
  compbench sites suites/paper/depth.yaml          every arm, and a table of their totals
  compbench sites mine.yaml --only depth=4,8 --json
  compbench sites laser-d4-s0-1f2e3d4c5b6a         one cell by its key, or by its record's path

Exit status: 0 listed, 2 bad input, such as a pattern that matches no site.
"""


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
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            help=f"One of {', '.join(FORMATS)}; csv and json have every site with its raw numbers.",
            metavar="FORMAT",
        ),
    ] = TERMINAL,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    plugins_dir: PluginsDir = None,
) -> None:
    """Lists every site of a suite's model, with what its arms will keep there."""
    if layout not in FORMATS:
        raise SettingsError(f"--format: {unknown('format', layout, FORMATS)}")
    layout = "json" if as_json else layout
    registry = registry_of(plugins_dir)
    cells = one_of_all_seeds(find_named(target, results, registry, device="cpu"), only or (), registry, warn)
    lister = Lister(registry, values)
    listings = []
    for cell in cells:
        listings.append(lister.sites(cell))
        if layout not in ("csv", "json"):
            _print_listing(listings[-1], layout)
    if layout == "json":
        typer.echo(json.dumps({"suite": cells[0].suite, "cells": [record(listing) for listing in listings]}, indent=2))
    elif layout == "csv":
        show(formatted(all_sites(listings), layout))
    elif len(listings) > 1:
        show(formatted(totals_table(listings), layout))


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


def _print_listing(listing: Listing, layout: str) -> None:
    typer.echo(f"{title(listing)}\n")
    for table in (compressed_table(listing), raw_table(listing)):
        if table.cells:
            typer.echo(formatted(table, layout))
    typer.echo(f"{total(listing)}\n")
