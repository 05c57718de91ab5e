"""Who is doing what in a results folder: locks that end with the process that holds them, however it ends.

A claim is a lock on a file of its own, ``claims/NAME``. The file is removed when the claim is given up; one that a
killed process has left behind is free. Where nothing can be locked, as on NFS without its lock service, that is said
once: there, runs do not see each other.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compbench.run.files import make_folder


class Claims:
    """Claims in one folder, held by this object until they are released or it is closed.

    Two objects exclude each other even in one process. May be used from several threads, each with names of its own.

    Args:
        folder: Where the files are; made when it is needed, and removed when nobody needs it.
        warn: Is handed one line, once, when names can't be claimed.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn
        self._held: dict[str, int] = {}
        self._told = False

    def take(self, name: str) -> bool:
        """Claims a name, if nobody else has; True as well when this object has it already, or nobody can claim it."""
        return name in self._held or self._lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def has(self, name: str) -> bool:
        """Whether this object has a claim."""
        return name in self._held

    def wait(self, name: str) -> None:
        """Claims a name as soon as nobody else has it."""
        if name not in self._held:
            self._lock(name, fcntl.LOCK_EX)

    def release(self, name: str) -> None:
        """Gives a claim up, if it is held."""
        descriptor = self._held.pop(name, None)
        if descriptor is not None:
            with suppress(OSError):  # removed while it is locked, so that nobody can hold a file without a name
                (self._folder / name).unlink()
            os.close(descriptor)

    def close(self) -> None:
        """Gives all claims up."""
        for name in list(self._held):
            self.release(name)
        with suppress(OSError):  # there are claims of others in it, or there is none
            self._folder.rmdir()

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Holds a claim, for which it waits, as long as the context lasts."""
        self.wait(name)
        try:
            yield
        finally:
            self.release(name)

    def taken(self, name: str) -> bool:
        """Whether somebody, this object included, has a claim; nothing is changed by asking."""
        if name in self._held:
            return True
        try:
            descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def _lock(self, name: str, how: int) -> bool:
        path = self._folder / name
        while True:
            try:
                descriptor = self._open(path)
            except OSError as error:  # such as a full disk
                self._tell(error)
                return True
            try:
                fcntl.flock(descriptor, how)
                if _is_at(descriptor, path):
                    self._held[name] = descriptor
                    return True
                os.close(descriptor)  # its holder gave it up, and removed the file, after we had opened it
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError as error:
                self._held[name] = descriptor
                self._tell(error)
                return True

    def _open(self, path: Path) -> int:
        while True:
            with suppress(FileNotFoundError):  # another run has just removed the folder, since it was empty
                make_folder(self._folder)
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._warn(
                f"cells in {self._folder.parent} can't be claimed ({error.strerror or error}): "
                "a second run in this folder at the same time would do the same cells again"
            )


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)
