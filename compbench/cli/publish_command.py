"""``compbench publish``: a suite's results as a folder that can be read, cited, checked and made again."""

from __future__ import annotations

import getpass
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from compbench.report.citation import ALLOWED, read_authors
from compbench.report.publishing import PublishOptions, publish_results

HELP = """
Writes a suite's results as a folder to be published.

It has a page with the table, verdicts and figures (README.md), the table as CSV, JSON and LaTeX, figures as SVG, PDF
and PNG, a report in one HTML file, every cell's record as it is, the machines, CITATION.cff, and the checksums of all
files (sha256sum --check checksums.txt). The same results give the same bytes. Folders, people and hosts are cut from
what is free text; records of which that is so are named on the page. The results' own folder is not changed.

The folder is one of results, too: compbench table, merge and publish read it.

\b
Examples:
  compbench publish results/trm_routes published/trm_routes
  compbench publish results/quick out --author 'Family, Given <0000-0002-1825-0097; Where They Work>'
  compbench publish results/quick out --author '{The Maze Group}' --logs --complete

Exit status: 0 published, 2 refused or bad input.
"""


def publish(
    directory: Annotated[
        Path, typer.Argument(help="A suite's results folder, such as results/quick.", metavar="RESULTS")
    ],
    into: Annotated[
        Path,
        typer.Argument(
            help="The folder to write: not there yet, empty, or an earlier publication of the suite, unchanged.",
            metavar="DIR",
        ),
    ],
    author: Annotated[
        list[str] | None,
        typer.Option(help=f"Who made the results, for CITATION.cff: {ALLOWED}. May be repeated.", metavar="AUTHOR"),
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Publish the cells' logs, too, cleaned of names.")] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Refuse results of which a cell is missing or not ok.")
    ] = False,
    allow_paths: Annotated[
        bool, typer.Option("--allow-paths", help="Publish settings of cells that are places on this machine.")
    ] = False,
) -> None:
    """Writes a suite's results as a folder to be published."""
    options = PublishOptions(read_authors(author or ()), logs, complete, allow_paths)
    found = publish_results(directory, into, options, _own_names(), _warn)
    for remark in found.remarks:
        _warn(remark)
    how = "published anew" if found.replaced else "published"
    typer.echo(f"{how} in {into}: {found.files} files, records of {found.cells} of {found.planned} cells")


def _own_names() -> list[str]:
    """What this user and this machine are called, which should be in nothing that is published."""
    names = [socket.gethostname(), socket.gethostname().partition(".")[0]]
    with suppress(KeyError, OSError):  # a user whom the system does not know, as in some containers
        names.append(getpass.getuser())
    return list(dict.fromkeys(name for name in names if name))


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
