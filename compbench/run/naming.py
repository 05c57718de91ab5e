"""How commands are told of cells: by a suite, with patterns; by a cell's key; or by the path of its record."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compbench.errors import PluginError, SettingsError, nearest
from compbench.registry import Registry
from compbench.run.listing import without_seeds
from compbench.run.result import CellResult
from compbench.run.store import Store
from compbench.suite import load_suite
from compbench.suite.cell import Cell
from compbench.suite.shipped import shipped_suites
from compbench.suite.suite import Suite


@dataclass(frozen=True)
class NamedSuite:
    """A suite.

    Attributes:
        suite: The suite.
        cells: All its cells. The process of one sees a single GPU and calls it ``cuda``, whichever it is.
    """

    suite: Suite
    cells: Sequence[Cell]

    def store(self, results: Path) -> Store:
        """Its results in a folder of results; what is wrong with a record is for who asks for it."""
        return Store(results / self.suite.name, _ignore)


@dataclass(frozen=True)
class NamedCell:
    """A cell of which there is a record.

    Attributes:
        record: The record.
        store: Where it is.
    """

    record: CellResult
    store: Store

    def refuse(self, only: Sequence[str] | None, device: str | None = None) -> None:
        """Says so where options that are for suites stand beside a cell.

        Raises:
            SettingsError: They do.
        """
        given = ["--only"] * bool(only) + ["--device"] * (device is not None)
        if given:
            raise SettingsError(f"{' and '.join(given)} beside the cell {self.record.key} (allowed: beside a suite)")


def find_named(target: str, results: Path, registry: Registry, device: str | None = None) -> NamedSuite | NamedCell:
    """What a user means.

    Args:
        target: A suite's file or the name of one that ships, a cell's key, or the path of a cell's record.
        results: The folder in which keys are looked for, in the results of whatever suite.
        registry: The plugins.
        device: Where to run a suite, in the place of its own device.

    Raises:
        SettingsError: There is nothing of that name, or the record that there is can't be used.
        SuiteError: The suite has mistakes.
    """
    path = Path(target)
    if path.suffix in {".yaml", ".yml"} or (path.suffix != ".json" and path.is_file()) or target in shipped_suites():
        suite = load_suite(target, registry, device)
        return NamedSuite(suite, dataclasses.replace(suite, device=suite.device.partition(":")[0]).cells(registry))
    found = _record_of(target, results)
    store = Store(found.parent.parent, _ignore)
    reading = store.inspect(found.stem)
    if reading.record is None:
        raise SettingsError(f"{found} is not trusted: {reading.problem}; a run of its suite makes it anew")
    return NamedCell(reading.record, store)


def _record_of(target: str, results: Path) -> Path:
    """The file of a record."""
    path = Path(target)
    if path.suffix == ".json":
        if not path.is_file():
            raise SettingsError(f"there is no record {path} (allowed: a suite, a cell's key, or a record's path)")
        return path
    found = sorted(results.glob(f"*/cells/{glob.escape(target)}.json")) if "/" not in target else []
    if not found:
        names = [*shipped_suites(), *(record.stem for record in results.glob("*/cells/*.json"))]
        raise SettingsError(
            f"'{target}' is no suite, and there is no record of that key in {results}{nearest(target, names)} "
            f"(suites that ship: {', '.join(shipped_suites())}; a cell without a record is one of its suite's)"
        )
    return found[0]


def one_of_all_seeds(
    found: NamedSuite | NamedCell, only: Sequence[str], registry: Registry, warn: Callable[[str], None]
) -> list[Cell]:
    """The cells to look at where seeds make no difference: of a suite as :func:`without_seeds` has it; or the cell.

    Args:
        found: What was named.
        only: Patterns that narrow a suite down.
        registry: The plugins.
        warn: Is told of every arm that is left out, since its plugin is broken.

    Raises:
        PluginError: The plugin of every arm is broken, or that of the cell.
        SettingsError: A pattern matches nothing, or stands beside a cell.
    """
    if isinstance(found, NamedCell):
        found.refuse(only)
        return [as_now(found.record.cell, registry)]
    broken = found.suite.broken_arms
    cells = without_seeds(found.cells, only)
    for arm in dict.fromkeys(cell.arm for cell in cells if cell.arm in broken):
        warn(f"arm '{arm}' is left out: {broken[arm]}")
    sound = [cell for cell in cells if cell.arm not in broken]
    if not sound:
        raise PluginError(f"suite '{found.suite.name}': the plugin of every selected arm is broken")
    return sound


def as_now(cell: Cell, registry: Registry) -> Cell:
    """A recorded cell with the plugins as they are now, their sources among them; so its key may be another.

    Raises:
        PluginError: One of them can't be loaded.
        SettingsError: One of them is not there, or does not know its fields any more.
    """
    workload = registry.workload(cell.workload.name, **cell.workload.fields)
    strategy = registry.compressor([{member.name: member.fields} for member in cell.strategy])
    (of_workload,), of_strategy = registry.reference(workload), registry.reference(strategy)
    members = zip(cell.strategy, of_strategy, strict=True)
    return cell.model_copy(
        update={
            "workload": cell.workload.model_copy(update={"source": of_workload.source}),
            "strategy": tuple(member.model_copy(update={"source": now.source}) for member, now in members),
            "plugins_dir": str(registry.plugins_dir) if registry.plugins_dir else None,
        }
    )


def _ignore(message: str) -> None:
    """What is wrong with a record is said of its cell, and not beside it."""
