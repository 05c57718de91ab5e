"""``compbench run`` as its user sees it: what is printed, what is kept, and the exit status."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compbench.cli import main
from compbench.cli.run_command import command_line
from compbench.run.runner import SuiteRunner
from compbench.run.store import Store
from tests.run import fake_cells

SUITE = """
name: tiny
workload: {name: trm_maze, grid: 5, train_mazes: 8, validation_mazes: 4, hidden: 16, heads: 1, inner: 16}
arms:
  none: none
  int8: int8
matrix:
  depth: [2, 4]
  seed: [0, 1]
device: cpu
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with a suite, whose cells end at once and well."""
    (tmp_path / "tiny.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    fake = functools.partial(SuiteRunner, command=fake_cells.command)
    monkeypatch.setattr("compbench.cli.run_command.SuiteRunner", fake)
    return tmp_path


@pytest.fixture
def compbench(folder, monkeypatch, capsys):
    """Runs a command line; gives its exit status, output and errors."""

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return invoke


def records(directory):
    return sorted(path.name.rpartition("-")[0] for path in (directory / "cells").iterdir())


def test_a_run_keeps_every_cell_and_prints_the_table(compbench, folder):
    status, out, _ = compbench("run", "tiny.yaml")
    assert status == 0
    assert out.startswith("tiny: 8 cells, 0 done already, 8 to run on")
    assert len(re.findall(r"^\[\d/8\] .*: ok", out, re.MULTILINE)) == 8
    assert records(folder / "results" / "tiny") == sorted(
        f"{arm}-d{depth}-s{seed}" for arm in ("none", "int8") for depth in (2, 4) for seed in (0, 1)
    )
    rows = [line.split()[:2] for line in out.splitlines() if line.startswith("int8 ")]
    assert rows == [["int8", "2"], ["int8", "4"]]
    assert "- in every row: status ok, seeds 2" in out
    assert (folder / "results" / "tiny" / "README.md").is_file()
    assert (folder / "results" / "tiny" / "table.csv").is_file()


def test_again_there_is_nothing_to_do_and_the_table_is_the_same(compbench, folder):
    _, first, _ = compbench("run", "tiny.yaml")
    readme = (folder / "results" / "tiny" / "README.md").read_bytes()
    status, second, _ = compbench("run", "tiny.yaml", "--only", "seed=0")
    assert status == 0
    assert second.startswith("tiny: nothing to do, all 4 cells are in results/tiny\n")
    assert first.split("\n\n", 1)[1] == second.split("\n\n", 1)[1]
    assert (folder / "results" / "tiny" / "README.md").read_bytes() == readme


def test_results_go_where_they_are_asked_to(compbench, folder):
    status, _, _ = compbench("run", "tiny.yaml", "--results", "elsewhere", "--only", "depth=2", "--only", "arm=no*")
    assert status == 0
    assert records(folder / "elsewhere" / "tiny") == ["none-d2-s0", "none-d2-s1"]
    assert not (folder / "results").exists()


def test_failures_are_grouped_at_the_end_and_the_status_is_1(compbench, monkeypatch):
    def command(spec: Path, out: Path):
        wrong = "int8" in spec.name
        return [sys.executable, "-c", "raise ValueError('boom')"] if wrong else fake_cells.command(spec, out)

    failing = functools.partial(SuiteRunner, command=command)
    monkeypatch.setattr("compbench.cli.run_command.SuiteRunner", failing)
    status, out, _ = compbench("run", "tiny.yaml", "--only", "seed=0")
    assert status == 1
    assert out.split("\n\n")[-1].splitlines()[:3] == [
        "2 of 4 cells are not ok:",
        "  2 cells crashed: exit status 1: ValueError: boom",
        out.split("\n\n")[-1].splitlines()[2],
    ]
    assert "    such as int8 depth 2 seed 0  (results/tiny/logs/int8-d2-s0-" in out
    again, _, _ = compbench("run", "tiny.yaml", "--only", "seed=0")
    assert again == 1
    assert compbench("run", "tiny.yaml", "--only", "arm=none")[0] == 0


def test_options_reach_the_run(compbench, folder):
    _, out, _ = compbench("run", "tiny.yaml", "--jobs", "3", "--only", "seed=0")
    assert "to run on 3 slots (cpu 0, cpu 1, cpu 2; 1 thread each)" in out
    _, out, _ = compbench("run", "tiny.yaml", "--only", "seed=0", "--rerun", "all")
    assert "4 cells, 0 done already, 4 to run" in out
    assert Store(folder / "results" / "tiny").suite().command.splitlines() == [
        "compbench run tiny.yaml --only seed=0 --jobs 3",
        "compbench run tiny.yaml --only seed=0",
    ]


def test_a_timeout_is_for_this_run(compbench, monkeypatch):
    def sleep(spec: Path, out: Path):
        return [sys.executable, "-c", "import time; time.sleep(60)"]

    monkeypatch.setattr("compbench.cli.run_command.SuiteRunner", functools.partial(SuiteRunner, command=sleep))
    status, out, _ = compbench("run", "tiny.yaml", "--timeout", "0.2", "--only", "seed=0", "--only", "depth=2")
    assert status == 1
    assert (
        "2 cells timeout: took longer than 0.2 s\n    such as none depth 2 seed 0  (results/tiny/logs/none-d2-s0-"
        in out
    )


def test_what_to_do_about_failures_is_said_by_the_command_line(compbench, folder, monkeypatch):
    limits = []

    def crash(spec: Path, out: Path):
        limits.append(spec)
        return [
            sys.executable,
            "-c",
            "import os, resource; print(resource.getrlimit(resource.RLIMIT_DATA)); os.abort()",
        ]

    monkeypatch.setattr("compbench.cli.run_command.SuiteRunner", functools.partial(SuiteRunner, command=crash))
    arguments = ["--retries", "1", "--fail-fast", "--jobs", "1", "--memory-limit", "2GB"]
    status, out, _ = compbench("run", "tiny.yaml", *arguments)
    assert (status, len(limits)) == (1, 2)
    assert "ended by the first failure (--fail-fast); the same command goes on with the other 7 cells" in out
    assert "1 cell crashed: killed by SIGABRT (Aborted)\n    none depth 2 seed 0  (results/tiny/logs/" in out
    (log,) = (folder / "results" / "tiny" / "logs").iterdir()
    assert log.read_text().startswith("(2000000000, 2000000000)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "missing.yaml"),
        (["tiny.yaml", "--only", "dept=2"], "unknown axis 'dept'; did you mean 'depth'?"),
        (["tiny.yaml", "--only", "depth=3"], "unknown depth '3' (allowed: 2, 4)"),
        (["tiny.yaml", "--plugins-dir", "nowhere"], "nowhere"),
        (["tiny.yaml", "--timeout", "0"], "--timeout 0 (allowed: seconds > 0)"),
        (["tiny.yaml", "--timeout", "nan"], "--timeout nan (allowed: seconds > 0)"),
        (["tiny.yaml", "--memory-limit", "lots"], "--memory-limit lots: no size (allowed: such as 4GB"),
        (["tiny.yaml", "--memory-limit", "100MB"], "(allowed: 1GB or more)"),
        (["tiny.yaml", "--results", "tiny.yaml"], "can't write to results folder"),
        (["broken.yaml"], "broken.yaml:"),
    ],
)
def test_bad_input_is_one_message_with_status_2_and_leaves_nothing(compbench, folder, arguments, message):
    (folder / "broken.yaml").write_text(SUITE.replace("depth: [2, 4]", "depth: [0]"))
    before = sorted(folder.iterdir())
    status, out, err = compbench("run", *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--rerun", "some"], ["--bogus"], []])
def test_wrong_usage_has_status_2(compbench, arguments):
    status, _, err = compbench("run", *(["tiny.yaml", *arguments] if arguments else []))
    assert status == 2
    assert "Usage: compbench run" in err


def test_a_device_that_is_not_there_is_an_error(compbench, folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, _, err = compbench("run", "tiny.yaml", "--device", "cuda")
    assert (status, err) == (
        2,
        "error: no device 'cuda' here (available: cpu)\n",
    )
    assert not (folder / "results").exists()


def test_a_real_bug_keeps_its_traceback(compbench, monkeypatch):
    def bug(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("compbench.cli.run_command.load_suite", bug)
    with pytest.raises(ZeroDivisionError):
        compbench("run", "tiny.yaml")


def test_the_command_of_a_run_can_be_pasted_into_a_shell():
    command = command_line("my suite.yaml", 2, ["arm=laser*"], Path("own"), "cuda", 90.0)
    assert command == (
        "compbench run 'my suite.yaml' --only 'arm=laser*' --jobs 2 --plugins-dir own --device cuda --timeout 90"
    )
    limited = command_line("quick", None, [], None, None, None, "4GB", no_skip=True)
    assert limited == "compbench run quick --memory-limit 4GB --no-skip"
    assert command_line("quick", None, [], None, None, None) == "compbench run quick"


def test_help_names_every_command_and_shows_examples(compbench):
    status, out, _ = compbench("--help")
    assert status == 0
    for line in ("compbench run quick", "compbench table results/quick --format github", "compbench plugins laser"):
        assert line in out
    assert "Exit status:" in out
    status, out, _ = compbench("run", "--help")
    assert status == 0
    assert "compbench run mine.yaml --rerun failed" in out


def test_python_m_compbench_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "compbench", "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert re.fullmatch(r"compbench \S.*\n", done.stdout)


def test_a_dry_run_lists_what_would_run_and_leaves_nothing_behind(compbench, folder):
    status, out, _ = compbench("run", "tiny.yaml", "--only", "depth=2", "--dry-run")
    assert status == 0
    assert out.startswith("tiny: 4 cells, 0 done already, 4 to run on ")
    listed = [line.split(maxsplit=1)[1] for line in out.splitlines()[1:]]
    assert sorted(listed) == [f"{arm} depth 2 seed {seed}" for arm in ("int8", "none") for seed in (0, 1)]
    assert [path.name for path in folder.iterdir()] == ["tiny.yaml"]


def test_a_dry_run_knows_what_is_done_already(compbench, folder):
    compbench("run", "tiny.yaml", "--only", "seed=0")
    before = sorted(folder.rglob("*"))
    _, out, _ = compbench("run", "tiny.yaml", "--dry-run")
    assert out.startswith("tiny: 8 cells, 4 done already, 4 to run on ")
    assert len(re.findall(r"^ +\d+  \w+ depth \d seed 1  \(about .* s\)$", out, re.MULTILINE)) == 4
    assert sorted(folder.rglob("*")) == before


def test_an_observer_is_started_before_anything_runs(compbench, folder):
    status, _, err = compbench("run", "tiny.yaml", "--observer", "mlfow")
    assert (status, err) == (2, "error: unknown observer 'mlfow'; did you mean 'mlflow'? (allowed: mlflow, wandb)\n")
    assert [path.name for path in folder.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--address", "auto"], "--address beside --executor local (allowed: beside --executor ray)"),
        (["--executor", "ray", "--device", "cuda:1"], "no device 'cuda:1' on a cluster (available: cpu, cuda)"),
    ],
)
def test_what_an_executor_does_not_take_is_bad_input(compbench, folder, options, expected):
    status, _, err = compbench("run", "tiny.yaml", *options)
    assert (status, err) == (2, f"error: {expected}\n")
    assert [path.name for path in folder.iterdir()] == ["tiny.yaml"]


def test_a_margin_for_a_metric_that_the_workload_does_not_have_stops_the_run_before_it_begins(compbench, folder):
    (folder / "tiny.yaml").write_text(SUITE + "margins: {sovled: 0.05}\n")
    status, out, err = compbench("run", "tiny.yaml")
    assert (status, out) == (2, "")
    assert err == (
        "error: tiny.yaml:11: unknown metric 'sovled'; did you mean 'solved'? (allowed: solved, token_accuracy)\n"
    )
    assert not (folder / "results").exists()


def test_which_way_metrics_are_better_is_kept_with_the_results(compbench, folder):
    (folder / "tiny.yaml").write_text(SUITE + "margins: {solved: 0.05}\nlower_is_better: [solved]\n")
    compbench("run", "tiny.yaml")
    assert Store(folder / "results" / "tiny").suite().lower_is_better == ["solved"]
    assert "### solved, lower is better, margin 5 points" in (folder / "results" / "tiny" / "README.md").read_text()
