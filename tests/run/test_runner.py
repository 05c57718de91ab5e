"""A whole run: what is kept, what goes on, what is told, and how it stops."""

import io
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from compbench.errors import SettingsError, StoreError
from compbench.run.progress import Progress
from compbench.run.runner import RunOptions, SuiteRunner
from compbench.run.store import Store
from compbench.suite.cell import Training
from tests.run import fake_cells
from tests.run.fake_suites import FakeRegistry, all_end, make_suite, pids_in


class Runs:
    """Runs suites of fake cells into one folder, and keeps what is printed."""

    def __init__(self, results):
        self.results = results
        self.registry = FakeRegistry()
        self.warnings = []
        self.printed = ""

    def run(self, suite, **options):
        stream = io.StringIO()
        runner = SuiteRunner(
            suite,
            self.registry,
            RunOptions(results=self.results, **({"jobs": 2} | options)),
            lambda plan: Progress(plan, stream),
            self.warnings.append,
            command=fake_cells.command,
            grace_seconds=0.3,
        )
        outcome = runner.run()
        self.printed = stream.getvalue()
        return outcome

    @property
    def store(self):
        return Store(self.results / "fake", self.warnings.append)


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "results")


def statuses(outcome):
    return [outcome.results[cell.key].status for cell in outcome.selected]


def test_every_cell_becomes_a_record(runs):
    outcome = runs.run(make_suite("ok", "raises", "diverges", "kills_itself", seeds=(0, 1)))
    assert statuses(outcome) == ["ok", "crashed", "diverged", "crashed"] * 2
    assert outcome.statuses == {"ok": 2, "crashed": 4, "diverged": 2}
    assert outcome.exit_status == 1
    keys = [cell.key for cell in outcome.selected]
    stored = {key: result.model_dump_json() for key, result in runs.store.results(keys).items()}
    assert stored == {key: result.model_dump_json() for key, result in outcome.results.items()}
    assert all(runs.store.log_path(key).is_file() for key in keys)
    assert runs.store.machine(outcome.results[keys[0]].machine) is not None


def test_a_run_in_which_all_is_well_ends_with_status_0(runs):
    assert runs.run(make_suite("ok")).exit_status == 0


def test_a_second_run_has_nothing_to_do_and_starts_nothing(runs):
    suite = make_suite("ok", seeds=(0, 1))
    first = runs.run(suite, command="compbench run fake")
    second = runs.run(suite, command="compbench run fake --only seed=0", only=["seed=0"])
    assert (first.ran, second.ran) == (2, 0)
    assert runs.printed == ""
    assert second.exit_status == 0
    assert runs.store.suite().command == "compbench run fake"


def test_an_optimiser_without_its_package_is_told_before_any_cell_runs(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "adam_atan2_pytorch", None)  # as if it were not installed
    suite = make_suite("ok", seeds=(0, 1))
    first, second = suite.variants[0], replace(suite.variants[0], arm="laser2")
    asked = replace(second, training=Training(optimizer="adam_atan2"))
    mixed = replace(suite, variants=(first, asked), arms=dict.fromkeys(("laser", "laser2")))
    with pytest.raises(SettingsError, match=r"^optimizer 'adam_atan2' needs .*: pip install 'compbench\[atan2\]'$"):
        runs.run(mixed)
    assert runs.registry.told == []
    assert not runs.results.exists()
    elsewhere = RunOptions(results=runs.results, executor="slurm")  # what its machines have is not known here
    plan, _ = SuiteRunner(mixed, runs.registry, elsewhere, Progress, runs.warnings.append).preview()
    assert len(plan.pending) == 4
    assert runs.run(mixed, only=["arm=laser"]).ran == 2  # which needs none
    monkeypatch.undo()
    assert runs.run(mixed).ran == 2
    monkeypatch.setitem(sys.modules, "adam_atan2_pytorch", None)
    assert runs.run(mixed).ran == 0  # what is there is read without it
    with pytest.raises(SettingsError, match="adam_atan2"):
        runs.run(mixed, rerun="all")


def test_a_run_does_only_what_is_missing(runs):
    suite = make_suite("ok", seeds=(0, 1, 2))
    runs.run(suite, only=["seed=0,2"])
    outcome = runs.run(suite)
    assert outcome.ran == 1
    assert statuses(outcome) == ["ok"] * 3


def test_failed_cells_stay_until_they_are_asked_for(runs):
    suite = make_suite("ok", "raises")
    runs.run(suite)
    again = runs.run(suite)
    assert (again.ran, again.exit_status) == (0, 1)
    assert runs.run(suite, rerun="failed").ran == 1
    assert runs.run(suite, rerun="all").ran == 2


def test_a_truncated_record_is_made_anew(runs):
    suite = make_suite("ok", seeds=(0, 1))
    key = runs.run(suite).selected[0].key
    path = runs.results / "fake" / "cells" / f"{key}.json"
    path.write_text(path.read_text()[:100])
    outcome = runs.run(suite)
    assert outcome.ran == 1
    assert statuses(outcome) == ["ok", "ok"]
    assert len(runs.warnings) == 1


def test_a_cell_of_a_broken_arm_fails_without_a_process_and_takes_no_other_with_it(runs):
    suite = make_suite("ok", arms=("laser", "mine"), broken_arms={"mine": "plugin mine.py: SyntaxError"})
    outcome = runs.run(suite)
    assert statuses(outcome) == ["ok", "failed"]
    broken = outcome.results[outcome.selected[1].key]
    assert broken.reason == "plugin mine.py: SyntaxError"
    assert not runs.store.log_path(broken.key).exists()
    assert outcome.exit_status == 1
    assert runs.store.result(broken.key) == broken


def test_the_folder_says_what_the_table_is_made_of(runs):
    suite = make_suite("ok", seeds=(0, 1), lower_is_better=("perplexity",))
    runs.run(suite, only=["seed=1"], command="compbench run fake --only seed=1")
    record = runs.store.suite()
    assert record.name == "fake"
    assert record.margins == {"solved": 0.02}
    assert record.lower_is_better == ["perplexity"]
    assert record.keys == [cell.key for cell in suite.cells(runs.registry)]
    assert record.command == "compbench run fake --only seed=1"
    runs.run(suite, command="compbench run fake")
    runs.run(suite, command="compbench run fake", rerun="all")
    assert runs.store.suite().command.splitlines() == ["compbench run fake --only seed=1", "compbench run fake"]


def test_the_folder_has_the_file_of_the_suite_as_it_was_last_run(runs):
    runs.run(make_suite("ok", text="name: fake # once\n"))
    runs.run(make_suite("ok", text="name: fake # twice, å\r\n"))
    assert runs.store.suite_text() == "name: fake # twice, å\r\n"
    runs.run(make_suite("ok", text=""))  # a suite that was made without a file has none
    assert runs.store.suite_text() == "name: fake # twice, å\r\n"


def test_a_slow_cell_is_a_row_with_status_timeout(runs):
    outcome = runs.run(make_suite("ok", "hangs", timeout_seconds=1.0))
    assert statuses(outcome) == ["ok", "timeout"]


def test_no_timeout_is_no_limit(runs):
    assert statuses(runs.run(make_suite("slow", timeout_seconds=None))) == ["ok"]


def test_observers_are_told_and_their_failures_are_warnings(runs):
    runs.registry = FakeRegistry("mine.py: raised ValueError")
    outcome = runs.run(make_suite("ok", "raises"), jobs=1)
    told = [
        (hook, (arguments.get("cell") or arguments["result"]["cell"])["variant"]["does"])
        for hook, arguments in runs.registry.told
    ]
    assert told == [
        ("compbench_cell_started", "ok"),
        ("compbench_cell_finished", "ok"),
        ("compbench_cell_started", "raises"),
        ("compbench_cell_finished", "raises"),
    ]
    assert runs.registry.told[3][1]["result"]["status"] == "crashed"
    assert runs.warnings == ["mine.py: raised ValueError"] * 4
    assert outcome.results


def test_failures_are_grouped_by_status_and_reason(runs):
    outcome = runs.run(make_suite("ok", "raises", "kills_itself", seeds=(0, 1)))
    grouped = {(cause.status, cause.example.reason): len(cause.results) for cause in outcome.failures()}
    assert grouped == {
        ("crashed", "exit status 1: ValueError: this went wrong"): 2,
        ("crashed", "killed by SIGKILL (Killed)"): 2,
    }


def test_cells_deeper_than_one_out_of_memory_are_skipped(runs):
    suite = make_suite("oom_from_depth_8", "ok", depths=(4, 8, 16, 32))
    outcome = runs.run(suite, jobs=1)
    assert statuses(outcome) == ["ok", "ok", "oom", "ok", "skipped", "ok", "skipped", "ok"]
    skips = [result for result in outcome.results.values() if result.status == "skipped"]
    assert {result.reason for result in skips} == {"skipped: OOM at depth 8"}
    assert all(runs.store.result(result.key) == result for result in skips)
    assert outcome.ran == 8
    assert runs.run(suite).ran == 0
    wider = make_suite("oom_from_depth_8", "ok", depths=(4, 8, 16, 32, 64))
    assert statuses(runs.run(wider, jobs=1))[-2:] == ["skipped", "ok"]
    assert ": oom" not in runs.printed
    assert statuses(runs.run(suite, jobs=1, skip=False)) == ["ok", "ok"] + ["oom", "ok"] * 3


def test_skipped_cells_are_reconsidered_when_what_they_were_skipped_for_runs_again(runs):
    suite = make_suite("oom_from_depth_8", depths=(4, 8, 16))
    runs.run(suite, jobs=1)
    again = runs.run(suite, jobs=1, rerun="failed")
    assert (again.ran, statuses(again)) == (2, ["ok", "oom", "skipped"])
    only = runs.run(suite, rerun="failed", only=["depth=16"])
    assert statuses(only) == ["skipped"]
    assert runs.store.result(only.selected[0].key).reason == "skipped: OOM at depth 8"


def test_crashed_cells_are_tried_again_and_the_record_says_how_often(runs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    suite = make_suite("crashes_twice", "raises", "diverges", "ok")
    outcome = runs.run(suite, retries=2)
    found = {cell.variant["does"]: outcome.results[cell.key] for cell in outcome.selected}
    assert {does: (result.status, result.attempts) for does, result in found.items()} == {
        "crashes_twice": ("ok", 3),
        "raises": ("crashed", 3),
        "diverges": ("diverged", 1),
        "ok": ("ok", 1),
    }
    assert outcome.ran == 4
    assert len([line for line in runs.printed.splitlines() if "to be run again: attempt" in line]) == 4
    assert runs.printed.splitlines()[-1].startswith("[4/4]")


def test_fail_fast_starts_nothing_after_the_first_failure(runs):
    suite = make_suite("ok", "raises", "slow", seeds=(0, 1))
    outcome = runs.run(suite, jobs=1, fail_fast=True)
    assert (outcome.failed_fast, outcome.exit_status) == (True, 1)
    assert [result.status for result in outcome.results.values()] == ["ok", "crashed"]
    assert [path.suffix for path in runs.store.log_path("x").parent.iterdir()] == [".log"] * 2
    later = runs.run(suite, jobs=1)
    assert (later.ran, later.failed_fast) == (4, False)


def test_fail_fast_is_for_what_failed_and_lets_what_runs_end(runs):
    outcome = runs.run(make_suite("oom_from_depth_8", "slow", "ok", depths=(8, 16)), jobs=2, fail_fast=True)
    assert [result.status for result in outcome.results.values()] == ["oom", "ok", "skipped"]


def test_the_plain_display_has_the_plan_and_a_line_for_each_cell(runs):
    suite = make_suite("ok", seeds=(0, 1, 2))
    runs.run(suite, only=["seed=0"])
    runs.run(suite, jobs=1)
    lines = runs.printed.splitlines()
    assert lines[0] == "fake: 3 cells, 1 done already, 2 to run on 1 slot (cpu 0; 1 thread each)"
    assert re.fullmatch(r"\[2/3\] laser does=ok depth 4 seed 1: ok \d+\.\d s, about \d+\.\d s left", lines[1])
    assert re.fullmatch(r"\[3/3\] laser does=ok depth 4 seed 2: ok \d+\.\d s", lines[2])
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("changes", "options", "error"),
    [
        ({"device": "tpu"}, {}, SettingsError),
        ({}, {"only": ["depth=5"]}, SettingsError),
        ({"name": "../elsewhere"}, {}, StoreError),
    ],
)
def test_a_wrong_request_leaves_nothing_behind(runs, tmp_path, changes, options, error):
    with pytest.raises(error):
        runs.run(replace(make_suite("ok"), **changes), **options)
    assert list(tmp_path.iterdir()) == []


def test_the_gpu_on_which_a_cell_runs_makes_it_no_other_work(runs, monkeypatch):
    monkeypatch.setattr("compbench.run.slots.visible_gpus", lambda: ["0", "1"])
    one = runs.run(make_suite("tells_environment", device="cuda:1"), jobs=None)
    any_of_them = runs.run(make_suite("tells_environment", device="cuda"), jobs=None)
    assert [cell.device for cell in one.selected] == ["cuda"]
    assert (one.ran, any_of_them.ran) == (1, 0)
    assert '"CUDA_VISIBLE_DEVICES": "1"' in runs.store.log_path(one.selected[0].key).read_text()


@pytest.fixture
def process(tmp_path):
    """Starts a run in a process of its own, which a signal can be sent to."""
    started = []

    def start(*deeds, grace=5.0):
        arguments = [sys.executable, "-m", "tests.run.interruptible_run", str(tmp_path), str(grace), *deeds]
        started.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def wait_for(condition, run, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def pids_of_run(tmp_path):
    return [pid for log in (tmp_path / "fake" / "logs").glob("*.log") for pid in pids_in(log)]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_run_keeps_what_is_finished_and_goes_on_later(process, tmp_path, number, status):
    run = process("ok", "hangs", "hangs_with_child", "slow")
    wait_for(lambda: len(pids_of_run(tmp_path)) == 3, run)
    run.send_signal(number)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == status, output
    assert output.splitlines()[-2:] == ["stopping 2 cells (once more, and they are killed at once)", "left 3"]
    assert all_end(pids_of_run(tmp_path))
    records = [path.name for path in (tmp_path / "fake" / "cells").iterdir()]
    assert len(records) == 1
    outcome = Runs(tmp_path).run(make_suite("ok", "hangs", "hangs_with_child", "slow"), only=["does=ok,slow"])
    assert (outcome.ran, statuses(outcome)) == (1, ["ok", "ok"])


def test_a_second_signal_kills_at_once(process, tmp_path):
    run = process("ignores_sigterm", grace=60.0)
    wait_for(lambda: len(pids_of_run(tmp_path)) == 1, run)
    run.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=10)
    assert run.returncode == 130, output
    assert all_end(pids_of_run(tmp_path))


def test_a_run_that_is_killed_leaves_no_cell_behind(process, tmp_path):
    run = process("hangs_in_native_code", "hangs_with_child", grace=60.0)
    wait_for(lambda: len(pids_of_run(tmp_path)) == 5, run)
    run.send_signal(signal.SIGKILL)
    run.wait(timeout=10)
    assert all_end(pids_of_run(tmp_path))


@pytest.fixture
def marks(tmp_path, monkeypatch):
    """The lines that marking cells leave, one each time that one is run: the cell and the run."""
    path = tmp_path.parent / f"{tmp_path.name}-marks"
    monkeypatch.setenv("FAKE_CELL_MARKS", str(path))
    return lambda: [line.split() for line in path.read_text().splitlines()]


@pytest.mark.parametrize("rerun", ["missing", "all"])
def test_two_runs_in_one_folder_share_the_cells_and_both_end_when_all_are_done(
    process, tmp_path, monkeypatch, marks, rerun
):
    monkeypatch.setenv("FAKE_SEEDS", "30")
    monkeypatch.setenv("FAKE_RERUN", rerun)
    monkeypatch.setenv("FAKE_BARRIER", str(tmp_path / "barrier"))
    (tmp_path / "barrier").mkdir()
    both = []
    for name in ("first", "second"):
        monkeypatch.setenv("FAKE_RUN", name)
        both.append(process("marks"))
    outputs = [run.communicate(timeout=60)[0] for run in both]
    assert [run.returncode for run in both] == [0, 0], outputs
    lines = marks()
    assert len({cell for cell, _ in lines}) == len(lines) == 30
    assert {run for _, run in lines} == {"first", "second"}
    ran = [int(re.search(r"^ran (\d+)$", output, re.MULTILINE)[1]) for output in outputs]
    assert ran == [sum(run == name for _, run in lines) for name in ("first", "second")]
    assert [len(re.findall(r": ok .* by another run", output)) for output in outputs] == [30 - ran[0], 30 - ran[1]]
    record = Store(tmp_path / "fake").suite()
    assert len(record.keys) == 30
    assert sorted(record.command.splitlines()) == ["first", "second"]
    assert not (tmp_path / "fake" / "claims").exists()


def test_a_cell_of_a_run_that_is_killed_is_done_by_the_one_that_waits_for_it(process, tmp_path, monkeypatch, marks):
    monkeypatch.setenv("FAKE_RUN", "first")
    first = process("marks_and_hangs")
    wait_for(lambda: len(pids_of_run(tmp_path)) == 1, first)
    monkeypatch.setenv("FAKE_RUN", "second")
    second = process("marks_and_hangs")
    assert "1 to run" in second.stdout.readline()
    assert second.stdout.readline() == "waiting for another run in this folder, which has 1 of the cells\n"
    assert not (tmp_path.parent / f"{tmp_path.name}-marks").exists()
    first.kill()
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert [run for _, run in marks()] == ["second"]


def test_a_run_that_waits_for_another_can_be_interrupted(process, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_RUN", "first")
    first = process("marks_and_hangs")
    wait_for(lambda: len(pids_of_run(tmp_path)) == 1, first)
    second = process("marks_and_hangs")
    assert "1 to run" in second.stdout.readline()
    assert "waiting for another run" in second.stdout.readline()
    second.send_signal(signal.SIGINT)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 130, output
    assert output.splitlines()[-1] == "left 1"


def test_an_edited_suite_keeps_what_is_unchanged_runs_what_is_new_and_names_what_is_left(runs):
    before = runs.run(make_suite("ok", arms=("laser", "lance"), seeds=(0, 1)))
    assert before.leftovers == []
    after = runs.run(make_suite("ok", arms=("laser", "gale"), seeds=(0, 1)))
    assert after.ran == 2
    assert statuses(after) == ["ok"] * 4
    assert after.leftovers == sorted(cell.key for cell in before.selected if cell.arm == "lance")
    again = runs.run(make_suite("ok", arms=("laser", "lance"), seeds=(0, 1)))
    assert (again.ran, statuses(again)) == (0, ["ok"] * 4)


@pytest.mark.parametrize("room", [0, 3000], ids=["no room", "room for what is small"])
def test_on_a_full_disk_a_cell_fails_with_that_reason_and_what_was_there_stays(runs, monkeypatch, room):
    suite = make_suite("ok", "has_a_long_curve")
    outcome = runs.run(suite)
    first, second = (runs.results / "fake" / "cells" / f"{cell.key}.json" for cell in outcome.selected)
    second.unlink()
    kept = first.read_bytes()
    # A limit on the size of files, for this process and not for cells: the system itself breaks off a write.
    write = Store.save

    def save(store, result):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            return write(store, result)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", save)
        outcome = runs.run(suite)
    assert statuses(outcome) == ["ok", "failed"]
    failed = outcome.results[outcome.selected[1].key]
    assert failed.reason == "its record, of a cell that ended ok, can't be written: File too large"
    assert first.read_bytes() == kept
    stored = runs.store.results(cell.key for cell in outcome.selected)
    assert [result.status for result in stored.values()] == (["ok", "failed"] if room else ["ok"])
    assert [found.name for found in first.parent.iterdir() if found.name.startswith(".")] == []
    assert statuses(runs.run(suite, rerun="failed")) == ["ok", "ok"]
