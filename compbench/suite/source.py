"""YAML text as plain values, with the line of each. It knows nothing of what a suite is.

Scalars are read by the core schema of YAML 1.2: ``1e-3`` is a number, ``yes`` and ``12:30`` are strings. Nodes are
turned into values here and never constructed by tag, so a file can name no Python object.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from compbench.errors import Problem
from compbench.fields import Location

_TAG = "tag:yaml.org,2002:"


class _CoreLoader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does; PyYAML's own rules are those of 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own attribute; filled below)


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), _first)


def _integer(text: str) -> int:
    return int(text, 0) if text[:2].lower() in ("0o", "0x") else int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def _text(text: str) -> str:
    text.encode()  # half of an escaped surrogate pair is no character, and could not be printed
    return text


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _integer,
    "float": _number,
    "str": _text,
}


@dataclass
class Source:
    """One YAML file.

    Attributes:
        file: the name that problems give, such as ``suites/quick.yaml``.
        data: the file's plain values; None if it could not be read.
        problems: what is wrong with the YAML itself.
        unread: values that a problem stands for; they are None in ``data``, and there is no more to say of them.
    """

    file: str
    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    unread: set[Location] = field(default_factory=set)
    _lines: dict[Location, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, file: str) -> Source:
        """Reads YAML; mistakes land in :attr:`problems` and raise nothing."""
        source = cls(file)
        try:
            node = yaml.compose(text, Loader=_CoreLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = " ".join(part for part in (error.context, error.problem) if part)
            source._report(mark.line + 1 if mark else 1, f"not valid YAML: {message}")
        except yaml.YAMLError as error:
            source._report(1, f"not valid YAML: {' '.join(str(error).split())}")
        except RecursionError:
            source._report(1, "not valid YAML: nested too deeply")
        else:
            if node is not None:
                source.data = source._value(node, (), ())
        return source

    def line(self, location: Location) -> int:
        """The line of a value, or of the nearest thing around it that the file has."""
        while location and location not in self._lines:
            location = location[:-1]
        return self._lines.get(location, 1)

    def where(self, location: Location) -> str:
        """``file:line`` of a value."""
        return f"{self.file}:{self.line(location)}"

    def _report(self, line: int, message: str) -> None:
        self.problems.append(Problem(f"{self.file}:{line}", message))

    def _unread(self, location: Location, message: str) -> None:
        self._report(self.line(location), message)
        self.unread.add(location)

    def _value(self, node: yaml.Node, location: Location, around: tuple[yaml.Node, ...]) -> Any:
        self._lines.setdefault(location, node.start_mark.line + 1)
        if any(node is outer for outer in around):
            return self._unread(location, "an alias to something that it is part of")
        around = (*around, node)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, location, around)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self._value(item, (*location, index), around) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            try:
                return _SCALARS[kind](node.value)
            except (ValueError, KeyError):
                return self._unread(location, f"'{node.value}' can't be read as {kind}")
        return self._unread(location, f"tag '{node.tag}' (allowed: no tags but those of YAML's own types)")

    def _mapping(self, node: yaml.MappingNode, location: Location, around: tuple[yaml.Node, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str" or not key.isprintable():
                found = repr(key) if isinstance(key, str) else "of a list or mapping"
                self._report(
                    line, f"key {found} is no plain string (allowed: printable text; put numbers and null in quotes)"
                )
            elif key in values:
                self._report(line, f"key '{key}' is given twice; the first is in line {first_lines[key]}")
            else:
                first_lines[key] = line
                self._lines[*location, key] = line
                values[key] = self._value(value_node, (*location, key), around)
        return values
