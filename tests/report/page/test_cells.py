"""Every planned cell, with what its record says."""

import math

import pytest

from compbench.measure.results import Fidelity
from compbench.report.page.cells import cell_table, details, remarks
from compbench.report.page.extent import EXTENTS, Extent
from compbench.report.page.logs import Log
from compbench.run.environment import Environment
from tests.report.made_up import arithmetic, cell, memory, outcome, phased, result, time

ENVIRONMENT = Environment(
    allocator="reuse", tunables="x=1", c_library="glibc 2.36", threads=2, placement="own", cores=[0, 1]
)
SITE = {
    "name": "block.mlp/mlp_64",
    "width": 64,
    "rows": 3136,
    "calls": 4,
    "dtype": "float32",
    "raw_bytes": 4000,
    "kept_bytes": 1000,
    "reason": "",
    "propagating": True,
    "statistics": {"rank": 16.0, "fidelity": 0.99999},
}


def rows(*results, missing=()):
    table = cell_table(outcome(results, missing=missing))
    headers = [column.header for column in table.columns]
    return [
        (entry, dict(zip(headers, (value.text for value in entry.values), strict=False))) for entry in table.entries
    ]


def facts(record, title, extent=EXTENTS[0]):
    (found,) = [group for group in details(record, None, extent).groups if group.title == title]
    return dict(found.facts)


def test_a_row_has_the_figures_of_one_cell():
    ((entry, row),) = rows(result("laser", 4, 1, saved=250_000, ratio=1.5, seconds=61.25))
    assert row == {
        "arm": "laser",
        "depth": "4",
        "seed": "1",
        "status": "ok",
        "saved kB": "250",
        "saving %": "75.0",
        "peak delta kB": "300",
        "time ratio": "1.50",
        "token accuracy %": "90.00",
        "solved %": "50.00",
        "gradient cosine": "0.9000",
        "cell s": "61.2",
    }
    assert (entry.reason, entry.last_lines, entry.status) == ("", "", "ok")
    assert entry.values[5].number == 0.75


def test_a_cell_that_was_not_run_is_a_row_that_says_so():
    _, (entry, row) = rows(result(seed=0), missing=[cell("int8", 8, 3)])
    assert row == {"arm": "int8", "depth": "8", "seed": "3", "status": "missing"}
    assert entry.reason == "not run: there is no record of it that can be used"
    assert entry.result is None


def test_a_cell_that_failed_has_its_reason_and_the_last_lines_of_its_log():
    tail = [f"line {number}" for number in range(20)] + [
        '  File "/home/somebody/mine.py", line 3',
        "ValueError: no\x1b[0m",
    ]
    ((entry, row),) = rows(
        result(status="failed", reason="ValueError:  no\nrows in /home/somebody/mine.py", log_tail=tail)
    )
    assert entry.reason == "ValueError: no rows in mine.py"
    lines = entry.last_lines.split("\n")
    assert len(lines) == 12
    assert lines[-2:] == ['  File "mine.py", line 3', "ValueError: no"]
    assert row["saved B"] == row["time ratio"] == "-"
    assert rows(result(status="crashed"))[0][0].reason == "no reason given"


def test_what_is_not_finite_is_never_a_number():
    broken = Fidelity(gradient_cosine_start=math.nan, gradient_cosine=math.nan, smallest_parameter_cosine=-math.inf)
    record = result(
        status="diverged",
        reason="loss is nan",
        metrics={"solved": math.nan, "error": math.inf},
        time=time(math.nan),
        fidelity=broken,
        loss_curve=[1.0, math.nan],
        statistics={"fidelity": math.nan},
        statistics_curve=[{"step": 1.0, "fidelity": math.nan}],
        seconds=math.inf,
    )
    ((entry, row),) = rows(record)
    shown = [row[name] for name in ("solved %", "error", "time ratio", "gradient cosine", "cell s")]
    assert shown == ["not finite"] * 5
    told = details(record, None, EXTENTS[0])
    texts = [value for group in told.groups for _, value in group.facts] + [told.loss.text]
    for text in [*row.values(), *texts]:
        assert not {"nan", "inf", "NaN", "-inf"} & set(text.replace(",", " ").split()), text
    assert facts(record, "Gradient")["cosine after the last step"] == "not finite"
    assert entry.values[7].number is None


def test_details_have_settings_run_environment_sources_and_every_figure():
    record = result(
        environment=ENVIRONMENT,
        sources={"compbench_plugins/laser.py": "ab" * 32},
        time=phased(),
        arithmetic=arithmetic(),
        statistics={"rank": 16.0},
        statistics_curve=[{"step": 1.0, "rank": 8.0}, {"step": 20.0, "rank": 16.0}],
        parameters=53_888,
        attempts=2,
    )
    assert facts(record, "Settings")["strategy"] == "laser"
    assert facts(record, "Settings")["workload"] == "trm_maze (hidden 64)"
    assert facts(record, "Settings")["training"].startswith("steps 20, batch_size 64, ")
    run = facts(record, "Run")
    assert run["record"] == f"cells/{record.key}.json"
    assert (run["machine"], run["attempts"], run["parameters"]) == (record.machine, "2", "53,888")
    assert facts(record, "Environment")["placement"] == "own, cores 0, 1"
    assert facts(record, "Sources") == {"compbench_plugins/laser.py": "abababababab"}
    assert facts(record, "Memory")["saved"] == "250,000 B"
    assert facts(record, "Time")["forward"] == "200 ms, plain 100 ms, ratio 2"
    assert facts(record, "Arithmetic")["operations of a step"] == "9,200,000,000"
    assert facts(record, "Gradient")["cosine after the last step"] == "0.9000"
    assert facts(record, "Held-out metrics")["solved"] == "0.5000"
    assert facts(record, "Strategy's own figures") == {"rank": "16", "curves end": "step 20: rank 16"}


def test_groups_of_which_a_record_says_nothing_are_left_out():
    titles = [group.title for group in details(result(status="failed", reason="no"), None, EXTENTS[0]).groups]
    assert titles == ["Settings", "Run"]


def test_sites_are_a_table_and_what_a_site_does_not_say_is_not_available():
    record = result(
        memory=memory().model_copy(update={"sites": [SITE, {"name": "odd", "statistics": 3, "raw_bytes": "x"}]})
    )
    sites = details(record, None, EXTENTS[0]).sites
    first, second = (dict(zip(sites.headers, row, strict=True)) for row in sites.rows)
    assert first == {
        "site": "block.mlp/mlp_64",
        "calls": "4",
        "rows": "3,136",
        "width": "64",
        "dtype": "float32",
        "raw B": "4,000",
        "kept B": "1,000",
        "kept %": "25.0",
        "rank": "16",
        "fidelity": ">0.9999",
        "error": "propagating",
        "why not compressed": "",
    }
    assert second["site"] == "odd"
    assert second["raw B"] == second["rank"] == second["kept %"] == "-"


@pytest.mark.parametrize(
    ("fields", "remark"),
    [
        ({}, []),
        ({"attempts": 3}, ["this is its attempt 3: earlier ones crashed"]),
        ({"resumed_from": [400, 1200]}, ["its process had ended, and the training went on from step 400, 1,200"]),
        ({"skipped_batches": 2}, ["the gradients of 2 batches were not applied, as the strategy asked"]),
        (
            {"time": time(1.5).model_copy(update={"alone": False})},
            ["its times were taken while another cell ran beside it"],
        ),
        (
            {"memory": memory(saved=100_000).model_copy(update={"training_peak_saved_bytes": 900_000})},
            ["one step of its training held 900 kB"],
        ),
    ],
)
def test_what_might_mislead_is_remarked_on(fields, remark):
    assert remarks(result(**fields)) == remark


def test_the_line_that_unfolds_says_what_is_there():
    record = result(memory=memory().model_copy(update={"sites": [SITE]}), seconds=150.0)
    log = Log("logs/x.log", "a\nb", 3, cut=False)
    assert details(record, log, EXTENTS[0]).summary == "settings, figures, one site, log of 2 lines; 2.5 min"
    less = details(record, None, Extent(sites=False))
    assert less.summary == "settings, figures, no log; 2.5 min"
    assert less.sites is None
