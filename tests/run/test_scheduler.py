"""Processes of cells: placed one a slot, ended in time, and none left behind."""

import json
import os
import re
import signal
import sys
import threading
import time

import pytest

from compbench.measure.allocator import REUSE
from compbench.run.affinity import own_cores
from compbench.run.cell_process import Limits, cell_command
from compbench.run.ending import result_of
from compbench.run.executor import Ended, Started
from compbench.run.pending import Pending
from compbench.run.scheduler import Scheduler
from compbench.run.slots import Slot
from compbench.suite.cell import Measuring
from tests.run import fake_cells
from tests.run.fake_suites import all_end, is_alive, make_cell, pids_in

ONE_SLOT = (Slot("cpu 0", 1),)


class Bench:
    """A scheduler over fake cells, with the folders that it needs."""

    def __init__(self, folder):
        self.logs = folder / "logs"
        self.logs.mkdir()

    def log(self, key):
        return self.logs / f"{key}.log"

    def scheduler(self, slots=ONE_SLOT, timeout=60.0, grace=5.0, memory=None, command=fake_cells.command):
        return Scheduler(slots, Limits(timeout, grace, memory), command)

    def results(self, *cells, timeout=60.0, memory=None, **settings):
        with self.scheduler(timeout=timeout, memory=memory, **settings) as scheduler:
            ended = [event for event in scheduler.run(Pending(cells), self.log) if isinstance(event, Ended)]
        return [
            result_of(event.cell, event.end, self.log(event.cell.key), "machine", Limits(timeout, 5.0, memory))
            for event in ended
        ]

    def result(self, does, **settings):
        return self.results(make_cell(does), **settings)[0]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_cell_that_writes_its_record_is_kept_as_it_says(bench):
    result = bench.result("ok")
    assert (result.status, result.metrics, result.machine) == ("ok", {"solved": 0.5}, "machine")
    assert result.log == f"logs/{result.key}.log"
    assert result.log_tail == []
    assert 0 < result.seconds < 60


def test_a_cells_own_status_holds(bench):
    result = bench.result("diverges")
    assert (result.status, result.reason) == ("diverged", "loss is nan at step 3")


def test_a_record_holds_though_the_process_crashed_after_writing_it(bench):
    assert bench.result("crashes_after_record").status == "ok"


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("raises", "exit status 1: ValueError: this went wrong"),
        ("ends_without_record", "ended without a record"),
        ("kills_itself", "killed by SIGKILL (Killed)"),
        ("segfaults", "killed by SIGSEGV (Segmentation fault)"),
        ("writes_rubbish", "ended without a record; its record is not valid (1 mistakes)"),
    ],
)
def test_a_process_that_ends_without_a_record_has_crashed(bench, does, reason):
    result = bench.result(does)
    assert (result.status, result.reason) == ("crashed", reason)


def test_a_record_of_another_cell_is_not_taken(bench):
    result = bench.result("writes_another_cells_record")
    assert result.status == "crashed"
    assert "its record is of another cell" in result.reason


def test_a_crash_keeps_the_last_twenty_lines_of_the_log(bench):
    tail = bench.result("raises").log_tail
    assert len(tail) == 20
    assert tail[-1] == "ValueError: this went wrong"


def test_a_segmentation_fault_leaves_its_python_stack_in_the_log(bench):
    assert any("Segmentation fault" in line for line in bench.result("segfaults").log_tail)


def test_a_process_that_cant_be_started_has_crashed(bench):
    result = bench.result("ok", command=lambda spec, out: ["/nonexistent/python"])
    assert result.status == "crashed"
    assert "can't start its process" in result.reason


def test_a_cell_that_hangs_is_stopped_in_time(bench):
    result = bench.result("hangs", timeout=1.5)
    assert (result.status, result.reason) == ("timeout", "took longer than 1.5 s")
    assert 1.5 <= result.seconds < 6
    assert not is_alive(pids_in(bench.log(result.key))[0])


def test_a_cell_that_ignores_sigterm_is_killed_after_the_grace(bench):
    result = bench.result("ignores_sigterm", timeout=1.5, grace=0.3)
    assert result.status == "timeout"
    assert 1.8 <= result.seconds < 6


@pytest.mark.parametrize(
    ("does", "status", "processes"),
    [
        ("leaves_child_behind", "ok", 1),
        ("leaves_daemon_behind", "ok", 1),
        ("hangs_with_child", "timeout", 2),
        ("hangs_in_native_code", "timeout", 3),
    ],
)
def test_no_process_of_a_cell_outlives_it(bench, does, status, processes):
    timeout = 2.0 if status == "timeout" else 60.0
    result = bench.result(does, timeout=timeout, grace=0.2)
    pids = pids_in(bench.log(result.key))
    assert result.status == status
    assert len(pids) == processes
    assert not any(map(is_alive, pids))


def test_a_memory_limit_holds_and_what_it_ends_is_out_of_memory(bench):
    limited = bench.result("takes_memory", memory=500 * 10**6)
    assert (limited.status, limited.reason, limited.statistics) == ("oom", "MemoryError", {"kept": 60 * 10**6})
    assert bench.result("takes_memory").statistics == {"kept": 60 * 10**6 + 10**9}


def test_a_process_that_dies_with_its_memory_used_up_is_out_of_memory(bench):
    (result,) = bench.results(make_cell("dies_of_memory", measuring=Measuring(allocator="default")), memory=10**9)
    assert result.status == "oom"
    assert re.fullmatch(
        r"killed by SIGABRT \(Aborted\), when it had had (9\d+\.\dM|1\.0G)B of the 1\.0GB that it may have",
        result.reason,
    )
    assert bench.result("segfaults", memory=10**9).status == "crashed"


def test_a_guard_that_is_killed_takes_its_cell_with_it(bench):
    cell = make_cell("hangs_in_native_code")
    with bench.scheduler() as scheduler:
        events = scheduler.run(Pending([cell]), bench.log)
        next(events)
        killer = threading.Thread(target=_kill_the_last, args=(bench.log(cell.key),))
        killer.start()
        ended = next(events)
        killer.join()
    pids = pids_in(bench.log(cell.key))
    assert (ended.end.exit_status, ended.end.interrupted) == (-signal.SIGKILL, False)
    assert len(pids) == 3
    assert all_end(pids)


def _kill_the_last(log):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pids = pids_in(log) if log.exists() else []
        if len(pids) == 3:
            os.kill(pids[-1], signal.SIGKILL)
            return
        time.sleep(0.02)


def test_one_bad_cell_takes_no_other_with_it(bench):
    does = ["ok", "kills_itself", "ok", "raises", "ok"]
    slots = [Slot("cpu 0", 1), Slot("cpu 1", 1)]
    results = bench.results(*(make_cell(deed, seed=seed) for seed, deed in enumerate(does)), slots=slots)
    assert {result.cell.seed: result.status for result in results} == {
        0: "ok",
        1: "crashed",
        2: "ok",
        3: "crashed",
        4: "ok",
    }


@pytest.mark.parametrize("count", [1, 2])
def test_a_slot_takes_one_cell_at_a_time(bench, count):
    slots = [Slot(f"cpu {index}", 1) for index in range(count)]
    results = bench.results(*(make_cell("notes_times", seed=seed) for seed in range(4)), slots=slots)
    spans = [(result.statistics["began"], result.statistics["ended"]) for result in results]
    assert max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans) == count


def test_cells_start_in_their_order(bench):
    cells = [make_cell("ok", seed=seed) for seed in range(3)]
    with bench.scheduler() as scheduler:
        started = [event.cell.seed for event in scheduler.run(Pending(cells), bench.log) if isinstance(event, Started)]
    assert started == [0, 1, 2]


def test_a_cell_gets_threads_allocator_device_and_a_session_of_its_own(bench, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("compbench.measure.allocator.c_library", lambda: "glibc 2.36")
    before = own_cores()
    core = before[-1] if before else 0
    result = bench.result("tells_environment", slots=[Slot("gpu 3", 2, gpu="3", cores=(core,))])
    told, own_session, cores = bench.log(result.key).read_text().splitlines()
    assert json.loads(told) == {
        "GLIBC_TUNABLES": REUSE,
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "3",
        "COMPBENCH_CORES": str(core),
    }
    assert own_session == "True"
    assert cores == str([core] if before else None)
    assert own_cores() == before


def test_a_cell_may_be_left_the_systems_allocator(bench, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    (result,) = bench.results(make_cell("tells_environment", measuring=Measuring(allocator="default")))
    assert json.loads(bench.log(result.key).read_text().splitlines()[0])["GLIBC_TUNABLES"] is None


def test_the_users_own_allocator_settings_hold(bench, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    result = bench.result("tells_environment")
    assert json.loads(bench.log(result.key).read_text().splitlines()[0])["GLIBC_TUNABLES"] == "glibc.malloc.check=0"


def test_sigkill_while_the_oom_killer_was_at_work_is_oom(bench, monkeypatch):
    kills = iter([7, 8])
    monkeypatch.setattr("compbench.run.cell_process.kill_count", lambda: next(kills))
    result = bench.result("kills_itself")
    assert (result.status, result.reason) == ("oom", "killed by the kernel's out-of-memory killer")


@pytest.mark.parametrize(("does", "status"), [("ignores_sigterm", "timeout"), ("segfaults", "crashed")])
def test_another_end_while_the_oom_killer_was_at_work_is_not_oom(bench, monkeypatch, does, status):
    kills = iter(range(10))
    monkeypatch.setattr("compbench.run.cell_process.kill_count", lambda: next(kills))
    assert bench.result(does, timeout=1.5, grace=0.1).status == status


def test_leaving_early_ends_every_process(bench):
    with bench.scheduler() as scheduler:
        cell = make_cell("hangs_with_child")
        events = scheduler.run(Pending([cell]), bench.log)
        next(events)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(InterruptedError):
            _raise_on_sigusr1(events, bench.log(cell.key))
    pids = pids_in(bench.log(cell.key))
    assert len(pids) == 2
    assert all_end(pids)


def _raise_on_sigusr1(events, log):
    def handler(number, frame):
        deadline = time.monotonic() + 10
        while len(pids_in(log)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        raise InterruptedError

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        next(events)
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_signal_handlers_are_given_back(bench):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with bench.scheduler() as scheduler:
        list(scheduler.run(Pending([make_cell("ok")]), bench.log))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_waiting_costs_no_processor_time(bench):
    before = time.process_time()
    bench.result("hangs", timeout=1.0)
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize(("path", "isolated"), [("", False), ("/usr", True)])
def test_a_cell_looks_for_modules_in_the_current_folder_only_if_the_parent_does(path, isolated, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path])
    command = cell_command(tmp_path / "spec", tmp_path / "out")
    assert ("-P" in command) is isolated
    assert command[-4:] == ["-m", "compbench.run.cell", str(tmp_path / "spec"), str(tmp_path / "out")]
