"""Results on disk: whole or not there, read with suspicion, and telling nothing of the machine's owner."""

import getpass
import json
import math
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compbench.errors import StoreError
from compbench.measure.results import Fidelity
from compbench.run.machine import describe_machine
from compbench.run.result import SCHEMA_VERSION, CellResult
from compbench.run.store import Store, SuiteRecord, write_atomically
from compbench.suite.cell import Measuring
from tests.run.fake_suites import make_cell


def make_result(seed=0, **fields) -> CellResult:
    cell = make_cell(seed=seed, plugins_dir=fields.pop("plugins_dir", None))
    return CellResult(key=cell.key, cell=cell, **({"status": "ok"} | fields))


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def store(tmp_path, warnings):
    return Store.create(tmp_path, "fake", warnings.append)


def path_of(store, result):
    return store.directory / "cells" / f"{result.key}.json"


def test_a_saved_record_is_read_back_as_it_was(store):
    result = make_result(loss_curve=[1.0, 0.5], metrics={"solved": 0.25}, log_tail=["å", "\x1b[1m"])
    store.save(result)
    assert store.result(result.key) == result


VERSION_1 = {
    "schema_version": 1,
    "key": "laser-d4-s0-10d2bd8d5d9b",
    "cell": {
        "suite": "small",
        "arm": "laser",
        "depth": 4,
        "seed": 0,
        "workload": {"name": "maze", "fields": {"hidden": 64}, "source": "a" * 64},
        "strategy": [{"name": "laser", "fields": {"rank": 8}, "source": "b" * 64}],
        "variant": {},
        "training": {"steps": 20},
        "measuring": {"memory": True, "time_pairs": 3, "gradient_cosine": True},
        "capture": {"attention": "recompute", "minimum_elements": 1024, "sites": []},
        "device": "cpu",
        "plugins_dir": None,
    },
    "status": "ok",
    "time": {
        "ratio": 1.5,
        "ratio_quartiles": [1.4, 1.6],
        "pairs": 3,
        "step_seconds": 0.3,
        "uncompressed_step_seconds": 0.2,
        "threads": 1,
        "allocator": "glibc.malloc.mmap_threshold=8000000000",
    },
}
"""A record as the first version wrote it: what came later is not in it, nor in what its key was made of."""


def test_a_record_of_the_first_version_keeps_its_key_and_what_it_does_not_know_is_unknown(store, warnings):
    key = VERSION_1["key"]
    (store.directory / "cells" / f"{key}.json").write_text(json.dumps(VERSION_1))
    result = store.result(key)
    assert warnings == []
    assert result.cell.key == key
    assert (result.schema_version, result.time.ratio) == (SCHEMA_VERSION, 1.5)
    assert (store.inspect(key).schema_version, store.inspect(key).sealed) == (1, False)
    assert (result.environment, result.arithmetic, result.time.phases) == (None, None, {})
    assert (result.time.page_faults, result.time.uncompressed_page_faults) == (None, None)
    assert store.save(result) == result
    assert (store.inspect(key).schema_version, store.inspect(key).sealed) == (SCHEMA_VERSION, True)


def test_the_allocator_is_part_of_a_key_only_where_it_is_not_the_usual_one():
    keys = {make_cell(measuring=Measuring(allocator=choice)).key for choice in ("reuse", "default")}
    assert len(keys) == 2
    assert make_cell().key in keys


def test_numbers_that_are_none_survive(store):
    fidelity = Fidelity(gradient_cosine_start=1.0, gradient_cosine=math.nan, smallest_parameter_cosine=-math.inf)
    result = make_result(status="diverged", loss_curve=[1.0, math.inf, math.nan], fidelity=fidelity)
    store.save(result)
    read = store.result(result.key)
    assert read.loss_curve[:2] == [1.0, math.inf]
    assert math.isnan(read.loss_curve[2])
    assert math.isnan(read.fidelity.gradient_cosine)
    assert read.fidelity.smallest_parameter_cosine == -math.inf
    json.loads(path_of(store, result).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_results_come_in_the_order_of_the_keys_without_the_missing_ones(store):
    first, second, missing = (make_result(seed) for seed in range(3))
    for result in (first, second):
        store.save(result)
    assert list(store.results([second.key, missing.key, first.key])) == [second.key, first.key]


@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_record_is_missing_and_reported_in_one_line(tmp_path_factory, cut):
    warnings = []
    store = Store.create(tmp_path_factory.mktemp("results"), "fake", warnings.append)
    result = make_result(metrics={"solved": 0.25})
    store.save(result)
    text = path_of(store, result).read_text().rstrip()
    path_of(store, result).write_text(text[: int(cut * len(text))])
    assert store.result(result.key) is None
    assert len(warnings) == 1
    assert str(path_of(store, result)) in warnings[0]
    assert "\n" not in warnings[0]


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record | {"status": "fine"},
        lambda record: record | {"seconds": "soon"},
        lambda record: record | {"bonus": 1},
        lambda record: {name: value for name, value in record.items() if name != "cell"},
        lambda record: record | {"cell": record["cell"] | {"seed": 7}},
        lambda record: record | {"key": "other-d4-s0-000000000000"},
        lambda record: [record],
        lambda record: None,
    ],
)
def test_an_edited_record_is_missing_and_reported(store, warnings, edit):
    result = make_result()
    store.save(result)
    path = path_of(store, result)
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    assert store.result(result.key) is None
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"solved": 0.25', '"solved": 0.26'),
        ("[1.0, 0.5]", "[1.0, 0.4]"),
        ('"status": "ok"', '"status": "oom"'),
        ('"reason": ""', '"reason": " "'),
        ('"seed": 0', '"seed": 0 '),
    ],
)
def test_an_edit_after_which_a_record_is_still_valid_is_found(store, warnings, old, new):
    result = make_result(metrics={"solved": 0.25}, loss_curve=[1.0, 0.5])
    store.save(result)
    path = path_of(store, result)
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    assert store.result(result.key) is None
    assert len(warnings) == 1
    assert "its content is not what was written: the checksum is wrong" in warnings[0]
    path.write_text(text)
    assert store.result(result.key) == result


def test_a_checksum_can_be_neither_changed_nor_left_out(store, warnings):
    result = make_result()
    store.save(result)
    path = path_of(store, result)
    content = json.loads(path.read_text())
    path.write_text(path.read_text().replace(content["checksum"], "0" * 64))
    assert store.result(result.key) is None
    del content["checksum"]
    path.write_text(json.dumps(content))
    assert store.result(result.key) is None
    assert [warning.rpartition(" ")[2] for warning in warnings] == ["wrong", "missing"]


def test_other_ends_of_lines_are_no_edit(store):
    result = make_result(log_tail=["a\r\nb"])
    store.save(result)
    path = path_of(store, result)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert store.result(result.key) == result


def test_an_edited_suite_record_is_missing_and_reported(store, warnings):
    store.save_suite(SuiteRecord(name="fake", keys=["a", "b"]))
    path = store.directory / "suite.json"
    path.write_text(path.read_text().replace('["a", "b"]', '["a"]'))
    assert store.suite() is None
    assert len(warnings) == 1


def test_a_suite_record_of_the_first_version_is_read(store):
    (store.directory / "suite.json").write_text('{"schema_version": 1, "name": "fake", "keys": ["a"], "command": "c"}')
    assert store.suite() == SuiteRecord(name="fake", keys=["a"], command="c")
    assert store.suite().lower_is_better == []


def test_published_records_are_readable_one_by_one():
    results = Path(__file__).parents[2] / "results"
    for cells in results.glob("**/cells"):
        store = Store(cells.parent, pytest.fail)
        assert store.suite() is not None
        assert len(store.results(store.keys())) == len(list(cells.iterdir())) > 0


def test_the_file_of_a_suite_is_kept_as_it_is_or_missing(store, warnings):
    assert store.suite_text() is None
    store.save_suite_text("name: fake # å\r\n")
    assert store.suite_text() == "name: fake # å\r\n"
    (store.directory / "suite.yaml").write_bytes(b"\xff")
    assert store.suite_text() is None
    assert "treated as missing: not UTF-8 text" in warnings[0]


def test_a_folder_that_is_there_is_opened_and_no_other(store, tmp_path):
    record = SuiteRecord(name="fake", keys=["a"])
    store.save_suite(record)
    opened, suite = Store.open(store.directory)
    assert (opened.directory, suite) == (store.directory, record)
    with pytest.raises(StoreError, match=r"does not exist; did you mean 'fake'\? \(beside it: fake\)"):
        Store.open(tmp_path / "fakes")
    assert not (tmp_path / "fakes").exists()
    with pytest.raises(StoreError, match=r"results of several suites: name one of its folders \(fake\)"):
        Store.open(tmp_path)


def test_who_is_at_work_is_seen_without_a_trace(store):
    held, free, left = (make_result(seed).key for seed in range(3))
    with store.claims() as claims:
        assert claims.take(held)
        (store.directory / "claims" / left).touch()  # of a run that was killed
        before = sorted(path.name for path in (store.directory / "claims").iterdir())
        assert store.at_work([held, free, left, "../escape"]) == [held]
        assert sorted(path.name for path in (store.directory / "claims").iterdir()) == before
    (store.directory / "claims" / left).unlink()
    assert store.at_work([held]) == []


def test_records_of_cells_that_the_suite_has_no_more_are_named(store):
    kept, gone = make_result(0), make_result(1)
    store.save(kept)
    store.save(gone)
    lost = store.checkpoint_path("lost-d4-s0-000000000000")
    lost.parent.mkdir()
    lost.write_bytes(b"")
    assert store.leftovers([kept.key]) == sorted([gone.key, lost.stem])
    assert store.leftovers([kept.key, gone.key, lost.stem]) == []


@pytest.mark.parametrize(
    ("status", "stays"), [("ok", False), ("diverged", False), ("crashed", True), ("timeout", True)]
)
def test_a_checkpoint_goes_when_there_is_nothing_left_to_train(store, status, stays):
    result = make_result(status=status)
    path = store.checkpoint_path(result.key)
    path.parent.mkdir()
    path.write_bytes(b"half a training")
    store.save(result)
    assert path.exists() == path.parent.exists() == stays


def test_what_killed_writers_left_behind_is_removed_when_it_is_nobodys_any_more(store, tmp_path):
    old, young = (store.directory / "cells" / f".{name}.json.0a1b2c3d.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.write_text("{")
    os.utime(old, (0, 0))
    Store.create(tmp_path, "fake")
    assert (old.exists(), young.exists()) == (False, True)
    assert store.keys() == []


def test_bytes_that_are_not_text_are_missing_and_reported(store, warnings):
    result = make_result()
    path_of(store, result).write_bytes(b"\xff\xfe\x00")
    assert store.result(result.key) is None
    assert len(warnings) == 1


def test_another_cells_record_under_this_name_is_not_trusted(store, warnings):
    result, other = make_result(0), make_result(1)
    store.save(other)
    path_of(store, other).rename(path_of(store, result))
    assert store.result(result.key) is None
    assert len(warnings) == 1


def test_a_newer_schema_is_an_error_that_says_what_to_do(store):
    result = make_result()
    store.save(result.model_copy(update={"schema_version": SCHEMA_VERSION + 1}))
    path = path_of(store, result)
    before = path.read_text().replace('"written_by": "compbench 0.1.0"', '"written_by": "compbench 9.1.0"')
    path.write_text(before)
    with pytest.raises(StoreError, match=r"needs compbench 9\.1\.0 or newer: it has schema 5, and .* reads up to 4"):
        store.result(result.key)
    path.write_text('{"schema_version": 5}')
    with pytest.raises(StoreError, match=r"needs a newer compbench: it has schema 5"):
        store.results([result.key])


def test_the_folder_of_the_users_plugins_is_not_published(store):
    result = make_result(plugins_dir="/home/somebody/plugins")
    kept = store.save(result)
    assert kept.cell.plugins_dir is None
    assert "somebody" not in path_of(store, result).read_text()
    assert store.result(result.key) == kept


def test_each_field_is_one_line(store):
    result = make_result(loss_curve=[0.5] * 1000)
    store.save(result)
    assert len(path_of(store, result).read_text().splitlines()) == len(CellResult.model_fields) + 4


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(StoreError, match="can't write to results folder"):
        Store.create(tmp_path / "results", "fake")


def test_a_folder_that_cant_be_written_is_an_error(tmp_path, monkeypatch):
    if os.geteuid() == 0:  # Permissions don't bind root: a file system that can't be written to stands in for them.
        with pytest.raises(StoreError, match="can't write"):
            Store.create(Path("/proc/sys"), "fake")
        return
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="can't write"):
        Store.create(tmp_path, "fake")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../elsewhere"])
def test_a_suite_name_that_leads_elsewhere_is_an_error(tmp_path, name):
    with pytest.raises(StoreError, match="can't be the name"):
        Store.create(tmp_path, name)


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, "before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_record(tmp_path):
    path = tmp_path / "record.json"
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from compbench.run.files import write_atomically
        print("writing", flush=True)
        while True:
            for letter in "ab":
                write_atomically(Path(sys.argv[1]), letter * 300_000)
    """)
    writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    try:
        writer.stdout.readline()
        while not path.exists():
            assert writer.poll() is None
        seen = {path.read_text() for _ in range(300)}
    finally:
        writer.kill()
        writer.wait()
    assert seen <= {"a" * 300_000, "b" * 300_000}


def test_the_suites_record_is_read_back(store):
    assert store.suite() is None
    record = SuiteRecord(
        name="fake",
        margins={"solved": 0.02},
        lower_is_better=["perplexity"],
        keys=["a", "b"],
        command="compbench run fake",
    )
    store.save_suite(record)
    assert store.suite() == record


def test_a_machine_is_stored_once_under_its_hash(store, warnings):
    machine = describe_machine()
    digest = store.save_machine(machine)
    assert store.save_machine(machine) == digest
    assert [path.name for path in (store.directory / "machines").iterdir()] == [f"{digest}.json"]
    assert store.machine(digest) == machine
    path = store.directory / "machines" / f"{digest}.json"
    path.write_text(path.read_text().replace(f'"cores": {machine.cores}', '"cores": 1000'))
    assert store.machine(digest) is None
    assert len(warnings) == 1


def test_a_machines_description_names_no_host_user_or_folder(store):
    text = describe_machine().model_dump_json()
    for folder in (Path.home(), Path.cwd(), sys.prefix):
        assert str(folder) not in text
    assert platform.node() not in text.replace(platform.system(), "")
    assert getpass.getuser() not in text
