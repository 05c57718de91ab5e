"""Logs of cells as the page has them: their ends, as text that a browser shows and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from compbench.report.origin import without_folders
from compbench.report.page.numbers import size
from compbench.run.store import Store

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
"""What colours a terminal or moves its cursor."""


@dataclass(frozen=True)
class Log:
    """The end of a log.

    Attributes:
        path: where the whole of it is, relative to the suite's results folder.
        text: what is shown of it.
        whole_bytes: how large the whole of it is.
        cut: whether what is shown is not all.
    """

    path: str
    text: str
    whole_bytes: int
    cut: bool

    @property
    def title(self) -> str:
        """What the log is called: its path, and how much of it is there."""
        shown = f"its end, of {size(self.whole_bytes)} in all" if self.cut else size(self.whole_bytes)
        return f"{self.path} ({shown})"


def read_log(directory: Path, key: str, most_bytes: int) -> Log | None:
    """The log of a cell; None when there is none that can be read.

    Args:
        directory: the suite's results folder. A log that is a link to somewhere else is not one of its logs.
        key: the cell's.
        most_bytes: how many bytes from its end are looked at; a line that they cut in two is left out.
    """
    path = Store(directory).log_path(key)
    try:
        if not path.resolve().is_relative_to(directory.resolve()) or not path.is_file():
            return None
        with path.open("rb") as file:
            whole = file.seek(0, 2)
            start = max(0, whole - most_bytes)
            file.seek(start)
            data = file.read(most_bytes)
    except OSError:
        return None
    if start:
        data = data.partition(b"\n")[2] or data
    text = as_shown(data.decode("utf-8", errors="replace"))
    return Log(f"{path.parent.name}/{path.name}", text, whole, start > 0)


def as_shown(text: str) -> str:
    """Text of a terminal as it looks there in the end: no colours, of lines that were overwritten the last state.

    Absolute paths are cut, and other control characters are written as Python writes them.
    """
    lines = (line.rstrip().rpartition("\r")[2] for line in _ESCAPES.sub("", text).split("\n"))
    return without_folders("\n".join(map(_visible, lines))).strip("\n")


def _visible(line: str) -> str:
    """A line of which everything can be seen; its spaces stay as they are."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line.expandtabs())
    return "".join(shown)
