"""What a suite's results rest on: the command, the cells, the machines and the settings, as values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from compbench.report.outcome import Outcome
from compbench.run.affinity import Placement
from compbench.run.machine import Machine
from compbench.run.result import CellResult
from compbench.suite.cell import PluginReference

_FOLDERS = re.compile(r"(?<![\w.:/~-])(?:/[\w.@+~-]+)+/(?=[\w.@+~-])")

PLACEMENTS: dict[Placement, str] = {
    "own": "each cell on some of its own",
    "shared": "all that there are",
    "refused": "all that there are, since the system refused to share them out",
    "unknown": "not known to this system",
}
"""What the placement of cells on cores is in words."""


def without_folders(text: str) -> str:
    """Text in which absolute paths are cut down to their last part: they name places on somebody's machine."""
    return _FOLDERS.sub("", text)


@dataclass(frozen=True)
class MachineShare:
    """A machine that cells ran on.

    Attributes:
        digest: its description's hash, as records have it.
        machine: its description; None where the folder has none.
        cells: how many records name it.
    """

    digest: str
    machine: Machine | None
    cells: int


@dataclass(frozen=True)
class Origin:
    """How results came about.

    Attributes:
        command: the command lines that made them, without folders of the machine.
        planned: cells of the suite.
        run: cells that have a record.
        ok: cells that ended well.
        seeds: of the cells that have a record, as ``first_day`` and all that follows.
        first_day: when the first of them was started, in UTC; empty where no record says. So is ``last_day``.
        seconds: their durations, added up.
        threads: when timing.
        allocators: when timing.
        placements: of cells on cores, as far as records say.
    """

    command: str
    planned: int
    run: int
    ok: int
    seeds: tuple[int, ...]
    first_day: str
    last_day: str
    seconds: float
    machines: tuple[MachineShare, ...]
    threads: tuple[int, ...]
    allocators: tuple[str, ...]
    placements: tuple[Placement, ...]


def origin_of(outcome: Outcome) -> Origin:
    """How a suite's results came about."""
    results = [cell.result for cell in outcome.cells if cell.result]
    days = sorted({result.started_at[:10] for result in results if result.started_at})
    times = [result.time for result in results if result.time]
    places = {result.environment.placement for result in results if result.environment}
    return Origin(
        command=without_folders(outcome.command),
        planned=len(outcome.cells),
        run=len(results),
        ok=sum(result.status == "ok" for result in results),
        seeds=tuple(sorted({result.cell.seed for result in results})),
        first_day=days[0] if days else "",
        last_day=days[-1] if days else "",
        seconds=sum(result.seconds for result in results),
        machines=tuple(
            MachineShare(digest, outcome.machines.get(digest), sum(result.machine == digest for result in results))
            for digest in sorted({result.machine for result in results})
        ),
        threads=tuple(sorted({time.threads for time in times})),
        allocators=tuple(sorted({time.allocator for time in times})),
        placements=tuple(place for place in get_args(Placement) if place in places),
    )


def machine_text(machine: Machine | None) -> str:
    """A machine and its versions in a line."""
    if machine is None:
        return "not described in this folder"
    memory = f", {machine.memory_bytes / 1e9:.1f} GB" if machine.memory_bytes else ""
    devices = f", {', '.join(machine.cuda_devices)}" if machine.cuda_devices else ""
    commit = f" at {machine.commit}" if machine.commit else ""
    return (
        f"{machine.cpu}, {machine.cores} cores{memory}{devices}; {machine.os}, glibc {machine.glibc}; "
        f"{machine.python}, torch {machine.torch}, compbench {machine.compbench}{commit}"
    )


@dataclass(frozen=True)
class SharedSettings:
    """The settings of a suite's cells.

    Attributes:
        groups: by the part of a cell that they are of, those that all cells share, in a line.
        arms: by label, the strategy with the fields that differ from their defaults.
    """

    groups: Mapping[str, str]
    arms: Mapping[str, str]


def shared_settings(results: Iterable[CellResult]) -> SharedSettings:
    """The settings that all cells share, and the strategies behind the arms.

    Args:
        results: the records; at least one.
    """
    cells = [result.cell for result in results]
    parts: dict[str, list[dict[str, Any]]] = {
        "workload": [{"name": cell.workload.name, **cell.workload.fields} for cell in cells],
        "training": [cell.training.model_dump(mode="json") for cell in cells],
        "measuring": [cell.measuring.model_dump(mode="json") for cell in cells],
        "capture": [cell.capture.model_dump(mode="json") for cell in cells],
        "device": [{"name": cell.device} for cell in cells],
    }
    groups = {}
    for part, settings in parts.items():
        shared = {key: value for key, value in settings[0].items() if all(s.get(key) == value for s in settings)}
        groups[part] = settings_text(shared)
    return SharedSettings(groups, {cell.label: strategy_text(cell.strategy) for cell in cells})


def strategy_text(members: Sequence[PluginReference]) -> str:
    """A strategy, or a chain of them, with the fields that differ from their defaults."""
    return ", then ".join(f"{m.name} ({settings_text(m.fields)})" if m.fields else m.name for m in members)


def settings_text(fields: Mapping[str, Any]) -> str:
    """Settings in a line, with their values as a suite's file may write them; a name stands for itself."""
    shown = (_plain(value) if name == "name" else f"{name} {_plain(value)}" for name, value in fields.items())
    return without_folders(", ".join(shown))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
