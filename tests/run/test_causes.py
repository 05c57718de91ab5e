"""Failures that have one cause are one."""

import pytest

from compbench.run.causes import by_cause, normalised
from compbench.run.result import CellResult
from tests.run.fake_suites import make_cell


def ended(seed, status, reason, log=""):
    cell = make_cell(seed=seed)
    return CellResult(key=cell.key, cell=cell, status=status, reason=reason, log=log)


def test_reasons_that_differ_in_numbers_and_addresses_are_one_cause():
    results = [
        ended(0, "ok", ""),
        ended(1, "failed", "IndexError: 7"),
        *(ended(seed, "oom", f"asked for {seed}.5 GB at {seed:#x}") for seed in range(2, 42)),
        ended(50, "crashed", "asked for 1.5 GB at 0x1", "logs/x.log"),
        ended(51, "crashed", "asked for 2 GB at 0x2"),
    ]
    causes = by_cause(results)
    assert [(cause.status, len(cause.results)) for cause in causes] == [("oom", 40), ("crashed", 2), ("failed", 1)]
    assert causes[0].example == results[2]
    assert causes[1].example.log == "logs/x.log"


def test_the_example_is_one_with_a_log():
    results = [ended(0, "crashed", "a 1"), ended(1, "crashed", "a 2", "logs/b.log")]
    assert by_cause(results)[0].example.log == "logs/b.log"


@pytest.mark.parametrize(
    ("one", "other"),
    [("took 1.5 s", "took 20 s"), ("at 0x7fff12", "at 0xdeadbeef"), ("loss is 1e-3", "loss is 12.5e10")],
)
def test_numbers_are_left_out(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"), [("int8 raised", "int4 raised"), ("killed by SIGSEGV", "killed by SIGKILL"), ("a", "b")]
)
def test_names_are_not(one, other):
    assert normalised(one) != normalised(other)
