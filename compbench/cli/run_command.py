"""``compbench run``: runs what of a suite is missing, and shows the table."""

from __future__ import annotations

import dataclasses
import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from compbench.cli.options import PluginsDir, registry_of
from compbench.cli.printing import screen, show, warn
from compbench.cli.trace_command import how_to_open
from compbench.errors import SettingsError, StoreError
from compbench.registry import Registry
from compbench.report.summary import write_results
from compbench.report.traces import write_operators
from compbench.run.progress import Plan, describe, duration, make_progress
from compbench.run.runner import RunOptions, RunOutcome, SuiteRunner
from compbench.run.selection import Rerun
from compbench.suite import load_suite
from compbench.suite.executors import ExecutorName
from compbench.suite.head import check_memory_limit

HELP = """
Runs a suite and prints its table.

Every cell (strategy, depth, seed) is a process of its own with its own log; its record goes to DIR/<suite>/cells the
moment it ends. A cell that fails is a row with its status, and the run goes on; once a cell is out of memory, deeper
ones of its arm and seed are skipped. Ctrl-C keeps what is finished; the same command goes on with the rest. With
nothing left to run, it only prints the table.

\b
Examples:
  compbench run quick                              a suite that ships, by name
  compbench run suites/trm_depth.yaml --only depth=4,8 --only seed=0,1
  compbench run mine.yaml --only 'arm=laser*'      one strategy and its variants
  compbench run mine.yaml --rerun failed           what failed, again
  compbench run mine.yaml --executor ray --address auto      on the Ray cluster of this machine
  compbench run mine.yaml --executor slurm --dry-run         what would be handed to Slurm
  compbench run mine.yaml --observer mlflow        each cell as a run of MLflow, too
  compbench run mine.yaml --trace                  some steps of each cell for TensorBoard and Perfetto, too
  compbench run mine.yaml --jobs 1 --timeout 600   one cell at a time, ten minutes at most for each

Exit status: 0 every selected cell is ok, 1 some are not, 2 bad input, 130 interrupted.
"""

_SHOWN_LEFTOVERS = 20

TRACED_STEPS = 3
"""Of each cell, with ``--trace``."""


def run(
    suite: Annotated[str, typer.Argument(help="A suite's YAML file, or the name of one that ships.", metavar="SUITE")],
    results: Annotated[
        Path, typer.Option(help="Folder for results; the suite gets a folder of its name in it.", metavar="DIR")
    ] = Path("results"),
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Cells at a time; by default one a pair of cores (cores over the suite's threads, if it sets them), "
            "or one a GPU. Cells side by side disturb each other's times.",
            metavar="N",
        ),
    ] = None,
    executor: Annotated[
        ExecutorName,
        typer.Option(help="What places the cells; the suite's section 'executor' has the settings of each."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster for --executor ray, instead of the suite's: auto, HOST:PORT, or local, which starts "
            "one on this machine and is the default.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only list the cells that would run, and the script of a job where it has one."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run part of the suite: AXIS=VALUE[,VALUE...], globs allowed; may be repeated, and then narrows "
            "the suite down axis by axis. Axes: arm, depth, seed and those of the suite's matrix.",
            metavar="PATTERN",
        ),
    ] = None,
    rerun: Annotated[
        Rerun,
        typer.Option(
            help="missing: cells without a record; failed: also those that are not ok; oom: also those that ran out of "
            "memory, and deeper ones skipped for it; all: every cell."
        ),
    ] = "missing",
    plugins_dir: PluginsDir = None,
    retries: Annotated[
        int, typer.Option(min=0, help="How many more times a cell is run whose process has crashed.", metavar="N")
    ] = 0,
    fail_fast: Annotated[
        bool,
        typer.Option(
            "--fail-fast", help="Start no further cell after the first failure; those that run go on to their end."
        ),
    ] = False,
    no_skip: Annotated[
        bool,
        typer.Option(
            "--no-skip",
            help="Also run cells that are deeper than one of the same arm and seed that is out of memory.",
        ),
    ] = False,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            help="Memory that each process of a cell may have, instead of the suite's own, such as 4GB. Not of a GPU.",
            metavar="SIZE",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to run, instead of on the suite's own device: cpu, cuda or cuda:N.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Longest time for a cell, instead of the suite's own.", metavar="SECONDS"),
    ] = None,
    checkpoint_minutes: Annotated[
        float | None,
        typer.Option(
            help="How often a training is saved, to go on from there when its process is killed, instead of the "
            "suite's own (10); 0: never.",
            metavar="N",
        ),
    ] = None,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help=f"Trace {TRACED_STEPS} steps of each cell that runs, when its figures are taken: for TensorBoard and "
            "Perfetto, in the folder traces of the suite's results. No record knows of it.",
        ),
    ] = False,
    observer: Annotated[
        list[str] | None,
        typer.Option(help="Has an observer follow the run, such as mlflow or wandb; may be repeated.", metavar="NAME"),
    ] = None,
) -> None:
    """Runs a suite and prints its table."""
    if checkpoint_minutes is not None and not 0 <= checkpoint_minutes < float("inf"):
        raise SettingsError(f"--checkpoint-minutes {checkpoint_minutes:g} (allowed: minutes > 0, or 0 for none)")
    if timeout is not None and not timeout > 0:
        raise SettingsError(f"--timeout {timeout:g} (allowed: seconds > 0)")
    registry = registry_of(plugins_dir)
    local = executor == "local"
    # A workload may need what only the cluster's machines have; it is asked for its metrics where its cells run.
    loaded = load_suite(suite, registry, device, elsewhere=not local, check_metrics=local)
    if timeout is not None:
        loaded = dataclasses.replace(loaded, timeout_seconds=timeout)
    if memory_limit is not None:
        loaded = dataclasses.replace(loaded, memory_limit=_memory_limit(memory_limit))
    if checkpoint_minutes is not None:
        loaded = dataclasses.replace(loaded, checkpoint_minutes=checkpoint_minutes)
    options = RunOptions(
        results=results,
        executor=executor,
        address=address,
        jobs=jobs,
        only=tuple(only or ()),
        rerun=rerun,
        retries=retries,
        fail_fast=fail_fast,
        skip=not no_skip,
        trace_steps=TRACED_STEPS if trace else 0,
        command=command_line(suite, jobs, only or (), plugins_dir, device, timeout, memory_limit, no_skip),
    )
    runner = SuiteRunner(loaded, registry, options, make_progress, warn)
    if dry_run:
        _print_preview(*runner.preview())
        raise typer.Exit
    for name in observer or ():
        registry.start_observer(name)
    outcome = runner.run()
    _conclude(outcome, loaded.name, registry)
    if trace:
        _print_traces(outcome)
    raise typer.Exit(outcome.exit_status)


def command_line(
    suite: str,
    jobs: int | None,
    only: list[str] | tuple[str, ...],
    plugins_dir: Path | None,
    device: str | None,
    timeout: float | None,
    memory_limit: str | None = None,
    no_skip: bool = False,
) -> str:
    """The command that makes the same results anew; where they go and what is there already are not part of it."""
    words = ["compbench", "run", suite]
    for pattern in only:
        words += ["--only", pattern]
    options = {
        "--jobs": jobs,
        "--plugins-dir": plugins_dir,
        "--device": device,
        "--timeout": timeout,
        "--memory-limit": memory_limit,
    }
    for option, value in options.items():
        if value is not None:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join([*words, "--no-skip"] if no_skip else words)


def _print_preview(plan: Plan, script: str) -> None:
    print(plan)
    for number, cell in enumerate(plan.pending, start=1):
        seconds = plan.estimator.seconds(cell)
        print(f"{number:5}  {describe(cell)}" + (f"  (about {duration(seconds)})" if seconds is not None else ""))
    if script:
        print(f"\nEach of them is handed over as\n\n{script}")


def _conclude(outcome: RunOutcome, suite: str, registry: Registry) -> None:
    if outcome.stopped_by is not None:
        left = len(outcome.selected) - len(outcome.results)
        name = signal.Signals(outcome.stopped_by).name
        print(
            f"interrupted by {name}: {len(outcome.results)} cells are kept in {outcome.directory}; "
            f"the same command goes on with the other {left}"
        )
    elif outcome.failed_fast:
        left = len(outcome.selected) - len(outcome.results)
        print(f"ended by the first failure (--fail-fast); the same command goes on with the other {left} cells")
    elif not outcome.ran:
        print(f"{suite}: nothing to do, all {len(outcome.selected)} cells are in {outcome.directory}")
    if outcome.results:
        print()
        show(write_results(outcome.directory, warn, screen()))
    _print_leftovers(outcome)
    _print_failures(outcome)
    problems = registry.observe("compbench_suite_finished", directory=str(outcome.directory), statuses=outcome.statuses)
    for problem in problems:
        warn(problem)


def _print_traces(outcome: RunOutcome) -> None:
    """Says where traces are and how to open them; puts the table of operators beside each."""
    for folder in outcome.traces.values():
        try:
            write_operators(folder)
        except StoreError as error:
            warn(str(error))
    if outcome.traces:
        example = next(iter(outcome.traces.values()))
        print(f"\n{how_to_open(example.parent, example)}")
    untraced = len(outcome.selected) - outcome.ran
    if untraced > 0:
        print(
            f"\n{untraced} of the cells did not run, and have no trace of this run: --rerun all runs them again, and "
            "compbench trace CELL traces one by its key"
        )


def _print_leftovers(outcome: RunOutcome) -> None:
    """Names what the suite has no more, so that nobody takes it for part of the table."""
    if not outcome.leftovers:
        return
    many = len(outcome.leftovers) - _SHOWN_LEFTOVERS
    print(f"\nin {outcome.directory}, left as they are, since they are of no cell of the suite as it is now:")
    for key in outcome.leftovers[:_SHOWN_LEFTOVERS]:
        print(f"  {key}")
    if many > 0:
        print(f"  and {many} more")


def _print_failures(outcome: RunOutcome) -> None:
    causes = outcome.failures()
    if not causes:
        return
    print(f"\n{sum(len(cause.results) for cause in causes)} of {len(outcome.selected)} cells are not ok:")
    for cause in causes:
        count, example = len(cause.results), cause.example
        cells = "1 cell" if count == 1 else f"{count} cells"
        print(f"  {cells} {cause.status}: {example.reason or 'no reason given'}")
        log = f"  ({outcome.directory / example.log})" if example.log else ""
        print(f"    {'' if count == 1 else 'such as '}{describe(example.cell)}{log}")
    if any(cause.status != "skipped" for cause in causes):
        print("--rerun failed runs them again")


def _memory_limit(given: str) -> int:
    """The bytes that were asked for.

    Raises:
        SettingsError: It is no size, or too small for any cell.
    """
    try:
        size = int(TypeAdapter(ByteSize).validate_python(given))
        check_memory_limit(size)
    except ValidationError as error:
        raise SettingsError(
            f"--memory-limit {given}: no size (allowed: such as 4GB, 1500MB or a number of bytes)"
        ) from error
    except ValueError as error:
        raise SettingsError(f"--memory-limit {given}: {error}") from error
    return size
