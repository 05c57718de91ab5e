"""Curves of strategies' figures: every point as CSV, a few of them for people."""

import csv
import io

import pytest

from compbench.errors import PluginError, SettingsError
from compbench.records import Reporter
from compbench.report.curves import COLUMNS, curve_points, curves_table
from compbench.report.formats import as_text, render_with
from tests.report.made_up import cell, outcome, result
from tests.report.test_tables import github_cells


def curve(values, first=1, every=1, **others):
    """A record's curve: its fidelity at steps that are ``every`` apart, and other figures that do not change."""
    return [{"step": float(first + every * number), "fidelity": value, **others} for number, value in enumerate(values)]


def drifting():
    """Two arms with a curve, one of them at two depths, an arm without, and one that has not been run."""
    return outcome(
        [
            result("none", statistics_curve=[{"step": 1.0}, {"step": 2.0}]),
            result("lance", 8, seed=0, statistics_curve=curve([0.5, 0.25], first=2, rank=16.0)),
            result("lance", seed=1, statistics_curve=curve([0.5, 0.3], first=2, rank=16.0)),
            result("lance", seed=0, statistics_curve=[{"step": 1.0, "rank": 16.0}, *curve([0.9, 0.1], 2, rank=16.0)]),
            result("asi", seed=0, statistics_curve=curve([0.125, 1 / 3, 1.0])),
        ],
        missing=[cell("laser")],
    )


def test_the_csv_has_every_point_in_long_form_with_the_numbers_unrounded():
    text = as_text(curves_table(drifting(), ["fidelity"]), "csv")
    assert text.splitlines()[0] == ",".join(COLUMNS) == "arm,depth,seed,step,statistic,value"
    assert [tuple(row.values()) for row in csv.DictReader(io.StringIO(text))] == [
        ("lance", "4", "0", "2", "fidelity", "0.9"),
        ("lance", "4", "0", "3", "fidelity", "0.1"),
        ("lance", "4", "1", "2", "fidelity", "0.5"),
        ("lance", "4", "1", "3", "fidelity", "0.3"),
        ("lance", "8", "0", "2", "fidelity", "0.5"),
        ("lance", "8", "0", "3", "fidelity", "0.25"),
        ("asi", "4", "0", "1", "fidelity", "0.125"),
        ("asi", "4", "0", "2", "fidelity", repr(1 / 3)),
        ("asi", "4", "0", "3", "fidelity", "1.0"),
    ]


def test_several_statistics_follow_one_another_within_a_cell():
    points = curve_points(drifting(), ["rank", "fidelity", "rank"])
    assert [(p.step, p.statistic) for p in points if (p.arm, p.depth, p.seed) == ("lance", 4, 0)] == [
        (1, "rank"),
        (2, "rank"),
        (3, "rank"),
        (2, "fidelity"),
        (3, "fidelity"),
    ]


def test_for_people_a_row_is_a_curve_and_its_mean_over_seeds():
    text = as_text(curves_table(drifting(), ["fidelity"]), "github")
    header, _, *rows = github_cells(text)
    assert header == ["arm", "depth", "statistic", "seeds", "step 1", "step 2", "step 3"]
    assert rows == [
        ["lance", "4", "fidelity", "2", "-", "0.7000", "0.2000"],
        ["lance", "8", "fidelity", "1", "-", "0.5000", "0.2500"],
        ["asi", "4", "fidelity", "1", "0.1250", "0.3333", "1.000"],
    ]
    assert "- without any such figure: none, laser." in text
    assert "points of a curve are shown" not in text


def test_a_long_curve_is_shown_at_eight_steps_with_the_first_and_the_last():
    made = outcome([result(statistics_curve=curve([0.99999] * 100, first=3, every=6))])
    text = as_text(curves_table(made, ["fidelity"]), "github")
    header, _, row = github_cells(text)
    assert (header[4], header[-1], len(header)) == ("step 3", "step 597", 12)
    assert row[4:] == [">0.9999"] * 8
    assert "8 of 100 points of a curve are shown; csv and json have all of them." in text


@pytest.mark.parametrize(
    ("layout", "start"),
    [
        ("terminal", "arm "),
        ("github", "| arm"),
        ("latex_booktabs", "% Needs"),
        ("html", "<table>\n<caption>made_up: fid"),
    ],
)
def test_every_format_has_the_curves(layout, start):
    text = as_text(curves_table(drifting(), ["fidelity"]), layout)
    assert text.startswith(start)
    assert "0.7000" in text


def test_the_curve_of_a_cell_that_ended_early_is_there_and_said_to_be():
    ended = result("lance", status="diverged", reason="nan", statistics_curve=curve([0.5, float("nan")]))
    made = outcome([ended, result("asi", statistics_curve=curve([0.9, 0.9]))])
    assert "\nlance,4,0,2,fidelity,\n" in as_text(curves_table(made, ["fidelity"]), "csv")
    text = as_text(curves_table(made, ["fidelity"]), "github")
    assert "- lance at depth 4, seed 0: diverged, so that its curve ends early." in text


def test_a_curve_that_nobody_has_names_the_nearest_and_those_that_there_are():
    with pytest.raises(SettingsError, match=r"unknown curve 'fidelty'; did you mean 'fidelity'\? .*: fidelity, rank\)"):
        curve_points(drifting(), ["rank", "fidelty"])
    with pytest.raises(SettingsError, match=r"unknown curve 'rank' \(allowed: none\)"):
        curve_points(outcome([result()]), ["rank"])


def test_a_reporter_gets_points_by_the_csvs_names():
    seen = []
    reporter = Reporter("keep", lambda rows: seen.extend(rows) or "text")
    assert render_with(reporter, curves_table(drifting(), ["fidelity"])) == "text"
    assert len(seen) == 9
    assert seen[0] == dict(zip(COLUMNS, ("lance", 4, 0, 2, "fidelity", 0.9), strict=True))
    with pytest.raises(PluginError, match=r"reporter 'bad' .*ZeroDivisionError"):
        render_with(Reporter("bad", lambda rows: 1 / 0), curves_table(drifting(), ["fidelity"]))
