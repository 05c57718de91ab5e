"""Runs what of a suite is missing, and keeps every result the moment it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from compbench.errors import SettingsError, StoreError
from compbench.registry import Registry
from compbench.run.causes import Cause, by_cause
from compbench.run.cell_process import GRACE_SECONDS, Command, Limits, ProcessEnd, cell_command, utc_now
from compbench.run.checkpoints import Checkpointing
from compbench.run.ending import result_of, result_without_process
from compbench.run.estimate import Estimator
from compbench.run.executor import Ended, Executor, Lost, Started, Stopping
from compbench.run.executors import ExecutorRequest, make_executor
from compbench.run.keeping import Keeper
from compbench.run.machine import describe_machine
from compbench.run.optimizers import check_optimizer
from compbench.run.pending import Pending
from compbench.run.policy import (
    FAIL_FAST,
    MOST_LOSSES,
    Attempts,
    doomed,
    interleaved,
    is_deeper,
    reconsidered,
    skipped,
)
from compbench.run.progress import Plan, Progress, describe
from compbench.run.result import CellResult
from compbench.run.selection import Rerun, select, to_run
from compbench.run.store import Store, SuiteRecord, checkpoints_folder
from compbench.run.trace_folder import untraced
from compbench.suite.cell import Cell
from compbench.suite.executors import ExecutorName
from compbench.suite.suite import Suite


@dataclass(frozen=True)
class RunOptions:
    """How a suite is run.

    Attributes:
        results: The folder under which the suite gets its own.
        executor: What places the cells.
        address: Where the executor's cluster is; None leaves it to the suite.
        jobs: Cells at a time; None leaves it to the suite and the executor.
        only: Patterns that narrow the suite down, such as ``depth=4,8``.
        rerun: Which of the cells that have a record are run again.
        retries: How many more times a cell is run that has crashed.
        fail_fast: No further cell is started after the first that ends otherwise than it should.
        skip: Cells deeper than one that ran out of memory are skipped.
        trace_steps: How many steps of each cell that runs are traced at its end; 0: none.
        command: What the results are to say that made them.
    """

    results: Path = Path("results")
    executor: ExecutorName = "local"
    address: str | None = None
    jobs: int | None = None
    only: Sequence[str] = ()
    rerun: Rerun = "missing"
    retries: int = 0
    fail_fast: bool = False
    skip: bool = True
    trace_steps: int = 0
    command: str = ""


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run.

    Attributes:
        directory: The suite's results folder.
        selected: The cells that were asked for.
        results: Those of them that have a record, by key.
        ran: How many ended in this run.
        stopped_by: The signal that interrupted it, if one has.
        failed_fast: Whether it was ended by the first failure.
        leftovers: Keys of what is in the folder and of no cell of the suite: it has been edited since.
        traces: The folders of the traces that were made, by key.
    """

    directory: Path
    selected: Sequence[Cell]
    results: Mapping[str, CellResult]
    ran: int
    stopped_by: int | None = None
    failed_fast: bool = False
    leftovers: Sequence[str] = ()
    traces: Mapping[str, Path] = field(default_factory=dict)

    @property
    def statuses(self) -> dict[str, int]:
        """Number of cells by status."""
        counts: dict[str, int] = {}
        for result in self.results.values():
            counts[result.status] = counts.get(result.status, 0) + 1
        return counts

    @property
    def exit_status(self) -> int:
        """0 when every selected cell is ok, 128 and the signal's number after an interruption, 1 otherwise."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 0 if self.statuses == {"ok": len(self.selected)} else 1

    def failures(self) -> list[Cause]:
        """The records that are not ok, by their cause, the most frequent first."""
        return by_cause(self.results.values())


@dataclass
class SuiteRunner:
    """Runs a suite's cells.

    Args:
        suite: The suite; its device, threads and timeout hold.
        registry: The registry with which it was loaded.
        options: How it is run.
        show: Makes the progress display.
        warn: Is handed one line for what is wrong and stops nothing.
        command: Makes the command of a cell's process.
        grace_seconds: How long a cell may take to stop when asked to.
    """

    suite: Suite
    registry: Registry
    options: RunOptions
    show: Callable[[Plan], Progress]
    warn: Callable[[str], None]
    command: Command = cell_command
    grace_seconds: float = GRACE_SECONDS
    _ran: int = field(default=0, init=False)
    _failed_fast: bool = field(default=False, init=False)
    _traces: dict[str, Path] = field(default_factory=dict, init=False)

    def run(self) -> RunOutcome:
        """Runs the cells that are called for; nothing is run when anything about the request is wrong.

        Raises:
            SettingsError: The device or the package of an optimiser is not there, or a pattern of ``only`` matches
                nothing.
            StoreError: The results folder can't be written, or is a newer compbench's.
        """
        executor, device = self._executor()
        cells, selected = self._cells(device)
        self._check_optimizers(selected)
        store = Store.create(self.options.results, self.suite.name, self.warn)
        with store.claims() as claims:
            before = store.stamps()
            results = store.results(cell.key for cell in cells)
            pending = self._pending(selected, results)
            with claims.hold("suite.json"):
                self._describe_suite(store, cells, device, any_run=bool(pending))
            stopped_by = None
            if pending:
                machine = store.save_machine(describe_machine())
                estimator = Estimator(result for result in results.values() if result.machine == machine)
                with executor:
                    plan = self._plan(executor, selected, pending, estimator)
                    with self.show(plan) as progress:
                        keeper = Keeper(store, claims, before, progress, results, self.warn)
                        stopped_by = self._run_cells(plan, executor, keeper, machine)
        kept = {cell.key: results[cell.key] for cell in selected if cell.key in results}
        leftovers = store.leftovers([cell.key for cell in cells])
        return RunOutcome(
            store.directory, selected, kept, self._ran, stopped_by, self._failed_fast, leftovers, self._traces
        )

    def preview(self) -> tuple[Plan, str]:
        """What :meth:`run` would do, and what it would hand to a queue; nothing is run, connected to or written.

        Raises:
            SettingsError: As :meth:`run` does.
            StoreError: The results folder can't be read, or is a newer compbench's.
        """
        executor, device = self._executor()
        cells, selected = self._cells(device)
        self._check_optimizers(selected)
        store = Store(self.options.results / self.suite.name, self.warn)
        results = store.results(cell.key for cell in cells)
        plan = self._plan(executor, selected, self._pending(selected, results), Estimator(results.values()))
        return plan, executor.script()

    def _executor(self) -> tuple[Executor, str]:
        """What places the cells, and the device that they know of."""
        limits, options = self._limits(), self.options
        request = ExecutorRequest(
            self.suite,
            limits,
            options.jobs,
            self.command,
            options.address,
            self._checkpointing(),
            options.trace_steps,
        )
        # A slot's cell sees one GPU and calls it `cuda`: which one it is makes it no other work.
        return make_executor(options.executor, request), self.suite.device.partition(":")[0]

    def _cells(self, device: str) -> tuple[list[Cell], list[Cell]]:
        """All cells of the suite, and those that are asked for."""
        cells = replace(self.suite, device=device).cells(self.registry)
        return cells, select(cells, self.options.only)

    def _pending(self, selected: Sequence[Cell], results: Mapping[str, CellResult]) -> list[Cell]:
        """Those of the selected cells that are to be run, in the order in which they start."""
        called_for = to_run(selected, results, self.options.rerun)
        return interleaved(reconsidered(selected, called_for, results, self.options.skip))

    def _check_optimizers(self, selected: Sequence[Cell]) -> None:
        """Whether the optimisers are here of the cells that are to be run; others need none.

        What the machines of a cluster have is not known here.

        Raises:
            SettingsError: The package of one is not installed.
        """
        if self.options.executor != "local":
            return
        try:
            for cell in selected:
                check_optimizer(cell.training)
        except SettingsError:
            results = Store(self.options.results / self.suite.name, self.warn).results(cell.key for cell in selected)
            for cell in self._pending(selected, results):
                check_optimizer(cell.training)

    def _plan(
        self, executor: Executor, selected: Sequence[Cell], pending: Sequence[Cell], estimator: Estimator
    ) -> Plan:
        return Plan(self.suite.name, len(selected), pending, executor.capacity, executor.describe(), estimator)

    def _run_cells(self, plan: Plan, executor: Executor, keeper: Keeper, machine: str) -> int | None:
        """Runs the pending cells, or waits for those that others run; their records go to the keeper."""
        store, progress = keeper.store, keeper.progress

        def keep(result: CellResult) -> None:
            kept = keeper.keep(result)
            self._ran += 1
            self._observe("compbench_cell_finished", result=kept.model_dump(mode="json"))

        attempts = Attempts(self.options.retries)
        pending = Pending(self._startable(plan.pending, keeper.results, machine, keep), keeper.sharing.ask)

        def skip_deeper(result: CellResult) -> None:
            if self.options.skip and result.status == "oom":
                for cell in pending.withdraw(lambda cell: is_deeper(cell, result.cell)):
                    keep(skipped(cell, result))

        def follow(result: CellResult) -> None:
            """Keeps the record of an attempt, and does what follows from it."""
            if attempts.again(result):
                pending.put_back(result.cell)
                progress.again(result.cell, f"attempt {result.attempts} {result.status} ({result.reason})")
                return
            keep(result)
            skip_deeper(result)
            if self.options.fail_fast and result.status in FAIL_FAST:
                self._failed_fast = True
                progress.withdrawn(pending.withdraw())

        keeper.on_adopted(skip_deeper)
        while pending.ready() or keeper.others_are_at_work(pending, executor):
            with closing(executor.run(pending, store.log_path)) as events:
                for event in events:
                    match event:
                        case Started(cell, place):
                            pending.started(cell)
                            progress.started(cell, place)
                            self._observe("compbench_cell_started", cell=cell.model_dump(mode="json"))
                        case Stopping(_, running):
                            progress.stopping(running)
                        case Lost(cell, place, why) if attempts.lost(cell) < MOST_LOSSES:
                            pending.put_back(cell)
                            progress.again(cell, f"{place} is lost: {why}")
                        case Lost(cell, place, why):
                            reason = f"its node was lost {MOST_LOSSES} times, at last {place}: {why}"
                            follow(attempts.count(result_without_process(cell, reason, machine, utc_now(), "crashed")))
                        case Ended(cell, _, end):
                            on = machine if event.machine is None else keeper.machine(event.machine)
                            result = result_of(cell, end, store.log_path(cell.key), on, self._limits())
                            if result is None:
                                keeper.drop(cell)
                            else:
                                follow(attempts.count(result))
                                self._keep_trace(store, result, end)
            if executor.stopped_by is not None:
                break
        return executor.stopped_by

    def _keep_trace(self, store: Store, result: CellResult, end: ProcessEnd) -> None:
        """Keeps the trace of a cell that has ended well; what is wrong with it is told, and no fault of the cell."""
        if not self.options.trace_steps or result.status != "ok":
            return
        told = f"there is no trace of {describe(result.cell)}"
        if end.trace is None:
            self.warn(f"{told}: its process has ended before ({store.log_path(result.key)})")
            return
        reason = untraced(end.trace)
        if reason:
            self.warn(f"{told}: {reason} ({store.log_path(result.key)})")
            return
        try:
            store.save_trace(result.key, end.trace)
        except StoreError as error:
            self.warn(str(error))
        else:
            self._traces[result.key] = store.traces / result.key

    def _startable(
        self,
        cells: Sequence[Cell],
        results: Mapping[str, CellResult],
        machine: str,
        keep: Callable[[CellResult], None],
    ) -> list[Cell]:
        """The cells that can be started; the others get their records at once."""
        hopeless = doomed(cells, results, {cell.key for cell in cells}) if self.options.skip else {}
        startable = []
        for cell in cells:
            if cell.arm in self.suite.broken_arms:
                keep(result_without_process(cell, self.suite.broken_arms[cell.arm], machine, utc_now()))
            elif cell.key in hopeless:
                keep(hopeless[cell.key])
            else:
                startable.append(cell)
        return startable

    def _checkpointing(self) -> Checkpointing | None:
        if not self.suite.checkpoint_minutes:
            return None
        folder = checkpoints_folder(self.options.results / self.suite.name).resolve()
        return Checkpointing(folder, self.suite.checkpoint_minutes)

    def _limits(self) -> Limits:
        return Limits(self.suite.timeout_seconds, self.grace_seconds, self.suite.memory_limit)

    def _describe_suite(self, store: Store, cells: Sequence[Cell], device: str, any_run: bool) -> None:
        """Keeps what the table is made of, and every command that made results, each on its line."""
        earlier = store.suite()
        commands = earlier.command.splitlines() if earlier is not None else []
        if (any_run or earlier is None) and self.options.command not in commands:
            commands.append(self.options.command)
        record = SuiteRecord(
            name=self.suite.name,
            description=self.suite.description,
            device=device,
            margins=dict(self.suite.margins),
            lower_is_better=list(self.suite.lower_is_better),
            keys=[cell.key for cell in cells],
            command="\n".join(commands),
        )
        if record != earlier:
            store.save_suite(record)
        if self.suite.text and store.suite_text() != self.suite.text:
            store.save_suite_text(self.suite.text)

    def _observe(self, hook: str, **arguments: object) -> None:
        for problem in self.registry.observe(hook, **arguments):
            self.warn(problem)
