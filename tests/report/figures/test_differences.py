import numpy as np
import pytest

from compbench.report.figures import NoFigure
from compbench.report.figures.differences import accuracy_by_seed, paired_differences
from compbench.report.verdicts import judge
from tests.report.made_up import outcome, result, scores

NONE = {"none": [0.8, 0.85, 0.9, 0.7], "laser": [0.75, 0.86, 0.8, 0.69], "int8": [0.8, 0.84, 0.9, 0.72]}


def made(values=NONE, **fields):
    cells = [record for arm, of_arm in values.items() for record in scores(arm, of_arm)]
    return outcome(cells, **({"margins": {"solved": 0.05}} | fields))


def test_differences_means_and_bounds_are_those_of_the_verdicts():
    found = paired_differences(made(), "solved")
    verdicts = {(v.arm, v.depth): v for v in judge(made(), "solved", 0.05) if v.test}
    assert set(found) == set(verdicts)
    for group, differences in found.items():
        assert differences.mean == pytest.approx(verdicts[group].test.mean)
        assert differences.bound == pytest.approx(verdicts[group].test.lower_bound)
        assert list(differences.by_seed.values()) == pytest.approx(np.array(NONE[group[0]]) - np.array(NONE["none"]))


def test_cells_that_did_not_start_alike_are_no_pair_as_in_the_verdicts():
    cells = [*scores("none", [0.8, 0.9, 0.7]), *scores("laser", [0.7, 0.7, 0.7])]
    odd = cells[4].model_copy(update={"weights_hash": "others"})
    changed = outcome([*cells[:4], odd, *cells[5:]])
    assert set(paired_differences(changed, "solved")["laser", 4].by_seed) == {0, 2}
    assert [v.decision for v in judge(changed, "solved", 0.05) if v.arm == "laser"] == ["not paired"]
    other_training = [result("laser", seed=0, metrics={"solved": 0.1}, training={"steps": 99})]
    assert paired_differences(outcome([*scores("none", [0.5]), *other_training]), "solved") == {}


def rows(figure, kind):
    return [row for row in figure.specification["datasets"]["differences"] if row["kind"] == kind]


def test_the_figure_has_seeds_mean_bound_and_margin_in_points():
    (figure,) = accuracy_by_seed(made())
    assert figure.name == "accuracy_by_seed_solved"
    assert [row["difference"] for row in rows(figure, "margin")] == [-5.0]
    laser = [row["difference"] for row in rows(figure, "seed") if row["arm"] == "laser"]
    assert laser == pytest.approx([-5.0, 1.0, -10.0, -1.0])
    (mean,) = (row for row in rows(figure, "mean") if row["arm"] == "laser")
    assert mean["difference"] == pytest.approx(-3.75)
    assert mean["bound"] < mean["difference"]
    assert "a loss of 5 points" in figure.caption
    assert "laser at depth 4: mean -3.75 points, bound" in figure.caption


def test_two_pairs_have_a_mean_and_no_bound():
    (figure,) = accuracy_by_seed(made({arm: values[:2] for arm, values in NONE.items()}))
    assert all(row["bound"] is None for row in rows(figure, "mean"))
    assert "With fewer than three pairs there is no bound." in figure.caption


def test_without_a_margin_the_main_metric_is_drawn_without_one():
    (figure,) = accuracy_by_seed(made(margins={}))
    assert "declares no margin" in figure.caption
    assert rows(figure, "margin") == []


def test_each_metric_with_a_margin_has_a_figure_or_a_reason():
    found = accuracy_by_seed(made(margins={"solved": 0.05, "beauty": 1.0}))
    assert [figure.name for figure in found] == ["accuracy_by_seed_solved", "accuracy_by_seed_beauty"]
    assert isinstance(found[1], NoFigure)
    assert "have beauty" in found[1].reason


def test_a_metric_of_its_own_unit_is_not_in_points():
    values = {"none": [10.0, 11.0, 12.0], "laser": [9.0, 9.0, 9.0]}
    cells = [record for arm, of_arm in values.items() for record in scores(arm, of_arm, metric="reward")]
    (figure,) = accuracy_by_seed(outcome(cells, margins={"reward": 2.0}))
    assert [row["difference"] for row in rows(figure, "seed")] == [-1.0, -2.0, -3.0]
    assert "points" not in figure.caption
