"""What may stand in one table: records of several stores that differ in nothing a reader would not expect.

Each function gives reasons why some may not, a line each; none where all is well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from compbench.run.explaining import differences
from compbench.run.machine import Machine
from compbench.run.result import CellResult
from compbench.suite.cell import Cell

_SHOWN = 5
"""How many cells are named where there may be very many."""

_TASK = ("workload", "training", "measuring", "capture", "device")
"""What all arms have in common."""

_OF_ARMS = ("arm", "strategy", "variant")
"""What arms differ in; so do their values of the axes that all have in common, which are looked at apart."""

Kind = dict[str, str]
"""What a record's figures depend on beside its cell, in words; what is not known is not in it."""


@dataclass(frozen=True)
class Owned:
    """A record, the name of the store that it is in, and what it ran on, if that is described there."""

    record: CellResult
    owner: str
    machine: Machine | None


def unlike_arms(records: Sequence[Owned]) -> list[str]:
    """Arms that have other settings or other sources in one place than in another, under one name."""
    in_common = _changes(records, _in_common, lambda cell, other: _with(cell, other, *_OF_ARMS))
    return in_common + _changes(records, _arm, lambda cell, other: _with(cell, other, *_TASK))


def broken_pairs(records: Iterable[Owned]) -> list[str]:
    """Arms of one seed that did not begin alike, or ran on unlike machines."""
    tasks: dict[tuple[str, int, int], list[Owned]] = defaultdict(list)
    for owned in records:
        cell = owned.record.cell
        if owned.record.status == "ok":
            tasks[_in_common(cell), cell.depth, cell.seed].append(owned)
    unlike: dict[str, list[str]] = defaultdict(list)
    begun = []
    for members in tasks.values():
        starts = {(owned.record.weights_hash, owned.record.order_hash) for owned in members}
        if len({start for start in starts if all(start)}) > 1:
            begun.append(_arms_of_a_seed(members))
        why = _unlike((owned.owner, _kind_for_numbers(owned)) for owned in members)
        if why:
            unlike[why].append(_arms_of_a_seed(members))
    reasons = [
        f"arms of one seed ran on unlike machines, so that a pair differs by more than its strategy ({why}): "
        f"{listed(cells)}"
        for why, cells in unlike.items()
    ]
    if begun:
        reasons.append(f"arms of one seed began with other weights, or saw other examples: {listed(begun)}")
    return reasons


def unlike_times(records: Iterable[Owned]) -> list[str]:
    """That times were taken on unlike machines."""
    timed = [owned for owned in records if owned.record.status == "ok" and owned.record.time is not None]
    why = _unlike((owned.owner, _kind_for_times(owned)) for owned in timed)
    if not why:
        return []
    return [
        "times of unlike machines can't stand in one table (allowed: --without-times, which leaves them in the records "
        f"and out of the tables): {why}"
    ]


def by_value(owned: Iterable[tuple[str, str]]) -> str:
    """Values with whose they are, such as ``cpu in a, b and cuda in c``."""
    owners: dict[str, dict[str, None]] = defaultdict(dict)
    for owner, value in owned:
        owners[value][owner] = None
    return " and ".join(f"{value} in {', '.join(names)}" for value, names in owners.items())


def named(cell: Cell) -> str:
    """A cell in a few words."""
    return f"{cell.label} depth {cell.depth} seed {cell.seed}"


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _changes(records: Sequence[Owned], group: Callable[[Cell], str], like: Callable[[Cell, Cell], Cell]) -> list[str]:
    """In what cells differ that should be alike but for what ``like`` gives them of another one.

    Args:
        records: All records; each is held against the first one of its group.
        group: The name of what a cell has in common with others.
        like: Makes a cell like another one in all that may differ.
    """
    first: dict[str, Owned] = {}
    found: dict[str, list[str]] = defaultdict(list)
    for owned in records:
        name = group(owned.record.cell)
        reference = first.setdefault(name, owned)
        cell = _with(like(owned.record.cell, reference.record.cell), reference.record.cell, "depth", "seed")
        if _identity(cell) != _identity(reference.record.cell):
            change = "; ".join(differences(reference.record, cell, owned.record.sources))
            found[f"{name} from {reference.owner} to {owned.owner}: {change}"].append(owned.record.key)
    return [f"{change}: {listed(keys)}" for change, keys in found.items()]


def _identity(cell: Cell) -> dict[str, object]:
    return cell.model_dump(mode="json", exclude={"suite", "plugins_dir"})


def _with(cell: Cell, other: Cell, *names: str) -> Cell:
    return cell.model_copy(update={name: getattr(other, name) for name in names})


def _arm(cell: Cell) -> str:
    return f"arm '{cell.label}' has changed"


def _in_common(cell: Cell) -> str:
    """The values of the axes that all arms have in common; an axis of one arm has that one's name and a point."""
    shared = ", ".join(f"{axis}={value}" for axis, value in cell.variant.items() if "." not in axis)
    return f"what all arms have in common{f' at {shared}' if shared else ''} has changed"


def _arms_of_a_seed(members: Sequence[Owned]) -> str:
    cell = members[0].record.cell
    arms: dict[str, list[str]] = defaultdict(list)
    for owned in members:
        arms[owned.owner].append(owned.record.cell.label)
    found = "; ".join(f"{', '.join(labels)} in {owner}" for owner, labels in arms.items())
    return f"depth {cell.depth} seed {cell.seed} ({found})"


def _kind_for_numbers(owned: Owned) -> Kind:
    """What the last bits of a training depend on, from which another training may come."""
    of_device = ("GPU",) if owned.record.cell.device.startswith("cuda") else ("CPU", "threads")
    kind = _kind_for_times(owned)
    return {name: kind[name] for name in ("machine", *of_device, "torch", "compbench") if name in kind}


def _kind_for_times(owned: Owned) -> Kind:
    record, machine = owned.record, owned.machine
    kind = {}
    if machine is None:
        kind["machine"] = f"not described ({record.machine or 'unknown'})"
    else:
        kind |= {"CPU": machine.cpu, "cores": str(machine.cores), "system": machine.os, "glibc": machine.glibc}
        kind |= {"Python": machine.python, "torch": machine.torch, "compbench": machine.compbench}
        if record.cell.device.startswith("cuda"):  # which of several it was is not recorded
            kind["GPU"] = " or ".join(sorted(set(machine.cuda_devices))) or "unknown"
    if record.environment is not None:
        kind["preloaded libraries"] = ", ".join(record.environment.preloaded) or "none"
        kind["threads"] = str(record.environment.threads)
    if record.time is not None:
        kind["threads"] = str(record.time.threads)
        kind[f"allocator where it is to be '{record.cell.measuring.allocator}'"] = record.time.allocator
    return kind


def _unlike(kinds: Iterable[tuple[str, Kind]]) -> str:
    """In what kinds of machines differ, with the stores that have each; empty where they are alike.

    A machine that is not described is like itself alone.
    """
    found = {}
    kinds = list(kinds)
    for name in dict.fromkeys(name for _, kind in kinds for name in kind):
        values = [(owner, kind[name]) for owner, kind in kinds if name in kind]
        if len({value for _, value in values}) > 1 or (name == "machine" and len(values) < len(kinds)):
            found[name] = by_value(values)
    return "; ".join(f"{name} {values}" for name, values in found.items())
