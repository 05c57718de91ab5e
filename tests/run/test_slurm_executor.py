"""Suites on Slurm: by submitit's own stand-in for it, and by a real cluster of one node where that can be had."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from compbench.errors import SettingsError
from compbench.run.cell_process import Limits
from compbench.run.executors import ExecutorRequest, make_executor
from compbench.run.runner import RunOptions, SuiteRunner
from compbench.suite.executors import Executors, SlurmSettings
from tests.run import fake_cells
from tests.run.comparing import work_in
from tests.run.fake_suites import FakeRegistry, all_end, make_suite
from tests.run.one_node_slurm import one_node_slurm, why_not
from tests.run.watched import Watched

pytest.importorskip("submitit")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def signatures(tmp_path, monkeypatch):
    """The file in which fake cells leave a line when they begin and when they end."""
    file = tmp_path / "signatures"
    file.write_text("")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # jobs find the fake cells there
    monkeypatch.setenv("COMPBENCH_TEST_SIGNATURES", str(file))
    return file


def lines(signatures):
    return [line.split() for line in signatures.read_text().splitlines()]


def run(results, suite, registry=None, executor="slurm", **options):
    shown = []
    runner = SuiteRunner(
        suite,
        registry or FakeRegistry(),
        RunOptions(results=results, executor=executor, **options),
        lambda plan: shown.append(Watched(plan)) or shown[0],
        lambda line: None,
        command=fake_cells.command,
        grace_seconds=0.3,
    )
    return runner.run(), *shown


def on_slurm(folder, cluster="slurm", **settings):
    return Executors(slurm=SlurmSettings(folder=str(folder), cluster=cluster, **settings))


def script(device="cpu", timeout_seconds=60.0, threads=None, **settings):
    suite = make_suite("ok", device=device, threads=threads, executors=on_slurm("/shared/jobs", **settings))
    return make_executor("slurm", ExecutorRequest(suite, Limits(timeout_seconds))).script()


def options_of(text):
    found = [line.removeprefix("#SBATCH --").partition("=") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in found}


def test_what_a_suite_says_is_in_the_script_of_its_jobs():
    text = script(
        device="cuda",
        threads=4,
        partition="a100",
        memory_gb=1.5,
        account="ours",
        qos="low",
        constraint="nvlink",
        setup=["module load cuda"],
        sbatch={"mail-type": "END"},
    )
    expected = {
        "partition": "a100",
        "gpus-per-node": "1",
        "cpus-per-task": "4",
        "mem": "1536MB",
        "account": "ours",
        "qos": "low",
        "constraint": "nvlink",
        "mail-type": "END",
        "job-name": "compbench-fake",
        "time": "7",
    }
    assert options_of(text).items() >= expected.items()
    assert "\nmodule load cuda\n" in text
    assert f"{sys.executable} -u -m submitit.core._submit /shared/jobs/fake" in text


def test_what_it_does_not_say_is_left_to_slurm():
    asked = options_of(script(minutes=90))
    assert (asked["time"], asked["cpus-per-task"]) == ("90", "1")
    assert not {"partition", "mem", "gpus-per-node", "account", "qos", "constraint"} & asked.keys()
    assert "gpus-per-node" not in options_of(script(device="cuda", gpus=0))


def test_how_long_a_job_may_take_has_to_be_said():
    with pytest.raises(SettingsError, match="it is not said how long a cell may take"):
        script(timeout_seconds=None)
    assert options_of(script(timeout_seconds=None, minutes=3))["time"] == "3"


def test_a_machine_without_slurm_is_told_so_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="needs the program 'sbatch'"):
        run(tmp_path, make_suite("ok", executors=on_slurm(tmp_path / "jobs")))
    assert not list((tmp_path / "fake" / "cells").iterdir())


def test_without_submitit_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SettingsError, match=r"--executor slurm needs .* pip install 'compbench\[slurm\]'"):
        script()


def test_results_are_those_of_a_local_run_and_plugins_come_along(tmp_path, signatures):
    registry = FakeRegistry()
    registry.plugins_dir = tmp_path / "plugins"
    registry.plugins_dir.mkdir()
    (registry.plugins_dir / "mine.py").write_text("# of my own")
    deeds = ("raises", "kills_itself", "reads_plugins")
    suite = make_suite(*deeds, executors=on_slurm(tmp_path / "jobs", "local"))
    by_submitit, _ = run(tmp_path / "there", suite, registry)
    local, _ = run(tmp_path / "here", suite, registry, executor="local")
    assert by_submitit.statuses == {"ok": 1, "crashed": 2}
    assert work_in(by_submitit.directory) == work_in(local.directory)
    for cell in local.selected:
        logs = [(outcome.directory / "logs" / f"{cell.key}.log").read_text() for outcome in (by_submitit, local)]
        assert logs[0] == logs[1]
    assert not list((tmp_path / "jobs" / "fake").iterdir())  # nothing is left of jobs that have been seen to


def test_traces_come_back_with_the_records(tmp_path, signatures):
    suite = make_suite("is_traced", seeds=(0, 1), executors=on_slurm(tmp_path / "jobs", "local"))
    outcome, _ = run(tmp_path / "results", suite, trace_steps=3)
    assert outcome.statuses == {"ok": 2}
    assert sorted(outcome.traces) == sorted(cell.key for cell in outcome.selected)
    for folder in outcome.traces.values():
        assert (folder / "strategy" / "strategy.pt.trace.json.gz").read_text() == "3 steps"


def test_a_job_that_dies_is_lost_and_not_for_ever(tmp_path, signatures, monkeypatch):
    monkeypatch.setattr("compbench.run.runner.MOST_LOSSES", 2)
    outcome, shown = run(tmp_path, make_suite("kills_its_worker", executors=on_slurm(tmp_path / "jobs", "local")))
    assert outcome.statuses == {"crashed": 1}
    assert outcome.results[outcome.selected[0].key].reason.startswith("its node was lost 2 times")
    assert len(shown.lost) == 1


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if why := why_not():
        pytest.skip(why)
    with one_node_slurm(tmp_path_factory.mktemp("slurm")) as configuration, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        yield


def start_process(folder, deed, seeds):
    command = [sys.executable, "-m", "tests.run.cluster_run", "slurm", folder / "jobs", folder, deed, str(seeds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def queued():
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slurm
def test_a_real_slurm_gives_the_results_of_a_local_run(slurm, tmp_path, signatures):
    suite = make_suite("ok", "raises", "diverges", executors=on_slurm(tmp_path / "jobs", partition="short", minutes=2))
    there, shown = run(tmp_path / "there", suite)
    here, _ = run(tmp_path / "here", suite, executor="local")
    assert there.statuses == {"ok": 1, "crashed": 1, "diverged": 1}
    assert work_in(there.directory) == work_in(here.directory)
    assert not shown.lost
    assert not list((tmp_path / "jobs" / "fake").iterdir())


@pytest.mark.slurm
def test_what_a_real_slurm_refuses_is_the_reason(slurm, tmp_path, signatures):
    suite = make_suite("ok", executors=on_slurm(tmp_path / "jobs", partition="long"))
    outcome, _ = run(tmp_path, suite)
    (result,) = outcome.results.values()
    assert result.status == "crashed"
    assert result.reason.startswith("Slurm refuses its job: ")
    assert "Invalid partition name specified" in result.reason


@pytest.mark.slurm
def test_jobs_that_outlive_the_runner_are_taken_over_and_none_runs_twice(slurm, tmp_path, signatures):
    runner = start_process(tmp_path, "signs", 5)
    wait_for(lambda: len(lines(signatures)) >= 3 or runner.poll() is not None)
    runner.send_signal(signal.SIGKILL)
    runner.communicate()
    suite = make_suite("signs", seeds=range(5), executors=on_slurm(tmp_path / "jobs"))
    outcome, _ = run(tmp_path, suite)
    assert outcome.statuses == {"ok": 5}
    assert Counter(what for what, _, _ in lines(signatures)) == {"began": 5, "ended": 5}


@pytest.mark.slurm
def test_an_interrupted_run_leaves_no_job_behind(slurm, tmp_path, signatures):
    runner = start_process(tmp_path, "signs_and_hangs", 4)
    wait_for(lambda: lines(signatures) or runner.poll() is not None)
    runner.send_signal(signal.SIGINT)
    out, _ = runner.communicate(timeout=180)
    assert runner.returncode == 130, out
    wait_for(lambda: not queued())
    assert all_end([int(pid) for _, _, pid in lines(signatures)], within_seconds=20)
    assert not list((tmp_path / "fake" / "cells").glob("[!.]*.json"))
    assert not list((tmp_path / "jobs" / "fake").glob("*.job.json"))
    assert os.listdir(tmp_path / "fake" / "logs") == []
