"""``compbench explain`` as its user sees it."""

import functools
import sys

import pytest

from compbench.cli import main
from compbench.run.runner import SuiteRunner
from tests.run import fake_cells

PLUGIN = """
import compbench
from ._rows import keep
class Mine(compbench.Compressor):
    'Keeps all.'
    name = 'mine'
    def codec(self, site, generator):
        return None
@compbench.hookimpl
def compbench_compressors():
    return [Mine]
"""

SUITE = """
name: tiny
workload: {name: trm_maze, grid: 5, train_mazes: 8, validation_mazes: 4, hidden: 16, heads: 1, inner: 16}
arms: {none: none, mine: mine}
matrix: {depth: [2], seed: [0, 1]}
training: {steps: 20, batch_size: 4}
device: cpu
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with a suite and a plugin, whose cells end at once and well."""
    (tmp_path / "tiny.yaml").write_text(SUITE)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(PLUGIN)
    (tmp_path / "plugins" / "_rows.py").write_text("keep = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "compbench.cli.run_command.SuiteRunner", functools.partial(SuiteRunner, command=fake_cells.command)
    )
    return tmp_path


@pytest.fixture
def compbench(folder, monkeypatch, capsys):
    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return invoke


def test_a_suite_is_explained_cell_by_cell_and_summed_up(compbench):
    status, out, err = compbench("explain", "tiny.yaml")
    assert (status, err) == (1, "")
    assert out.count("missing, would be run") == 4
    assert out.endswith("4 cells in results/tiny: a run would start 4 of them\n")
    compbench("run", "tiny.yaml")
    status, out, _ = compbench("explain", "tiny.yaml")
    assert status == 0
    assert out.count(": ok, would be left as it is") == 4
    assert out.endswith("a run would start none of them\n")


def test_an_edited_helper_of_a_plugin_makes_its_cells_stale_and_no_others(compbench, folder):
    compbench("run", "tiny.yaml", "--only", "seed=0")
    (folder / "plugins" / "_rows.py").write_text("keep = 2\n")
    status, out, _ = compbench("explain", "tiny.yaml", "--only", "seed=0")
    assert status == 1
    assert "none depth 2 seed 0: ok, would be left as it is" in out
    assert "mine depth 2 seed 0: missing, would be run" in out
    assert "strategy 'mine' source has changed (in which of its files is not recorded)" in out
    assert out.endswith("2 cells in results/tiny: a run would start 1 of them\n")


def test_an_edited_suite_is_explained_by_what_was_edited(compbench, folder):
    compbench("run", "tiny.yaml", "--only", "seed=0")
    (folder / "tiny.yaml").write_text(SUITE.replace("steps: 20", "steps: 30"))
    status, out, _ = compbench("explain", "tiny.yaml", "--only", "seed=0", "--only", "arm=none")
    assert status == 1
    assert "    training.steps: 20 -> 30\n" in out


def test_a_cell_is_explained_by_its_key_or_its_path(compbench, folder):
    compbench("run", "tiny.yaml")
    path = next((folder / "results" / "tiny" / "cells").glob("mine-d2-s1-*.json"))
    for target in (path.stem, path):
        status, out, _ = compbench("explain", target)
        assert status == 0, out
        assert out.splitlines() == ["mine depth 2 seed 1: ok, would be left as it is", f"  key {path.stem}"]
    (folder / "plugins" / "_rows.py").write_text("keep = 2\n")
    status, out, _ = compbench("explain", path.stem)
    assert status == 1
    assert f"no record; the nearest is {path.stem} (ok)" in out


def test_what_is_no_suite_and_no_cell_is_an_error_that_names_the_nearest(compbench, folder):
    compbench("run", "tiny.yaml")
    key = next((folder / "results" / "tiny" / "cells").glob("mine-d2-s1-*.json")).stem
    status, _, err = compbench("explain", key[:-1] + "x")
    assert status == 2
    assert f"did you mean '{key}'?" in err
    assert compbench("explain", "missing.json")[0] == 2
    assert compbench("explain", key, "--only", "seed=0")[0] == 2


def test_a_damaged_record_by_its_path_is_an_error_that_says_so(compbench, folder):
    compbench("run", "tiny.yaml")
    path = next((folder / "results" / "tiny" / "cells").glob("mine-d2-s1-*.json"))
    path.write_text(path.read_text().replace('"solved": 0.5', '"solved": 0.6'))
    status, _, err = compbench("explain", path)
    assert status == 2
    assert "is not trusted: its content is not what was written" in err
    status, out, _ = compbench("explain", "tiny.yaml")
    assert status == 1
    assert "mine depth 2 seed 1: damaged, would be run, and its record replaced" in out
