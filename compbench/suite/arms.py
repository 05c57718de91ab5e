"""The arms of a suite: strategies by name, in chains and by site, checked against their plugins.

An arm whose plugin is broken is kept apart, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compbench.by_site import SITES, pattern_text
from compbench.compressor import Compressor
from compbench.errors import PluginError, SettingsError, unknown
from compbench.fields import FieldProblem, FieldsError, Location, in_words
from compbench.registry import NESTED_SITES, SITES_SHAPE, Registry, is_by_site, parse_strategy, written
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


Arrangement = int | list[int] | dict[str, int | list[int]]
"""How an arm puts its members together: one of them, a chain, or either of these by pattern of sites."""


@dataclass(frozen=True)
class Arm:
    """The strategies of one arm, how they are put together, and why it can't run, if a plugin is broken."""

    name: str
    members: tuple[Member, ...]
    arrangement: Arrangement
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
        made: dict[int, Compressor] = {}
        problems: list[FieldProblem] = []
        for index, member in enumerate(self.members):
            if member.record is None:
                continue
            what = f"strategy '{member.name}'"
            try:
                made[index] = construct_at(member.location, member.record, member.fields, what, choice, index)
            except FieldsError as error:
                problems += error.problems
        if problems:
            raise FieldsError(f"arm '{self.name}'", problems)
        if len(made) < len(self.members):
            return None, self._references(made, registry, choice)
        strategy = self._arranged(made, registry)
        return strategy, tuple(PluginReference(**vars(part)) for part in registry.reference(strategy))

    def _arranged(self, made: Mapping[int, Compressor], registry: Registry) -> Compressor:
        """The members put together.

        Raises:
            FieldsError: the chain of a pattern can't be.
            SettingsError: the chain of the arm can't be.
        """
        if not isinstance(self.arrangement, dict):
            return registry.compressor([made[index] for index in _row(self.arrangement)])
        by_site: dict[str, Compressor] = {}
        problems: list[FieldProblem] = []
        for pattern, part in self.arrangement.items():
            try:
                by_site[pattern] = registry.compressor([made[index] for index in _row(part)])
            except SettingsError as error:
                problems.append(FieldProblem(("arms", self.name, SITES, pattern), str(error)))
        if problems:
            raise FieldsError(f"arm '{self.name}'", problems)
        return registry.compressor({SITES: by_site})

    def _references(
        self, made: Mapping[int, Compressor], registry: Registry, choice: Choice
    ) -> tuple[PluginReference, ...]:
        """What identifies an arm of which a plugin is broken, as far as that is known."""
        references: list[PluginReference] = []
        for index, member in enumerate(self.members):
            if index in made:
                references += [PluginReference(**vars(part)) for part in registry.reference(made[index])]
            else:
                references.append(
                    PluginReference(name=member.name, fields={**member.fields, **choice.overrides(index)})
                )
        if not isinstance(self.arrangement, dict):
            return tuple(references)
        fields = {
            pattern: written([(references[index].name, references[index].fields) for index in _row(part)])
            for pattern, part in self.arrangement.items()
        }
        return (PluginReference(name=SITES, fields=fields),)


def _row(part: int | list[int]) -> list[int]:
    return [part] if isinstance(part, int) else part


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
    reader = _Reader(registry, checker)
    arrangement = reader.arrangement(spec, ("arms", name), f"arm '{name}'")
    if arrangement is None or reader.wrong:
        return None
    return Arm(name, tuple(reader.members), arrangement, reader.broken)


class _Reader:
    """Gathers the members of one arm; mistakes go to the checker.

    Attributes:
        members: what was found, in the order of the file.
        broken: why a member's plugin is broken; empty if none is.
        wrong: whether there was a mistake.
    """

    def __init__(self, registry: Registry, checker: Checker) -> None:
        self._registry = registry
        self._checker = checker
        self.members: list[Member] = []
        self.broken = ""
        self.wrong = False

    def arrangement(self, spec: object, location: Location, what: str) -> Arrangement | None:
        """A strategy, a chain, or strategies by site."""
        if is_by_site(spec):
            return self._by_site(spec[SITES], (*location, SITES), what)
        return self._row(spec, location, what)

    def _by_site(self, spec: object, location: Location, what: str) -> Arrangement | None:
        if not isinstance(spec, Mapping) or not spec:
            self._mistake(location, f"sites of {what} is {in_words(spec)} (allowed: {SITES_SHAPE})")
            return None
        parts: dict[str, int | list[int]] = {}
        for pattern, own in spec.items():
            place = (*location, pattern)
            try:
                pattern_text(pattern)
            except SettingsError as error:
                self._mistake(place, str(error))
            part = self._row(own, place, f"sites '{pattern}' of {what}")
            if part is not None:
                parts[pattern] = part
        return parts

    def _row(self, spec: object, location: Location, what: str) -> int | list[int] | None:
        if not isinstance(spec, list):
            return self._member(spec, location)
        if not spec:
            self._mistake(location, f"{what} has no strategy (allowed: a list of at least one)")
            return None
        found = [self._member(part, (*location, index)) for index, part in enumerate(spec)]
        return [index for index in found if index is not None]

    def _member(self, spec: object, location: Location) -> int | None:
        """The index of one strategy; None, and a mistake noted, if it is none."""
        if is_by_site(spec):
            self._mistake(location, NESTED_SITES)
            return None
        try:
            name, fields = parse_strategy(spec)
        except SettingsError as error:
            self._mistake(location, str(error))
            return None
        place = location if isinstance(spec, str) else (*location, name)
        record = None
        try:
            record = self._registry.find("strategy", name).record
        except (SettingsError, PluginError) as error:
            reason = self._registry.broken_reason("strategy", name)
            self.broken = self.broken or reason
            if not reason:
                self._mistake(place, str(error))
                return None
        self.members.append(Member(place, name, fields, record))
        return len(self.members) - 1

    def _mistake(self, location: Location, message: str) -> None:
        """Notes a mistake."""
        self._checker.add(location, message)
        self.wrong = True


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
