import re

import pytest

from compbench.report.figures import Figure, NoFigure, as_svg
from compbench.report.figures.rank_by_setting import MOST_SITES, final_ranks, rank_by_setting
from compbench.report.figures.style import COLUMN_WIDTH
from tests.report.made_up import memory, outcome, result


def cell(ranks, arm="laser", depth=4, seed=0, **variant):
    """A record whose sites end with these ranks; None is a site that is left raw."""
    sites = [
        {
            "name": name,
            "raw_bytes": 100,
            "kept_bytes": 50,
            "reason": "" if rank else "nothing would be saved",
            "statistics": {"rank": rank or 8.0},
        }
        for name, rank in ranks.items()
    ]
    return result(arm, depth, seed, variant=variant, memory=memory().model_copy(update={"sites": sites}))


def figures(cells):
    return {figure.name: figure for figure in rank_by_setting(outcome(cells))}


def drawn(figure, *names):
    rows = figure.specification["datasets"]["points"]
    return {tuple(row[name] for name in names): (row["mean"], row["lowest"], row["highest"]) for row in rows}


def test_a_site_that_is_left_raw_or_has_no_rank_is_none_of_those_that_have_one():
    record = cell({"a": 4.0, "b": None})
    record.memory.sites.append({"name": "c", "reason": "", "statistics": {}})
    record.memory.sites.append({"name": "d", "reason": "int64 is not real floating point"})
    assert final_ranks(record) == {"a": 4.0}
    assert final_ranks(result(memory=None)) == {}


def test_an_arms_rank_is_the_mean_over_sites_and_then_over_seeds_with_their_range():
    ranks = {(7, 0): (4, 28), (7, 1): (8, 28), (11, 0): (4, 36), (11, 1): (4, 40)}
    cells = [cell({"a": a, "b": b}, seed=seed, grid=grid) for (grid, seed), (a, b) in ranks.items()]
    cells += [cell({}, arm="none", seed=seed, grid=grid) for grid, seed in ranks]
    found = figures(cells)
    assert list(found) == ["rank_by_grid", "rank_by_grid_of_sites_laser"]
    assert drawn(found["rank_by_grid"], "arm", "value") == {
        ("laser", 7): (17.0, 16.0, 18.0),
        ("laser", 11): (21.0, 20.0, 22.0),
    }
    assert "laser: 17 at 7 and 21 at 11." in found["rank_by_grid"].caption
    assert found["rank_by_grid"].title == "Rank by grid at depth 4"
    of_sites = found["rank_by_grid_of_sites_laser"]
    assert drawn(of_sites, "site", "value") == {
        ("a", "7"): (6.0, 4.0, 8.0),
        ("b", "7"): (28.0, 28.0, 28.0),
        ("a", "11"): (4.0, 4.0, 4.0),
        ("b", "11"): (38.0, 36.0, 40.0),
    }
    assert "It differs most at b: 28 at 7 and 38 at 11." in of_sites.caption


def test_each_axis_has_its_figures_with_a_line_for_the_values_of_the_others():
    cells = [
        cell({"a": 4.0 * depth + clues + tied}, depth=depth, clues=clues, tied=tied)
        for depth in (2, 4)
        for clues in (13, 7)
        for tied in (True, False)
    ]
    found = figures(cells)
    by_depth = drawn(found["rank_by_depth"], "arm", "value")
    assert by_depth["laser clues=13 tied=True", 4] == (30.0, 30.0, 30.0)
    assert len(by_depth) == 8
    by_clues = drawn(found["rank_by_clues"], "arm", "value")  # of the deepest
    assert by_clues == {
        (f"laser tied={tied}", clues): (16.0 + clues + tied,) * 3 for tied in (True, False) for clues in (7, 13)
    }
    by_tied = drawn(found["rank_by_tied"], "arm", "value")
    assert by_tied["laser clues=7", "False"] == (23.0, 23.0, 23.0)


def test_numbers_are_in_their_order_and_on_a_line_and_words_are_neither():
    cells = [cell({"a": 4.0}, architecture=name) for name in ("trm", "looped_lm")]
    words = figures(cells)["rank_by_architecture"].specification
    assert {layer["mark"]["type"] for layer in words["layer"]} == {"point", "rule"}
    assert words["layer"][0]["encoding"]["x"]["scale"]["domain"] == ["trm", "looped_lm"]
    numbers = figures([cell({"a": 4.0}, clues=clues) for clues in (13, 7, 9)])["rank_by_clues"].specification
    assert {layer["mark"]["type"] for layer in numbers["layer"]} == {"line", "point", "rule"}
    assert [row["value"] for row in numbers["datasets"]["points"]] == [7, 9, 13]


def test_true_and_one_are_two_values():
    found = figures([cell({"a": rank}, tied=tied) for tied, rank in ((True, 4.0), (1, 8.0))])
    assert drawn(found["rank_by_tied"], "value") == {("True",): (4.0,) * 3, ("1",): (8.0,) * 3}


def test_of_many_sites_those_whose_ranks_differ_most_are_drawn_and_those_at_one_value_are_none():
    ranks = {f"m{n}": 4.0 for n in range(20)}
    cells = [cell(ranks | {"alone": 4.0}, grid=7), cell({name: 4.0 + int(name[1:]) for name in ranks}, grid=9)]
    found = figures(cells)
    of_sites = found["rank_by_grid_of_sites_laser"]
    assert {site for site, _ in drawn(of_sites, "site", "value")} == {f"m{n}" for n in range(20 - MOST_SITES, 20)}
    assert "12 of 20 sites are drawn, those whose ranks differ most." in of_sites.caption
    assert "1 of 21 sites are compressed at one value alone, and left out." in of_sites.caption
    assert "1 of 20 sites have the same mean rank at all values." in of_sites.caption
    assert "laser compresses 20 to 21 sites: its means are of different ones." in found["rank_by_grid"].caption


def test_sites_that_no_two_values_share_have_no_figure():
    found = figures([cell({"block": 8.0}, tied=True), cell({"blocks.0": 4.0, "blocks.1": 6.0}, tied=False)])
    assert list(found) == ["rank_by_tied"]
    assert isinstance(found["rank_by_tied"], Figure)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([result()], "No cell that ended well has a strategy that tells the rank of a site."),
        ([cell({"a": 4.0}, seed=seed) for seed in (0, 1)], "a comparison needs two."),
        ([cell({"a": 4.0}, grid=7), cell({"a": None}, grid=9)], "a comparison needs two."),
    ],
)
def test_what_can_not_be_compared_has_the_reason(cells, reason):
    (found,) = rank_by_setting(outcome(cells))
    assert isinstance(found, NoFigure)
    assert found.reason.endswith(reason)


def test_the_legend_beside_long_names_of_sites_is_within_the_figure():
    names = ("universal_transformer", "looped_lm", "trm")
    for site in ("a", "block.before_attention/block_64"):
        found = figures([cell({site: 4.0}, architecture=name) for name in names])
        svg = as_svg(found["rank_by_architecture_of_sites_laser"])
        legend = {"a": 2, "block.before_attention/block_64": 1}[site]
        specification = found["rank_by_architecture_of_sites_laser"].specification
        assert specification["layer"][0]["encoding"]["color"]["legend"]["columns"] == legend
        assert all(name in svg for name in names)
        width = float(re.search(r'<svg[^>]*? width="([0-9.]+)', svg)[1])
        assert width == COLUMN_WIDTH
