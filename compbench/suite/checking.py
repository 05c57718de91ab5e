"""Gathers what is wrong with a suite, so that all mistakes are told at once, each with its line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from compbench.errors import Problem, one_line
from compbench.fields import FieldProblem, FieldsError, Location, construct, in_words
from compbench.suite.source import Source

Made = TypeVar("Made")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Axis:
    """A further axis of the matrix: the values of one field, in an arm of the field of one member of the chain."""

    name: str
    field: str
    values: tuple[Any, ...]
    member: int = 0


@dataclass(frozen=True)
class Choice:
    """One value of each of some axes."""

    picked: tuple[tuple[Axis, int], ...]

    @property
    def values(self) -> dict[str, Any]:
        """The values by axis."""
        return {axis.name: axis.values[index] for axis, index in self.picked}

    def overrides(self, member: int = 0) -> dict[str, Any]:
        """The values by field, for one member of a chain."""
        return {axis.field: axis.values[index] for axis, index in self.picked if axis.member == member}

    def place(self, base: Location, location: Location, member: int = 0) -> Location:
        """Where in the file a field's value comes from: the axis if one sets it, else the section ``base``."""
        for axis, index in self.picked:
            if axis.member == member and location[:1] == (axis.field,):
                return ("matrix", axis.name, index, *location[1:])
        return (*base, *location)

    def __str__(self) -> str:
        return ", ".join(f"{axis}={in_words(value)}" for axis, value in self.values.items())


def choices(axes: Iterable[Axis]) -> list[Choice]:
    """Every choice of values, the first axis outermost; of no axes the one empty choice."""
    picks = [[(axis, index) for index in range(len(axis.values))] for axis in axes]
    return [Choice(picked) for picked in itertools.product(*picks)]


def construct_at(
    base: Location, model: type[Model], fields: Mapping[str, Any], what: str, choice: Choice, member: int = 0
) -> Model:
    """Makes a settings model from a section of the file and the axes that set fields of it.

    Args:
        base: where the section is.
        model: the settings model.
        fields: the section's values.
        what: who is being set, such as ``strategy 'laser'``; empty for the suite itself.
        choice: the axes' values, which take the place of the section's.
        member: which member of a chain is being set.

    Raises:
        FieldsError: with locations of the file.
    """
    try:
        return construct(model, {**fields, **choice.overrides(member)}, what)
    except FieldsError as error:
        prefix = f"{what}: " if what else ""
        located = [
            FieldProblem(choice.place(base, problem.location, member), prefix + problem.message)
            for problem in error.problems
        ]
        raise FieldsError(what, located) from None


class Checker:
    """The mistakes of one file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: dict[tuple[int, str], None] = {}

    def add(self, location: Location, message: str) -> None:
        """Notes a mistake, once, and nothing where the YAML itself could not be read."""
        if location not in self._source.unread:
            self._found[self._source.line(location), message] = None

    def add_all(self, problems: Iterable[FieldProblem]) -> None:
        """Notes mistakes whose locations are those of the file."""
        for problem in problems:
            self.add(problem.location, problem.message)

    def problems(self) -> list[Problem]:
        """All mistakes, those of the YAML among them, in the order of the file."""
        own = [(line, Problem(f"{self._source.file}:{line}", message)) for line, message in self._found]
        of_yaml = [(int(problem.where.rpartition(":")[2]), problem) for problem in self._source.problems]
        return [problem for _, problem in sorted(of_yaml + own, key=lambda found: found[0])]

    def attempt(
        self, options: Sequence[Choice], at: Location, make: Callable[[Choice], Made]
    ) -> list[tuple[Choice, Made]]:
        """Makes something for every choice, and notes what can't be made.

        A mistake that only some choices have, and that does not stand at one of their values, is told with them.

        Args:
            options: all choices.
            at: where a mistake belongs that has no place of its own.
            make: makes one; a :class:`FieldsError` that it raises has locations of the file.
        """
        made: list[tuple[Choice, Made]] = []
        failures: dict[FieldProblem, list[Choice]] = {}
        for choice in options:
            try:
                made.append((choice, make(choice)))
            except FieldsError as error:
                found = error.problems
            except Exception as error:  # a plugin's own validation may raise anything
                found = (FieldProblem(at, what_it_says(error)),)
            else:
                continue
            for problem in found:
                failures.setdefault(problem, []).append(choice)
        axes = {("matrix", axis) for choice in options for axis in choice.values}
        for problem, failed in failures.items():
            told = len(failed) == len(options) or problem.location[:2] in axes
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            self.add(problem.location, problem.message + ("" if told else f" (with {failed[0]}{more})"))
        return made


def what_it_says(error: Exception) -> str:
    """What a strategy or workload says of its settings, whatever way it says it, in one line."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
    return one_line(error)
