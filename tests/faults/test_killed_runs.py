"""A run may be killed at any moment: nothing that was finished is lost, and the table is that of an undisturbed run."""

import secrets

import pytest

from tests.faults.killed_runs import KilledRuns


def kill_runs(count, folder, capsys):
    seed = secrets.randbits(32)
    runs = KilledRuns(folder, seed)
    for number in range(count):
        runs.one(number)
    with capsys.disabled():
        print(f"\nseed {seed}: {runs.counts}")
    assert runs.counts.faults == 0, f"seed {seed}: {runs.counts}"


def test_a_few_killed_runs_lose_nothing(tmp_path, capsys):
    kill_runs(5, tmp_path, capsys)


@pytest.mark.faults
def test_a_hundred_killed_runs_lose_nothing(tmp_path, capsys):
    kill_runs(100, tmp_path, capsys)
