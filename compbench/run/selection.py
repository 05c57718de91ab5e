"""Which cells of a suite to run: those that ``--only`` names, and of these the ones that ``--rerun`` calls for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Literal

from compbench.errors import SettingsError, unknown
from compbench.run.result import CellResult
from compbench.suite.cell import Cell

Rerun = Literal["missing", "failed", "oom", "all"]

_KEPT: Mapping[Rerun, Callable[[CellResult], bool]] = {
    "missing": lambda result: True,
    "failed": lambda result: result.status == "ok",
    "oom": lambda result: result.status not in ("oom", "skipped"),
    "all": lambda result: False,
}
"""Which records stand, whatever else is run. A cell that was skipped since a shallower one ran out of memory is asked
for together with that one: when it runs out again, the deeper ones are skipped again."""


def select(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that match every axis named, in the suite's order.

    Args:
        cells: All cells of a suite.
        only: Patterns such as ``depth=4,8`` or ``arm=laser*``: an axis, and values or globs of which one must match.
            Patterns of one axis add up; those of different axes narrow each other down.

    Raises:
        SettingsError: A pattern that is not of this form, names an unknown axis or matches nothing.
    """
    chosen = matching([_axes(cell) for cell in cells], only)
    return [cell for cell, is_chosen in zip(cells, chosen, strict=True) if is_chosen]


def matching(cells: Sequence[Mapping[str, str]], only: Sequence[str]) -> list[bool]:
    """For each cell, known by its values of the axes, whether it matches every axis named.

    Args:
        cells: The values by axis, of all cells.
        only: Patterns, as in :func:`select`.

    Raises:
        SettingsError: As :func:`select`.
    """
    values = _values(cells)
    allowed: dict[str, set[str]] = {}
    for pattern in only:
        axis, separator, wanted = pattern.partition("=")
        axis = axis.strip()
        globs = [glob.strip() for glob in wanted.split(",") if glob.strip()]
        if not separator or not axis or not globs:
            raise SettingsError(f"--only {pattern}: not of the form AXIS=VALUE[,VALUE...] (axes: {', '.join(values)})")
        if axis not in values:
            raise SettingsError(f"--only {pattern}: {unknown('axis', axis, values)}")
        for glob in globs:
            matched = {value for value in values[axis] if _matches(value, glob)}
            if not matched:
                raise SettingsError(f"--only {pattern}: {unknown(axis, glob, values[axis])}")
            allowed.setdefault(axis, set()).update(matched)
    found = [all(cell.get(axis) in chosen for axis, chosen in allowed.items()) for cell in cells]
    if not any(found):
        raise SettingsError(
            f"--only {' --only '.join(only)}: no cell of the suite matches all of these{_nearly(cells, allowed)}"
        )
    return found


def _nearly(cells: Sequence[Mapping[str, str]], allowed: Mapping[str, set[str]]) -> str:
    """What there is of an axis where all others are as they were asked for, as a clause; nothing if there is none."""
    for axis in reversed(list(allowed)):
        others = {name: found for name, found in allowed.items() if name != axis}
        near = [cell for cell in cells if all(cell.get(name) in found for name, found in others.items())]
        if near:
            there = _values(near).get(axis)
            asked = " and ".join(f"{name}={','.join(sorted(found))}" for name, found in others.items())
            instead = f"{axis}={','.join(there)}" if there else f"no {axis}"
            return f" (with {asked} there is {instead})"
    return ""


def to_run(cells: Iterable[Cell], results: Mapping[str, CellResult], rerun: Rerun) -> list[Cell]:
    """The cells to run, given the records that exist.

    Args:
        cells: The selected cells.
        results: Records by key.
        rerun: ``missing``: cells without a record; ``failed``: also those whose status is not ok; ``oom``: besides the
            missing ones those that ran out of memory, and those that were skipped for it; ``all``: every one.
    """
    return [cell for cell in cells if (result := results.get(cell.key)) is None or not stands(result, rerun)]


def stands(result: CellResult, rerun: Rerun) -> bool:
    """Whether a run leaves a record as it is."""
    return _KEPT[rerun](result)


def axis_values(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """The axes of a suite, each with its values as ``--only`` names them, in the order in which they occur."""
    return _values(_axes(cell) for cell in cells)


def _values(cells: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    values: dict[str, dict[str, None]] = {}
    for cell in cells:
        for axis, value in cell.items():
            values.setdefault(axis, {})[value] = None
    return {axis: list(found) for axis, found in values.items()}


def _axes(cell: Cell) -> dict[str, str]:
    axes = {"arm": cell.arm, "depth": cell.depth, "seed": cell.seed, **cell.variant}
    return {axis: str(value) for axis, value in axes.items()}


def _matches(value: str, glob: str) -> bool:
    if value == glob or fnmatchcase(value, glob):
        return True
    with suppress(ValueError):
        return float(value) == float(glob)  # 1e-3 is 0.001
    return False
