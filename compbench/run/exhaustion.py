"""Whether an error means that memory ran out: by its type, or by what the system says, never by its words alone."""

from __future__ import annotations

import errno
import mmap
import re
import resource
from pathlib import Path

import torch
from pydantic import ByteSize

from compbench.run.machine import memory_bytes

_ASKED = re.compile(r"\b(\d{4,}) bytes")
_UNNAMED = 64 * 2**20
"""Bytes that an allocation is taken to have asked for where its error tells no number."""

_CUDA_MEMORY_ALLOCATION = 2
"""``cudaErrorMemoryAllocation``."""


def out_of_memory(error: BaseException) -> str | None:
    """Why an error means that memory ran out, in a few words; None where there is no evidence that it does.

    Evidence is the error's type (``MemoryError``, torch's own error of a device), the number of the system's error
    (``ENOMEM``), or that of CUDA's. Errors of C++ come as ``RuntimeError`` with nothing but words, those of torch's
    allocator on the CPU among them. Such words are believed only where the system, asked for that many bytes now,
    refuses them, or where they are more than was left at this process' highest. To be called while the error's
    traceback is held, and with it what had been allocated.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MemoryError | torch.OutOfMemoryError):
            return type(link).__name__
        if isinstance(link, OSError) and link.errno == errno.ENOMEM:
            return "ENOMEM"
        if isinstance(link, torch.AcceleratorError) and getattr(link, "error_code", None) == _CUDA_MEMORY_ALLOCATION:
            return "cudaErrorMemoryAllocation"
        if isinstance(link, RuntimeError) and (asked := bytes_asked(str(link))):
            return _refusal(asked)
        link = link.__cause__
    return None


def bytes_asked(message: str) -> int | None:
    """How many bytes an allocation that failed had asked for, if the message is of one."""
    found = _ASKED.search(message)
    if found:
        return int(found[1])
    return _UNNAMED if message.strip() == "std::bad_alloc" else None


def refuses(size: int) -> bool:
    """Whether the system refuses this process a mapping of so many bytes now; nothing is written to it."""
    try:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
            return False
    except OSError as error:
        return error.errno == errno.ENOMEM
    except (OverflowError, ValueError):  # More than there are addresses.
        return True


def allowed_bytes() -> int:
    """Bytes of memory that this process may have: its own limits, its control group's, or what the machine has."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)]
    return min([limit for limit in limits if limit != resource.RLIM_INFINITY] + [memory_bytes()])


def peak_bytes(status: Path = Path("/proc/self/status")) -> int:
    """The most that this process has had resident; 0 where the system does not tell."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _refusal(asked: int) -> str | None:
    if refuses(asked):
        return f"the system refuses {in_words(asked)} more"
    allowed, peak = allowed_bytes(), peak_bytes()
    if allowed and peak + asked > allowed:
        return f"{in_words(asked)} more than its {in_words(peak)} are over the {in_words(allowed)} allowed"
    return None


def in_words(size: int) -> str:
    """Bytes as a message has them, such as ``1.6GB``."""
    return ByteSize(size).human_readable(decimal=True)
