"""Suites on a Ray cluster: three nodes on this machine, of which some are killed."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from compbench.errors import SettingsError
from compbench.run.cell_process import Limits
from compbench.run.executors import ExecutorRequest, make_executor
from compbench.run.runner import RunOptions, SuiteRunner
from compbench.suite.executors import Executors, RaySettings
from tests.run import fake_cells
from tests.run.comparing import work_in
from tests.run.fake_suites import FakeRegistry, all_end, make_suite
from tests.run.ray_cluster import ThreeNodes
from tests.run.watched import Watched

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
    """The file in which fake cells leave a line when they begin and when they end."""
    return tmp_path_factory.mktemp("signatures") / "lines"


@pytest.fixture(scope="module")
def running_cluster(signatures):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # nodes find the fake cells there
        patch.setenv("COMPBENCH_TEST_SIGNATURES", str(signatures))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = ThreeNodes()
        yield cluster
        cluster.cluster.shutdown()


@pytest.fixture
def cluster(running_cluster, signatures):
    signatures.write_text("")
    running_cluster.make_whole()
    return running_cluster


def run(address, results, suite, show=Watched, registry=None, executor="ray", **options):
    shown = []
    runner = SuiteRunner(
        suite,
        registry or FakeRegistry(),
        RunOptions(results=results, executor=executor, address=address, **options),
        lambda plan: shown.append(show(plan)) or shown[0],
        lambda line: None,
        command=fake_cells.command,
        grace_seconds=0.3,
    )
    return runner.run(), *shown


def lines(signatures):
    return [line.split() for line in signatures.read_text().splitlines()]


def test_traces_come_back_with_the_records(cluster, tmp_path):
    suite = make_suite("is_traced", seeds=(0, 1, 2))
    outcome, _ = run(cluster.address, tmp_path, suite, trace_steps=3)
    assert outcome.statuses == {"ok": 3}
    assert sorted(outcome.traces) == sorted(cell.key for cell in outcome.selected)
    for folder in outcome.traces.values():
        assert (folder / "strategy" / "strategy.pt.trace.json.gz").read_text() == "3 steps"


def test_a_node_killed_in_the_middle_loses_nothing_and_does_nothing_twice(cluster, tmp_path, signatures):
    registry, suite = FakeRegistry(), make_suite("signs", arms=("laser", "int8"), seeds=range(6))
    finished_before = []

    def kill_a_node(progress):
        finished_before.extend(key for what, key, _ in lines(signatures) if what == "ended")
        cluster.kill(list(progress.places.values())[-1])  # which began last

    outcome, shown = run(
        cluster.address, tmp_path, suite, lambda plan: Watched(plan, 3, kill_a_node), registry=registry
    )
    assert outcome.statuses == {"ok": 12}
    told = Counter(arguments["result"]["key"] for hook, arguments in registry.told if hook.endswith("cell_finished"))
    assert told == {cell.key: 1 for cell in outcome.selected}  # one record each
    (lost,) = shown.lost
    assert "is lost: NodeDiedError" in lost[1]
    began = Counter(key for what, key, _ in lines(signatures) if what == "began")
    assert {key for key, times in began.items() if times > 1} <= {lost[0]}
    assert set(began) == {cell.key for cell in outcome.selected}
    assert len(finished_before) >= 3
    assert lost[0] not in finished_before
    assert all(began[key] == 1 for key in finished_before)


def test_results_are_those_of_a_local_run_and_plugins_reach_the_nodes(cluster, tmp_path):
    registry = FakeRegistry()
    registry.plugins_dir = tmp_path / "plugins"
    registry.plugins_dir.mkdir()
    (registry.plugins_dir / "mine.py").write_text("# of my own")
    suite = make_suite("ok", "raises", "diverges", "kills_itself", "reads_plugins", "writes_rubbish")
    on_ray, _ = run(cluster.address, tmp_path / "ray", suite, registry=registry)
    local, _ = run(None, tmp_path / "local", suite, registry=registry, executor="local")
    assert on_ray.statuses == {"ok": 2, "crashed": 3, "diverged": 1}
    assert work_in(on_ray.directory) == work_in(local.directory)
    for cell in on_ray.selected:
        logs = [(outcome.directory / "logs" / f"{cell.key}.log").read_text() for outcome in (on_ray, local)]
        assert logs[0] == logs[1]
    machines = [{result.machine for result in outcome.results.values()} for outcome in (on_ray, local)]
    assert machines[0] == machines[1]
    (reads,) = (cell for cell in on_ray.selected if cell.variant["does"] == "reads_plugins")
    assert "('mine.py', '# of my own')" in (on_ray.directory / "logs" / f"{reads.key}.log").read_text()


def test_a_time_limit_holds_on_the_node(cluster, tmp_path):
    outcome, _ = run(cluster.address, tmp_path, make_suite("ok", "hangs_in_native_code", timeout_seconds=1.0))
    assert outcome.statuses == {"ok": 1, "timeout": 1}


def test_a_worker_that_dies_under_a_cell_is_lost_and_not_for_ever(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("compbench.run.runner.MOST_LOSSES", 2)
    outcome, shown = run(cluster.address, tmp_path, make_suite("ok", "kills_its_worker"))
    killed = outcome.results[outcome.selected[1].key]
    assert outcome.statuses == {"ok": 1, "crashed": 1}
    assert killed.reason.startswith("its node was lost 2 times, at last ")
    assert len(shown.lost) == 1


def start_process(address, results, deed, seeds):
    arguments = [sys.executable, "-m", "tests.run.cluster_run", "ray", address, str(results), deed, str(seeds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def wait_for(condition, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def test_the_runner_can_die_and_the_same_command_does_the_rest(cluster, tmp_path, signatures):
    driver = start_process(cluster.address, tmp_path, "signs", 9)
    cells = tmp_path / "fake" / "cells"
    wait_for(lambda: len(list(cells.glob("[!.]*.json"))) >= 3 or driver.poll() is not None)
    driver.kill()
    driver.communicate()
    kept = {path.stem for path in cells.glob("[!.]*.json")}
    assert 3 <= len(kept) < 9
    assert all_end([int(pid) for _, _, pid in lines(signatures)], within_seconds=20)
    before = len(lines(signatures))
    outcome, _ = run(cluster.address, tmp_path, make_suite("signs", seeds=range(9)))
    assert outcome.statuses == {"ok": 9}
    again = {key for what, key, _ in lines(signatures)[before:]}
    assert again == {cell.key for cell in outcome.selected} - kept


def test_an_interrupted_run_without_a_cluster_leaves_no_process_behind(tmp_path, signatures, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COMPBENCH_TEST_SIGNATURES", str(signatures))
    signatures.write_text("")
    driver = start_process("local", tmp_path, "signs_and_hangs", 4)
    with contextlib.closing(driver.stdout):
        wait_for(lambda: lines(signatures) or driver.poll() is not None)
        started = time.monotonic()
        driver.send_signal(signal.SIGINT)
        status, out = driver.wait(60), driver.stdout.read()
    assert status == 130, out
    assert time.monotonic() - started < 20
    assert "4 to run by Ray on this machine" in out
    pids = [int(pid) for _, _, pid in lines(signatures)]
    assert pids
    assert all_end(pids)
    assert not list((tmp_path / "fake" / "cells").glob("[!.]*.json"))


def test_an_address_that_does_not_answer_is_an_error_within_15_seconds(tmp_path):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            ports = deaf.getsockname()[1], unused.getsockname()[1]
        errors = []

        def attempt(address):
            began = time.monotonic()
            with pytest.raises(SettingsError) as raised:
                run(address, tmp_path / address, make_suite("ok"))
            errors.append((time.monotonic() - began, str(raised.value)))

        addresses = [*(f"127.0.0.1:{port}" for port in ports), "nowhere.invalid:6379"]
        threads = [threading.Thread(target=attempt, args=(address,)) for address in addresses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 3
    assert all(seconds < 15 and message.startswith("Ray at '") for seconds, message in errors), errors
    assert not list(tmp_path.rglob("cells/*.json"))


def test_a_cell_that_fits_on_no_node_is_an_error_and_not_an_endless_wait(cluster, tmp_path):
    suite = make_suite("ok", executors=Executors(ray=RaySettings(gpus=2)))
    with pytest.raises(SettingsError, match=r"no node of the Ray cluster has 1 CPU, 2 GPU for a cell \(there is: "):
        run(cluster.address, tmp_path, suite)
    assert not ray.is_initialized()


def test_what_a_cell_reserves():
    def needs(device="cpu", threads=None, **settings):
        suite = make_suite("ok", device=device, threads=threads, executors=Executors(ray=RaySettings(**settings)))
        return make_executor("ray", ExecutorRequest(suite, Limits())).needs

    assert needs() == {"CPU": 1, "GPU": 0}
    assert needs(device="cuda", threads=4) == {"CPU": 4, "GPU": 1}
    assert needs(device="cuda", gpus=0, cpus=3, resources={"a100": 0.5}) == {"CPU": 3, "GPU": 0, "a100": 0.5}


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"--executor ray needs .* pip install 'compbench\[ray\]'"):
        make_executor("ray", ExecutorRequest(make_suite("ok"), Limits()))


def test_an_address_is_rays_alone():
    with pytest.raises(SettingsError, match="--address beside --executor local"):
        make_executor("local", ExecutorRequest(make_suite("ok"), Limits(), address="auto"))
