"""What is said of a machine, from the kernel's files alone."""

import subprocess

import pytest

from compbench.run.machine import checkout_commit, cpu_model, describe_machine, memory_bytes
from compbench.run.oom_killer import kill_count


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("processor\t: 0\nmodel name\t: A Processor 3000\nmodel name\t: Another\n", "A Processor 3000"),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "cpu implementer 0x41 cpu part 0xd0c"),
    ],
)
def test_the_processor_is_named_without_lscpu(tmp_path, monkeypatch, cpuinfo, model):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_model(tmp_path / "cpuinfo") == model


def test_a_processor_that_nothing_names_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.processor", lambda: "")
    assert cpu_model(tmp_path / "missing") == "unknown"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 4096 * 1024),
        ({"memory.max": "max\n"}, 4096 * 1024),
        ({"memory.max": "1000000\n"}, 1_000_000),
        ({"memory/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 4096 * 1024),
    ],
)
def test_memory_is_the_groups_limit_where_that_is_less(tmp_path, limits, expected):
    (tmp_path / "meminfo").write_text("MemTotal:       4096 kB\nMemFree:        12 kB\n")
    groups = tmp_path / "cgroup"
    for name, text in limits.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    assert memory_bytes(tmp_path, groups) == expected


def test_a_description_is_whole_without_the_kernels_files(monkeypatch):
    monkeypatch.setattr("compbench.run.machine._text", lambda path: "")
    assert describe_machine().memory_bytes == 0


def test_the_same_machine_has_the_same_hash():
    assert describe_machine().hash == describe_machine().hash


def test_the_commit_says_when_code_differs_from_it(tmp_path):
    assert checkout_commit(tmp_path) == ""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/table.csv"):
        (tmp_path / name).write_text("1")
    git("init")
    assert checkout_commit(tmp_path) == ""
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "results/table.csv").write_text("2")
    assert checkout_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert checkout_commit(tmp_path) == f"{commit}+"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.events": "oom 5\noom_kill 3\n"}, 3),
        ({"proc/self/cgroup": "0::/host/path\n", "sys/fs/cgroup/memory.events": "oom_kill 2\n"}, 2),
        (
            {
                "proc/self/cgroup": "9:cpu:/\n4:memory:/a\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            },
            4,
        ),
        ({"proc/vmstat": "nr_free_pages 1\noom_kill 6\n"}, 6),
        ({}, 0),
    ],
)
def test_kills_for_want_of_memory_are_counted_in_every_kind_of_control_group(tmp_path, files, count):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert kill_count(tmp_path) == count
