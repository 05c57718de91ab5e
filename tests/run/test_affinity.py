"""The cores of slots and of the processes on them."""

import os
import subprocess
import sys

import pytest

from compbench.run.affinity import ASKED_CORES, children_on, own_cores, placement, usable_cores
from compbench.run.slots import Slot, plan_slots, with_cores

TELLS = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
needs_affinity = pytest.mark.skipif(own_cores() is None, reason="the system does not tell the cores of a process")


def slots(count):
    return [Slot(f"cpu {index}", 1) for index in range(count)]


@pytest.mark.parametrize(
    ("count", "cores", "shares"),
    [
        (2, [0, 1], [(0,), (1,)]),
        (2, [0, 1, 2, 3], [(0, 1), (2, 3)]),
        (2, [0, 4, 1, 5], [(0, 4), (1, 5)]),
        (3, [2, 3, 5, 7], [(2,), (3,), (5, 7)]),
        (1, [0, 1], [()]),
        (3, [0, 1], [(), (), ()]),
    ],
)
def test_slots_share_out_all_cores_or_none(count, cores, shares):
    assert [slot.cores for slot in with_cores(slots(count), cores)] == shares


def test_the_slots_of_this_machine_are_on_its_cores(monkeypatch):
    monkeypatch.setattr("compbench.run.slots.usable_cores", lambda: [0, 2, 1, 3])
    assert [(slot.cores, slot.threads) for slot in plan_slots("cpu", 2)] == [((0, 2), 2), ((1, 3), 2)]
    monkeypatch.setattr("compbench.run.slots.visible_gpus", lambda: ["0", "1"])
    assert [slot.cores for slot in plan_slots("cuda")] == [(0, 2), (1, 3)]


def test_cores_that_share_hardware_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr("compbench.run.affinity.own_cores", lambda: [0, 1, 2, 3])
    for core in range(4):
        (tmp_path / f"cpu{core}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "topology" / "core_id").write_text(f"{core % 2}\n")
    assert usable_cores(tmp_path) == [0, 2, 1, 3]
    assert usable_cores(tmp_path / "missing") == [0, 1, 2, 3]


@needs_affinity
def test_children_run_on_the_cores_that_they_are_given_and_the_parent_where_it_did():
    before = own_cores()
    with children_on(before[-1:]):
        told = subprocess.run(TELLS, capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(before[-1:])
    assert own_cores() == before


@needs_affinity
def test_what_the_system_refuses_changes_nothing(monkeypatch):
    before = own_cores()

    def refuse(process, cores):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with children_on([0]):
        assert own_cores() == before


@needs_affinity
def test_a_process_says_how_it_was_placed(monkeypatch):
    cores = own_cores()
    monkeypatch.delenv(ASKED_CORES, raising=False)
    assert placement() == ("shared", cores)
    monkeypatch.setenv(ASKED_CORES, ",".join(map(str, cores)))
    assert placement() == ("own", cores)
    monkeypatch.setenv(ASKED_CORES, "4095")
    assert placement() == ("refused", cores)


def test_a_system_that_does_not_tell_is_unknown(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert placement() == ("unknown", None)
    assert usable_cores() == [0, 1]
    with children_on([0]):
        pass
