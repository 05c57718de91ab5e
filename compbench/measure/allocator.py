"""The allocator behind CPU tensors: how glibc is made to keep its memory, and what is in force in this process."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Literal

Allocator = Literal["reuse", "default"]
"""``reuse``: freed memory is kept for the next step; ``default``: the C library does as it always does."""

RESERVE_BYTES = 268_435_456
"""What the allocator asks the system for beyond what is needed now, under ``reuse``."""

REUSE = (
    "glibc.malloc.mmap_max=0:glibc.malloc.mmap_threshold=8000000000:glibc.malloc.trim_threshold=16000000000"
    f":glibc.malloc.top_pad={RESERVE_BYTES}:glibc.malloc.hugetlb=1"
)
"""Makes glibc keep freed memory. With its defaults every step maps and page-faults its activations anew: the
uncompressed step, which holds most, pays most for it, and recomputation looks free.

``mmap_max`` says once more what ``mmap_threshold`` says: older versions refuse a threshold of more than 32 MB, and as
any setting ends the threshold's adapting by itself, every tensor from 128 kB on would be mapped anew there, which is
worse than the default. ``hugetlb=1`` asks for transparent huge pages (glibc 2.35 and later, where the kernel grants
them), so that memory comes in with some 400 times fewer faults the first time. What a version does not know it ignores.
"""


def c_library() -> str:
    """The C library and its version, such as ``glibc 2.36``; ``unknown`` where it is not glibc and tells no name."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    except (ValueError, OSError, AttributeError):  # musl and macOS have no such name
        return " ".join(part for part in platform.libc_ver() if part) or "unknown"


def allocator_environment(choice: Allocator, inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables that give a process its allocator; none where the user has tuned glibc, or the library is another."""
    if choice == "default" or "GLIBC_TUNABLES" in inherited or not c_library().startswith("glibc"):
        return {}
    return {"GLIBC_TUNABLES": REUSE}


def describe_allocator() -> str:
    """The allocator of this process, as a sentence about a table has it: glibc's tunables, or whose default it is."""
    if not c_library().startswith("glibc"):
        return "system's default"
    return os.environ.get("GLIBC_TUNABLES") or "default"
