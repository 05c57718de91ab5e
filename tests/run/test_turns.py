"""Times are taken beside no other cell on the same cores."""

import fcntl
import os

import pytest

from compbench.run.slots import Slot
from compbench.run.turns import Turns, lock_files
from tests.run.fake_suites import make_cell
from tests.run.test_scheduler import Bench


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def spans(result):
    figures = result.statistics
    return [(figures[f"began {step}"], figures[f"ended {step}"]) for step in range(len(figures) // 2)]


def side_by_side(tmp_path, *slots):
    """A cell that trains, and two that take times, each on its slot."""
    cells = [make_cell("trains_in_steps"), make_cell("takes_times"), make_cell("takes_times", seed=1)]
    results = {result.cell.key: result for result in Bench(tmp_path).results(*cells, slots=slots)}
    training, *timings = (spans(results[cell.key]) for cell in cells)
    return training, [timing[0] for timing in timings]


def overlap(one, other):
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def test_on_the_same_cores_times_are_taken_alone(tmp_path):
    training, timings = side_by_side(tmp_path, Slot("a", 1), Slot("b", 1), Slot("c", 1))
    assert overlap(*timings) == 0
    for timing in timings:
        assert all(overlap(step, timing) == 0 for step in training)


def test_a_gpu_is_shared_by_its_name():
    one, other = lock_files(Slot("gpu 0", 1, gpu="0", cores=(0,))), lock_files(Slot("gpu 1", 1, gpu="1", cores=(1,)))
    assert not set(one) & set(other)
    assert set(lock_files(Slot("x", 1, gpu="0", cores=(1,)))) & set(one) == {one[-2], one[-1]}


def test_a_cell_that_does_not_pause_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("compbench.run.turns.PATIENCE_SECONDS", 0.1)
    wanted, used = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("wanted", "used"))
    other = os.open(tmp_path / "used", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_SH)
    with Turns([wanted], [used]).alone() as alone:
        assert not alone
    fcntl.flock(other, fcntl.LOCK_UN)
    with Turns([wanted], [used]).alone() as alone:
        assert alone
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    for descriptor in (wanted, used, other):
        os.close(descriptor)
