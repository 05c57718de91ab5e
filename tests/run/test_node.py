"""What is sent to a node, what is done there, and what comes back."""

import pickle

import pytest

from compbench.errors import SettingsError
from compbench.run import node
from compbench.run.cell_process import CellJob
from compbench.run.machine import describe_machine
from compbench.run.node import Files, NodeEnd, tell_and_run
from compbench.run.slots import Slot
from tests.run import fake_cells
from tests.run.fake_suites import make_cell


@pytest.fixture
def plugins(tmp_path):
    """A folder with a plugin, what it imports, and what nobody needs."""
    folder = tmp_path / "plugins"
    for name in ("mine.py", "_basis.py", "tables/a.csv", "__pycache__/mine.pyc", ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"this is {name}")
    return folder


def test_a_folder_arrives_as_it_is_but_for_what_is_hidden_or_compiled(plugins, tmp_path):
    sent = pickle.loads(pickle.dumps(Files.of(plugins)))
    sent.write(tmp_path / "there")
    arrived = {str(p.relative_to(tmp_path / "there")): p.read_text() for p in (tmp_path / "there").rglob("*.*")}
    assert arrived == {name: f"this is {name}" for name in ("mine.py", "_basis.py", "tables/a.csv")}


def test_a_folder_that_is_too_large_to_be_sent_is_an_error(plugins, monkeypatch):
    monkeypatch.setattr(node, "LARGEST_FOLDER_BYTES", 30)
    with pytest.raises(SettingsError, match=r"plugins folder .* too much for each node"):
        Files.of(plugins)


def test_a_node_tells_where_it_is_runs_the_cell_with_its_plugins_and_sends_back_all(plugins):
    cell = make_cell("reads_plugins").model_copy(update={"plugins_dir": str(plugins)})
    job = pickle.loads(pickle.dumps(CellJob(cell, Slot("there", 1), command=fake_cells.command)))
    place, came = tell_and_run(job, Files.of(plugins), "node 7")
    assert place.endswith(" node 7")
    assert isinstance(pickle.loads(pickle.dumps(came)), NodeEnd)
    assert eval(came.log) == [(name, f"this is {name}") for name in ("_basis.py", "mine.py", "tables/a.csv")]
    assert came.end.exit_status == 0
    assert str(plugins) not in came.end.record  # it had a copy
    assert came.machine == describe_machine()
