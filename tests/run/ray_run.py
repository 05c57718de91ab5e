"""Runs a suite of fake cells on Ray, as a process that can be killed: ADDRESS RESULTS DEED SEEDS [RERUN]."""

import sys
from pathlib import Path

from compbench.run.progress import make_progress
from compbench.run.runner import RunOptions, SuiteRunner
from tests.run import fake_cells
from tests.run.fake_suites import FakeRegistry, make_suite

if __name__ == "__main__":
    address, results, deed, seeds = sys.argv[1:]
    options = RunOptions(results=Path(results), executor="ray", address=address)
    suite = make_suite(deed, seeds=range(int(seeds)))
    outcome = SuiteRunner(suite, FakeRegistry(), options, make_progress, print, command=fake_cells.command).run()
    sys.exit(outcome.exit_status)
