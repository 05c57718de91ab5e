"""Tables as their formats' own readers see them."""

import csv
import dataclasses
import io
import json
import re
import statistics

import pytest
from scipy import stats

from compbench.errors import PluginError, SettingsError
from compbench.records import Reporter
from compbench.report.formats import FORMATS, Screen, as_text, render_with
from compbench.report.rows import COLUMNS
from compbench.report.tables import View, figures, results_table
from compbench.suite.cell import PluginReference
from tests.report.formats.test_hypertext import Page
from tests.report.made_up import arithmetic, cell, memory, outcome, phased, result, scores

AWKWARD = "laser_int8 note=a|b<c>&{d}%"
GOOD = [0.80, 0.82, 0.84]


def awkward():
    """Two arms with verdicts, one of them with a label that every format has to escape."""
    results = scores("none", GOOD) + scores("laser_int8", GOOD, variant={"note": "a|b<c>&{d}%"})
    return outcome(results, margins={"solved": 0.005})


def render(made, layout, **view):
    """The table of results as text."""
    return as_text(results_table(made, View(**view)), layout)


def github_cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_github_shows_figures_with_units():
    made = outcome(
        [
            result(
                saved=2_500_000,
                peak=31_400_000,
                ratio=1.234,
                cosine=0.98765,
                metrics={"token_accuracy": 0.91234, "solved": 0.5},
            ),
            result(
                seed=1,
                saved=2_500_000,
                peak=31_400_000,
                ratio=1.234,
                cosine=0.98765,
                metrics={"token_accuracy": 0.93234, "solved": 0.5},
            ),
        ]
    )
    header, _, row = github_cells(render(made, "github"))
    assert dict(zip(header, row, strict=True)) == {
        "arm": "laser",
        "depth": "4",
        "status": "ok",
        "seeds": "2",
        "saved MB": "2.50",
        "saving %": "-150.0",
        "peak delta MB": "31.4",
        "peak phase": "backward",
        "time ratio": "1.23",
        "token accuracy %": "92.23 ± 1.41",
        "solved %": "50.00 ± 0.00",
        "gradient cosine": "0.9877",
    }


@pytest.mark.parametrize(
    ("saved", "unit", "text"),
    [(999, "B", "999"), (1_000, "kB", "1.00"), (123_456, "kB", "123"), (5_000_000_000, "GB", "5.00")],
)
def test_the_unit_of_bytes_is_decimal_and_fits_the_largest(saved, unit, text):
    header, _, row = github_cells(render(outcome([result(saved=saved, peak=0)]), "github"))
    assert row[header.index(f"saved {unit}")] == text
    assert row[header.index(f"peak delta {unit}")] == "0"


def test_every_format_shows_every_row_under_the_same_headers():
    made = awkward()
    table = results_table(made)
    header, _, *rows = github_cells(render(made, "github"))
    assert [len(row) for row in rows] == [len(header)] * 2
    page = Page(render(made, "html"))
    assert [text.strip() for text in page.rows[0]] == header == list(table.headers)
    assert [[text.strip() for text in row] for row in page.rows[1:]] == [list(row) for row in table.cells]
    assert table.cells[1][0] == AWKWARD
    assert page.items == list(table.sentences)


def test_the_table_of_times_says_where_they_go():
    text = render(outcome([result(time=phased(), arithmetic=arithmetic())]), "github", times=True)
    header, _, row = github_cells(text)
    assert dict(zip(header, row, strict=True)) == {
        "arm": "laser",
        "depth": "4",
        "time ratio": "1.70",
        "forward": "2.00",
        "backward": "1.50",
        "update %": "3.3",
        "step ms": "510",
        "plain step ms": "300",
        "FLOP ratio": "1.53",
        "GFLOP/s": "18.0",
        "plain GFLOP/s": "20.0",
        "page faults": "20",
        "plain page faults": "300",
    }
    assert "the strategy's own end of step" in text


def test_the_table_of_times_has_dashes_where_older_records_know_nothing():
    older = outcome([result(ratio=1.25), result("int8", status="oom", reason="no memory")])
    _, _, row, failed = github_cells(render(older, "github", times=True))
    assert row == ["laser", "4", "1.25", "-", "-", "-", "100", "100", "-", "-", "-", "-", "-"]
    assert set(failed[2:]) == {"-"}


def test_times_that_were_taken_beside_another_cell_are_told_of():
    alone, beside = (phased().model_copy(update={"alone": state}) for state in (True, False))
    text = render(outcome([result(time=alone), result(seed=1, time=beside)]), "github")
    assert "laser at depth 4: times of 1 of its 2 cells were taken while another cell ran beside them." in text
    assert "beside" not in render(outcome([result(time=alone)]), "github")


def test_csv_has_the_figures_of_both_tables():
    made = outcome([result(time=phased(), arithmetic=arithmetic())])
    assert render(made, "csv", times=True) == render(made, "csv")


def test_markdown_keeps_a_label_with_a_bar_in_its_cell():
    (label,) = [row[0] for row in github_cells(render(awkward(), "github")) if row[0].startswith("laser")]
    assert label == r"laser_int8 note=a\|b\<c>&{d}%"


def test_csv_has_the_raw_numbers_and_escapes_the_label():
    first, second = csv.DictReader(io.StringIO(render(awkward(), "csv")))
    assert (first["arm"], second["arm"]) == ("none", AWKWARD)
    assert first["saved_bytes"] == "250000"


def test_a_verdict_stands_in_the_row_of_its_arm_and_its_margin_under_the_table():
    text = render(awkward(), "github")
    header, _, *rows = github_cells(text)
    column = header.index("solved verdict")
    assert [row[column] for row in rows] == ["reference", "non-inferior"]
    assert "tolerable loss of 0.50 points of solved" in text
    assert "verdict" not in render(outcome(scores("none", GOOD)), "github")


def test_only_verdicts_that_occur_are_explained():
    text = render(outcome(scores("none", GOOD[:2]) + scores("laser", GOOD[:2]), margins={"solved": 0.005}), "github")
    assert "not tested: fewer than three pairs" in text
    assert "inconclusive" not in text
    assert "non-inferior" not in text


def test_failed_cells_are_rows_with_dashes():
    made = outcome([result("none"), result("laser", status="oom", reason="no memory")])
    header, _, _, row = github_cells(render(made, "github"))
    assert row[:4] == ["laser", "4", "oom 1", "0"]
    assert set(row[4:]) == {"-"}
    assert len(row) == len(header)


def test_a_table_of_failures_alone_still_renders_in_every_format():
    made = outcome([result(status="failed", reason="no")], margins={"solved": 0.01})
    for layout in FORMATS:
        assert "failed 1" in render(made, layout)
        assert "nan" not in render(made, layout).lower()


def test_what_has_not_been_run_is_a_sentence_for_people_and_a_row_in_the_csv():
    made = outcome([result()], missing=[cell(depth=8), cell("int8", 8), cell(seed=1)], margins={"solved": 0.01})
    text = render(made, "github")
    assert "- not run yet, at depth 8: laser, int8." in text
    assert [row[:3] for row in github_cells(text)[2:]] == [["laser", "4", "ok"]]
    rows = list(csv.DictReader(io.StringIO(render(made, "csv"))))
    assert [(row["arm"], row["depth"], row["status"]) for row in rows[1:]] == [
        ("laser", "8", "missing"),
        ("int8", "8", "missing"),
    ]


def test_bytes_that_differ_over_seeds_are_remarked_on():
    same = outcome([result(seed=0, saved=100_000), result(seed=1, saved=100_900)])
    assert "differ over seeds" not in render(same, "github")
    differing = outcome([result(seed=0, saved=100_000), result(seed=1, saved=101_100)])
    assert "laser at depth 4: saved bytes differ over seeds, from 100,000 to 101,100 bytes." in render(
        differing, "github"
    )


def with_sites(*sites, **fields):
    """A record whose sites are ``(width, reason)``."""
    listed = [{"name": f"block/mlp_{width}", "width": width, "reason": reason} for width, reason in sites]
    return result(memory=memory().model_copy(update={"sites": listed}), **fields)


def test_sites_left_raw_since_nothing_would_be_saved_are_remarked_on():
    raw = "would keep 835584 of 802816 bytes"
    sites = [(64, raw), (16, raw), (64, raw), (384, ""), (192, ""), (1, "has no rows"), (49, "outside the model")]
    remark = "laser at depth 4: 3 of its 5 sites are left raw, since it would keep no less there: those of width 16, 64"
    assert f"- {remark}." in render(outcome([with_sites(*sites)]), "github")
    assert f"- {remark} (its rank is 128)." in render(
        outcome([with_sites(*sites, statistics={"rank": 128.0})]), "github"
    )
    assert f"- {remark}." in render(outcome([with_sites(*sites, statistics={"rank": 63.0})]), "github")
    assert "left raw" not in render(outcome([with_sites(*sites[3:])]), "github")


@pytest.mark.parametrize(
    ("statistics", "remark"),
    [
        (
            {"rank_clamped": 1.0},
            "the rank that was asked for is above the width of one site, and is the width there.",
        ),
        (
            {"fidelity": 0.9, "laser_rank_clamped": 3.0},
            "the rank that was asked for is above the width of 3 sites, and is the width there.",
        ),
        (
            {"steps": 4000.0, "low_fidelity_steps": 1200.0, "exhausted_steps": 600.0},
            "fidelity was below its threshold in 2,400 steps of single sites, over all seeds, and in 1,200 of them "
            "the rank was the largest that is allowed: it could not grow.",
        ),
        ({"capped_calls": 7.0}, "up to 7 calls of the last step needed a larger rank than is allowed."),
        ({"rank_clamped": 0.0, "low_fidelity_steps": 9.0, "exhausted_steps": 0.0, "capped_calls": 0.0}, ""),
    ],
)
def test_limits_that_a_strategys_own_counts_tell_of_are_remarked_on(statistics, remark):
    text = render(outcome([result(seed=seed, statistics=statistics) for seed in (0, 1)]), "github")
    found = [line for line in text.splitlines() if line.startswith("- laser at depth 4: ")]
    assert found == ([f"- laser at depth 4: {remark}"] if remark else [])


def test_sentences_about_awkward_labels_are_escaped_in_html():
    fields = {"variant": {"note": "a<b>&c"}}
    made = outcome([result(seed=0, saved=100_000, **fields), result(seed=1, saved=200_000, **fields)])
    sentences = list(results_table(made).sentences)
    assert any("laser note=a<b>&c at depth 4" in sentence for sentence in sentences)
    assert Page(render(made, "html")).items == sentences


def test_what_has_not_been_run_is_listed_by_depth():
    made = outcome([result()], missing=[cell("int8", 16), cell("none", 2)])
    assert render(made, "github").endswith("- not run yet, at depth 2: none.\n- not run yet, at depth 16: int8.\n")


def test_metrics_of_other_workloads_are_shown_under_their_own_names():
    made = outcome([result(seed=s, metrics={"mean_error": e}) for s, e in enumerate((0.0012, 0.0014))])
    header, _, row = github_cells(render(made, "github"))
    assert "token accuracy %" not in header
    assert row[header.index("mean error")] == "0.00130 ± 0.000141"


def test_what_is_not_exact_does_not_look_exact():
    cosines = {0.99996: ">0.9999", 1.0: "1.0000", 0.9999: "0.9999", -0.5: "-0.5000"}
    for cosine, text in cosines.items():
        assert github_cells(render(outcome([result(cosine=cosine)]), "github"))[2][-1] == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (123456.0, "123456"), (12.345, "12.3"), (0.012345, "0.0123"), (-1.5, "-1.50"), (3e-7, "3.00e-07")],
)
def test_numbers_have_three_significant_digits(value, text):
    assert figures(value) == text


def test_a_reporter_gets_raw_rows_by_the_csvs_names():
    seen = []
    reporter = Reporter("keep", lambda rows: seen.extend(rows) or "text")
    assert render_with(reporter, results_table(awkward())) == "text"
    assert [tuple(row) for row in seen] == [COLUMNS] * 2
    assert seen[0]["saving"] == 0.75


@pytest.mark.parametrize(("render_rows", "message"), [(lambda rows: 1 / 0, "ZeroDivisionError"), (len, "returned int")])
def test_a_reporter_that_breaks_its_contract_is_named(render_rows, message):
    with pytest.raises(PluginError, match=f"reporter 'bad' .*{message}"):
        render_with(Reporter("bad", render_rows), results_table(awkward()))


def cells(made, *columns, **view):
    """The rows of a table as its people read them, without its headers."""
    return [list(row) for row in results_table(made, View(columns=columns, **view)).cells]


def at_two_widths():
    """Two arms at two widths and depths, with two seeds; saved bytes tell the cells apart."""
    return outcome(
        [
            result(
                arm,
                depth,
                seed,
                saved=1000 * hidden + 10 * depth + seed + (5 if arm == "none" else 0),
                variant={"hidden": hidden},
                workload=PluginReference(name="trm_maze", fields={"hidden": hidden}),
                metrics={"solved": 0.5 + seed / 10},
            )
            for seed in (0, 1)
            for depth in (8, 4)
            for hidden in (128, 64)
            for arm in ("none", "laser")
        ]
    )


def test_rows_are_grouped_by_any_axis_in_its_own_order():
    by_hidden = cells(at_two_widths(), "cells", by=["hidden", "arm"])
    assert by_hidden == [["64", "none", "4"], ["64", "laser", "4"], ["128", "none", "4"], ["128", "laser", "4"]]
    by_seed = cells(
        at_two_widths(), "saved_bytes", by=["arm", "depth", "hidden", "seed"], only=["arm=laser", "hidden=64"]
    )
    assert by_seed == [
        ["laser", "4", "64", "0", "64.0"],
        ["laser", "4", "64", "1", "64.0"],
        ["laser", "8", "64", "0", "64.1"],
        ["laser", "8", "64", "1", "64.1"],
    ]
    assert cells(at_two_widths(), "solved", by=["workload"]) == [["trm_maze", "55.00 ± 5.16"]]


def test_a_figure_of_a_group_is_over_all_of_its_cells():
    (row,) = results_table(at_two_widths(), View(by=["arm"], columns=["saved_bytes"], only=["arm=laser"])).data
    sizes = sorted(1000 * hidden + 10 * depth + seed for hidden in (64, 128) for depth in (4, 8) for seed in (0, 1))
    assert row["saved_bytes"] == statistics.median_low(sizes)
    text = render(at_two_widths(), "github", by=["arm"])
    assert "rows stand for cells that differ in depth (8, 4), hidden (128, 64): each figure is over all of them" in text
    assert "rows stand for" not in render(at_two_widths(), "github", by=["arm", "hidden", "depth"])


def test_of_several_columns_sizes_have_one_unit_and_every_figure_its_moments():
    made = outcome([result(seed=seed, saved=10**6 * size, ratio=size) for seed, size in enumerate((1, 2, 6))])
    moments = [f"time_ratio_{name}" for name in ("mean", "median", "sd", "low", "high", "min", "max")]
    table = results_table(made, View(columns=["saved_bytes", "uncompressed_bytes", *moments]))
    assert list(table.headers) == [
        *("arm", "depth", "saved MB", "plain saved MB", "time ratio mean", "time ratio median", "time ratio SD"),
        *("time ratio 95 % low", "time ratio 95 % high", "time ratio min", "time ratio max"),
    ]
    (row,) = table.data
    test = stats.ttest_1samp([1.0, 2.0, 6.0], 0.0).confidence_interval(0.95)
    assert [row[name] for name in moments] == pytest.approx([3, 2, 7**0.5, test.low, test.high, 1, 6])
    assert list(table.cells[0])[2:4] == ["2.00", "1.00"]


def test_an_interval_in_the_place_of_the_deviation():
    made = outcome(scores("none", [0.5, 0.7, 0.9]) + scores("laser", [0.5]))
    interval = stats.ttest_1samp([0.5, 0.7, 0.9], 0.0).confidence_interval(0.95)
    shown = cells(made, "solved", spread="interval")
    assert shown == [
        ["none", "4", f"70.00 [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"],
        ["laser", "4", "50.00"],
    ]
    table = results_table(made, View(spread="interval"))
    assert "solved_sd" not in table.columns
    assert table.data[0]["solved_low"] == pytest.approx(interval.low)
    assert any("95 % t interval of the true mean" in sentence for sentence in table.sentences)


def test_rows_are_sorted_by_columns_and_those_without_a_value_come_last():
    made = outcome([result("none", saved=3), result("b", saved=1), result("c", saved=2), result("a", status="oom")])
    assert [row[0] for row in cells(made, sort=["saved_bytes"])] == ["b", "c", "none", "a"]
    assert [row[0] for row in cells(made, sort=["-saved_bytes"])] == ["none", "c", "b", "a"]
    assert [row[0] for row in cells(made, sort=["status", "-arm"])] == ["none", "c", "b", "a"]
    assert [row["arm"] for row in results_table(made, View(sort=["saved_bytes"])).data] == ["b", "c", "none", "a"]
    assert [row[0] for row in cells(made, sort=["-solved_verdict"] if made.margins else [])] == ["none", "b", "c", "a"]


def test_columns_that_name_the_rows_come_first_unless_they_are_asked_for_elsewhere():
    assert results_table(outcome([result()]), View(columns=["saving"])).headers == ["arm", "depth", "saving %"]
    assert results_table(outcome([result()]), View(columns=["saving", "arm"])).headers == ["depth", "saving %", "arm"]


def best(made, *columns, **view):
    """What is marked as the best, by column: the arms and depths of its rows."""
    table = results_table(made, View(columns=columns, **view))
    found = {}
    for row, column in sorted(table.best):
        found.setdefault(table.headers[column], []).append(" ".join(table.cells[row][:2]))
    return found


def test_the_best_is_least_of_what_costs_and_most_of_what_is_wanted():
    made = outcome(
        [
            result(
                "none", saved=1_000_000, peak=1_200_000, ratio=1.0, cosine=1.0, metrics={"solved": 0.9, "error": 1.0}
            ),
            result("laser", saved=200_000, peak=500_000, ratio=1.7, cosine=0.8, metrics={"solved": 0.4, "error": 3.0}),
            result("int8", saved=300_000, peak=400_000, ratio=1.3, cosine=0.9, metrics={"solved": 0.8, "error": 2.0}),
        ]
    )
    assert best(made) == {
        "saved MB": ["laser 4"],
        "saving %": ["laser 4"],
        "peak delta MB": ["int8 4"],
        "time ratio": ["int8 4"],  # that of none is of the plain step to itself
        "solved %": ["none 4"],
        "gradient cosine": ["int8 4"],
    }  # and nothing of a metric of which nobody said which way is better
    judged = dataclasses.replace(made, margins={"error": 0.1})
    assert best(judged)["error"] == ["laser 4"]


def test_the_best_is_sought_at_each_depth_and_width_by_itself():
    found = best(at_two_widths(), "saved_bytes", by=["arm", "depth", "hidden"])
    assert found == {}  # 5 bytes of 64,045 are not seen
    made = outcome(
        [result(arm, depth, saved=s) for depth in (4, 8) for arm, s in (("none", 9), ("laser", depth), ("int8", 6))]
    )
    assert best(made, "saved_bytes") == {"saved B": ["laser 4", "int8 8"]}


def test_figures_that_are_shown_alike_are_alike_and_where_all_are_none_is_best():
    made = outcome([result("a", ratio=1.501), result("b", ratio=1.499), result("c", ratio=1.6)])
    assert best(made, "time_ratio") == {"time ratio": ["a 4", "b 4"]}
    assert best(outcome([result("a", ratio=1.501), result("b", ratio=1.499)]), "time_ratio") == {}
    assert best(outcome([result("a")]), "saved_bytes") == {}
    most = [result(arm, saved=9) for arm in "abc"]
    assert best(outcome([*most, result("d", saved=10)]), "saved_bytes") == {"saved B": ["a 4", "b 4", "c 4"]}
    many = [*most, result("d", saved=9), *(result(arm, saved=10) for arm in "efg")]
    assert best(outcome(many), "saved_bytes") == {}
    assert best(outcome([*many, result("h", saved=10)]), "saved_bytes") == {"saved B": ["a 4", "b 4", "c 4", "d 4"]}
    spread = outcome(scores("a", [0.4, 0.6]) + scores("b", [0.5, 0.5]) + scores("c", [0.1, 0.1]))
    assert best(spread, "solved") == {"solved %": ["a 4", "b 4"]}


def test_a_row_with_failed_cells_does_not_compete():
    made = outcome(
        [
            *scores("a", [0.5, 0.5]),
            *scores("b", [0.6, 0.6]),
            result("c", metrics={"solved": 0.9}),
            result("c", seed=1, status="oom"),
        ]
    )
    assert best(made, "solved") == {"solved %": ["b 4"]}


@pytest.mark.parametrize(
    ("layout", "marked"),
    [
        ("github", "**10.0**"),
        ("latex_booktabs", r"\textbf{10.0}"),
        ("html", "<strong>10.0</strong>"),
        ("json", '"best": [\n'),
    ],
)
def test_the_best_is_marked_and_told_of_in_each_format_that_can(layout, marked):
    made = outcome([result("a", saved=10_000), result("b", saved=20_000)])
    text = render(made, layout, columns=["saved_bytes"])
    assert text.count(marked) == 1
    assert ("bold: the best" in text) == (layout != "json")
    if layout == "json":
        assert [row["best"] for row in json.loads(text)["rows"]] == [["saved_bytes"], []]


def test_metrics_that_are_no_finite_numbers_are_not_shown_as_any_and_told_of():
    values = [0.5, float("nan"), float("inf")]
    made = outcome(scores("laser", values) + scores("none", [0.5, 0.6, 0.7]), margins={"solved": 0.01})
    for layout in FORMATS:
        text = render(made, layout)
        assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE), layout
    assert cells(made, "solved") == [["laser", "4", "-"], ["none", "4", "60.00 ± 10.00"]]
    assert "laser at depth 4: solved is no finite number in 2 of its 3 cells." in results_table(made).sentences
    assert json.loads(render(made, "json"))["rows"][0]["solved_mean"] is None


def test_other_metrics_are_in_the_csv_behind_the_columns_that_are_always_there():
    made = outcome([result(metrics={"solved": 0.5, "mean_error": 0.25})])
    (row,) = csv.DictReader(io.StringIO(render(made, "csv")))
    assert tuple(row) == (*COLUMNS, "mean_error_mean", "mean_error_sd")
    assert (row["mean_error_mean"], row["mean_error_sd"]) == ("0.25", "")


def test_strategies_own_figures_and_settings_are_columns_too():
    made = outcome([result(statistics={"rank": 16.0}, loss_curve=[2.0, 0.125]), result("int8")])
    shown = cells(made, "statistics.rank", "statistics.rank_max", "final_loss", by=["arm", "steps"])
    assert shown == [["laser", "20", "16.0", "16.0", "0.125"], ["int8", "20", "-", "-", "-"]]


def test_json_says_what_it_is_of():
    made = outcome(scores("none", GOOD) + scores("laser", GOOD), margins={"solved": 0.005}, missing=[cell("int8", 8)])
    content = json.loads(render(made, "json"))
    assert {name: content[name] for name in list(content)[:6]} == {
        "schema_version": 1,
        "suite": "made_up",
        "description": "Nobody ran this.",
        "by": ["arm", "depth"],
        "spread": "sd",
        "margins": {"solved": 0.005},
    }
    assert content["columns"] == list(COLUMNS)
    assert [row["solved_verdict"] for row in content["rows"]] == ["reference", "non-inferior", None]
    assert [(row["arm"], row["status"], row["saved_bytes"]) for row in content["rows"]][1:] == [
        ("laser", "ok", 250_000),
        ("int8", "missing", None),
    ]
    assert content["sentences"] == list(results_table(made).sentences)


def test_a_verdict_is_shown_for_the_cells_that_it_is_of_and_for_no_others():
    made = outcome(
        [r for depth in (4, 8) for arm in ("none", "laser") for r in scores(arm, GOOD, depth=depth)],
        margins={"solved": 0.005},
    )
    assert [row[-1] for row in cells(made, "solved_verdict", by=["depth", "arm"])] == ["reference", "non-inferior"] * 2
    assert [row[-1] for row in cells(made, "solved_verdict", by=["arm"])] == ["-", "-"]
    assert "solved verdict" not in results_table(made, View(by=["arm"])).headers
    assert {row[-1] for row in cells(made, "solved_verdict", only=["seed=0,1"])} == {"-"}


def test_cells_of_which_an_axis_is_not_known_are_told_of():
    made = outcome([result(variant={"hidden": 64})], missing=[cell("int8", variant={"hidden": 64})])
    table = results_table(made, View(by=["hidden"]))
    assert [row[0] for row in table.cells] == ["64"]
    assert any(sentence.startswith("1 cells that have not been run are in no row") for sentence in table.sentences)


def test_the_default_table_is_readable_on_a_terminal():
    arms = ("none", "laser", "checkpoint_int8")
    made = outcome(
        [record for depth in (4, 8) for arm in arms for record in scores(arm, GOOD, depth=depth)]
        + [result("gale", 8, status="oom", reason="no memory")],
        margins={"solved": 0.005},
    )
    for width, parts in ((80, 2), (100, 2), (120, 1)):
        text = as_text(results_table(made), "terminal", Screen(width))
        assert max(map(len, text.splitlines())) <= width
        headers = [line for line in text.splitlines() if line.startswith("arm ")]
        assert len(headers) == parts
        assert all(
            name in " ".join(headers) for name in ("depth", "status", "seeds", "kB", "ratio", "verdict", "cosine")
        )
    alike = outcome([result(arm, depth, seed) for arm in arms for depth in (4, 8) for seed in (0, 1)])
    text = as_text(results_table(alike), "terminal", Screen(100))
    assert "- in every row: status ok, seeds 2, peak phase backward.\n" in text
    assert len([line for line in text.splitlines() if line.startswith("arm ")]) == 1


def test_remarks_are_on_what_the_table_shows():
    beside = phased().model_copy(update={"alone": False})
    made = outcome([result(saved=100_000, time=beside), result(seed=1, saved=200_000, time=beside)])
    disturbed, differing = "while another cell ran beside them", "saved bytes differ over seeds"
    for view, shown in (
        ({}, [disturbed, differing]),
        ({"times": True}, [disturbed]),
        ({"columns": ["time_ratio"]}, [disturbed]),
        ({"columns": ["saving"]}, [differing]),
        ({"columns": ["solved"]}, []),
    ):
        text = render(made, "github", **view)
        assert [told for told in (disturbed, differing) if told in text] == shown


def test_a_metric_with_the_name_of_another_column_is_told_of_and_does_not_take_its_place():
    made = outcome([result(ratio=1.25, metrics={"time_ratio": 99.0, "solved": 0.5})])
    (row,) = results_table(made).data
    assert row["time_ratio"] == 1.25
    assert "99" not in render(made, "github")
    told = "metrics that are not shown, since other columns have their names: time_ratio."
    assert told in results_table(made).sentences


def test_a_margin_for_a_metric_that_nobody_measured_is_a_verdict_that_says_so():
    made = outcome(scores("none", GOOD) + scores("laser", GOOD), margins={"mean_error": 0.1})
    shown = cells(made, "mean_error_verdict")
    assert [row[-1] for row in shown] == ["reference", "not tested"]
    with pytest.raises(SettingsError, match="unknown column 'mean_error'; did you mean 'mean_error_verdict'"):
        results_table(made, View(columns=["mean_error"]))


def test_one_arm_of_one_seed_is_a_table_in_every_format():
    for layout in FORMATS:
        assert "laser" in render(outcome([result()]), layout)
