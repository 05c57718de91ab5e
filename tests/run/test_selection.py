"""``--only`` and ``--rerun``: which cells are meant."""

import pytest

from compbench.errors import SettingsError
from compbench.run.result import CellResult
from compbench.run.selection import select, to_run
from tests.run.fake_suites import make_cell

CELLS = [
    make_cell(arm=arm, depth=depth, seed=seed)
    for arm in ("none", "laser", "laser_wide")
    for depth in (4, 8, 16)
    for seed in (0, 1)
]


def chosen(*only, cells=CELLS):
    return [(cell.arm, cell.depth, cell.seed) for cell in select(cells, only)]


def test_without_patterns_all_cells_are_meant():
    assert select(CELLS, []) == CELLS


@pytest.mark.parametrize(
    ("only", "meant"),
    [
        (["depth=4,8"], lambda arm, depth, seed: depth in (4, 8)),
        (["depth=4", "depth=8"], lambda arm, depth, seed: depth in (4, 8)),
        (["depth=4,8", "seed=0"], lambda arm, depth, seed: depth in (4, 8) and seed == 0),
        (["arm=laser*"], lambda arm, depth, seed: arm.startswith("laser")),
        (["arm=laser", "depth=1*"], lambda arm, depth, seed: arm == "laser" and depth == 16),
        (["arm = none , laser"], lambda arm, depth, seed: arm in ("none", "laser")),
        (["does=ok"], lambda arm, depth, seed: True),
    ],
)
def test_patterns_of_an_axis_add_up_and_axes_narrow_down(only, meant):
    everything = [(cell.arm, cell.depth, cell.seed) for cell in CELLS]
    assert chosen(*only) == [cell for cell in everything if meant(*cell)]


def test_a_number_matches_however_it_is_written():
    cells = [make_cell().model_copy(update={"variant": {"learning_rate": value}}) for value in (0.001, 0.01)]
    assert select(cells, ["learning_rate=1e-3"]) == cells[:1]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (["dept=4"], r"--only dept=4: unknown axis 'dept'; did you mean 'depth'\? \(allowed: arm, depth, does, seed\)"),
        (["depth=5"], r"--only depth=5: unknown depth '5' \(allowed: 16, 4, 8\)"),
        (["arm=lasr"], r"did you mean 'laser'\?"),
        (["depth=4,5"], r"unknown depth '5'"),
        (["depth"], r"not of the form AXIS=VALUE"),
        (["=4"], r"not of the form AXIS=VALUE"),
        (["depth="], r"not of the form AXIS=VALUE"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_says_what_is_allowed(only, message):
    with pytest.raises(SettingsError, match=message):
        select(CELLS, only)


def test_patterns_that_together_match_nothing_are_an_error():
    cells = [make_cell(arm="a", depth=4), make_cell(arm="b", depth=8)]
    with pytest.raises(SettingsError, match="--only arm=a --only depth=8: no cell"):
        select(cells, ["arm=a", "depth=8"])


@pytest.mark.parametrize(
    ("rerun", "expected"),
    [
        ("missing", {"missing"}),
        ("failed", {"missing", "skipped", "failed", "oom", "timeout", "crashed", "diverged", "unsupported"}),
        ("oom", {"missing", "oom", "skipped"}),
        ("all", {"missing", "ok", "skipped", "failed", "oom", "timeout", "crashed", "diverged", "unsupported"}),
    ],
)
def test_rerun_says_which_records_are_made_again(rerun, expected):
    statuses = ["missing", "ok", "oom", "timeout", "crashed", "failed", "diverged", "unsupported", "skipped"]
    cells = [make_cell(seed=seed) for seed in range(len(statuses))]
    results = {
        cell.key: CellResult(key=cell.key, cell=cell, status=status)
        for cell, status in zip(cells, statuses, strict=True)
        if status != "missing"
    }
    assert {statuses[cell.seed] for cell in to_run(cells, results, rerun)} == expected
