import pytest

from compbench.report.figures.saved_bytes_by_site import MOST_ARMS, MOST_SITES, kept_by_site, saved_bytes_by_site
from tests.report.figures.stores import store
from tests.report.made_up import memory, outcome, result


def sized(arm, seed, sizes, strategy=None):
    sites = [{"name": name, "kept_bytes": size} for name, size in sizes.items()]
    found = memory(saved=sum(sizes.values())).model_copy(update={"sites": sites})
    return result(arm, seed=seed, memory=found, strategy=strategy)


def bars(figure):
    return {(row["arm"], row["site"]): row["size"] for row in figure.specification["datasets"]["sites"]}


def test_bars_are_those_of_the_seed_whose_saved_bytes_are_the_median():
    made = outcome([sized("laser", seed, {"a": 10**6 * (3 - seed), "b": 5 * 10**6}) for seed in range(3)])
    assert kept_by_site(made, "laser", 4) == {"a": 2 * 10**6, "b": 5 * 10**6}
    (figure,) = saved_bytes_by_site(made)
    assert bars(figure) == {("laser", "b"): 5.0, ("laser", "a"): 2.0}
    assert "laser keeps 7 MB, 71 % of it at b." in figure.caption


def test_the_bars_of_an_arm_add_up_to_its_saved_bytes_however_many_sites_there_are():
    sizes = {f"site {n}": 1_000_003 * (n + 1) for n in range(30)}
    (figure,) = saved_bytes_by_site(outcome([sized("laser", 0, sizes)]))
    found = bars(figure)
    assert len(found) == MOST_SITES + 1
    assert sum(found.values()) == pytest.approx(sum(sizes.values()) / 1e6)
    assert found["laser", "18 other sites"] == pytest.approx(sum(1.000003 * (n + 1) for n in range(18)))
    assert "The 12 largest of 30 sites have bars of their own." in figure.caption


def test_entries_of_one_name_are_one_bar():
    sites = [{"name": "a", "kept_bytes": 10**6}, {"name": "a", "kept_bytes": 2 * 10**6}]
    record = result(memory=memory(saved=3 * 10**6).model_copy(update={"sites": sites}))
    assert bars(saved_bytes_by_site(outcome([record]))[0]) == {("laser", "a"): 3.0}


def test_more_arms_than_fit_are_in_several_figures_none_of_them_left_out():
    arms = tuple(f"arm_{n}" for n in range(2 * MOST_ARMS + 1))
    found = saved_bytes_by_site(store(arms, depths=(2, 4), seeds=(0,)))
    assert [figure.name for figure in found] == [f"saved_bytes_by_site_{part}" for part in (1, 2, 3)]
    assert {arm for figure in found for arm, _ in bars(figure)} == set(arms)
    assert all("depth 4" in figure.title for figure in found)


def test_a_site_that_keeps_nothing_has_no_bar():
    (figure,) = saved_bytes_by_site(outcome([sized("laser", 0, {"a": 10, "b": 0})]))
    assert bars(figure) == {("laser", "a"): 10.0}
