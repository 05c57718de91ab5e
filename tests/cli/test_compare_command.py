"""``compbench compare`` as its user sees it."""

import json
import sys

import pytest

from compbench.cli import main
from tests.report.made_up import cell, outcome, result, scores, write

PLUGIN = """
import compbench

@compbench.hookimpl
def compbench_reporters():
    return [compbench.Reporter(name="marks", render=lambda rows: "".join(row["mark"] or "." for row in rows))]
"""


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with results; gives its exit status, output and errors."""
    before = outcome(
        [*scores("none", [0.5, 0.6]), *scores("laser", [0.5, 0.7]), result("int8")], margins={"solved": 0.1}
    )
    after = outcome([*scores("laser", [0.6, 0.7]), result("int8", status="oom", reason="no memory")])
    write(tmp_path / "results", before)
    write(tmp_path / "after", after)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def figures_of(out):
    return {(row.get("arm"), row["figure"]): row for row in json.loads(out)["rows"]}


def test_two_folders_are_compared_arm_by_arm(compbench):
    status, out, err = compbench("results/made_up", "after/made_up", "--format", "json")
    assert (status, err) == (0, "")
    rows = figures_of(out)
    assert rows["laser", "solved"]["difference"] == pytest.approx(0.05)
    assert rows["int8", "status"]["mark"] == "!"
    assert rows["none", "status"]["mark"] == "x"


@pytest.mark.parametrize("b", ["results/made_up:laser", ":laser", "./results/../results/made_up:laser"])
def test_two_arms_of_a_folder_are_compared(compbench, b):
    status, out, _ = compbench("results/made_up:none", b, "--format", "json")
    assert status == 0
    content = json.loads(out)
    assert (content["a"]["arm"], content["b"]["arm"], content["by"]) == ("none", "laser", ["depth"])
    assert {row["figure"]: row["difference"] for row in content["rows"]}["solved"] == pytest.approx(0.05)


@pytest.mark.parametrize(("a", "b"), [(":laser", ""), ("", ":laser"), (":laser", ":laser")])
def test_an_arm_that_one_side_names_is_meant_on_both(compbench, a, b):
    status, out, _ = compbench(f"results/made_up{a}", f"after/made_up{b}", "--format", "json")
    assert status == 0
    assert {row["figure"] for row in json.loads(out)["rows"]} >= {"solved", "saved_bytes"}
    assert "int8" not in out


def test_a_folder_may_have_a_colon_in_its_name(compbench, tmp_path):
    (tmp_path / "after").rename(tmp_path / "run:2")
    assert compbench("results/made_up", "run:2/made_up")[0] == 0
    assert compbench("results/made_up:laser", "run:2/made_up:laser")[0] == 0


def test_regressions_are_an_exit_status_where_that_is_asked_for(compbench):
    assert compbench("results/made_up", "after/made_up")[0] == 0
    assert compbench("results/made_up", "after/made_up", "--fail-on", "regression")[0] == 1
    assert compbench("after/made_up", "results/made_up", "--fail-on", "regression")[0] == 0
    assert compbench("results/made_up:laser", "after/made_up", "--fail-on", "regression")[0] == 0


@pytest.mark.parametrize(
    ("layout", "start"),
    [
        ("terminal", "   arm "),
        ("github", "|"),
        ("latex_booktabs", "% Needs"),
        ("html", "<table>\n<caption>A: made_up; B: made_up, in another folder</caption>"),
        (
            "csv",
            "mark,arm,depth,figure,a,b,a_sd,b_sd,ratio,difference,change_low,change_high,pairs,verdict,holm_p,reason\n",
        ),
        ("json", '{\n  "schema_version": 1,'),
    ],
)
def test_each_format_is_printed_or_written(compbench, tmp_path, layout, start):
    status, out, err = compbench("results/made_up", "after/made_up", "--format", layout)
    assert (status, err) == (0, "")
    assert out.startswith(start)
    assert out.endswith("\n")
    assert not out.endswith("\n\n")
    assert str(tmp_path) not in out
    assert compbench("results/made_up", "after/made_up", "--format", layout, "--output", "file") == (0, "", "")
    assert (tmp_path / "file").read_text() == out


def test_figures_and_rows_are_chosen(compbench):
    asked = ("results/made_up:none", ":laser", "--columns", "solved,saved_bytes", "--by", "seed", "--format", "csv")
    rows = [line.split(",")[:5] for line in compbench(*asked)[1].splitlines()]
    assert rows == [
        ["mark", "seed", "figure", "a", "b"],
        ["", "0", "solved", "0.5", "0.5"],
        ["", "0", "saved_bytes", "250000", "250000"],
        ["", "1", "solved", "0.6", "0.7"],
        ["", "1", "saved_bytes", "250000", "250000"],
    ]


def test_a_reporter_of_a_plugin_is_a_format(compbench, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "marks.py").write_text(PLUGIN)
    status, out, _ = compbench("results/made_up", "after/made_up", "--format", "marks", "--plugins-dir", "own")
    assert (status, out) == (0, "x......!\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results/made_up", "results/made_up"], "A and B are both results/made_up (allowed: two folders, or two arms"),
        (["results/made_up", "results/../results/made_up"], "A and B are both results/made_up (allowed: "),
        (["results/made_up:laser", ":laser"], "A and B are both arm 'laser' of results/made_up (allowed: "),
        (["results/made_up", ":"], "results folder : does not exist"),
        ([":laser", "results/made_up"], "A is :laser: no folder (allowed: DIR or DIR:ARM)"),
        (
            ["results/made_up:lazer", "after/made_up"],
            "suite 'made_up': unknown arm 'lazer'; did you mean 'laser'? (allowed: ",
        ),
        (
            ["results/made_upp", "after/made_up"],
            "results folder results/made_upp does not exist; did you mean 'made_up'?",
        ),
        (
            ["results/made_up", "results"],
            "results has the results of several suites: name one of its folders (made_up)",
        ),
        (["results/made_up", "own"], "results folder own is no suite's results folder: it has no usable suite.json"),
        (["results/made_up", "unrun/made_up"], "has no record of any of the 1 cells of suite 'made_up'"),
        (
            ["results/made_up", "deeper/made_up"],
            "nothing to compare: A has none at depth 4; laser at depth 4; int8 at depth 4, ",
        ),
        (
            ["results/made_up", "after/made_up", "--columns", "sovled"],
            "unknown figure 'sovled'; did you mean 'solved'?",
        ),
        (["results/made_up", "after/made_up", "--format", "cvs"], "unknown format 'cvs'; did you mean 'csv'?"),
        (["results/made_up", "after/made_up", "--output", "no/file"], "can't write no/file: No such file or directory"),
    ],
)
def test_bad_input_is_one_message_with_status_2(compbench, tmp_path, arguments, message):
    (tmp_path / "own").mkdir()
    write(tmp_path / "unrun", outcome([], missing=[cell()]))
    write(tmp_path / "deeper", outcome([result("laser", 8)]))
    status, out, err = compbench(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_suites_of_other_settings_are_compared_as_far_as_they_can_be(compbench, tmp_path):
    other = [result("laser", seed=seed, weights_hash="other", metrics={"mean_error": 1.0}) for seed in (0, 1)]
    write(tmp_path / "results", outcome(other, name="other"))
    status, out, _ = compbench("results/made_up", "results/other", "--format", "json")
    assert status == 0
    rows = figures_of(out)
    assert rows["laser", "saved_bytes"]["ratio"] == 1.0
    assert (rows["laser", "solved"]["mark"], rows["laser", "solved"]["reason"]) == ("x", "not measured in B")
    assert (rows["laser", "mean_error"]["mark"], rows["laser", "mean_error"]["reason"]) == ("x", "not measured in A")
    assert rows["laser", "gradient_cosine"]["mark"] == "x"
