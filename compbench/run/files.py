"""Files that are there whole or not at all, whatever happens in between, and folders that outlast a crash."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

ABANDONED_SECONDS = 3600.0
"""Age at which a temporary file is nobody's any more: whoever was writing it has been killed."""


def write_atomically(path: Path, content: str | bytes | Iterable[bytes | memoryview]) -> None:
    """Writes a file so that it is seen whole or, after a crash at any moment, not at all or as it was before.

    Args:
        path: The file.
        content: Text, which is written as UTF-8, or bytes, or parts that follow each other.

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
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
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


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Puts a folder of files in the place of an earlier one; after a crash there is one of the two, or none.

    Args:
        path: The folder.
        files: Their content, by their paths in it.

    Raises:
        OSError: It can't be written; an earlier one is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        for name, content in files.items():
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_abandoned(folder: Path, age_seconds: float = ABANDONED_SECONDS) -> None:
    """Removes what writers that were killed have left behind in a folder; files in the making are younger."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > age_seconds:
                        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
