"""``compbench merge`` as its user sees it."""

import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from compbench.cli import main
from compbench.report.outcome import read_outcome
from tests.report.made_up import MACHINE, outcome, result, write

ROOT = Path(__file__).parents[2]
OTHER = MACHINE.model_copy(update={"cpu": "Other 1"})


def make(folder, seeds, **fields):
    records = [result(arm, seed=seed, **fields) for seed in seeds for arm in ("none", "laser")]
    write(folder, outcome(records, machines={machine.hash: machine for machine in (MACHINE, OTHER)}))


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with the results of two machines; gives its exit status, output and errors."""
    make(tmp_path / "a", [0, 1])
    make(tmp_path / "b", [2])
    make(tmp_path / "c", [3], machine=OTHER.hash)
    make(tmp_path / "again", [0], status="oom")
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def test_what_was_taken_is_said_and_the_table_shown(compbench, tmp_path):
    status, out, err = compbench("merge", "a/made_up", "b/made_up", "--into", "all/made_up")
    assert (status, err) == (0, "")
    assert out.startswith("a/made_up: 4 cells of 4 taken\nb/made_up: 2 cells of 2 taken\nall/made_up has 6 cells\n\n")
    assert "joined from 2 stores (4 + 2 cells)" in " ".join(out.split())
    assert sorted(path.name for path in (tmp_path / "all" / "made_up").iterdir()) == [
        *("README.md", "cells", "logs", "machines", "merged.json", "suite.json", "table.csv")
    ]
    assert len(read_outcome(tmp_path / "all" / "made_up").results) == 6


def test_the_joined_folder_is_one_for_other_commands(compbench):
    compbench("merge", "a/made_up", "c/made_up", "--into", "all/made_up", "--without-times")
    status, out, _ = compbench("table", "all/made_up", "--format", "github")
    assert status == 0
    assert "Imaginary 9000, 2 cores and on Other 1, 2 cores" in out
    assert "times are left out" in out
    status, out, _ = compbench("merge", "all/made_up", "b/made_up", "--into", "more/made_up")
    assert (status, out.splitlines()[0]) == (0, "all/made_up: 6 cells of 6 taken")


def test_a_dry_run_writes_nothing(compbench, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    status, out, _ = compbench(
        *("merge", "a/made_up", "again/made_up", "--into", "all/made_up", "--prefer", "first", "--dry-run")
    )
    assert status == 0
    assert out == (
        "a/made_up: 4 cells of 4 taken\n"
        "again/made_up: 0 cells of 2 taken\n"
        "left out: none depth 4 seed 0, a record that is oom; taken is one that is ok (--prefer first)\n"
        "left out: laser depth 4 seed 0, a record that is oom; taken is one that is ok (--prefer first)\n"
        "nothing is written; all/made_up would have 4 cells\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_left_out_is_said_in_the_table_and_the_page(compbench, tmp_path):
    _, out, _ = compbench("merge", "a/made_up", "again/made_up", "--into", "all/made_up", "--prefer", "first")
    said = "Left out by --prefer first: seed 0, oom (taken: one that is ok)"
    assert said in " ".join(out.split())
    assert said in (tmp_path / "all" / "made_up" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a/made_up", "c/made_up"], "error: can't join a/made_up, c/made_up:\n  - times of unlike machines"),
        (["a/made_up", "again/made_up"], "  - several of them have a record of the same cell"),
        (["a/made_up"], "error: only a/made_up to join (allowed: two or more)"),
        (["a/made_up", "a/made_up"], "error: a/made_up and a/made_up are the same folder"),
        (["a/made_up", "a/made"], "error: results folder a/made does not exist; did you mean 'made_up'?"),
        (["a", "b"], "error: a has the results of several suites: name one of its folders (made_up)"),
    ],
)
def test_a_refusal_is_one_message_and_leaves_nothing(compbench, tmp_path, arguments, said):
    status, out, err = compbench("merge", *arguments, "--into", "all/made_up")
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("into", ["a/made_up", "b/made_up/deep", "a"])
def test_a_place_that_is_taken_is_refused_before_anything_is_read(compbench, into):
    status, _, err = compbench("merge", "a/made_up", "b/made_up", "--into", into)
    assert status == 2
    assert f"error: --into {into} is" in err


def test_warnings_are_told(compbench, tmp_path):
    path = sorted((tmp_path / "a" / "made_up" / "cells").iterdir())[0]
    path.write_text("{")
    status, out, err = compbench("merge", "a/made_up", "b/made_up", "--into", "all/made_up")
    assert status == 0
    assert err.startswith(f"warning: a/made_up/cells/{path.name}: not trusted, and not taken: it is not whole JSON")
    assert "a/made_up: 3 cells of 3 taken" in out


def test_the_document_shows_what_is_printed(tmp_path, monkeypatch, capsys):
    """With the published results; a dry run writes nothing."""
    page = (ROOT / "docs" / "publishing.md").read_text()
    (command, shown) = re.search(r"\$ (compbench merge .*)\n((?:.*\n)*?)```", page).groups()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.setattr(sys, "argv", command.split())
    with suppress(SystemExit):
        main()
    captured = capsys.readouterr()
    assert captured.err + captured.out == shown
