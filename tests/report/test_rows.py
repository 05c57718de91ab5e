"""Rows against numbers worked out by hand."""

import csv
import io
import math

import pytest

from compbench.report.rows import COLUMNS, as_csv, make_rows
from tests.report.made_up import arithmetic, cell, outcome, phased, result

NAMES = (
    "arm,depth,status,seeds,saved_bytes,uncompressed_bytes,saving,peak_delta_bytes,peak_phase,time_ratio,"
    "token_accuracy_mean,token_accuracy_sd,solved_mean,solved_sd,gradient_cosine,"
    "forward_ratio,backward_ratio,update_share,step_seconds,uncompressed_step_seconds,"
    "flops,uncompressed_flops,flop_ratio,gflop_per_second,uncompressed_gflop_per_second,"
    "page_faults,uncompressed_page_faults"
)
OLD = ("step_seconds", "uncompressed_step_seconds")
"""Figures of times that records have had from the start."""
NEWER = [name for name in NAMES.partition("gradient_cosine,")[2].split(",") if name not in OLD]
"""Those that records of the first version don't have."""


def parsed(made):
    return list(csv.DictReader(io.StringIO(as_csv(make_rows(made)))))


def test_the_columns_have_their_stable_names_and_order():
    assert ",".join(COLUMNS) == NAMES
    assert as_csv(make_rows(outcome([result()]))).splitlines()[0] == NAMES


def test_figures_over_seeds():
    accuracies = [0.90, 0.92, 0.97]
    made = outcome(
        [
            result(
                seed=seed,
                saved=saved,
                peak=peak,
                phase=phase,
                ratio=ratio,
                cosine=cosine,
                metrics={"token_accuracy": accuracy, "solved": 0.25},
            )
            for seed, (saved, peak, phase, ratio, cosine, accuracy) in enumerate(
                zip(
                    [250_000, 260_000, 240_000],
                    [500, 900, 700],
                    ["forward", "backward", "update"],
                    [1.1, 9.0, 1.3],
                    [0.9, 0.8, 0.4],
                    accuracies,
                    strict=True,
                )
            )
        ]
    )
    (row,) = make_rows(made)
    assert row.record() == {
        "arm": "laser",
        "depth": 4,
        "status": "ok",
        "seeds": 3,
        "saved_bytes": 250_000,
        "uncompressed_bytes": 1_000_000,
        "saving": 0.75,
        "peak_delta_bytes": 700,
        "peak_phase": "update",
        "time_ratio": 1.3,
        "token_accuracy_mean": pytest.approx(0.93),
        "token_accuracy_sd": pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2)),
        "solved_mean": 0.25,
        "solved_sd": 0.0,
        "gradient_cosine": pytest.approx(0.7),
        "step_seconds": 0.1,
        "uncompressed_step_seconds": 0.1,
        **dict.fromkeys(NEWER),
    }


def test_figures_of_time_and_arithmetic_are_medians_over_seeds():
    times = [
        phased(seconds=(0.2, 0.3, 0.03), faults=(10, 100)),
        phased(seconds=(0.1, 0.6, 0.06), faults=(30, 300)),
        phased(seconds=(0.4, 0.2, 0.00), faults=(20, 200)),
    ]
    made = outcome([result(seed=seed, time=time, arithmetic=arithmetic()) for seed, time in enumerate(times)])
    (row,) = make_rows(made)
    assert {name: row.record()[name] for name in (*NEWER, *OLD)} == {
        "forward_ratio": pytest.approx(2.0),
        "backward_ratio": pytest.approx(1.5),
        "update_share": pytest.approx(0.1),
        "step_seconds": pytest.approx(0.6),
        "uncompressed_step_seconds": pytest.approx(0.3),
        "flops": 9_200_000_000,
        "uncompressed_flops": 6_000_000_000,
        "flop_ratio": pytest.approx(9.2 / 6),
        "gflop_per_second": pytest.approx(9.2 / 0.6),
        "uncompressed_gflop_per_second": pytest.approx(20),
        "page_faults": 20,
        "uncompressed_page_faults": 200,
    }


def test_older_records_beside_newer_ones_leave_figures_to_these():
    made = outcome([result(seed=0), result(seed=1, time=phased(), arithmetic=arithmetic())])
    (row,) = make_rows(made)
    assert (row.forward_ratio, row.page_faults, row.uncompressed_flops) == (2.0, 20, 6_000_000_000)
    (text,) = parsed(outcome([result(seed=0)]))
    assert {text[name] for name in NEWER} == {""}
    assert {text[name] for name in OLD} == {"0.1"}


def test_a_model_without_counted_operations_has_no_ratio_of_them():
    (row,) = make_rows(outcome([result(time=phased(), arithmetic=arithmetic((0, 0, 0), (0, 0)))]))
    assert (row.flops, row.flop_ratio, row.gflop_per_second) == (0, None, 0.0)


def test_bytes_over_an_even_number_of_seeds_are_a_measured_whole_number():
    (row,) = make_rows(outcome([result(seed=0, saved=101), result(seed=1, saved=102)]))
    assert row.saved_bytes == 101


def test_one_seed_has_no_standard_deviation():
    (row,) = parsed(outcome([result()]))
    assert (row["solved_mean"], row["solved_sd"]) == ("0.5", "")


def test_the_csv_parses_back_to_the_same_numbers():
    made = outcome(
        [
            result(seed=seed, saved=333_333, ratio=1 / 3 + seed, cosine=0.1 + 0.2, metrics={"solved": 1 / 7 * seed})
            for seed in range(3)
        ]
    )
    (row,), (text,) = make_rows(made), parsed(made)
    for column, value in row.record().items():
        assert text[column] == "" if value is None else type(value)(text[column]) == value
    assert text["token_accuracy_mean"] == ""


def test_failed_and_missing_cells_are_counted_in_a_fixed_order_and_give_no_figures():
    results = [
        result(seed=0, status="diverged", reason="loss is nan"),
        result(seed=1, status="oom", reason="no memory"),
        result(seed=2),
        result(seed=3, status="oom", reason="no memory"),
    ]
    made = outcome(results, missing=[cell(seed=4)])
    (row,) = make_rows(made)
    assert row.status == "ok 1, oom 2, diverged 1"
    assert (row.seeds, row.saved_bytes) == (1, 250_000)
    failed = outcome([result(status="unsupported", reason="no")])
    assert parsed(failed) == [
        dict.fromkeys(COLUMNS, "") | {"arm": "laser", "depth": "4", "status": "unsupported 1", "seeds": "0"}
    ]


def test_figures_of_a_cell_that_did_not_end_well_are_left_out():
    diverged = result(seed=1).model_copy(update={"status": "diverged"})
    (row,) = make_rows(outcome([result(seed=0, ratio=1.5), diverged]))
    assert (row.seeds, row.time_ratio, row.metrics["solved"].sd) == (1, 1.5, None)


def test_passes_that_were_not_made_leave_empty_fields():
    (row,) = parsed(outcome([result(memory=None, time=None, fidelity=None)]))
    assert [row[name] for name in ("saved_bytes", "saving", "peak_phase", "time_ratio", "gradient_cosine")] == [""] * 5
    assert row["status"] == "ok"


def test_rows_keep_the_suites_order_of_arms_and_go_up_in_depth():
    keys = [("none", 8), ("zebra", 8), ("ant", 8), ("none", 2), ("zebra", 2), ("ant", 2)]
    made = outcome([result(arm, depth) for arm, depth in keys], missing=[cell("zebra", 4), cell("new", 2)])
    assert [(row.arm, row.depth) for row in make_rows(made)] == [
        ("none", 2),
        ("none", 8),
        ("zebra", 2),
        ("zebra", 4),
        ("zebra", 8),
        ("ant", 2),
        ("ant", 8),
        ("new", 2),
    ]


def test_a_missing_cell_joins_the_row_of_its_arm_and_axes():
    made = outcome(
        [result(seed=0, variant={"training.steps": 20, "lr": 1e-3})],
        missing=[cell(seed=1, variant={"training.steps": 20, "lr": 1e-3})],
    )
    (row,) = make_rows(made)
    assert (row.arm, row.status) == ("laser training.steps=20 lr=0.001", "ok")


def test_records_of_cells_that_are_no_longer_planned_are_passed_over():
    made = outcome([result(seed=0), result("old", seed=0)])
    made = type(made)(made.name, "", {}, [made.keys[0]], "", made.results)
    assert [row.arm for row in make_rows(made)] == ["laser"]
