"""Tables as their formats' own readers see them."""

import csv
import io
import re

import pytest

from compbench.errors import PluginError
from compbench.records import Reporter
from compbench.report.formats import FORMATS, as_text, render_with
from compbench.report.rows import COLUMNS
from compbench.report.tables import View, figures, results_table
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
