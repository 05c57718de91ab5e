"""The arms of a suite: strategies by name, checked against their plugins, or kept apart where the plugin is broken."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compbench.compressor import Compressor
from compbench.errors import PluginError, SettingsError, unknown
from compbench.fields import FieldProblem, FieldsError, Location
from compbench.registry import Registry, parse_strategy
from compbench.suite.cell import PluginReference
from compbench.suite.checking import Checker, Choice, construct_at

_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Member:
    """One strategy of an arm as the file has it; ``record`` is None where its plugin is broken."""

    location: Location
    name: str
    fields: Mapping[str, Any]
    record: type[Compressor] | None


@dataclass(frozen=True)
class Arm:
    """The strategies of one arm, and why it can't run, if its plugin is broken."""

    name: str
    members: tuple[Member, ...]
    broken: str = ""

    def member_with(self, field: str) -> int | None:
        """The first member that has a field; where none is known to, the first whose fields can't be known."""
        for index, member in enumerate(self.members):
            if member.record is not None and field in member.record.model_fields:
                return index
        return next((index for index, member in enumerate(self.members) if member.record is None), None)

    def fields(self) -> set[str]:
        """The fields of all members."""
        return {field for member in self.members if member.record for field in member.record.model_fields}

    def make(self, registry: Registry, choice: Choice) -> tuple[Compressor | None, tuple[PluginReference, ...]]:
        """The strategy of one choice of the arm's axes, None for a broken one, and what identifies it.

        Raises:
            FieldsError: with locations of the file.
        """
        made: list[Compressor] = []
        references: list[PluginReference] = []
        problems: list[FieldProblem] = []
        for index, member in enumerate(self.members):
            if member.record is None:
                fields = {**member.fields, **choice.overrides(index)}
                references.append(PluginReference(name=member.name, fields=fields))
                continue
            what = f"strategy '{member.name}'"
            try:
                strategy = construct_at(member.location, member.record, member.fields, what, choice, index)
            except FieldsError as error:
                problems += error.problems
                continue
            made.append(strategy)
            references += [PluginReference(**vars(part)) for part in registry.reference(strategy)]
        if problems:
            raise FieldsError(f"arm '{self.name}'", problems)
        whole = len(made) == len(self.members)
        return registry.compressor(made) if whole else None, tuple(references)


def read_arms(data: object, registry: Registry, checker: Checker) -> list[Arm]:
    """Reads the section ``arms``; mistakes go to the checker, and arms with one are left out."""
    if not isinstance(data, Mapping) or not data:
        checker.add(("arms",), "arms is empty (allowed: a mapping of arms, such as 'none: none')")
        return []
    arms = []
    for name, spec in data.items():
        if not _ARM_NAME.fullmatch(name):
            checker.add(("arms", name), f"arm '{name}' (allowed: letters, digits, _ and -, not beginning with a sign)")
        arm = _read_arm(name, spec, registry, checker)
        if arm is not None:
            arms.append(arm)
    return arms


def _read_arm(name: str, spec: object, registry: Registry, checker: Checker) -> Arm | None:
    specs: Sequence[tuple[Location, object]] = [(("arms", name), spec)]
    if isinstance(spec, list):
        specs = [(("arms", name, index), part) for index, part in enumerate(spec)]
    if not specs:
        checker.add(("arms", name), f"arm '{name}' has no strategy (allowed: a list of at least one)")
        return None
    members: list[Member] = []
    broken = ""
    for location, part in specs:
        try:
            strategy, fields = parse_strategy(part)
        except SettingsError as error:
            checker.add(location, str(error))
            continue
        place = location if isinstance(part, str) else (*location, strategy)
        record = None
        try:
            record = registry.find("strategy", strategy).record
        except (SettingsError, PluginError) as error:
            reason = registry.broken_reason("strategy", strategy)
            broken = broken or reason
            if not reason:
                checker.add(place, str(error))
                continue
        members.append(Member(place, strategy, fields, record))
    return Arm(name, tuple(members), broken) if len(members) == len(specs) else None


@dataclass(frozen=True)
class ArmAxis:
    """What an axis such as ``laser.rank`` sets: a field of one member of an arm."""

    arm: str
    field: str
    member: int


def arm_axis(axis: str, arms: Sequence[Arm], checker: Checker) -> ArmAxis | None:
    """What an axis of one arm sets; None, and a mistake noted, if there is no such arm or field."""
    name, _, field = axis.partition(".")
    arm = next((arm for arm in arms if arm.name == name), None)
    if arm is None:
        checker.add(("matrix", axis), f"axis '{axis}': {unknown('arm', name, [arm.name for arm in arms])}")
        return None
    member = arm.member_with(field)
    if member is None:
        checker.add(("matrix", axis), f"axis '{axis}': {unknown('field', field, arm.fields())}")
        return None
    return ArmAxis(name, field, member)
