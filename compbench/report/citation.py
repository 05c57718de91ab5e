"""How published results are cited: ``CITATION.cff`` in the Citation File Format 1.2.0.

Its authors are those who made the results, whom only the user can name. The format wants one at least: where nobody is
named it is ``Anonymous``, so that nobody is credited who had no part in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import yaml

from compbench.errors import SettingsError

ALLOWED = "'Family, Given', 'Family, Given <ORCID; affiliation>', or '{Group}'"
"""How an author is written."""

_SHAPE = re.compile(r"(?P<name>[^<>]*?)\s*(?:<(?P<more>[^<>]*)>)?")
_ORCID = re.compile(r"(?:https?://)?(?:orcid\.org/)?(?P<digits>\d{4}-\d{4}-\d{4}-\d{3}[\dXx])")
_LIKE_ORCID = re.compile(r"(?:https?://|orcid)|[\dXx -]{12,}", re.IGNORECASE)


@dataclass(frozen=True)
class Author:
    """A person, or a group of people.

    Attributes:
        family: the family name; empty for a group.
        given: given names.
        group: the group's name; empty for a person.
        orcid: 16 digits in groups of four, the last of which may be an X; empty where none was given.
        affiliation: where the person works; empty where that was not given.
    """

    family: str = ""
    given: str = ""
    group: str = ""
    orcid: str = ""
    affiliation: str = ""

    def __str__(self) -> str:
        """As the command line has it."""
        if self.group:
            return f"{{{self.group}}}"
        more = "; ".join(part for part in (self.orcid, self.affiliation) if part)
        return f"{self.family}, {self.given}".rstrip() + (f" <{more}>" if more else "")

    @property
    def name(self) -> str:
        """As a list of references has it: ``Family, G. H.``, or the group's name."""
        if self.group:
            return self.group
        initials = " ".join(f"{part[0]}." for part in re.split(r"[\s-]+", self.given) if part)
        return f"{self.family}, {initials}" if initials else self.family

    def record(self) -> dict[str, str]:
        """As the Citation File Format has it."""
        if self.group:
            return {"name": self.group}
        fields = {
            "family-names": self.family,
            "given-names": self.given,
            "orcid": f"https://orcid.org/{self.orcid}" if self.orcid else "",
            "affiliation": self.affiliation,
        }
        return {name: value for name, value in fields.items() if value}


ANONYMOUS = Author(group="Anonymous")
"""Who stands for authors that nobody has named."""


def read_author(text: str) -> Author:
    """An author as the command line has it; see :data:`ALLOWED`.

    Raises:
        SettingsError: It is written in another way, or its ORCID can't be one.
    """

    def wrong(why: str) -> SettingsError:
        return SettingsError(f"author '{text}': {why} (allowed: {ALLOWED})")

    shape = _SHAPE.fullmatch(text.strip())
    if shape is None or not text.isprintable():
        raise wrong("it has more than a name and what is in angle brackets")
    name = shape["name"].strip()
    more = [part.strip() for part in (shape["more"] or "").split(";") if part.strip()]
    if name.startswith("{") and name.endswith("}"):
        if not name[1:-1].strip() or more:
            raise wrong("a group has a name and nothing more" if more else "the group has no name")
        return Author(group=name[1:-1].strip())
    family, comma, given = (part.strip() for part in name.partition(","))
    if not comma or "," in given or not family:
        raise wrong("a person's name has one comma, after the family name")
    orcids = [part for part in more if _LIKE_ORCID.match(part)]
    affiliations = [part for part in more if part not in orcids]
    if len(orcids) > 1 or len(affiliations) > 1:
        raise wrong("there is more than one ORCID or affiliation in the angle brackets")
    orcid = ""
    if orcids:
        found = _ORCID.fullmatch(orcids[0])
        if found is None or not _holds(found["digits"].upper()):
            raise wrong(f"'{orcids[0]}' is no ORCID, whose last digit is a checksum of the others")
        orcid = found["digits"].upper()
    return Author(family, given, "", orcid, affiliations[0] if affiliations else "")


def read_authors(texts: Sequence[str]) -> list[Author]:
    """All authors, in their order.

    Raises:
        SettingsError: as :func:`read_author` does, or one is named twice.
    """
    authors = [read_author(text) for text in texts]
    for index, author in enumerate(authors):
        if author in authors[:index]:
            raise SettingsError(f"author '{texts[index]}' is named twice (allowed: each once)")
    return authors


def citation(
    title: str, version: str, day: str, abstract: str, authors: Sequence[Author], programs: Sequence[str]
) -> str:
    """The text of ``CITATION.cff``.

    Args:
        title: of the results.
        version: of the results.
        day: when the newest of them was made, as ``2026-01-31``; anything else is left out.
        abstract: what they are, in a sentence; may be empty.
        authors: who made them; nobody is :data:`ANONYMOUS`.
        programs: versions of compbench that made them.
    """
    content: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "If you use these results, please cite them as below, and compbench, which made them.",
        "type": "dataset",
        "title": title,
        "authors": [author.record() for author in authors or [ANONYMOUS]],
        "version": version,
        "abstract": abstract,
        "date-released": day if _is_day(day) else "",
        "keywords": ["activation compression", "memory-efficient training", "recursive models", "benchmark"],
        "references": [
            {
                "type": "software",
                "title": "compbench: a benchmark of activation-compression strategies for training recursive models",
                "authors": [{"name": "The compbench authors"}],
                "version": program,
                "license": "Apache-2.0",
            }
            for program in programs
        ],
    }
    kept = {name: value for name, value in content.items() if value}
    return yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes text that is text for readers of YAML 1.1 and of 1.2, which have other numbers, such as ``1e3``."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Text in quotes, unless it begins as no number does; words such as ``no`` are quoted anyway."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text[:1].isalpha() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _holds(orcid: str) -> bool:
    """Whether the last digit of an ORCID is that of ISO 7064, MOD 11-2, over the others."""
    digits = orcid.replace("-", "")
    total = 0
    for digit in digits[:-1]:
        total = (total + int(digit)) * 2
    return digits[-1] == "0123456789X"[(12 - total % 11) % 11]
