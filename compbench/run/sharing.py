"""What a run may start in a folder in which others may be at work: cells that nobody has, and nobody has done."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compbench.run.claims import Claims
from compbench.run.pending import Answer
from compbench.run.result import CellResult
from compbench.run.store import Stamp, Store
from compbench.suite.cell import Cell

POLL_SECONDS = 0.5
"""How long to wait before looking again whether others have given up a cell. Cells take minutes."""


class Sharing:
    """Claims cells before they start, and takes over what another run has finished since this one began.

    Args:
        store: The folder.
        claims: This run's claims in it.
        before: What :meth:`~compbench.run.store.Store.stamps` said when this run began, before it read any record.
        adopt: Is handed each record that another run has made since.
    """

    def __init__(
        self, store: Store, claims: Claims, before: Mapping[str, Stamp], adopt: Callable[[CellResult], None]
    ) -> None:
        self._store = store
        self._claims = claims
        self._before = before
        self._adopt = adopt

    def ask(self, cell: Cell) -> Answer:
        """Whether this run is to do a cell; if so, it has claimed it.

        Raises:
            StoreError: A record that another run has made can't be read, or a newer compbench has made it.
        """
        if self._claims.has(cell.key):
            return "ours"
        if not self._claims.take(cell.key):
            return "theirs"
        # Only now: whoever had the cell gave it up when its record was there.
        if self._store.stamp(cell.key) != self._before.get(cell.key):
            record = self._store.inspect(cell.key).record
            if record is not None:
                self._claims.release(cell.key)
                self._adopt(record)
                return "done"
        return "ours"

    def done(self, key: str) -> None:
        """Gives a cell up, whose record is stored or which is not to be run."""
        self._claims.release(key)
