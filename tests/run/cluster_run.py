"""Runs a suite of fake cells on a cluster, as a process that can be killed: EXECUTOR WHERE RESULTS DEED SEEDS.

WHERE is the address of Ray, or the folder of Slurm's jobs.
"""

import signal
import sys
from pathlib import Path

from compbench.run.progress import make_progress
from compbench.run.runner import RunOptions, SuiteRunner
from compbench.suite.executors import Executors, SlurmSettings
from tests.run import fake_cells
from tests.run.fake_suites import FakeRegistry, make_suite

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Whatever the tests were started under, nohup say.
    executor, where, results, deed, seeds = sys.argv[1:]
    address = where if executor == "ray" else None
    options = RunOptions(results=Path(results), executor=executor, address=address)
    settings = Executors(slurm=SlurmSettings(folder=where)) if executor == "slurm" else Executors()
    suite = make_suite(deed, seeds=range(int(seeds)), executors=settings)
    outcome = SuiteRunner(suite, FakeRegistry(), options, make_progress, print, command=fake_cells.command).run()
    sys.exit(outcome.exit_status)
