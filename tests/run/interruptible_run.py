"""Runs a suite of fake cells in the folder given, until it is done or told to stop."""

import sys
from pathlib import Path

from compbench.run.progress import make_progress
from compbench.run.runner import RunOptions, SuiteRunner
from tests.run import fake_cells
from tests.run.fake_suites import FakeRegistry, make_suite

results, grace, *deeds = sys.argv[1:]
outcome = SuiteRunner(
    make_suite(*deeds),
    FakeRegistry(),
    RunOptions(results=Path(results), jobs=2),
    make_progress,
    print,
    command=fake_cells.command,
    grace_seconds=float(grace),
).run()
print("left", len(outcome.selected) - len(outcome.results))
sys.exit(outcome.exit_status)
