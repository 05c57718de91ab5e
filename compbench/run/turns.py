"""Cells on the same cores or the same GPU take turns with their times, whichever run of this user they belong to.

A slot is, for this purpose, the cores and the GPU that a cell may use; two slots are the same where these overlap.
Each core and GPU has two lock files. Every cell holds the second, shared, from before its process starts until it
ends. One that takes times first takes the first file, which says that it wants to be alone, and then the second for
itself. The others let go between two training steps, and take it again when the times are taken. One that does not
within a minute, since it hangs or its steps take longer, holds nobody up: times are then taken beside it, and the
record says so. No file is ever
waited for while one of a higher number is held, so that nobody waits in a circle. Locks are the kernel's: they end
with their process, however it ends.

Only other cells are kept away, and only those that see the same folder of temporary files: not those of other users,
nor of other containers on the machine.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from compbench.run.affinity import own_cores
from compbench.run.slots import Slot

PATIENCE_SECONDS = 60.0
"""How long a cell waits for others to pause; one that hangs must not hold up all others."""

HELD = "COMPBENCH_TURNS"
"""The variable that tells a cell's process the numbers of its open lock files, in pairs."""


def lock_files(slot: Slot) -> list[str]:
    """The pairs of lock files of a slot's cores and GPU, one after the other; none where they can't be made."""
    folder = Path(tempfile.gettempdir()) / f"compbench-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return []
    except OSError:
        return []
    cores = slot.cores or own_cores() or (0,)
    names = [f"core-{core:05d}" for core in sorted(cores)]
    if slot.gpu is not None:
        names.append(f"gpu-{slot.gpu.replace('/', '-')}")
    return [str(folder / f"{name}.{kind}") for name in names for kind in ("wanted", "used")]


@dataclass(frozen=True)
class Turns:
    """A cell's share in its cores and GPU, held by open files.

    Attributes:
        wanted: Descriptors of the files that say that a cell wants to be alone.
        used: Descriptors of the files that all cells hold.
    """

    wanted: Sequence[int] = ()
    used: Sequence[int] = ()

    @classmethod
    def inherited(cls) -> Turns:
        """What this process was started with; nothing to share where nobody has said so."""
        numbers = [int(number) for number in os.environ.get(HELD, "").split(",") if number]
        return cls(numbers[::2], numbers[1::2])

    def give_way(self) -> None:
        """Lets go for as long as another cell takes its times; costs some microseconds where none does."""
        for wanted in self.wanted:
            try:
                fcntl.flock(wanted, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                break
            fcntl.flock(wanted, fcntl.LOCK_UN)
        else:
            return
        self._let_go()
        for wanted, used in zip(self.wanted, self.used, strict=True):
            fcntl.flock(wanted, fcntl.LOCK_SH)
            fcntl.flock(used, fcntl.LOCK_SH)
            fcntl.flock(wanted, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """No other cell runs on the same cores or GPU while the context lasts; waits until the others have let go.

        Yields:
            Whether they have: one that has not after a minute is waited for no longer.
        """
        self._let_go()
        for wanted in self.wanted:
            fcntl.flock(wanted, fcntl.LOCK_EX)
        deadline = time.monotonic() + PATIENCE_SECONDS
        alone = all(_taken(used, deadline) for used in self.used)
        if not alone:
            print(
                f"another cell on the same cores did not pause within {PATIENCE_SECONDS:g} s: times are taken beside it"
            )
        try:
            yield alone
        finally:
            for used in self.used:
                fcntl.flock(used, fcntl.LOCK_SH)
            for wanted in self.wanted:
                with suppress(OSError):
                    fcntl.flock(wanted, fcntl.LOCK_UN)

    def _let_go(self) -> None:
        for used in self.used:
            fcntl.flock(used, fcntl.LOCK_UN)


def _taken(file: int, deadline: float) -> bool:
    """Whether the file could be locked for this process alone; the kernel has no such wait with an end."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
