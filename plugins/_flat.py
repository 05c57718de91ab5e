"""Cells and their records in the flat form that experiment trackers take: settings, figures, and curves by step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_FIGURES = ("metrics", "statistics", "memory", "time", "arithmetic", "fidelity")
_COUNTS = ("seconds", "parameters", "skipped_batches")
_SECTIONS = ("training", "measuring", "capture")


def title(cell: Mapping[str, Any]) -> str:
    """What a tracker shows of a cell in one line, such as ``laser hidden=64 depth 4 seed 0``."""
    axes = [f"{axis}={value}" for axis, value in cell["variant"].items()]
    return " ".join([cell["arm"], *axes, f"depth {cell['depth']} seed {cell['seed']}"])


def settings(cell: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """What a cell was run with. The strategy is one setting, as a suite writes it; lists are written as JSON."""
    members = [{part["name"]: part["fields"]} if part["fields"] else part["name"] for part in cell["strategy"]]
    nested: dict[str, Any] = {
        **{name: cell[name] for name in ("arm", "depth", "seed", "device")},
        "strategy": json.dumps(members[0] if len(members) == 1 else members),
        "workload": {"name": cell["workload"]["name"], **cell["workload"]["fields"]},
        **cell["variant"],
        **{section: cell[section] for section in _SECTIONS},
    }
    flat = dict(_leaves(nested, ""))
    return {name: v if isinstance(v, (str, int, float)) else json.dumps(v) for name, v in flat.items()}


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, each under its path, such as ``memory.saved_bytes``, without lists and unknown ones."""
    nested = {name: result[name] for name in (*_FIGURES, *_COUNTS) if result.get(name) is not None}
    return {name: number for name, value in _leaves(nested, "") if (number := _number(value)) is not None}


def curves(result: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """By step, from 1, the training loss and what the strategy told of itself: ``loss``, ``curve.<figure>``."""
    told = {int(float(row["step"])): row for row in result["statistics_curve"]}
    for step, loss in enumerate(result["loss_curve"], start=1):
        own = {f"curve.{name}": float(value) for name, value in told.get(step, {}).items() if name != "step"}
        yield step, {"loss": float(loss), **own}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _number(value: Any) -> float | None:
    """A number of a record, in which those that JSON does not have are words."""
    if isinstance(value, str) and value not in {"NaN", "Infinity", "-Infinity"}:
        return None
    return None if value is None or isinstance(value, (bool, list)) else float(value)
