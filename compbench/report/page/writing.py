"""The page of a results folder: its parts put together, at the size that is allowed, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compbench.errors import StoreError
from compbench.report.evidence import (
    TIMES_TITLE,
    VERDICTS_EXPLAINED,
    VERDICTS_TITLE,
    time_evidence,
    verdict_evidence,
    without_verdicts,
)
from compbench.report.findings import findings
from compbench.report.origin import PLACEMENTS, machine_text, origin_of, shared_settings
from compbench.report.outcome import Outcome, read_outcome
from compbench.report.page.cells import CellEntry, Details, cell_table, details
from compbench.report.page.drawings import Drawings, draw_figures
from compbench.report.page.embedding import content_security_policy, json_for_script, script_for_element
from compbench.report.page.extent import EXTENTS, LARGEST_BYTES, Extent
from compbench.report.page.failures import failures
from compbench.report.page.logs import read_log
from compbench.report.page.numbers import size
from compbench.report.page.question import question
from compbench.report.page.rendering import render, template_text
from compbench.report.page.tables import sortable
from compbench.report.rows import as_csv, make_rows
from compbench.report.tables import results_table, times_table
from compbench.run.files import write_atomically
from compbench.run.store import LOGGER, Warn

_MANY_ROWS = 4
"""From this number of rows on a table has controls to choose some of them."""


@dataclass(frozen=True)
class Written:
    """A page that was written: where, and how many bytes it has."""

    path: Path
    size: int


def write_page(directory: Path, output: Path | None = None, warn: Warn = LOGGER.warning) -> Written:
    """Writes the page of a suite's results.

    Args:
        directory: the suite's own folder, such as ``results/quick``.
        output: the file; by default ``report.html`` in that folder.
        warn: is handed one line for each record that can't be used.

    Raises:
        StoreError: the folder can't be read, no cell has been run, the file can't be written, or the page would be
            larger than :data:`LARGEST_BYTES` however much is left out.
    """
    data = make_page(read_outcome(directory, warn), directory).encode()
    path = directory / "report.html" if output is None else output
    try:
        write_atomically(path, data)
    except OSError as error:
        raise StoreError(f"can't write {path}: {error.strerror or error}") from error
    return Written(path, len(data))


def make_page(outcome: Outcome, directory: Path | None = None, largest_bytes: int = LARGEST_BYTES) -> str:
    """The page of a suite's results, as full as its size allows.

    Args:
        outcome: the suite's results.
        directory: where the logs are; None where there are none.
        largest_bytes: of the page.

    Raises:
        StoreError: the page would be larger, however much is left out.
    """
    content, drawings = _content(outcome), draw_figures(outcome)
    for extent in EXTENTS:
        page = _page(content, drawings, extent, directory, largest_bytes)
        if page is not None:
            return page
    raise StoreError(
        f"the page of {outcome.name} with its {len(outcome.cells):,} cells would be larger than {size(largest_bytes)}, "
        "even without their settings, sites and logs (compbench table and compbench figures have no limit)"
    )


def _page(
    content: Mapping[str, Any], drawings: Drawings, extent: Extent, directory: Path | None, largest_bytes: int
) -> str | None:
    """The page at one extent; None where it would be too large."""

    def shown(entry: CellEntry) -> Details | None:
        if entry.result is None or (entry.status == "ok" and not extent.settings):
            return None
        log = read_log(directory, entry.key, extent.log_bytes) if directory else None
        return details(entry.result, log, extent)

    library = script_for_element(drawings.library) if extent.interactive else ""
    script = script_for_element(template_text("page.js"))
    return render(
        largest_bytes,
        **content,
        extent=extent,
        details=shown,
        drawings=drawings,
        many_rows=_MANY_ROWS,
        style=template_text("page.css"),
        library=library,
        script=script,
        policy=content_security_policy(filter(None, [library, script])),
    )


def _content(outcome: Outcome) -> Mapping[str, Any]:
    """All of a page that does not depend on the room that there is, by the names that the template knows."""
    origin = origin_of(outcome)
    results = [cell.result for cell in outcome.cells if cell.result]
    return {
        "name": outcome.name,
        "description": outcome.description.strip(),
        "question": question(outcome),
        "findings": findings(outcome),
        "tables": _tables(outcome),
        "cells": cell_table(outcome),
        "failures": failures(outcome),
        "origin": origin,
        "machines": [(share, machine_text(share.machine)) for share in origin.machines],
        "placements": [PLACEMENTS[place] for place in origin.placements],
        "settings": shared_settings(results),
        "margins": outcome.margins,
        "verdicts_title": VERDICTS_TITLE,
        "verdicts_explained": VERDICTS_EXPLAINED,
        "without_verdicts": without_verdicts(outcome),
        "times_title": TIMES_TITLE,
        "numbers": json_for_script({"name": f"{outcome.name}.csv", "text": as_csv(make_rows(outcome))}),
    }


def _tables(outcome: Outcome) -> Mapping[str, Any]:
    """The tables of the page but that of its cells."""
    evidence = verdict_evidence(outcome)
    ratios = time_evidence(outcome)
    phases = any(
        cell.result and (cell.result.arithmetic or (cell.result.time and cell.result.time.phases))
        for cell in outcome.cells
    )
    results, times = results_table(outcome), times_table(outcome)
    new = [sentence for sentence in times.sentences if sentence not in results.sentences]
    return {
        "results": sortable("results", "Results by arm and depth", results),
        "verdicts": [
            (found.title, sortable(f"verdicts-{number}", found.title.replace("`", ""), found.table))
            for number, found in enumerate(evidence, start=1)
        ],
        "ratios": sortable("ratios", TIMES_TITLE, ratios) if ratios else None,
        "phases": sortable("phases", "Where the time goes", replace(times, sentences=new)) if phases else None,
    }
