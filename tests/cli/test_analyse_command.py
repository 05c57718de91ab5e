"""``compbench analyse`` as its user sees it: files, messages and the exit status."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compbench.analysis.catalogue import ANALYSES
from compbench.analysis.snapshots import Snapshots
from compbench.analysis.trained import Trained
from compbench.cli import main
from compbench.registry import Registry
from compbench.run.cell import run_cell
from compbench.run.store import Store, SuiteRecord
from compbench.suite import load_suite
from compbench.suite.cell import Cell
from compbench.workloads.trm_maze import TRMMaze

SUITE = """
name: tiny
workload: {name: trm_maze, grid: 5, train_mazes: 24, validation_mazes: 16, hidden: 16, heads: 2, inner: 24}
arms:
  none: none
  laser: {laser: {rank: 4, max_rank: 8}}
  operators: {laser: {rank: 4, max_rank: 8}}
matrix:
  depth: [3]
  seed: [0]
training: {batch_size: 8, steps: 8, learning_rate: 0.01}
capture: {routes: hooks}
measuring: {time_pairs: 0, memory: false, flops: false, gradient_cosine: true}
threads: 1
"""
FAST = ["--set", "training_steps=20", "--set", "restarts=1", "--set", "fit_rows=200", "--set", "held_out_rows=200"]
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "analyses.md"

Command = Callable[..., tuple[int, str, str]]


def cells(folder: Path, name: str = "tiny") -> dict[str, Cell]:
    registry = Registry.load(None)
    suite = load_suite(str(folder / f"{name}.yaml"), registry)
    return {cell.arm: cell for cell in suite.cells(registry)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite, the record of its laser cell, and all analyses of that."""
    folder = tmp_path_factory.mktemp("analyses")
    (folder / "tiny.yaml").write_text(SUITE)
    of_suite = cells(folder)
    store = Store.create(folder / "results", "tiny")
    torch.set_num_threads(1)
    store.save(run_cell(of_suite["laser"]))
    store.save_suite(SuiteRecord(name="tiny", keys=[cell.key for cell in of_suite.values()], command="compbench run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["analyse", "all", of_suite["laser"].key, "--snapshots", "4", *FAST]
        patch.setattr(sys, "argv", ["compbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def compbench(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line; gives its exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["compbench", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def result(folder: Path, name: str, arm: str = "laser", suite: str = "tiny") -> dict[str, Any]:
    path = folder / "results" / "tiny" / "analyses" / cells(folder, suite)[arm].key / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def keys_in(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value) | {key for inner in value.values() for key in keys_in(inner)}


def documented(name: str) -> list[str]:
    """The keys that the document has for an analysis, as patterns."""
    text = DOCUMENT.read_text().partition("### Keys of `summary`")[2]
    part = re.split(r"^\*\*(\w+)\*\*", text, flags=re.MULTILINE)
    section = part[part.index(name) + 1].partition("\n## ")[0]
    listed = [
        key
        for line in section.splitlines()
        if line.startswith("| `")
        for key in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]
    said = section.partition("| key |")[0]
    named = [key for key in re.findall(r"`([a-z_0-9]+)`", said) if key in said.split("`sites[")[0]]
    found = []
    for key in [*listed, *named]:
        if "..." not in key:
            found.append(re.sub(r"(?<![A-Za-z])[KBS](?![A-Za-z])", r"\\d+", key.replace(".", r"\.")))
    return found


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_has_its_numbers_measurements_and_figures(trained, name):
    found = result(trained, name)
    cell = cells(trained)["laser"]
    assert (found["analysis"], found["schema_version"], found["cell"], found["suite"]) == (name, 1, cell.key, "tiny")
    assert found["same_training"] is True
    assert found["same_training_reason"] == ""
    assert found["snapshots"] == [0, 3, 5, 8]
    assert set(found["settings"]) == set(ANALYSES[name].settings.model_fields)
    folder = trained / "results" / "tiny" / "analyses" / cell.key
    rows = list(csv.DictReader((folder / f"{name}.csv").open()))
    assert rows
    assert list(rows[0])[-1] == "value"
    for row in rows:
        assert row["quantity" if name != "linearity" else "method"]
        float(row["value"] or "nan")
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / f"{name}.svg").read_text().startswith("<svg")
    assert found["caption"] in (folder / f"{name}.html").read_text().replace("&#x27;", "'")


@pytest.mark.parametrize("name", ANALYSES)
def test_every_key_that_is_documented_is_there(trained, name):
    present = keys_in(result(trained, name)["summary"])
    patterns = documented(name)
    assert len(patterns) > 8
    missing = [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in present)]
    assert not missing


def test_the_rank_is_within_what_the_linear_layer_allows(trained):
    sites = result(trained, "spectrum")["summary"]["sites"]
    bounded = {name: site for name, site in sites.items() if site["rank_bound"] is not None}
    assert {name: site["rank_bound"] for name, site in bounded.items()} == {
        "block.attn/attn_48": 16,
        "block.mlp/mlp_48": 16,
    }
    assert all(site["rank_bound_holds"] and site["numerical_rank"] == 16 for site in bounded.values())


def test_more_ranks_and_bits_rebuild_better(trained):
    for site in result(trained, "spectrum")["summary"]["sites"].values():
        cosines = [site[f"cosine_rank_{rank}_bits_32"] for rank in (1, 2, 4, 8)]
        assert cosines == sorted(cosines)
        assert site["cosine_rank_8_bits_8"] <= site["cosine_rank_8_bits_32"] + 1e-6
        assert site["lowest_cosine_rank_4_bits_16"] <= site["cosine_rank_4_bits_16"]


def test_no_proved_bound_is_broken_and_the_strategy_is_compared_at_every_depth(trained):
    summary = result(trained, "gradient")["summary"]
    assert summary["proved_units"] > 0
    assert summary["bound_violations"] == 0
    assert list(summary["depths"]) == ["2", "3", "6"]
    for of in summary["depths"].values():
        assert 0 < of["strategy_cosine"] <= 1 + 1e-9
        assert of["pca_smallest_cosine"] <= of["pca_cosine"] + 1e-9


def test_the_gradient_cosine_is_the_records(trained):
    record = Store(trained / "results" / "tiny").result(cells(trained)["laser"].key)
    assert record is not None
    assert record.fidelity is not None
    depths = result(trained, "gradient")["summary"]["depths"]
    assert depths["3"]["strategy_cosine"] == pytest.approx(record.fidelity.gradient_cosine, abs=1e-9)


def test_the_strategys_basis_is_followed_and_its_rank_is_the_records(trained):
    summary = result(trained, "drift")["summary"]
    record = Store(trained / "results" / "tiny").result(cells(trained)["laser"].key)
    assert record is not None
    assert summary["strategy_has_basis"] is True
    assert (summary["expansions"], summary["resets"]) == (record.statistics["expansions"], record.statistics["resets"])
    for name, site in summary["sites"].items():
        assert site["strategy_rank_last"] == record.site_curves[name]["rank"][-1][1]
        assert 0 < site["strategy_pca_overlap_last"] <= 1 + 1e-9
        assert site["strategy_fidelity"] <= 1


def test_the_forward_pass_is_exact_under_the_strategy(trained):
    (of,) = result(trained, "trajectory")["summary"]["modules"].values()
    assert of["calls"] == 3
    assert of["strategy_forward_cosine"] == pytest.approx(1, abs=1e-9)
    assert of["norm_last"] == pytest.approx(4, rel=1e-3)  # rows of root mean square 1, 16 wide


def test_the_weights_of_a_snapshot_give_the_loss_of_the_step_that_began_with_them(trained):
    cell = cells(trained)["laser"]
    snapshots = Snapshots.read(trained / "results" / "tiny" / "snapshots" / cell.key, cell.key)
    assert snapshots is not None
    analysed = Trained(cell, snapshots)
    for step in (5, 0, 3):
        analysed.at(step)
        batch = analysed.step.batch(analysed.prepared.data.train, analysed.prepared.order[step])
        assert analysed.step.loss(batch).item() == pytest.approx(snapshots.training.loss_curve[step], abs=1e-6)


def test_snapshots_are_taken_once_and_again_for_another_number(folder, compbench):
    key = cells(folder)["laser"].key
    written = (folder / "results" / "tiny" / "snapshots" / key / "8.pt").stat().st_mtime_ns
    status, out, err = compbench("analyse", "trajectory", key, "--snapshots", "4")
    assert (status, err) == (0, "")
    assert "trajectory.json" in out
    assert (folder / "results" / "tiny" / "snapshots" / key / "8.pt").stat().st_mtime_ns == written
    status, _, err = compbench("analyse", "trajectory", key, "--snapshots", "3")
    assert status == 0
    assert "training laser depth 3 seed 0 again, for 3 snapshots" in err
    assert result(folder, "trajectory")["snapshots"] == [0, 4, 8]


def test_losses_that_are_not_the_records_are_told(folder, compbench):
    store, key = Store(folder / "results" / "tiny"), cells(folder)["laser"].key
    record = store.result(key)
    assert record is not None
    losses = [*record.loss_curve[:5], record.loss_curve[5] + 0.25, *record.loss_curve[6:]]
    store.save(record.model_copy(update={"loss_curve": losses}))
    status, _, err = compbench("analyse", "trajectory", key, "--snapshots", "4")
    assert status == 0
    assert "warning" in err
    found = result(folder, "trajectory")
    assert found["same_training"] is False
    assert "differ from step 6 on, by 0.25 at most" in found["same_training_reason"]
    assert "training repeated" in found["caption"]


def test_a_cell_without_a_record_is_trained_and_one_without_a_basis_still_has_pca(folder, compbench):
    status, _, err = compbench("analyse", "drift", "tiny.yaml", "--only", "arm=none", "--snapshots", "3")
    assert status == 0
    assert "there is no record of this cell" in err
    found = result(folder, "drift", "none")
    assert found["same_training"] is None
    assert found["summary"]["strategy_has_basis"] is False
    assert found["summary"]["expansions"] is None
    assert "The strategy has no basis of its own." in found["caption"]
    for site in found["summary"]["sites"].values():
        assert site["strategy_fidelity"] is None
        assert 0 <= site["pca_overlap_first_last"] <= 1 + 1e-9


def test_under_other_routes_drift_looks_at_the_strategys_own_sites(folder, compbench):
    text = SUITE.replace("capture: {routes: hooks}", "")
    (folder / "tiny.yaml").write_text(text)
    (folder / "hooks.yaml").write_text(SUITE)
    status, _, _ = compbench("analyse", "drift", "tiny.yaml", "--only", "arm=operators", "--snapshots", "3")
    assert status == 0
    sites = result(folder, "drift", "operators")["summary"]["sites"]
    assert sites
    own = set(result(folder, "spectrum", suite="hooks")["summary"]["sites"])
    assert len(sites) < len(own)  # what follows from what is kept is not kept on that route
    assert all(site["strategy_rank_last"] is not None for site in sites.values())


CARRYING = """
name: carrying
workload: {name: sudoku, box: 2, clues: 12, train_puzzles: 32, validation_puzzles: 8, hidden: 16, heads: 2, inner: 24,
  supervision_steps: 3}
arms: {laser: {laser: {rank: 4, max_rank: 16}}}
matrix: {depth: [2], seed: [0]}
training: {steps: 6, batch_size: 8, warmup_steps: 1, ema: 0.9}
measuring: {time_pairs: 0, validation_points: 0, gradient_cosine: false}
device: cpu
"""


def test_states_that_are_carried_are_carried_when_a_training_is_repeated(folder, compbench):
    (folder / "carrying.yaml").write_text(CARRYING)
    assert compbench("run", "carrying.yaml", "--jobs", "1")[0] == 0
    status, _, told = compbench("analyse", "trajectory", "carrying.yaml", "--snapshots", "2", "--set", "examples=8")
    assert status == 0, told
    (path,) = (folder / "results/carrying/analyses").glob("*/trajectory.json")
    assert json.loads(path.read_text())["same_training"] is True


def test_a_record_that_is_not_ok_is_refused(folder, compbench):
    store, key = Store(folder / "results" / "tiny"), cells(folder)["laser"].key
    record = store.result(key)
    assert record is not None
    store.save(record.model_copy(update={"status": "oom", "reason": "too large"}))
    status, _, err = compbench("analyse", "spectrum", key)
    assert status == 2
    assert f"the record of {key} has the status 'oom': too large (allowed: cells that ended ok" in err


def test_a_workload_in_which_nothing_recurs_has_no_trajectory(folder, compbench, monkeypatch):
    monkeypatch.setattr(TRMMaze, "recurrent_modules", lambda self, model: [])
    key = cells(folder)["laser"].key
    status, out, err = compbench("analyse", "trajectory", key, "--snapshots", "4")
    assert status == 1
    assert out == ""
    assert "workload 'trm_maze' names no recurring module" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spectra"], "unknown analysis 'spectra'; did you mean 'spectrum'? (allowed: all, distribution, "),
        (["spectrum", "--set", "rank=3"], "spectrum has no option 'rank'; did you mean 'ranks'? (allowed: examples, "),
        (["trajectory", "--set", "sites=mlp_48"], "trajectory has no option 'sites'"),
        (["all", "--set", "drift.codes=3"], "all has no option 'drift.codes'"),
        (["spectrum", "--set", "ranks"], "--set ranks: not of the form FIELD=VALUE"),
        (["linearity", "--set", "layers=3"], "--set layers=3: Input should be less than or equal to 2"),
        (["spectrum", "--set", "sites=mlp_47"], "mlp_47"),
        (["gradient", "--set", "depths=1"], "has no depth 1"),
        (["spectrum", "--only", "arm=laser"], "--only beside the cell"),
    ],
)
def test_what_can_not_be_is_told_in_one_line(folder, compbench, arguments, message):
    name, *options = arguments
    status, _, err = compbench("analyse", name, cells(folder)["laser"].key, "--snapshots", "4", *options)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_a_publication_has_neither_snapshots_nor_analyses(folder, compbench):
    status, _, err = compbench("publish", "results/tiny", "published")
    assert status == 0, err
    inside = {path.name for path in (folder / "published").iterdir()}
    assert "cells" in inside
    assert not inside & {"snapshots", "analyses"}
