"""Joining stores: what comes together is one table, and what may not stand in one table is refused by name."""

import errno
import json
import math
import os
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compbench.errors import SettingsError, StoreError
from compbench.report.formats import as_text
from compbench.report.outcome import read_outcome
from compbench.report.tables import results_table
from compbench.run.claims import Claims
from compbench.run.environment import Environment
from compbench.run.merging import MergeRefusedError, join, write_joined
from compbench.run.sealing import seal, unseal
from compbench.run.store import Store
from compbench.suite.cell import Measuring, PluginReference, Training
from tests.report.made_up import MACHINE, cell, outcome, result, write

OTHER = MACHINE.model_copy(update={"cpu": "Imaginary 9001"})
MACHINES = {machine.hash: machine for machine in (MACHINE, OTHER)}
ARMS = ("none", "laser")


@pytest.fixture(scope="module", autouse=True)
def quick_disk():
    """Nothing here asks what outlasts a crash of the machine, and waiting for the disk is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def seed_of(*seeds, arms=ARMS, **fields):
    return [result(arm, seed=seed, **fields) for seed in seeds for arm in arms]


def store(folder, results, missing=(), **fields):
    """A store of these records in a folder of that name."""
    made = outcome(results, missing=missing, **({"machines": MACHINES} | fields))
    directory, _ = write(folder, made)
    return directory


def render(made, layout):
    return as_text(results_table(made), layout)


def files(directory):
    """All that is in a folder: each file's path with its bytes and when it was written."""
    return {
        path.relative_to(directory): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in directory.rglob("*")
    }


def merged(tmp_path, *directories, **options):
    into = tmp_path / "merged" / "made_up"
    write_joined(join(directories, **options), into)
    return into


def refused(*directories, **options):
    with pytest.raises(MergeRefusedError) as refusal:
        join(directories, **options)
    return refusal.value.reasons


def test_seeds_of_two_machines_of_one_kind_become_the_store_of_one_run(tmp_path):
    twin = MACHINE.model_copy(update={"memory_bytes": 16_000_000_000})
    here, there = seed_of(0, 1), seed_of(2, 3, machine=twin.hash)
    a = store(tmp_path / "a", here, missing=[record.cell for record in there])
    b = store(tmp_path / "b", there, machines={twin.hash: twin}, missing=[record.cell for record in here])
    into = merged(tmp_path, a, b)
    both = read_outcome(into)
    assert list(both.keys) == [record.key for record in here + there]
    assert dict(both.results) == {record.key: record for record in here + there}
    assert set(both.machines) == {MACHINE.hash, twin.hash}
    for record, source in [(record, a) for record in here] + [(record, b) for record in there]:
        name = f"cells/{record.key}.json"
        assert (into / name).read_bytes() == (source / name).read_bytes()
    whole = read_outcome(store(tmp_path / "whole", here + there, machines=MACHINES | {twin.hash: twin}))
    assert render(both, "csv") == render(whole, "csv")
    assert "joined from 2 stores (4 + 4 cells), which ran on Imaginary 9000, 2 cores." in render(both, "github")


@settings(max_examples=12)
@given(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=3, max_size=6))
def test_however_cells_are_spread_the_joined_store_has_each_once(tmp_path_factory, owners):
    """Each seed is in one to three of the stores; stores of an edited suite plan their own seeds alone."""
    tmp_path = tmp_path_factory.mktemp("spread")
    parts = [
        store(tmp_path / str(number), records)
        for number in range(3)
        if (records := [r for seed, own in enumerate(owners) if number in own for r in seed_of(seed)])
    ]
    if len(parts) < 2:
        return
    both = read_outcome(merged(tmp_path, *parts))
    assert dict(both.results) == {record.key: record for record in seed_of(*range(len(owners)))}
    assert len(both.keys) == len(set(both.keys)) == len(both.results)
    assert sum(store.cells for store in both.merged.stores) == len(both.results)


def test_the_order_of_the_folders_changes_no_figure(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0, 1, ratio=2.0)), store(tmp_path / "b", seed_of(2, ratio=3.0))
    ab, ba = (read_outcome(merged(tmp_path / name, *order)) for name, order in (("ab", (a, b)), ("ba", (b, a))))
    assert render(ab, "csv") == render(ba, "csv")


@pytest.mark.parametrize("ending", ["joined", "refused"])
def test_the_stores_are_not_changed(tmp_path, ending):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1 if ending == "joined" else 0, saved=1))
    (a / "claims").mkdir()
    before = files(a), files(b)
    if ending == "joined":
        merged(tmp_path, a, b)
    else:
        refused(a, b)
    assert (files(a), files(b)) == before


def test_the_same_record_in_both_is_one(tmp_path):
    fields = {"loss_curve": [1.0, math.nan, math.inf]}
    a, b = store(tmp_path / "a", seed_of(0, **fields)), store(tmp_path / "b", seed_of(0, 1, **fields))
    joined = join([a, b])
    assert (joined.same, [joined.count(part) for part in joined.parts]) == (2, [2, 2])


def test_the_same_record_in_an_older_schema_is_the_same(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(0, 1))
    for path in (b / "cells").glob("*-s0-*.json"):
        content = unseal(path.read_bytes()).content
        for name in ("attempts", "resumed_from", "earlier_seconds", "sources"):
            del content[name]
        path.write_text(json.dumps(content | {"schema_version": 2}))
    assert join([a, b]).same == 2


LATE = "2026-03-01T00:00:00+00:00"
EARLY = "2026-03-01T01:00:00+02:00"  # an hour before, though it does not look so


def conflict(tmp_path):
    """Two stores that have both run laser's seed 0: first it failed, then it was ok."""
    failed = result("laser", status="failed", reason="no luck", started_at=EARLY)
    good = result("laser", started_at=LATE, metrics={"solved": 0.75})
    return store(tmp_path / "a", [result("none"), failed]), store(tmp_path / "b", [good]), failed, good


def test_two_records_of_a_cell_are_refused_with_what_became_of_each(tmp_path):
    a, b, *_ = conflict(tmp_path)
    (reason,) = refused(a, b)
    assert f"laser depth 4 seed 0 (failed in {a}, ok in {b})" in reason
    assert "--prefer" in reason


@pytest.mark.parametrize(
    ("prefer", "order", "taken"),
    [
        ("first", (0, 1), "failed"),
        ("first", (1, 0), "ok"),
        ("oldest", (0, 1), "failed"),
        ("oldest", (1, 0), "failed"),
        ("newest", (0, 1), "ok"),
        ("newest", (1, 0), "ok"),
    ],
)
def test_a_rule_takes_one_and_every_table_names_the_other(tmp_path, prefer, order, taken):
    *directories, failed, good = conflict(tmp_path)
    both = read_outcome(merged(tmp_path, *(directories[number] for number in order), prefer=prefer))
    kept, dropped = (failed, good) if taken == "failed" else (good, failed)
    assert both.results[failed.key] == kept
    (record,) = both.merged.left_out
    assert (record.key, record.kept_status, record.status, record.prefer) == (
        failed.key,
        kept.status,
        dropped.status,
        prefer,
    )
    assert (record.started_at, record.metrics, record.reason) == (
        dropped.started_at,
        dropped.metrics,
        dropped.reason,
    )
    said = "seed 0, failed (taken: one that is ok)" if taken == "ok" else "seed 0, ok, solved 0.75 (taken: one that is"
    for layout in ("github", "html", "latex_booktabs"):
        assert f"Left out by --prefer {prefer}: {said}" in render(both, layout)


def test_of_records_without_a_beginning_none_is_the_oldest(tmp_path):
    a, b = store(tmp_path / "a", [result(started_at="")]), store(tmp_path / "b", [result(started_at=LATE)])
    (reason,) = refused(a, b, prefer="oldest")
    assert "don't say when they began (allowed: --prefer first): laser depth 4 seed 0" in reason
    assert read_outcome(merged(tmp_path, a, b, prefer="first")).results


def test_what_was_left_out_is_still_said_after_another_merge(tmp_path):
    a, b, *_ = conflict(tmp_path)
    ab = merged(tmp_path / "ab", a, b, prefer="newest", without_times=True)
    all_three = read_outcome(merged(tmp_path / "abc", ab, store(tmp_path / "c", seed_of(1))))
    assert [record.status for record in all_three.merged.left_out] == ["failed"]
    assert all_three.merged.times == "left out"
    assert [store.cells for store in all_three.merged.stores] == [2, 2]


def with_source(name, source, seed, **fields):
    plugin = PluginReference(name=name, source=source, fields=fields.pop("settings", {}))
    files = {f"compbench_plugins/{name}.py": source, "compbench_plugins/low_rank.py": "same"}
    made = cell(name, seed=seed, **fields).model_copy(update={"strategy": (plugin,)})
    return result(name, seed=seed, sources=files).model_copy(update={"cell": made, "key": made.key})


def test_two_sources_of_a_strategy_are_refused_with_the_file(tmp_path):
    a = store(tmp_path / "a", [with_source("laser", "old", 0), with_source("laser", "old", 1)])
    b = store(tmp_path / "b", [with_source("laser", "new", 2), *seed_of(2, arms=["none"])])
    (reason,) = refused(a, b)
    said = "strategy 'laser' source has changed (compbench_plugins/laser.py): laser-d4-s2-"
    assert f"arm 'laser' has changed from {a} to {b}: {said}" in reason
    assert "none" not in reason


def test_other_settings_under_the_name_of_an_arm_are_refused(tmp_path):
    a = store(tmp_path / "a", [with_source("laser", "same", 0, settings={"rank": 8})])
    b = store(tmp_path / "b", [with_source("laser", "same", 1, settings={"rank": 16})])
    (reason,) = refused(a, b)
    assert "strategy 'laser' rank: 8 -> 16" in reason


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"training": Training(steps=21)}, "training.steps: 20 -> 21"),
        ({"workload": PluginReference(name="trm_maze", fields={"hidden": 32})}, "workload 'trm_maze' hidden: 64 -> 32"),
        ({"workload": PluginReference(name="trm_maze", fields={"hidden": 64}, source="x")}, "source has changed"),
        ({"device": "cuda"}, "device: cpu -> cuda"),
    ],
)
def test_what_all_arms_have_in_common_may_not_change_even_between_arms(tmp_path, fields, said):
    """`none` of one store is the reference of `laser` of the other."""
    a, b = store(tmp_path / "a", [result("none", seed=0)]), store(tmp_path / "b", [result("laser", seed=1, **fields)])
    (reason,) = refused(a, b, without_times=True)
    assert reason.startswith(f"what all arms have in common has changed from {a} to {b}: ")
    assert said in reason
    assert "arm:" not in reason


def test_an_axis_of_all_arms_may_differ_and_one_of_an_arm(tmp_path):
    def wide(hidden, arm, seed, **variant):
        workload = PluginReference(name="trm_maze", fields={"hidden": hidden})
        return result(arm, seed=seed, workload=workload, variant={"hidden": hidden, **variant})

    a = store(tmp_path / "a", [wide(32, "none", 0), wide(64, "none", 0), wide(32, "laser", 0, **{"laser.rank": 8})])
    b = store(tmp_path / "b", [wide(32, "none", 1), wide(64, "laser", 1, **{"laser.rank": 16})])
    assert len(join([a, b]).taken) == 5


def test_cells_that_were_planned_as_other_work_are_refused_before_anybody_has_run_them(tmp_path):
    a = store(tmp_path / "a", [result("none", seed=0)], missing=[with_source("gale", "old", 0)])
    b = store(tmp_path / "b", [result("none", seed=1)], missing=[with_source("gale", "new", 0)])
    (reason,) = refused(a, b)
    assert "other work in one than in another" in reason
    assert "gale-d4-s0" in reason


UNLIKE = [
    ({"cpu": "Imaginary 9001"}, "CPU Imaginary 9000 in {a} and Imaginary 9001 in {b}"),
    ({"cores": 64}, "cores 2 in {a} and 64 in {b}"),
    ({"os": "Other 2"}, "system Linux in {a} and Other 2 in {b}"),
    ({"glibc": "2.41"}, "glibc 2.36 in {a} and 2.41 in {b}"),
    ({"python": "CPython 3.13.1"}, "Python CPython 3.11.7 in {a} and CPython 3.13.1 in {b}"),
    ({"torch": "2.14.0"}, "torch 2.13.0 in {a} and 2.14.0 in {b}"),
    ({"compbench": "0.2.0"}, "compbench 0.1.0 in {a} and 0.2.0 in {b}"),
]


@pytest.mark.parametrize(("change", "said"), UNLIKE, ids=lambda value: next(iter(value), "") if value else "")
def test_times_of_unlike_machines_are_refused_or_left_out(tmp_path, change, said):
    unlike = MACHINE.model_copy(update=change)
    machines = {unlike.hash: unlike}
    a = store(tmp_path / "a", seed_of(0))
    b = store(tmp_path / "b", seed_of(1, machine=unlike.hash), machines=machines)
    (reason,) = refused(a, b)
    assert "times of unlike machines" in reason
    assert reason.endswith(f": {said.format(a=a, b=b)}")

    into = merged(tmp_path, a, b, without_times=True)
    both = read_outcome(into)
    assert [cell.result.time for cell in both.cells] == [None] * 4
    assert "times are left out" in render(both, "github")
    for key in both.keys:
        assert Store(into).result(key).time.ratio == 1.5


@pytest.mark.parametrize("change", [{"commit": "abc"}, {"memory_bytes": 1}, {"cuda_devices": ["Imaginary GPU"]}])
def test_what_does_not_bear_on_times_of_a_cpu_is_no_reason(tmp_path, change):
    other = MACHINE.model_copy(update=change)
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1, machine=other.hash))
    Store(b).save_machine(other)
    remarks = join([a, b]).remarks
    assert [remark for remark in remarks if "2 commits" in remark] == (list(remarks) if "commit" in change else [])


def test_gpus_bear_on_times_of_cells_that_ran_on_them(tmp_path):
    gpus = [
        MACHINE.model_copy(update={"cuda_devices": [name] * count}) for name, count in (("A", 1), ("A", 8), ("B", 1))
    ]
    machines = {gpu.hash: gpu for gpu in gpus}
    parts = [
        store(tmp_path / str(seed), seed_of(seed, machine=gpu.hash, device="cuda"), machines=machines)
        for seed, gpu in enumerate(gpus)
    ]
    assert join(parts[:2])
    (reason,) = refused(*parts)
    assert reason.endswith(f"GPU A in {parts[0]}, {parts[1]} and B in {parts[2]}")


@pytest.mark.parametrize(("name", "value"), [("threads", 4), ("allocator", "jemalloc")])
def test_what_the_process_ran_under_bears_on_times(tmp_path, name, value):
    (ours,), (other,) = seed_of(0, arms=["laser"]), seed_of(1, arms=["laser"])
    other = other.model_copy(update={"time": other.time.model_copy(update={name: value})})
    (reason,) = refused(store(tmp_path / "a", [ours]), store(tmp_path / "b", [other]))
    assert f" and {value} in " in reason


def test_a_library_that_was_preloaded_bears_on_times(tmp_path):
    settings = {"allocator": "reuse", "c_library": "glibc 2.36", "threads": 1, "placement": "own"}
    plain, with_another = (Environment(**settings, preloaded=names) for names in ([], ["libjemalloc.so.2"]))
    a, b = (
        store(tmp_path / "a", seed_of(0, environment=plain)),
        store(tmp_path / "b", seed_of(1, environment=with_another)),
    )
    (reason,) = refused(a, b)
    assert f"preloaded libraries none in {a} and libjemalloc.so.2 in {b}" in reason


def test_another_allocator_that_was_asked_for_is_another_cell(tmp_path):
    def timed(allocator, seed):
        record = result(seed=seed, measuring=Measuring(allocator=allocator), variant={"allocator": allocator})
        return record.model_copy(update={"time": record.time.model_copy(update={"allocator": f"as {allocator}"})})

    a = store(tmp_path / "a", [timed("reuse", 0), timed("default", 0)])
    assert join([a, store(tmp_path / "b", [timed("reuse", 1), timed("default", 1)])])


def test_machines_do_not_matter_where_nothing_was_timed(tmp_path):
    a = store(tmp_path / "a", seed_of(0, time=None))
    b = store(tmp_path / "b", seed_of(1, time=None, machine=OTHER.hash))
    assert read_outcome(merged(tmp_path, a, b)).merged.times == "shown"


def test_a_machine_that_is_not_described_is_like_no_other(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1, machine="gone"))
    (reason,) = refused(a, b)
    assert f"machine not described (gone) in {b}" in reason
    c = store(tmp_path / "c", seed_of(2, machine="gone"))
    assert join([b, c])


def test_arms_of_one_seed_on_unlike_machines_are_refused_without_times_too(tmp_path):
    a = store(tmp_path / "a", seed_of(0, arms=["none"]))
    b = store(tmp_path / "b", seed_of(0, arms=["laser"], machine=OTHER.hash))
    (reason,) = refused(a, b, without_times=True)
    assert reason.startswith("arms of one seed ran on unlike machines")
    assert f"(CPU Imaginary 9000 in {a} and Imaginary 9001 in {b})" in reason
    assert f"depth 4 seed 0 (none in {a}; laser in {b})" in reason


def test_an_arm_with_an_axis_of_its_own_is_paired_with_the_others(tmp_path):
    a = store(tmp_path / "a", seed_of(0, arms=["none"]))
    ranks = [result("laser", machine=OTHER.hash, variant={"laser.rank": rank}) for rank in (8, 16)]
    (reason,) = refused(a, store(tmp_path / "b", ranks), without_times=True)
    assert (
        f"depth 4 seed 0 (none in {a}; laser laser.rank=8, laser laser.rank=16 in {tmp_path / 'b' / 'made_up'})"
        in reason
    )


def test_arms_of_one_seed_may_come_from_machines_of_one_kind(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0, arms=["none"])), store(tmp_path / "b", seed_of(0, arms=["laser"]))
    assert len(join([a, b]).taken) == 2


@pytest.mark.parametrize("name", ["weights_hash", "order_hash"])
def test_arms_of_one_seed_that_did_not_begin_alike_are_refused(tmp_path, name):
    a = store(tmp_path / "a", seed_of(0, arms=["none"]))
    b = store(tmp_path / "b", seed_of(0, arms=["laser"], **{name: "another"}))
    (reason,) = refused(a, b)
    assert reason.startswith("arms of one seed began with other weights, or saw other examples: depth 4 seed 0")


def test_what_ran_with_other_threads_is_no_pair(tmp_path):
    def environment(threads):
        return Environment(allocator="reuse", c_library="glibc 2.36", threads=threads, placement="own")

    a = store(tmp_path / "a", seed_of(0, arms=["none"], time=None, environment=environment(1)))
    b = store(tmp_path / "b", seed_of(0, arms=["laser"], time=None, environment=environment(2)))
    (reason,) = refused(a, b)
    assert f"threads 1 in {a} and 2 in {b}" in reason


def test_a_failure_is_no_reason_and_is_taken(tmp_path):
    """It has no hashes, no times, and perhaps no machine that is described."""
    a = store(tmp_path / "a", seed_of(0))
    failed = [
        result("int8", seed=seed, status="oom", machine="gone", weights_hash="", order_hash="") for seed in (0, 1)
    ]
    b = store(tmp_path / "b", failed)
    both = read_outcome(merged(tmp_path, a, b))
    assert [cell.status for cell in both.cells] == ["ok", "ok", "oom", "oom"]


def test_a_store_of_failures_alone_is_joined(tmp_path):
    a, b = (store(tmp_path / name, [result(seed=seed, status="failed")]) for seed, name in enumerate("ab"))
    assert [cell.status for cell in read_outcome(merged(tmp_path, a, b)).cells] == ["failed", "failed"]


def test_all_reasons_are_told_at_once(tmp_path):
    a = store(tmp_path / "a", [with_source("laser", "old", 0), result("none", seed=3)])
    b = store(tmp_path / "b", [with_source("laser", "new", 1), result("none", seed=3, machine=OTHER.hash)])
    reasons = refused(a, b)
    assert [re.split(r"[ ,]", reason)[0] for reason in reasons] == ["arm", "several"]
    with pytest.raises(StoreError, match=r"can't join .*a/made_up, .*b/made_up:\n  - arm 'laser' has .*\n  - several"):
        join([a, b])


def test_very_many_cells_are_not_all_named(tmp_path):
    a, b = store(tmp_path / "a", seed_of(*range(9))), store(tmp_path / "b", seed_of(*range(9), saved=1))
    (reason,) = refused(a, b)
    assert reason.endswith(" and 13 more")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "other"}, "they are of several suites: 'made_up' in {a} and 'other' in {b}"),
        ({"margins": {"solved": 0.1}}, "their suites differ in margins: solved 0.05 in {a} and solved 0.1 in {b}"),
    ],
)
def test_folders_of_several_suites_are_refused(tmp_path, fields, said):
    a = store(tmp_path / "a", seed_of(0), margins={"solved": 0.05})
    b = store(tmp_path / "b", seed_of(1), **({"margins": {"solved": 0.05}} | fields))
    assert refused(a, b) == (said.format(a=a, b=b),)


def test_commands_are_listed_each_once_and_cells_in_order(tmp_path):
    a = store(tmp_path / "a", seed_of(0), command="compbench run made_up --only seed=0\ncompbench run made_up")
    b = store(tmp_path / "b", seed_of(1), command="compbench run made_up\ncompbench run made_up --only seed=1")
    both = read_outcome(merged(tmp_path, a, b))
    assert both.command.splitlines() == [
        "compbench run made_up --only seed=0",
        "compbench run made_up",
        "compbench run made_up --only seed=1",
    ]


def test_the_file_of_the_suite_is_kept_where_it_is_one(tmp_path):
    a, b, c = (store(tmp_path / name, seed_of(seed)) for seed, name in enumerate("abc"))
    for directory, text in ((a, "name: made_up\n"), (b, "name: made_up\n")):
        Store(directory).save_suite_text(text)
    assert Store(merged(tmp_path / "abc", a, b, c)).suite_text() == "name: made_up\n"
    Store(c).save_suite_text("name: made_up # edited\n")
    joined = join([a, b, c])
    assert joined.text is None
    assert [remark for remark in joined.remarks if "files of the suite differ" in remark]


def damage(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "edited":
        path.write_text(path.read_text().replace('"solved": 0.5', '"solved": 0.9'))
    elif how == "of another cell":
        content = unseal(path.read_bytes()).content
        path.write_bytes(seal(content | {"key": "another"}, "compbench 0.1.0"))
    else:
        path.write_text("")


@pytest.mark.parametrize("how", ["truncated", "edited", "of another cell", "empty"])
def test_a_record_that_is_not_trusted_is_named_and_not_taken(tmp_path, how):
    records = seed_of(0)
    a, b = store(tmp_path / "a", records), store(tmp_path / "b", seed_of(1))
    path = a / "cells" / f"{records[0].key}.json"
    damage(path, how)
    joined = join([a, b])
    assert [remark for remark in joined.remarks if remark.startswith(f"{path}: not trusted, and not taken: ")]
    both = read_outcome(merged(tmp_path, a, b))
    assert [cell.status for cell in both.cells] == ["missing", "ok", "ok", "ok"]
    assert not (tmp_path / "merged" / "made_up" / "cells" / path.name).exists()
    # A whole one in another store is taken, and the damaged one is still named.
    c = store(tmp_path / "c", records)
    assert records[0].key in join([a, c]).taken
    assert any(str(path) in remark for remark in join([a, c]).remarks)


def test_a_record_of_a_newer_compbench_is_an_error(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1))
    path = next((b / "cells").iterdir())
    path.write_bytes(seal(unseal(path.read_bytes()).content | {"schema_version": 99}, "compbench 9.0"))
    with pytest.raises(StoreError, match=r"needs compbench 9\.0 or newer"):
        join([a, b])


def test_records_of_cells_that_the_suite_has_no_more_stay_where_they_are(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1))
    left = Store(b).save(result("int8", seed=7))
    joined = join([a, b])
    assert left.key not in joined.taken
    assert any(remark.endswith(f"of no cell of its suite: {left.key}") for remark in joined.remarks)


def test_a_store_in_which_a_run_is_at_work_is_read_as_it_is(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0), missing=[cell(seed=5)]), store(tmp_path / "b", seed_of(1))
    claims = Claims(a / "claims", pytest.fail)
    try:
        assert claims.take(cell(seed=5).key)
        remarks = join([a, b]).remarks
        assert claims.has(cell(seed=5).key)
    finally:
        claims.close()
    assert [r for r in remarks if r.startswith(f"{a}: a run is at work on {cell(seed=5).key};")]
    assert not any("at work" in remark for remark in join([a, b]).remarks)


def test_a_record_that_changes_in_the_meantime_ends_it(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1))
    joined = join([a, b])
    Store(b).save(result("laser", seed=1, saved=7))
    with pytest.raises(StoreError, match=r"the record of laser-d4-s1-\w+ has changed while it was joined; join again"):
        write_joined(joined, tmp_path / "into" / "made_up")
    assert not (tmp_path / "into").exists()


def test_logs_come_along_and_links_do_not(tmp_path):
    (tmp_path / "secret").write_text("key")
    records = seed_of(0)
    a, b = store(tmp_path / "a", records), store(tmp_path / "b", seed_of(1))
    (a / "logs" / f"{records[0].key}.log").write_text("said")
    (a / "logs" / f"{records[1].key}.log").symlink_to(tmp_path / "secret")
    into = merged(tmp_path, a, b)
    assert [(path.name, path.read_text()) for path in (into / "logs").iterdir()] == [(f"{records[0].key}.log", "said")]


def test_fewer_than_two_folders_or_one_twice_is_an_error(tmp_path):
    a = store(tmp_path / "a", seed_of(0))
    (tmp_path / "link").symlink_to(a)
    for directories in ([a], []):
        with pytest.raises(SettingsError, match=r"\(allowed: two or more\)"):
            join(directories)
    for again in (a, a / "." / ".." / "made_up", tmp_path / "link"):
        with pytest.raises(SettingsError, match=r"are the same folder \(allowed: each folder once\)"):
            join([a, again])


def test_a_copy_of_a_folder_adds_nothing(tmp_path):
    a = store(tmp_path / "a", seed_of(0, 1))
    shutil.copytree(a, tmp_path / "copy")
    joined = join([a, tmp_path / "copy"])
    assert [joined.count(part) for part in joined.parts] == [4, 0]


def test_a_folder_that_is_none_of_a_suite_is_an_error(tmp_path):
    a = store(tmp_path / "a", seed_of(0))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for wrong, said in (
        ("empty", "no usable suite.json"),
        ("none", "does not exist"),
        ("file", "no usable suite.json"),
    ):
        with pytest.raises(StoreError, match=said):
            join([a, tmp_path / wrong])
    with pytest.raises(StoreError, match=r"results of several suites: name one of its folders \(made_up\)"):
        join([a, tmp_path / "a"])


def test_a_store_without_a_record_is_an_error(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", [], missing=[cell(seed=1)])
    with pytest.raises(StoreError, match="has no record of any of the 1 cells of suite 'made_up'"):
        join([a, b])
    damage(next((a / "cells").iterdir()), "empty")
    damage(next((a / "cells").glob("none*")), "empty")
    damage(next((a / "cells").glob("laser*")), "empty")
    with pytest.raises(StoreError, match=r"no record that can be trusted \(2 can't\) of any of the 2 cells"):
        join([a, store(tmp_path / "c", seed_of(1))])


def test_a_place_that_is_taken_or_within_a_source_is_an_error(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    joined = join([a, b])
    for into, said in (
        (a, "is in .*, which is to be joined"),
        (b / "deep" / "down", "is in .*, which is to be joined"),
        (tmp_path / "full", "is not empty"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(SettingsError, match=said):
            write_joined(joined, into)
    assert (tmp_path / "full" / "notes").read_text() == "mine"
    assert not (b / "deep").exists()


def test_an_empty_place_is_filled(tmp_path):
    a, b = store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1))
    (tmp_path / "merged" / "made_up").mkdir(parents=True)
    assert len(read_outcome(merged(tmp_path, a, b)).results) == 4
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["made_up"]


@pytest.mark.parametrize("written", range(7))
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_on_a_full_disk_or_an_interrupt_nothing_is_left(tmp_path, monkeypatch, written, error):
    joined = join([store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1))])
    written_so_far = iter(range(100))
    real = type(tmp_path).replace

    def full(path, target):
        if next(written_so_far) >= written:
            raise error
        return real(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((StoreError, KeyboardInterrupt), match="No space left" if isinstance(error, OSError) else None):
        write_joined(joined, tmp_path / "into" / "made_up")
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    joined = join([store(tmp_path / "a", seed_of(0)), store(tmp_path / "b", seed_of(1))])
    if os.geteuid() == 0:  # Permissions don't bind root: a file system that can't be written to stands in for them.
        place = "/proc/sys"
    else:
        place = tmp_path / "closed"
        place.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="can't write"):
        write_joined(joined, type(tmp_path)(place) / "made_up")


def test_a_note_of_what_was_left_out_that_is_damaged_is_an_error(tmp_path):
    """Without it a table would hide what was left out."""
    a, b, *_ = conflict(tmp_path)
    into = merged(tmp_path, a, b, prefer="newest")
    path = into / "merged.json"
    path.write_text(path.read_text().replace('"failed"', '"ok"'))
    with pytest.raises(StoreError, match=r"says what was left out when these stores were joined: .*checksum is wrong"):
        read_outcome(into)
