"""Files that are there whole or not at all, whatever happens in between, and folders that outlast a crash."""

from __future__ import annotations

import ctypes
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED_SECONDS = 3600.0
"""Age at which a temporary file is nobody's any more: whoever was writing it has been killed."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_atomically(path: Path, content: str | bytes | Iterable[bytes | memoryview], durably: bool = True) -> None:
    """Writes a file so that it is seen whole or, after a crash at any moment, not at all or as it was before.

    Args:
        path: The file.
        content: Text, which is written as UTF-8, or bytes, or parts that follow each other.
        durably: Whether to wait until it is on the disk, without which a crash of the machine may lose it. In a
            :func:`folder_in_the_making` there is no need to: that waits for all of its files at once.

    Raises:
        OSError: It can't be written; no part of it is left behind.
    """
    # Not tempfile: its files are the owner's alone, and results are for sharing, as far as the user's umask allows.
    # Processes on several hosts may have the same number: chance tells their files apart.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            if isinstance(content, str):
                content = content.encode("utf-8")
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durably:
        _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Makes a folder, with those above it, so that it is still there after a crash.

    Raises:
        OSError: It can't be made, or a file is in its place.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync_folder(folder.parent)


@contextmanager
def folder_in_the_making(place: Path) -> Iterator[Path]:
    """A folder that is seen whole in its place, or not at all: it is made beside it, and moved there at the end.

    What is in the place is exchanged for it, and then removed; who must keep it looks before. When the context ends
    with an exception nothing of the folder is left, and what was in its place is as it was.

    Args:
        place: Where it belongs; folders above it are made.

    Yields:
        The folder to be filled.

    Raises:
        OSError: It can't be made or moved.
    """
    missing = [folder for folder in place.parents if not folder.exists()]
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        make_folder(place.parent)
        _remove_abandoned_folders(place)
        temporary.mkdir()
        yield temporary
        for inner, _, names in os.walk(temporary):
            for name in (*names, "."):
                _sync(os.path.join(inner, name))
        if place.exists():
            _exchange(temporary, place)
        else:
            temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise
    shutil.rmtree(temporary, ignore_errors=True)  # what was in the place, if there was anything
    _sync_folder(place.parent)


def _exchange(new: Path, place: Path) -> None:
    """Puts a folder into the place of another one and that into its own, at once where the system can do that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None:
        paths = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(place))
        if rename(*paths, ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
            return
    # Some file systems can't, such as NFS: there, a crash between the two may leave the old one beside its place.
    old = new.with_name(f"{new.name}.old")
    try:
        place.rename(old)
        new.rename(place)
        old.rename(new)
    except BaseException:
        if old.exists() and not place.exists():
            old.rename(place)
        raise


def _remove_abandoned_folders(place: Path) -> None:
    """Removes what was left of earlier attempts at a folder that were killed."""
    for left in place.parent.glob(f".{glob.escape(place.name)}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Puts a folder of files in the place of an earlier one, which is seen whole until then.

    Args:
        path: The folder.
        files: Their content, by their paths in it.

    Raises:
        OSError: It can't be written; an earlier one is as it was.
    """
    with folder_in_the_making(path) as temporary:
        for name, content in files.items():
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def remove_abandoned(folder: Path, age_seconds: float = ABANDONED_SECONDS) -> None:
    """Removes what writers that were killed have left behind in a folder; files in the making are younger."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > age_seconds:
                        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def _sync_folder(folder: Path) -> None:
    _sync(str(folder))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
