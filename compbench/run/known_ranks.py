"""What finished cells say of the figures by which a strategy's memory depends on values: ranks, bits, choices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from compbench.errors import SettingsError, StoreError
from compbench.run.result import CellResult
from compbench.run.store import Store
from compbench.suite.cell import Cell


class KnownRanks:
    """The statistics of codecs at the end of trainings, by site.

    Args:
        results: finished cells.
        where: what messages call them.
    """

    def __init__(self, results: Iterable[CellResult], where: str) -> None:
        self._where = where
        self._results = [result for result in results if result.status == "ok" and result.memory is not None]

    @classmethod
    def read(cls, folder: Path) -> KnownRanks:
        """Those of a suite's results folder.

        Raises:
            SettingsError: there are none.
        """
        try:
            store, suite = Store.open(folder)
        except StoreError as error:
            raise SettingsError(f"--ranks-from {folder}: {error}") from error
        found = cls(store.results(suite.keys).values(), f"--ranks-from {folder}")
        if not found._results:
            raise SettingsError(
                f"--ranks-from {folder}: no cell of '{suite.name}' has ended well with its memory measured"
            )
        return found

    def of(self, cell: Cell, parameters: int) -> tuple[dict[str, dict[str, float]], str]:
        """The means over seeds for a cell's arm at its depth, or at the nearest depth that there is.

        Args:
            cell: the cell.
            parameters: of its model.

        Returns:
            Statistics by site, and a clause on where they are from if that is another depth; both empty where nothing
            is known of the arm.

        Raises:
            SettingsError: the results are of another model.
        """
        own = [result for result in self._results if _same_arm(result.cell, cell)]
        if not own:
            return {}, ""
        others = [result for result in own if result.parameters != parameters]
        if others:
            raise SettingsError(
                f"{self._where}: the model of {others[0].key} has {others[0].parameters:,} parameters, and that of arm "
                f"'{cell.label}' {parameters:,}; ranks of another model say nothing here"
            )
        depth = min({result.cell.depth for result in own}, key=lambda known: (abs(math.log(known / cell.depth)), known))
        there = [result for result in own if result.cell.depth == depth]
        note = "" if depth == cell.depth else f"ranks of depth {depth}"
        return _means([_statistics(result) for result in there]), note


def _same_arm(one: Cell, other: Cell) -> bool:
    def strategy(cell: Cell) -> list[tuple[str, dict[str, Any]]]:
        return [(member.name, member.fields) for member in cell.strategy]

    return strategy(one) == strategy(other) and one.capture == other.capture


def _statistics(result: CellResult) -> dict[str, dict[str, float]]:
    sites = result.memory.sites if result.memory is not None else []
    return {site["name"]: site["statistics"] for site in sites if site.get("statistics")}


def _means(records: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Site by site the means of figures; where records differ in what they have, as choices do, of the usual ones."""
    found: dict[str, dict[str, float]] = {}
    for site in dict.fromkeys(name for record in records for name in record):
        there = [record[site] for record in records if site in record]
        (usual, _), *_ = Counter(frozenset(figures) for figures in there).most_common(1)
        alike = [figures for figures in there if frozenset(figures) == usual]
        found[site] = {name: fmean(figures[name] for figures in alike) for name in alike[0]}
    return found
