"""The published page of a suite's results: the table, what it rests on, and how to make it again.

The page is made from the store alone and holds no time and no folder of its own: the same store gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from compbench.errors import StoreError
from compbench.report.formats import TERMINAL, Screen, Table, as_text
from compbench.report.outcome import Outcome, PlannedCell, read_outcome
from compbench.report.rows import as_csv, make_rows
from compbench.report.statistics import POWER
from compbench.report.tables import results_table, times_table
from compbench.report.verdicts import REFERENCE, Verdict, judge
from compbench.report.wording import NOT_AVAILABLE, difference, difference_unit, figures, words
from compbench.run.affinity import Placement
from compbench.run.files import write_atomically
from compbench.run.machine import Machine
from compbench.run.result import CellResult
from compbench.run.store import LOGGER, Warn
from compbench.suite.cell import PluginReference

_FOLDERS = re.compile(r"(?<![\w.:/~-])(?:/[\w.@+~-]+)+/(?=[\w.@+~-])")


_PLACEMENTS: dict[Placement, str] = {
    "own": "each cell on some of its own",
    "shared": "all that there are",
    "refused": "all that there are, since the system refused to share them out",
    "unknown": "not known to this system",
}


def write_results(directory: Path, warn: Warn = LOGGER.warning, screen: Screen | None = None) -> str:
    """Writes ``README.md`` and ``table.csv`` into a suite's results folder.

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
    for name, text in (("table.csv", as_csv(make_rows(outcome))), ("README.md", readme(outcome))):
        try:
            write_atomically(directory / name, text)
        except OSError as error:
            raise StoreError(f"can't write {directory / name}: {error.strerror or error}") from error
    return as_text(results_table(outcome), TERMINAL, screen)


def readme(outcome: Outcome) -> str:
    """The page of a results folder, in Markdown."""
    sections = [
        f"# {outcome.name}",
        outcome.description.strip(),
        as_text(results_table(outcome), "github").strip(),
        *_times(outcome),
        *_verdicts(outcome),
        _failures(outcome.cells),
        _origin(outcome),
        _settings([cell.result for cell in outcome.cells if cell.result]),
        "`table.csv` has the raw numbers under stable names; `cells/` has every cell's record, with all its metrics, "
        "its loss curve and what "
        "each site kept. The table is made again from these by "
        f"`compbench table results/{outcome.name} --format github` (or `latex_booktabs`, `html`, `csv`, `json`).",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def without_folders(text: str) -> str:
    """Text in which absolute paths are cut down to their last part: they name places on somebody's machine."""
    return _FOLDERS.sub("", text)


def _times(outcome: Outcome) -> list[str]:
    """Where the time goes, if the records know."""
    results = [cell.result for cell in outcome.cells if cell.result]
    if not any(result.arithmetic or (result.time and result.time.phases) for result in results):
        return []
    times, told = times_table(outcome), set(results_table(outcome).sentences)
    new = [sentence for sentence in times.sentences if sentence not in told]
    times = dataclasses.replace(times, sentences=new, best_sentence="")
    return ["## Where the time goes", as_text(times, "github").strip()]


def _verdicts(outcome: Outcome) -> list[str]:
    """What the verdicts rest on, a table a metric."""
    if not outcome.margins:
        return []
    sections = [
        f"## Against `{REFERENCE}`, paired by seed",
        "Differences are arm minus reference. The lower bound is one-sided at 95 % and not adjusted. p is that of the "
        "paired t test against a loss of the margin or more, then adjusted by Holm's method over the table. Exact p is "
        "that of the sign-flip test of the same question, with the smallest value that so many pairs can give. Dropped "
        "are planned seeds without a pair; the correlation is that between arm and reference.",
    ]
    for metric, margin in outcome.margins.items():
        verdicts = [verdict for verdict in judge(outcome, metric, margin) if verdict.decision != "reference"]
        sections.append(f"### {words(metric)}, margin {difference(metric, margin)}{difference_unit(metric)}")
        sections.append(as_text(_verdict_table(metric, verdicts), "github").strip())
    return sections


def _verdict_table(metric: str, verdicts: Sequence[Verdict]) -> Table:
    headers = ["arm", "depth", "verdict", "pairs", "dropped", "mean difference", "SD", "smallest", "lower bound"]
    headers += ["p", "Holm p", "exact p (floor)", "not worse", "correlation"]
    sentences = [
        f"{verdict.arm} at depth {verdict.depth}, {verdict.decision}: {note}."
        for verdict in verdicts
        if (note := _verdict_note(verdict))
    ]
    return Table(headers, [_verdict_text(metric, verdict) for verdict in verdicts], ("arm", "verdict"), sentences)


def _verdict_text(metric: str, verdict: Verdict) -> list[str]:
    start = [verdict.arm, str(verdict.depth), verdict.decision, str(verdict.pairs), str(verdict.dropped)]
    test = verdict.test
    if test is None:
        return start + [NOT_AVAILABLE] * 9
    exact = NOT_AVAILABLE if test.exact_p is None else f"{figures(test.exact_p)} ({figures(test.exact_floor)})"
    return [
        *start,
        *(difference(metric, value) for value in (test.mean, test.sd, test.minimum, test.lower_bound)),
        figures(test.p_non_inferior),
        figures(verdict.adjusted_p),
        exact,
        f"{test.not_worse}/{test.n}",
        NOT_AVAILABLE if verdict.correlation is None else f"{verdict.correlation:.2f}",
    ]


def _verdict_note(verdict: Verdict) -> str:
    if verdict.decision != "inconclusive" or verdict.note:
        return verdict.note
    if verdict.seeds_needed is None:
        return "at this SD a thousand seeds would be too few"
    return (
        f"{verdict.seeds_needed} seeds would show non-inferiority with a probability of {100 * POWER:.0f} %, "
        "if there is no true difference and the SD is as observed"
    )


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
        lines.append(f"- {status}: {reason}")
        lines += [f"  - {arm}, depth {depth}, seed {_listed(seeds)}" for (arm, depth), seeds in places.items()]
    return "\n".join(lines)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))


def _origin(outcome: Outcome) -> str:
    """The command, when, with which seeds, and on what."""
    results = [cell.result for cell in outcome.cells if cell.result]
    ok = sum(result.status == "ok" for result in results)
    days = sorted({result.started_at[:10] for result in results if result.started_at})
    lines = ["## How it was made", ""]
    if outcome.command:
        lines += ["```", without_folders(outcome.command), "```", ""]
    lines.append(f"- cells: {len(outcome.cells)} in the suite, {len(results)} run, {ok} ok")
    lines.append(f"- seeds: {_listed(result.cell.seed for result in results)}")
    if days:
        lines.append(f"- made: {' to '.join(dict.fromkeys((days[0], days[-1])))} (UTC)")
    lines.append(f"- durations of the cells: {sum(result.seconds for result in results) / 60:.1f} minutes in all")
    for digest in sorted({result.machine for result in results}):
        share = sum(result.machine == digest for result in results)
        of = "" if share == len(results) else f" of {share} cells"
        machine = outcome.machines.get(digest)
        lines.append(f"- machine{of}: {_machine(machine) if machine else 'not described in this folder'}")
    times = [result.time for result in results if result.time]
    if times:
        lines.append(f"- threads when timing: {_listed(time.threads for time in times)}")
        lines += [f"- allocator when timing: `{allocator}`" for allocator in sorted({time.allocator for time in times})]
    places = {result.environment.placement for result in results if result.environment}
    lines += [f"- cores of the cells: {said}" for place, said in _PLACEMENTS.items() if place in places]
    return "\n".join(lines)


def _machine(machine: Machine) -> str:
    memory = f", {machine.memory_bytes / 1e9:.1f} GB" if machine.memory_bytes else ""
    devices = f", {', '.join(machine.cuda_devices)}" if machine.cuda_devices else ""
    commit = f" at {machine.commit}" if machine.commit else ""
    return (
        f"{machine.cpu}, {machine.cores} cores{memory}{devices}; {machine.os}, glibc {machine.glibc}; "
        f"{machine.python}, torch {machine.torch}, compbench {machine.compbench}{commit}"
    )


def _settings(results: Sequence[CellResult]) -> str:
    """The settings that all cells share, and the strategies behind the arms."""
    cells = [result.cell for result in results]
    groups: dict[str, list[dict[str, Any]]] = {
        "workload": [{"name": cell.workload.name, **cell.workload.fields} for cell in cells],
        "training": [cell.training.model_dump(mode="json") for cell in cells],
        "measuring": [cell.measuring.model_dump(mode="json") for cell in cells],
        "capture": [cell.capture.model_dump(mode="json") for cell in cells],
        "device": [{"name": cell.device} for cell in cells],
    }
    lines = ["## Settings", "", "Those that differ between cells are named in the rows of the table.", ""]
    for name, settings in groups.items():
        shared = {key: value for key, value in settings[0].items() if all(s.get(key) == value for s in settings)}
        values = ", ".join(
            _plain(value) if key == "name" else f"{key} {_plain(value)}" for key, value in shared.items()
        )
        lines.append(f"- {name}: {without_folders(values)}")
    lines.append("- arms, with the fields that differ from their defaults:")
    arms = {cell.label: ", then ".join(map(_strategy, cell.strategy)) for cell in cells}
    return "\n".join([*lines, *(f"  - {label}: {without_folders(strategy)}" for label, strategy in arms.items())])


def _strategy(plugin: PluginReference) -> str:
    fields = ", ".join(f"{name} {_plain(value)}" for name, value in plugin.fields.items())
    return f"{plugin.name} ({fields})" if fields else plugin.name


def _plain(value: object) -> str:
    """A setting's value as a suite's file may write it."""
    return value if isinstance(value, str) else json.dumps(value)
