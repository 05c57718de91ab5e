"""The published page of a suite's results: the table, what it rests on, and how to make it again.

The page is made from the store alone and holds no time and no folder of its own: the same store gives the same bytes.
It shows the figures that are drawn in the folder, as ``compbench figures`` puts them there.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from compbench.errors import StoreError
from compbench.report.evidence import time_sections, verdict_sections
from compbench.report.findings import findings
from compbench.report.formats import TERMINAL, Screen, as_text
from compbench.report.illustrations import redrawn
from compbench.report.markdown import escaped, fenced
from compbench.report.origin import PLACEMENTS, machine_text, origin_of, shared_settings, without_folders
from compbench.report.outcome import Outcome, PlannedCell, read_outcome
from compbench.report.rows import as_csv, make_rows
from compbench.report.tables import results_table, times_table
from compbench.run.files import write_atomically
from compbench.run.result import CellResult
from compbench.run.store import LOGGER, Warn


def write_results(directory: Path, warn: Warn = LOGGER.warning, screen: Screen | None = None) -> str:
    """Writes ``README.md`` and ``table.csv`` into a suite's results folder, and draws anew the figures in it.

    Args:
        directory: the suite's own folder, such as ``results/quick``.
        warn: is handed one line for each record that can't be used.
        screen: what the table is shown on.

    Returns:
        The table as text, for a terminal.

    Raises:
        StoreError: the folder can't be read or written, or no cell has been run.
    """
    outcome = read_outcome(directory, warn)
    try:
        page = readme(outcome, figures=redrawn(directory, outcome))
        for name, text in (("table.csv", as_csv(make_rows(outcome))), ("README.md", page)):
            write_atomically(directory / name, text)
    except OSError as error:
        raise StoreError(f"can't write {error.filename or directory}: {error.strerror or error}") from error
    return as_text(results_table(outcome), TERMINAL, screen)


def readme(outcome: Outcome, notice: str = "", figures: str = "", closing: str = "") -> str:
    """The page of a results folder, in Markdown.

    Args:
        outcome: the suite's results.
        notice: what stands above the table.
        figures: what stands below it.
        closing: what stands at the end, in the place of where the numbers are.
    """
    sections = [
        f"# {escaped(outcome.name)}",
        escaped(outcome.description),
        notice,
        as_text(results_table(outcome), "github").strip(),
        *_findings(outcome),
        figures,
        *_times(outcome),
        *time_sections(outcome),
        *verdict_sections(outcome),
        _failures(outcome.cells),
        _origin(outcome),
        _settings([cell.result for cell in outcome.cells if cell.result]),
        closing
        or "`table.csv` has the raw numbers under stable names; `cells/` has every cell's record, with all its "
        "metrics, its loss curve and what each site kept. The table is made again from these by "
        f"`compbench table results/{outcome.name} --format github` (or `latex_booktabs`, `html`, `csv`, `json`).",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _times(outcome: Outcome) -> list[str]:
    """Where the time goes, if the records know."""
    results = [cell.result for cell in outcome.cells if cell.result]
    if not any(result.arithmetic or (result.time and result.time.phases) for result in results):
        return []
    times, told = times_table(outcome), set(results_table(outcome).sentences)
    new = [sentence for sentence in times.sentences if sentence not in told]
    times = dataclasses.replace(times, sentences=new, best_sentence="")
    return ["## Where the time goes", as_text(times, "github").strip()]


def _findings(outcome: Outcome) -> list[str]:
    """What the table shows, in words."""
    opening, *sentences = findings(outcome)
    return ["## Findings", opening, "\n".join(f"- {sentence}" for sentence in sentences)]


def _failures(cells: Iterable[PlannedCell]) -> str:
    """Cells that were run and are not ok, by status and reason, then by arm and depth."""
    groups: dict[tuple[str, str], dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell.result and cell.status != "ok":
            reason = without_folders(" ".join(cell.result.reason.split())) or "no reason given"
            groups[cell.status, reason][cell.arm, cell.depth].append(cell.seed)
    if not groups:
        return ""
    lines = ["## Not ok", ""]
    for (status, reason), places in groups.items():
        lines.append(f"- {status}: {escaped(reason)}")
        lines += [f"  - {escaped(arm)}, depth {depth}, seed {_listed(seeds)}" for (arm, depth), seeds in places.items()]
    return "\n".join(lines)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))


def _origin(outcome: Outcome) -> str:
    """The command, when, with which seeds, and on what."""
    origin = origin_of(outcome)
    lines = ["## How it was made", ""]
    if origin.command:
        lines += [fenced(origin.command), ""]
    lines.append(f"- cells: {origin.planned} in the suite, {origin.run} run, {origin.ok} ok")
    lines.append(f"- seeds: {_listed(origin.seeds)}")
    if origin.first_day:
        lines.append(f"- made: {' to '.join(dict.fromkeys((origin.first_day, origin.last_day)))} (UTC)")
    lines.append(f"- durations of the cells: {origin.seconds / 60:.1f} minutes in all")
    for share in origin.machines:
        of = "" if share.cells == origin.run else f" of {share.cells} cells"
        lines.append(f"- machine{of}: {machine_text(share.machine)}")
    if origin.threads:
        lines.append(f"- threads when timing: {_listed(origin.threads)}")
        lines += [f"- allocator when timing: `{allocator}`" for allocator in origin.allocators]
    lines += [f"- cores of the cells: {PLACEMENTS[place]}" for place in origin.placements]
    return "\n".join(lines)


def _settings(results: Sequence[CellResult]) -> str:
    """The settings that all cells share, and the strategies behind the arms."""
    settings = shared_settings(results)
    lines = ["## Settings", "", "Those that differ between cells are named in the rows of the table.", ""]
    lines += [f"- {part}: {escaped(values)}" for part, values in settings.groups.items()]
    lines.append("- arms, with the fields that differ from their defaults:")
    return "\n".join([*lines, *(f"  - {escaped(a)}: {escaped(own)}" for a, own in settings.arms.items())])
