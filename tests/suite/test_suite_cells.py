"""The cells of a suite: their order, their variants, and keys that depend on nothing but the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compbench.suite.cell import Cell, PluginReference
from tests.suite.conftest import SUITE, Bench

ROOT = Path(__file__).parents[2]


def keys(bench: Bench, text: str) -> set[str]:
    return {cell.key for cell in bench.load(text).cells(bench.registry)}


def test_cells_come_seed_by_seed_and_arms_alternate(bench: Bench) -> None:
    cells = bench.load(SUITE).cells(bench.registry)
    assert [(cell.seed, cell.depth, cell.arm) for cell in cells] == [
        (seed, depth, arm) for seed in (0, 1) for depth in (2, 4) for arm in ("none", "sketch")
    ]


def test_a_cell_says_what_to_run(bench: Bench) -> None:
    text = SUITE.replace("  name: maze", "  name: maze\n  grid: 7\n  hidden: 64") + "training: {steps: 30}\n"
    cell = bench.load(text).cells(bench.registry)[1]
    registry = bench.registry
    assert (cell.suite, cell.arm, cell.depth, cell.seed, cell.variant) == ("small", "sketch", 2, 0, {})
    assert (cell.workload.name, cell.workload.fields) == ("maze", {"grid": 7})
    assert cell.workload.source == registry.workloads["maze"].source != ""
    assert [(part.name, part.fields) for part in cell.strategy] == [("sketch", {"rank": 16})]
    assert cell.strategy[0].source == registry.compressors["sketch"].source != ""
    assert (cell.training.steps, cell.plugins_dir) == (30, str((bench.folder / "plugins").resolve()))


def test_a_chain_has_a_reference_for_every_member(bench: Bench) -> None:
    text = SUITE.replace("{sketch: {rank: 16}}", "[{sketch: {rank: 16}}, codes]")
    cell = bench.load(text).cells(bench.registry)[1]
    assert [(part.name, part.fields) for part in cell.strategy] == [("sketch", {"rank": 16}), ("codes", {})]


def test_a_field_of_workload_or_training_is_an_axis_of_every_arm(bench: Bench) -> None:
    text = SUITE + "  hidden: [64, 128]\n  batch_size: [8, 64]\n"
    suite = bench.load(text)
    cells = suite.cells(bench.registry)
    assert len(cells) == 2 * 2 * 2 * 2 * 2
    assert {cell.label for cell in cells} == {
        f"{arm} batch_size={batch} hidden={hidden}"
        for arm in ("none", "sketch")
        for batch in (8, 64)
        for hidden in (64, 128)
    }
    for cell in cells:
        assert cell.workload.fields.get("hidden", 64) == cell.variant["hidden"]
        assert cell.training.batch_size == cell.variant["batch_size"]
    assert [cell.arm for cell in cells[:2]] == ["none", "sketch"]
    assert cells[0].variant == cells[1].variant


def test_a_field_of_one_arm_is_an_axis_of_that_arm_alone(bench: Bench) -> None:
    suite = bench.load(SUITE + "  sketch.rank: [8, 32]\n")
    variants = [(variant.arm, variant.values, variant.strategy[0].fields) for variant in suite.variants]
    assert variants == [
        ("none", {}, {}),
        ("sketch", {"sketch.rank": 8}, {}),
        ("sketch", {"sketch.rank": 32}, {"rank": 32}),
    ]


def test_an_arm_axis_sets_the_first_member_that_has_the_field(bench: Bench) -> None:
    text = SUITE.replace("{sketch: {rank: 16}}", "[none, sketch, codes]") + "  sketch.rank: [5]\n  sketch.bits: [4]\n"
    (strategy,) = [variant.strategy for variant in bench.load(text).variants if variant.arm == "sketch"]
    assert [part.fields for part in strategy] == [{}, {"rank": 5}, {"bits": 4}]


BY_SITE = SUITE.replace("{sketch: {rank: 16}}", "{sites: {'*': {sketch: {rank: 16}}, head: [none, codes]}}")


def test_strategies_by_site_are_one_reference_that_makes_them_again(bench: Bench) -> None:
    cell = bench.load(BY_SITE).cells(bench.registry)[1]
    (reference,) = cell.strategy
    assert (cell.arm, reference.name) == ("sketch", "sites")
    assert reference.fields == {"*": {"sketch": {"rank": 16}}, "head": ["none", "codes"]}
    again = Cell.model_validate_json(cell.model_dump_json())
    assert again.key == cell.key
    made = bench.registry.compressor([{part.name: part.fields} for part in again.strategy])
    assert made.name == "by_site(sketch, none+codes)"
    assert bench.registry.reference(made)[0].source == reference.source


def test_keys_of_strategies_by_site_depend_on_their_order(bench: Bench) -> None:
    turned = BY_SITE.replace(
        "{'*': {sketch: {rank: 16}}, head: [none, codes]}", "{head: [none, codes], '*': {sketch: {rank: 16}}}"
    )
    assert turned != BY_SITE
    assert len(keys(bench, BY_SITE) & keys(bench, turned)) == 4  # those of the other arm


def test_an_axis_sets_the_first_strategy_by_site_that_has_the_field(bench: Bench) -> None:
    suite = bench.load(BY_SITE + "  sketch.rank: [5]\n  sketch.bits: [4]\n")
    ((reference,),) = [variant.strategy for variant in suite.variants if variant.arm == "sketch"]
    assert reference.fields == {"*": {"sketch": {"rank": 5}}, "head": ["none", {"codes": {"bits": 4}}]}


def test_an_axis_takes_the_place_of_the_section(bench: Bench) -> None:
    text = SUITE.replace("  name: maze", "  name: maze\n  grid: 8") + "  grid: [7, 9]\n"
    assert [variant.workload.fields for variant in bench.load(text).variants[::2]] == [{"grid": 7}, {"grid": 9}]


def test_keys_are_unique(bench: Bench) -> None:
    text = SUITE + "  hidden: [64, 128]\n  sketch.rank: [8, 16]\n"
    cells = bench.load(text).cells(bench.registry)
    assert len({cell.key for cell in cells}) == len(cells) == 2 * 2 * 2 * 3


def test_keys_do_not_depend_on_the_order_of_anything(bench: Bench) -> None:
    text = SUITE + "  hidden: [64, 128]\n  cycle: [1, 2]\n"
    other = (
        "matrix: {cycle: [2, 1], hidden: [128, 64], seed: [1, 0], depth: [4, 2]}\n"
        "arms: {sketch: {sketch: {rank: 16}}, none: none}\nworkload: {name: maze}\nname: elsewhere\n"
    )
    assert keys(bench, text) == keys(bench, other)


def test_keys_do_not_depend_on_defaults_that_are_written_out(bench: Bench) -> None:
    written = SUITE.replace("  name: maze", "  name: maze\n  grid: 11").replace("rank: 16", "rank: 16, redraw: step")
    assert keys(bench, SUITE) == keys(bench, written + "training: {steps: 1000}\ncapture: {attention: recompute}\n")


def test_keys_depend_on_what_is_not_a_default(bench: Bench) -> None:
    before = keys(bench, SUITE)
    assert before.isdisjoint(keys(bench, SUITE + "training: {steps: 999}\n"))
    assert before.isdisjoint(keys(bench, SUITE.replace("  name: maze", "  name: maze\n  grid: 7")))
    assert len(before & keys(bench, SUITE.replace("rank: 16", "rank: 17"))) == 4


def test_keys_depend_on_the_source_of_the_strategy_that_runs(tmp_path) -> None:
    bench = Bench(tmp_path)
    before = keys(bench, SUITE)
    sketch = tmp_path / "plugins" / "sketch.py"
    sketch.write_text(sketch.read_text() + "# changed\n")
    bench.registry = type(bench.registry).load(tmp_path / "plugins")
    after = keys(bench, SUITE)
    assert {key for key in before if key.startswith("none")} == {key for key in after if key.startswith("none")}
    assert {key for key in before if key.startswith("sketch")}.isdisjoint(after)


def test_keys_of_strategies_by_site_depend_on_the_source_of_each(tmp_path) -> None:
    bench = Bench(tmp_path)
    before = keys(bench, BY_SITE)
    plugin = tmp_path / "plugins" / "sketch.py"
    plugin.write_text(plugin.read_text() + "\n# changed\n")
    bench.registry = type(bench.registry).load(tmp_path / "plugins")
    after = keys(bench, BY_SITE)
    assert len(before) == len(after) == 8
    assert len(before & after) == 4


def test_a_copy_of_a_cell_has_its_own_key_and_a_known_key_makes_no_cell_another() -> None:
    cell = Cell(suite="a", arm="a", depth=4, seed=0, workload=PluginReference(name="w"), strategy=())
    assert cell == cell.model_copy()
    assert cell.key != cell.model_copy(update={"seed": 1}).key
    assert cell == cell.model_copy()
    assert cell.key == cell.model_copy(update={"suite": "b"}).key
    assert Cell.model_validate_json(cell.model_dump_json()) == cell


@pytest.mark.parametrize("folder", ["small", "questions"])
def test_published_records_are_still_those_of_their_cells(folder: str) -> None:
    files = sorted((ROOT / "results" / folder).glob("*/cells/*.json"))
    assert len(files) > 50
    for file in files:
        record, _ = json.JSONDecoder().raw_decode(file.read_text())  # its last line is a seal
        assert Cell.model_validate(record["cell"]).key == record["key"] == file.stem


def test_the_optimiser_is_part_of_a_key_unless_it_is_the_default(bench: Bench) -> None:
    plain = keys(bench, SUITE)
    assert keys(bench, SUITE + "training: {optimizer: adamw}\n") == plain
    other = keys(bench, SUITE + "training: {optimizer: adam_atan2}\n")
    assert len(other) == len(plain)
    assert not other & plain
    labels = {cell.label for cell in bench.load(SUITE + "  optimizer: [adamw, adam_atan2]\n").cells(bench.registry)}
    assert "sketch optimizer=adam_atan2" in labels
