"""Comparisons against numbers worked out by hand and by scipy: what changed, what is marked, what is refused."""

import csv
import io
import json
import math

import pytest
from scipy import stats

from compbench.errors import SettingsError
from compbench.report.comparison import Side, compare
from compbench.report.comparison_table import comparison_table
from compbench.report.formats import FORMATS, Screen, as_text
from compbench.run.environment import Environment
from compbench.suite.cell import Measuring, PluginReference, Training
from tests.report.made_up import MACHINE, arithmetic, cell, outcome, result, scores
from tests.report.test_tables import github_cells

BEFORE = [0.80, 0.82, 0.84, 0.81, 0.83]
AFTER = [0.81, 0.84, 0.87, 0.80, 0.86]
OTHER = MACHINE.model_copy(update={"cpu": "Other 1"})


def compared(a, b, arms=("", ""), **options):
    return compare(Side(a, arms[0]), Side(b, arms[1]), **options)


def changes(comparison, name):
    """The changes of one figure, by what their rows are called."""
    return {change.pair.name: change for change in comparison.changes if change.quantity.name == name}


def only(comparison, name):
    (change,) = changes(comparison, name).values()
    return change


def sentences(comparison):
    return "\n".join(comparison_table(comparison).sentences)


def marks(comparison):
    """The marks of every row, by row and figure."""
    return {(r["arm"], r["depth"], r["figure"]): r["mark"] for r in comparison_table(comparison).data if r["mark"]}


def test_memory_and_times_change_by_a_ratio_and_metrics_by_a_difference():
    a = outcome(
        [result(saved=200_000, peak=300_000, ratio=2.0, cosine=0.5, metrics={"solved": 0.25, "mean_error": 2.0})]
    )
    b = outcome(
        [result(saved=100_000, peak=450_000, ratio=1.5, cosine=0.75, metrics={"solved": 0.5, "mean_error": 3.0})]
    )
    text = as_text(comparison_table(compared(a, b)), "github")
    shown = {row[3]: row[4:7] for row in github_cells(text)[2:]}
    assert shown == {
        "saved kB": ["200", "**100**", "×0.500"],
        "peak delta kB": ["**300**", "450", "×1.50"],
        "time ratio": ["2.00", "**1.50**", "×0.750"],
        "step ms": ["100", "100", "×1.00"],
        "solved %": ["25.00", "**50.00**", "+25.00"],
        "mean error": ["2.00", "3.00", "+1.00"],
        "gradient cosine": ["0.5000", "**0.7500**", "+0.2500"],
    }


def test_figures_are_over_the_seeds_that_are_ok_in_both():
    a = outcome([result(seed=s, saved=100, metrics={"solved": v}) for s, v in enumerate([0.1, 0.2, 0.9])])
    b = outcome([result(seed=s, saved=100, metrics={"solved": v}) for s, v in enumerate([0.2, 0.4])])
    change = only(compared(a, b), "solved")
    assert (change.a, change.b, change.change) == pytest.approx((0.15, 0.3, 0.15))
    assert (change.pairs, change.decision, change.low) == (2, "not tested", None)


def test_pairs_of_seeds_are_tested_as_scipy_tests_them():
    change = only(compared(outcome(scores("laser", BEFORE)), outcome(scores("laser", AFTER))), "solved")
    test = stats.ttest_rel(AFTER, BEFORE)
    interval = test.confidence_interval(0.95)
    assert (change.low, change.high, change.holm_p) == pytest.approx((interval.low, interval.high, test.pvalue))
    assert (change.pairs, change.decision) == (5, "not told apart")
    better = [value + 0.1 + 0.001 * place for place, value in enumerate(BEFORE)]
    assert (
        only(compared(outcome(scores("laser", BEFORE)), outcome(scores("laser", better))), "solved").decision
        == "higher"
    )
    assert (
        only(compared(outcome(scores("laser", better)), outcome(scores("laser", BEFORE))), "solved").decision == "lower"
    )


def test_times_are_tested_by_the_logarithms_of_their_ratios():
    ratios = [(1.5, 1.2), (1.6, 1.4), (1.4, 1.0)]
    a, b = (outcome([result(seed=s, ratio=pair[side]) for s, pair in enumerate(ratios)]) for side in (0, 1))
    change = only(compared(a, b), "time_ratio")
    logs = [math.log(y / x) for x, y in ratios]
    interval = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    assert change.change == pytest.approx(1.2 / 1.5)
    assert (math.log(change.low), math.log(change.high)) == pytest.approx((interval.low, interval.high))
    assert change.holm_p == pytest.approx(stats.ttest_1samp(logs, 0.0).pvalue)


def test_a_metric_with_a_margin_is_judged_against_it():
    margins = {"solved": 0.05}
    a = outcome(scores("laser", BEFORE), margins=margins)
    verdicts = {
        "non-inferior": [value - 0.01 for value in (0.81, 0.82, 0.83, 0.81, 0.83)],
        "degraded": [value - 0.1 + 0.01 * place for place, value in enumerate(BEFORE)],
        "inconclusive": [0.70, 0.90, 0.75, 0.88, 0.84],
    }
    for decision, values in verdicts.items():
        change = only(compared(a, outcome(scores("laser", values), margins=margins)), "solved")
        assert change.decision == decision
        differences = [y - x for x, y in zip(BEFORE, values, strict=True)]
        assert change.holm_p == pytest.approx(stats.ttest_1samp(differences, -0.05, alternative="greater").pvalue)
    b = outcome(scores("laser", verdicts["non-inferior"]), margins={"solved": 0.1})
    assert only(compared(a, b), "solved").decision == "lower"
    assert "the margins for solved are not the same in A and B" in sentences(compared(a, b))


def test_the_family_of_tests_is_every_row_of_a_figure():
    def made(shift):
        return outcome(
            [
                r
                for d in (2, 4, 8)
                for r in scores("laser", [v + shift * (1 + s) for s, v in enumerate(BEFORE)], depth=d)
            ]
        )

    found = changes(compared(made(0.0), made(0.01)), "solved")
    alone = stats.ttest_1samp([0.01, 0.02, 0.03, 0.04, 0.05], 0.0).pvalue
    assert [change.holm_p for change in found.values()] == pytest.approx([3 * alone] * 3)


def test_failures_in_b_keep_it_from_being_non_inferior():
    margins = {"solved": 0.5}
    a = outcome(scores("laser", BEFORE), margins=margins)
    b = outcome([*scores("laser", BEFORE[:4]), result(seed=4, status="oom", reason="no memory")], margins=margins)
    assert only(compared(a, b), "solved").decision == "inconclusive"
    assert compared(a, b).regressed
    assert not compared(b, a).regressed


def test_a_cell_that_fails_anew_is_marked_and_named_with_its_reason():
    a = outcome(
        [result(seed=0), result(seed=1), result("int8", status="failed", reason="no"), result("asi", status="oom")]
    )
    b = outcome(
        [result(seed=0), result(seed=1, status="oom", reason="no\nmemory"), result("int8"), result("asi", status="oom")]
    )
    comparison = compared(a, b)
    assert marks(comparison) == {("laser", 4, "status"): "!", ("int8", 4, "status"): "*"}
    told = sentences(comparison)
    assert "! laser at depth 4, seed 1: oom (no memory) in B." in told
    assert "* int8 at depth 4, seed 0: failed (no) in A." in told
    rows = {(row["arm"], row["figure"]): row for row in comparison_table(comparison).data}
    assert (rows["laser", "status"]["a"], rows["laser", "status"]["b"]) == ("ok", "ok 1, oom 1")
    assert (rows["asi", "status"]["a"], rows["asi", "status"]["mark"]) == ("oom 1", "")
    assert rows["laser", "saved_bytes"]["pairs"] == 0
    assert ("int8", "saved_bytes") not in rows


def test_both_marks_stand_where_one_seed_fails_anew_and_another_is_fixed():
    a = outcome([result(seed=0), result(seed=1, status="oom")])
    b = outcome([result(seed=0, status="oom"), result(seed=1)])
    found = marks(compared(a, b))
    assert found.pop(("laser", 4, "status")) == "!*"
    assert {figure for _, _, figure in found} == QUALITY  # of other seeds


def test_what_one_has_and_the_other_has_not_is_not_comparable_and_no_failure():
    a = outcome([result(), result("int8")], missing=[cell("asi")])
    b = outcome([result(), result("asi")], missing=[cell("int8")])
    comparison = compared(a, b)
    assert marks(comparison) == {("int8", 4, "status"): "x", ("asi", 4, "status"): "x"}
    assert "x: int8 at depth 4: not run in B." in sentences(comparison)
    assert "x: asi at depth 4: not run in A." in sentences(comparison)
    assert not comparison.regressed
    c = outcome([result(), result("new")])
    assert "x: new at depth 4: not in A." in sentences(compared(a, c))


EVERYTHING = {
    "saved_bytes",
    "peak_delta_bytes",
    "time_ratio",
    "step_seconds",
    "solved",
    "token_accuracy",
    "gradient_cosine",
}
TIMES = {"time_ratio", "step_seconds"}
QUALITY = {"solved", "token_accuracy", "gradient_cosine"}
OTHER_ALLOCATOR = result().time.model_copy(update={"allocator": "default"})
OTHER_THREADS = result().time.model_copy(update={"threads": 2})
PRELOADED = Environment(
    allocator="reuse", c_library="glibc 2.36", preloaded=["x.so"], threads=1, placement="own", cores=[0]
)


@pytest.mark.parametrize(
    ("fields", "machine", "refused", "why"),
    [
        ({"training": Training(steps=21)}, MACHINE, EVERYTHING, "training.steps: 20 -> 21"),
        (
            {"workload": PluginReference(name="trm_maze", fields={"hidden": 128})},
            MACHINE,
            EVERYTHING,
            "workload 'trm_maze' hidden: 64 -> 128",
        ),
        (
            {"workload": PluginReference(name="trm_maze", fields={"hidden": 64}, source="f" * 64)},
            MACHINE,
            EVERYTHING,
            "workload 'trm_maze' source has changed",
        ),
        ({}, OTHER, TIMES, "another machine: cpu Imaginary 9000 -> Other 1"),
        ({}, MACHINE.model_copy(update={"torch": "2.14.0"}), TIMES, "another machine: torch 2.13.0 -> 2.14.0"),
        ({"machine": "gone"}, MACHINE, TIMES, "a machine that is not described"),
        ({"time": OTHER_THREADS}, MACHINE, TIMES, "another process: threads 1 -> 2"),
        (
            {"time": OTHER_ALLOCATOR},
            MACHINE,
            TIMES,
            "another process: allocator glibc.malloc.trim_threshold=1 -> default",
        ),
        ({"environment": PRELOADED}, MACHINE, TIMES, "another process: preloaded  -> x.so"),
        ({"device": "cuda"}, MACHINE, EVERYTHING - QUALITY, "another type of device: cpu -> cuda"),
        ({"weights_hash": "other"}, MACHINE, QUALITY, "initial weights or order of examples differ for seed 0"),
        ({"order_hash": ""}, MACHINE, QUALITY, "initial weights or order of examples differ for seed 0"),
        ({"time": None}, MACHINE, TIMES, "not measured in B"),
        ({"memory": None}, MACHINE, {"saved_bytes", "peak_delta_bytes"}, "not measured in B"),
    ],
)
def test_what_is_not_comparable_is_marked_with_the_reason_and_the_rest_is_compared(fields, machine, refused, why):
    a = outcome([result()])
    made = result(**({"machine": machine.hash} | fields))
    b = outcome([made], machines={machine.hash: machine})
    comparison = compared(a, b)
    assert {figure for (_, _, figure), mark in marks(comparison).items() if mark == "x"} == refused
    assert why in sentences(comparison)
    for row in comparison_table(comparison).data:
        comparable = row["figure"] not in refused
        assert (row["ratio"] is not None or row["difference"] is not None) == comparable
        assert (why in row["reason"]) == (not comparable)


@pytest.mark.parametrize(
    ("fields", "machine", "told"),
    [
        ({}, MACHINE.model_copy(update={"commit": "b" * 40}), f"compbench at commit: unknown -> {'b' * 40}"),
        ({}, MACHINE.model_copy(update={"compbench": "0.2.0"}), "compbench: 0.1.0 -> 0.2.0"),
        ({"strategy": ("laser", "int8")}, MACHINE, "strategy: laser -> laser, int8"),
        ({"measuring": Measuring(time_pairs=9)}, MACHINE, "measuring.time_pairs: 5 -> 9"),
    ],
)
def test_what_may_be_what_is_compared_is_told_and_no_reason_against_it(fields, machine, told):
    a = outcome([result()])
    b = outcome([result(machine=machine.hash, **fields)], machines={machine.hash: machine})
    comparison = compared(a, b)
    assert marks(comparison) == {}
    assert f"B differs from A (laser at depth 4): {told}" in sentences(comparison)


def test_a_strategy_of_another_source_is_compared_since_that_is_what_changed():
    made = result()
    changed = made.cell.model_copy(update={"strategy": (PluginReference(name="laser", source="f" * 64),)})
    b = outcome([made.model_copy(update={"cell": changed, "key": changed.key})])
    comparison = compared(outcome([made]), b)
    assert marks(comparison) == {}
    assert "strategy 'laser' source has changed" in sentences(comparison)


def test_without_a_seed_in_common_memory_is_compared_and_metrics_are_not():
    comparison = compared(outcome([result(seed=0, saved=4)]), outcome([result(seed=1, saved=2)]))
    assert only(comparison, "saved_bytes").change == 0.5
    assert only(comparison, "solved").why_not == ("no seed in common",)


def test_two_arms_are_paired_by_depth_and_the_axes_that_both_have():
    made = outcome(
        [
            result(
                arm,
                depth,
                saved=saved * depth * width,
                variant={"hidden": width, **({"laser.rank": rank} if rank else {})},
            )
            for depth in (4, 8)
            for width in (1, 10)
            for arm, saved, rank in (("laser", 1, 8), ("laser", 2, 16), ("int8", 4, None))
        ]
    )
    comparison = compared(made, made, ("laser", "int8"))
    assert comparison.by == ("depth", "hidden", "laser.rank")
    found = [(*change.pair.axes.values(), change.change) for change in changes(comparison, "saved_bytes").values()]
    assert sorted(found) == [(d, w, r, 32 / r) for d in (4, 8) for w in (1, 10) for r in (8, 16)]
    assert "B differs from A" not in sentences(comparison)


def test_rows_are_paired_by_any_axis():
    a, b = (outcome([result(depth=d, seed=s, saved=n * d + s) for d in (4, 8) for s in (0, 1)]) for n in (100, 200))
    by_seed = changes(compared(a, b, by=["depth", "seed"], columns=["saved_bytes"]), "saved_bytes")
    assert [(change.a, change.b) for change in by_seed.values()] == [(400, 800), (401, 801), (800, 1600), (801, 1601)]
    (by_arm,) = changes(compared(a, b, by=["arm"], columns=["saved_bytes"]), "saved_bytes").values()
    assert (by_arm.a, by_arm.b) == (401, 801)


def test_any_figure_can_be_compared():
    a = outcome([result(arithmetic=arithmetic(), statistics={"rank": 8.0}, loss_curve=[1.0])])
    b = outcome([result(arithmetic=arithmetic(), statistics={"rank": 16.0}, loss_curve=[0.5])])
    comparison = compared(a, b, columns=["flops", "statistics.rank", "final_loss"])
    assert [change.change for change in comparison.changes] == [1.0, 8.0, -0.5]


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (
            [result("laser")],
            [result("int8", 8)],
            {},
            r"nothing to compare: A has laser at depth 4, and B has int8 at depth 8",
        ),
        (
            [result("laser")],
            [result("laser")],
            {"arms": ("lazer", "laser")},
            r"unknown arm 'lazer'; did you mean 'laser'\?",
        ),
        ([result()], [result()], {"columns": ["saved"]}, r"--columns: unknown figure 'saved'; did you mean 'solved'\?"),
        ([result()], [result()], {"columns": ["solved_sd"]}, r"unknown figure 'solved_sd'; did you mean 'solved'\?"),
        ([result()], [result()], {"by": ["dept"]}, r"--by: unknown axis 'dept'; did you mean 'depth'\?"),
        (
            [result("laser"), result("int8")],
            [result("laser"), result("int8")],
            {"arms": ("laser", "int8"), "by": ["arm"]},
            "--by arm: arms are what is compared",
        ),
    ],
)
def test_what_can_not_be_done_is_one_message(a, b, options, message):
    with pytest.raises(SettingsError, match=message):
        compared(outcome(a), outcome(b), **options)


def test_stores_of_failures_alone_are_compared_as_such():
    failed = outcome([result(status="oom", reason="no memory")])
    comparison = compared(failed, outcome([result(status="failed", reason="no")]))
    table = comparison_table(comparison)
    assert [list(row) for row in table.cells] == [["", "laser", "4", "status", "oom 1", "failed 1", ""]]
    assert [row["mark"] for row in table.data] == [""]


def test_metrics_that_are_no_finite_numbers_are_never_numbers():
    a = outcome(scores("laser", [math.nan, 0.5, 0.6]))
    b = outcome(scores("laser", [0.4, 0.5, math.inf]))
    change = only(compared(a, b), "solved")
    assert (change.a, change.b, change.pairs) == (0.5, 0.5, 1)
    none = compared(outcome(scores("laser", [math.nan])), outcome(scores("laser", [0.5])))
    assert only(none, "solved").why_not == ("not measured in A",)
    for layout in FORMATS:
        assert "nan" not in as_text(comparison_table(none), layout).lower()


def test_every_format_has_every_row_and_its_mark():
    a = outcome([*scores("laser", BEFORE), result("int8")])
    b = outcome([*scores("laser", AFTER), result("int8", status="oom", reason="a|b<c>")])
    table = comparison_table(compared(a, b))
    (rows,) = [list(csv.DictReader(io.StringIO(as_text(table, "csv"))))]
    assert [(row["mark"], row["arm"], row["figure"]) for row in rows][-1] == ("!", "int8", "status")
    content = json.loads(as_text(table, "json"))
    assert content["a"] == {"suite": "made_up", "arm": None}
    assert [row["figure"] for row in content["rows"]] == [row["figure"] for row in rows]
    assert content["rows"][-1]["reason"] == ""
    for layout in ("terminal", "github", "html", "latex_booktabs"):
        text = as_text(table, layout)
        assert text.count("laser") >= len(rows) - 1
        assert "B" in text
    assert r"oom (a|b\<c>) in B." in as_text(table, "github")


def test_intervals_in_the_place_of_deviations():
    comparison = compared(outcome(scores("laser", BEFORE)), outcome(scores("laser", AFTER)))
    interval = stats.ttest_1samp(BEFORE, 0.0).confidence_interval(0.95)
    table = comparison_table(comparison, "interval")
    (row,) = [row for row in table.data if row["figure"] == "solved"]
    assert (row["a_low"], row["a_high"]) == pytest.approx((interval.low, interval.high))
    assert f"82.00 [{100 * interval.low:.2f}, {100 * interval.high:.2f}]" in as_text(table, "github")


def test_made_again_it_is_the_same_bytes():
    a, b = outcome(scores("laser", BEFORE)), outcome(scores("laser", AFTER), machines={OTHER.hash: OTHER})
    for layout in FORMATS:
        assert len({as_text(comparison_table(compared(a, b)), layout) for _ in range(3)}) == 1


def test_on_a_narrow_terminal_every_part_says_whose_its_figures_are():
    made = [r for arm in ("laser", "checkpoint_int8") for depth in (4, 8) for r in scores(arm, BEFORE, depth=depth)]
    table = comparison_table(compared(outcome(made), outcome(made)))
    lines = as_text(table, "terminal", Screen(76)).splitlines()
    assert max(map(len, lines)) <= 76
    rows = [line.split()[:3] for line in lines if "solved %" in line]
    named = [[arm, str(depth), "solved"] for arm in ("laser", "checkpoint_int8") for depth in (4, 8)]
    assert rows == named * 3
