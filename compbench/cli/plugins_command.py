"""``compbench plugins``: what is installed, what is broken, and which fields a strategy or workload has."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from compbench.cli.printing import formatted, show
from compbench.errors import SettingsError, unknown
from compbench.fields import describe_fields
from compbench.plugin_loading import RECORDS, Registered, record_function
from compbench.registry import Registry, default_plugins_dir
from compbench.report.formats import FORMATS, TERMINAL, Table
from compbench.report.wording import NOT_AVAILABLE

COLUMNS = ("name", "what it does", "keeps", "error", "source")
"""The columns of the table of all strategies."""

_SENTENCE = r"((?:``.+?``|`[^`]+`|[^`])+?)\.(?=\s|$)"
"""Up to a full stop that is not within code."""


def plugins(
    name: Annotated[
        str | None,
        typer.Argument(help="A strategy, workload, metric, reporter or observer: show its description and its fields."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    layout: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Print one table of all strategies: what each keeps, its error and its source. One of "
            f"{', '.join(FORMATS)}.",
            metavar="FORMAT",
        ),
    ] = None,
    plugins_dir: Annotated[
        Path | None, typer.Option(help="Folder with the project's own plugins (default: ./plugins, if there is one).")
    ] = None,
) -> None:
    """List strategies, workloads, metrics, reporters and observers, or describe the one called NAME.

    Broken plugins are listed with their tracebacks; all others go on working. COMPBENCH_DISABLE_PLUGINS has the names
    of plugins to leave out, separated by commas.
    """
    if layout and (name or as_json):
        beside = f"'{name}'" if name else "--json"
        raise SettingsError(f"--format beside {beside} (allowed: by itself, since it is of all strategies)")
    if layout and layout not in FORMATS:
        raise SettingsError(f"--format: {unknown('format', layout, FORMATS)}")
    registry = Registry.load(plugins_dir or default_plugins_dir())
    if layout:
        _print_strategies(registry, layout)
        return
    content = listing(registry) if name is None else descriptions(registry, name)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    elif name is None:
        _print_listing(content)
    else:
        for description in content["plugins"]:
            _print_description(description)


def listing(registry: Registry) -> dict[str, Any]:
    """Everything that is registered, the names claimed twice, and the broken plugins, as plain data."""
    rows = [_row(registered, "ok") for registered in _registered(registry)]
    rows += [_row(claim, "conflict") for conflict in registry.conflicts for claim in conflict.claims]
    rows += [
        {
            "kind": "observer",
            "name": plugin.name,
            "summary": ", ".join(observed),
            "source": plugin.source,
            "file": str(plugin.file or ""),
            "sha256": plugin.sha256,
            "status": "ok",
        }
        for plugin in registry.plugins
        if (observed := [hook for hook in plugin.hooks if hook not in RECORDS])
    ]
    return {
        "plugins": rows,
        "conflicts": [str(conflict) for conflict in registry.conflicts],
        "broken": [
            {
                "name": plugin.name,
                "source": plugin.source,
                "file": str(plugin.file or ""),
                "sha256": plugin.sha256,
                "reason": plugin.reason,
                "traceback": plugin.traceback,
            }
            for plugin in registry.broken
        ],
    }


def descriptions(registry: Registry, name: str) -> dict[str, Any]:
    """All that is registered under a name, with docstring and fields, as plain data.

    Raises:
        PluginError: two plugins claim the name, or the plugin that seems to provide it is broken.
        SettingsError: nobody provides the name.
    """
    found = [registered for registered in _registered(registry) if registered.name == name]
    if not found:
        for conflict in registry.conflicts:
            if conflict.name == name:
                registry.find(conflict.kind, name)
        if registry.broken_reason("strategy", name):
            registry.find("strategy", name)
        raise SettingsError(unknown("plugin", name, [registered.name for registered in _registered(registry)]))
    return {"plugins": [_description(registered) for registered in found]}


def strategies(registry: Registry) -> list[tuple[str, ...]]:
    """A row of :data:`COLUMNS` for every strategy, in its plugin's own words.

    What it does is the first line of the class's docstring. The others are sentences of its module's: the one that
    begins with ``Keeps``, or else the module's first; that after ``Error:``, unless the class is ``exact``; that after
    ``Source:``.
    """
    return [
        (
            registered.name,
            _docstring(registered).partition("\n")[0].removesuffix(".") or NOT_AVAILABLE,
            _kept(registered) or NOT_AVAILABLE,
            _error(registered),
            _sentence(r"(?<!\S)Source:\s+", _background(registered)) or NOT_AVAILABLE,
        )
        for registered in registry.compressors.values()
    ]


def _kept(registered: Registered) -> str:
    title = rf"\A``{re.escape(registered.name)}``:\s+(?:keeps\s+)?"
    background = _background(registered)
    return _sentence(r"(?<!\S)(?:K|It k)eeps\s+", background) or _sentence(title, background)


def _error(registered: Registered) -> str:
    if getattr(registered.record, "exact", False):
        return "none"
    return _sentence(r"(?<!\S)Error:\s+", _background(registered)) or "lossy"


def _sentence(opening: str, text: str) -> str:
    """What follows an opening up to the end of its sentence, on one line and with code as Markdown has it."""
    found = re.search(opening + _SENTENCE, text, flags=re.DOTALL)
    return " ".join(found[1].split()).replace("``", "`") if found else ""


def _registered(registry: Registry) -> list[Registered]:
    tables = (registry.compressors, registry.workloads, registry.metrics, registry.reporters, registry.observers)
    return [registered for table in tables for registered in table.values()]


def _row(registered: Registered, status: str) -> dict[str, Any]:
    return {
        "kind": registered.kind,
        "name": registered.name,
        "summary": _docstring(registered).partition("\n")[0],
        "source": registered.plugin.source,
        "file": str(registered.plugin.file or ""),
        "sha256": registered.plugin.sha256,
        "status": status,
    }


def _description(registered: Registered) -> dict[str, Any]:
    record = registered.record
    settings = isinstance(record, type) and issubclass(record, BaseModel)
    fields = [vars(field) for field in describe_fields(record)] if settings else []
    return {
        **_row(registered, "ok"),
        "docstring": _docstring(registered),
        "background": _background(registered),
        "fields": fields,
    }


def _docstring(registered: Registered) -> str:
    """The description of a class, or of the function that another record is made of."""
    record = registered.record
    described = record if isinstance(record, type) else record_function(record)
    return inspect.cleandoc(getattr(described, "__doc__", None) or "")


def _background(registered: Registered) -> str:
    """What the module of a class or function says: for a strategy its source, and where it departs from it."""
    record = registered.record
    described = record if isinstance(record, type) else record_function(record)
    module = sys.modules.get(getattr(described, "__module__", ""))
    return inspect.cleandoc(getattr(module, "__doc__", None) or "")


def _print_strategies(registry: Registry, layout: str) -> None:
    rows = strategies(registry)
    plain = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    if layout != TERMINAL:
        rows = [(f"`{name}`", *others) for name, *others in rows]
    table = Table(COLUMNS, rows, words=COLUMNS, caption="strategies", code=True, records=plain)
    show(formatted(table, layout))
    for reason in (*registry.conflicts, *(f"{plugin} is broken: {plugin.reason}" for plugin in registry.broken)):
        typer.echo(f"left out: {reason}", err=True)


def _print_listing(content: dict[str, Any]) -> None:
    columns = ("kind", "name", "summary", "source", "status")
    _print_table(columns, [[row[column] for column in columns] for row in content["plugins"]])
    for conflict in content["conflicts"]:
        typer.echo(f"\nconflict: {conflict}")
    for plugin in content["broken"]:
        typer.echo(f"\nbroken: {plugin['name']} ({plugin['source']})\n{plugin['traceback']}")


def _print_description(description: dict[str, Any]) -> None:
    typer.echo(f"{description['kind']} {description['name']} ({description['source']})\n")
    typer.echo(description["docstring"] or "(no description)")
    if description["background"]:
        typer.echo(f"\n{description['background']}")
    if description["fields"]:
        columns = ("name", "allowed", "default", "description")
        typer.echo("")
        _print_table(
            ("field", *columns[1:]), [[field[column] for column in columns] for field in description["fields"]]
        )
    typer.echo("")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    show(formatted(Table(columns, rows, words=columns), TERMINAL))
