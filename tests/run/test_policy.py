"""What follows from how a cell has ended."""

from collections import Counter

from compbench.run.policy import Attempts, doomed, interleaved, is_deeper, reconsidered
from compbench.run.result import CellResult
from tests.run.fake_suites import make_cell

DEPTHS = [make_cell(depth=depth) for depth in (2, 4, 8, 16)]


def ended(cell, status):
    return CellResult(key=cell.key, cell=cell, status=status)


def test_deeper_is_the_same_arm_seed_and_variant():
    cell = make_cell(depth=4)
    assert is_deeper(make_cell(depth=8), cell)
    others = [make_cell(depth=4), make_cell(depth=2), make_cell(depth=8, arm="int8"), make_cell(depth=8, seed=1)]
    assert not any(is_deeper(other, cell) for other in [*others, make_cell("slow", depth=8)])


def test_cells_deeper_than_one_out_of_memory_are_doomed_by_the_shallowest():
    results = {cell.key: ended(cell, "oom") for cell in (DEPTHS[2], DEPTHS[1])}
    found = doomed([*DEPTHS, make_cell(arm="int8", depth=16)], results)
    assert {cell.cell.depth: (cell.status, cell.reason) for cell in found.values()} == {
        8: ("skipped", "skipped: OOM at depth 4"),
        16: ("skipped", "skipped: OOM at depth 4"),
    }
    assert doomed(DEPTHS, {DEPTHS[0].key: ended(DEPTHS[0], "timeout")}) == {}


def test_what_was_skipped_stays_so_until_its_reason_is_gone():
    results = {
        cell.key: ended(cell, status) for cell, status in zip(DEPTHS, ("ok", "oom", "skipped", "skipped"), strict=True)
    }
    assert reconsidered(DEPTHS, [], results) == []
    assert reconsidered(DEPTHS, [DEPTHS[1]], results) == DEPTHS[1:]
    assert reconsidered(DEPTHS, [], results, skip=False) == DEPTHS[2:]
    results[DEPTHS[1].key] = ended(DEPTHS[1], "ok")
    assert reconsidered(DEPTHS, [], results) == DEPTHS[2:]
    assert reconsidered(DEPTHS[:3], [], results) == [DEPTHS[2]]


def test_crashes_alone_are_tried_again_and_no_more_often_than_asked():
    attempts = Attempts(2)
    counted = [attempts.count(ended(DEPTHS[0], "crashed")) for _ in range(3)]
    assert [result.attempts for result in counted] == [1, 2, 3]
    assert [attempts.again(result) for result in counted] == [True, True, False]
    statuses = ("ok", "oom", "timeout", "failed", "diverged", "unsupported", "skipped")
    assert not any(attempts.again(attempts.count(ended(make_cell(seed=9), status))) for status in statuses)


def test_every_arm_has_every_turn_equally_often_and_depths_keep_their_order():
    arms = ["none", "laser", "int8"]
    cells = [make_cell(arm=arm, depth=depth, seed=seed) for seed in (0, 1, 2) for depth in (2, 4) for arm in arms]
    order = interleaved(cells)
    assert sorted(order, key=cells.index) == cells
    groups = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert [(group[0].seed, group[0].depth) for group in groups] == [(s, d) for s in (0, 1, 2) for d in (2, 4)]
    assert all({cell.arm for cell in group} == set(arms) for group in groups)
    turns = Counter((turn, cell.arm) for group in groups for turn, cell in enumerate(group))
    assert set(turns.values()) == {2}
