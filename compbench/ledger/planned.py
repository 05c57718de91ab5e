"""The paper's model without its values: what ``compbench sites`` lists and ``compbench plan`` measures of it.

The files are ``sites.json`` and ``plan.json`` in one of the results folders, as the commands print them with ``--format
json``. This is the one module that knows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compbench.ledger.claim import NotRunError
from compbench.ledger.evidence import Evidence

SITES_COMMAND = "compbench sites paper/table1 --format json > results/paper/sites.json"
PLAN_COMMAND = "compbench plan suites/paper/table1.yaml --format json --output results/paper/plan.json"


def listed_bytes(evidence: Evidence, arm: str, depth: int) -> tuple[int, int]:
    """Bytes of all that a step saves, raw and as the arm says that it will keep them, by ``compbench sites``.

    Raises:
        NotRunError: there is no such listing.
    """
    cell = _cell(evidence, "sites.json", arm, depth)
    return _whole(cell, "raw_bytes"), _whole(cell, "kept_bytes")


@dataclass(frozen=True)
class PlannedBytes:
    """Bytes held for the backward pass of a step: without the strategy, and with it at the least and at the most.

    The two differ where values decide over ranks.
    """

    uncompressed: int
    least: int
    most: int


def planned_bytes(evidence: Evidence, arm: str, depth: int) -> PlannedBytes:
    """What a step of an arm holds, by ``compbench plan``.

    Raises:
        NotRunError: there is no such plan.
    """
    cell = _cell(evidence, "plan.json", arm, depth)
    least = _whole(cell, "saved_bytes")
    most = least if cell.get("most_saved_bytes") is None else _whole(cell, "most_saved_bytes")
    return PlannedBytes(_whole(cell, "uncompressed_bytes"), least, most)


def _cell(evidence: Evidence, name: str, arm: str, depth: int) -> Mapping[str, Any]:
    path = evidence.file(name)
    if path is None:
        raise NotRunError(f"none of the folders has {name} yet")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotRunError(f"{name} can't be read: {error}") from error
    cells = content.get("cells") if isinstance(content, dict) else None
    for cell in cells if isinstance(cells, list) else []:
        if isinstance(cell, dict) and (cell.get("arm"), cell.get("depth")) == (arm, depth):
            return cell
    raise NotRunError(f"{name} has no cell of arm '{arm}' at depth {depth}")


def _whole(cell: Mapping[str, Any], key: str) -> int:
    value = cell.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise NotRunError(f"the listing has no number of bytes under '{key}'")
    return value
