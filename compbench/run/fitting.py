"""How deep and how large a batch of an arm still fits into a memory, by what small ones take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from compbench.errors import SettingsError
from compbench.measure.estimating import Estimate
from compbench.measure.foresight import Extreme
from compbench.registry import Registry
from compbench.run.planning import Estimates, PlannedArm, Task
from compbench.suite.cell import Cell

_TRIED_DEPTHS = 64
"""How far a depth is sought that the workload has, beside one that it may not have."""


@dataclass(frozen=True)
class Fit:
    """What fits of an arm.

    Attributes:
        largest_depth: the deepest recursion at the suite's batch size; 0 if none fits; None if not found.
        largest_batch: by depth: the largest batch; 0 if none fits.
        reason: why nothing was found.
    """

    largest_depth: int | None = None
    largest_batch: dict[int, int] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Plane:
    """Bytes of a training, ``base + per_call depth + per_example batch + per_both depth batch``."""

    base: Fraction
    per_call: Fraction
    per_example: Fraction
    per_both: Fraction

    def bytes(self, depth: int, batch: int) -> Fraction:
        """At a depth and batch size."""
        return self.base + self.per_call * depth + self.per_example * batch + self.per_both * depth * batch

    def largest_depth(self, limit: int, batch: int) -> int | None:
        """The deepest that takes ``limit`` bytes or less; None if depth makes no difference."""
        slope = self.per_call + self.per_both * batch
        return None if slope <= 0 else max(0, int((limit - self.bytes(0, batch)) // slope))

    def largest_batch(self, limit: int, depth: int) -> int | None:
        """The largest batch that takes ``limit`` bytes or less; None if it makes no difference."""
        slope = self.per_example + self.per_both * depth
        return None if slope <= 0 else max(0, int((limit - self.bytes(depth, 0)) // slope))


def plane_through(points: dict[tuple[int, int], int]) -> Plane | None:
    """The plane through five points, by depth and batch size: four of two depths and two sizes, and one that checks it.

    None where the fifth is off by more than a thousandth: then bytes do not grow evenly.
    """
    ((d0, b0), at00), ((_, b1), at01), ((d1, _), at10), (_, at11), ((d2, b2), check) = points.items()
    both = Fraction(at11 - at10 - at01 + at00, (d1 - d0) * (b1 - b0))
    call = Fraction(at10 - at00, d1 - d0) - both * b0
    example = Fraction(at01 - at00, b1 - b0) - both * d0
    plane = Plane(at00 - call * d0 - example * b0 - both * d0 * b0, call, example, both)
    return plane if abs(plane.bytes(d2, b2) - check) * 1000 <= check else None


def what_fits(arms: Sequence[PlannedArm], limit: int, registry: Registry, make: Estimates) -> dict[str, Fit]:
    """What fits of each arm, by its label.

    Args:
        arms: the plan.
        limit: bytes.
        registry: where workloads are looked up, for the depths that they have.
        make: makes estimates.
    """
    by_label: dict[str, list[PlannedArm]] = {}
    for arm in arms:
        by_label.setdefault(arm.cell.label, []).append(arm)
    asked: dict[str, list[tuple[tuple[int, int], Task]]] = {}
    for label, own in by_label.items():
        least = min(own, key=lambda arm: arm.cell.depth)
        if least.highest is not None:
            asked[label] = _points(least, [arm.cell.depth for arm in own], registry)
    found = iter(make([task for points in asked.values() for _, task in points]))
    made = {label: [(point, next(found)) for point, _ in points] for label, points in asked.items()}
    fits = {}
    for label, own in by_label.items():
        if label in made:
            fits[label] = _fit(own, made[label], limit, registry)
        else:
            fits[label] = Fit(reason=own[0].reason)
    return fits


def _points(arm: PlannedArm, depths: Sequence[int], registry: Registry) -> list[tuple[tuple[int, int], Task]]:
    """Two depths and two batch sizes, and a fifth point; each with the task that finds what it takes."""
    cell = arm.cell
    d0 = cell.depth
    others = sorted(depth for depth in depths if depth > d0)
    d1 = others[0] if others and others[0] <= 2 * d0 + 2 else _depth_from(d0 + 1, cell, registry, 1) or d0
    b0 = cell.training.batch_size
    wanted = [(d0, b0), (d0, 2 * b0), (d1, b0), (d1, 2 * b0), (d0, 3 * b0)]
    extreme: Extreme = "most" if arm.most is not None else "least"
    points = []
    for depth, batch in wanted:
        at_depth = cell.model_copy(update={"depth": depth})
        task = Task(at_depth, statistics=arm.statistics, extreme=extreme, batch_size=batch)
        points.append(((depth, batch), task))
    return points


def _fit(
    arms: Sequence[PlannedArm], points: Sequence[tuple[tuple[int, int], Estimate | str]], limit: int, registry: Registry
) -> Fit:
    at: dict[tuple[int, int], int] = {}
    for point, estimate in points:
        if isinstance(estimate, str):
            return Fit(reason=estimate)
        at[point] = estimate.static_bytes + estimate.highest_peak_bytes
    plane = plane_through(at) if len(at) == len(points) else None
    if plane is None:
        return Fit(reason="its memory does not grow evenly with depth and batch")
    cell = arms[0].cell
    deepest = plane.largest_depth(limit, cell.training.batch_size)
    allowed = None if deepest is None else _depth_from(deepest, cell, registry, -1) or 0
    batches = {arm.cell.depth: plane.largest_batch(limit, arm.cell.depth) for arm in arms}
    return Fit(allowed, {depth: batch for depth, batch in batches.items() if batch is not None})


def _depth_from(depth: int, cell: Cell, registry: Registry, direction: int) -> int | None:
    """The first depth from one on that the workload has."""
    workload = registry.workload(cell.workload.name, **cell.workload.fields)
    for tried in range(depth, depth + direction * _TRIED_DEPTHS, direction):
        try:
            if tried > 0:
                workload.at_depth(tried)
                return tried
        except SettingsError:
            continue
    return None
