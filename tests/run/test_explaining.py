"""Why a cell is or isn't up to date, told from its record, the nearest other one, checkpoints and claims."""

from dataclasses import replace

import pytest

from compbench.run.checkpoints import Header, write_checkpoint
from compbench.run.explaining import Explainer
from compbench.run.result import CellResult
from compbench.run.store import Store
from compbench.suite.cell import PluginReference, Training
from tests.run.fake_suites import make_cell


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path, "fake", pytest.fail)


def keep(store, cell, status="ok", **fields):
    store.save(CellResult(key=cell.key, cell=cell, status=status, **fields))


def explain(store, cell, rerun="missing", now=None, cells=None):
    (found,) = Explainer(store, cells or [cell], rerun, lambda cell: now or {}).explain([cell])
    return found


def with_source(source, **fields):
    return make_cell(**fields).model_copy(update={"strategy": (PluginReference(name="laser", source=source),)})


def test_a_cell_with_its_record_is_left_as_it_is(store):
    cell = make_cell()
    keep(store, cell)
    found = explain(store, cell)
    assert (found.state, found.action, found.runs) == ("ok", "would be left as it is", False)
    assert found.details == [f"key {cell.key}"]


def test_a_failed_record_says_why_and_whether_it_would_be_run_again(store):
    cell = make_cell()
    keep(store, cell, "crashed", reason="killed by SIGKILL (Killed)", log="logs/a.log")
    found = explain(store, cell)
    assert (found.state, found.runs) == ("crashed", False)
    assert found.details[1:] == ["killed by SIGKILL (Killed)", "log: logs/a.log"]
    again = explain(store, cell, "failed")
    assert (again.action, again.runs) == ("would be run again, as --rerun failed asks", True)
    assert not explain(store, cell, "oom").runs


def test_without_any_record_that_is_what_is_said(store):
    found = explain(store, make_cell())
    assert (found.state, found.action, found.runs) == ("missing", "would be run", True)
    assert found.details[1:] == ["no records in this folder"]
    keep(store, make_cell(depth=8))
    assert explain(store, make_cell(), cells=[make_cell(), make_cell(depth=8)]).details[1:] == [
        "no record, and none of the same arm, depth and seed"
    ]


def test_every_setting_that_has_changed_is_named_with_both_values(store):
    keep(store, make_cell())
    wanted = make_cell(training=Training(steps=500, optimizer="adam_atan2", gradient_clip=None), device="cuda")
    found = explain(store, wanted)
    assert found.details[1] == f"no record; the nearest is {make_cell().key} (ok), from which it differs:"
    assert found.details[2:] == [
        "  training.steps: 1000 -> 500",
        "  training.optimizer: adamw -> adam_atan2",
        "  training.gradient_clip: 1.0 -> None",
        "  device: cpu -> cuda",
    ]


def test_of_fields_of_a_strategy_the_default_is_called_so(store):
    before, after = (
        make_cell().model_copy(update={"strategy": (PluginReference(name="laser", fields=fields),)})
        for fields in ({"rank": 8}, {"fidelity": 0.9})
    )
    keep(store, before)
    assert explain(store, after).details[2:] == [
        "  strategy 'laser' rank: 8 -> the default",
        "  strategy 'laser' fidelity: the default -> 0.9",
    ]


def test_a_changed_source_is_told_with_the_files_that_have_changed(store):
    before = {"plugins/laser.py": "1", "plugins/_subspace.py": "2", "plugins/_gone.py": "3"}
    keep(store, with_source("a"), sources=before)
    now = {"plugins/laser.py": "1", "plugins/_subspace.py": "9"}
    found = explain(store, with_source("b"), now=now)
    assert found.details[2:] == ["  strategy 'laser' source has changed (plugins/_gone.py, plugins/_subspace.py)"]


def test_records_that_do_not_know_their_files_say_so(store):
    keep(store, with_source("a"))
    assert explain(store, with_source("b"), now={"plugins/laser.py": "1"}).details[2:] == [
        "  strategy 'laser' source has changed (in which of its files is not recorded)"
    ]


def test_the_nearest_is_the_one_with_the_fewest_differences(store):
    keep(store, make_cell(training=Training(steps=20, batch_size=8)))
    near = make_cell(training=Training(steps=20))
    keep(store, near)
    assert near.key in explain(store, make_cell()).details[1]


def test_a_renamed_arm_is_found_among_what_the_suite_has_no_more(store):
    renamed = make_cell(arm="wide").model_copy(update={"strategy": (PluginReference(name="laser"),)})
    keep(store, make_cell())
    keep(store, make_cell(depth=8))
    found = explain(store, renamed, cells=[renamed, make_cell(depth=8)])
    assert found.details[2:] == ["  arm: laser -> wide"]


def test_a_damaged_record_is_not_trusted_and_would_be_replaced(store):
    cell = make_cell()
    keep(store, cell, metrics={"solved": 0.25})
    path = store.directory / "cells" / f"{cell.key}.json"
    whole = path.read_text()
    path.write_text(whole.replace("0.25", "0.26"))
    found = explain(store, cell)
    assert (found.state, found.action, found.runs) == ("damaged", "would be run, and its record replaced", True)
    assert found.details[1] == ("its record is not trusted: its content is not what was written: the checksum is wrong")
    path.write_text(whole[:-40])
    assert "not whole JSON" in explain(store, cell).details[1]


def test_what_wrote_an_older_record_and_that_it_has_no_checksum_is_said(store):
    cell = make_cell()
    (store.directory / "cells" / f"{cell.key}.json").write_text(
        f'{{"schema_version": 2, "key": "{cell.key}", "cell": {cell.model_dump_json()}, "status": "ok"}}'
    )
    assert explain(store, cell).details[1:] == [
        "written in schema 2, and read as schema 4",
        "it has no checksum: whether it was edited can't be seen",
    ]


def test_a_checkpoint_and_another_run_are_told(store):
    cell = make_cell()
    write_checkpoint(store.checkpoint_path(cell.key), Header(cell.key, 120, 1000, "2.13.0"), memoryview(b""))
    found = explain(store, cell)
    assert found.details[-1] == "its training was saved after step 120 of 1000"
    assert found.action == "would be run, from step 120 on if that can be used"
    with store.claims() as claims:
        claims.take(cell.key)
        taken = explain(store, cell)
        assert (taken.details[-1], taken.action) == ("another run is at work on it now", "would be waited for")
    assert explain(store, cell).details == found.details


def test_a_cell_skipped_for_what_no_longer_holds_would_be_run(store):
    shallow, deep = make_cell(depth=4), make_cell(depth=8)
    keep(store, shallow)
    keep(store, deep, "skipped", reason="skipped: OOM at depth 4")
    first, second = Explainer(store, [shallow, deep], "missing", lambda cell: {}).explain([shallow, deep])
    assert (first.runs, second.runs) == (False, True)


def test_an_explanation_changes_nothing(store):
    cell = make_cell()
    before = sorted(store.directory.rglob("*"))
    found = explain(store, cell)
    assert replace(found, runs=False) != found
    assert sorted(store.directory.rglob("*")) == before
