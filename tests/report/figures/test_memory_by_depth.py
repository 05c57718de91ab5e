import numpy as np
import pytest

from compbench.report.figures import Figure, NoFigure, make_figures
from compbench.report.figures.memory_by_depth import fitted_law
from tests.report.made_up import outcome, result


def figure(results, name="memory_by_depth"):
    return next(figure for figure in make_figures(outcome(results)) if figure.name == name)


def test_the_law_is_the_least_squares_line():
    random = np.random.default_rng(0)
    depths = [2, 2, 4, 8, 8, 16]
    sizes = [int(size) for size in random.integers(1e6, 5e8, size=6)]
    law = fitted_law(depths, sizes)
    slope, intercept = np.polyfit(depths, sizes, 1)
    assert law.bytes_per_call == pytest.approx(slope)
    assert law.intercept_bytes == pytest.approx(intercept)
    residuals = np.abs(np.polyval([slope, intercept], depths) - sizes) / sizes
    assert law.largest_residual == pytest.approx(residuals.max())
    assert law.depths == (2, 4, 8, 16)


def test_one_depth_has_no_slope():
    assert fitted_law([4, 4], [10, 20]) is None
    found = figure([result("laser", 4, seed) for seed in range(2)])
    assert isinstance(found, NoFigure)
    assert "depth 4" in found.reason


def test_the_figure_says_the_law_and_draws_it():
    saved = {2: 3_000_000, 4: 5_000_000, 8: 9_000_000}
    found = figure([result("laser", depth, saved=size) for depth, size in saved.items()])
    assert isinstance(found, Figure)
    assert "laser: M = 1 + 1 n MB, largest residual below 0.01 %" in found.caption
    assert [(row["depth"], row["size"]) for row in found.specification["datasets"]["laws"]] == [(2, 3.0), (8, 9.0)]
    assert found.specification["datasets"]["laws"][0]["arm"] == "laser: 1 + 1 n"
