"""The list of a folder's files with their SHA-256, as ``sha256sum --check`` reads it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from compbench.run.files import write_atomically

CHECKSUMS = "checksums.txt"
"""The list's own name. It makes a folder a publication."""

_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<path>[^\0\r\n\\]+)")


def write_checksums(folder: Path) -> int:
    """Lists all files; returns how many the folder has then.

    Raises:
        OSError: A file can't be read, or the list not be written.
    """
    paths = files_in(folder)
    lines = (f"{digest(folder / path)}  {path}\n" for path in paths)
    write_atomically(folder / CHECKSUMS, "".join(lines), durably=False)
    return len(paths) + 1


def read_checksums(folder: Path) -> dict[str, str]:
    """The digests of files by their paths.

    Raises:
        ValueError: The folder has no such list.
        OSError: It can't be read.
    """
    try:
        text = (folder / CHECKSUMS).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError("no list") from error
    listed = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"no line of such a list: {line!r}")
        listed[found["path"]] = found["digest"]
    return listed


def files_in(folder: Path) -> list[str]:
    """The paths in a folder of everything that is no folder, sorted."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Raises:
        OSError: It can't be read.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()
