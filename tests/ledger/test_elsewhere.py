"""Rules about the cause of low rank and about other models, with made-up evidence on either side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from compbench.ledger.claims.elsewhere import HIDDEN_STATE, LANGUAGE, SHARING, SITES
from compbench.ledger.claims.geometry import MLP, SUITE
from tests.ledger.conftest import Bench
from tests.report.made_up import memory

TAILS = dict.fromkeys(SITES, 1e-4)


def ranks(shared: float, apart: float, change: Callable[[Any], float] = lambda cell: 0.0) -> Mapping[str, Any]:
    """Bases of these ranks in the mean: two with shared weights, four with separate ones."""

    def sites(cell: Any) -> list[dict[str, Any]]:
        tied = cell.variant["tied"] is True
        mean, count = (shared, 2) if tied else (apart + change(cell), 4)
        around = [mean + (-1) ** place for place in range(count)]
        return [{"statistics": {"rank": rank}} for rank in around] + [{"statistics": {}}]

    return {"memory": lambda cell: memory().model_copy(update={"sites": sites(cell)})}


@pytest.mark.parametrize(("shared", "verdict"), [(7.9, "reproduced"), (8.0, "not reproduced"), (9.0, "not reproduced")])
def test_sharing_concentrates_if_it_takes_lower_ranks(bench: Bench, shared: float, verdict: str) -> None:
    bench.write(SHARING, {"laser": ranks(shared, 8.0)})
    finding = bench.judge("G-sharing").finding
    assert finding.verdict == verdict
    assert f"{shared:.1f} with shared weights, 8.0 with separate ones (3 seeds)" in finding.number


def test_one_seed_that_differs_is_enough_against_it(bench: Bench) -> None:
    bench.write(SHARING, {"laser": ranks(8.0, 9.0, lambda cell: -2.0 if cell.seed == 2 else 0.0)})
    assert bench.verdict("G-sharing") == "not reproduced"


def test_one_side_alone_is_no_evidence(bench: Bench) -> None:
    folder = bench.write(SHARING, {"laser": ranks(8.0, 9.0)})
    for file in (folder / "cells").glob("*tied=True*"):
        file.unlink()
    finding = bench.judge("G-sharing").finding
    assert finding.verdict == "not run yet"
    assert "for shared and for separate weights" in finding.why


def test_records_without_ranks_are_no_evidence(bench: Bench) -> None:
    bench.write(SHARING, {"laser": {}})
    assert bench.verdict("G-sharing") == "not run yet"


def analysed(bench: Bench, suite: str, name: str, key: str, values: Mapping[str, float]) -> None:
    folder: Path = bench.write(suite, {"none": {}})
    (cell, *_) = [cell for cell in bench.cells(suite) if cell.arm == "none"]
    file = folder / "analyses" / cell.key / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    sites = {site: {key: value} for site, value in values.items()}
    file.write_text(json.dumps({"schema_version": 1, "same_training": True, "summary": {"sites": sites}}))


def spectrum(bench: Bench, suite: str, **ranks: float) -> None:
    values = dict.fromkeys(SITES, ranks.pop("rest", 20.0))
    analysed(bench, suite, "spectrum", "rank_at_fidelity_0.95", values | ranks)


@pytest.mark.parametrize(("wide", "verdict"), [(19, "reproduced"), (20, "not reproduced"), (28, "not reproduced")])
def test_a_looped_language_model_has_the_structure_if_its_wide_site_takes_less(
    bench: Bench, wide: float, verdict: str
) -> None:
    spectrum(bench, LANGUAGE, **{MLP: wide, HIDDEN_STATE: 20})
    assert bench.verdict("G-elsewhere") == verdict


@pytest.mark.parametrize(("least", "verdict"), [(9, "reproduced"), (8, "not reproduced")])
def test_language_takes_rank_if_every_site_does(bench: Bench, least: float, verdict: str) -> None:
    spectrum(bench, LANGUAGE, **{SITES[-1]: least})
    assert bench.verdict("E-language-rank") == "not run yet"  # nothing to compare with
    spectrum(bench, SUITE, rest=8)
    finding = bench.judge("E-language-rank").finding
    assert finding.verdict == verdict
    assert f"{SITES[-1]} {least} and 8" in finding.number


@pytest.mark.parametrize(("more", "verdict"), [(4, "reproduced"), (3, "not reproduced")])
def test_language_has_outliers_if_most_sites_do(bench: Bench, more: int, verdict: str) -> None:
    analysed(bench, SUITE, "distribution", "outliers_4_sigma", TAILS)
    raised = dict.fromkeys(SITES[:more], 2e-4)
    analysed(bench, LANGUAGE, "distribution", "outliers_4_sigma", TAILS | raised)
    finding = bench.judge("E-language-tails").finding
    assert finding.verdict == verdict
    assert f"at {more} of 6 sites: {SITES[0]}" in finding.why
