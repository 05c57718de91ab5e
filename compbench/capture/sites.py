"""The book of sites: what each place in a model saved in a step, raw and kept, and why something was left raw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tabulate import tabulate

from compbench.capture.ledger import SavedLedger
from compbench.compressor import Codec, Payload, Site


@dataclass(frozen=True)
class SiteReport:
    """What one site saved in the last step.

    Attributes:
        name: the site's name; see :class:`Site`.
        module: path of the module.
        role: readable kind of place.
        width: columns ``D``; 0 where the saved tensor has no rows.
        rows: rows ``N`` of one call.
        calls: how many storages were saved there in the step.
        dtype: element type, such as ``float32``.
        raw_bytes: bytes of these storages as they were.
        kept_bytes: bytes kept in their place at the maximum, a shared basis counted once.
        reason: why the site was left raw; empty where it was compressed.
        propagating: whether an error there reaches the activations' gradients, and with them every earlier call; else
            it touches a weight's gradient alone.
        statistics: the codec's own figures.
    """

    name: str
    module: str
    role: str
    width: int
    rows: int
    calls: int
    dtype: str
    raw_bytes: int
    kept_bytes: int
    reason: str
    propagating: bool
    statistics: dict[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> float | None:
        """The rank that the strategy ended the step with; None where it has none."""
        return self.statistics.get("rank")

    @property
    def fidelity(self) -> float | None:
        """The cosine of rows and rebuilt rows that the strategy measured; None where it measures none."""
        return self.statistics.get("fidelity")

    @property
    def error(self) -> str:
        """``propagating`` or ``weight-only``: what an error there would touch."""
        return "propagating" if self.propagating else "weight-only"

    def record(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)


class SiteReports(list[SiteReport]):
    """The reports of all sites; ``print`` shows them as a table.

    Args:
        sites: the reports.
        notes: lines below the table.
    """

    def __init__(self, sites: Iterable[SiteReport] = (), notes: Sequence[str] = ()) -> None:
        super().__init__(sites)
        self.notes = tuple(notes)

    def __str__(self) -> str:
        columns = ("site", "calls", "rows", "width", "dtype", "raw bytes", "kept bytes", "rank", "fidelity", "error")
        rows = [
            (
                site.name,
                site.calls,
                site.rows,
                site.width,
                site.dtype,
                f"{site.raw_bytes:,}",
                f"{site.kept_bytes:,}",
                "" if site.rank is None else f"{site.rank:g}",
                "" if site.fidelity is None else f"{site.fidelity:.3f}",
                site.error,
                site.reason,
            )
            for site in self
        ]
        align = ("left", *["right"] * 3, "left", *["right"] * 4, "left", "left")
        table = tabulate(rows, headers=(*columns, "left raw, since"), colalign=align, disable_numparse=True)
        return "\n".join([table, *([""] if self.notes else []), *self.notes])


class SiteBook:
    """One site's codec and what it counted in the current and in the last step."""

    def __init__(
        self,
        site: Site,
        codec: Codec | None,
        generator: torch.Generator | None,
        reason: str = "",
        untouched: str = "",
        chosen: bool = True,
    ) -> None:
        self.site = site
        self.codec = codec
        self.generator = generator
        self.reason = reason
        self.untouched = untouched  # why there is no codec
        self.chosen = chosen  # whether it is among the sites that are to be compressed
        self.ledger = SavedLedger()
        self.propagating = False
        self.rows = 0
        self.dtype: torch.dtype | None = None
        self.calls = 0
        self.raw_bytes = 0
        self.last_calls = 0
        self.met = False  # by the last step
        self.last: SiteReport | None = None
        self.checked: set[type[Payload]] = set()

    def generators(self) -> list[torch.Generator]:
        """The random streams of this site: the one that its codec was given, and those that the codec made of it."""
        own = [] if self.generator is None else [self.generator]
        return own + (list(self.codec.generators()) if self.codec is not None else [])

    def owned_by(self, strategy: str) -> str:
        """Strategy and site, for messages."""
        return f"strategy '{strategy}' at site {self.site.name}"

    def saved(self, rows: int, dtype: torch.dtype, raw_bytes: int) -> None:
        """Counts one storage that was saved here."""
        self.calls += 1
        self.rows = rows
        self.dtype = dtype
        self.raw_bytes += raw_bytes

    def close_step(self) -> None:
        """Makes the step's counts the last step's, and starts anew."""
        self.met = bool(self.calls)
        self.last = self.report() if self.met else None
        self.last_calls = self.calls or self.last_calls
        self.abandon_step()

    def abandon_step(self) -> None:
        """Forgets the step's counts; the last step that ended stays the last one."""
        self.calls = 0
        self.raw_bytes = 0
        self.ledger.restart_peak()

    def pays_from_now_on(self) -> bool:
        """Whether the site, left raw in a step for what it would keep, will be compressed with the calls now known."""
        if self.codec is None or self.last is None or self.dtype is None:
            return False
        kept = self.codec.kept_bytes(self.last.rows, self.last.calls, self.dtype.itemsize)
        return kept is None or kept < self.last.raw_bytes

    def marks(self) -> tuple[str, bool, int, torch.dtype | None]:
        """What a step leaves on the book beside its counts: reason, propagating, rows and type."""
        return self.reason, self.propagating, self.rows, self.dtype

    def restore(self, marks: tuple[str, bool, int, torch.dtype | None]) -> None:
        """Puts the marks of an earlier moment back."""
        self.reason, self.propagating, self.rows, self.dtype = marks

    def report(self) -> SiteReport:
        """The counts of the step under way."""
        return SiteReport(
            name=self.site.name,
            module=self.site.module,
            role=self.site.role,
            width=self.site.width,
            rows=self.rows,
            calls=self.calls,
            dtype="" if self.dtype is None else str(self.dtype).removeprefix("torch."),
            raw_bytes=self.raw_bytes,
            kept_bytes=self.ledger.peak_bytes,
            reason=self.reason,
            propagating=self.propagating,
            statistics=self.codec.statistics() if self.codec is not None and not self.reason else {},
        )
