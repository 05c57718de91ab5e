"""Plans of whole suites: straight lines against every depth computed, ranks of results, and what fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compbench.errors import SettingsError
from compbench.measure.estimating import Estimate
from compbench.registry import Registry
from compbench.run.cell import run_cell
from compbench.run.fitting import plane_through, what_fits
from compbench.run.known_ranks import KnownRanks
from compbench.run.planning import Pool, Task, make_estimate, plan_cells
from compbench.run.straight_lines import line_through
from compbench.suite import load_suite
from compbench.suite.cell import Cell

SUITE = """
name: tiny
workload: {name: trm_maze, grid: 5, train_mazes: 32, validation_mazes: 4, hidden: 32, heads: 2, inner: 48}
arms:
  none: none
  int8: int8
  laser: {laser: {rank: 4, max_rank: 32, fidelity: 0.99}}
  auto: {auto: {quiet: true}}
matrix: {depth: [2, 3, 4, 9], seed: [0, 1]}
training: {batch_size: 8, steps: 12, warmup_steps: 2}
capture: {routes: hooks}
measuring: {time_pairs: 0, validation_points: 0}
device: cpu
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


@pytest.fixture
def cells(tmp_path: Path, registry: Registry) -> list[Cell]:
    (tmp_path / "tiny.yaml").write_text(SUITE)
    return load_suite(str(tmp_path / "tiny.yaml"), registry).cells(registry)


def bare(found: Estimate | None) -> Estimate | None:
    """An estimate without the words on sites that are left raw, which tell how many bytes."""
    if found is None:
        return None
    return replace(found, sites=tuple({**site, "reason": bool(site["reason"])} for site in found.sites))


def test_what_follows_from_shallow_cells_is_what_deep_ones_take(cells: list[Cell]) -> None:
    with Pool(1) as pool:
        followed = plan_cells(cells, {}, None, pool)
        computed = plan_cells(cells, {}, None, pool, every_depth=True)
    by_law = {arm.cell.label: arm.by_law for arm in followed if arm.cell.depth == 9}
    assert by_law["none"]
    assert by_law["int8"]
    # Whether a basis pays depends on the calls that share it: where that bends the line, the depth is computed.
    assert not any(arm.by_law for arm in computed)
    for one, other in zip(followed, computed, strict=True):
        assert one.cell == other.cell
        for ours, theirs in ((one.plain, other.plain), (one.least, other.least), (one.most, other.most)):
            assert bare(ours) == bare(theirs)
        assert len(one.cells) == 2
        assert dict(one.states) == {"to run": 2}


def test_one_arm_that_is_not_estimable_leaves_the_others(cells: list[Cell]) -> None:
    with Pool(1) as pool:
        plan = plan_cells(cells, {}, None, pool)
    reasons = {arm.cell.label: arm.reason for arm in plan}
    assert "measured errors of gradients" in reasons["auto"]
    assert not any(reasons[label] for label in ("none", "int8", "laser"))
    assert all(arm.least for arm in plan if arm.cell.label != "auto")


def test_a_line_needs_all_of_its_points() -> None:
    assert line_through([(2, 10), (3, 13), (5, 19)], 100) == 304
    assert line_through([(2, 10), (3, 14), (5, 19)], 100) is None
    assert line_through([(2, 0), (4, 1), (6, 2)], 5) is None  # no half bytes


@pytest.mark.parametrize("arm", ["laser", "auto"])
def test_ranks_of_results_give_the_bytes_that_the_cell_had(arm: str, cells: list[Cell]) -> None:
    (cell,) = (cell for cell in cells if (cell.arm, cell.depth, cell.seed) == (arm, 3, 0))
    result = run_cell(cell)
    assert result.status == "ok", result.reason
    assert result.memory is not None
    known = KnownRanks([result], "results")
    with Pool(1) as pool:
        (found,) = plan_cells([cell], {result.key: result}, known, pool)
    assert found.basis == "results"
    assert found.least is not None
    assert found.least.saved_bytes == result.memory.saved_bytes
    assert found.least.peak_delta_bytes == pytest.approx(result.memory.peak_delta_bytes, rel=0.01)
    assert dict(found.states) == {"ok": 1}
    assert found.seconds == pytest.approx(result.seconds)


def test_ranks_of_another_model_are_refused_and_named(cells: list[Cell]) -> None:
    (cell,) = (cell for cell in cells if (cell.arm, cell.depth, cell.seed) == ("laser", 2, 0))
    result = run_cell(cell).model_copy(update={"parameters": 7})
    known = KnownRanks([result], "--ranks-from elsewhere")
    with Pool(1) as pool:
        plan = plan_cells([c for c in cells if c.depth == 2], {}, known, pool)
    by_arm = {arm.cell.label: arm for arm in plan}
    assert by_arm["laser"].reason.startswith(f"--ranks-from elsewhere: the model of {result.key} has 7 parameters")
    assert by_arm["int8"].least is not None


def test_results_without_any_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--ranks-from"):
        KnownRanks.read(tmp_path / "nothing")


def test_a_plane_is_checked_by_a_fifth_point() -> None:
    def bytes_of(depth: int, batch: int) -> int:
        return 5 + 7 * depth + 11 * batch + 13 * depth * batch

    points = {point: bytes_of(*point) for point in ((2, 4), (2, 8), (3, 4), (3, 8), (2, 12))}
    plane = plane_through(points)
    assert plane is not None
    assert plane.bytes(9, 31) == bytes_of(9, 31)
    assert plane.largest_depth(bytes_of(9, 31), 31) == 9
    assert plane.largest_depth(bytes_of(9, 31) - 1, 31) == 8
    assert plane.largest_batch(bytes_of(9, 31), 9) == 31
    points[2, 12] *= 2
    assert plane_through(points) is None


def test_what_fits_fits_and_one_more_does_not(cells: list[Cell], registry: Registry) -> None:
    own = [cell for cell in cells if cell.arm == "int8" and cell.seed == 0]
    limit = 4_000_000

    def takes(depth: int, batch: int) -> int:
        found = make_estimate(Task(own[0].model_copy(update={"depth": depth}), batch_size=batch))
        assert not isinstance(found, str), found
        return found.static_bytes + found.highest_peak_bytes

    with Pool(1) as pool:
        fit = what_fits(plan_cells(own, {}, None, pool), limit, registry, pool)["int8"]
    assert fit.largest_depth is not None
    assert fit.largest_batch is not None
    assert takes(fit.largest_depth, 8) <= limit < takes(fit.largest_depth + 1, 8)
    assert takes(2, fit.largest_batch[2]) <= limit < takes(2, fit.largest_batch[2] + 1)


def test_processes_make_the_same_estimates(cells: list[Cell]) -> None:
    deep = [cell for cell in cells if cell.seed == 0 and cell.arm != "auto"]
    with Pool(1) as pool:
        here = plan_cells(deep, {}, None, pool)
    many = [cell.model_copy(update={"depth": cell.depth + 40}) for cell in deep if cell.depth == 2]
    with Pool(2) as pool:
        there = plan_cells([*deep, *many], {}, None, pool)
    assert [arm.least for arm in there[: len(here)]] == [arm.least for arm in here]
    torch.manual_seed(0)  # nothing of the parent's is touched


PUBLISHED = """
name: published
workload: {name: text, architecture: looped_lm, profile: ouro_1.4b, context: 8, characters: 2000}
arms: {none: none}
matrix: {depth: [1], seed: [0]}
training: {batch_size: 1, precision: bf16}
device: cpu
"""


def test_a_model_that_no_machine_here_could_hold_is_planned(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "published.yaml").write_text(PUBLISHED)
    cells = load_suite(str(tmp_path / "published.yaml"), registry).cells(registry)
    with Pool(1) as pool:
        (plain,) = plan_cells(cells, {}, None, pool)
    assert plain.reason == ""
    assert plain.plain is not None
    assert plain.plain.parameters > 1.2e9
    assert plain.plain.static_bytes > 12 * plain.plain.parameters  # with two moments of the optimiser
