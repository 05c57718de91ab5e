"""Where claims find their evidence: suites that were run, analyses of their cells, and listings of the paper's model.

A suite's results count only as far as they are the suite that ships: a record of another model, another training or
another strategy under an arm's name is no evidence, and is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from compbench.errors import StoreError
from compbench.ledger.claim import NotRunError
from compbench.registry import Registry
from compbench.report.outcome import Outcome, read_outcome
from compbench.report.phrases import counted, listed
from compbench.run.result import CellResult
from compbench.suite.cell import Cell
from compbench.suite.loader import load_suite
from compbench.suite.suite import Suite


@dataclass(frozen=True)
class Results:
    """The records of a suite that are ok and that are of the suite as it ships.

    Attributes:
        outcome: the folder's, with no other records than these.
        folder: the results folder.
    """

    suite: Suite
    outcome: Outcome
    folder: Path

    def of(self, arm: str, depth: int | None = None) -> list[CellResult]:
        """An arm's records in the order of their seeds.

        Raises:
            NotRunError: there are none.
        """
        found = [
            result
            for result in self.outcome.results.values()
            if result.cell.arm == arm and depth in (None, result.cell.depth)
        ]
        if not found:
            where = "" if depth is None else f" at depth {depth}"
            raise NotRunError(f"suite '{self.suite.name}' has no finished cell of arm '{arm}'{where} yet")
        return sorted(found, key=lambda result: (result.cell.seed, result.cell.depth))

    def paired(self, *arms: str) -> list[tuple[CellResult, ...]]:
        """The records of several arms that share a seed, seed by seed.

        Raises:
            NotRunError: no seed is there for all of them.
        """
        by_seed = [{result.cell.seed: result for result in self.of(arm)} for arm in arms]
        seeds = sorted(set.intersection(*(set(found) for found in by_seed)))
        if not seeds:
            raise NotRunError(f"suite '{self.suite.name}' has no seed that is finished for all of {listed(arms)} yet")
        return [tuple(found[seed] for found in by_seed) for seed in seeds]

    def seeds(self, pairs: Sequence[object]) -> str:
        """How many seeds a number is over, of how many that the suite has."""
        planned = len(self.suite.matrix["seed"])
        here = counted(len(pairs), "seed")
        return here if len(pairs) >= planned else f"{here} of {planned}"


@dataclass(frozen=True)
class Evidence:
    """What there is in some results folders.

    Attributes:
        folders: folders that have suites' results folders in them.
    """

    folders: Sequence[Path]
    _results: dict[str, Results | NotRunError] = field(default_factory=dict)

    @cached_property
    def _registry(self) -> Registry:
        return Registry.load(None)

    def results(self, name: str) -> Results:
        """The results of a shipped suite.

        Args:
            name: the shipped suite's, such as ``small/table1``.

        Raises:
            NotRunError: there are none, or none of the suite as it ships.
        """
        if name not in self._results:
            try:
                self._results[name] = self._read(name)
            except NotRunError as error:
                self._results[name] = error
        found = self._results[name]
        if isinstance(found, NotRunError):
            raise found
        return found

    def file(self, relative: str) -> Path | None:
        """The first file of that path in one of the folders."""
        return next((path for folder in self.folders if (path := folder / relative).is_file()), None)

    def _read(self, name: str) -> Results:
        suite = load_suite(name, self._registry, elsewhere=name.startswith("paper/"))
        folder = next((path for base in self.folders if (path := base / suite.name / "suite.json").is_file()), None)
        if folder is None:
            raise NotRunError(f"none of the folders has results of suite '{suite.name}'")
        folder = folder.parent
        try:
            outcome = read_outcome(folder, _silent)
        except StoreError as error:
            raise NotRunError(str(error)) from error
        planned = [_work(cell) for cell in suite.cells(self._registry)]
        ok = {key: result for key, result in outcome.results.items() if result.status == "ok"}
        like = {key: result for key, result in ok.items() if _work(result.cell) in planned}
        if not like:
            others = _differences(ok.values(), suite.cells(self._registry))
            raise NotRunError(f"{folder.name} has no finished cell of suite '{suite.name}' as it ships{others}")
        keys = [key for key in outcome.keys if key in like]
        kept = Outcome(
            name=outcome.name,
            description=outcome.description,
            margins=suite.margins,
            keys=keys,
            command=outcome.command,
            results=like,
            lower_is_better=outcome.lower_is_better,
        )
        return Results(suite, kept, folder)


def _work(cell: Cell) -> tuple[Any, ...]:
    """What a cell does, without the hashes of sources and without its seed: a suite may be run with others."""
    strategy = [(plugin.name, plugin.fields) for plugin in cell.strategy]
    return cell.arm, cell.depth, cell.workload.name, cell.workload.fields, strategy, cell.training, cell.capture


_PARTS = ("arm", "depth", "workload", "workload's settings", "strategy", "training", "capture")


def _differences(results: Iterable[CellResult], cells: Sequence[Cell]) -> str:
    """In what the first record of an arm differs from the suite's cell."""
    for result in results:
        ours = _work(result.cell)
        theirs = next((_work(cell) for cell in cells if (cell.arm, cell.depth) == ours[:2]), None)
        if theirs is not None:
            unlike = [part for part, a, b in zip(_PARTS, ours, theirs, strict=True) if a != b]
            return f": its records differ in {listed(unlike)}"
    return ""


def _silent(message: str) -> None:
    """Records that can't be used count as missing; whoever wants the reasons asks ``compbench table``."""


Figure = Callable[[CellResult], float | None]


def numbers(results: Sequence[CellResult], figure: Figure, what: str) -> list[float]:
    """A figure of each record.

    Raises:
        NotRunError: one has none.
    """
    found = [figure(result) for result in results]
    if any(value is None for value in found):
        raise NotRunError(f"the records of arm '{results[0].cell.arm}' have no {what}")
    return [float(value) for value in found if value is not None]


def gradient_cosine(result: CellResult) -> float | None:
    """Of all parameters, after the last step."""
    return result.fidelity.gradient_cosine if result.fidelity else None


def saved_bytes(result: CellResult) -> float | None:
    """What a step holds for the backward pass at its most."""
    return result.memory.saved_bytes if result.memory else None


def uncompressed_bytes(result: CellResult) -> float | None:
    """The same of a step without the strategy."""
    return result.memory.uncompressed_bytes if result.memory else None


def fidelity(result: CellResult) -> float | None:
    """Mean over sites at the end of the training."""
    return result.statistics.get("fidelity")
