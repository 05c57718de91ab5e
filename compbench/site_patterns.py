"""Which sites of a model are meant: patterns over their modules, their roles and their widths.

Knows sites and nothing else: not what becomes of those that are chosen, nor of the others.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase

from compbench.compressor import Site
from compbench.errors import SettingsError

ALLOWED = (
    "MODULE/ROLE, a MODULE or a ROLE, with the wildcards * ? [], such as 'block.*.mlp/mlp_*' or '*.mlp'; "
    "a width, such as 1536 or 'width:>=512'; each with a leading ! to exclude"
)
"""What a pattern may be, for messages."""

_WIDTH = re.compile(r"(>=|<=|>|<|)\s*([1-9][0-9]*)")
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "": operator.eq,
}
_NEAREST = 3


@dataclass(frozen=True)
class _Pattern:
    """One pattern: a comparison of widths, or globs over the module and the role.

    A pattern without a slash has the same glob for both, and either may match.
    """

    text: str
    excludes: bool
    module: str = ""
    role: str = ""
    either: bool = False
    comparison: str = ""
    width: int = 0

    def matches(self, site: Site) -> bool:
        if self.width:
            return _COMPARISONS[self.comparison](site.width, self.width)
        in_module, in_role = fnmatchcase(site.module, self.module), self._matches_role(site)
        return in_module or in_role if self.either else in_module and in_role

    def _matches_role(self, site: Site) -> bool:
        return fnmatchcase(f"{site.role}#{site.index}" if "#" in self.role else site.role, self.role)

    def nearest(self, sites: Sequence[Site]) -> list[str]:
        """What of the sites resembles the pattern most, best first."""
        if self.width:
            widths = sorted({site.width for site in sites}, key=lambda width: abs(width - self.width))
            return [f"width:{width}" for width in widths[:_NEAREST]]
        likeness: dict[str, float] = {}
        for site in sites:
            module, role = _likeness(self.module, site.module), _likeness(self.role, site.role)
            if not self.either:
                likeness[site.name] = 1.0 + role if fnmatchcase(site.module, self.module) else module + role
                continue
            if site.module:
                likeness[site.module] = module
            likeness[site.role] = max(role, likeness.get(site.role, 0.0))
        return sorted(likeness, key=lambda name: -likeness[name])[:_NEAREST]


class SitePatterns:
    """A choice of sites, by patterns of which the last that matches a site decides.

    A pattern is one of:

    - ``MODULE/ROLE``: globs over the module's path and the role, such as ``block.*.mlp/mlp_*``. A role with an index,
      such as ``*/attn_96#1``, means that activation alone (``#0`` is the first); without one it means all of them.
    - a glob without a slash: over the module's path or over the role, such as ``*.mlp`` or ``mlp_1536``.
    - a width: the integer 1536, or ``width:1536``, ``width:>=512``, ``width:<128``.

    A leading ``!`` excludes. No patterns choose all sites, and so does the absence of an inclusion before the first
    exclusion: ``!*.mlp`` is everything but those.

    Args:
        patterns: patterns in order, or a single one.

    Raises:
        SettingsError: patterns that can't be read, each with what is allowed.
    """

    def __init__(self, patterns: Iterable[str | int] | str | int = ()) -> None:
        given = (patterns,) if isinstance(patterns, (str, int)) else tuple(patterns)
        read: list[_Pattern] = []
        problems: list[str] = []
        for pattern in given:
            try:
                read.append(_read(pattern))
            except SettingsError as error:
                problems.append(str(error))
        if problems:
            raise SettingsError(f"{'; '.join(problems)} (allowed: {ALLOWED})")
        self._patterns = tuple(read)

    def selects(self, site: Site) -> bool:
        """Whether the site is chosen."""
        for pattern in reversed(self._patterns):
            if pattern.matches(site):
                return not pattern.excludes
        return not self._patterns or self._patterns[0].excludes

    def unmatched(self, sites: Iterable[Site]) -> list[str]:
        """The patterns that match none of the sites, exclusions among them, in the order given."""
        there = list(sites)
        return [pattern.text for pattern in self._patterns if not any(map(pattern.matches, there))]

    def unmatched_message(self, sites: Iterable[Site]) -> str:
        """What a user is told of the patterns that match none of the sites, one line each; empty if there are none."""
        there = list(dict.fromkeys(sites))
        return "\n".join(unmatched_message(text, there) for text in dict.fromkeys(self.unmatched(there)))


def unmatched_message(pattern: str | int, sites: Sequence[Site]) -> str:
    """What a user is told of a pattern that matches none of the sites: how many there are, and the nearest."""
    nearest = _read(pattern).nearest(sites)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return f"sites pattern '{pattern}' matches none of the {len(sites)} sites{hint}"


def _read(pattern: str | int) -> _Pattern:
    """One pattern.

    Raises:
        SettingsError: it can't be read.
    """
    if isinstance(pattern, bool) or not isinstance(pattern, (str, int)):
        raise SettingsError(f"sites pattern {pattern!r} is neither a string nor a width")
    text = str(pattern)
    if isinstance(pattern, int):
        if pattern < 1:
            raise SettingsError(f"sites pattern {pattern} is no width")
        return _Pattern(text, excludes=False, width=pattern)
    excludes = text.startswith("!")
    body = text.removeprefix("!")
    if not body or body != body.strip():
        raise SettingsError(f"sites pattern '{text}' {'begins or ends with a space' if body.strip() else 'is empty'}")
    if body.startswith("width:"):
        found = _WIDTH.fullmatch(body.removeprefix("width:").strip())
        if found is None:
            raise SettingsError(f"sites pattern '{text}' compares with no width")
        return _Pattern(text, excludes, comparison=found[1], width=int(found[2]))
    module, slash, role = body.partition("/")
    if not slash:
        return _Pattern(text, excludes, module=body, role=body, either=True)
    if not role or "/" in role:
        raise SettingsError(f"sites pattern '{text}' is not of the form MODULE/ROLE")
    return _Pattern(text, excludes, module=module, role=role)


def _likeness(glob: str, name: str) -> float:
    """How much a name resembles a glob, from 0 to 1, where it matches; indices are left aside."""
    glob = glob.partition("#")[0]
    if fnmatchcase(name, glob):
        return 1.0
    literal = re.sub(r"[*?\[\]]", "", glob)
    if glob.startswith("*") and not glob.endswith("*"):
        name = name[-len(literal) :]
    elif glob.endswith("*") and not glob.startswith("*"):
        name = name[: len(literal)]
    return SequenceMatcher(None, literal, name, autojunk=False).ratio()
