"""Finds plugins and loads each on its own, so that a broken one is kept apart and the others go on.

A plugin is a module with pluggy hooks: an entry point of the group ``compbench``, or a file of the project's own
plugins folder. This module knows hooks and records; what names mean is the registry's business.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from compbench import hookspecs
from compbench.compressor import Compressor
from compbench.errors import PluginError, one_line, unknown
from compbench.records import BETTER, Foresight, Metric, Observer, Reporter
from compbench.sources import file_hash, source_hash
from compbench.workloads.base import Workload

GROUP = "compbench"
LOCAL_PACKAGE = "compbench_local"
DISABLE_VARIABLE = "COMPBENCH_DISABLE_PLUGINS"

Kind = Literal["strategy", "workload", "metric", "reporter", "observer", "foresight"]

RECORDS: Mapping[str, tuple[Kind, type[Any]]] = {
    "compbench_compressors": ("strategy", Compressor),
    "compbench_workloads": ("workload", Workload),
    "compbench_metrics": ("metric", Metric),
    "compbench_reporters": ("reporter", Reporter),
    "compbench_observers": ("observer", Observer),
    "compbench_foresights": ("foresight", Foresight),
}
"""What each registration hook returns: the kind, in users' words, and the class that records are (a subclass of)."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NAME_ASSIGNED = re.compile(r"""^[ \t]+name\b[^=\n]*=\s*["']([a-z][a-z0-9_]*)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Plugin:
    """A module with hooks, loaded or broken.

    Attributes:
        name: the entry point's name, or the file's name without ``.py``.
        source: the distribution and its version, such as ``compbench 0.1.0``, or the file's path.
        file: the file that was loaded, if it could be found.
        sha256: hash of that file's bytes, empty if there is none.
        hooks: the hooks that it implements, sorted.
        reason: why it is broken, in one line; empty if it is not.
        traceback: the same with its traceback.
        names: the names that it provides, or, if it is broken, might have provided.
    """

    name: str
    source: str
    file: Path | None
    sha256: str
    hooks: tuple[str, ...] = ()
    reason: str = ""
    traceback: str = ""
    names: frozenset[str] = frozenset()

    @property
    def status(self) -> Literal["ok", "broken"]:
        """``broken`` if it could not be loaded."""
        return "broken" if self.reason else "ok"

    def __str__(self) -> str:
        return f"plugin '{self.name}' ({self.source})"


@dataclass(frozen=True)
class Registered:
    """A record under its name, the plugin that it came from, and the hash of the code that defines it."""

    kind: Kind
    name: str
    record: Any
    plugin: Plugin
    source: str


@dataclass(frozen=True)
class Loaded:
    """All that was found: the manager that calls hooks, every plugin, and the records of those that are not broken."""

    manager: pluggy.PluginManager
    plugins: tuple[Plugin, ...]
    modules: Mapping[Plugin, object]
    records: tuple[Registered, ...]


@dataclass(frozen=True)
class _Candidate:
    name: str
    source: str
    file: Path | None
    load: Callable[[], object]


def load_plugins(plugins_dir: Path | None) -> Loaded:
    """Loads entry points, then the files of ``plugins_dir``; names in ``COMPBENCH_DISABLE_PLUGINS`` are left out.

    A file whose name begins with an underscore is no plugin, but the folder's plugins may import it (``from ._basis
    import ...``). A file that an entry point has loaded already is not loaded twice.

    Raises:
        PluginError: there is no folder ``plugins_dir``.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    disabled = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")}
    plugins: list[Plugin] = []
    modules: dict[Plugin, object] = {}
    records: list[Registered] = []
    for candidate in _candidates(plugins_dir):
        if candidate.name in disabled:
            continue
        plugin, module, found = _load(manager, candidate)
        plugins.append(plugin)
        records.extend(found)
        if module is not None:
            modules[plugin] = module
    return Loaded(manager, tuple(plugins), modules, tuple(records))


def call_one(manager: pluggy.PluginManager, module: object, hook: str, arguments: Mapping[str, Any]) -> list[Any]:
    """Calls a hook of one plugin and of no other; whatever it raises comes out."""
    others = [plugin for plugin in manager.get_plugins() if plugin is not module]
    results: list[Any] = manager.subset_hook_caller(hook, remove_plugins=others)(**arguments)
    return results


def _candidates(plugins_dir: Path | None) -> Iterator[_Candidate]:
    files: set[Path] = set()
    for candidate in _entry_points():
        if candidate.file:
            files.add(candidate.file.resolve())
        yield candidate
    if plugins_dir is None:
        return
    if not plugins_dir.is_dir():
        raise PluginError(f"there is no plugins folder '{plugins_dir}'")
    _open_local_package(plugins_dir.resolve())
    for file in sorted(plugins_dir.resolve().glob("*.py")):
        if not file.name.startswith("_") and file not in files:
            yield _Candidate(file.stem, str(file), file, _local_loader(file))


def _entry_points() -> Iterator[_Candidate]:
    # A distribution reads its whole description for its name, and again for its version, of which there are long ones.
    known: dict[str, tuple[str, str]] = {}
    found: list[tuple[str, str, importlib.metadata.EntryPoint]] = []
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution, source = "", point.value
        if point.dist is not None:
            where = str(getattr(point.dist, "_path", id(point.dist)))
            if where not in known:
                metadata = point.dist.metadata
                known[where] = metadata["Name"], metadata["Version"]
            distribution, version = known[where]
            source = f"{distribution} {version}"
        found.append((distribution, source, point))
    for _, source, point in sorted(found, key=lambda found: (found[0], found[2].name)):
        yield _Candidate(point.name, source, _module_file(point.module), point.load)


def _module_file(module: str) -> Path | None:
    """The file of a module that may not be importable."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # whatever the module's package raises is told when the plugin itself is loaded
        return None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _open_local_package(folder: Path) -> None:
    """Makes a folder the package of local plugins, without touching ``sys.path``; modules of another folder go."""
    for name in [name for name in sys.modules if name.startswith(f"{LOCAL_PACKAGE}.")]:
        del sys.modules[name]
    package = ModuleType(LOCAL_PACKAGE, "The plugins of the current project.")
    package.__path__ = [str(folder)]
    sys.modules[LOCAL_PACKAGE] = package
    importlib.invalidate_caches()


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles what the file says now: a cached ``.pyc`` of the same second and size would run code of another hash."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError("local plugins are not cached")


def _local_loader(file: Path) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        name = f"{LOCAL_PACKAGE}.{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file, loader=_FromSource(name, str(file)))
        if spec is None or spec.loader is None:
            raise PluginError(f"'{file}' can't be loaded as a Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # pydantic and pickle look classes up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return load


def _load(manager: pluggy.PluginManager, candidate: _Candidate) -> tuple[Plugin, object | None, list[Registered]]:
    name, source, file = candidate.name, candidate.source, candidate.file
    sha256 = file_hash(file)
    module: object | None = None
    known = False
    try:
        module = candidate.load()
        known = manager.is_registered(module)
        if not known:
            manager.register(module, name=f"{source}:{name}")
        hooks = checked_hooks(manager, module)
        found = [] if known else _records(manager, module, hooks)
    except (Exception, SystemExit) as error:
        if module is not None and not known and manager.is_registered(module):
            manager.unregister(module)
        return (
            Plugin(
                name=name,
                source=source,
                file=file,
                sha256=sha256,
                reason=one_line(error),
                traceback=_traceback(error),
                names=_claimed_names(name, file),
            ),
            None,
            [],
        )
    names = frozenset(record.name for _, record in found)
    plugin = Plugin(name, source, file, sha256, tuple(sorted(hooks)), names=names)
    records = [
        Registered(kind, record.name, record, plugin, source_hash(record) if isinstance(record, type) else sha256)
        for kind, record in found
    ]
    return plugin, None if known else module, records


def checked_hooks(manager: pluggy.PluginManager, module: object) -> list[str]:
    """The hooks that a plugin implements; pluggy by itself would take a misspelt one in silence.

    Raises:
        PluginError: It implements none, a hook that there is not, or one without the decorator.
    """
    callers = manager.get_hookcallers(module) or []
    known = {name for name in vars(hookspecs) if name.startswith("compbench_")}
    for caller in callers:
        if caller.name not in known:
            raise PluginError(unknown("hook", caller.name, known))
    implemented = [caller.name for caller in callers]
    if isinstance(module, ModuleType):
        for name, value in vars(module).items():
            mine = inspect.isfunction(value) and value.__module__ == module.__name__
            if mine and name.startswith("compbench_") and name not in implemented:
                raise PluginError(f"function '{name}' is not decorated with @compbench.hookimpl")
    if not implemented:
        raise PluginError(f"no hook found (allowed: {', '.join(sorted(known))})")
    return implemented


def _records(manager: pluggy.PluginManager, module: object, hooks: Iterable[str]) -> list[tuple[Kind, Any]]:
    found: list[tuple[Kind, Any]] = []
    for hook, (kind, base) in RECORDS.items():
        if hook not in hooks:
            continue
        results = call_one(manager, module, hook, {})
        if not results:
            raise PluginError(f"{hook} returned nothing (allowed: a list of {base.__name__})")
        for returned in results:
            if isinstance(returned, type) or not isinstance(returned, Iterable):
                raise PluginError(f"{hook} returned {returned!r} (allowed: a list of {base.__name__})")
            for record in returned:
                _check_record(hook, base, record)
                found.append((kind, record))
    return found


def _check_record(hook: str, base: type[Any], record: object) -> None:
    as_class = base in (Compressor, Workload)
    right = isinstance(record, type) and issubclass(record, base) if as_class else isinstance(record, base)
    if not right:
        allowed = f"subclasses of compbench.{base.__name__}" if as_class else f"compbench.{base.__name__} records"
        raise PluginError(f"{hook} gave {record!r} (allowed: {allowed})")
    label = record.__name__ if isinstance(record, type) else base.__name__
    name = getattr(record, "name", None)
    if name is None:
        raise PluginError(f'{label} has no name; give it one such as name = "{label.lower()}"')
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(f"{label} has the name {name!r} (allowed: lower-case letters, digits and _, a letter first)")
    if isinstance(record, type):
        if not (record.__doc__ or "").strip():
            raise PluginError(f"{label} has no docstring; its first line is what listings show")
        missing = sorted(getattr(record, "__abstractmethods__", ()))
        if missing:
            raise PluginError(f"{label} does not define {', '.join(missing)}")
    elif isinstance(record, (Metric, Reporter, Observer, Foresight)):
        function = record_function(record)
        if not callable(function):
            raise PluginError(f"{base.__name__} '{name}' has {function!r} where a function belongs")
        if isinstance(record, Metric) and record.better not in (None, *BETTER):
            raise PluginError(f"Metric '{name}' has better={record.better!r} (allowed: {', '.join(BETTER)} or None)")


def record_function(record: Metric | Reporter | Observer | Foresight) -> Callable[..., Any]:
    """The function that a record of functions is made of; its docstring describes the record."""
    match record:
        case Metric():
            return record.compute
        case Reporter():
            return record.render
        case Observer():
            return record.start
        case Foresight():
            return record.settled


def _claimed_names(name: str, file: Path | None) -> frozenset[str]:
    """The names that a plugin which can't be loaded might have provided, read from its text.

    By a pattern and not by parsing, as a file with a syntax error is the commonest broken plugin.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file else ""
    except OSError:
        text = ""
    return frozenset({name, *_NAME_ASSIGNED.findall(text)})


def _traceback(error: BaseException) -> str:
    """The traceback from the plugin's own lines on, without those of the machinery that loaded it."""
    machinery = (__file__, os.path.dirname(pluggy.__file__), os.path.dirname(importlib.metadata.__file__))
    inner = error.__traceback__
    while inner is not None:
        file = inner.tb_frame.f_code.co_filename
        if not file.startswith(machinery) and "importlib" not in file:
            break
        inner = inner.tb_next
    return "".join(traceback.format_exception(type(error), error, inner)).rstrip()
