"""Runs of a small suite killed at a random moment, and gone on with: what has to hold afterwards, and counts."""

import os
import random
import re
import signal
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from compbench.report.summary import write_results
from compbench.run.runner import RunOptions, SuiteRunner
from compbench.run.store import Store
from tests.run import fake_cells
from tests.run.fake_suites import FakeRegistry, make_suite

SUITE = make_suite("scores", arms=("none", "laser"), depths=(4, 8), seeds=(0, 1))
CELLS = SUITE.cells(FakeRegistry())
MARK = "COMPBENCH_TEST_RUN"


class Silent:
    """A progress display that shows nothing."""

    def __init__(self, plan):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ignore(self, *arguments):
        pass

    started = finished = stopping = dropped = again = withdrawn = ignore


def run(results: Path, **options):
    """A run in this process; its outcome."""
    chosen = RunOptions(results=results, jobs=2, command="compbench run fake", **options)
    return SuiteRunner(SUITE, FakeRegistry(), chosen, Silent, print, command=fake_cells.command).run()


@dataclass
class Counts:
    """What became of the runs."""

    runs: Counter = field(default_factory=Counter)
    kept_when_killed: Counter = field(default_factory=Counter)
    """How many cells were finished when the run was killed."""
    crashed: int = 0
    lost: int = 0
    done_twice: int = 0
    corrupt: int = 0
    other_tables: int = 0
    left_running: int = 0

    @property
    def faults(self):
        return self.lost + self.done_twice + self.corrupt + self.other_tables + self.left_running

    def __str__(self):
        killed = ", ".join(f"{count} {victim}" for victim, count in sorted(self.runs.items()))
        kept = ", ".join(f"{finished}: {count}" for finished, count in sorted(self.kept_when_killed.items()))
        return (
            f"{sum(self.runs.values())} runs killed ({killed}); finished cells when killed: {kept}; "
            f"crashed cells redone: {self.crashed}; finished cells lost: {self.lost}, done twice: {self.done_twice}; "
            f"corrupt files: {self.corrupt}; tables that differ: {self.other_tables}; left running: {self.left_running}"
        )


class KilledRuns:
    """Kills runs and goes on with them.

    Args:
        folder: Each run gets a folder in it.
        seed: Of the moments and victims.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder = folder
        self.random = random.Random(seed)
        self.counts = Counts()
        began = time.monotonic()
        outcome = run(folder / "undisturbed")
        self.seconds = time.monotonic() - began
        assert outcome.statuses == {"ok": len(CELLS)}
        self.pages = pages(folder / "undisturbed")

    def one(self, number: int) -> None:
        """One run that is killed, and one that goes on with it."""
        results = self.folder / str(number)
        victim = self.random.choice(["runner", "cell"])
        mark = uuid.uuid4().hex
        self.kill(results, victim, self.random.uniform(0, self.seconds), mark)
        self.counts.runs[victim] += 1
        self.counts.left_running += len(left_running(mark))
        warnings = []
        store = Store(results / "fake", warnings.append)
        found = store.results(cell.key for cell in CELLS) if store.directory.exists() else {}
        before = {key: record(results, key) for key, result in found.items() if result.status == "ok"}
        self.counts.kept_when_killed[len(before)] += 1
        self.counts.crashed += len(found) - len(before)
        outcome = run(results, rerun="failed")
        after = {key: record(results, key) for key in before}
        self.counts.lost += sum(key not in outcome.results for key in before)
        self.counts.done_twice += sum(before[key] != after[key] for key in before)
        store.results(store.keys())
        self.counts.corrupt += len(warnings)
        self.counts.other_tables += outcome.statuses != {"ok": len(CELLS)} or pages(results) != self.pages

    def kill(self, results: Path, victim: str, after_seconds: float, mark: str) -> None:
        """A run in a process of its own, which is killed, or one of whose processes is, when its time has come."""
        runner = os.fork()
        if not runner:
            try:
                os.environ[MARK] = mark
                os.closerange(0, 3)
                os.open(os.devnull, os.O_RDWR), os.dup(0), os.dup(0)
                run(results)
            finally:
                os._exit(0)
        time.sleep(after_seconds)
        if victim == "runner":
            os.kill(runner, signal.SIGKILL)
        else:
            while not has_ended(runner):
                if found := running(mark):
                    with suppress(ProcessLookupError):
                        os.kill(self.random.choice(found), signal.SIGKILL)
                    break
        os.waitpid(runner, 0)


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def left_running(mark: str, within_seconds: float = 5.0) -> list[int]:
    """What still runs of a run that has ended; the guards of cells take a moment."""
    deadline = time.monotonic() + within_seconds
    while (found := running(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def running(mark: str) -> list[int]:
    """The cells and guards of a run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def record(results: Path, key: str) -> bytes:
    return (results / "fake" / "cells" / f"{key}.json").read_bytes()


def pages(results: Path) -> list[bytes]:
    """The table and the page that are made of the results, but for the time that it all took."""
    table = write_results(results / "fake", print)
    page = (results / "fake" / "README.md").read_bytes()
    page, timed = re.subn(rb"(?m)^- durations of the cells: .*$", b"", page)
    assert timed == 1
    return [table.encode(), page, (results / "fake" / "table.csv").read_bytes()]
