"""Every mistake of a suite is told with its line, what is allowed and the nearest name; all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compbench.errors import SettingsError, SuiteError
from compbench.registry import Registry
from compbench.suite import load_suite, shipped_suites
from tests.suite.conftest import SUITE, Bench

KEYS = (
    "arms, capture, checkpoint_minutes, description, device, executor, lower_is_better, margins, matrix, measuring, "
    "memory_limit, name, threads, timeout_seconds, training, workload"
)


def changed(line: int, text: str) -> str:
    """The good suite with one line (from 1) replaced."""
    lines = SUITE.splitlines(keepends=True)
    lines[line - 1 : line] = [text + "\n"]
    return "".join(lines)


def problems(bench: Bench, text: str) -> list[str]:
    with pytest.raises(SuiteError) as error:
        bench.load(text)
    file = str(bench.folder / "suite.yaml")
    assert all(problem.where.startswith(file) for problem in error.value.problems)
    return [str(problem).removeprefix(f"{file}:") for problem in error.value.problems]


BAD = {
    "no_yaml": ("name: [", "1: not valid YAML: "),
    "empty": ("", "1: the file is empty (allowed: a mapping with the keys name, workload, arms, matrix, "),
    "list": ("- name\n", '1: the file holds ["name"] (allowed: a mapping'),
    "duplicate_key": (SUITE + "name: other\n", "10: key 'name' is given twice; the first is in line 1"),
    "unknown_key": (SUITE + "matrx: 1\n", f"10: unknown key 'matrx'; did you mean 'matrix'? (allowed: {KEYS})"),
    "no_name": (changed(1, "description: x"), "1: key 'name' is missing (required: name, workload, arms, matrix)"),
    "null_name": (changed(1, "name:"), "1: name is null (allowed: a string)"),
    "number_name": (changed(1, "name: 7"), "1: name is 7 (allowed: a string)"),
    "unsafe_name": (changed(1, "name: ../x"), "1: name is '../x': it names a folder (allowed: letters"),
    "dot_name": (changed(1, "name: '.'"), "1: name is '.': it names a folder"),
    "no_arms": ("name: a\nworkload: {name: maze}\nmatrix: {depth: [1], seed: [1]}\n", "1: key 'arms' is missing"),
    "description": (SUITE + "description: [a]\n", '10: description is ["a"] (allowed: a string)'),
    "workload_string": (
        changed(2, "workload: maze").replace("  name: maze\n", ""),
        "2: workload is 'maze' (allowed: a",
    ),
    "workload_nameless": (changed(3, "  grid: 7"), "2: workload has no name (allowed: a mapping with a name, one of: "),
    "workload_unknown": (
        changed(3, "  name: mase"),
        "3: unknown workload 'mase'; did you mean 'maze'? (allowed: addition, echo, ",
    ),
    "workload_number": (changed(3, "  name: 3"), "3: workload's name is 3 (allowed: addition, echo, maze, "),
    "workload_field": (
        changed(3, "  name: maze\n  gird: 7"),
        "4: workload 'maze': unknown field 'gird'; did you mean 'gr",
    ),
    "workload_type": (
        changed(3, "  name: maze\n  grid: big"),
        "4: workload 'maze': grid is 'big' (allowed: an integer >= 5)",
    ),
    "workload_bool": (
        changed(3, "  name: maze\n  hidden: true"),
        "4: workload 'maze': hidden is true (allowed: an integer",
    ),
    "even_grid": (changed(3, "  name: maze\n  grid: 8"), "4: workload 'maze': grid is 8: a grid must be odd"),
    "workload_model": (changed(3, "  name: maze\n  heads: 3"), "2: workload 'maze': heads must divide hidden"),
    "arms_empty": (
        SUITE.replace("  none: none\n  sketch: {sketch: {rank: 16}}\n", ""),
        "4: arms is empty (allowed: a map",
    ),
    "arms_list": (
        changed(4, "arms: [none]").replace("  none: none\n  sketch: {sketch: {rank: 16}}\n", ""),
        "4: arms is ",
    ),
    "arm_name": (changed(5, "  'no ne': none"), "5: arm 'no ne' (allowed: letters, digits, _ and -"),
    "arm_null": (changed(5, "  none:"), "5: a strategy is null (allowed: a name, or {name: {field: value}})"),
    "arm_unknown": (
        changed(6, "  a: scetch"),
        "6: unknown strategy 'scetch'; did you mean 'sketch'? (allowed: ",
    ),
    "arm_field": (
        changed(6, "  a: {sketch: {rnk: 1}}"),
        "6: strategy 'sketch': unknown field 'rnk'; did you mean 'rank'?",
    ),
    "negative_rank": (
        changed(6, "  a:\n    sketch:\n      redraw: step\n      rank: -1"),
        "9: strategy 'sketch': rank is -1 (allowed: an integer >= 1)",
    ),
    "arm_choice": (
        changed(6, "  a: {sketch: {redraw: stop}}"),
        "6: strategy 'sketch': redraw is 'stop' (allowed: 'step' or",
    ),
    "arm_two_names": (
        changed(6, "  a: {sketch: {}, codes: {}}"),
        '6: a strategy is {"sketch": {}, "codes": {}} (allowed',
    ),
    "arm_flat": (changed(6, "  a: {sketch: 16}"), '6: a strategy is {"sketch": 16} (allowed: a name'),
    "arm_empty_chain": (changed(6, "  a: []"), "6: arm 'a' has no strategy"),
    "arm_in_chain": (
        changed(6, "  a:\n    - sketch\n    - codes: {bits: 0}"),
        "8: strategy 'codes': bits is 0 (allowed: an i",
    ),
    "sites_list": (
        changed(6, "  a:\n    sites: [sketch]"),
        "7: sites of arm 'a' is [\"sketch\"] (allowed: a mapping of patterns to strategies, such as ",
    ),
    "sites_empty": (changed(6, "  a: {sites: {}}"), "6: sites of arm 'a' is {} (allowed: a mapping"),
    "sites_unknown": (
        changed(6, "  a:\n    sites:\n      '*': none\n      '*.mlp': scetch"),
        "9: unknown strategy 'scetch'; did you mean 'sketch'?",
    ),
    "sites_field": (
        changed(6, "  a:\n    sites:\n      '*': none\n      '*.mlp':\n        - sketch:\n            rank: -1"),
        "11: strategy 'sketch': rank is -1 (allowed: an integer >= 1)",
    ),
    "sites_null": (changed(6, "  a:\n    sites:\n      '*':"), "8: a strategy is null (allowed: a name"),
    "sites_empty_chain": (
        changed(6, "  a:\n    sites:\n      '*': []"),
        "8: sites '*' of arm 'a' has no strategy (allowed: a list of at least one)",
    ),
    "sites_pattern": (
        changed(6, "  a:\n    sites:\n      '*': none\n      width:>x: none"),
        "9: sites pattern 'width:>x' compares with no width (allowed: MODULE/ROLE, ",
    ),
    "sites_exclusion": (
        changed(6, "  a:\n    sites:\n      '!head': none"),
        "8: sites pattern '!head' excludes (allowed: 'head' with the strategy none)",
    ),
    "sites_twice": (
        changed(6, "  a:\n    sites:\n      head: none\n      head: sketch"),
        "9: key 'head' is given twice; the first is in line 8",
    ),
    "sites_in_sites": (
        changed(6, "  a:\n    sites:\n      '*':\n        sites: {'*': none}"),
        "8: strategies by site within another strategy (allowed: chains within sites",
    ),
    "sites_in_chain": (
        changed(6, "  a:\n    - sites: {'*': none}\n    - sketch"),
        "7: strategies by site within another strategy (allowed: chains within sites",
    ),
    "sites_beside": (
        changed(6, "  a: {sites: {'*': none}, rank: 3}"),
        '6: a strategy is {"sites": {"*": "none"}, "rank": 3} (allowed',
    ),
    "sites_chain_that_cannot_be": (
        changed(6, "  a:\n    sites:\n      '*': none\n      head: [half, half]"),
        "9: half leaves no coefficients that half could compress",
    ),
    "chain_that_cannot_be": (
        changed(6, "  a: [half, half]"),
        "6: half leaves no coefficients that half could compress",
    ),
    "matrix_list": (
        changed(7, "matrix: [1]").replace("  depth: [2, 4]\n  seed: [0, 1]\n", ""),
        "7: matrix is [1] (allowed",
    ),
    "matrix_empty": (
        SUITE.replace("  depth: [2, 4]\n  seed: [0, 1]\n", ""),
        "7: matrix is empty (allowed: a mapping of axes",
    ),
    "no_depth": (SUITE.replace("  depth: [2, 4]\n", ""), "7: matrix has no axis 'depth' (required: depth, seed)"),
    "no_seed": (SUITE.replace("  seed: [0, 1]\n", ""), "7: matrix has no axis 'seed' (required: depth, seed)"),
    "axis_scalar": (changed(8, "  depth: 4"), "8: axis 'depth' is 4 (allowed: a list such as [1, 2])"),
    "axis_empty": (changed(9, "  seed: []"), "9: axis 'seed' is an empty list (allowed: a list such as [1, 2])"),
    "seed_twice": (changed(9, "  seed: [0, 1,\n    0]"), "10: seed 0 is given twice"),
    "seed_like_true": (changed(9, "  seed: [1, true]"), "9: seed is true (allowed: an integer >= 0)"),
    "seed_negative": (changed(9, "  seed: [-1]"), "9: seed is -1 (allowed: an integer >= 0)"),
    "seed_bool": (changed(9, "  seed: [true]"), "9: seed is true (allowed: an integer >= 0)"),
    "depth_zero": (changed(8, "  depth: [2, 0]"), "8: depth is 0 (allowed: an integer >= 1)"),
    "depth_text": (changed(8, "  depth: [two]"), "8: depth is 'two' (allowed: an integer >= 1)"),
    "depth_float": (changed(8, "  depth: [2.0]"), "8: depth is 2.0 (allowed: an integer >= 1)"),
    "depth_impossible": (
        changed(3, "  name: maze\n  cycle: 4"),
        "9: workload 'maze' at depth 2: depth is 2 (allowed: multiples of 4)",
    ),
    "depth_raises": (changed(8, "  depth:\n  - 4\n  - 13"), "10: workload 'maze' at depth 13: KeyError: 'thirteen'"),
    "axis_unknown": (
        SUITE + "  hiden: [1]\n",
        "10: unknown axis 'hiden'; did you mean 'hidden'? (allowed: allocator, attention, batch_size, ",
    ),
    "axis_ambiguous": (
        SUITE + "  steps: [1]\n",
        "10: axis 'steps' is a field of workload and of training (allowed: a field of one",
    ),
    "axis_value": (SUITE + "  hidden:\n  - 64\n  - 0\n", "12: workload 'maze': hidden is 0 (allowed: an integer >= 1)"),
    "axis_combination": (
        SUITE + "  hidden: [64, 63]\n  heads: [4, 2]\n",
        "2: workload 'maze': heads must divide hidden (with hidden=63, heads=4 and 1 more)",
    ),
    "axis_depth": (
        SUITE + "  cycle: [1, 4]\n",
        "8: workload 'maze' at depth 2: depth is 2 (allowed: multiples of 4) (with cycle=4)",
    ),
    "axis_training": (SUITE + "  batch_size: [8, 0]\n", "10: training: batch_size is 0 (allowed: an integer >= 1)"),
    "axis_arm": (
        SUITE + "  sketsh.rank: [1]\n",
        "10: axis 'sketsh.rank': unknown arm 'sketsh'; did you mean 'sketch'?",
    ),
    "axis_arm_field": (
        SUITE + "  sketch.rnk: [1]\n",
        "10: axis 'sketch.rnk': unknown field 'rnk'; did you mean 'rank'?",
    ),
    "axis_arm_value": (
        SUITE + "  sketch.rank: [1, 0]\n",
        "10: strategy 'sketch': rank is 0 (allowed: an integer >= 1)",
    ),
    "training_field": (SUITE + "training: {step: 3}\n", "10: training: unknown field 'step'; did you mean 'steps'?"),
    "training_list": (SUITE + "training: [3]\n", "10: training is [3] (allowed: a mapping of steps, batch_size, "),
    "training_yes": (SUITE + "measuring: {memory: yes}\n", "10: measuring: memory is 'yes' (allowed: true or false)"),
    "training_betas": (
        SUITE + "training:\n  betas: [0.9]\n",
        "11: training: betas is [0.9] (allowed: a list of 2 values",
    ),
    "training_beta": (
        SUITE + "training:\n  betas: [0.9, 1]\n",
        "11: training: betas.1 is 1 (allowed: a number >= 0 and < 1)",
    ),
    "training_optimizer": (
        SUITE + "training:\n  optimizer: adam\n",
        "11: training: optimizer is 'adam' (allowed: 'adamw' or 'adam_atan2')",
    ),
    "training_infinite": (SUITE + "training:\n  learning_rate: 1e999\n", "11: '1e999' can't be read as float"),
    "capture": (
        SUITE + "capture: {attention: row}\n",
        "10: capture: attention is 'row' (allowed: 'recompute', 'raw' or 'li",
    ),
    "margins_type": (SUITE + "margins:\n  solved: lots\n", "11: margins.solved is 'lots' (allowed: a number > 0)"),
    "margins_infinite": (SUITE + "margins:\n  solved: .inf\n", "11: margins.solved is '.inf' (allowed: a number > 0"),
    "lower_is_better": (SUITE + "lower_is_better: solved\n", "10: lower_is_better is 'solved' (allowed: a list, each"),
    "margins_zero": (SUITE + "margins:\n  solved: 0\n", "11: margins.solved is 0 (allowed: a number > 0)"),
    "margins_without_none": (
        SUITE.replace("none: none", "null_: none") + "margins: {solved: 0.1}\n",
        "10: margins are judged against an arm named 'none', and there is none",
    ),
    "device_unknown": (SUITE + "device: tpu\n", "10: device is 'tpu': no such device here (available: cpu"),
    "device_number": (SUITE + "device: 0\n", "10: device is 0 (allowed: a string or null)"),
    "threads": (SUITE + "threads: 0\n", "10: threads is 0 (allowed: an integer >= 1 or null)"),
    "memory_limit": (SUITE + "memory_limit: lots\n", "10: memory_limit is 'lots'"),
    "memory_limit_small": (
        SUITE + "memory_limit: 100MB\n",
        "10: memory_limit is '100MB': torch alone takes a good part of that (allowed: 1GB or more)",
    ),
    "executor": (
        SUITE + "executor:\n  local:\n    jobs: 0\n",
        "12: executor: local.jobs is 0 (allowed: an integer >= 1 or null)",
    ),
    "executor_unknown": (SUITE + "executor:\n  cloud: {}\n", "11: executor: unknown field 'cloud'"),
    "checkpoints": (SUITE + "checkpoint_minutes: -1\n", "10: checkpoint_minutes is -1 (allowed: a number >= 0"),
    "timeout": (SUITE + "timeout_seconds: -1\n", "10: timeout_seconds is -1 (allowed: a number > 0 or null)"),
}


def test_the_good_suite_is_good(bench: Bench) -> None:
    suite = bench.load(SUITE)
    assert (suite.name, list(suite.arms), suite.broken_arms) == ("small", ["none", "sketch"], {})


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_told_with_line_and_what_is_allowed(bench: Bench, mistake: str) -> None:
    text, expected = BAD[mistake]
    (found,) = problems(bench, text)
    assert found.startswith(expected)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(bench: Bench) -> None:
    text = SUITE.replace("name: small", "name: a/b").replace("rank: 16", "rank: 0").replace("[2, 4]", "[0, 13]")
    text = text.replace("  name: maze", "  name: maze\n  grid: 8") + "training: {step: 1, batch_size: 0}\nthreds: 2\n"
    lines = [int(found.partition(":")[0]) for found in problems(bench, text)]
    assert lines == [1, 4, 7, 9, 11, 11, 12]


def test_a_mistake_at_a_value_of_an_axis_needs_no_combination(bench: Bench) -> None:
    text = SUITE + "  hidden:\n  - 64\n  - 0\n  cycle: [1, 2]\n"
    assert problems(bench, text) == ["12: workload 'maze': hidden is 0 (allowed: an integer >= 1)"]


def test_a_mistake_that_every_combination_has_is_told_once(bench: Bench) -> None:
    text = changed(3, "  name: maze\n  grid: 8") + "  hidden: [64, 32]\n  cycle: [1, 2]\n"
    assert problems(bench, text) == ["4: workload 'maze': grid is 8: a grid must be odd"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_without_cuda_is_told(bench: Bench, device: str) -> None:
    assert problems(bench, SUITE + f"device: {device}\n") == [
        f"10: device is '{device}': no such device here (available: cpu)"
    ]


def test_the_device_is_cpu_where_there_is_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.load(SUITE).device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert bench.load(SUITE).device == "cuda"
    assert bench.load(SUITE + "device: cuda:1\n").device == "cuda:1"
    assert "available: cpu, cuda, cuda:0, cuda:1" in problems(bench, SUITE + "device: cuda:2\n")[0]


def test_an_arm_whose_plugin_is_broken_stops_no_other_arm(bench: Bench) -> None:
    arms = "  best: {wonder: {rank: 3}}\n  chained: [{sketch: {rank: 9}}, wonder]\n  sketch: sketch"
    suite = bench.load(changed(6, arms))
    assert list(suite.arms) == ["none", "best", "chained", "sketch"]
    assert (suite.arms["best"], suite.arms["chained"]) == (None, None)
    assert set(suite.broken_arms) == {"best", "chained"}
    assert "plugin 'broken' (" in suite.broken_arms["best"]
    assert "is broken: ModuleNotFoundError: No module named 'not_to_be_found'" in suite.broken_arms["best"]
    cells = suite.cells(bench.registry)
    assert [cell.arm for cell in cells[:4]] == ["none", "best", "chained", "sketch"]
    assert cells[1].strategy[0].model_dump() == {"name": "wonder", "fields": {"rank": 3}, "source": ""}
    assert [(part.name, part.fields) for part in cells[2].strategy] == [("sketch", {"rank": 9}), ("wonder", {})]


def test_an_arm_with_a_broken_plugin_at_some_sites_is_broken_and_told_as_it_is_written(bench: Bench) -> None:
    spec = "  a: {sites: {'*': {sketch: {rank: 3}}, head: [codes, {wonder: {much: 1}}]}}"
    suite = bench.load(changed(6, spec))
    assert "not_to_be_found" in suite.broken_arms["a"]
    (reference,) = next(variant.strategy for variant in suite.variants if variant.arm == "a")
    assert (reference.name, reference.source) == ("sites", "")
    assert reference.fields == {"*": {"sketch": {"rank": 3}}, "head": ["codes", {"wonder": {"much": 1}}]}


def test_the_rest_of_a_broken_arm_is_checked_all_the_same(bench: Bench) -> None:
    (found,) = problems(bench, changed(6, "  a: [{sketch: {rank: 0}}, wonder]"))
    assert found == "6: strategy 'sketch': rank is 0 (allowed: an integer >= 1)"


def test_an_axis_of_a_broken_arm_is_kept_as_it_is_written(bench: Bench) -> None:
    suite = bench.load(changed(6, "  best: wonder") + "  best.rank: [1, -2]\n")
    fields = [variant.strategy[0].fields for variant in suite.variants if variant.arm == "best"]
    assert fields == [{"rank": 1}, {"rank": -2}]


def test_a_workload_whose_plugin_is_broken_is_told_with_the_reason(bench: Bench) -> None:
    (found,) = problems(bench, changed(3, "  name: wonder"))
    assert found.startswith("3: plugin 'broken' (")
    assert "is broken: ModuleNotFoundError" in found


def test_a_name_that_two_plugins_claim_is_told_with_both(tmp_path: Path) -> None:
    twice = Bench(tmp_path)
    (tmp_path / "plugins" / "more.py").write_text((tmp_path / "plugins" / "sketch.py").read_text())
    twice.registry = type(twice.registry).load(tmp_path / "plugins")
    (found,) = problems(twice, SUITE)
    assert found.startswith("6: strategy 'sketch' is provided by plugin 'more' (")
    assert "and plugin 'sketch' (" in found


def test_sections_that_are_left_empty_have_their_defaults(bench: Bench) -> None:
    suite = bench.load(SUITE + "training:\nmeasuring:\ncapture:\nmargins:\ndevice:\nthreads:\n")
    assert (suite.training.steps, suite.capture.attention, suite.margins, suite.threads) == (
        1000,
        "recompute",
        {},
        None,
    )


def test_everything_of_a_suite_arrives(bench: Bench) -> None:
    suite = bench.load(
        SUITE
        + "description: Mazes, small.\n"
        + "training: {steps: 30, learning_rate: 1e-3, optimizer: adam_atan2, betas: [0, 0.95]}\n"
        + "measuring: {time_pairs: 0}\ncapture: {attention: raw}\nmargins: {solved: 0.05, token_accuracy: 5e-3}\n"
        + "device: cpu\nthreads: 2\ntimeout_seconds: 3600\ncheckpoint_minutes: 0.5\n"
        + "memory_limit: 8GB\nexecutor: {local: {jobs: 3}}\n"
    )
    assert suite.description == "Mazes, small."
    assert (suite.training.steps, suite.training.learning_rate, suite.training.betas) == (30, 0.001, (0.0, 0.95))
    assert suite.training.optimizer == "adam_atan2"
    assert (suite.measuring.time_pairs, suite.capture.attention) == (0, "raw")
    assert suite.margins == {"solved": 0.05, "token_accuracy": 0.005}
    assert (suite.device, suite.threads, suite.timeout_seconds) == ("cpu", 2, 3600.0)
    assert suite.checkpoint_minutes == 0.5
    assert (suite.memory_limit, suite.executors.local.jobs) == (8 * 10**9, 3)
    assert suite.path == str(bench.folder / "suite.yaml")
    assert suite.matrix == {"depth": [2, 4], "seed": [0, 1]}


def test_a_field_that_the_depth_overrides_is_a_mistake(bench: Bench) -> None:
    text = (
        "name: small\n"
        "workload: {name: trm_maze, grid: 7, hidden: 8, heads: 2, train_mazes: 8, validation_mazes: 8, CYCLES}\n"
        "arms: {none: none}\nmatrix: {depth: [4], seed: [0]}\n"
    )
    (problem,) = problems(bench, text.replace("CYCLES", "l_cycles: 5"))
    assert problem.startswith("4: workload 'trm_maze' at depth 4: l_cycles is set by the depth; leave it out")
    assert bench.load(text.replace("CYCLES", "l_cycles: 3")).cells(bench.registry)


def test_capture_settings_can_be_an_axis(bench: Bench) -> None:
    suite = bench.load(SUITE + "  attention: [raw, recompute]\ncapture: {minimum_elements: 2}\n")
    found = {
        (c.variant["attention"], c.capture.attention, c.capture.minimum_elements) for c in suite.cells(bench.registry)
    }
    assert found == {("raw", "raw", 2), ("recompute", "recompute", 2)}
    text = SUITE + "  attention: [raw, exact]\n"
    (problem,) = problems(bench, text)
    assert problem.startswith("10: capture: attention is 'exact' (allowed: 'recompute', 'raw' or 'literal')")


def test_the_allocator_can_be_an_axis_and_what_is_measured_can_not(bench: Bench) -> None:
    suite = bench.load(SUITE + "  allocator: [reuse, default]\nmeasuring: {time_pairs: 3}\n")
    cells = suite.cells(bench.registry)
    found = {(c.variant["allocator"], c.measuring.allocator, c.measuring.time_pairs) for c in cells}
    assert found == {("reuse", "reuse", 3), ("default", "default", 3)}
    assert {c.measuring.allocator for c in bench.load(SUITE).cells(bench.registry)} == {"reuse"}
    (problem,) = problems(bench, SUITE + "measuring: {allocator: jemalloc}\n")
    assert problem.startswith("10: measuring: allocator is 'jemalloc' (allowed: 'reuse' or 'default')")
    (problem,) = problems(bench, SUITE + "  time_pairs: [3, 5]\n")
    assert problem.startswith("10: unknown axis 'time_pairs'")


def test_a_missing_file_names_the_shipped_suites(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "quick.yaml"
    shipped.write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compbench.suite.shipped.shipped_suites", lambda: {"quick": shipped})
    for wanted in ("quik", "suites/quik.yaml", "suites/quick.yaml"):
        with pytest.raises(SuiteError) as error:
            load_suite(wanted, bench.registry)
        assert str(error.value) == (
            f"{wanted}: there is no such file, and no shipped suite of that name"
            "; did you mean 'quick'? (shipped: quick)"
        )
    with pytest.raises(SuiteError, match="is not a file"):
        load_suite(tmp_path, bench.registry)
    assert load_suite("quick", bench.registry).path == str(shipped)


def test_a_folder_does_not_hide_a_shipped_suite(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "quick.yaml"
    shipped.write_text(SUITE)
    (tmp_path / "quick").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compbench.suite.shipped.shipped_suites", lambda: {"quick": shipped})
    assert load_suite("quick", bench.registry).name == "small"


def test_a_file_that_is_no_text_is_told(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(SuiteError, match="not UTF-8 text: byte 6"):
        load_suite(tmp_path / "x.yaml", bench.registry)


def test_the_shipped_suites_are_those_of_the_package() -> None:
    import compbench_suites

    folder = Path(compbench_suites.__file__).parent
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    inner = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml"))
    assert {"paper/table1", "small/table1"} <= set(inner)
    assert list(shipped_suites()) == [*names, *inner]


def test_no_two_shipped_suites_have_one_results_folder() -> None:
    registry = Registry.load(None)
    names = [load_suite(name, registry, elsewhere=name.startswith("paper/")).name for name in shipped_suites()]
    assert len(set(names)) == len(names)


def test_a_suite_of_a_folder_is_found_by_name_and_suggested(bench: Bench, tmp_path: Path) -> None:
    assert load_suite("small/table1", Registry.load(None)).name == "table1"
    for wanted in ("small/tabel1", tmp_path / "small" / "table1.yml"):
        with pytest.raises(SuiteError, match="did you mean 'small/table1'"):
            load_suite(wanted, bench.registry)


def test_a_device_that_is_asked_for_replaces_the_files_own(bench: Bench) -> None:
    path = bench.folder / "elsewhere.yaml"
    path.write_text(SUITE + "device: tpu\n")
    with pytest.raises(SuiteError, match="no such device here"):
        load_suite(path, bench.registry)
    assert load_suite(path, bench.registry, device="cpu").device == "cpu"
    with pytest.raises(SettingsError, match=r"no device 'cuda:99' here \(available: cpu"):
        load_suite(path, bench.registry, device="cuda:99")


def test_a_cluster_may_have_a_gpu_that_this_machine_has_not(bench: Bench) -> None:
    path = bench.folder / "elsewhere.yaml"
    path.write_text(SUITE + "device: cuda\n")
    assert load_suite(path, bench.registry, elsewhere=True).device == "cuda"
    path.write_text(SUITE + "device: cuda:0\n")
    with pytest.raises(SuiteError, match=r"not to be had from a cluster \(allowed: cpu, cuda\)"):
        load_suite(path, bench.registry, elsewhere=True)
    with pytest.raises(SettingsError, match=r"no device 'tpu' on a cluster \(available: cpu, cuda\)"):
        load_suite(path, bench.registry, device="tpu", elsewhere=True)


MEASURED = """
import compbench
import torch
from torch import nn


class Measured(compbench.Workload):
    \"\"\"Has a metric of its own, and one more where it is wide.\"\"\"

    name = "measured"
    width: int = 4

    def at_depth(self, depth):
        if self.width == 1:
            raise RuntimeError("no such depth")
        return self

    def build(self, generator):
        return nn.Linear(self.width, 1)

    def data(self, seed):
        if self.width == 3:
            raise OSError("no data here")
        rows = torch.zeros(8, self.width)
        return compbench.Data(train={"x": rows}, validation={"x": rows})

    def forward(self, model, batch):
        assert len(batch["x"]) == 2
        return model(batch["x"])

    def loss(self, output, batch):
        return output.square().mean()

    def metrics(self, output, batch):
        return {"error": output[:, 0]} | ({"wide": output[:, 0]} if self.width > 4 else {})


@compbench.hookimpl
def compbench_workloads():
    return [Measured]


@compbench.hookimpl
def compbench_metrics():
    return [
        compbench.Metric("entropy", len, better="lower"),
        compbench.Metric("gain", len, better="higher"),
        compbench.Metric("unsaid", len),
    ]
"""

OF_MEASURED = """name: small
workload: {name: measured}
arms: {none: none}
matrix: {depth: [4, 2], seed: [0]}
"""


@pytest.fixture
def measured(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    (bench.folder / "plugins" / "measured.py").write_text(MEASURED)
    bench.registry = type(bench.registry).load(bench.folder / "plugins")
    return bench


def checked(bench: Bench, text: str) -> list[str]:
    """The mistakes of a suite whose metrics are looked for."""
    path = bench.write(text)
    try:
        load_suite(path, bench.registry, check_metrics=True)
    except SuiteError as error:
        return [f"{problem.where.rpartition(':')[2]}: {problem.message}" for problem in error.problems]
    return []


def test_a_margin_for_a_metric_that_no_workload_has_is_told_before_anything_runs(measured: Bench) -> None:
    text = OF_MEASURED + "margins:\n  error: 0.1\n  eror: 0.1\nlower_is_better: [entropy, errr]\n"
    allowed = "(allowed: entropy, error, gain, unsaid)"
    assert checked(measured, text) == [
        f"7: unknown metric 'eror'; did you mean 'error'? {allowed}",
        f"8: unknown metric 'errr'; did you mean 'error'? {allowed}",
    ]
    assert measured.load(text).margins == {"error": 0.1, "eror": 0.1}  # not looked for where it is not asked


def test_metrics_are_those_of_all_the_workloads_of_a_suite(measured: Bench) -> None:
    text = OF_MEASURED + "margins: {wide: 0.1}\n"
    assert len(checked(measured, text)) == 1
    assert checked(measured, text.replace("seed: [0]", "seed: [0], width: [4, 5]")) == []


@pytest.mark.parametrize("width", [1, 3])
def test_what_a_workload_can_not_tell_is_no_mistake(measured: Bench, width: int) -> None:
    found = checked(measured, OF_MEASURED.replace("measured}", f"measured, width: {width}}}") + "margins: {a: 1}\n")
    assert not any("metric" in mistake for mistake in found)


def test_other_mistakes_are_told_beside_unknown_metrics(measured: Bench) -> None:
    found = checked(measured, OF_MEASURED + "margins: {eror: 0.1}\nthreads: 0\n")
    assert [mistake.partition(":")[0] for mistake in found] == ["5", "6"]


def test_which_way_a_metric_is_better_comes_from_the_suite_and_from_plugins(measured: Bench) -> None:
    assert measured.load(OF_MEASURED).lower_is_better == ("entropy",)
    suite = measured.load(OF_MEASURED + "lower_is_better: [error, unsaid, error]\n")
    assert suite.lower_is_better == ("entropy", "error", "unsaid")
    (mistake,) = problems(measured, OF_MEASURED + "lower_is_better:\n- error\n- gain\n")
    assert mistake.startswith("7: of metric 'gain' more is better, as its plugin has it")


def test_the_metrics_of_the_shipped_workload_are_found(bench: Bench) -> None:
    text = (
        "name: small\nworkload: {name: trm_maze, grid: 7, hidden: 8, heads: 2, train_mazes: 8, validation_mazes: 8}\n"
        "arms: {none: none}\nmatrix: {depth: [4], seed: [0]}\nmargins: {solved: 0.1, token_acuracy: 0.1}\n"
    )
    (mistake,) = checked(bench, text)
    assert mistake.startswith("5: unknown metric 'token_acuracy'; did you mean 'token_accuracy'? (allowed: ")
