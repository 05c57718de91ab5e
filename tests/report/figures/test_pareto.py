import random

import pytest

from compbench.capture.settings import CaptureSettings
from compbench.report.figures.exactness import exact_arms
from compbench.report.figures.pareto import pareto, pareto_front
from compbench.suite.cell import PluginReference
from tests.report.figures.stores import cell, store
from tests.report.made_up import outcome, result


def beaten(point, others):
    """By the definition: some other point is no dearer in anything and cheaper in something."""
    return any(
        all(other[axis] <= point[axis] for axis in range(len(point)))
        and any(other[axis] < point[axis] for axis in range(len(point)))
        for other in others
    )


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_is_that_of_the_definition(objectives):
    draw = random.Random(objectives)
    for _ in range(50):
        points = [tuple(draw.randrange(6) for _ in range(objectives)) for _ in range(draw.randrange(1, 12))]
        others = [points[:n] + points[n + 1 :] for n in range(len(points))]
        assert pareto_front(points) == [not beaten(*pair) for pair in zip(points, others, strict=True)]


def test_equal_points_are_both_on_the_front():
    assert pareto_front([(1, 2), (1, 2), (2, 1), (2, 2)]) == [True, True, True, False]


def rows(figure):
    return {row["arm"].removesuffix(", exact"): row for row in figure.specification["datasets"]["arms"]}


def test_a_figure_for_each_depth_has_medians_means_and_the_front():
    cells = [
        *(cell("none", 4, seed, saved=0, ratio=1.0) for seed in range(3)),
        *(cell("slow", 4, seed, number=2, ratio=1.5 + seed) for seed in range(3)),
        *(cell("bad", 4, seed, number=2, ratio=3.0, metrics={"solved": 0.1}) for seed in range(3)),
    ]
    (figure,) = pareto(outcome(cells, margins={"solved": 0.05}))
    assert figure.name == "pareto_depth_4"
    found = rows(figure)
    assert found["slow"]["ratio"] == 2.5
    assert found["slow"]["saved"] == pytest.approx((4_400_000 // 2) / 1e6)
    solved = [(0.86 + 0.003 * seed) / 2 for seed in range(3)]
    assert found["slow"]["score"] == pytest.approx(100 * sum(solved) / 3)
    assert found["slow"]["high"] - found["slow"]["score"] == pytest.approx(100 * 0.0015)
    assert found["bad"]["score"] == pytest.approx(10)
    assert {arm: row["front"] for arm, row in found.items()} == {
        "none": "on the front",
        "slow": "on the front",
        "bad": "beaten",
    }
    assert "in all 3 and better in one: none and slow. Hollow marks are beaten: bad." in figure.caption


def test_without_times_the_front_is_of_two_figures_and_says_so():
    figure = pareto(store(depths=(2,), time=None))[0]
    assert "in all 2" in figure.caption
    assert "No time was measured" in figure.caption
    assert len(figure.specification["vconcat"]) == 1


def test_an_arm_without_one_of_the_figures_is_left_out_by_name():
    made = [*(cell("none", 2, seed) for seed in (0, 1)), cell("laser", 2, 0, number=2), cell("x", 2, 0, time=None)]
    (figure,) = pareto(outcome(made))
    assert "Left out, since one of these figures is not there: x." in figure.caption
    assert set(rows(figure)) == {"none", "laser"}


def test_arms_of_different_tasks_are_not_compared():
    """What another workload keeps says nothing of a strategy; how it is captured is part of the strategy."""
    workloads = {hidden: PluginReference(name="trm_maze", fields={"hidden": hidden}) for hidden in (64, 128)}
    cells = [
        cell(arm, 4, seed, number=number, workload=workload, variant={"hidden": hidden})
        for hidden, workload in workloads.items()
        for number, arm in enumerate(("none", "laser"), start=1)
        for seed in (0, 1)
    ]
    found = {figure.name: figure for figure in pareto(outcome(cells))}
    assert list(found) == ["pareto_depth_4_hidden=64", "pareto_depth_4_hidden=128"]
    assert set(rows(found["pareto_depth_4_hidden=64"])) == {"none hidden=64", "laser hidden=64"}
    assert "at depth 4, hidden=64" in found["pareto_depth_4_hidden=64"].title

    routes = [
        cell("laser", 4, 0, capture=CaptureSettings(routes=r), variant={"routes": r}) for r in ("hooks", "operators")
    ]
    (figure,) = pareto(outcome([cell("none", 4, 0), *routes]))
    assert len(rows(figure)) == 3


def test_front_and_ring_can_be_seen():
    figure = pareto(store(depths=(2,)))[0]
    assert [row["exact"] for row in figure.specification["datasets"]["arms"]] == [True, True, False]
    marks = [layer["mark"] for layer in figure.specification["vconcat"][0]["layer"]]
    assert any(mark.get("style") == "ring" for mark in marks)


def exactness(arms, outcome_of):
    found = exact_arms(outcome(outcome_of))
    return [found.get(arm) for arm in arms]


def test_what_a_strategy_said_when_it_ran_is_believed():
    cells = [
        result("none", strategy=("none",), exactness="exact"),
        result("a", exactness="exact"),
        result("b", exactness="lossless"),
        result("c", exactness="lossy"),
    ]
    assert exactness("abc", cells) == ["said", "said", None]


def test_of_older_records_a_training_that_is_the_references_bit_for_bit_is_the_evidence():
    curves = {seed: [2.0, 1.0 + seed, 0.5] for seed in (0, 1)}

    def arm(name, loss_curve_of, **fields):
        return [result(name, seed=seed, loss_curve=loss_curve_of(seed), **fields) for seed in curves]

    nearly = 0.5 + 2**-40
    cells = [
        *arm("none", lambda seed: curves[seed], strategy=("none",)),
        *arm("a", lambda seed: curves[seed]),
        *arm("b", lambda seed: [*curves[seed][:2], nearly]),
        *arm("c", lambda seed: curves[0] if seed == 0 else [*curves[1][:2], nearly]),
        *arm("d", lambda seed: curves[seed][:2]),
    ]
    assert exactness("abcd", cells) == ["seen", None, None, None]


def test_of_too_few_steps_and_without_a_reference_nothing_is_concluded():
    short = [result("none", strategy=("none",), loss_curve=[2.0, 1.0]), result("a", loss_curve=[2.0, 1.0])]
    assert exactness("a", short) == [None]
    assert exactness("a", [result("a", loss_curve=[2.0, 1.0, 0.5])]) == [None]
