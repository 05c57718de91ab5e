"""Several suites at once, against numbers worked out by hand."""

import csv
import io
import json
import math

import numpy as np
import pytest
from scipy import stats

from compbench.errors import SettingsError
from compbench.report.across import compare_across
from compbench.report.across_tables import FORMATS, render_across
from compbench.suite.cell import PluginReference
from tests.report.formats.test_hypertext import Page
from tests.report.made_up import cell, outcome, result, scores
from tests.report.test_findings import HOSTILE

NONE = [0.8, 0.5, 0.4]
LASER = [0.4, 0.5, 0.3]


def suite(name, results, **fields):
    """An outcome whose cells are of a suite of this name."""
    named = [made.model_copy(update={"cell": made.cell.model_copy(update={"suite": name})}) for made in results]
    return outcome(named, name=name, **fields)


def score_of(found, arm, metric="solved"):
    (made,) = [made for made in found.scores if (made.arm, made.metric) == (arm, metric)]
    return made


def profile_of(found, cost):
    (made,) = [made for made in found.profiles if made.cost == cost]
    return made


def test_relative_scores_are_over_the_reference_of_the_same_seed_in_every_task():
    shallow = scores("none", NONE) + scores("laser", LASER)
    deep = scores("none", NONE, depth=8) + scores("laser", [0.8, 0.1, 0.4], depth=8)
    found = compare_across([outcome(shallow + deep, margins={"solved": 0.1})])
    made = score_of(found, "laser")
    ratios = [0.5, 1, 0.75, 1, 0.2, 1]
    assert made.mean == pytest.approx(stats.trim_mean(ratios, 0.25))
    assert (made.tasks, made.scores, made.failed, made.dropped) == (2, 6, 0, 0)
    low, high = made.interval
    assert min(ratios) < low < made.mean < high < 1.1
    assert (found.tasks, found.metrics) == (2, ["solved"])


def test_suites_are_tasks_of_their_own_and_the_reference_is_that_of_the_suite():
    first = suite("first", scores("none", NONE) + scores("laser", NONE))
    second = suite("second", scores("none", NONE) + scores("laser", np.array(NONE) / 2))
    found = compare_across([first, second])
    assert found.suites == ["first", "second"]
    assert score_of(found, "laser").mean == pytest.approx(stats.trim_mean([1, 1, 1, 0.5, 0.5, 0.5], 0.25))
    assert score_of(found, "laser").tasks == 2


def test_an_axis_of_the_workload_makes_tasks_and_one_of_an_arm_makes_arms():
    results = []
    for hidden in (64, 128):
        workload = PluginReference(name="trm_maze", fields={"hidden": hidden})
        results += scores("none", NONE, variant={"hidden": hidden}, workload=workload)
        for rank in (8, 16):
            variant = {"hidden": hidden, "laser.rank": rank}
            results += scores("laser", LASER, variant=variant, workload=workload)
    found = compare_across([outcome(results)])
    assert [(made.arm, made.tasks) for made in found.scores] == [("laser laser.rank=8", 2), ("laser laser.rank=16", 2)]


def test_a_cell_that_failed_scores_nothing_and_is_counted():
    results = scores("none", NONE) + scores("laser", LASER)
    results[-1] = result("laser", seed=2, status="oom", reason="no memory")
    found = compare_across([outcome(results)])
    made = score_of(found, "laser")
    assert made.mean == pytest.approx(np.mean([0.5, 1, 0]))
    assert (made.scores, made.failed) == (3, 1)
    assert "A cell that failed has the score 0." in found.sentences


@pytest.mark.parametrize(
    "broken",
    [
        lambda: result("none", seed=0, status="oom", reason="no memory"),
        lambda: result("none", seed=0, metrics={"solved": 0.0}),
        lambda: result("none", seed=0, metrics={"solved": math.nan}),
        lambda: result("none", seed=0, metrics={"solved": 0.8}, order_hash="another"),
    ],
)
def test_a_seed_whose_reference_has_nothing_to_relate_to_is_dropped_and_counted(broken):
    results = [broken(), *scores("none", NONE)[1:], *scores("laser", LASER)]
    found = compare_across([outcome(results)])
    made = score_of(found, "laser")
    assert (made.scores, made.dropped, made.failed) == (2, 1, 0)
    assert made.interval is None
    assert any(sentence.startswith("Dropped are cells without a relative score") for sentence in found.sentences)
    assert any(sentence.startswith("Without an interval") for sentence in found.sentences)


def test_where_less_is_better_the_ratio_is_turned_over():
    results = scores("none", [2.0, 3.0, 4.0], "perplexity") + scores("laser", [4.0, 3.0, 5.0], "perplexity")
    found = compare_across([outcome(results, lower_is_better=["perplexity"])])
    assert score_of(found, "laser", "perplexity").mean == pytest.approx(np.mean([0.5, 1, 0.8]))


def timed(arm, ratio, saved, **fields):
    return result(arm, ratio=ratio, saved=saved, peak=2 * saved, **fields)


def test_profiles_count_the_problems_that_an_arm_does_nearly_as_cheaply_as_the_best():
    results = []
    for seed, (slow, quick, kept) in enumerate([(2.0, 0.5, 100), (1.5, 3.0, 400), (1.5, 1.2, 200)]):
        results.append(timed("none", 1.02, 1000, seed=seed))
        results.append(timed("slow", slow, 100, seed=seed))
        results.append(timed("quick", quick, kept, seed=seed))
    found = compare_across([outcome(results)])
    time = profile_of(found, "time")
    # The plain step is what times are ratios to: it takes 1, whatever the clock has made of it.
    np.testing.assert_allclose(time.ratios, [[2, 4, 1], [1, 1.5, 3], [1, 1.5, 1.2]])
    assert time.share_within(1.2) == pytest.approx({"none": 2 / 3, "slow": 0, "quick": 2 / 3})
    np.testing.assert_allclose(time.steps("slow"), [(1.5, 2 / 3), (4, 1)])
    np.testing.assert_allclose(profile_of(found, "saved bytes").ratios, [[10, 1, 1], [10, 1, 4], [10, 1, 2]])
    np.testing.assert_allclose(profile_of(found, "peak delta").ratios, [[10, 1, 1], [10, 1, 4], [10, 1, 2]])


def test_an_arm_that_failed_never_does_the_problem():
    results = [timed("none", 1.0, 1000), timed("laser", 1.5, 100)]
    results += [result("none", depth=8, status="oom", reason="x"), timed("laser", 1.5, 100, depth=8)]
    results += [result(arm, depth=16, status="oom", reason="x") for arm in ("none", "laser")]
    found = compare_across([outcome(results)])
    saved = profile_of(found, "saved bytes")
    np.testing.assert_allclose(saved.ratios, [[10, 1], [np.inf, 1]])
    assert saved.steps("none") == [(10, 0.5)]
    # Nobody could do depth 16, of which nobody knows what it costs.
    assert (saved.left_out, saved.unsolved) == (0, 0)
    results += [timed("laser", 1.5, 100, depth=16, seed=1)]
    saved = profile_of(compare_across([outcome(results)]), "saved bytes")
    assert (len(saved.ratios), saved.left_out, saved.unsolved) == (2, 1, 1)


def test_arms_that_are_not_in_every_task_are_left_out_and_named():
    first = [timed("none", 1.0, 1000), timed("laser", 1.5, 100), timed("lance", 1.4, 90)]
    second = [timed("none", 1.0, 1000, depth=8), timed("laser", 1.5, 100, depth=8)]
    found = compare_across([outcome(first + second)])
    assert profile_of(found, "time").arms == ["none", "laser"]
    assert (
        "time, saved bytes and peak delta: 2 problems; without `lance`, not measured in all tasks." in found.sentences
    )
    only = compare_across([outcome(first + second)], arms=["lance"])
    assert profile_of(only, "time").arms == ["none", "lance"]
    assert len(profile_of(only, "time").ratios) == 1


def test_a_reference_that_stands_alone_has_no_profile():
    results = scores("none", NONE, time=None, memory=None) + scores("laser", LASER, time=None, memory=None)
    found = compare_across([outcome(results)])
    assert found.profiles == []
    assert any(sentence.startswith("No two arms have been measured in all tasks") for sentence in found.sentences)


def test_one_name_for_different_settings_is_told():
    first = suite("first", scores("none", NONE) + scores("laser", LASER))
    other = scores("none", NONE) + scores("laser", LASER)
    rank = {"strategy": (PluginReference(name="laser", fields={"rank": 4}),)}
    other = [
        made if made.cell.arm == "none" else made.model_copy(update={"cell": made.cell.model_copy(update=rank)})
        for made in other
    ]
    found = compare_across([first, suite("second", other)])
    assert (
        "One name stands for different settings, of the strategy or of capture: `laser` (in `first` and `second`)."
        in found.sentences
    )


def test_cells_that_are_in_two_folders_count_once():
    made = outcome(scores("none", NONE) + scores("laser", LASER))
    found = compare_across([made, made])
    assert score_of(found, "laser").scores == 3
    assert "In more than one of the folders: 6 cells, of which the first counts." in found.sentences


def test_cells_that_have_not_been_run_are_counted():
    made = outcome(scores("none", NONE) + scores("laser", LASER), missing=[cell("laser", depth=8)])
    assert "Not run, and no part of this: 1 cell of `made_up`." in compare_across([made]).sentences


def test_metrics_are_those_with_margins_then_the_known_ones_then_all():
    results = [result(arm, metrics={"solved": 0.5, "norm": 2.0, "token_accuracy": 0.9}) for arm in ("none", "laser")]
    assert compare_across([outcome(results, margins={"norm": 0.1, "sovled": 0.1})]).metrics == ["norm"]
    assert compare_across([outcome(results)]).metrics == ["token_accuracy", "solved"]
    assert compare_across([outcome(scores("none", NONE, "norm"))]).metrics == ["norm"]
    assert compare_across([outcome(results)], metrics=["norm"]).metrics == ["norm"]


def test_what_nobody_measured_or_no_arm_is_called_names_what_there_is():
    made = outcome(scores("none", NONE) + scores("laser", LASER))
    with pytest.raises(SettingsError, match=r"unknown metric 'sovled'; did you mean 'solved'\? \(allowed: solved\)"):
        compare_across([made], metrics=["sovled"])
    with pytest.raises(SettingsError, match=r"unknown arm 'lazer'; did you mean 'laser'\? \(allowed: laser\)"):
        compare_across([made], arms=["lazer"])


@pytest.mark.parametrize(
    "results",
    [
        [result("none")],
        [result("laser")],
        [result(arm, status="crashed", reason="x") for arm in ("none", "laser")],
        [result(arm, metrics={}) for arm in ("none", "laser")],
        [result(arm, metrics={"solved": math.nan}) for arm in ("none", "laser")],
        scores("none", [0.0] * 3) + scores("laser", [0.0] * 3),
    ],
    ids=["reference alone", "one arm", "failures alone", "no metric", "no number", "nothing learnt"],
)
@pytest.mark.parametrize("layout", FORMATS)
def test_bad_input_gives_sentences_and_no_number_that_is_none(results, layout):
    text = render_across(compare_across([outcome(results)]), layout)
    assert text.endswith("\n")
    assert "nan" not in text.lower().replace("dominan", "")
    if layout == "json":
        assert json.loads(text)["sentences"]
    elif layout == "csv":
        assert text.startswith("table,quantity,arm,")
    else:
        assert "No arm has a score that can be related to the reference's." in text.replace("&#x27;", "'")


def example():
    results = scores("none", NONE) + scores("laser", LASER) + scores("laser", LASER, depth=8)
    return compare_across([outcome(results + scores("none", NONE, depth=8))])


def test_csv_has_every_score_and_every_step():
    rows = list(csv.DictReader(io.StringIO(render_across(example(), "csv"))))
    (score,) = [row for row in rows if row["table"] == "relative_score"]
    made = score_of(example(), "laser")
    assert (score["quantity"], score["arm"], float(score["value"])) == ("solved", "laser", made.mean)
    assert (float(score["low"]), float(score["high"])) == made.interval
    steps = [row for row in rows if (row["table"], row["quantity"], row["arm"]) == ("profile", "saved_bytes", "laser")]
    assert [(float(row["factor"]), float(row["value"])) for row in steps] == [(1.0, 1.0)]


def test_json_has_the_same():
    data = json.loads(render_across(example(), "json"))
    (score,) = data["relative_scores"]
    assert (score["arm"], score["interquartile_mean"]) == ("laser", score_of(example(), "laser").mean)
    assert {profile["cost"] for profile in data["profiles"]} == {"time", "saved_bytes", "peak_delta"}
    assert data["profiles"][0]["arms"]["laser"] == [{"factor": 1.5, "share": 1.0}]


def test_the_same_results_give_the_same_bytes():
    assert [render_across(example(), layout) for layout in FORMATS] == [
        render_across(example(), layout) for layout in FORMATS
    ]


def test_names_are_harmless_in_html_and_in_sentences():
    results = scores("none", NONE, HOSTILE) + scores(HOSTILE, LASER, HOSTILE)
    made = suite("made_up", results)
    page = Page(render_across(compare_across([made]), "html"))
    assert any("<script>" in text for row in page.rows for text in row)  # as text, in its cell
    for sentence in compare_across([made]).sentences:
        assert sentence.isprintable()
        assert "<" not in "".join(sentence.split("`")[::2])
