"""The formats that plugins add."""

from __future__ import annotations

from compbench.errors import PluginError, one_line
from compbench.records import Reporter
from compbench.report.formats.table import Table


def render_with(reporter: Reporter, table: Table) -> str:
    """A table's raw numbers, by the names of its columns, as a plugin's format has them.

    Raises:
        PluginError: the reporter raises, or returns something other than text.
    """
    records = [{column: record[column] for column in table.data_columns} for record in table.data]
    try:
        text = reporter.render(records)
    except Exception as error:
        raise PluginError(f"reporter '{reporter.name}' raised {one_line(error)}") from error
    if not isinstance(text, str):
        raise PluginError(f"reporter '{reporter.name}' returned {type(text).__name__} (allowed: str)")
    return text
