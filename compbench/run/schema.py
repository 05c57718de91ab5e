"""The versions of what a results folder holds, and the way from each to the next.

Upgrades work on plain JSON, before anything is validated: a step knows the version that it begins with and the one that
follows, and no class. It may change the mapping that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Content = dict[str, Any]
Upgrade = Callable[[Content], Content]


class SchemaError(ValueError):
    """Content that names no version that there has ever been."""


class NewerSchemaError(SchemaError):
    """Content of a version that only a newer compbench knows.

    Attributes:
        found: Its version.
        known: The highest version that this compbench knows.
    """

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"schema {found}; this one reads up to {known}")
        self.found = found
        self.known = known


@dataclass(frozen=True)
class Schema:
    """One kind of content, whose versions are counted from 1.

    Attributes:
        upgrades: The step from version 1 to 2, from 2 to 3, and so on.
        sealed_since: From this version on it carries a checksum.
    """

    upgrades: Sequence[Upgrade] = ()
    sealed_since: int | None = None

    @property
    def version(self) -> int:
        """The version that is written."""
        return len(self.upgrades) + 1

    def version_of(self, content: Content) -> int:
        """The version that content says it has.

        Raises:
            NewerSchemaError: It is one that only a newer compbench knows.
            SchemaError: It is none.
        """
        version = content.get("schema_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise SchemaError(f"schema_version is {version!r} (allowed: 1 to {self.version})")
        if version > self.version:
            raise NewerSchemaError(version, self.version)
        return version

    def upgrade(self, content: Content) -> Content:
        """Content as the current version has it, one step after the other.

        Raises:
            SchemaError: As :meth:`version_of`.
        """
        for version in range(self.version_of(content), self.version):
            content = self.upgrades[version - 1](content) | {"schema_version": version + 1}
        return content


def _cell_from_1_to_2(content: Content) -> Content:
    """Version 2 knows what a cell's process ran under, its arithmetic, and the phases and page faults of its times."""
    unknown = {"environment": None, "arithmetic": None}
    time = content.get("time")
    if isinstance(time, dict):
        content["time"] = {"phases": {}, "page_faults": None, "uncompressed_page_faults": None} | time
    return unknown | content


def _cell_from_2_to_3(content: Content) -> Content:
    """Version 3 is sealed with a checksum, and knows of attempts, resumed trainings and the files of its code.

    The route by which a strategy got at its rows was recorded when there was a choice; before that it was by hooks.
    """
    cell = content.get("cell")
    if isinstance(cell, dict) and isinstance(capture := cell.get("capture", {}), dict):
        content["cell"] = cell | {"capture": {"routes": "hooks"} | capture}
    return {"attempts": 1, "resumed_from": [], "earlier_seconds": 0.0, "sources": {}} | content


def _cell_from_3_to_4(content: Content) -> Content:
    """Version 4 knows what a figure over training needs beside the loss, and whether the strategy loses anything."""
    return {"validation_curve": [], "site_curves": {}, "exactness": None} | content


def _suite_from_1_to_2(content: Content) -> Content:
    """Version 2 is sealed with a checksum; nothing else is new."""
    return content


def _suite_from_2_to_3(content: Content) -> Content:
    """Version 3 knows of metrics of which less is better; before, more was better of all."""
    return {"lower_is_better": []} | content


CELL = Schema((_cell_from_1_to_2, _cell_from_2_to_3, _cell_from_3_to_4), sealed_since=3)
SUITE = Schema((_suite_from_1_to_2, _suite_from_2_to_3), sealed_since=2)
MERGED = Schema(sealed_since=1)
MACHINE = Schema()
"""A machine's file has the hash of its content for a name, which seals it."""
