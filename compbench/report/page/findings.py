"""Verdicts in words, from the rows and what was judged of them."""

from __future__ import annotations

from compbench.report.outcome import Outcome
from compbench.report.rows import make_rows
from compbench.report.tables import words
from compbench.report.verdicts import judge


def findings(outcome: Outcome) -> list[str]:
    """A sentence for each arm and depth that has a saving."""
    decisions: dict[tuple[str, int], list[str]] = {}
    for metric, margin in outcome.margins.items():
        for verdict in judge(outcome, metric, margin):
            if verdict.decision != "reference":
                said = f"{verdict.decision} in {words(metric)}"
                decisions.setdefault((verdict.arm, verdict.depth), []).append(said)
    found = []
    for row in make_rows(outcome):
        if row.saving:
            ratio = "" if row.time_ratio is None else f" at {row.time_ratio:.2f} times the time"
            said = ", ".join(["", *decisions.get((row.arm, row.depth), [])])
            found.append(f"At depth {row.depth} `{row.arm}` saves {100 * row.saving:.0f} %{ratio}{said}.")
    return found
