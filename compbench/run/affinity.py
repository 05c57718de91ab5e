"""Which cores a process runs on: found out, and set for the processes that this one starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

ASKED_CORES = "COMPBENCH_CORES"
"""The variable that tells a cell's process which cores it was to have, so that its record can say if it has."""

Placement = Literal["own", "shared", "refused", "unknown"]
"""``own``: on cores that no other cell of the run has; ``shared``: on all that the run may use; ``refused``: the system
did not let cores be set, so that all are shared; ``unknown``: the system does not tell."""


def usable_cores(topology: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """The cores that this process may run on, by the system's numbers, those that share hardware side by side."""
    own = own_cores()
    cores = list(range(os.cpu_count() or 1)) if own is None else own

    def place(core: int) -> tuple[int, int, int]:
        described = topology / f"cpu{core}" / "topology"
        return _number(described / "physical_package_id"), _number(described / "core_id"), core

    return sorted(cores, key=place)


def own_cores() -> list[int] | None:
    """The cores that this thread may run on, ascending; None where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@contextmanager
def children_on(cores: Sequence[int]) -> Iterator[None]:
    """Processes that this thread starts meanwhile run on ``cores``; on all, where the system refuses or there are none.

    The thread moves there itself, since children inherit from it: a process that is moved once it runs may have started
    threads, which would stay behind.
    """
    before = own_cores()
    if not cores or before is None:
        yield
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # a core may have been taken away since
            os.sched_setaffinity(0, before)


def placement() -> tuple[Placement, list[int] | None]:
    """How this process was placed, and the cores that it may run on."""
    cores = own_cores()
    asked = os.environ.get(ASKED_CORES, "")
    if cores is None:
        return "unknown", None
    if not asked:
        return "shared", cores
    return "own" if ",".join(map(str, cores)) == asked else "refused", cores


def _number(path: Path) -> int:
    """The number in one of the kernel's files; 0 where there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
