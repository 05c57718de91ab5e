"""Cells that did not end well, by their cause: the reason, whom it befell, and how the log of one of them ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compbench.report.origin import without_folders
from compbench.report.outcome import Outcome
from compbench.report.page.logs import as_shown
from compbench.run.causes import by_cause


@dataclass(frozen=True)
class Failed:
    """One of the cells: its key, which is its anchor on the page, and what it is called."""

    key: str
    name: str


@dataclass(frozen=True)
class Failure:
    """Cells that are not ok for one cause.

    Attributes:
        reason: of one of them; those of the others differ in numbers alone.
        last_lines: of the log of that one.
    """

    status: str
    reason: str
    cells: Sequence[Failed]
    last_lines: str


def failures(outcome: Outcome) -> list[Failure]:
    """The causes of a suite's failures; the most frequent first."""
    return [
        Failure(
            cause.status,
            without_folders(" ".join(cause.example.reason.split())) or "no reason given",
            [Failed(r.key, f"{r.cell.label}, depth {r.cell.depth}, seed {r.cell.seed}") for r in cause.results],
            as_shown("\n".join(cause.example.log_tail)),
        )
        for cause in by_cause(cell.result for cell in outcome.cells if cell.result)
    ]
