"""How long the rest will take."""

import pytest

from compbench.run.estimate import Estimator
from compbench.run.result import CellResult
from tests.run.fake_suites import make_cell


def took(seconds, arm="laser", depth=4, seed=0, status="ok"):
    cell = make_cell(arm=arm, depth=depth, seed=seed)
    return CellResult(key=cell.key, cell=cell, status=status, seconds=seconds)


def test_nothing_is_expected_before_a_cell_has_ended():
    assert Estimator().seconds(make_cell()) is None
    assert Estimator().remaining([make_cell()], [], slots=1) is None


def test_a_cell_takes_what_its_arm_took_at_its_depth():
    estimator = Estimator([took(10), took(20, seed=1), took(100, arm="none"), took(40, depth=8)])
    assert estimator.seconds(make_cell(seed=9)) == 15


def test_an_arm_without_results_takes_what_others_took_at_its_depth():
    estimator = Estimator([took(10), took(20, arm="none"), took(100, depth=8)])
    assert estimator.seconds(make_cell(arm="int8")) == 15


def test_a_depth_without_results_takes_in_proportion():
    assert Estimator([took(10, depth=4)]).seconds(make_cell(depth=16)) == 40


def test_an_arm_that_fails_at_once_makes_no_other_look_quick():
    estimator = Estimator([took(10), took(0.1, arm="broken", status="failed")])
    assert estimator.seconds(make_cell(arm="none")) == 10
    assert estimator.seconds(make_cell(arm="broken", seed=1)) == 0.1


@pytest.mark.parametrize(("slots", "expected"), [(1, 40), (2, 20), (3, 20), (4, 10), (9, 10)])
def test_slots_work_side_by_side(slots, expected):
    pending = [make_cell(seed=seed) for seed in range(1, 5)]
    assert Estimator([took(10)]).remaining(pending, [], slots) == expected


def test_what_runs_already_counts_with_what_is_left_of_it():
    estimator = Estimator([took(10)])
    assert estimator.remaining([], [(make_cell(seed=1), 4.0)], slots=2) == 6
    assert estimator.remaining([make_cell(seed=2)], [(make_cell(seed=1), 4.0)], slots=1) == 16
    assert estimator.remaining([make_cell(seed=2)], [(make_cell(seed=1), 25.0)], slots=1) == 10
