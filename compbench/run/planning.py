"""What the cells of a suite will take, before any of them runs: memory, arithmetic and time, arm by arm."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

from compbench.errors import CompbenchError, SettingsError
from compbench.measure.estimating import Estimate, estimate
from compbench.measure.foresight import Extreme, Foresights, Statistics
from compbench.registry import Registry
from compbench.run.estimate import Estimator
from compbench.run.known_ranks import KnownRanks
from compbench.run.optimizers import make_optimizer
from compbench.run.result import CellResult
from compbench.run.step_making import StepMaker
from compbench.run.straight_lines import LINE_POINTS, on_a_line
from compbench.suite.cell import Cell

Basis = Literal["shapes", "results", "bounds", "usual"]
"""What bytes follow from: shapes alone; what results say of ranks; two extremes; a usual case of what values decide."""


@dataclass(frozen=True)
class Task:
    """One estimate that is to be made.

    Attributes:
        cell: what is estimated; at which depth, it says.
        plain: the model without a strategy.
        statistics: what is known of the strategy's figures, by site.
        extreme: what is taken at sites of which nothing is known.
        batch_size: in the place of the training's.
    """

    cell: Cell
    plain: bool = False
    statistics: Statistics = field(default_factory=dict)
    extreme: Extreme = "least"
    batch_size: int | None = None

    @property
    def key(self) -> str:
        """Tasks with the same have the same estimate."""
        cell = self.cell
        whose = "plain" if self.plain else f"{cell.label} {[member.model_dump_json() for member in cell.strategy]}"
        parts = cell.workload.model_dump_json(), cell.training.model_dump_json(), cell.capture.model_dump_json()
        return "\n".join([whose, str(cell.depth), str(self.batch_size), self.extreme, *parts, repr(self.statistics)])


Estimates = Callable[[Sequence[Task]], list[Estimate | str]]
"""Makes estimates; a text says why there is none."""


@dataclass(frozen=True)
class PlannedArm:
    """An arm at a depth: what each of its cells takes, and how many there are.

    Attributes:
        cells: those of all seeds.
        states: how many are ``to run``, and how many have a record of each status.
        seconds: what a cell should take by those that have ended; None where none tells.
        plain: a step without the strategy; None where the model can't be estimated.
        least: a step under the strategy; None where it can't be estimated.
        most: the same with the largest ranks that values may lead to; None where there is nothing to choose.
        basis: what the bytes follow from.
        by_law: whether the figures follow from those of shallower cells, which lie on a line, and were not computed.
        reason: why there is no estimate.
        note: what else there is to say.
        statistics: what results say of the strategy's figures, by site.
    """

    cells: tuple[Cell, ...]
    states: Mapping[str, int]
    seconds: float | None
    plain: Estimate | None = None
    least: Estimate | None = None
    most: Estimate | None = None
    basis: Basis = "shapes"
    by_law: bool = False
    reason: str = ""
    note: str = ""
    statistics: Statistics = field(default_factory=dict, repr=False)

    @property
    def cell(self) -> Cell:
        """The cell of the first seed."""
        return self.cells[0]

    @property
    def highest(self) -> Estimate | None:
        """The estimate that takes most."""
        return self.most or self.least

    @property
    def training_bytes(self) -> int | None:
        """What the training takes at its highest: what is there before a step, and the highest peak of any step."""
        highest = self.highest
        return None if highest is None else highest.static_bytes + highest.highest_peak_bytes


def plan_cells(
    cells: Sequence[Cell],
    results: Mapping[str, CellResult],
    ranks: KnownRanks | None,
    make: Estimates,
    every_depth: bool = False,
) -> list[PlannedArm]:
    """Plans cells, arm by arm and depth by depth, in their order.

    Args:
        cells: the cells.
        results: records that there are, by key.
        ranks: what finished cells say of ranks.
        make: makes estimates.
        every_depth: computes every depth. Otherwise an arm's depths beyond the third follow from the first three, where
            these lie on a line to the byte and to the operation.
    """
    estimator = Estimator(results.values())
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.label, cell.depth), []).append(cell)
    arms = []
    for group in groups.values():
        states = Counter("to run" if cell.key not in results else results[cell.key].status for cell in group)
        arms.append(PlannedArm(tuple(group), states, estimator.seconds(group[0])))
    later = set() if every_depth else _beyond_the_third(arms)
    found = _estimated([arm for index, arm in enumerate(arms) if index not in later], ranks, make)
    done = dict(zip((index for index in range(len(arms)) if index not in later), found, strict=True))
    left = []
    for index in sorted(later):
        same = [arm for arm in done.values() if arm.cell.label == arms[index].cell.label and not arm.by_law]
        follows = _by_law(arms[index], same)
        if follows is None:
            left.append(index)
        else:
            done[index] = follows
    done |= dict(zip(left, _estimated([arms[index] for index in left], ranks, make), strict=True))
    return [done[index] for index in range(len(arms))]


def _beyond_the_third(arms: Sequence[PlannedArm]) -> set[int]:
    """The arms at depths that have three shallower ones."""
    depths: dict[str, list[int]] = {}
    for arm in arms:
        depths.setdefault(arm.cell.label, []).append(arm.cell.depth)
    first = {label: sorted(found)[:LINE_POINTS] for label, found in depths.items()}
    return {index for index, arm in enumerate(arms) if arm.cell.depth not in first[arm.cell.label]}


def _by_law(arm: PlannedArm, shallower: Sequence[PlannedArm]) -> PlannedArm | None:
    """The arm as it follows from shallower ones; None where it doesn't."""
    if len(shallower) < LINE_POINTS:
        return None
    depth = arm.cell.depth
    made: dict[str, Any] = {}
    for name in ("plain", "least", "most"):
        points = [(other.cell.depth, found) for other in shallower if (found := getattr(other, name)) is not None]
        if not points:
            made[name] = None
            continue
        made[name] = on_a_line(points, depth) if len(points) == len(shallower) else None
        if made[name] is None:
            return None
    reason = next((other.reason for other in shallower if other.reason), "")
    return replace(arm, **made, basis=shallower[-1].basis, note=shallower[-1].note, by_law=True, reason=reason)


def _estimated(arms: Sequence[PlannedArm], ranks: KnownRanks | None, make: Estimates) -> list[PlannedArm]:
    """The arms with their estimates."""
    plain = make([Task(arm.cell, plain=True) for arm in arms])
    known: list[tuple[Statistics, str]] = []
    reasons: list[str] = []
    for arm, of_model in zip(arms, plain, strict=True):
        statistics: tuple[Statistics, str] = {}, ""
        reason = "" if isinstance(of_model, Estimate) else of_model
        if ranks is not None and isinstance(of_model, Estimate):
            try:
                statistics = ranks.of(arm.cell, of_model.parameters)
            except SettingsError as error:
                reason = str(error)
        known.append(statistics)
        reasons.append(reason)
    first = iter(
        make([Task(arm.cell, statistics=k[0]) for arm, k, why in zip(arms, known, reasons, strict=True) if not why])
    )
    least = [why or next(first) for why in reasons]
    open_ended = [isinstance(found, Estimate) and bool(found.undecided) for found in least]
    second = iter(
        make(
            [
                Task(arm.cell, statistics=k[0], extreme="most")
                for arm, k, is_open in zip(arms, known, open_ended, strict=True)
                if is_open and not k[0]
            ]
        )
    )
    made = []
    for arm, of_model, (statistics_, note), found, is_open in zip(arms, plain, known, least, open_ended, strict=True):
        most = next(second) if is_open and not statistics_ else None
        made.append(_with_estimates(replace(arm, statistics=statistics_), of_model, found, most, note))
    return made


def _with_estimates(
    arm: PlannedArm, plain: Estimate | str, least: Estimate | str, most: Estimate | str | None, note: str
) -> PlannedArm:
    reason = least if isinstance(least, str) else most if isinstance(most, str) else ""
    of_model = plain if isinstance(plain, Estimate) else None
    if reason or isinstance(least, str) or isinstance(most, str):
        return replace(arm, plain=of_model, reason=reason)
    basis: Basis = "shapes"
    if most is not None:
        basis = "bounds"
    elif least.held:
        basis = "results"
    elif least.about:
        basis = "usual"
    return replace(arm, plain=of_model, least=least, most=most, basis=basis, note=note)


class Pool:
    """Makes estimates in processes of their own, as many as there are cores; few of them right here.

    Args:
        jobs: processes; None for one a core.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs or len(os.sched_getaffinity(0))
        self._executor: ProcessPoolExecutor | None = None
        self._known: dict[str, Estimate | str] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def __call__(self, tasks: Sequence[Task]) -> list[Estimate | str]:
        """The estimates of tasks; those that were made before are not made again."""
        new = {task.key: task for task in tasks if task.key not in self._known}
        # The longest first, so that none is left for one process at the end.
        order = sorted(new.values(), key=lambda task: -task.cell.depth)
        for task, found in zip(order, self._made(order), strict=True):
            self._known[task.key] = found
        return [self._known[task.key] for task in tasks]

    def _made(self, tasks: Sequence[Task]) -> Iterable[Estimate | str]:
        if self._executor is None and (self._jobs == 1 or sum(task.cell.depth for task in tasks) < _WORTH_A_PROCESS):
            return [make_estimate(task) for task in tasks]
        if self._executor is None:
            # Not forked: torch's threads do not survive that.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._jobs, mp_context=context, initializer=_start_worker)
        return list(self._executor.map(make_estimate, tasks))


_WORTH_A_PROCESS = 60
"""Calls of a block in all tasks, below which a process takes longer to start than to be spared."""


def _start_worker() -> None:
    torch.set_num_threads(1)


@cache
def _makers(plugins_dir: str | None) -> tuple[Registry, StepMaker, Foresights]:
    registry = Registry.load(Path(plugins_dir) if plugins_dir else None)
    foresights = Foresights({name: known.record for name, known in registry.foresights.items()})
    return registry, StepMaker(registry), foresights


def make_estimate(task: Task) -> Estimate | str:
    """The estimate of a task; where there is none, why."""
    cell = task.cell
    try:
        registry, maker, foresights = _makers(cell.plugins_dir)
        step, batch = maker.step(cell, task.batch_size)
        compressor = None
        if not task.plain:
            compressor = registry.compressor([{member.name: member.fields} for member in cell.strategy])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a run will say of sites, it says then
            return estimate(
                step,
                compressor,
                cell.capture,
                batch,
                partial(make_optimizer, settings=cell.training),
                cell.seed,
                foresights,
                task.statistics,
                cell.training.steps,
                task.extreme,
            )
    except CompbenchError as error:
        whose = "the model" if task.plain else f"arm '{cell.label}'"
        return f"{whose} is not estimable: {error}"
