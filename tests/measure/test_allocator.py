"""Which allocator a process is given, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compbench.measure import allocator
from compbench.measure.allocator import REUSE, allocator_environment, c_library, describe_allocator

TOUCHES = """
import resource

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b"1" * 2**24 for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(step(), step(), step())
"""


@pytest.fixture
def glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "c_library", lambda: "glibc 2.36")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)


@pytest.mark.usefixtures("glibc")
def test_memory_is_kept_unless_the_user_says_otherwise() -> None:
    assert allocator_environment("reuse", {}) == {"GLIBC_TUNABLES": REUSE}
    assert allocator_environment("default", {}) == {}
    assert allocator_environment("reuse", {"GLIBC_TUNABLES": "glibc.malloc.check=0"}) == {}


@pytest.mark.parametrize("library", ["musl 1.2.4", "unknown"])
def test_another_c_library_is_left_alone_and_said_to_be(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setattr(allocator, "c_library", lambda: library)
    assert allocator_environment("reuse", {}) == {}
    monkeypatch.setenv("GLIBC_TUNABLES", REUSE)
    assert describe_allocator() == "system's default"


@pytest.mark.usefixtures("glibc")
def test_the_allocator_is_described_by_glibcs_tunables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_allocator() == "default"
    monkeypatch.setenv("GLIBC_TUNABLES", REUSE)
    assert describe_allocator() == REUSE


def test_a_system_that_has_no_name_for_its_c_library_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(name: str) -> str:
        raise ValueError(name)

    monkeypatch.setattr(os, "confstr", no_such_name)
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert c_library() == "unknown"


@pytest.mark.skipif(not c_library().startswith("glibc"), reason="tunables are glibc's")
def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    def faults(tunables: str) -> list[int]:
        environment = {**os.environ, "GLIBC_TUNABLES": tunables}
        done = subprocess.run([sys.executable, "-c", TOUCHES], env=environment, capture_output=True, check=True)
        return [int(number) for number in done.stdout.split()]

    # What an older glibc makes of it: the threshold stays at 128 kB and no longer moves, and there are no huge pages.
    refused = REUSE.replace("threshold=8000000000", "threshold=131072").replace(":glibc.malloc.hugetlb=1", "")
    # Without a reserve that would do for what is held here; a training step's does not fit into it either.
    refused = refused.replace("top_pad=268435456", "top_pad=1048576")
    pages = 4 * 2**24 // os.sysconf("SC_PAGE_SIZE")
    assert faults("glibc.malloc.mmap_threshold=131072")[-1] > 0.9 * pages
    assert faults(REUSE)[-1] < 0.01 * pages
    assert faults(refused)[-1] < 0.01 * pages
