"""What running costs beside the work: ``python -m tests.run.overhead [CELLS ...]``; a script, since times are no test.

A cell of no work is a real one that trains two steps of the smallest model and measures nothing. The runner's own
share is what a cell takes whose process does nothing but copy a record into its place. Planning is all that
``compbench run`` does before it starts the first cell of a new folder; reading is what it does with a folder in which
every cell is finished.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from compbench.registry import Registry
from compbench.report.summary import write_results
from compbench.run.cell_process import NO_LIMITS, CellJob, cell_command, run_cell_process
from compbench.run.policy import interleaved, reconsidered
from compbench.run.result import CellResult
from compbench.run.runner import RunOptions, SuiteRunner
from compbench.run.selection import select, to_run
from compbench.run.slots import Slot
from compbench.run.store import Store
from compbench.suite import load_suite
from tests.faults.killed_runs import Silent
from tests.run.fake_suites import FakeRegistry, make_suite

SUITE = """
name: overhead
workload: {{name: trm_maze, grid: 5, train_mazes: 8, validation_mazes: 4, hidden: 16, heads: 1, inner: 16}}
arms:
  none: none
  int8: int8
  laser: {{laser: {{rank: 2}}}}
  both: [{{laser: {{rank: 2}}}}, int8]
  gale: gale
matrix: {{depth: [2, 3, 4, 5], seed: [{seeds}]}}
training: {{steps: 2, batch_size: 2, warmup_steps: 0}}
measuring: {{memory: false, time_pairs: 0, gradient_cosine: false, flops: false}}
device: cpu
threads: 2
"""
CELLS_A_SEED = 20


def suite_file(folder: Path, cells: int) -> Path:
    path = folder / "overhead.yaml"
    path.write_text(SUITE.format(seeds=", ".join(map(str, range(cells // CELLS_A_SEED)))))
    return path


@contextmanager
def timed(seconds: dict[str, float], name: str):
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


def a_cell_of_no_work(folder: Path, repeats: int = 5) -> None:
    registry = Registry.load(None)
    cell = load_suite(suite_file(folder, CELLS_A_SEED), registry).cells(registry)[0]
    taken = []
    for _ in range(repeats):
        end, log = run_cell_process(CellJob(cell, Slot("cpu", 2), NO_LIMITS, cell_command))
        assert CellResult.model_validate_json(end.record or "").status == "ok", log.decode()
        taken.append(end.seconds)
    print(f"a cell of no work: {min(taken):.2f} to {max(taken):.2f} s ({repeats} times)")


def the_runners_share(folder: Path, cells: int = 100) -> None:
    """Every cell's record is there beforehand; its process is ``cp``."""
    suite = make_suite("ok", seeds=tuple(range(cells)))
    ready = folder / "records"
    ready.mkdir()
    for cell in suite.cells(FakeRegistry()):
        record = CellResult(key=cell.key, cell=cell, status="ok", loss_curve=[0.5] * 1000)
        (ready / cell.key).write_text(record.model_dump_json())

    def command(spec: Path, out: Path) -> list[str]:
        # Through a shell, which passes over what else a cell is given, such as where to save its training.
        return ["sh", "-c", 'cp "$0" "$1"', str(ready / spec.name.removesuffix(".cell.json")), str(out)]

    seconds: dict[str, float] = {}
    before = time.process_time()
    with timed(seconds, "all"):
        options = RunOptions(results=folder / "share", jobs=1)
        outcome = SuiteRunner(suite, FakeRegistry(), options, Silent, print, command=command).run()
    assert outcome.statuses == {"ok": cells}
    own = time.process_time() - before
    with timed(seconds, "copying"):  # what stands for the cells, by itself
        for cell in suite.cells(FakeRegistry()):
            subprocess.run(command(ready / f"{cell.key}.cell.json", folder / "copied"), check=True)
    share = (seconds["all"] - seconds["copying"]) / cells
    print(
        f"the runner's share, each of {cells} cells: {share * 1e3:.1f} ms from placing to stored result, of it "
        f"{own / cells * 1e3:.1f} ms of the runner's own processor time; beside it "
        f"{seconds['copying'] / cells * 1e3:.1f} ms of the process that stands for a cell"
    )


def plan_and_read(folder: Path, cells: int) -> None:
    seconds: dict[str, float] = {}
    registry = Registry.load(None)
    with timed(seconds, "plan"):
        suite = load_suite(suite_file(folder, cells), registry)
        planned = suite.cells(registry)
        store = Store.create(folder / str(cells), suite.name, print)
        results = store.results(cell.key for cell in planned)
        selected = select(planned, [])
        pending = interleaved(reconsidered(selected, to_run(selected, results, "missing"), results))
    assert len(pending) == len({cell.key for cell in pending}) == cells
    with timed(seconds, "write"):
        for cell in planned:
            curve = [1 / (step + 1) for step in range(1000)]
            store.save(CellResult(key=cell.key, cell=cell, status="ok", loss_curve=curve, metrics={"solved": 0.5}))
    with timed(seconds, "run"):
        options = RunOptions(results=folder / str(cells))
        outcome = SuiteRunner(replace(suite), registry, options, Silent, print).run()
    assert (outcome.ran, len(outcome.results)) == (0, cells)
    with timed(seconds, "read"):
        assert len(Store(folder / str(cells) / suite.name, print).results(cell.key for cell in planned)) == cells
    with timed(seconds, "page"):
        write_results(folder / str(cells) / suite.name, print)
    print(
        f"{cells:6} cells: planned in {seconds['plan']:.2f} s, stored in {seconds['write']:.1f} s, "
        f"read in {seconds['read']:.2f} s; a run with nothing to do {seconds['run']:.2f} s, "
        f"the table and page {seconds['page']:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", type=int, default=[1000, 3000, 10000])
    parser.add_argument("--only", choices=["cell", "share", "store"])
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="compbench-overhead-"))
    try:
        if arguments.only in (None, "cell"):
            a_cell_of_no_work(folder)
        if arguments.only in (None, "share"):
            the_runners_share(folder)
        if arguments.only in (None, "store"):
            for cells in arguments.cells:
                plan_and_read(folder, cells)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
