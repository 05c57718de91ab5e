import numpy as np
import pytest

from compbench.report.figures.curves_over_training import averaged, band, training_loss, validation_curves
from tests.report.figures.stores import store
from tests.report.made_up import outcome, result


def test_the_band_reaches_from_the_lowest_seed_to_the_highest_at_steps_that_all_have():
    points = band([{1: 0.5, 2: 0.75, 3: 1.0}, {1: 1.0, 3: 0.25, 4: 9.0}, {1: 0.0, 2: 1.0, 3: 1.0}])
    assert [(p.step, p.mean, p.low, p.high) for p in points] == [(1, 0.5, 0.0, 1.0), (3, 0.75, 0.25, 1.0)]
    assert band([]) == band([{1: 1.0}, {2: 1.0}]) == []


def test_an_average_over_steps_is_the_mean_of_each_part():
    losses = np.random.default_rng(0).random(25)
    found = averaged(dict(enumerate(losses, start=1)), 10)
    assert found == pytest.approx({10: losses[:10].mean(), 20: losses[10:20].mean(), 25: losses[20:].mean()})
    assert averaged({1: 2.0}, 1) == {1: 2.0}


def curve(figure, arm, panel):
    rows = figure.specification["datasets"]["curves"]
    return {row["step"]: row for row in rows if (row["arm"], row["panel"]) == (arm, panel)}


def test_a_validation_curve_is_the_mean_of_the_seeds_in_percent():
    made = store()
    figure = next(f for f in validation_curves(made) if f.name == "validation_solved")
    for depth in (2, 4):
        points = [
            result.validation_curve
            for _, result in sorted(made.results.items())
            if result.cell.arm == "laser" and result.cell.depth == depth
        ]
        expected = {p[0]["step"]: 100 * np.mean([q["solved"] for q in p]) for p in zip(*points, strict=True)}
        found = curve(figure, "laser", f"depth {depth}")
        assert {step: row["mean"] for step, row in found.items()} == pytest.approx(expected)
    assert "2 seeds each" in figure.caption


def test_one_seed_has_no_band_and_says_so():
    (figure,) = training_loss(store(seeds=(0,)))
    assert "of one seed, so that there is no band" in figure.caption


def test_a_long_curve_is_thinned_and_the_caption_says_how():
    losses = [2.0 / step for step in range(1, 1201)]
    cells = [result(arm, seed=seed, loss_curve=losses) for arm in ("a", "b") for seed in (0, 1)]
    (figure,) = training_loss(outcome(cells))
    assert "Each point is the mean over 12 steps." in figure.caption
    found = curve(figure, "a", "depth 4")
    assert list(found) == list(range(12, 1201, 12))
    assert found[12]["mean"] == pytest.approx(np.mean(losses[:12]))


def test_validation_points_are_never_averaged_only_left_out():
    points = [{"step": step, "solved": step / 1000} for step in range(1, 1001)]
    (figure,) = validation_curves(outcome([result(seed=seed, validation_curve=points) for seed in (0, 1)]))
    found = curve(figure, "laser", "depth 4")
    assert len(found) == 100
    assert all(row["mean"] == pytest.approx(step / 10) for step, row in found.items())
    assert {1, 1000} <= set(found)
    assert "100 of up to 1,000 points of each curve are drawn" in figure.caption


def test_cells_that_failed_are_left_out_and_counted():
    cells = [result(seed=0, loss_curve=[1.0, 0.5]), result(seed=1, status="diverged", loss_curve=[1.0, 99.0])]
    (figure,) = training_loss(outcome(cells))
    assert "1 cell that did not end well is left out." in figure.caption
    assert max(row["high"] for row in figure.specification["datasets"]["curves"]) == 1.0
