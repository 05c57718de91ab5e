"""Traces as tables: the time of a step by kind of operator, the operators that take more of it, and all as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from compbench.errors import StoreError, one_line
from compbench.measure.operator_kinds import KINDS, Kind
from compbench.measure.regions import WORKS
from compbench.measure.results import PhaseName
from compbench.measure.timing import PHASES
from compbench.measure.tracing import MOST_EVENTS, OperatorTime, StepTrace, Trace
from compbench.report.tables import Table, figures, words
from compbench.run.files import write_atomically
from compbench.run.trace_folder import DESCRIPTION
from compbench.run.tracing import CellTrace

COLUMNS = (
    *("arm", "depth", "seed", "phase", "kind", "operator"),
    *("plain_calls", "calls", "plain_cpu_ms", "cpu_ms", "plain_device_ms", "device_ms"),
)
"""Of the CSV: calls and milliseconds are those of one step; a row without an operator is what none accounts for."""


@dataclass(frozen=True)
class Compared:
    """One operator in one phase: in the plain step and under the strategy; None where it does not occur."""

    phase: PhaseName
    kind: Kind
    operator: str
    plain: OperatorTime | None
    strategy: OperatorTime | None

    @property
    def growth_ms(self) -> float:
        """Milliseconds that the strategy's step has more: on the GPU where it works there, else on the CPU."""
        device = [time.device_ms if time else 0.0 for time in (self.strategy, self.plain)]
        cpu = [time.cpu_ms if time else 0.0 for time in (self.strategy, self.plain)]
        more, less = device if any(device) else cpu
        return more - less


def compare(trace: Trace) -> list[Compared]:
    """Every operator of either step, by phase and kind."""
    plain, strategy = ({(t.phase, t.kind, t.operator): t for t in s.times} for s in (trace.plain, trace.strategy))
    keys = sorted(plain | strategy, key=lambda key: (PHASES.index(key[0]), KINDS.index(key[1]), key[2]))
    return [Compared(*key, plain.get(key), strategy.get(key)) for key in keys]


def kinds_table(found: CellTrace, trace: Trace) -> Table:
    """A row a kind, in milliseconds a step: whole steps, and each phase; with sentences on what was traced."""
    plain, strategy = trace.plain, trace.strategy
    headers = ["kind", "plain ms", "strategy ms", "difference"]
    columns: list[tuple[StepTrace, PhaseName | None]] = [(plain, None), (strategy, None)]
    for phase in PHASES:
        # A plain step has no update; what is there is the profiler's.
        headers += [*([] if phase == "update" else [f"plain {phase}"]), phase]
        columns += [*([] if phase == "update" else [(plain, phase)]), (strategy, phase)]
    on_device = any(step.milliseconds(device=True) for step in (plain, strategy))
    headers += ["plain device", "device"] if on_device else []

    def row(name: str, kind: Kind | None) -> list[str]:
        times = [step.milliseconds(kind, phase) for step, phase in columns]
        times.insert(2, times[1] - times[0])
        times += [step.milliseconds(kind, device=True) for step in (plain, strategy)] if on_device else []
        return [name, *(f"{t:+.2f}" if place == 2 else f"{t:.2f}" for place, t in enumerate(times))]

    used = [kind for kind in KINDS if any(t.kind == kind for step in (plain, strategy) for t in step.times)]
    rows = [*(row(_kind(kind), kind) for kind in used), row("all", None)]
    return Table(headers, rows, ("kind",), _sentences(found, trace, on_device))


def growth_table(trace: Trace, most: int) -> Table:
    """The ``most`` operators, phase by phase, that take more of the strategy's step than of the plain one."""
    grown = [row for row in compare(trace) if row.operator and row.growth_ms > 0]
    grown = sorted(grown, key=lambda row: -row.growth_ms)[:most]
    on_device = any(step.milliseconds(device=True) for step in (trace.plain, trace.strategy))
    headers = ["operator", "phase", "kind", "plain calls", "calls", "plain ms", "strategy ms"]
    headers += ["plain device", "device"] if on_device else []
    rows = [
        [
            row.operator,
            row.phase,
            _kind(row.kind),
            *(_count(time) for time in (row.plain, row.strategy)),
            *(f"{time.cpu_ms if time else 0:.3f}" for time in (row.plain, row.strategy)),
            *(f"{time.device_ms if time else 0:.3f}" for time in (row.plain, row.strategy) if on_device),
        ]
        for row in grown
    ]
    sentence = (
        "Own time of each operator, without that of operators that it calls, in milliseconds a step; the most first."
    )
    return Table(headers, rows, ("operator", "phase", "kind"), (sentence,))


def as_csv(found: Iterable[CellTrace]) -> str:
    """All operators of all cells that have a trace, with the columns :data:`COLUMNS`."""
    return _csv(
        ((each.cell.label, each.cell.depth, each.cell.seed), each.trace) for each in found if each.trace is not None
    )


def write_operators(folder: Path) -> None:
    """Puts ``operators.csv`` into the folder of a trace, made of the description that is there.

    Raises:
        StoreError: There is none that can be read, or it can't be written.
    """
    path, table = folder / DESCRIPTION, folder / "operators.csv"
    try:
        described = json.loads(path.read_bytes())
        cell = described["label"], int(described["depth"]), int(described["seed"])
        trace = Trace.model_validate(described["trace"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"can't read {path}: {one_line(error)}") from error
    try:
        write_atomically(table, _csv([(cell, trace)]))
    except OSError as error:
        raise StoreError(f"can't write {table}: {error.strerror or error}") from error


def _csv(found: Iterable[tuple[tuple[str, int, int], Trace]]) -> str:
    """The table of traces, each with label, depth and seed of its cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell, trace in found:
        for row in compare(trace):
            both = (row.plain, row.strategy)
            writer.writerow(
                [
                    *(*cell, row.phase, row.kind, row.operator),
                    *(time.calls if time else 0 for time in both),
                    *(round(time.cpu_ms, 6) if time else 0 for time in both),
                    *(round(time.device_ms, 6) if time else 0 for time in both),
                ]
            )
    return stream.getvalue()


def _sentences(found: CellTrace, trace: Trace, on_device: bool) -> list[str]:
    plain, strategy = trace.plain, trace.strategy
    sentences = [
        "milliseconds of a step, means over the steps that were traced; Python and engine: what no operator accounts "
        "for, such as the code of the model, of autograd, of the session and of the strategy; update: the strategy's "
        "own end of step. The optimiser is left out.",
        f"without the profiler a plain step takes {figures(plain.step_ms)} ms and the strategy's "
        f"{figures(strategy.step_ms)} (medians of {plain.steps}), with it {figures(plain.traced_ms)} and "
        f"{figures(strategy.traced_ms)}: it takes a little for each operator, mostly in Python and engine. "
        "The steps in the files are others: shapes and memory are noted there, which takes longer.",
    ]
    if on_device:
        sentences.append(
            "ms of the CPU are the host's, which starts the work of the GPU; device: ms of the GPU itself."
        )
    works = [_work(work, strategy) for work in WORKS]
    if any(works):
        told = "; ".join(filter(None, works))
        sentences.append(
            f"{told}: what the session does in the strategy's step, with all that this calls. Encoding is part of "
            "saving, and decoding may be part of recomputing and of weight gradients."
        )
    if strategy.steps < found.asked_steps:
        sentences.append(
            f"{strategy.steps} of the {found.asked_steps} steps that were asked for, since a step has "
            f"{strategy.events / strategy.steps:,.0f} events and a file about {MOST_EVENTS:,} at most."
        )
    if found.alone is False:
        sentences.append("another cell on the same cores did not pause: times were taken beside it.")
    if found.calibrated is not None and found.calibrated < 1:
        sentences.append(
            f"only {100 * found.calibrated:.0f} % of the sites were calibrated after {found.trained_steps} steps: "
            "this is not yet the step that most of a training consists of; see --warmup."
        )
    return sentences


def _work(work: str, step: StepTrace) -> str:
    times = [time for time in step.works if time.work == work]
    calls = sum(time.calls for time in times)
    return f"{work} {figures(sum(time.cpu_ms for time in times))} ms in {calls:.4g} calls" if times else ""


def _kind(kind: Kind) -> str:
    return "Python and engine" if kind == "python_and_engine" else words(kind)


def _count(time: OperatorTime | None) -> str:
    return f"{time.calls:.4g}" if time else "0"
