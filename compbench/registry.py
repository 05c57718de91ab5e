"""Turns names into strategies, workloads, metrics, reporters and observers. It knows plugins, and none by name."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeGuard

from pydantic_core import PydanticSerializationError

from compbench.audience import Audience
from compbench.by_site import SITES, BySite, pattern_text
from compbench.chain import Chain
from compbench.compressor import Compressor
from compbench.errors import PluginError, SettingsError, unknown
from compbench.fields import construct, in_words
from compbench.plugin_loading import Kind, Loaded, Plugin, Registered, load_plugins
from compbench.sources import source_files, source_hash
from compbench.workloads.base import Workload
from compbench.workloads.own import is_own, own_workload

Strategy = str | Mapping[str, Any] | Compressor | type[Compressor]
"""One strategy: a name, ``{name: {field: value}}``, a compressor, or a compressor's class."""

_SHAPES = "a name, or {name: {field: value}}"

SITES_SHAPE = "a mapping of patterns to strategies, such as {'*': laser, 'width:<128': none}"
"""What ``sites`` of an arm may be, for messages."""

NESTED_SITES = "strategies by site within another strategy (allowed: chains within sites, and not the other way round)"
"""What is said where ``sites`` stands in a chain or in itself."""


@dataclass(frozen=True)
class Conflict:
    """A name that two plugins claim; using it is an error, other names go on working."""

    kind: Kind
    name: str
    claims: tuple[Registered, ...]

    def __str__(self) -> str:
        sources = " and ".join(str(claim.plugin) for claim in self.claims)
        return f"{self.kind} '{self.name}' is provided by {sources}; rename one of them"


@dataclass(frozen=True)
class Reference:
    """What identifies a strategy or workload: name, fields that differ from their defaults as JSON, and source hash."""

    name: str
    fields: dict[str, Any]
    source: str


class Registry:
    """All plugins of this environment and of one plugins folder.

    Attributes:
        compressors: strategies by name; records are subclasses of :class:`compbench.Compressor`.
        workloads: workloads by name; records are subclasses of :class:`compbench.Workload`.
        metrics: metrics by name; records are :class:`compbench.Metric`.
        reporters: table formats by name; records are :class:`compbench.Reporter`.
        observers: what can be asked to follow a run, by name; records are :class:`compbench.Observer`.
        foresights: what is known of strategies' memory beforehand, by theirs; records are :class:`compbench.Foresight`.
        plugins: every plugin that was found, broken ones too.
        conflicts: names that two plugins claim; they are in none of the mappings above.
        plugins_dir: the absolute path of the project's own plugins, if there are any.
    """

    def __init__(self, loaded: Loaded, plugins_dir: Path | None = None) -> None:
        self._loaded = loaded
        self.plugins = loaded.plugins
        self.plugins_dir = plugins_dir.resolve() if plugins_dir else None
        tables: dict[Kind, dict[str, Registered]] = defaultdict(dict)
        conflicts = []
        for (kind, name), claims in _claims(loaded.records).items():
            if len(claims) == 1:
                tables[kind][name] = claims[0]
            else:
                conflicts.append(Conflict(kind, name, claims))
        self.conflicts = tuple(conflicts)
        self._tables = {kind: MappingProxyType(dict(sorted(table.items()))) for kind, table in tables.items()}
        self.compressors = self._table("strategy")
        self.workloads = self._table("workload")
        self.metrics = self._table("metric")
        self.reporters = self._table("reporter")
        self.observers = self._table("observer")
        self.foresights = self._table("foresight")
        self._audience = Audience(loaded)

    @classmethod
    def load(cls, plugins_dir: Path | None = None) -> Self:
        """Loads the entry points of group ``compbench``, and the files of ``plugins_dir``.

        The environment variable ``COMPBENCH_DISABLE_PLUGINS`` has the names of plugins to leave out, separated by
        commas; a plugin's name is that of its entry point, or of its file without ``.py``.

        Raises:
            PluginError: there is no folder ``plugins_dir``. Broken plugins raise nothing: see :attr:`broken`.
        """
        return cls(load_plugins(plugins_dir), plugins_dir)

    @property
    def broken(self) -> tuple[Plugin, ...]:
        """The plugins that could not be loaded."""
        return tuple(plugin for plugin in self.plugins if plugin.status == "broken")

    def find(self, kind: Kind, name: str) -> Registered:
        """The record of a name.

        Raises:
            PluginError: two plugins claim the name, or the plugin that seems to provide it is broken.
            SettingsError: nobody provides the name.
        """
        found = self._table(kind).get(name)
        if found is not None:
            return found
        for conflict in self.conflicts:
            if (conflict.kind, conflict.name) == (kind, name):
                raise PluginError(str(conflict))
        broken = self.broken_reason(kind, name)
        if broken:
            raise PluginError(broken)
        raise SettingsError(unknown(kind, name, self._table(kind)) + self._broken_hint())

    def broken_reason(self, kind: Kind, name: str) -> str:
        """Why a name is missing that a broken plugin might have provided, in one line; empty for any other name."""
        claimed = name in self._table(kind) or any((c.kind, c.name) == (kind, name) for c in self.conflicts)
        if not claimed:
            for plugin in self.broken:
                if name in plugin.names:
                    return f"{plugin} is broken: {plugin.reason}"
        return ""

    def compressor(self, spec: Strategy | Sequence[Strategy], /, **fields: Any) -> Compressor:
        """Makes a strategy.

        Args:
            spec: one strategy; a list of them, which is a chain: each compresses what the one before it keeps; or
                ``{"sites": {pattern: strategy or chain}}``, where the last pattern that matches a site decides.
            **fields: values of fields, where ``spec`` is a name or a class.

        Raises:
            PluginError: the name's plugin is broken, or two plugins claim the name.
            SettingsError: an unknown name or field, or a value that is not allowed.
        """
        if isinstance(spec, (str, type)):
            return self._member({spec: fields} if isinstance(spec, str) else spec, fields)
        if fields:
            raise SettingsError(f"fields ({', '.join(fields)}) beside {in_words(spec)} (allowed: beside a name)")
        if isinstance(spec, Sequence):
            if not spec:
                raise SettingsError("a chain of no strategies (allowed: a list of at least one)")
            if len(spec) > 1:
                return Chain(members=tuple(self._member(member, {}) for member in spec))
            (spec,) = spec
        if isinstance(spec, BySite):
            return spec
        if is_by_site(spec):
            return self._by_site(spec[SITES])
        return self._member(spec, {})

    def workload(self, name: str, /, **fields: Any) -> Workload:
        """Makes a workload, by its name or as ``package.module:Class``.

        Raises:
            PluginError: the name's plugin is broken, or two plugins claim the name; or the class can't be used.
            SettingsError: an unknown name or field, or a value that is not allowed.
        """
        record = self.workload_record(name)
        return construct(record, fields, f"workload '{name}'")

    def workload_record(self, name: str) -> type[Workload]:
        """The class of a workload, by its name or as ``package.module:Class``.

        Raises:
            PluginError: the name's plugin is broken, or two plugins claim the name; or the class can't be used.
            SettingsError: nobody provides the name.
        """
        record: type[Workload] = own_workload(name) if is_own(name) else self.find("workload", name).record
        return record

    def reference(self, settings: Compressor | Workload) -> tuple[Reference, ...]:
        """What identifies a strategy, one entry a member of a chain, or a workload (one entry).

        Strategies by site are one entry, whose source is that of all of them in the order of their patterns.

        Raises:
            PluginError: a field's value can't be written as JSON.
        """
        if isinstance(settings, Chain):
            return tuple(part for member in settings.members for part in self.reference(member))
        if isinstance(settings, BySite):
            return (self._reference_by_site(settings),)
        table = self.compressors if isinstance(settings, Compressor) else self.workloads
        known = table.get(settings.name)
        ours = known is not None and known.record is type(settings)
        try:
            fields = settings.model_dump(mode="json", exclude_defaults=True)
        except PydanticSerializationError as error:
            raise PluginError(f"the fields of '{settings.name}' can't be written as JSON: {error}") from error
        source = known.source if known is not None and ours else source_hash(type(settings))
        return (Reference(settings.name, fields, source),)

    def start_observer(self, name: str) -> None:
        """Has an observer follow from here on what :meth:`observe` tells.

        Raises:
            PluginError: the name's plugin is broken, or two plugins claim the name; or what it starts has no hooks.
            SettingsError: nobody provides the name, or it can't be started, such as for want of a package.
        """
        self._audience.start(self.find("observer", name))

    def sources(self, settings: Compressor | Workload) -> dict[str, str]:
        """The SHA-256 of each file that defines a workload, or a strategy with its members; by package and name."""
        parts: Iterable[Compressor]
        if isinstance(settings, Chain):
            parts = settings.members
        elif isinstance(settings, BySite):
            parts = [strategy for _, strategy in settings.choices]
        else:
            return source_files(type(settings))
        return {name: digest for part in parts for name, digest in self.sources(part).items()}

    def observe(self, hook: str, **arguments: Any) -> list[str]:
        """Tells observers of something, one after the other; one that raises stops no other and is not told again.

        Returns:
            What went wrong, one line an observer.
        """
        return self._audience.tell(hook, arguments)

    def _table(self, kind: Kind) -> Mapping[str, Registered]:
        return self._tables.get(kind, MappingProxyType({}))

    def _by_site(self, strategies: object) -> Compressor:
        """Strategies by site, from the mapping of patterns.

        Raises:
            SettingsError: a pattern or its strategy is not allowed; the message names the pattern.
        """
        if not isinstance(strategies, Mapping) or not strategies:
            raise SettingsError(f"sites is {in_words(strategies)} (allowed: {SITES_SHAPE})")
        made: list[tuple[str, Compressor]] = []
        for pattern, spec in strategies.items():
            text = pattern_text(pattern)
            try:
                if isinstance(spec, BySite) or is_by_site(spec):
                    raise SettingsError(NESTED_SITES)
                made.append((text, self.compressor(spec)))
            except SettingsError as error:
                raise SettingsError(f"sites '{pattern}': {error}") from error
        return BySite(choices=tuple(made))

    def _reference_by_site(self, settings: BySite) -> Reference:
        parts = [(pattern, self.reference(strategy)) for pattern, strategy in settings.choices]
        # Keys of JSON have no order, and that of patterns matters: it goes into the hash.
        sources = json.dumps([[pattern, [part.source for part in own]] for pattern, own in parts])
        fields = {pattern: written([(part.name, part.fields) for part in own]) for pattern, own in parts}
        return Reference(SITES, fields, hashlib.sha256(sources.encode()).hexdigest())

    def _member(self, spec: object, fields: Mapping[str, Any]) -> Compressor:
        if isinstance(spec, BySite) or is_by_site(spec):
            raise SettingsError(NESTED_SITES)
        if isinstance(spec, Compressor):
            return spec
        if isinstance(spec, type) and issubclass(spec, Compressor):
            return construct(spec, fields, f"strategy '{spec.name}'")
        name, fields = parse_strategy(spec)
        record: type[Compressor] = self.find("strategy", name).record
        return construct(record, fields, f"strategy '{name}'")

    def _broken_hint(self) -> str:
        broken = [f"{plugin.name} ({plugin.reason})" for plugin in self.broken]
        return f"; broken plugins: {', '.join(broken)}" if broken else ""


def parse_strategy(spec: object) -> tuple[str, dict[str, Any]]:
    """Name and fields of one strategy as a suite writes it: ``laser`` or ``{laser: {rank: 16}}``.

    Raises:
        SettingsError: it has another shape.
    """
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, fields),) = spec.items()
        if isinstance(name, str) and (fields is None or isinstance(fields, Mapping)):
            return name, dict(fields or {})
    raise SettingsError(f"a strategy is {in_words(spec)} (allowed: {_SHAPES})")


def is_by_site(spec: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a suite or caller has written strategies by site: ``{sites: {pattern: strategy}}``."""
    return isinstance(spec, Mapping) and set(spec) == {SITES}


def written(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> Any:
    """A strategy, or a chain of several, as a suite would write it, from names and fields."""
    specs: list[Any] = [{name: dict(fields)} if fields else name for name, fields in parts]
    return specs[0] if len(specs) == 1 else specs


def default_plugins_dir() -> Path | None:
    """The folder ``plugins`` of the current directory, if there is one and it isn't that of the shipped plugins."""
    folder = Path("plugins").resolve()
    if not folder.is_dir():
        return None
    shipped = importlib.util.find_spec("compbench_plugins")
    locations = shipped.submodule_search_locations if shipped else None
    return None if folder in {Path(location).resolve() for location in locations or ()} else folder


def _claims(records: Iterable[Registered]) -> dict[tuple[Kind, str], tuple[Registered, ...]]:
    """Who claims each name; the same object offered again is the same claim."""
    claims: dict[tuple[Kind, str], tuple[Registered, ...]] = {}
    for record in records:
        earlier = claims.get((record.kind, record.name), ())
        if all(claim.record is not record.record for claim in earlier):
            claims[record.kind, record.name] = (*earlier, record)
    return claims
