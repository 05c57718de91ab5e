import pytest

from compbench.measure.results import Fidelity
from compbench.report.figures import NoFigure
from compbench.report.figures.gradient_by_setting import gradient_by_setting
from tests.report.made_up import outcome, result


def cell(cosine, arm="laser", depth=4, seed=0, start=0.9, **variant):
    fidelity = Fidelity(gradient_cosine_start=start, gradient_cosine=cosine, smallest_parameter_cosine=0.0)
    return result(arm, depth, seed, variant=variant, fidelity=fidelity)


def figures(cells):
    return {figure.name: figure for figure in gradient_by_setting(outcome(cells))}


def test_it_is_the_mean_over_seeds_with_their_range_and_the_reference_is_left_out():
    cosines = {(4, 0): 0.8, (4, 1): 1.0, (96, 0): -0.5, (96, 1): 0.1}
    cells = [cell(cosine, depth=depth, seed=seed, start=0.9 + seed / 20) for (depth, seed), cosine in cosines.items()]
    cells += [cell(1.0, arm="none", depth=depth, seed=seed) for depth, seed in cosines]
    found = figures(cells)
    assert list(found) == ["gradient_by_depth"]
    rows = found["gradient_by_depth"].specification["datasets"]["points"]
    assert [(row["arm"], row["value"], row["lowest"], row["highest"]) for row in rows] == [
        ("laser", 4, 0.8, 1.0),
        ("laser", 96, -0.5, 0.1),
    ]
    assert [row["mean"] for row in rows] == pytest.approx([0.9, -0.2])
    caption = found["gradient_by_depth"].caption
    assert "laser: 0.9 at 4 and -0.2 at 96; after the third step it was 0.9 to 0.95." in caption


def test_a_cosine_below_zero_is_within_the_axis():
    figure = figures([cell(0.5, clues=13), cell(-0.5, clues=7)])["gradient_by_clues"]
    low, high = figure.specification["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low < -0.5
    assert high > 1


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([result("none")], "No cell that ended well has its gradient compared with the exact one under a strategy."),
        ([result(fidelity=None)], "No cell that ended well has its gradient compared"),
        ([cell(0.5, seed=seed) for seed in (0, 1)], "a comparison needs two."),
        ([cell(0.5, grid=7), cell(float("nan"), grid=9)], "a comparison needs two."),
    ],
)
def test_what_can_not_be_compared_has_the_reason(cells, reason):
    (found,) = gradient_by_setting(outcome(cells))
    assert isinstance(found, NoFigure)
    assert reason in found.reason
