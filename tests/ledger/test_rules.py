"""Each rule of the ledger with made-up evidence on either side of its threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from compbench.ledger.claims.distribution import NORMED, gaussian_tail
from compbench.ledger.claims.geometry import RANKS, WIDE
from compbench.ledger.claims.method import straightness
from compbench.ledger.claims.table_1 import detectable_difference
from tests.ledger.conftest import Bench, cosine, curve, operations
from tests.report.made_up import memory

TABLE_1 = "small/table1"
ARMS = ("none", "laser_quarter", "laser_half")


def accuracy(solved: float, token: float = 0.9, spread: float = 0.01) -> dict[str, Any]:
    """Metrics that vary by seed, alike for all arms, with a curve that ends in them."""

    def shifted(cell: Any) -> dict[str, float]:
        # Differences to the reference vary a little, too: a t test of constant differences has nothing to divide by.
        own = {"none": 0.0, "laser_quarter": 0.1, "laser_half": -0.1}.get(cell.arm, 0.0)
        seed = spread * ((cell.seed % 5) - 2) + 0.01 * own * (cell.seed % 3)
        return {"solved": solved + seed, "token_accuracy": token + 0.01 * seed}

    return {
        "metrics": shifted,
        "validation_curve": lambda cell: [{"step": float(step), **shifted(cell)} for step in (80, 160)],
    }


@pytest.mark.parametrize(
    ("solved", "token", "verdict"),
    [(0.5, 0.9, "reproduced"), (0.2, 0.9, "not reproduced"), (0.5, 0.8, "not reproduced")],
)
def test_accuracy_is_judged_by_the_suites_margins(bench: Bench, solved: float, token: float, verdict: str) -> None:
    own = {arm: accuracy(0.5) for arm in ARMS} | {"laser_half": accuracy(solved, token)}
    bench.write(TABLE_1, own)
    assert bench.verdict("T1-accuracy") == verdict
    assert bench.verdict("F2-tracking") == verdict


def test_accuracies_that_vary_too_much_settle_nothing(bench: Bench) -> None:
    def noisy(cell: Any) -> dict[str, float]:
        sign = (-1) ** cell.seed if cell.arm != "none" else 0
        return {"solved": 0.5 + 0.2 * sign, "token_accuracy": 0.9 + 0.05 * sign}

    bench.write(TABLE_1, {arm: {"metrics": noisy} for arm in ARMS})
    finding = bench.judge("T1-accuracy").finding
    assert finding.verdict == "can't be tested at this scale"
    assert "seeds would settle it" in finding.why


def test_other_settings_are_told_beside_the_accuracy(bench: Bench) -> None:
    bench.write(TABLE_1, {arm: accuracy(0.2 if arm == "laser_half" else 0.5) for arm in ARMS})
    assert "With other settings" not in bench.judge("T1-accuracy").finding.why
    remedied = {"none": 0.5, "threshold_999": 0.48, "attention_raw": 0.45}
    bench.write("small/remedies", {arm: accuracy(solved) for arm, solved in remedied.items()})
    why = bench.judge("T1-accuracy").finding.why
    assert "-2.0 points of solved at a saving of 75%" in why
    assert "-5.0 points of solved" in why


@pytest.mark.parametrize(("saved", "verdict"), [(400_000, "reproduced"), (460_000, "not reproduced")])
def test_measured_savings(bench: Bench, saved: int, verdict: str) -> None:
    bench.write(TABLE_1, {"laser_quarter": {}, "laser_half": {"memory": memory(saved)}})
    assert bench.verdict("T1-saving-small") == verdict


def listing(bench: Bench, name: str, **bytes_: int) -> None:
    arms = ("none", "laser_128", "laser_256")
    cells = [{"arm": arm, "depth": 25, **bytes_} for arm in arms]
    (bench.folder / name).write_text(json.dumps({"suite": "table1_paper", "cells": cells}))


@pytest.mark.parametrize(
    ("raw", "verdict"), [(4_780_687_108, "can't be right as printed"), (2_900_000_000, "reproduced")]
)
def test_the_whole_step_is_compared_with_the_printed_baseline(bench: Bench, raw: int, verdict: str) -> None:
    assert bench.verdict("T1-whole-step") == "not run yet"
    listing(bench, "sites.json", raw_bytes=raw, kept_bytes=raw)
    assert bench.verdict("T1-whole-step") == verdict


@pytest.mark.parametrize(
    ("bytes_", "verdict"),
    [
        ({"saved_bytes": 40}, "reproduced"),
        ({"saved_bytes": 30, "most_saved_bytes": 40}, "reproduced"),
        ({"saved_bytes": 40, "most_saved_bytes": 70}, "can't be tested at this scale"),
        ({"saved_bytes": 50, "most_saved_bytes": 70}, "not reproduced"),
        ({"saved_bytes": 50}, "not reproduced"),
    ],
)
def test_the_papers_model_as_it_is_planned(bench: Bench, bytes_: dict[str, int], verdict: str) -> None:
    listing(bench, "plan.json", uncompressed_bytes=100, **bytes_)
    assert bench.verdict("T1-saving-paper") == verdict


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "can't be read"),
        ('{"cells": []}', "no cell of arm"),
        ('{"cells": [{"arm": "laser_128", "depth": 25}]}', "no number"),
    ],
)
def test_a_listing_that_can_not_be_used_is_told(bench: Bench, text: str, told: str) -> None:
    (bench.folder / "plan.json").write_text(text)
    finding = bench.judge("T1-saving-paper").finding
    assert finding.verdict == "not run yet"
    assert told in finding.why


def ranks(widest: int, narrow: int) -> dict[str, Any]:
    def site(name: str, width: int, rank: int) -> dict[str, Any]:
        return {
            "name": name,
            "width": width,
            "rows": 100,
            "calls": 4,
            "dtype": "float32",
            "raw_bytes": 1000,
            "kept_bytes": 500,
            "reason": "",
            "statistics": {"rank": float(rank)},
        }

    sites = [site("block.mlp/mlp_384", 384, widest), site("block.attn/attn_64#1", 64, narrow)]
    sites += [site("head/head_64", 64, 1)]  # no site of the block
    return {"memory": memory().model_copy(update={"sites": sites})}


@pytest.mark.parametrize(
    ("widest", "narrow", "stays", "grow"),
    [(16, 60, "reproduced", "reproduced"), (24, 20, "not reproduced", "not reproduced")],
)
def test_ranks_of_wide_and_narrow_sites(bench: Bench, widest: int, narrow: int, stays: str, grow: str) -> None:
    bench.write(TABLE_1, {"laser_quarter": ranks(widest, narrow)})
    assert bench.verdict("T2-widest-stays") == stays
    assert bench.verdict("T2-narrow-grow") == grow


@pytest.mark.parametrize(("resets", "verdict"), [(9, "reproduced"), (11, "not reproduced")])
def test_resets(bench: Bench, resets: int, verdict: str) -> None:
    counts = {"steps": 1000.0, "low_fidelity_steps": 20.0, "expansions": 3.0, "resets": float(resets)}
    bench.write(TABLE_1, {"laser_quarter": {"statistics": counts}})
    assert bench.verdict("S6-resets") == verdict


@pytest.mark.parametrize(("value", "verdict"), [(0.96, "reproduced"), (0.9, "not reproduced")])
def test_gradients_after_training(bench: Bench, value: float, verdict: str) -> None:
    kept = {"statistics": {"fidelity": 0.99}}
    bench.write(
        TABLE_1,
        {"laser_quarter": {"fidelity": cosine(0.99), **kept}, "laser_half": {"fidelity": cosine(value), **kept}},
    )
    assert bench.verdict("3.5-graceful") == verdict


def depth_memory(once: int, call: int, bend: float = 0.0) -> Any:
    def made(cell: Any) -> Any:
        saved = int(once + call * cell.depth + bend * cell.depth**2)
        return memory(saved).model_copy(update={"uncompressed_bytes": 1000 + 100_000 * cell.depth})

    return made


def test_memory_by_depth(bench: Bench) -> None:
    straight = {
        "none": {"memory": depth_memory(1000, 100_000)},
        "laser": {"memory": depth_memory(20_000, 10_000)},
        "laser_per_call": {"memory": depth_memory(1000, 12_000)},
    }
    bench.write("small/depth", straight)
    assert [bench.verdict(claim) for claim in ("D-full", "D-laser", "D-share")] == ["reproduced"] * 3
    assert "0.010 MB a call and 0.02 MB once" in bench.judge("D-laser").finding.number


def test_memory_that_bends_or_whose_share_falls(bench: Bench) -> None:
    bent = {
        "none": {"memory": depth_memory(1000, 100_000, bend=500)},
        "laser": {"memory": depth_memory(0, 10_000, bend=200)},
        "laser_per_call": {"memory": depth_memory(1000, 12_000)},
    }
    bench.write("small/depth", bent)
    assert [bench.verdict(claim) for claim in ("D-full", "D-laser", "D-share")] == ["not reproduced"] * 3


def test_a_line_is_told_with_the_largest_deviation_from_it() -> None:
    assert straightness([1, 2, 3], [10, 20, 30]) == pytest.approx((10, 0, 0), abs=1e-9)
    assert straightness([1, 2, 3], [0, 0, 0])[2] == 0
    slope, intercept, deviation = straightness([0, 1, 2], [1, 1, 4])
    assert (slope, intercept) == pytest.approx((1.5, 0.5))
    assert deviation == pytest.approx(1.0)  # 2 instead of 1, in the middle


PREDICTIONS = "small/predictions"


def arms(**fidelities: float) -> dict[str, dict[str, Any]]:
    return {
        arm: {"statistics": {"fidelity": value}, "fidelity": cosine(0.5), "statistics_curve": curve(0.9, 0.9, value)}
        for arm, value in fidelities.items()
    }


@pytest.mark.parametrize(
    ("claim", "made", "verdict"),
    [
        ("6.1-LANCE-stale", arms(laser=0.95, lance=0.7), "reproduced"),
        ("6.1-LANCE-stale", arms(laser=0.95, lance=0.945), "not reproduced"),
        ("6.1-LoRAct-fresh", arms(laser=0.95, loract=0.945), "reproduced"),
        ("6.1-LoRAct-fresh", arms(laser=0.95, loract=0.9), "not reproduced"),
        ("6.1-GALE-structure", arms(laser=0.95, gale=0.4, random_projection=0.4), "reproduced"),
        ("6.1-GALE-structure", arms(laser=0.95, gale=0.92, random_projection=0.4), "not reproduced"),
        ("6.1-GALE-immune", arms(laser=0.9, gale=0.88, lance=0.4), "reproduced"),
        ("6.1-GALE-immune", arms(laser=0.9, gale=0.8, lance=0.4), "not reproduced"),
    ],
)
def test_predictions_of_fidelity(bench: Bench, claim: str, made: dict[str, Any], verdict: str) -> None:
    bench.write(PREDICTIONS, made)
    assert bench.verdict(claim) == verdict


@pytest.mark.parametrize(("sketch", "verdict"), [(1_500_000, "reproduced"), (1_100_000, "not reproduced")])
def test_the_cost_of_sketching(bench: Bench, sketch: int, verdict: str) -> None:
    bench.write(
        PREDICTIONS, {"laser": {"arithmetic": operations(1_200_000)}, "gale": {"arithmetic": operations(sketch)}}
    )
    assert bench.verdict("6.1-GALE-cost") == verdict


@pytest.mark.parametrize(("start", "verdict"), [(0.985, "reproduced"), (0.97, "not reproduced")])
def test_int8_after_projection(bench: Bench, start: float, verdict: str) -> None:
    made = {arm: {"fidelity": cosine(0.5)} for arm in ("laser", "laser_actnn")}
    bench.write(PREDICTIONS, made | {"laser_int8": {"fidelity": cosine(0.1, start)}})
    assert bench.verdict("6.1-INT8-after") == verdict


@pytest.mark.parametrize(("both", "verdict"), [(100_000, "reproduced"), (250_000, "not reproduced")])
def test_quantised_coefficients_are_smaller_than_either(bench: Bench, both: int, verdict: str) -> None:
    made = {"laser": memory(200_000), "int8": memory(300_000), "laser_int8": memory(both)}
    bench.write(PREDICTIONS, {arm: {"memory": of} for arm, of in made.items()})
    assert bench.verdict("6.1-compose") == verdict


@pytest.mark.parametrize(("saved", "verdict"), [(80_000, "reproduced"), (90_000, "not reproduced")])
def test_actnn_twelvefold(bench: Bench, saved: int, verdict: str) -> None:
    bench.write(PREDICTIONS, {"actnn": {"memory": memory(saved), "fidelity": cosine(0.5)}})
    assert bench.verdict("6.1-ActNN-12") == verdict


@pytest.mark.parametrize(
    ("lance", "verdict"), [(curve(0.99, 0.9, 0.7), "reproduced"), (curve(0.95, 0.95, 0.95), "not reproduced")]
)
def test_lance_against_the_best_basis(bench: Bench, lance: list[dict[str, float]], verdict: str) -> None:
    bench.write(
        "basis_drift",
        {"oracle_svd": {"statistics_curve": curve(0.99, 0.98, 0.98)}, "lance": {"statistics_curve": lance}},
    )
    assert bench.verdict("6.1-LANCE-oracle") == verdict


@pytest.mark.parametrize(("shared", "verdict"), [(0.97, "reproduced"), (0.95, "not reproduced")])
def test_one_basis_for_all_calls(bench: Bench, shared: float, verdict: str) -> None:
    best, tracked = curve(0.98, 0.98, 0.98), curve(0.98, 0.98, shared)
    bench.write("basis_drift", {"oracle_svd": {"statistics_curve": best}, "laser_fixed": {"statistics_curve": tracked}})
    assert bench.verdict("6.1-LoRAct-same") == verdict


@pytest.mark.parametrize(("bend", "verdict"), [(0, "reproduced"), (900, "not reproduced")])
def test_decompositions_of_every_call_cost_in_proportion_to_depth(bench: Bench, bend: int, verdict: str) -> None:
    def sites(cell: Any) -> Any:
        site = {"name": "a", "width": 64, "rows": 100, "calls": cell.depth, "dtype": "float32", "reason": ""}
        return memory().model_copy(update={"sites": [{**site, "statistics": {"rank": 16.0}}]})

    def products(extra: int) -> Any:
        return lambda cell: operations(1_000_000 * cell.depth + extra * cell.depth**2)

    bench.write(
        "small/depth",
        {
            "laser": {"memory": sites, "arithmetic": products(0)},
            "loract": {"memory": sites, "arithmetic": products(bend)},
        },
    )
    entry = bench.judge("6.1-LoRAct-cost")
    assert entry.finding.verdict == verdict
    if not bend:
        assert f"{(4 * 64 * 16**2 - 4 * 16**3 / 3) / 1e6:+.1f} million operations" in entry.finding.number


FIGURE_4 = "small/figure4"
SITES = ("block.mlp/mlp_384", "block.attn.out/attn_64")


def site_curves(*values: float) -> dict[str, Any]:
    points = [(100 * index, value) for index, value in enumerate(values, start=1)]
    return {"site_curves": {name: {"fidelity": points} for name in SITES}}


@pytest.mark.parametrize(
    ("values", "oracle", "dip"),
    [
        ((0.99, 0.98, 0.99), "reproduced", "reproduced"),
        ((0.99, 0.97, 0.99), "not reproduced", "reproduced"),
        ((0.99, 0.98, 0.978), "reproduced", "not reproduced"),
        ((0.99, 0.98, 0.983), "reproduced", "not reproduced"),
    ],
)
def test_fidelity_of_the_best_basis_over_training(
    bench: Bench, values: tuple[float, ...], oracle: str, dip: str
) -> None:
    bench.write(FIGURE_4, {"svd_eighth": site_curves(*values), "svd_quarter": site_curves(*values)})
    assert bench.verdict("F4-oracle") == oracle
    assert bench.verdict("F4-dip") == dip


def analysis(folder: Path, bench: Bench, name: str, summary: Any, arm: str = "none", **fields: Any) -> None:
    (cell, *_) = [cell for cell in bench.cells(TABLE_1) if cell.arm == arm]
    file = folder / "analyses" / cell.key / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"schema_version": 1, "same_training": True, "summary": summary, **fields}))


@pytest.fixture
def trained(bench: Bench) -> Path:
    return bench.write(TABLE_1, {"none": {}, "laser_quarter": {}})


@pytest.mark.parametrize(
    ("lowest", "bits_8", "high", "precise"),
    [(0.98, 0.98, "reproduced", "reproduced"), (0.97, 0.96, "not reproduced", "not reproduced")],
)
def test_spectrum(bench: Bench, trained: Path, lowest: float, bits_8: float, high: str, precise: str) -> None:
    entry = {"lowest_cosine_rank_16_bits_32": lowest, "largest_numerical_rank": 64, "width": 384}
    for rank in RANKS:
        entry |= {f"cosine_rank_{rank}_bits_{bits}": 0.98 for bits in (16, 32)}
        entry[f"cosine_rank_{rank}_bits_8"] = bits_8
    analysis(trained, bench, "spectrum", {"sites": dict.fromkeys(WIDE, entry)})
    assert bench.verdict("F4-spectrum") == high
    assert bench.verdict("F4-precision") == precise
    assert "numerical rank 64 of 384" in bench.judge("G-rank-24").finding.why


@pytest.mark.parametrize(
    ("step", "last", "verdict"),
    [(400, 0.98, "reproduced"), (800, 0.97, "not reproduced"), (400, 0.974, "not reproduced")],
)
def test_a_dip_without_compression(bench: Bench, trained: Path, step: int, last: float, verdict: str) -> None:
    entry: dict[str, float] = {}
    for rank in RANKS[:2]:
        entry[f"lowest_cosine_rank_{rank}_bits_32"] = 0.97
        entry[f"lowest_cosine_step_rank_{rank}_bits_32"] = step
        entry[f"cosine_rank_{rank}_bits_32"] = last
    analysis(trained, bench, "spectrum", {"last_step": 800, "sites": dict.fromkeys(WIDE, entry)})
    assert bench.verdict("F4-dip-plain") == verdict


@pytest.mark.parametrize(
    ("gain", "no_better", "worse"),
    [
        (-0.1, "reproduced", "reproduced"),
        (0.03, "reproduced", "not reproduced"),
        (0.2, "not reproduced", "not reproduced"),
    ],
)
def test_autoencoders(bench: Bench, trained: Path, gain: float, no_better: str, worse: str) -> None:
    errors = ("pca_error", "centred_pca_error", "autoencoder_error", "random_autoencoder_error")
    entry = {f"{name}_code_16": 0.1 for name in errors}
    found = {"largest_gain": gain, "largest_gain_site": WIDE[0], "largest_gain_code": 16, "sites": {WIDE[0]: entry}}
    analysis(trained, bench, "linearity", found)
    assert bench.verdict("G-linear") == no_better
    assert bench.verdict("G-outperforms") == worse


def test_distribution(bench: Bench, trained: Path) -> None:
    good = {"excess_kurtosis": 0.5, "outliers_4_sigma": 2e-4}
    good |= {"int8_relative_mse_max": 1e-4, "int8_relative_mse_4sigma": 2.9e-4}
    good |= {f"{what}_change_rank_{rank}": -0.01 for what in ("mean", "std") for rank in RANKS}
    claims = ("Q-gaussian", "Q-gaussian-all", "Q-int8", "Q-int8-all", "Q-after-projection")
    analysis(trained, bench, "distribution", {"sites": dict.fromkeys((*WIDE, *NORMED), good)})
    assert [bench.verdict(claim) for claim in claims] == ["reproduced"] * len(claims)
    changes = {
        "Q-gaussian": [{"excess_kurtosis": -1.2}, {"outliers_4_sigma": 1e-3}],
        "Q-int8": [{"int8_relative_mse_4sigma": 3.1e-4}, {"int8_relative_mse_max": 3.1e-4}],
    }
    for claim, bad in changes.items():
        for change in bad:
            sites = dict.fromkeys((*WIDE, *NORMED), good) | {WIDE[1]: good | change}
            analysis(trained, bench, "distribution", {"sites": sites})
            assert [bench.verdict(claim), bench.verdict(f"{claim}-all")] == ["reproduced", "not reproduced"]
            assert f"not {WIDE[1]}" in bench.judge(f"{claim}-all").finding.number
            assert WIDE[1] not in bench.judge(claim).finding.why
            mlp = {name: good | change for name in sites if name.startswith("block.mlp")}
            analysis(trained, bench, "distribution", {"sites": sites | mlp})
            assert bench.verdict(claim) == "not reproduced"


@pytest.mark.parametrize("what", ["mean", "std"])
def test_statistics_after_projection(bench: Bench, trained: Path, what: str) -> None:
    changes = {f"{name}_change_rank_{rank}": -0.01 for name in ("mean", "std") for rank in RANKS}
    sites = dict.fromkeys((*WIDE, *NORMED), changes) | {WIDE[0]: changes | {f"{what}_change_rank_8": -0.03}}
    analysis(trained, bench, "distribution", {"sites": sites})
    finding = bench.judge("Q-after-projection").finding
    assert finding.verdict == "not reproduced"
    assert f"-3.0% (of the {what}, {WIDE[0]}, rank 8)" in finding.number


@pytest.mark.parametrize(
    ("successive", "first_last", "smooth", "unlike"),
    [(0.9, 0.2, "reproduced", "reproduced"), (0.3, 0.7, "not reproduced", "not reproduced")],
)
def test_drift(bench: Bench, trained: Path, successive: float, first_last: float, smooth: str, unlike: str) -> None:
    entry = {
        "pca_overlap_successive_min": successive,
        "pca_overlap_first_last": first_last,
        "pca_stale_fidelity": 0.6,
        "pca_fidelity": 0.99,
    }
    analysis(trained, bench, "drift", {"sites": {"block.mlp/mlp_384": entry}})
    assert bench.verdict("G-smooth") == smooth
    assert bench.verdict("6.1-LANCE-epoch-0") == unlike


@pytest.mark.parametrize(
    ("violations", "units", "verdict"), [(0, 50, "reproduced"), (1, 50, "not reproduced"), (0, 0, "not reproduced")]
)
def test_the_bound_of_theorem_1(bench: Bench, trained: Path, violations: int, units: int, verdict: str) -> None:
    found = {"bound_violations": violations, "proved_units": units}
    analysis(trained, bench, "gradient", found, arm="laser_quarter")
    assert bench.verdict("Th1-bound") == verdict


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 2}, "another version"),
        ({"same_training": False}, "another training"),
        ({"summary": None}, "no summary"),
        ({"summary": {"largest_gain": "0.1"}}, "no number 'largest_gain'"),
    ],
)
def test_an_analysis_that_can_not_be_used_is_told(
    bench: Bench, trained: Path, change: dict[str, Any], told: str
) -> None:
    analysis(trained, bench, "linearity", **{"summary": {"largest_gain": 0.0, "sites": {}}, **change})
    finding = bench.judge("G-linear").finding
    assert finding.verdict == "not run yet"
    assert told in finding.why


def test_the_detectable_difference_is_that_of_simulated_experiments() -> None:
    found = detectable_difference(37.09, 36.55, 5)
    source = np.random.default_rng(0)
    one, other = source.normal(found, 37.09, (20_000, 5)), source.normal(0, 36.55, (20_000, 5))
    power = (stats.ttest_ind(one, other, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.015)


def test_tails_of_a_gaussian() -> None:
    assert [gaussian_tail(sigmas) for sigmas in (2, 3, 4)] == pytest.approx([0.0455, 0.0027, 6.33e-5], rel=0.01)
