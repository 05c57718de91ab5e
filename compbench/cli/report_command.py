"""``compbench report``: a suite's results as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compbench.cli.printing import warn
from compbench.report.page import write_page
from compbench.report.page.numbers import size

HELP = """
Writes a suite's results as one HTML page: what was asked and found, tables, figures, every cell with its log.

The page is a single file that needs no network, for reading in a browser, sending, citing and printing. Its tables sort
and filter, its figures tell their numbers, and from the same results it is the same, byte for byte.

\b
Examples:
  compbench report results/quick                          writes results/quick/report.html
  compbench report results/trm_depth --output page.html

Exit status: 0 all well, 2 bad input.
"""


def report(
    directory: Annotated[Path, typer.Argument(help="A suite's results folder, such as results/quick.", metavar="DIR")],
    output: Annotated[
        Path | None, typer.Option(help="Write to this file instead of DIR/report.html.", metavar="FILE")
    ] = None,
) -> None:
    """Writes a suite's results as one page."""
    written = write_page(directory, output, warn)
    typer.echo(f"{written.path} ({size(written.size)})")
