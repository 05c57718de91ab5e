"""``compbench publish`` as its user sees it, with the real figures and the real report."""

import getpass
import re
import socket
import subprocess
import sys

import pytest

from compbench.cli import main
from compbench.report import publishing
from tests.report.made_up import cell, memory, outcome, result, scores, write

ORCID = "0000-0002-1825-0097"


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with results; gives its exit status, output and errors."""
    write(tmp_path / "results", outcome(scores("none", [0.5, 0.6, 0.7]) + scores("laser", [0.5, 0.7, 0.6])))
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", "publish", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


@pytest.fixture
def few_drawings(monkeypatch):
    """No figures and no report, which take most of the time."""
    monkeypatch.setattr(publishing, "make_figures", lambda made: [])
    monkeypatch.setattr(publishing, "make_page", lambda made, folder: "<!DOCTYPE html>")


def test_a_whole_publication(compbench, tmp_path):
    """Every file is there, is of the right kind, is checked, and names nobody."""
    depths = [
        result(arm, depth, seed, memory=memory(size * depth), metrics={"solved": 0.5 + seed / 10}, log_tail=[])
        for arm, size in (("none", 1000), ("laser", 100))
        for depth in (4, 8)
        for seed in (0, 1, 2)
    ]
    failed = result("int8", status="failed", reason="no /home/somebody/x", log_tail=["in /home/somebody/y"])
    folder, _ = write(tmp_path / "deep", outcome([*depths, failed]))
    (folder / "logs" / f"{failed.key}.log").write_text("in /home/somebody/y")
    status, out, err = compbench("deep/made_up", "out", "--author", f"Doe, Jane <{ORCID}>", "--logs")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert (status, out) == (0, f"published in out: {len(files)} files, records of 13 of 13 cells\n")
    assert err == "warning: incomplete: 1 of the suite's 13 cells are not ok (failed 1)\n"
    assert not [path for path in files if b"somebody" in path.read_bytes()]
    beginnings = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF", ".html": b"<!"}
    seen = {path.suffix for path in files if path.read_bytes().startswith(beginnings.get(path.suffix, b"\0none"))}
    assert seen == set(beginnings)
    assert subprocess.run(["sha256sum", "--check", "--quiet", "checksums.txt"], cwd=tmp_path / "out").returncode == 0
    assert f"orcid: https://orcid.org/{ORCID}" in (tmp_path / "out" / "CITATION.cff").read_text()


def test_a_publication_takes_the_place_of_an_earlier_one(compbench, few_drawings):
    assert compbench("results/made_up", "out")[1].startswith("published in out: ")
    assert compbench("results/made_up", "out")[1].startswith("published anew in out: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["results/made_up", "results/made_up/out"], "are one in the other (allowed: a folder elsewhere)"),
        (["results", "out"], "results has the results of several suites: name one of its folders (made_up)"),
        (["results/made", "out"], "results folder results/made does not exist; did you mean 'made_up'?"),
        (["results/made_up", "out", "--author", "Jane Doe"], "author 'Jane Doe': a person's name has one comma"),
    ],
)
def test_bad_input_is_one_message(compbench, tmp_path, arguments, said):
    status, out, err = compbench(*arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_incomplete_results_can_be_refused(compbench, tmp_path, few_drawings):
    write(tmp_path / "part", outcome([result()], missing=[cell("int8")]))
    status, _, err = compbench("part/made_up", "out", "--complete")
    assert status == 2
    assert err == (
        "error: --complete: 1 of the suite's 2 cells have no record (allowed: results of which every cell is there and "
        "ok)\n"
    )
    status, out, err = compbench("part/made_up", "out")
    assert (status, out) == (0, f"published in out: {out.split()[3]} files, records of 1 of 2 cells\n")
    assert "warning: incomplete: 1 of the suite's 2 cells have no record\n" in err


def test_names_of_this_user_and_machine_are_looked_for(compbench, tmp_path, monkeypatch, few_drawings):
    monkeypatch.setattr(getpass, "getuser", lambda: "mallory")
    monkeypatch.setattr(socket, "gethostname", lambda: "trent.example.org")
    write(tmp_path / "told", outcome([result(reason="mallory on trent")]))
    _, _, err = compbench("told/made_up", "out")
    assert re.findall(r"'(\w+)', the name of this user or machine, is in cells/", err) == ["trent", "mallory"]


def test_a_user_without_a_name_is_none(compbench, monkeypatch, few_drawings):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert compbench("results/made_up", "out")[0] == 0
