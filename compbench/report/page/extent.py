"""How much of each cell the page has: all there is, or less where there would be too much of it."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_BYTES = 6_000_000
"""What a page may take: it is sent by mail and opened on phones."""


@dataclass(frozen=True)
class Extent:
    """What the page has of every cell, beside its row.

    Attributes:
        log_bytes: of the end of each log.
        sites: whether what each site kept is there.
        settings: whether cells that are ok have their settings, figures and log; others always have.
        interactive: whether figures are there as data too, and not as drawings alone.
    """

    log_bytes: int = 32_000
    sites: bool = True
    settings: bool = True
    interactive: bool = True

    @property
    def sentences(self) -> list[str]:
        """What a reader has to be told of it."""
        found = [f"Of each log there is the end, up to {self.log_bytes // 1000} kB; the whole is in the folder logs."]
        if not self.sites:
            found.append("What each site kept is left out here; the records in the folder cells have it.")
        if not self.settings:
            found.append("Settings, figures and logs of cells that are ok are left out here; their records have them.")
        if not self.interactive:
            found.append("Figures are drawings alone here; compbench figures makes interactive ones.")
        if self != EXTENTS[0]:
            found.append(f"That is so since the page would be larger than {LARGEST_BYTES // 1_000_000} MB otherwise.")
        return found


EXTENTS = (
    Extent(),
    Extent(8_000),
    Extent(2_000),
    Extent(1_000, sites=False),
    Extent(1_000, sites=False, settings=False),
    Extent(1_000, sites=False, settings=False, interactive=False),
)
"""From the fullest on; the first that makes a page of the allowed size is taken."""
