"""The sites of a suite's cells, listed without training them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compbench.errors import CaptureError, UnsupportedError
from compbench.measure.site_listing import ListedSite, list_sites
from compbench.registry import Registry
from compbench.run.selection import select
from compbench.run.step_making import StepMaker
from compbench.suite.cell import Cell


@dataclass(frozen=True)
class Listing:
    """The sites of one cell, which stands for those that differ from it in their seed alone."""

    cell: Cell
    sites: tuple[ListedSite, ...]

    @property
    def raw_bytes(self) -> int:
        """Bytes that the step would save uncompressed."""
        return sum(site.raw_bytes for site in self.sites)

    @property
    def kept_bytes(self) -> int | None:
        """Bytes that the step is expected to keep; None where a site can't tell beforehand."""
        kept = [site.kept_bytes for site in self.sites]
        known = [size for size in kept if size is not None]
        return sum(known) if len(known) == len(kept) else None


def without_seeds(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """One of the selected cells for each arm, depth and choice of further axes, that of the first seed.

    Args:
        cells: all cells of a suite.
        only: patterns as in :func:`select`; where none of them names depths, the deepest is taken.

    Raises:
        SettingsError: as :func:`select` does.
    """
    selected = select(cells, only)
    if not any(pattern.partition("=")[0].strip() == "depth" for pattern in only):
        deepest = max(cell.depth for cell in selected)
        selected = [cell for cell in selected if cell.depth == deepest]
    first: dict[tuple[str, int], Cell] = {}
    for cell in selected:
        first.setdefault((cell.label, cell.depth), cell)
    return list(first.values())


class Lister:
    """Lists the sites of one cell after the other; cells that train the same model share it.

    Args:
        registry: where strategies and workloads are looked up.
        values: runs real steps; see :func:`list_sites`.
    """

    def __init__(self, registry: Registry, values: bool = False) -> None:
        self._registry = registry
        self._values = values
        self._made = StepMaker(registry, values)

    def sites(self, cell: Cell) -> Listing:
        """The sites of a cell's step, on the CPU, whatever the cell's device.

        Raises:
            CaptureError: a pattern of the cell's ``sites`` matches no site; the message begins with the arm.
            UnsupportedError: the model asks for values, or can't be compressed; likewise.
            SettingsError: the cell could not be trained either.
        """
        compressor = self._registry.compressor([{member.name: member.fields} for member in cell.strategy])
        step, batch = self._made.step(cell)
        try:
            listed = list_sites(step, compressor, cell.capture, batch, cell.seed, self._values)
        except (CaptureError, UnsupportedError) as error:
            raise type(error)(f"arm '{cell.label}' at depth {cell.depth}: {error}") from error
        return Listing(cell, tuple(listed))
