"""What keeps a figure of one cell from being held against the same figure of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from compbench.report.quantities import Kind
from compbench.run.explaining import differences
from compbench.run.machine import Machine
from compbench.run.result import CellResult

_NOT_THE_MACHINE = ("schema_version", "compbench", "commit")
"""What a machine's description says of compbench. That may be what is compared; the rest bears on times."""

_OF_ARMS = ("arm:", "strategy", "axis ")
"""How differences begin that two arms have anyway."""

_OF_THE_TASK = ("training.", "workload")


@dataclass(frozen=True)
class Match:
    """Two records that are held against each other, with what they ran on; None where that is not described."""

    a: CellResult
    b: CellResult
    machine_a: Machine | None
    machine_b: Machine | None

    @cached_property
    def differences(self) -> list[str]:
        """In what the second cell differs from the first, a line each."""
        lines = differences(self.a, self.b.cell, self.b.sources)
        return [] if lines == ["nothing that is recorded"] else lines

    @cached_property
    def begun_alike(self) -> bool:
        """Whether both began with the same weights and saw the same examples; no hash is no evidence of it."""
        hashes = (self.a.weights_hash, self.a.order_hash)
        return all(hashes) and hashes == (self.b.weights_hash, self.b.order_hash)


def reasons(matches: Sequence[Match], kind: Kind) -> list[str]:
    """Why figures of a kind are not comparable, a clause each; none where they are.

    Memory and arithmetic depend on the settings of workload and training and on the type of the device; times also on
    the machine, its software and what the process ran under; what a training has come to on where it began.
    """
    found: dict[str, None] = {}
    for match in matches:
        found.update(dict.fromkeys(_of_task(match)))
        if kind in ("memory", "time"):
            found.update(dict.fromkeys(_of_device(match)))
        if kind == "time":
            found.update(dict.fromkeys(_of_machine(match)))
            found.update(dict.fromkeys(_of_process(match)))
    if kind == "quality":
        unlike = [str(match.a.cell.seed) for match in matches if not match.begun_alike]
        if unlike:
            seeds = ", ".join(dict.fromkeys(unlike))
            found[f"initial weights or order of examples differ for seed {seeds}, so that seeds do not pair"] = None
    return list(found)


def told(match: Match, arms_differ: bool) -> list[str]:
    """In what two records differ that is no reason against a comparison: what is compared, for all that is known.

    Args:
        match: the two.
        arms_differ: whether they are of two arms, so that another strategy goes without saying.
    """
    lines = [
        line
        for line in match.differences
        if not line.startswith(_OF_THE_TASK)
        and not line.startswith(("device:", "measuring.allocator"))
        and not (arms_differ and line.startswith(_OF_ARMS))
    ]
    machines = (match.machine_a, match.machine_b)
    if all(machines):
        for name in ("compbench", "commit"):
            before, after = (getattr(machine, name) or "unknown" for machine in machines)
            if before != after:
                lines.append(f"{'compbench at commit' if name == 'commit' else name}: {before} -> {after}")
    return lines


def _of_task(match: Match) -> list[str]:
    return [line for line in match.differences if line.startswith(_OF_THE_TASK)]


def _of_device(match: Match) -> list[str]:
    types = [result.cell.device.partition(":")[0] for result in (match.a, match.b)]
    return [f"another type of device: {' -> '.join(types)}"] if types[0] != types[1] else []


def _of_machine(match: Match) -> list[str]:
    if match.machine_a is None or match.machine_b is None:
        return ["a machine that is not described"]
    before, after = (_description(machine) for machine in (match.machine_a, match.machine_b))
    changes = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    return [f"another machine: {', '.join(changes)}"] if changes else []


def _description(machine: Machine) -> Mapping[str, object]:
    return machine.model_dump(exclude=set(_NOT_THE_MACHINE))


def _of_process(match: Match) -> list[str]:
    before, after = (_process(result) for result in (match.a, match.b))
    changes = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    return [f"another process: {', '.join(changes)}"] if changes else []


def _process(result: CellResult) -> Mapping[str, object]:
    """What a cell's process ran under that bears on its times."""
    time, environment = result.time, result.environment
    return {
        "threads": time.threads if time else None,
        "allocator": time.allocator if time else None,
        "preloaded": ", ".join(environment.preloaded) if environment else "",
    }
