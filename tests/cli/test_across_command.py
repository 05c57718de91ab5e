"""``compbench across`` as its user sees it."""

import sys

import pytest

from compbench.cli import main
from tests.report.made_up import cell, outcome, scores, write


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with results of two suites; gives its exit status, output and errors."""
    for name, arm in (("first", "laser"), ("second", "int8")):
        results = scores("none", [0.5, 0.6, 0.7]) + scores(arm, [0.5, 0.3, 0.7])
        named = [made.model_copy(update={"cell": made.cell.model_copy(update={"suite": name})}) for made in results]
        write(tmp_path / "results", outcome(named, name=name, margins={"solved": 0.05}))
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", "across", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def test_one_folder_several_folders_and_a_folder_of_folders(compbench):
    status, one, error = compbench("results/first")
    assert (status, error) == (0, "")
    assert one.startswith("`first`: 1 task\n\nRelative scores\n")
    assert "int8" not in one
    _, both, _ = compbench("results/first", "results/second")
    assert both.startswith("`first` and `second`: 2 tasks\n")
    assert compbench("results")[1] == both


@pytest.mark.parametrize(
    ("layout", "start"),
    [
        ("github", "## `first`"),
        ("latex_booktabs", "% `first`"),
        ("html", "<h2>`first`"),
        ("csv", "table,quantity,arm,"),
        ("json", "{"),
    ],
)
def test_each_format_is_printed_or_written(compbench, tmp_path, layout, start):
    status, output, _ = compbench("results", "--format", layout)
    assert status == 0
    assert output.startswith(start)
    assert compbench("results", "--format", layout, "--output", "across.txt") == (0, "", "")
    assert (tmp_path / "across.txt").read_text() == output


def test_arms_and_metrics_can_be_chosen(compbench):
    _, output, _ = compbench("results", "--arm", "las*", "--metric", "solved")
    assert "laser" in output
    assert "int8" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results", "--metric", "sovled"], "unknown metric 'sovled'; did you mean 'solved'? (allowed: solved)"),
        (["results", "--arm", "lazer"], "unknown arm 'lazer'; did you mean 'laser'? (allowed: int8, laser)"),
        (["results", "--format", "gitbub"], "unknown format 'gitbub'; did you mean 'github'?"),
        (["results/frist"], "results folder results/frist does not exist; did you mean 'first'?"),
        (["results", "--output", "nowhere/a"], "can't write nowhere/a: No such file or directory"),
    ],
)
def test_mistakes_are_one_message(compbench, arguments, message):
    status, output, error = compbench(*arguments)
    assert (status, output) == (2, "")
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_a_suite_of_which_nothing_has_been_run_is_an_error_or_a_warning_beside_others(compbench, tmp_path):
    write(tmp_path / "results", outcome([], name="third", missing=[cell()]))
    status, output, error = compbench("results/third")
    assert (status, output) == (2, "")
    assert error == "error: results/third has no record of any of the 1 cells of suite 'third'\n"
    status, output, error = compbench("results")
    assert (status, output[:26]) == (0, "`first` and `second`: 2 ta")
    assert error == "warning: results/third has no record of any of the 1 cells of suite 'third'\n"
    write(tmp_path / "empty", outcome([], name="third", missing=[cell()]))
    status, _, error = compbench("empty")
    assert status == 2
    assert error.endswith("error: none of the results folders in empty has a record that can be used\n")
