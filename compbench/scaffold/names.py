"""Which names a new strategy may have, and the names that follow from it: of its class, package and distribution."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

import yaml

from compbench.errors import CompbenchError
from compbench.fields import in_words
from compbench.plugin_loading import LOCAL_PACKAGE
from compbench.registry import Registry

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 40
_PREFIX = "compbench_"
_ALLOWED = f"lower-case letters and digits, a letter first, words joined by one _, up to {_LONGEST} characters"


class ScaffoldError(CompbenchError):
    """A new strategy can't be written under this name, or not here."""


@dataclass(frozen=True)
class Names:
    """All names of a new strategy.

    Attributes:
        name: the strategy's own, which suites use and its file has, such as ``top_rows``.
        cls: its class, such as ``TopRows``.
        module: the package of its own, such as ``compbench_top_rows``.
        distribution: what pip calls that, such as ``compbench-top-rows``.
    """

    name: str
    cls: str
    module: str
    distribution: str


def names_of(name: str, taken: Collection[str]) -> Names:
    """The names that follow from a strategy's name.

    Args:
        name: one that :func:`check_strategy_name` lets pass.
        taken: names that the strategy's file has for other things, which its class can't have.
    """
    cls = "".join(word.capitalize() for word in name.split("_"))
    if cls in taken or keyword.iskeyword(cls) or hasattr(builtins, cls):
        cls += "Strategy"
    module = f"{_PREFIX}{name}"
    return Names(name, cls, module, module.replace("_", "-"))


def check_strategy_name(name: str, registry: Registry) -> None:
    """Passes if a new strategy may have this name.

    Raises:
        ScaffoldError: the name has another form than strategies' have, a suite could not use it, or a strategy has it.
    """
    if not _well_formed(name):
        nearest = _nearest(name)
        free = _well_formed(nearest) and not _provided(nearest, registry)
        hint = f"; did you mean '{nearest}'?" if free else ""
        raise ScaffoldError(f"a strategy can't have the name '{name}'{hint} (allowed: {_ALLOWED})")
    in_suites = yaml.safe_load(name)
    if in_suites != name:
        raise ScaffoldError(
            f"a strategy can't have the name '{name}': in a suite it means {in_words(in_suites)}; choose another"
        )
    provided = _provided(name, registry)
    if provided:
        raise ScaffoldError(f"the name '{name}' is taken: {provided}; choose another")


def check_package_name(name: str) -> None:
    """Passes if a package of a strategy of this name would not hide another.

    Raises:
        ScaffoldError: there is a module of its name.
    """
    module = f"{_PREFIX}{name}"
    if module == LOCAL_PACKAGE or importlib.util.find_spec(module) is not None:
        raise ScaffoldError(
            f"the package would be called '{module}', and there is a module of that name; choose another"
        )


def _well_formed(name: str) -> bool:
    return len(name) <= _LONGEST and _NAME.fullmatch(name) is not None


def _provided(name: str, registry: Registry) -> str:
    """Who provides a strategy of this name; empty if nobody does."""
    found = registry.compressors.get(name)
    if found is not None:
        return f"{found.plugin} provides it"
    conflicts = [conflict for conflict in registry.conflicts if (conflict.kind, conflict.name) == ("strategy", name)]
    return str(conflicts[0]) if conflicts else ""


def _nearest(name: str) -> str:
    """The name in the form that names have: ``My-Strategy`` and ``MyStrategy`` become ``my_strategy``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).casefold()
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain).lstrip("_0123456789").rstrip("_")[:_LONGEST].rstrip("_")
