"""The formats of tables: each turns the same table into text, and escapes in it what others wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compbench.errors import SettingsError, unknown
from compbench.report.formats.data import as_csv, as_json
from compbench.report.formats.hypertext import as_html
from compbench.report.formats.latex import as_latex
from compbench.report.formats.markdown import as_github
from compbench.report.formats.reporters import render_with
from compbench.report.formats.table import Place, Table, Tone
from compbench.report.formats.terminal import Screen, as_terminal

TERMINAL = "terminal"
"""The format that is shown unless another one is asked for."""

_WRITERS: Mapping[str, Callable[[Table], str]] = {
    "github": as_github,
    "latex_booktabs": as_latex,
    "html": as_html,
    "csv": lambda table: as_csv(table.data_columns, table.data),
    "json": as_json,
}

FORMATS = (TERMINAL, *_WRITERS)
"""The formats that need no plugin."""


def as_text(table: Table, layout: str, screen: Screen | None = None) -> str:
    """A table in one of :data:`FORMATS`: the same table gives the same bytes.

    Args:
        table: what to show.
        layout: the format's name.
        screen: what it is shown on, for the format ``terminal`` alone; by default a file or a pipe.

    Raises:
        SettingsError: there is no such format.
    """
    if layout == TERMINAL:
        return as_terminal(table, screen or Screen())
    if layout not in _WRITERS:
        raise SettingsError(unknown("format", layout, FORMATS))
    return _WRITERS[layout](table)


__all__ = ["FORMATS", "TERMINAL", "Place", "Screen", "Table", "Tone", "as_csv", "as_text", "render_with"]
