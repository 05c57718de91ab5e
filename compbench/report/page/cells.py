"""Every planned cell of a suite: its row, what is to be remarked on it, and all that its record says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compbench.measure.results import Arithmetic, Fidelity, Memory, Time
from compbench.report.columns import in_unit
from compbench.report.origin import settings_text, strategy_text, without_folders
from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.page.curves import Curve, loss_curve
from compbench.report.page.extent import Extent
from compbench.report.page.logs import Log, as_shown
from compbench.report.page.numbers import NOT_FINITE, cosine_text, duration, number, size
from compbench.report.page.tables import Column, Value, columns, quantity, word
from compbench.report.quantities import QUANTITIES, Quantity, metric
from compbench.report.wording import NOT_AVAILABLE, RATES, fixed, unit_of_bytes, words
from compbench.run.environment import Environment
from compbench.run.result import CellResult
from compbench.suite.cell import Cell

_MISSING = "not run: there is no record of it that can be used"

_SHOWN_DIGITS = 12
"""Of a hash."""

_LAST_LINES = 12
"""The most lines of a log that stand beside the reason of a cell that is not ok."""

_NAMED_BY = ("arm", "depth", "seed", "status")
_BEFORE_METRICS = ("saved_bytes", "saving", "peak_delta_bytes", "time_ratio")
_AFTER_METRICS = ("gradient_cosine", "seconds")
"""Figures of a cell's row, before and after its held-out metrics."""

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Group:
    """Some facts of a record under a heading: names and values as text."""

    title: str
    facts: Facts


@dataclass(frozen=True)
class Sites:
    """What each site of a cell kept, as text; the first column is the site's name.

    Attributes:
        words: the columns that hold words.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ("site", "dtype", "error", "why not compressed")


@dataclass(frozen=True)
class Details:
    """All that a record says.

    Attributes:
        summary: in a line, what there is.
        loss: the training's loss; None where no step was made.
        sites: None where there are none, or where the page leaves them out.
        log: None where there is none.
    """

    summary: str
    groups: Sequence[Group]
    loss: Curve | None
    sites: Sites | None
    log: Log | None


@dataclass(frozen=True)
class CellEntry:
    """One planned cell.

    Attributes:
        key: its key, and its anchor on the page.
        values: its row, in the order of the columns; of a cell without a record those alone that its key tells.
        remarks: what a reader of its row might be misled by.
        reason: why it is not ok; empty where it is.
        last_lines: of the log of a cell that is not ok.
        result: its record, of which :func:`details` tells the rest; None where there is none.
    """

    key: str
    status: str
    values: Sequence[Value]
    remarks: Sequence[str]
    reason: str
    last_lines: str
    result: CellResult | None


@dataclass(frozen=True)
class CellTable:
    """All planned cells, in the suite's order."""

    columns: Sequence[Column]
    entries: Sequence[CellEntry]


def cell_table(outcome: Outcome) -> CellTable:
    """The table of a suite's cells."""
    results = [cell.result for cell in outcome.cells if cell.result]
    metrics = dict.fromkeys(name for result in results for name in result.metrics)
    quantities = [
        *(QUANTITIES[name] for name in _BEFORE_METRICS),
        *(metric(name) for name in sorted(metrics, key=lambda name: name not in RATES)),
        *(QUANTITIES[name] for name in _AFTER_METRICS),
    ]
    sizes = [q.of(result) or 0 for q in quantities if q.unit == "bytes" for result in results]
    divisor, unit = unit_of_bytes(max(sizes, default=0))
    suffixes = {"bytes": f" {unit}", "share": " %", "rate": " %"}
    headers = [*_NAMED_BY, *(figure.title + suffixes.get(figure.unit, "") for figure in quantities)]
    entries = [_entry(cell, quantities, divisor) for cell in outcome.cells]
    flush_left = [header in ("arm", "status") for header in headers]
    return CellTable(columns(headers, flush_left, [entry.values for entry in entries]), entries)


def _entry(cell: PlannedCell, quantities: Sequence[Quantity], divisor: float) -> CellEntry:
    result = cell.result
    start = [word(cell.arm), quantity(str(cell.depth)), quantity(str(cell.seed)), _status(cell.status)]
    if result is None:
        return CellEntry(cell.key, cell.status, start, (), _MISSING, "", None)
    ok = result.status == "ok"
    return CellEntry(
        key=cell.key,
        status=cell.status,
        values=[*start, *(_figure(figure, result, divisor) for figure in quantities)],
        remarks=remarks(result),
        reason="" if ok else without_folders(" ".join(result.reason.split())) or "no reason given",
        last_lines="" if ok else as_shown("\n".join(result.log_tail[-_LAST_LINES:])),
        result=result,
    )


def _status(status: str) -> Value:
    return Value(status, tone="" if status in ("ok", "missing") else "bad")


def _figure(figure: Quantity, result: CellResult, divisor: float) -> Value:
    value = figure.of(result)
    if value is not None and not math.isfinite(value):
        return Value(NOT_FINITE)
    return Value(in_unit(figure.unit, value, divisor), value)


def remarks(result: CellResult) -> list[str]:
    """What a reader of a cell's row might be misled by if it went unsaid."""
    found = []
    if result.attempts > 1:
        found.append(f"this is its attempt {result.attempts}: earlier ones crashed")
    if result.resumed_from:
        steps = ", ".join(f"{step:,}" for step in result.resumed_from)
        found.append(f"its process had ended, and the training went on from step {steps}")
    if result.skipped_batches:
        found.append(f"the gradients of {result.skipped_batches:,} batches were not applied, as the strategy asked")
    if result.time is not None and result.time.alone is False:
        found.append("its times were taken while another cell ran beside it")
    memory = result.memory
    if memory and memory.training_peak_saved_bytes > 1.25 * memory.saved_bytes:
        found.append(f"one step of its training held {size(memory.training_peak_saved_bytes)}")
    return found


def details(result: CellResult, log: Log | None, extent: Extent) -> Details:
    """All that a record says, as far as the page has room for it.

    Args:
        result: the record.
        log: the cell's; None where there is none.
        extent: the room that there is.
    """
    groups = [
        Group("Settings", _settings(result.cell)),
        Group("Run", _run(result)),
        Group("Environment", _environment(result.environment)),
        Group("Sources", _sources(result)),
        Group("Memory", _memory(result.memory)),
        Group("Time", _time(result.time)),
        Group("Arithmetic", _arithmetic(result.arithmetic)),
        Group("Gradient", _fidelity(result.fidelity)),
        Group("Held-out metrics", [(words(name), number(value)) for name, value in result.metrics.items()]),
        Group("Strategy's own figures", _statistics(result)),
    ]
    return Details(
        summary=_summary(result, log, extent),
        groups=[group for group in groups if group.facts],
        loss=loss_curve(result.loss_curve),
        sites=_sites(result.memory) if extent.sites else None,
        log=log,
    )


def _summary(result: CellResult, log: Log | None, extent: Extent) -> str:
    parts = ["settings", "figures"]
    if extent.sites and result.memory and result.memory.sites:
        count = len(result.memory.sites)
        parts.append("one site" if count == 1 else f"{count} sites")
    if log:
        lines = len(log.text.splitlines())
        parts.append(f"log of {size(log.whole_bytes)}" if log.cut else f"log of {lines} line{'s'[: lines != 1]}")
    else:
        parts.append("no log")
    return f"{', '.join(parts)}; {duration(result.seconds)}"


def _settings(cell: Cell) -> Facts:
    facts = [
        ("strategy", strategy_text(cell.strategy)),
        ("workload", f"{cell.workload.name} ({settings_text(cell.workload.fields)})"),
        ("training", settings_text(cell.training.model_dump(mode="json"))),
        ("measuring", settings_text(cell.measuring.model_dump(mode="json"))),
        ("capture", settings_text(cell.capture.model_dump(mode="json"))),
        ("further axes", settings_text(cell.variant)),
        ("device", cell.device),
    ]
    return [(name, value) for name, value in facts if value]


def _run(result: CellResult) -> Facts:
    before = f", {duration(result.earlier_seconds)} of them in earlier processes" if result.earlier_seconds else ""
    return [
        ("record", f"cells/{result.key}.json"),
        ("machine", result.machine or "unknown"),
        ("started", result.started_at or "unknown"),
        ("duration", duration(result.seconds) + before),
        ("attempts", number(result.attempts)),
        *([("parameters", number(result.parameters))] if result.parameters else []),
        ("initial weights", result.weights_hash[:_SHOWN_DIGITS] or "unknown"),
        ("order of examples", result.order_hash[:_SHOWN_DIGITS] or "unknown"),
    ]


def _environment(environment: Environment | None) -> Facts:
    if environment is None:
        return []
    cores = environment.cores
    return [
        ("allocator", environment.allocator),
        ("tunables", environment.tunables or "none"),
        ("C library", environment.c_library),
        ("preloaded", ", ".join(environment.preloaded) or "nothing"),
        ("threads", number(environment.threads)),
        ("placement", environment.placement + (f", cores {', '.join(map(str, cores))}" if cores else "")),
    ]


def _sources(result: CellResult) -> Facts:
    """Files of its plugins by their hashes; for records that do not list them, the plugins themselves."""
    if result.sources:
        return [(without_folders(name), digest[:_SHOWN_DIGITS]) for name, digest in result.sources.items()]
    plugins = [result.cell.workload, *result.cell.strategy]
    return [(plugin.name, plugin.source[:_SHOWN_DIGITS]) for plugin in plugins if plugin.source]


def _memory(memory: Memory | None) -> Facts:
    if memory is None:
        return []
    facts: dict[str, int | None] = {
        "saved": memory.saved_bytes,
        "saved without the strategy": memory.uncompressed_bytes,
        "highest in any training step": memory.training_peak_saved_bytes,
        "held between steps": memory.state_bytes,
        "peak delta": memory.peak_delta_bytes,
        "peak delta without the strategy": memory.uncompressed_peak_delta_bytes,
        "allocator's peak delta": memory.allocator_peak_delta_bytes,
        "allocator's, without the strategy": memory.uncompressed_allocator_peak_delta_bytes,
        "the process at its highest": memory.process_peak_bytes,
    }
    found = [(name, f"{count:,} B") for name, count in facts.items() if count is not None]
    return [*found, ("peak falls in", memory.peak_phase)]


def _time(time: Time | None) -> Facts:
    if time is None:
        return []
    faults = [(time.page_faults, "page faults of a step"), (time.uncompressed_page_faults, "of a plain step")]
    return [
        ("ratio", f"{number(time.ratio)} ({_between(time.ratio_quartiles)})"),
        ("pairs", number(time.pairs)),
        ("step", _milliseconds(time.step_seconds)),
        ("plain step", _milliseconds(time.uncompressed_step_seconds)),
        *(
            (
                name,
                f"{_milliseconds(phase.seconds)}, plain {_milliseconds(phase.uncompressed_seconds)}"
                + (f", ratio {number(phase.ratio)}" if phase.ratio is not None else "")
                + (f" ({_between(phase.ratio_quartiles)})" if phase.ratio_quartiles else ""),
            )
            for name, phase in time.phases.items()
        ),
        *((name, number(count)) for count, name in faults if count is not None),
        ("threads", number(time.threads)),
        ("allocator", without_folders(time.allocator)),
        ("other cells paused", {True: "yes", False: "no", None: "unknown"}[time.alone]),
    ]


def _between(quartiles: tuple[float, float]) -> str:
    return f"quartiles {number(quartiles[0])} and {number(quartiles[1])}"


def _milliseconds(seconds: float) -> str:
    return f"{number(1000 * seconds)} ms"


def _arithmetic(arithmetic: Arithmetic | None) -> Facts:
    if arithmetic is None:
        return []
    with_it, plain = arithmetic.flops, arithmetic.uncompressed_flops
    return [
        ("operations of a step", f"{with_it.total:,}"),
        ("of a plain step", f"{plain.total:,}"),
        ("ratio", number(arithmetic.ratio)),
        ("forward, plain", f"{with_it.forward:,}, {plain.forward:,}"),
        ("backward, plain", f"{with_it.backward:,}, {plain.backward:,}"),
        ("update", f"{with_it.update:,}"),
    ]


def _fidelity(fidelity: Fidelity | None) -> Facts:
    if fidelity is None:
        return []
    return [
        ("cosine after the last step", cosine_text(fidelity.gradient_cosine)),
        ("after the third step", cosine_text(fidelity.gradient_cosine_start)),
        ("of the parameter that fares worst", cosine_text(fidelity.smallest_parameter_cosine)),
    ]


def _statistics(result: CellResult) -> Facts:
    """The counters over all sites, and where the curve of each ends."""
    facts = [(words(name), number(value)) for name, value in result.statistics.items()]
    if result.statistics_curve:
        last = result.statistics_curve[-1]
        ends = [f"{words(name)} {number(value)}" for name, value in last.items() if name != "step"]
        if ends:
            facts.append(("curves end", f"step {number(last.get('step'))}: {', '.join(ends)}"))
    return facts


def _sites(memory: Memory | None) -> Sites | None:
    """What each site kept. Records come from files: what a site's entry lacks is not available."""
    if memory is None or not memory.sites:
        return None
    headers = ["site", "calls", "rows", "width", "dtype", "raw B", "kept B", "kept %", "rank", "fidelity", "error"]
    return Sites([*headers, "why not compressed"], [_site(site) for site in memory.sites])


def _site(site: Mapping[str, Any]) -> list[str]:
    raw, kept = _numeric(site, "raw_bytes"), _numeric(site, "kept_bytes")
    statistics = site.get("statistics")
    own = statistics if isinstance(statistics, Mapping) else {}
    return [
        str(site.get("name", NOT_AVAILABLE)),
        *(number(_numeric(site, name)) for name in ("calls", "rows", "width")),
        str(site.get("dtype", NOT_AVAILABLE)),
        number(raw),
        number(kept),
        fixed(100 * kept / raw if raw and kept is not None else None, 1),
        number(_numeric(own, "rank")),
        cosine_text(_numeric(own, "fidelity")),
        "propagating" if site.get("propagating") else "weight-only",
        without_folders(str(site.get("reason", ""))),
    ]


def _numeric(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
