"""A plan as a table and in sentences: what each arm takes at each depth, and what the suite's seeds can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compbench.measure.estimating import Estimate
from compbench.report.formats import Table
from compbench.report.formats.table import ABSENT
from compbench.report.site_tables import size
from compbench.run.fitting import Fit
from compbench.run.planning import PlannedArm
from compbench.run.progress import duration

_RANGE = " to "


def plan_table(
    arms: Sequence[PlannedArm], fits: Mapping[str, Fit] | None = None, limit: int | None = None, asked: str = ""
) -> Table:
    """A row an arm and depth.

    Args:
        arms: the plan.
        fits: what fits, by arm's label, if that was asked.
        limit: bytes that there are, if it was asked what fits.
        asked: the same as the user has written it.
    """
    headers = ["arm", "depth", "cells", "saved bytes", "saved %", "peak delta", "phase", "training", "parameters"]
    headers += ["FLOPs", "FLOP ratio", "a cell takes", "all left"]
    if limit is not None:
        headers += [f"fits {asked or size(limit)}", "largest depth", "largest batch"]
    cells = [_row(arm, fits, limit) for arm in arms]
    return Table(
        headers,
        cells,
        ("arm", "cells", "phase"),
        sentences=_sentences(arms, fits),
        caption="what each arm takes",
        columns=COLUMNS,
        records=[plan_record(arm, fits, limit) for arm in arms],
    )


COLUMNS = (
    *("arm", "depth", "to_run", "basis", "by_law", "saved_bytes", "most_saved_bytes", "uncompressed_bytes"),
    *("peak_delta_bytes", "most_peak_delta_bytes", "uncompressed_peak_delta_bytes", "peak_phase", "state_bytes"),
    *("training_bytes", "parameters", "flops", "uncompressed_flops", "seconds", "fits", "largest_depth"),
    *("largest_batch", "reason", "note"),
)
"""Of the raw numbers. ``most_`` is with the largest ranks that values may lead to, where they decide."""


def plan_record(arm: PlannedArm, fits: Mapping[str, Fit] | None = None, limit: int | None = None) -> dict[str, Any]:
    """An arm at a depth as plain data, without its sites."""
    plain, least, most = arm.plain, arm.least, arm.most
    fit = (fits or {}).get(arm.cell.label)
    taken = arm.training_bytes
    return {
        "arm": arm.cell.label,
        "depth": arm.cell.depth,
        "to_run": arm.states.get("to run", 0),
        "basis": arm.basis if least else None,
        "by_law": arm.by_law,
        "saved_bytes": least.saved_bytes if least else None,
        "most_saved_bytes": most.saved_bytes if most else None,
        "uncompressed_bytes": plain.saved_bytes if plain else None,
        "peak_delta_bytes": least.peak_delta_bytes if least else None,
        "most_peak_delta_bytes": most.peak_delta_bytes if most else None,
        "uncompressed_peak_delta_bytes": plain.peak_delta_bytes if plain else None,
        "peak_phase": least.peak_phase if least else None,
        "state_bytes": least.state_bytes if least else None,
        "training_bytes": taken,
        "parameters": plain.parameters if plain else None,
        "flops": least.flops.total if least else None,
        "uncompressed_flops": plain.flops.total if plain else None,
        "seconds": arm.seconds,
        "fits": None if limit is None or taken is None else taken <= limit,
        "largest_depth": fit.largest_depth if fit else None,
        "largest_batch": (fit.largest_batch or {}).get(arm.cell.depth) if fit else None,
        "reason": arm.reason,
        "note": arm.note,
    }


def sites_table(arms: Sequence[PlannedArm]) -> Table:
    """A row a site of every arm and depth."""
    headers = ("arm", "depth", "site", "calls", "rows", "width", "raw", "kept", "saved %", "rank", "left raw, since")
    rows, records = [], []
    for arm in arms:
        most = {site["name"]: site for site in arm.most.sites} if arm.most else {}
        for site in arm.least.sites if arm.least else ():
            upper = most.get(site["name"], site)
            ranks = [s["statistics"].get("rank") for s in (site, upper)]
            rows.append(
                [
                    *(arm.cell.label, str(arm.cell.depth), site["name"]),
                    *(str(site[name]) for name in ("calls", "rows", "width")),
                    size(site["raw_bytes"]),
                    _span(size(site["kept_bytes"]), size(upper["kept_bytes"])),
                    _span(*(_saved(s["raw_bytes"], s["kept_bytes"]) for s in (site, upper))),
                    _span(*("" if rank is None else f"{rank:g}" for rank in ranks)),
                    site["reason"],
                ]
            )
            records.append(
                {
                    "arm": arm.cell.label,
                    "depth": arm.cell.depth,
                    "site": site["name"],
                    **{name: site[name] for name in ("calls", "rows", "width", "raw_bytes", "kept_bytes")},
                    "most_kept_bytes": upper["kept_bytes"],
                    "rank": ranks[0],
                    "most_rank": ranks[1],
                    "reason": site["reason"],
                }
            )
    columns = tuple(records[0]) if records else ("arm", "depth", "site")
    return Table(headers, rows, ("arm", "site", "left raw, since"), caption="sites", columns=columns, records=records)


def _row(arm: PlannedArm, fits: Mapping[str, Fit] | None, limit: int | None) -> list[str]:
    plain, least, most = arm.plain, arm.least, arm.most
    upper = most or least
    row = [arm.cell.label, f"{arm.cell.depth}{'*' if arm.by_law else ''}", _states(arm)]
    if least is None or upper is None or plain is None:
        row += ["not estimable", *[ABSENT] * 4, f"{plain.parameters:,}" if plain else ABSENT, ABSENT, ABSENT]
    else:
        about = "~" if arm.basis == "usual" else ""
        row += [
            about + _span(size(least.saved_bytes), size(upper.saved_bytes)),
            _span(*(_saved(plain.saved_bytes, found.saved_bytes) for found in (least, upper))),
            about + _span(size(least.peak_delta_bytes), size(upper.peak_delta_bytes)),
            _span(least.peak_phase, upper.peak_phase),
            size(arm.training_bytes),
            f"{plain.parameters:,}",
            _operations(least.flops.total),
            _ratios(plain, least, upper),
        ]
    left = arm.states.get("to run", 0)
    row.append(ABSENT if arm.seconds is None else duration(arm.seconds))
    row.append(ABSENT if arm.seconds is None or not left else duration(arm.seconds * left))
    if limit is not None:
        record = plan_record(arm, fits, limit)
        row.append({None: ABSENT, True: "yes", False: "no"}[record["fits"]])
        row += [ABSENT if record[name] is None else f"{record[name]:,}" for name in ("largest_depth", "largest_batch")]
    return row


def _states(arm: PlannedArm) -> str:
    return ", ".join(f"{count} {state}" for state, count in arm.states.items())


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low}{_RANGE}{high}"


def _saved(raw: int, kept: int) -> str:
    return f"{100 * (1 - kept / raw):.1f}" if raw else "0.0"


def _operations(count: int) -> str:
    for divisor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= divisor:
            return f"{count / divisor:.3g} {unit}"
    return str(count)


def _ratios(plain: Estimate, *found: Estimate) -> str:
    if not plain.flops.total:
        return ABSENT
    ratios = [f"{each.flops.total / plain.flops.total:.2f}" for each in found]
    return _span(ratios[0], ratios[-1])


def _sentences(arms: Sequence[PlannedArm], fits: Mapping[str, Fit] | None) -> list[str]:
    bases = {arm.basis for arm in arms if arm.least}
    sentences = [
        "saved bytes: what is held for the backward pass at its maximum; peak delta: the highest memory of a step over "
        "what is there before it; training: parameters, optimiser state and the highest peak of any step, calibration "
        "included, without waiting batches and the libraries' own memory; FLOPs: of a step, by torch's counter."
    ]
    if "bounds" in bases:
        sentences.append(
            "A span: values decide over ranks; first with the ranks that a training begins with, or the least, "
            "then with the largest. --ranks-from takes them from results."
        )
    if "results" in bases:
        sentences.append("Where values decide over ranks, bits or choices, they are those of the results given.")
    if "usual" in bases:
        sentences.append("~: values decide over the bits of single sites; here each has the average of all.")
    if any(arm.by_law for arm in arms):
        sentences.append(
            "*: follows from the three shallowest depths, which lie on a line to the byte; --every-depth computes each."
        )
    notes = {arm.note: f"{arm.cell.label} at depth {arm.cell.depth}" for arm in arms if arm.note}
    sentences += [f"{where}: {note}." for note, where in notes.items()]
    reasons: dict[str, list[str]] = {}
    for arm in arms:
        if arm.reason:
            reasons.setdefault(arm.reason, []).append(arm.cell.label)
    sentences += [f"{', '.join(dict.fromkeys(labels))}: {reason}." for reason, labels in reasons.items()]
    for label, fit in (fits or {}).items():
        if fit.reason and fit.reason not in reasons:
            sentences.append(f"what fits of {label} was not found: {fit.reason}.")
    return sentences
