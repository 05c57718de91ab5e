"""Runs a suite of fake cells in the folder given, until it is done or told to stop."""

import signal
import sys
from pathlib import Path

from compbench.run.progress import make_progress
from compbench.run.runner import RunOptions, SuiteRunner
from tests.run import fake_cells
from tests.run.fake_suites import FakeRegistry, make_suite

# Whatever the tests were started under, nohup say, which would have a hang-up ignored.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

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
