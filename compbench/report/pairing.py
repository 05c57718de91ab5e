"""Which cells may be compared: an arm's with the reference's of the same seed, trained under the same conditions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from compbench.capture.settings import CaptureSettings
from compbench.report.outcome import Outcome, PlannedCell
from compbench.run.result import CellResult, Status
from compbench.suite.cell import Cell, Measuring, Training

REFERENCE = "none"
"""The strategy that arms are compared with: the one that compresses nothing."""

FAILED = frozenset(get_args(Status)) - {"ok"}
"""Statuses of cells that have been run, or given up beforehand for a failure, and have no score."""


class Conditions(NamedTuple):
    """What a pair has in common: all but the strategy. Axes of the strategy alone are thus not in it."""

    workload: str
    settings: str
    device: str
    depth: int
    seed: int


@dataclass(frozen=True)
class Pair:
    """A cell of an arm and the reference's, both with a finite score."""

    ours: CellResult
    theirs: CellResult

    @property
    def alike(self) -> bool:
        """Whether both started from the same weights and saw the same examples; no hash is no evidence of it."""
        hashes = (self.ours.weights_hash, self.ours.order_hash)
        return all(hashes) and hashes == (self.theirs.weights_hash, self.theirs.order_hash)


References = Mapping[Conditions, CellResult]


def is_reference(cell: Cell) -> bool:
    """Whether a cell is of the reference, whatever its arm is called."""
    return [plugin.name for plugin in cell.strategy] == [REFERENCE]


def workload_of(cell: Cell) -> str:
    """A cell's workload with all its settings."""
    workload = cell.workload
    return f"{workload.name} {json.dumps(workload.fields, sort_keys=True)} {workload.source}"


def workload_label(outcome: Outcome, workload: str) -> str:
    """What tells a workload from the suite's others, such as ``hidden=64``: its axes, or its name where it has none."""
    cells = [cell.result.cell for cell in outcome.cells if cell.result]
    found = next(cell for cell in cells if workload_of(cell) == workload)
    return " ".join(f"{axis}={value}" for axis, value in axes(found, "workload").items()) or found.workload.name


def axes(cell: Cell, of: Literal["workload", "training", "arm"]) -> dict[str, Any]:
    """The values of those further axes that set something of the workload, of training, or of how an arm compresses.

    Which allocator a cell has counts as its arm's.
    """
    return {axis: value for axis, value in cell.variant.items() if _owner(axis) == of}


def _owner(axis: str) -> str:
    if axis in Training.model_fields:
        return "training"
    arms = "." in axis or axis in CaptureSettings.model_fields or axis in Measuring.model_fields
    return "arm" if arms else "workload"


def conditions(cell: Cell) -> Conditions:
    """What the reference of a cell has to have in common with it."""
    settings = f"{vars(cell.training)} {vars(cell.capture)} {cell.measuring.allocator}"
    return Conditions(workload_of(cell), settings, cell.device, cell.depth, cell.seed)


def find_references(cells: Iterable[PlannedCell]) -> dict[Conditions, CellResult]:
    """Records of the reference by their conditions. Of several such arms the suite's first one counts."""
    found: dict[Conditions, CellResult] = {}
    for cell in cells:
        if cell.result and is_reference(cell.result.cell):
            found.setdefault(conditions(cell.result.cell), cell.result)
    return found


def score(result: CellResult | None, metric: str) -> float | None:
    """The metric of a cell that ended well; None where there is none, or it is not a finite number."""
    if result is None or result.status != "ok":
        return None
    value = result.metrics.get(metric, math.nan)
    return value if math.isfinite(value) else None


def has_failed(cell: PlannedCell, metric: str) -> bool:
    """Whether a cell was tried and has no score for its own failure: it ended badly, or its score is no number."""
    if cell.result is None:
        return False
    return cell.status in FAILED or (metric in cell.result.metrics and score(cell.result, metric) is None)


def find_pairs(cells: Iterable[PlannedCell], references: References, metric: str) -> list[Pair]:
    """The pairs of an arm's cells in which both sides have the metric, in the order of the cells."""
    pairs = []
    for cell in cells:
        theirs = references.get(conditions(cell.result.cell)) if cell.result else None
        if cell.result and theirs and score(cell.result, metric) is not None and score(theirs, metric) is not None:
            pairs.append(Pair(cell.result, theirs))
    return pairs


def gains(pairs: Sequence[Pair], metric: str, outcome: Outcome) -> list[float]:
    """By how much the arm of each pair is better: arm minus reference, or reference minus arm where less is better."""
    sign = -1.0 if metric in outcome.lower_is_better else 1.0
    return [sign * (pair.ours.metrics[metric] - pair.theirs.metrics[metric]) for pair in pairs]
