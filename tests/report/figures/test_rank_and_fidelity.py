import pytest

from compbench.report.figures import NoFigure
from compbench.report.figures.rank_and_fidelity import MOST_SITES, mean_over_seeds, rank_and_fidelity
from tests.report.figures.stores import SITES, store
from tests.report.made_up import outcome, result


def by_name(found):
    return {figure.name: figure for figure in found}


def test_the_mean_is_over_seeds_at_steps_that_all_have():
    assert mean_over_seeds([[(1, 1.0), (2, 3.0)], [(2, 5.0), (3, 7.0)]]) == [(2, 4.0)]
    assert mean_over_seeds([[(1, float("nan")), (2, 1.0)], [(1, 1.0), (2, 2.0)]]) == [(2, 1.5)]
    assert mean_over_seeds([]) == []


def points(figure, field, name, statistic):
    rows = figure.specification["datasets"]["curves"]
    return {row["step"]: row["value"] for row in rows if (row[field], row["statistic"]) == (name, statistic)}


def test_each_site_of_an_arm_has_its_curves_at_the_deepest_recursion():
    figure = by_name(rank_and_fidelity(store()))["rank_and_fidelity_of_sites_laser"]
    assert "depth 4" in figure.title
    for place, site in enumerate(SITES):
        assert set(points(figure, "site", site, "rank").values()) == {16.0 + place}
        expected = pytest.approx(1 - 0.1 * place - 0.005)  # the mean of two seeds, one of which is 0.01 lower
        assert points(figure, "site", site, "fidelity")[3] == expected
    assert f"between 0.795 ({SITES[2]}) and 0.995 ({SITES[0]})" in figure.caption


def test_of_many_sites_those_of_the_lowest_fidelity_are_drawn():
    sites = {f"m{n}/s": {"fidelity": [(1, 1 - n / 100), (2, 1 - n / 100)]} for n in range(40)}
    figure = by_name(rank_and_fidelity(outcome([result(site_curves=sites)])))["rank_and_fidelity_of_sites_laser"]
    drawn = {row["site"] for row in figure.specification["datasets"]["curves"]}
    assert drawn == {f"m{n}/s" for n in range(40 - MOST_SITES, 40)}
    assert "12 of 40 sites are drawn, those of the lowest fidelity." in figure.caption


def test_arms_are_compared_by_what_they_tell_over_all_sites():
    figure = by_name(rank_and_fidelity(store()))["rank_and_fidelity_of_arms"]
    assert points(figure, "arm", "laser", "fidelity")[24] == pytest.approx(1 - 0.03 - 0.024)
    assert "Without such figures at depth 4: none." in figure.caption


def test_older_records_give_the_figure_of_arms_and_say_what_they_lack():
    found = by_name(rank_and_fidelity(store(site_curves={}, exactness=None)))
    missing = found["rank_and_fidelity_of_sites"]
    assert isinstance(missing, NoFigure)
    assert "older than curves of single sites" in missing.reason
    assert "rank_and_fidelity_of_arms" in missing.reason
    assert not isinstance(found["rank_and_fidelity_of_arms"], NoFigure)


def test_a_strategy_that_tells_no_rank_has_the_panel_of_fidelity_alone():
    curve = [{"step": step, "fidelity": 0.9} for step in (1, 2)]
    figure = by_name(rank_and_fidelity(outcome([result(statistics_curve=curve)])))["rank_and_fidelity_of_arms"]
    assert len(figure.specification["vconcat"]) == 1
