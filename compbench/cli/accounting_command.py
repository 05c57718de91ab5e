"""``compbench accounting``: memory as the LASER paper's tables count it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compbench.cli.printing import check_format, formatted, show, warn
from compbench.errors import StoreError
from compbench.report.accounting_tables import arms_table, printed_savings, printed_totals, sites_table
from compbench.report.formats import FORMATS, TERMINAL
from compbench.report.outcome import read_outcome

HELP = """
Counts activation memory as the tables of the LASER paper (arXiv 2604.17224) do, from shapes and final ranks.

Without results: the paper's own Tables 1 and 2 from its sizes and ranks, as it prints them and with a basis that all
calls share. With results: the same accounting of every arm that has ranks, beside the bytes that were measured.

\b
Examples:
  compbench accounting                                   the paper's tables
  compbench accounting results/small/table1              every arm, and every site
  compbench accounting results/small/table1 --of sites --format csv

Exit status: 0 printed, 2 bad input.
"""

_RAW = ("csv", "json")


def accounting(
    directory: Annotated[
        Path | None, typer.Argument(help="A suite's results folder; without it, the paper's tables.", metavar="[DIR]")
    ] = None,
    of: Annotated[
        Literal["arms", "sites", "both"],
        typer.Option(help="Arms (Table 1), sites (Table 2), or both; csv and json have one, sites by default."),
    ] = "both",
    layout: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}, or a format of a plugin.", metavar="FORMAT")
    ] = TERMINAL,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.", metavar="FILE")] = None,
) -> None:
    """Counts activation memory as the tables of the LASER paper do."""
    check_format(layout)
    if of == "both" and layout in _RAW:
        of = "sites"
    if directory is None:
        tables = {"arms": printed_totals, "sites": printed_savings}
        found = [make() for name, make in tables.items() if of in (name, "both")]
    else:
        outcome = read_outcome(directory, warn)
        found = [make(outcome) for name, make in _OF_RESULTS.items() if of in (name, "both")]
        if not any(table.cells for table in found):
            raise StoreError(f"{directory} has no record of a strategy with a rank, and this accounting is by ranks")
    show("\n".join(formatted(table, layout, output).rstrip("\n") + "\n" for table in found), output)


_OF_RESULTS = {"arms": arms_table, "sites": sites_table}
