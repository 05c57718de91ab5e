"""Puts new files into a folder: all of them or none, and never over one that is there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from compbench.scaffold.names import ScaffoldError
from compbench.scaffold.render import NewFile


def write_new(files: Iterable[NewFile], folder: Path) -> list[Path]:
    """Writes files that are not there yet, with the folders that they need.

    Returns:
        Their paths.

    Raises:
        ScaffoldError: one of them is there already, or can't be written. Then nothing is left behind.
    """
    targets = [(folder / file.path, file.text) for file in files]
    there = [str(path) for path, _ in targets if os.path.lexists(path)]
    if there:
        verb = "is" if len(there) == 1 else "are"
        raise ScaffoldError(f"{', '.join(there)} {verb} there already, and nothing was written")
    with ExitStack() as undo:
        for path, text in targets:
            try:
                _make_folder(path.parent, undo)
                with path.open("x", encoding="utf-8") as opened:  # x: whoever was quicker keeps what he wrote
                    undo.callback(path.unlink)
                    opened.write(text)
            except OSError as error:
                raise ScaffoldError(f"can't write {path}: {error.strerror or error}; nothing was written") from error
        undo.pop_all()
    return [path for path, _ in targets]


def _make_folder(folder: Path, undo: ExitStack) -> None:
    """Makes a folder and those above it, and has those that were missing removed when it is undone."""
    if folder.is_dir():
        return
    _make_folder(folder.parent, undo)
    with suppress(FileExistsError):
        folder.mkdir()
        undo.callback(folder.rmdir)
