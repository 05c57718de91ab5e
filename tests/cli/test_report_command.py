"""``compbench report`` as its user sees it."""

import sys

import pytest

from compbench.cli import main
from tests.report.made_up import outcome, result, scores, write


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with results; gives its exit status, output and errors."""
    write(tmp_path / "results", outcome(scores("none", [0.5, 0.6]) + scores("laser", [0.5, 0.7])))
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def test_the_page_goes_into_the_folder_and_its_path_and_size_are_told(compbench, tmp_path):
    status, out, err = compbench("results/made_up")
    page = tmp_path / "results" / "made_up" / "report.html"
    assert (status, err) == (0, "")
    assert out.startswith("results/made_up/report.html (")
    assert out.endswith("B)\n")
    assert page.read_text().startswith("<!doctype html>")


def test_output_goes_to_another_file_instead(compbench, tmp_path):
    assert compbench("results/made_up", "--output", "page.html")[:2][0] == 0
    assert (tmp_path / "page.html").exists()
    assert not (tmp_path / "results" / "made_up" / "report.html").exists()


def test_a_missing_folder_names_the_nearest(compbench):
    status, out, err = compbench("results/madeup")
    assert (status, out) == (2, "")
    assert err.startswith("error: results folder results/madeup does not exist; did you mean 'made_up'?")


def test_a_folder_of_several_suites_names_them(compbench):
    status, _, err = compbench("results")
    assert status == 2
    assert "name one of its folders (made_up)" in err


def test_a_file_that_cannot_be_written_is_one_message(compbench):
    status, _, err = compbench("results/made_up", "--output", "nowhere/page.html")
    assert (status, err) == (2, "error: can't write nowhere/page.html: No such file or directory\n")


def test_a_record_that_cannot_be_used_is_told_beside_the_page(compbench, tmp_path):
    folder = tmp_path / "results" / "made_up"
    (folder / "cells" / f"{result('laser', metrics={'solved': 0.5}).key}.json").write_text("{")
    status, _, err = compbench("results/made_up")
    assert status == 0
    assert err.startswith("warning: ")
