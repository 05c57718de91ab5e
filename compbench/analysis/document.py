"""An analysis as files: ``NAME.json`` with its settings and numbers, ``NAME.csv`` with every measurement."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from compbench.analysis.result import Analysis, Row, Settings
from compbench.analysis.snapshots import Comparison
from compbench.analysis.trained import Trained

SCHEMA_VERSION = 1


def document(name: str, trained: Trained, settings: Settings, compared: Comparison, found: Analysis) -> dict[str, Any]:
    """What ``NAME.json`` says, the figure's caption left out."""
    cell, training = trained.cell, trained.snapshots.training
    return {
        "analysis": name,
        "schema_version": SCHEMA_VERSION,
        "cell": cell.key,
        "suite": cell.suite,
        "arm": cell.label,
        "depth": cell.depth,
        "seed": cell.seed,
        "settings": settings.model_dump(mode="json"),
        "same_training": compared.same,
        "same_training_reason": compared.reason,
        "snapshots": training.steps,
        "torch": training.torch,
        "threads": training.threads,
        "summary": found.summary,
    }


def as_json(content: dict[str, Any]) -> str:
    """JSON in which every number is one."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """A row for each measurement, in long format; ``value`` comes last, and what does not apply is empty."""
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "value"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "value"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
