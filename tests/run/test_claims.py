"""Claims: one holder at a time, in one process or two, and none after its death."""

import errno
import fcntl
import signal
import subprocess
import sys
import threading

import pytest

from compbench.run.claims import Claims


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def make(tmp_path, warnings):
    made = []

    def make_claims():
        made.append(Claims(tmp_path / "claims", warnings.append))
        return made[-1]

    yield make_claims
    for claims in made:
        claims.close()


def test_a_claim_has_one_holder_until_it_is_released(make):
    one, other = make(), make()
    assert one.take("a")
    assert one.take("a")
    assert not other.take("a")
    assert other.take("b")
    assert (other.taken("a"), one.taken("b"), one.taken("c")) == (True, True, False)
    one.release("a")
    assert not other.taken("a")
    assert other.take("a")
    assert not one.take("a")


def test_closing_releases_all_and_leaves_nothing_behind(make, tmp_path):
    one, other = make(), make()
    assert one.take("a")
    assert other.take("b")
    one.close()
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["b"]
    other.close()
    assert list(tmp_path.iterdir()) == []
    assert one.take("a")


def test_a_claim_is_free_when_its_process_is_killed(make, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from compbench.run.claims import Claims\n"
        "assert Claims(Path(sys.argv[1]), print).take('a'); print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "claims")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    assert not make().take("a")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert make().take("a")


def test_of_many_that_hold_a_claim_in_turn_never_two_have_it(make):
    inside, most = [], []

    def work():
        claims = make()
        for _ in range(50):
            with claims.hold("a"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
            claims.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert set(most) == {1}


def test_without_locks_everything_is_ours_and_that_is_said_once(make, warnings, monkeypatch):
    def no_locks(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    one, other = make(), make()
    assert one.take("a")
    assert one.take("b")
    assert other.take("a")
    assert len(warnings) == 2
    assert "can't be claimed (No locks available): a second run in this folder" in warnings[0]


def test_where_no_file_can_be_made_everything_is_ours(tmp_path, warnings):
    (tmp_path / "claims").write_text("")
    claims = Claims(tmp_path / "claims", warnings.append)
    assert claims.take("a")
    claims.release("a")
    claims.close()
    assert len(warnings) == 1
