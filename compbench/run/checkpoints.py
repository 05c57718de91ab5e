"""Files of trainings under way: one a cell, written whole or not at all, and never trusted if anything is wrong.

A file is a line with a checksum over all that follows, a line of JSON that says whose it is, and the state as
``torch.save`` writes it. This module knows no torch: who asks how far a training is need not import it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from compbench.run.files import make_folder, write_atomically

SCHEMA = 1
"""Of the state. There is no way from one to another: a training whose checkpoint is of another one begins anew."""

_MAGIC = b"compbench checkpoint "


class CheckpointError(ValueError):
    """A checkpoint that can't be gone on from; the message says why, in one line."""


@dataclass(frozen=True)
class Checkpointing:
    """Where checkpoints go, and how often.

    Attributes:
        folder: ``checkpoints`` in the suite's results folder, absolute.
        minutes: Between one checkpoint of a training and the next, more than 0.
    """

    folder: Path
    minutes: float

    def path(self, key: str) -> Path:
        """The checkpoint of a cell."""
        return self.folder / f"{key}.pt"

    def arguments(self, key: str) -> list[str]:
        """What is said of it on the command line of a cell's process."""
        return ["--checkpoint", str(self.path(key)), "--checkpoint-minutes", repr(self.minutes)]


@dataclass(frozen=True)
class Header:
    """Whose a checkpoint is.

    Attributes:
        key: The cell.
        step: Steps that are done.
        steps: Steps of the whole training.
        torch: The version of torch that made it: under another, the same steps may give other bits.
        schema: The version of the state.
    """

    key: str
    step: int
    steps: int
    torch: str
    schema: int = SCHEMA


def write_checkpoint(path: Path, header: Header, state: memoryview) -> None:
    """Puts a checkpoint in the place of an earlier one.

    Raises:
        CheckpointError: The results folder is not there, as on a machine that doesn't share it.
        OSError: It can't be written; an earlier one is as it was.
    """
    if not path.parent.parent.is_dir():
        raise CheckpointError(f"there is no folder {path.parent.parent} here")
    make_folder(path.parent)
    first = json.dumps(asdict(header)).encode() + b"\n"
    digest = hashlib.sha256(first)
    digest.update(state)
    write_atomically(path, [_MAGIC, digest.hexdigest().encode(), b"\n", first, state])


def read_checkpoint(path: Path, key: str, torch_version: str) -> tuple[Header, memoryview] | None:
    """A checkpoint with its state; None if there is none.

    Raises:
        CheckpointError: It is damaged, of another cell, of another version of torch or of compbench, or can't be read.
    """
    try:
        data = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"it can't be read: {error.strerror or error}") from error
    start = len(_MAGIC) + 64 + 1
    if bytes(data[: len(_MAGIC)]) != _MAGIC or len(data) <= start:
        raise CheckpointError("it is none, or cut off")
    if hashlib.sha256(data[start:]).hexdigest().encode() != bytes(data[len(_MAGIC) : start - 1]):
        raise CheckpointError("it is not what was written: the checksum is wrong")
    first, _, _ = bytes(data[start : start + 4096]).partition(b"\n")
    header = _header(first)
    if header.key != key:
        raise CheckpointError(f"it is of another cell, '{header.key}'")
    if header.torch != torch_version:
        raise CheckpointError(f"it was made under torch {header.torch}, and this is {torch_version}")
    return header, data[start + len(first) + 1 :]


def peek(path: Path) -> Header | None:
    """Whose a file says it is, unchecked; None if there is none that says so."""
    try:
        with path.open("rb") as file:
            magic, first = file.readline(256), file.readline(4096)
        return _header(first) if magic.startswith(_MAGIC) else None
    except (OSError, CheckpointError):
        return None


def checkpoints_in(folder: Path) -> Iterator[Path]:
    """The checkpoints in a folder that need not be there."""
    return (path for path in folder.glob("*.pt") if not path.name.startswith("."))


def _header(line: bytes) -> Header:
    try:
        content = json.loads(line)
        if content.get("schema") != SCHEMA:
            raise CheckpointError(f"its state is of version {content.get('schema')}, and this one knows {SCHEMA}")
        return Header(**content)
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError("it does not say whose it is") from error
