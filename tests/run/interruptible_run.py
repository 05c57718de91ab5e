"""Runs a suite of fake cells in the folder given, until it is done or told to stop."""

import os
import signal
import sys
import time
from pathlib import Path

from compbench.run.progress import make_progress
from compbench.run.runner import RunOptions, SuiteRunner
from tests.run import fake_cells
from tests.run.fake_suites import FakeRegistry, make_suite

# Whatever the tests were started under, nohup say, which would have a hang-up ignored.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

if barrier := os.environ.get("FAKE_BARRIER"):  # two runs are to begin at the same moment
    Path(barrier, str(os.getpid())).touch()
    while len(list(Path(barrier).iterdir())) < 2:
        time.sleep(0.002)
results, grace, *deeds = sys.argv[1:]
outcome = SuiteRunner(
    make_suite(*deeds, seeds=tuple(range(int(os.environ.get("FAKE_SEEDS", "1"))))),
    FakeRegistry(),
    RunOptions(
        results=Path(results),
        jobs=2,
        rerun=os.environ.get("FAKE_RERUN", "missing"),
        command=os.environ.get("FAKE_RUN", ""),
    ),
    make_progress,
    print,
    command=fake_cells.command,
    grace_seconds=float(grace),
).run()
if "FAKE_RUN" in os.environ:
    print("ran", outcome.ran)
print("left", len(outcome.selected) - len(outcome.results))
sys.exit(outcome.exit_status)
