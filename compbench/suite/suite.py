"""A validated suite, and the cells that it stands for. It knows nothing of YAML and of processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compbench.capture.settings import CaptureSettings
from compbench.compressor import Compressor
from compbench.registry import Registry
from compbench.suite.cell import Cell, Measuring, PluginReference, Training
from compbench.suite.executors import Executors
from compbench.workloads.base import Workload

CHECKPOINT_MINUTES = 10.0
"""How often a training is saved, unless the suite says otherwise: what is lost at most when its process is killed."""


@dataclass(frozen=True)
class Variant:
    """One arm with one choice of the values of the further axes; ``values`` is sorted by axis."""

    arm: str
    values: Mapping[str, Any]
    workload: PluginReference
    strategy: tuple[PluginReference, ...]
    training: Training
    capture: CaptureSettings
    measuring: Measuring = field(default_factory=Measuring)


@dataclass(frozen=True)
class Suite:
    """A suite in which everything that can be checked beforehand has been checked.

    Attributes:
        name: the name of its results folder.
        description: one sentence.
        workload: the workload of the first variant, before a depth is applied.
        arms: strategies by arm, in the file's order, as in the first variant; None for an arm that is broken.
        broken_arms: why an arm can't run, in one line, by arm; its cells are enumerated all the same.
        matrix: the axes' values, in the file's order; ``depth`` and ``seed`` are always among them.
        variants: arms with the values of further axes, those of one choice of the workload side by side.
        training: how the first variant is trained.
        measuring: the passes beside the training in the first variant.
        capture: what sessions compress in the first variant.
        margins: the largest acceptable loss, by metric.
        lower_is_better: the metrics of which less is better, by the suite's word or their plugin's, sorted.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: threads that a cell may use; None leaves it to the runner.
        timeout_seconds: the longest that a cell may take; None for no limit.
        path: the file.
        text: what is in it.
        memory_limit: bytes of memory that each process of a cell may have; None for no limit.
        executors: the settings of what can run it.
        checkpoint_minutes: how often a training is saved, so that it can go on when its process has ended; 0: never.
    """

    name: str
    description: str
    workload: Workload
    arms: Mapping[str, Compressor | None]
    broken_arms: Mapping[str, str]
    matrix: Mapping[str, list[Any]]
    variants: tuple[Variant, ...]
    training: Training
    measuring: Measuring
    capture: CaptureSettings
    margins: Mapping[str, float]
    device: str
    threads: int | None
    timeout_seconds: float | None
    path: str
    text: str = ""
    memory_limit: int | None = None
    executors: Executors = field(default_factory=Executors)
    checkpoint_minutes: float = CHECKPOINT_MINUTES
    lower_is_better: tuple[str, ...] = ()

    def cells(self, registry: Registry) -> list[Cell]:
        """Every cell, seed by seed, in each depth by depth, in each arm by arm.

        Arms alternate so that a machine that slows down in the course of a run favours none of them.

        Args:
            registry: the registry with which the suite was loaded.
        """
        plugins_dir = str(registry.plugins_dir) if registry.plugins_dir else None
        return [
            Cell(
                suite=self.name,
                arm=variant.arm,
                depth=depth,
                seed=seed,
                workload=variant.workload,
                strategy=variant.strategy,
                variant=dict(variant.values),
                training=variant.training,
                measuring=variant.measuring,
                capture=variant.capture,
                device=self.device,
                plugins_dir=plugins_dir,
            )
            for seed in self.matrix["seed"]
            for depth in self.matrix["depth"]
            for variant in self.variants
        ]
