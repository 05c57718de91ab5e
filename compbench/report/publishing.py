"""A suite's results as a folder to be published: it can be read, cited, checked and made again.

The folder is made from the store alone, without a clock, and names no folder, person or host: the same store gives the
same bytes, wherever it is. It is a store itself, so that tables are made of it, and it is published again as it is.

Records are copied byte for byte, seals included. Only one whose reason, log or other text has a name in it that must
not be published is written anew without it, sealed by the store's own writer, and named on the page: its figures are
the same. What identifies a cell can't be changed without becoming another cell; a setting that is a place on this
machine is therefore refused, or published on request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compbench.errors import SettingsError, StoreError
from compbench.report.checksums import CHECKSUMS, digest, files_in, read_checksums, write_checksums
from compbench.report.citation import Author, citation
from compbench.report.cleaning import mentions
from compbench.report.figures import Figure, as_pdf, as_png, as_svg, make_figures
from compbench.report.formats import as_text
from compbench.report.illustrations import FOLDER, shown_width
from compbench.report.origin import origin_of
from compbench.report.outcome import Outcome, read_outcome
from compbench.report.page import make_page
from compbench.report.publication_page import Contents, incomplete, publication_page
from compbench.report.snapshot import CLEANED, Snapshot
from compbench.report.tables import results_table
from compbench.run.files import make_folder, write_atomically
from compbench.run.store import LOGGER, Store, Warn, store_in_the_making

TABLES = {"table.csv": "csv", "table.json": "json", "table.tex": "latex_booktabs"}
"""The files that hold the table, with their formats."""

_FILES = {
    "report.html": "everything as one page that needs nothing else, to be opened in a browser",
    "table.csv": "the table's raw numbers under stable names",
    "table.json": "the same as JSON",
    "table.tex": "the table for a paper (LaTeX, booktabs)",
    "figures/": "the figures as SVG, PDF and PNG",
    "cells/": "every cell's record: settings, metrics, loss curve, memory, times, what each site kept",
    "machines/": "what the cells ran on",
    "suite.json": "the suite's cells in their order, its margins and the commands",
    "suite.yaml": "the suite's file",
    "merged.json": "of which stores these results were joined, and what was left out",
    "logs/": "what the cells' processes printed, without names of folders, people and hosts",
    CLEANED: "the records that are not as they were written, but without names of folders, people and hosts",
    "CITATION.cff": "how to cite these results",
    CHECKSUMS: "the SHA-256 of every other file",
}
"""What there may be in a publication, in the order in which its page lists it."""

_AT_LAST = ("CITATION.cff", CHECKSUMS)
"""What is written after the list of the files."""


@dataclass(frozen=True)
class PublishOptions:
    """What is published, beside the rule.

    Attributes:
        authors: Who made the results.
        logs: Whether logs are published, too.
        complete: Whether results are refused of which a cell is missing or not ok.
        allow_paths: Whether settings that are places on this machine are published.
    """

    authors: Sequence[Author] = ()
    logs: bool = False
    complete: bool = False
    allow_paths: bool = False


@dataclass(frozen=True)
class Publication:
    """What was published.

    Attributes:
        folder: Where.
        files: How many files it has.
        cells: How many records are among them, and ``planned``: how many cells the suite has.
        replaced: Whether an earlier publication was there.
        remarks: What the user should know of it, a line each.
    """

    folder: Path
    files: int
    cells: int
    planned: int
    replaced: bool
    remarks: Sequence[str]


def publish_results(
    directory: Path,
    into: Path,
    options: PublishOptions | None = None,
    own_names: Iterable[str] = (),
    warn: Warn = LOGGER.warning,
) -> Publication:
    """Writes a suite's results as a folder to be published, whole or not at all.

    Args:
        directory: The suite's own folder, such as ``results/quick``. It is not changed.
        into: The folder to write: not there yet, empty, or an earlier publication of the same suite, whose place it
            takes.
        options: What is published.
        own_names: Names of this user and machine; files that have one in them are told. They change nothing else.
        warn: Is handed one line for each record that can't be used.

    Raises:
        SettingsError: It can't be put there, or the results are not as the options ask.
        StoreError: The results can't be read, or the folder not be written; what was there is as it was.
    """
    options = options or PublishOptions()
    store, suite = Store.open(directory, warn)
    replaced = check_place(into, directory, suite.name)
    snapshot = Snapshot.of(store, suite, options.logs, options.allow_paths)
    with store_in_the_making(into) as folder:
        cleaned = snapshot.write(folder)
        outcome = read_outcome(folder, warn)
        unfinished = incomplete(outcome, list(snapshot.damaged))
        if unfinished and options.complete:
            raise SettingsError(f"--complete: {unfinished} (allowed: results of which every cell is there and ok)")
        remarks = [*snapshot.remarks(), *_write(folder, outcome, snapshot, cleaned, options)]
        files = write_checksums(folder)
        remarks += _remarks(outcome, unfinished, options, mentions(folder, own_names))
    return Publication(into, files, len(outcome.results), len(outcome.keys), replaced, remarks)


def check_place(into: Path, directory: Path, suite: str) -> bool:
    """Whether a publication can be put into a folder; True if it is to take the place of an earlier one.

    Args:
        into: The folder.
        directory: The results that are to be published.
        suite: Their suite's name.

    Raises:
        SettingsError: It can't; nothing is lost by that.
    """
    allowed = f"allowed: a folder that is not there yet, or is empty, or an earlier publication of '{suite}'"
    place, source = into.resolve(), directory.resolve()
    if source in (place, *place.parents) or place in source.parents:
        raise SettingsError(f"{into} and {directory} are one in the other (allowed: a folder elsewhere)")
    if place in (Path.cwd(), *Path.cwd().parents):
        raise SettingsError(f"{into} is the folder that you are in, or above it (allowed: a folder elsewhere)")
    try:
        if not place.exists():
            return False
        if not place.is_dir():
            raise SettingsError(f"{into} is a file ({allowed})")
        if not any(place.iterdir()):
            return False
        why = _not_replaceable(place, suite)
    except OSError as error:
        raise SettingsError(f"{into} can't be read: {error.strerror or error}") from error
    if why:
        raise SettingsError(f"{into} {why} ({allowed}, unchanged)")
    return True


def _not_replaceable(place: Path, suite: str) -> str:
    """Why a folder is no earlier publication of a suite, or has something in it that would be lost; empty if it is."""
    try:
        listed = read_checksums(place)
    except ValueError:
        return "has files in it and is no publication"
    try:
        earlier = Store(place, lambda message: None).suite()
    except StoreError as error:
        return f"can't be told for a publication: {error}"
    if earlier is None:
        return "has files in it and is no publication"
    if earlier.name != suite:
        return f"is a publication of another suite, '{earlier.name}'"
    own = [path for path in files_in(place) if path != CHECKSUMS]
    if foreign := [path for path in own if path not in listed]:
        return f"is an earlier publication with something else in it, which would be lost: {', '.join(foreign[:5])}"
    if changed := [path for path in own if digest(place / path) != listed[path]]:
        return f"is an earlier publication that was changed, and the changes would be lost: {', '.join(changed[:5])}"
    return ""


def _write(
    folder: Path, outcome: Outcome, snapshot: Snapshot, cleaned: Sequence[str], options: PublishOptions
) -> list[str]:
    """Puts into the folder what is made of the records in it; returns what can't be made of them, a line each."""
    remarks = []
    table = results_table(outcome)
    for name, layout in TABLES.items():
        write_atomically(folder / name, as_text(table, layout).rstrip("\n") + "\n", durably=False)
    figures = make_figures(outcome)
    widths = _draw([figure for figure in figures if isinstance(figure, Figure)], folder / FOLDER)
    try:
        write_atomically(folder / "report.html", make_page(outcome, folder), durably=False)
    except StoreError as error:  # of very many cells, which all else has room for
        remarks.append(f"without report.html: {error}")
    day = origin_of(outcome).last_day
    contents = Contents(
        title=f"{outcome.name}: results of compbench",
        version=_version(folder),
        year=day[:4],
        authors=options.authors,
        damaged=list(snapshot.damaged),
        cleaned=cleaned,
        figures=figures,
        widths=widths,
        files=[(name, what) for name, what in _FILES.items() if name in _AT_LAST or (folder / name).exists()],
    )
    programs = sorted({machine.compbench for machine in outcome.machines.values()})
    cff = citation(contents.title, contents.version, day, outcome.description, contents.authors, programs)
    write_atomically(folder / "CITATION.cff", cff, durably=False)
    write_atomically(folder / "README.md", publication_page(outcome, contents), durably=False)
    return remarks


def _draw(figures: Sequence[Figure], folder: Path) -> dict[str, int]:
    """Draws figures into a folder; returns how many pixels wide each is shown, by its name."""
    widths = {}
    for figure in figures:
        make_folder(folder)
        svg = as_svg(figure)
        for suffix, content in (("svg", svg), ("pdf", as_pdf(figure)), ("png", as_png(figure))):
            write_atomically(folder / f"{figure.name}.{suffix}", content, durably=False)
        widths[figure.name] = shown_width(svg)
    return widths


def _version(folder: Path) -> str:
    """What tells these results from others: a hash over every record and machine."""
    paths = [path for path in files_in(folder) if path.startswith(("cells/", "machines/"))]
    lines = "".join(f"{digest(folder / path)}  {path}\n" for path in paths)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()[:12]}"


def _remarks(
    outcome: Outcome, unfinished: str, options: PublishOptions, named: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """What the user should know before the folder is shared."""
    if unfinished:
        yield f"incomplete: {unfinished}"
    if not any(result.status == "ok" for result in outcome.results.values()):
        yield "no cell is ok, so that the table has no figures"
    if not options.authors:
        yield "nobody is named as author, so that CITATION.cff says Anonymous (--author names somebody)"
    for name, files in named.items():
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        yield f"'{name}', the name of this user or machine, is in {', '.join(files[:3])}{more}"
