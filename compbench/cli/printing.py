"""Where tables go: the terminal with what it can show, a pipe, or a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from compbench.cli.options import registry_of
from compbench.errors import SettingsError, StoreError, unknown
from compbench.records import Reporter
from compbench.report.formats import FORMATS, TERMINAL, Screen, Table, as_text, render_with
from compbench.run.files import write_atomically

_NARROWEST = 40
"""Columns below which a terminal's own word for its width is not believed."""


def screen() -> Screen:
    """What standard output is shown on.

    A terminal has its width, bold type unless it is a dumb one, and colours unless the variable ``NO_COLOR`` is set.
    Anything else has none of these, whatever the environment says, so that what goes through a pipe is always the same.
    """
    if not sys.stdout.isatty():
        return Screen()
    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        width = 0
    styles = os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    return Screen(width if width >= _NARROWEST else None, styles, styles and not os.environ.get("NO_COLOR"))


def show(text: str, output: Path | None = None) -> None:
    """Prints text that ends in one line break, or writes it to a file.

    Raises:
        StoreError: the file can't be written.
    """
    text = text.rstrip("\n") + "\n"
    if output is not None:
        try:
            write_atomically(output, text)
        except OSError as error:
            raise StoreError(f"can't write {output}: {error.strerror or error}") from error
        return
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)


def formatted(table: Table, layout: str, output: Path | None = None, plugins_dir: Path | None = None) -> str:
    """A table in a format of compbench's own or of a plugin's, for the terminal or for a file.

    Raises:
        SettingsError: there is no such format.
        PluginError: the plugin's format does not work.
    """
    if layout in FORMATS:
        return as_text(table, layout, screen() if output is None and layout == TERMINAL else None)
    return render_with(_reporter(layout, plugins_dir), table)


def check_format(layout: str, plugins_dir: Path | None = None) -> None:
    """Whether there is a format of that name, before anything is read.

    Raises:
        SettingsError: there is none.
        PluginError: two plugins claim it, or its plugin is broken.
    """
    if layout not in FORMATS:
        _reporter(layout, plugins_dir)


def _reporter(name: str, plugins_dir: Path | None) -> Reporter:
    """The format that a plugin adds; plugins are loaded for these alone, since it takes a while."""
    registry = registry_of(plugins_dir)
    claimed = any((conflict.kind, conflict.name) == ("reporter", name) for conflict in registry.conflicts)
    if name not in registry.reporters and not claimed and not registry.broken_reason("reporter", name):
        raise SettingsError(unknown("format", name, [*FORMATS, *registry.reporters]))
    found: Reporter = registry.find("reporter", name).record
    return found


def warn(message: str) -> None:
    """Tells a warning beside the output."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
