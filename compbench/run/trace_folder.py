"""The folder of a cell's trace, on its way from the process that makes it into the results: files by their names in it.

Knows neither torch nor what is in the files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

DESCRIPTION = "trace.json"
"""What the trace shows, in numbers. It is written last: without it there is no whole trace."""

LARGEST_BYTES = 100_000_000
"""Of a file; one that is larger is left out. Traces have some megabytes, the snapshot of a GPU's memory some tens."""


def take_trace(folder: Path) -> dict[str, bytes] | None:
    """The files of a trace by their names, whose folder is removed; None where there is none, or not all of it."""
    try:
        if not (folder / DESCRIPTION).is_file():
            return None
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in found
            if path.stat().st_size <= LARGEST_BYTES
        }
    except OSError:
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def untraced(files: Mapping[str, bytes]) -> str:
    """Why there is no trace among the files of one, in one line; empty where there is."""
    try:
        description = json.loads(files[DESCRIPTION])
        status, reason = description["status"], description["reason"]
    except (KeyError, TypeError, ValueError):
        return "its description can't be read"
    return "" if status == "ok" else f"{status}: {reason}"
