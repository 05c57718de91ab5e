"""The small drawing of a loss."""

import math

import numpy as np

from compbench.report.page.curves import HEIGHT, WIDTH, loss_curve


def points(curve):
    return np.array([[float(number) for number in point.split(",")] for point in curve.points.split()])


def test_a_short_curve_has_every_loss_at_its_place():
    drawn = points(loss_curve([2.0, 1.0, 1.5]))
    assert drawn[:, 0].tolist() == [0, WIDTH / 2, WIDTH]
    top, bottom = 1, HEIGHT - 1
    assert drawn[:, 1].tolist() == [top, bottom, (top + bottom) / 2]


def test_a_long_curve_is_thinned_to_means_and_stays_in_its_box():
    losses = np.exp(-np.linspace(0, 3, 1200)).tolist()
    drawn = points(loss_curve(losses))
    assert len(drawn) == 80
    means = np.array(losses).reshape(80, 15).mean(axis=1)
    expected = HEIGHT - 1 - (HEIGHT - 2) * (means - means.min()) / np.ptp(means)
    np.testing.assert_allclose(drawn[:, 1], expected, atol=0.02)
    assert (drawn[:, 0] >= 0).all()
    assert drawn[:, 0].max() == WIDTH
    assert loss_curve(losses).text == "1,200 steps, from 1 to 0.04979, lowest 0.04979"


def test_losses_that_are_not_finite_are_counted_and_not_drawn():
    curve = loss_curve([2.0, 1.0, math.nan, math.inf])
    assert curve.text == "4 steps, from 2 to not finite, lowest 1; 2 not finite"
    assert len(points(curve)) == 2
    alone = loss_curve([math.nan])
    assert alone.points == ""
    assert alone.text == "one step, not finite; 1 not finite"


def test_a_loss_that_does_not_move_is_a_line_and_no_steps_are_no_curve():
    assert set(points(loss_curve([1.0, 1.0, 1.0]))[:, 1]) == {HEIGHT - 1}
    assert loss_curve([]) is None
