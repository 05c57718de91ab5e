"""From a process' end to a cell's record: its own, if it has written one, else one that says how it ended."""

from __future__ import annotations

import signal
from pathlib import Path

from pydantic import ValidationError

from compbench.measure.allocator import RESERVE_BYTES
from compbench.run.cell_process import Limits, ProcessEnd
from compbench.run.exhaustion import in_words
from compbench.run.result import CellResult, Status
from compbench.suite.cell import Cell

TAIL_LINES = 20
TAIL_BYTES = 32_768

NEAR_LIMIT = 0.9
"""The share of its memory limit that a process must have had resident for its death to be put down to the limit."""


def result_of(cell: Cell, end: ProcessEnd, log: Path, machine: str, limits: Limits) -> CellResult | None:
    """The record of a cell whose process has ended; None when it was interrupted before it had written one.

    The process' own record holds whatever became of the process after writing it, such as a crash of a library at exit.

    Args:
        cell: The cell.
        end: How its process ended.
        log: Its log, in the folder ``logs`` of the suite's results.
        machine: Hash of the machine's description.
        limits: What it was allowed to take.
    """
    tail = log_tail(log)
    record, problem = _own_record(cell, end)
    if record is None:
        if end.interrupted:
            return None
        status, reason = _status(end, limits, tail)
        record = CellResult(
            key=cell.key, cell=cell, status=status, reason=f"{reason}; {problem}" if problem else reason
        )
    return record.model_copy(
        update={
            "machine": machine,
            "log": f"{log.parent.name}/{log.name}",
            "log_tail": [] if record.status == "ok" else tail,
            "started_at": end.started_at,
            "seconds": round(end.seconds + record.earlier_seconds, 3),
        }
    )


def result_without_process(
    cell: Cell, why: str, machine: str, started_at: str, status: Status = "failed"
) -> CellResult:
    """The record of a cell that can't be started at all, since what it needs can't be loaded."""
    reason = next((line.strip() for line in why.splitlines() if line.strip()), "can't be run")
    return CellResult(
        key=cell.key,
        cell=cell,
        status=status,
        reason=reason,
        log_tail=why.splitlines()[-TAIL_LINES:],
        machine=machine,
        started_at=started_at,
    )


def log_tail(log: Path) -> list[str]:
    """The last lines of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [line.rstrip()[:500] for line in text.splitlines()]
    return [line for line in lines if line][-TAIL_LINES:]


def _own_record(cell: Cell, end: ProcessEnd) -> tuple[CellResult | None, str]:
    """What the process wrote; and what is wrong with it, if it can't be used."""
    if end.record is None:
        return None, ""
    try:
        record = CellResult.model_validate_json(end.record)
    except ValidationError as error:
        return None, f"its record is not valid ({error.error_count()} mistakes)"
    if not record.key == record.cell.key == cell.key:
        return None, f"its record is of another cell, '{record.cell.key}'"
    return record, ""


def _status(end: ProcessEnd, limits: Limits, tail: list[str]) -> tuple[Status, str]:
    if end.error:
        return "oom" if end.oom_killed else "crashed", end.error
    if end.timed_out:
        return "timeout", f"took longer than {limits.timeout_seconds:g} s"
    if end.oom_killed:
        return "oom", "killed by the kernel's out-of-memory killer"
    last = f": {tail[-1]}" if tail else ""
    killed = end.exit_status is not None and end.exit_status < 0
    how = f"killed by {_signal_name(-(end.exit_status or 0))}" if killed else f"exit status {end.exit_status}{last}"
    if end.exit_status and limits.memory_bytes and end.peak_bytes > NEAR_LIMIT * limits.memory_bytes - RESERVE_BYTES:
        sizes = f"{in_words(end.peak_bytes)} of the {in_words(limits.memory_bytes)} that it may have"
        return "oom", f"{how}, when it had had {sizes}"
    if end.exit_status:
        return "crashed", how
    return "crashed", f"ended without a record{last}"


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"
