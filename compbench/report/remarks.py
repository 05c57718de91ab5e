"""What a reader of a table might be misled by if it went unsaid, in sentences under the table."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from compbench.report.outcome import Outcome
from compbench.report.quantities import Kind
from compbench.report.rows import Row, metric_names, ok_results
from compbench.report.wording import words
from compbench.run.machine import Machine
from compbench.run.merged import LeftOut

_LARGEST_QUIET_SPREAD = 0.01
_LARGEST_QUIET_EXCESS = 1.25
_WOULD_KEEP = re.compile(r"would keep \d+ of \d+ bytes")
"""The reason of a site that was left raw since the strategy would keep no less there."""


def remarks(rows: Sequence[Row], shown: Sequence[Row], kinds: Collection[Kind] | None = None) -> list[str]:
    """The remarks on the rows of a table.

    Args:
        rows: all rows of the suite.
        shown: those of which anything has been run.
        kinds: of figures that the table shows; by default all of them.
    """
    found = []
    for row in shown:
        texts = [text for kind, text in _of_row(row) if kinds is None or kind in kinds]
        found += [f"{row.arm} at depth {row.depth}: {text}." for text in texts]
    hidden = {name for row in shown for r in ok_results(row.cells) for name in r.metrics} - set(metric_names(shown))
    if hidden:
        found.append(f"metrics that are not shown, since other columns have their names: {', '.join(sorted(hidden))}.")
    planned = [cell for row in shown for cell in row.cells]
    missing = sum(cell.result is None for cell in planned)
    if missing:
        found.append(f"{missing} of the {len(planned)} cells that these rows stand for have no record: see seeds.")
    depths: dict[int, list[str]] = {}
    for row in rows:
        if row not in shown:
            depths.setdefault(row.depth, []).append(row.arm)
    for depth, arms in sorted(depths.items()):
        found.append(f"not run yet, at depth {depth}: {', '.join(arms)}.")
    return found


def joining_remarks(outcome: Outcome) -> list[str]:
    """What a reader must know of results that were joined from several stores; nothing for others."""
    merged = outcome.merged
    if merged is None:
        return []
    counts = " + ".join(str(store.cells) for store in merged.stores)
    digests = {result.machine for result in outcome.results.values()}
    kinds = {_kind(outcome.machines.get(digest)) for digest in digests}
    found = [
        f"joined from {len(merged.stores)} stores ({counts} cells), which ran on {' and on '.join(sorted(kinds))}."
    ]
    if merged.times == "left out":
        found.append("times are left out, since those of unlike machines do not compare; the records have them.")
    twice: dict[tuple[str, int], list[LeftOut]] = {}
    for record in merged.left_out:
        twice.setdefault((record.label, record.depth), []).append(record)
    for (label, depth), records in twice.items():
        rules = ", ".join(sorted({f"--prefer {record.prefer}" for record in records}))
        said = "; ".join(_left_out(record) for record in records)
        found.append(
            f"{label} at depth {depth}: of some seeds there were several records. Left out by {rules}: {said}."
        )
    return found


def _left_out(record: LeftOut) -> str:
    """A record that was not taken: what became of it, and its figures, so that nobody need guess why."""
    figures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in record.metrics.items()]
    what = ", ".join([record.status, *figures])
    return f"seed {record.seed}, {what} (taken: one that is {record.kept_status})"


def _kind(machine: Machine | None) -> str:
    if machine is None:
        return "a machine that is not described"
    devices = f", {', '.join(machine.cuda_devices)}" if machine.cuda_devices else ""
    return f"{machine.cpu}, {machine.cores} cores{devices}"


def _of_row(row: Row) -> list[tuple[Kind, str]]:
    """The remarks on a row, each with the kind of figures that it bears on."""
    results = ok_results(row.cells)
    memories = [result.memory for result in results if result.memory]
    found: list[tuple[Kind, str]] = []
    sizes = [memory.saved_bytes for memory in memories]
    if row.saved_bytes and max(sizes) - min(sizes) > _LARGEST_QUIET_SPREAD * row.saved_bytes:
        found.append(("memory", f"saved bytes differ over seeds, from {min(sizes):,} to {max(sizes):,} bytes"))
    worst = max((memory.training_peak_saved_bytes for memory in memories), default=0)
    if row.saved_bytes and worst > _LARGEST_QUIET_EXCESS * row.saved_bytes:
        told = (
            f"one step of the training held {worst:,} bytes, the saved figure is "
            f"{row.saved_bytes:,}: who runs out of memory runs out of it there"
        )
        found.append(("memory", told))
    if memories:
        rank = max(result.statistics.get("rank", 0.0) for result in results)
        found += [("memory", text) for text in _left_raw(memories[0].sites, rank)]
    for name in metric_names([row]):
        wrong = sum(not math.isfinite(result.metrics.get(name, 0.0)) for result in results)
        if wrong:
            found.append(("quality", f"{words(name)} is no finite number in {wrong} of its {len(results)} cells"))
    disturbed = sum(result.time is not None and result.time.alone is False for result in results)
    if disturbed:
        told = f"times of {disturbed} of its {len(results)} cells were taken while another cell ran beside them"
        found.append(("time", told))
    return [*found, *(("quality", text) for text in _limits([result.statistics for result in results]))]


def _left_raw(sites: Sequence[Mapping[str, Any]], rank: float) -> list[str]:
    """That sites were left raw since the strategy would keep no less there, as a rank of their width or more does.

    Args:
        sites: the reports of all sites of a seed.
        rank: of the sites that were compressed, on average; 0 where there is none.
    """
    raw = [site for site in sites if _WOULD_KEEP.fullmatch(site["reason"])]
    if not raw:
        return []
    there = len(raw) + sum(not site["reason"] for site in sites)
    widths = sorted({site["width"] for site in raw})
    why = f" (its rank is {rank:.0f})" if rank >= widths[-1] else ""
    return [
        f"{len(raw)} of its {there} sites are left raw, since it would keep no less there: those of width "
        f"{', '.join(map(str, widths))}{why}"
    ]


def _limits(statistics: Sequence[Mapping[str, float]]) -> list[str]:
    """Limits that a strategy's own counts say it has met.

    Args:
        statistics: of each seed, summed over sites; a chain may have put a member's name before that of a count.
    """

    def counts(name: str) -> list[int]:
        return [int(sum(v for key, v in seed.items() if f"_{key}".endswith(f"_{name}"))) for seed in statistics]

    found = []
    clamped = max(counts("rank_clamped"), default=0)
    if clamped:
        where = "one site" if clamped == 1 else f"{clamped} sites"
        found.append(f"the rank that was asked for is above the width of {where}, and is the width there")
    exhausted = sum(counts("exhausted_steps"))
    if exhausted:
        found.append(
            f"fidelity was below its threshold in {sum(counts('low_fidelity_steps')):,} steps of single sites, over "
            f"all seeds, and in {exhausted:,} of them the rank was the largest that is allowed: it could not grow"
        )
    capped = max(counts("capped_calls"), default=0)
    if capped:
        found.append(f"up to {capped:,} calls of the last step needed a larger rank than is allowed")
    return found
