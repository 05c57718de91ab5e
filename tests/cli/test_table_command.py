"""``compbench table`` as its user sees it."""

import csv
import io
import shutil
import sys

import pytest

from compbench.cli import main
from compbench.report.formats import FORMATS
from tests.report.made_up import outcome, result, scores, write

PLUGIN = """
import compbench

@compbench.hookimpl
def compbench_reporters():
    return [compbench.Reporter(name="lines", render=lambda rows: "\\n".join(row["arm"] for row in rows))]
"""


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with results; gives its exit status, output and errors."""
    write(tmp_path / "results", outcome(scores("none", [0.5, 0.6]) + scores("laser", [0.5, 0.7])))
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", "table", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def test_times_are_a_table_of_their_own(compbench):
    status, output, _ = compbench("results/made_up", "--times", "--format", "github")
    assert status == 0
    assert " forward |" in output
    assert "gradient cosine" not in output


@pytest.mark.parametrize(
    ("layout", "start"),
    [
        ("terminal", "                       peak\n"),
        ("github", "| arm"),
        ("latex_booktabs", "% Needs"),
        ("html", "<table>"),
        ("csv", "arm,depth,status,"),
        ("json", '{\n  "schema_version": 1,'),
    ],
)
def test_each_format_is_printed(compbench, layout, start):
    status, out, err = compbench("results/made_up", "--format", layout)
    assert (status, err) == (0, "")
    assert out.startswith(start)
    assert out.endswith("\n")
    assert not out.endswith("\n\n")
    assert "laser" in out


def test_the_default_is_the_table_for_people(compbench):
    assert compbench("results/made_up")[1] == compbench("results/made_up", "--format", "terminal")[1]


def test_output_goes_to_a_file_instead(compbench, tmp_path):
    _, printed, _ = compbench("results/made_up", "--format", "csv")
    assert compbench("results/made_up", "--format", "csv", "--output", "table.csv") == (0, "", "")
    assert (tmp_path / "table.csv").read_text() == printed
    assert len(list(csv.DictReader(io.StringIO(printed)))) == 2


def test_a_reporter_of_a_plugin_is_a_format(compbench, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "lines.py").write_text(PLUGIN)
    assert compbench("results/made_up", "--format", "lines", "--plugins-dir", "own")[:2] == (0, "none\nlaser\n")


def test_an_unknown_format_names_the_nearest_and_those_that_there_are(compbench):
    status, out, err = compbench("results/made_up", "--format", "gitbub")
    assert (status, out) == (2, "")
    assert err == (
        "error: unknown format 'gitbub'; did you mean 'github'? "
        "(allowed: csv, github, html, json, latex_booktabs, terminal)\n"
    )


def test_a_missing_folder_names_the_nearest(compbench):
    status, out, err = compbench("results/madeup")
    assert (status, out) == (2, "")
    assert err.startswith("error: results folder results/madeup does not exist; did you mean 'made_up'?")


def test_a_file_that_cannot_be_written_is_one_message(compbench):
    status, _, err = compbench("results/made_up", "--output", "nowhere/table.md")
    assert (status, err) == (2, "error: can't write nowhere/table.md: No such file or directory\n")


def test_a_record_that_cannot_be_used_is_told_apart_from_the_table(compbench, tmp_path):
    folder = tmp_path / "results" / "made_up"
    (folder / "cells" / f"{result('laser', metrics={'solved': 0.5}).key}.json").write_text("{")
    status, out, err = compbench("results/made_up")
    assert status == 0
    assert err.startswith("warning: ")
    assert "have no record" in out


def with_curves(folder):
    """A suite's results in which one arm has a curve."""
    points = [{"step": float(step), "fidelity": 1 / step, "rank": 16.0} for step in (1, 2)]
    write(folder, outcome([result("none"), result("laser", statistics_curve=points)], name="curved"))


def test_a_curve_is_printed_as_csv_in_long_form(compbench, tmp_path):
    with_curves(tmp_path / "results")
    asked = ("results/curved", "--curve", "fidelity", "--format", "csv")
    assert compbench(*asked) == (
        0,
        "arm,depth,seed,step,statistic,value\nlaser,4,0,1,fidelity,1.0\nlaser,4,0,2,fidelity,0.5\n",
        "",
    )
    assert compbench(*asked, "--output", "figure.csv") == (0, "", "")
    assert (tmp_path / "figure.csv").read_text() == compbench(*asked)[1]
    assert "laser,4,0,2,rank,16.0" in compbench(*asked, "--curve", "rank")[1]


@pytest.mark.parametrize(
    ("layout", "start"),
    [
        ("terminal", "                                 step\n"),
        ("github", "| arm"),
        ("latex_booktabs", "% Needs"),
        ("html", "<table>"),
    ],
)
def test_a_curve_is_printed_in_every_format(compbench, tmp_path, layout, start):
    with_curves(tmp_path / "results")
    status, out, err = compbench("results/curved", "--curve", "fidelity", "--format", layout)
    assert (status, err) == (0, "")
    assert out.startswith(start)
    assert "0.5000" in out


def test_a_curve_goes_to_a_plugins_reporter(compbench, tmp_path):
    with_curves(tmp_path / "results")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "lines.py").write_text(PLUGIN)
    asked = ("results/curved", "--curve", "fidelity", "--format", "lines", "--plugins-dir", "own")
    assert compbench(*asked)[:2] == (0, "laser\nlaser\n")


def test_a_curve_that_is_not_there_is_one_message(compbench, tmp_path):
    with_curves(tmp_path / "results")
    assert compbench("results/curved", "--curve", "fidelty") == (
        2,
        "",
        "error: unknown curve 'fidelty'; did you mean 'fidelity'? (allowed: fidelity, rank)\n",
    )
    status, _, err = compbench("results/made_up", "--curve", "fidelity")
    assert (status, err) == (2, "error: unknown curve 'fidelity' (allowed: none)\n")


def test_a_curve_beside_what_chooses_from_another_table_is_refused(compbench):
    status, out, err = compbench(
        "results/made_up", "--curve", "fidelity", "--times", "--by", "arm", "--spread", "interval"
    )
    assert (status, out) == (2, "")
    assert err == (
        "error: --curve beside --times, --by, --spread (allowed: by itself, since it is a table of its own)\n"
    )


def test_times_beside_columns_are_refused(compbench):
    status, _, err = compbench("results/made_up", "--times", "--columns", "solved")
    assert (status, err) == (
        2,
        "error: --times beside --columns (allowed: one of them, since both say which columns there are)\n",
    )


def test_columns_groups_and_order_are_as_they_are_asked_for(compbench):
    asked = (
        "results/made_up",
        "--format",
        "csv",
        "--by",
        "seed,arm",
        "--columns",
        "saved_bytes",
        "--columns",
        "solved",
    )
    assert compbench(*asked, "--sort", "seed,-solved") == (
        0,
        "seed,arm,saved_bytes,solved_mean,solved_sd\n"
        "0,none,250000,0.5,\n0,laser,250000,0.5,\n1,laser,250000,0.7,\n1,none,250000,0.6,\n",
        "",
    )
    assert compbench(*asked, "--only", "seed=1", "--only", "arm=l*")[1].splitlines()[1:] == ["1,laser,250000,0.7,"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "saved_byte"], "--columns: unknown column 'saved_byte'; did you mean 'saved_bytes'? (allowed: "),
        (["--columns", "solved_sdd"], "--columns: unknown column 'solved_sdd'; did you mean 'solved_sd'? (allowed: "),
        (["--columns", "solved,,depth"], "--columns solved,,depth: an empty name (allowed: names separated by commas)"),
        (["--columns", "solved,solved"], "--columns: column 'solved' is given twice"),
        (["--sort", "-solvd"], "--sort: unknown column 'solvd'; did you mean 'solved'? (allowed: "),
        (["--sort", "-"], "--sort -: an empty name (allowed: names separated by commas)"),
        (["--by", "dept"], "--by: unknown axis 'dept'; did you mean 'depth'? (allowed: "),
        (["--by", "arm,arm"], "--by: axis 'arm' is given twice"),
        (
            ["--only", "arm=lazer"],
            "--only arm=lazer: unknown arm 'lazer'; did you mean 'laser'? (allowed: laser, none)",
        ),
        (["--spread", "iqr"], "'iqr' is not one of 'sd', 'interval'"),
    ],
)
def test_what_is_not_there_names_the_nearest_and_what_is(compbench, arguments, message):
    status, out, err = compbench("results/made_up", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_folder_that_holds_no_results_is_one_message(compbench, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        ("empty", "error: results folder empty is no suite's results folder: it has no usable suite.json"),
        ("results", "error: results has the results of several suites: name one of its folders (made_up)"),
    ):
        status, out, err = compbench(folder)
        assert (status, out, err.startswith(message)) == (2, "", True)


def test_the_same_store_gives_the_same_bytes_wherever_it_is(compbench, tmp_path):
    shutil.copytree(tmp_path / "results", tmp_path / "elsewhere" / "deep")
    for layout in FORMATS:
        here, there = (
            compbench(folder, "--format", layout) for folder in ("results/made_up", "elsewhere/deep/made_up")
        )
        assert here == there
        assert str(tmp_path) not in here[1]
