"""Where the records of a run go: into the folder, the display and the run's own list, whoever has made them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from compbench.errors import StoreError
from compbench.run.claims import Claims
from compbench.run.executor import Executor
from compbench.run.machine import Machine
from compbench.run.pending import Pending
from compbench.run.progress import Progress
from compbench.run.result import CellResult
from compbench.run.sharing import POLL_SECONDS, Sharing
from compbench.run.store import Stamp, Store
from compbench.suite.cell import Cell


class Keeper:
    """Keeps records, this run's and those of others in the same folder.

    Args:
        store: The folder.
        claims: This run's claims in it.
        before: The folder's stamps when this run began.
        progress: The display.
        results: The records by key, kept up to date.
        warn: Is handed one line for what is wrong and stops nothing.
    """

    def __init__(
        self,
        store: Store,
        claims: Claims,
        before: Mapping[str, Stamp],
        progress: Progress,
        results: dict[str, CellResult],
        warn: Callable[[str], None],
    ) -> None:
        self.store = store
        self.progress = progress
        self.sharing = Sharing(store, claims, before, self._adopt)
        self.results = results
        self._then: Callable[[CellResult], None] = lambda result: None
        self._warn = warn
        self._told = False

    def keep(self, result: CellResult) -> CellResult:
        """Stores a record and gives its cell up; returns what was kept.

        A record that can't be written, as on a full disk, makes the cell fail with that reason: the run goes on, and
        what was stored before is as it was.
        """
        try:
            kept = self.store.save(result)
        except StoreError as error:
            kept = unkept(result, error)
            with suppress(StoreError):  # it is small, so that there may be room for it
                self.store.save(kept)
        self.results[kept.key] = kept
        self.progress.finished(kept)
        self.sharing.done(kept.key)
        return kept

    def on_adopted(self, then: Callable[[CellResult], None]) -> None:
        """Has a function called with each record that is taken over from another run."""
        self._then = then

    def drop(self, cell: Cell) -> None:
        """Gives up a cell that was interrupted and leaves no record."""
        self.progress.dropped(cell)
        self.sharing.done(cell.key)

    def machine(self, machine: Machine) -> str:
        """Stores a machine's description, if that can be done, and returns its hash."""
        try:
            return self.store.save_machine(machine)
        except StoreError as error:
            self._warn(str(error))
            return machine.hash

    def others_are_at_work(self, pending: Pending, executor: Executor) -> bool:
        """Waits as long as what is left is in the hands of other runs; True when one has given up a cell undone."""
        while len(pending) and executor.stopped_by is None:
            if pending.ready():
                return True
            if len(pending) and not self._told:
                self._told = True
                self.progress.say(f"waiting for another run in this folder, which has {len(pending)} of the cells")
            if len(pending):
                time.sleep(POLL_SECONDS)
        return False

    def _adopt(self, result: CellResult) -> None:
        self.results[result.key] = result
        self.progress.finished(result, by="by another run")
        self._then(result)


def unkept(result: CellResult, error: StoreError) -> CellResult:
    """What is left of a record that can't be written, and why; the reason names no folder of this machine."""
    cause = error.__cause__
    why = (cause.strerror or str(cause)) if isinstance(cause, OSError) else str(error)
    return CellResult(
        key=result.key,
        cell=result.cell.model_copy(update={"plugins_dir": None}),
        status="failed",
        reason=f"its record, of a cell that ended {result.status}, can't be written: {why}",
        log=result.log,
        machine=result.machine,
        started_at=result.started_at,
        seconds=result.seconds,
    )
