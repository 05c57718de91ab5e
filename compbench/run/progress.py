"""How far a run is: a live display on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from compbench.run.estimate import Estimator
from compbench.run.result import CellResult
from compbench.suite.cell import Cell

_STYLES = {"ok": "green", "skipped": "yellow", "unsupported": "yellow"}


@dataclass(frozen=True)
class Plan:
    """What a run is about to do.

    Attributes:
        suite: The suite's name.
        selected: Number of cells that the user asked for.
        pending: Those of them that are to be run.
        capacity: About how many run at a time.
        where: What they are placed on, as :meth:`Executor.describe` has it.
        estimator: What earlier results say of their times.
    """

    suite: str
    selected: int
    pending: Sequence[Cell]
    capacity: int
    where: str
    estimator: Estimator = field(default_factory=Estimator)

    def __str__(self) -> str:
        kept = self.selected - len(self.pending)
        return f"{self.suite}: {self.selected} cells, {kept} done already, {len(self.pending)} to run {self.where}"


class Progress:
    """Follows a run and prints a line for the plan and for each cell that ends.

    Args:
        plan: What the run is about to do.
        stream: Where to print.
    """

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        self.plan = plan
        self._stream = stream
        self._pending = list(plan.pending)
        self._running: dict[str, tuple[Cell, str, float]] = {}
        self._done = plan.selected - len(plan.pending)
        self._not_ok = 0

    def __enter__(self) -> Progress:
        self.say(str(self.plan))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def started(self, cell: Cell, place: str) -> None:
        """A cell's process is about to start."""
        self._pending = [other for other in self._pending if other.key != cell.key]
        self._running[cell.key] = (cell, place, time.monotonic())

    def finished(self, result: CellResult, by: str = "") -> None:
        """A cell has ended, or can't be started at all; ``by`` says who ran it, if this run didn't."""
        self._pending = [other for other in self._pending if other.key != result.key]
        self._running.pop(result.key, None)
        self._done += 1
        self._not_ok += result.status != "ok"
        if result.seconds:
            self.plan.estimator.add(result)
        count = f"[{self._done}/{self.plan.selected}]"
        line = f"{count} {describe(result.cell)}: {result.status} {duration(result.seconds)}"
        if by:
            line += f" {by}"
        if result.reason:
            line += f" ({result.reason})"
        remaining = self.remaining()
        if remaining:
            line += f", about {duration(remaining)} left"
        self.say(line, _STYLES.get(result.status, "red"))

    def stopping(self, running: int) -> None:
        """The run was interrupted, and its running cells were asked to stop."""
        cells = "1 cell" if running == 1 else f"{running} cells"
        self.say(f"stopping {cells} (once more, and they are killed at once)")

    def dropped(self, cell: Cell) -> None:
        """A cell was interrupted and leaves no record."""
        self._running.pop(cell.key, None)

    def again(self, cell: Cell, why: str) -> None:
        """A cell that had started is to be run once more."""
        self._running.pop(cell.key, None)
        self._pending.insert(0, cell)
        self.say(f"{describe(cell)}: to be run again: {why}", "yellow")

    def withdrawn(self, cells: Iterable[Cell]) -> None:
        """Cells are not to be started any more, and leave no record."""
        keys = {cell.key for cell in cells}
        self._pending = [cell for cell in self._pending if cell.key not in keys]

    def remaining(self) -> float | None:
        """Seconds until the run should end; None as long as there is nothing to judge by."""
        now = time.monotonic()
        running = [(cell, now - since) for cell, _, since in list(self._running.values())]
        return self.plan.estimator.remaining(self._pending, running, self.plan.capacity)

    def say(self, line: str, style: str = "") -> None:
        """Prints a line, at once: it may go to a file that somebody follows."""
        print(line, file=self._stream, flush=True)


class LiveProgress(Progress):
    """The same lines, and under them a bar and what runs where, kept up to date."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        super().__init__(plan, stream)
        self._began = time.monotonic()
        self._console = Console(file=stream, highlight=False)
        self._live = Live(console=self._console, get_renderable=self.display, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        super().__enter__()
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str, style: str = "") -> None:
        """Prints a line above the display."""
        self._console.print(Text(line, style=style), soft_wrap=True)
        self._live.refresh()

    def display(self) -> Group:
        """The bar, and a line for each cell that runs."""
        remaining = self.remaining()
        counts = f"{self._done}/{self.plan.selected}" + (f", {self._not_ok} not ok" if self._not_ok else "")
        left = f"about {duration(remaining)} left" if remaining is not None else "no estimate yet"
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(self.plan.suite, style="bold"),
            ProgressBar(total=self.plan.selected, completed=self._done, width=30),
            Text(counts),
            Text(f"{duration(time.monotonic() - self._began)}, {left}"),
        )
        running = Table.grid(padding=(0, 2))
        for cell, place, since in sorted(self._running.values(), key=lambda entry: entry[1]):
            expected = self.plan.estimator.seconds(cell)
            of = f" of about {duration(expected)}" if expected is not None else ""
            elapsed = f"{duration(time.monotonic() - since)}{of}"
            running.add_row(Text(f"  {place}", style="dim"), Text(describe(cell)), Text(elapsed, style="dim"))
        return Group(bar, running)


def make_progress(plan: Plan, stream: TextIO | None = None) -> Progress:
    """The display that suits ``stream``, or standard output: live on a terminal, plain lines otherwise."""
    stream = sys.stdout if stream is None else stream
    return LiveProgress(plan, stream) if Console(file=stream).is_terminal else Progress(plan, stream)


def describe(cell: Cell) -> str:
    """A cell in a few words."""
    return f"{cell.label} depth {cell.depth} seed {cell.seed}"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``8.3 s``, ``2 min 05 s``, ``3 h 20 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
