"""What two runs of one suite have in common, wherever their cells ran."""

import json
from pathlib import Path
from typing import Any

WHEN_AND_WHERE = {"started_at", "seconds", "machine", "environment", "time", "checksum"}
"""Fields of a record that say when and where; all others are the work's own, and the same wherever it is done."""


def work_of(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what depends on when and where it was made."""
    work = {name: value for name, value in record.items() if name not in WHEN_AND_WHERE}
    if work.get("memory"):
        work["memory"] = {k: v for k, v in work["memory"].items() if k != "process_peak_bytes"}  # which is the system's
    return work


def work_in(directory: Path) -> dict[str, dict[str, Any]]:
    """All records of a results folder, by key, without what depends on when and where they were made."""
    return {path.stem: work_of(json.loads(path.read_text())) for path in sorted((directory / "cells").glob("*.json"))}
