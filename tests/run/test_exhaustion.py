"""Out of memory or not: by evidence."""

import errno
import resource
import subprocess
import sys

import pytest
import torch

from compbench.run.exhaustion import allowed_bytes, bytes_asked, out_of_memory, peak_bytes, refuses

WORDS = "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes. Error code 12"


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "evidence"),
    [
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "ENOMEM"),
        (caused(ValueError("bad"), MemoryError()), "MemoryError"),
        (RuntimeError(WORDS.format(10**17)), "the system refuses 100.0PB more"),
    ],
)
def test_types_numbers_and_the_system_are_evidence(error: Exception, evidence: str) -> None:
    assert out_of_memory(error) == evidence


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("out of memory"),
        RuntimeError("CUDA out of memory, DefaultCPUAllocator: can't allocate memory"),
        RuntimeError(WORDS.format(100_000)),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError(WORDS.format(10**17)),
    ],
)
def test_words_alone_are_not(error: Exception) -> None:
    assert out_of_memory(error) is None


def test_torchs_own_error_under_a_limit_is_believed() -> None:
    code = """if True:
        import resource, torch
        from compbench.run.exhaustion import out_of_memory
        resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9))
        kept = torch.empty(2 * 10**8, dtype=torch.uint8)
        try:
            torch.empty(9 * 10**8, dtype=torch.uint8)
        except RuntimeError as error:
            print(type(error).__name__, out_of_memory(error), sep=": ")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "RuntimeError: the system refuses 900.0MB more\n"


def test_more_than_was_left_at_the_highest_is_evidence_though_memory_was_freed_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compbench.run.exhaustion.allowed_bytes", lambda: 10**9)
    monkeypatch.setattr("compbench.run.exhaustion.peak_bytes", lambda: 7 * 10**8)
    expected = "400.0MB more than its 700.0MB are over the 1.0GB allowed"
    assert out_of_memory(RuntimeError(WORDS.format(4 * 10**8))) == expected
    assert out_of_memory(RuntimeError(WORDS.format(2 * 10**8))) is None


def test_the_size_is_what_the_message_says() -> None:
    assert bytes_asked(WORDS.format(123456)) == 123456
    assert bytes_asked("index 12 bytes") is None
    assert bytes_asked("std::bad_alloc") == 64 * 2**20


def test_the_system_is_asked() -> None:
    assert not refuses(4096)
    assert refuses(2**60)
    assert refuses(2**80)


def test_a_limit_of_the_process_is_what_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10**6 if kind == resource.RLIMIT_AS else -1, -1))
    assert allowed_bytes() == 10**6
    assert peak_bytes() > 10**6
