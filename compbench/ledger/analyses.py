"""The summaries that ``compbench analyse`` leaves beside a suite's records: the one module that knows their files.

A summary is in ``SUITE/analyses/KEY/NAME.json``; its keys are in docs/analyses.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compbench.ledger.claim import NotRunError
from compbench.ledger.evidence import Evidence, Results

SCHEMA_VERSION = 1


def command(name: str, suite: str, arm: str) -> str:
    """The command that makes an analysis of an arm's first seed."""
    return f"compbench analyse {name} {suite} --only arm={arm} --only seed=100 --results results/small"


def summary(evidence: Evidence, name: str, suite: str, arm: str) -> Mapping[str, Any]:
    """The summary of an analysis of one of an arm's cells: the first in the order of their seeds that has one.

    Raises:
        NotRunError: there is none, or none that can be read.
    """
    results = evidence.results(suite)
    for result in results.of(arm):
        found = _read(results, result.key, name)
        if found is not None:
            return found
    raise NotRunError(f"no cell of arm '{arm}' of suite '{results.suite.name}' has the analysis '{name}' yet")


def site(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One site of a summary.

    Raises:
        NotRunError: the summary has no such site.
    """
    sites = found.get("sites")
    if not isinstance(sites, dict) or not isinstance(sites.get(name), dict):
        raise NotRunError(f"the analysis has no site '{name}'")
    entry: Mapping[str, Any] = sites[name]
    return entry


def number(entry: Mapping[str, Any], key: str) -> float:
    """A number of a summary.

    Raises:
        NotRunError: there is none under that key.
    """
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NotRunError(f"the analysis has no number '{key}'")
    return float(value)


def _read(results: Results, key: str, name: str) -> Mapping[str, Any] | None:
    path = results.folder / "analyses" / key / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise NotRunError(f"the analysis '{name}' of {key} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise NotRunError(f"the analysis '{name}' of {key} is of another version than {SCHEMA_VERSION}")
    if content.get("same_training") is False:
        raise NotRunError(f"the analysis '{name}' of {key} is of another training than the record's")
    found = content.get("summary")
    if not isinstance(found, dict):
        raise NotRunError(f"the analysis '{name}' of {key} has no summary")
    return found
