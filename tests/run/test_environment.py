"""What a cell's record says of the process that it ran in."""

import json

import pytest
import torch

from compbench.measure.allocator import REUSE
from compbench.run import environment
from compbench.run.environment import describe_environment


@pytest.fixture
def glibc(monkeypatch):
    monkeypatch.setattr(environment, "c_library", lambda: "glibc 2.36")


@pytest.mark.usefixtures("glibc")
@pytest.mark.parametrize(
    ("tunables", "allocator"), [(None, "default"), ("", "default"), (REUSE, "reuse"), ("glibc.malloc.check=0", "own")]
)
def test_the_allocator_is_the_one_in_force(monkeypatch, tunables, allocator):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if tunables is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    told = describe_environment()
    assert (told.allocator, told.tunables) == (allocator, tunables or "")


def test_tunables_have_no_say_in_another_c_library(monkeypatch):
    monkeypatch.setattr(environment, "c_library", lambda: "musl 1.2.4")
    monkeypatch.setenv("GLIBC_TUNABLES", REUSE)
    assert describe_environment().allocator == "default"


def test_another_allocator_is_named_without_its_folder(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/home/somebody/lib/libjemalloc.so.2:/usr/lib/libone.so libtwo.so")
    assert describe_environment().preloaded == ["libjemalloc.so.2", "libone.so", "libtwo.so"]


def test_threads_are_torchs():
    assert describe_environment().threads == torch.get_num_threads()
    assert json.loads(describe_environment().model_dump_json())["threads"] == torch.get_num_threads()
