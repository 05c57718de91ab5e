"""Failures by their cause: reasons that differ in numbers and addresses alone are one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from compbench.run.result import CellResult, Status

_VARYING = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{12,}\b|(?<![A-Za-z_])[0-9]+(?:[.,][0-9]+)*(?:e[+-]?[0-9]+)?")


@dataclass(frozen=True)
class Cause:
    """Cells that are not ok for one cause.

    Attributes:
        status: Their status.
        results: Their records; the first one's reason and log stand for all.
    """

    status: Status
    results: tuple[CellResult, ...]

    @property
    def example(self) -> CellResult:
        """The first record, or the first that has a log."""
        return next((result for result in self.results if result.log), self.results[0])


def by_cause(results: Iterable[CellResult]) -> list[Cause]:
    """The records that are not ok, grouped by status and reason; the most frequent cause first."""
    groups: dict[tuple[Status, str], list[CellResult]] = {}
    for result in results:
        if result.status != "ok":
            groups.setdefault((result.status, normalised(result.reason)), []).append(result)
    causes = [Cause(status, tuple(found)) for (status, _), found in groups.items()]
    return sorted(causes, key=lambda cause: -len(cause.results))


def normalised(reason: str) -> str:
    """A reason without what varies from one cell to the next: numbers, addresses and hashes."""
    return _VARYING.sub("#", reason)
