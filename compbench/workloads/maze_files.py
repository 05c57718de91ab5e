"""Maze-Hard's public files, as the data set and the reference implementation of Tiny Recursive Models have them.

A folder has either ``train/all__inputs.npy``, ``train/all__labels.npy`` and the same in ``test``, ``(N, side * side)``,
as the reference's ``build_maze_dataset.py`` writes them; or ``train.csv`` and ``test.csv`` with the columns ``q`` and
``a``, strings of ``side * side`` characters. Ids are the reference's: 0 pads and is ignored as a label, then come wall,
space, start, goal and path.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compbench.errors import SettingsError, one_line
from compbench.workloads import mazes
from compbench.workloads.mazes import Token

CHARACTERS = "# SGo"
"""Of the ids from 1."""

VOCABULARY = len(CHARACTERS) + 1
PADDING = 0
_WALL, _PATH = CHARACTERS.index("#") + 1, CHARACTERS.index("o") + 1

Ids = NDArray[np.int64]
Form = Literal["npy", "csv"]

_FROM_TOKEN = np.array([1, 2, 3, 4, 5])
"""The ids of :class:`~compbench.workloads.mazes.Token`: wall, passage, start, goal and path come in the same order."""


def files_of(folder: Path, split: str) -> tuple[Form, list[Path]]:
    """The files of a split, and what they are.

    Raises:
        SettingsError: there is no such folder, or a file is missing.
    """
    try:
        return _files_of(folder, split)
    except OSError as error:  # such as for want of permission to look
        raise SettingsError(f"folder '{folder}' can't be read: {error.strerror}") from error


def _files_of(folder: Path, split: str) -> tuple[Form, list[Path]]:
    if not folder.is_dir():
        raise SettingsError(f"there is no folder '{folder}' (expected: one with the files of Maze-Hard)")
    arrays = [folder / split / f"all__{part}.npy" for part in ("inputs", "labels")]
    table = folder / f"{split}.csv"
    if table.is_file() and not arrays[0].is_file():
        return "csv", [table]
    for file in arrays:
        if not file.is_file():
            raise SettingsError(f"there is no file '{file}' (expected: it, or '{table}')")
    return "npy", arrays


def read_split(folder: Path, split: str, side: int) -> tuple[Ids, Ids]:
    """Inputs and labels of a split, ``(N, side * side)`` each.

    Raises:
        SettingsError: a file is missing, of another shape, or holds what is no token; or a label is not its maze with
            a path in it; with its line or row.
    """
    form, files = files_of(folder, split)
    if form == "csv":
        inputs, labels, lines = _read_table(files[0], side)
        _labels_are_of_their_mazes(inputs, labels, lambda row: f"'{files[0]}', line {lines[row]}")
        return inputs, labels
    inputs, labels = (_read_array(file, side) for file in files)
    if len(inputs) != len(labels):
        raise SettingsError(f"'{files[1]}' has {len(labels)} rows (expected: {len(inputs)}, as '{files[0].name}' has)")
    _labels_are_of_their_mazes(inputs, labels, lambda row: f"'{files[1]}', row {row}")
    return inputs, labels


def _labels_are_of_their_mazes(inputs: Ids, labels: Ids, where: Callable[[int], str]) -> None:
    """A label has what its maze has, but for the path, which is nowhere on a wall; what is padding is not asked."""
    differing = (labels != PADDING) & (labels != inputs)
    strange = np.argwhere(differing & ((labels != _PATH) | (inputs == _WALL) | (inputs == PADDING)))
    if len(strange):
        row, position = strange[0].tolist()
        raise SettingsError(
            f"{where(row)}: at position {position} the label is {labels[row, position]}, and the maze's is "
            f"{inputs[row, position]} (expected: the same, or the path {_PATH} where there is no wall; are the two "
            "exchanged, or in another order?)"
        )
    unmarked = np.flatnonzero(~(labels != PADDING).any(axis=1))
    if len(unmarked):
        raise SettingsError(f"{where(int(unmarked[0]))}: the label is padding throughout (expected: a maze's solution)")


def file_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that is read, by its name within the folder.

    Raises:
        SettingsError: a file is missing or can't be read.
    """
    files = [file for split in ("train", "test") for file in files_of(folder, split)[1]]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(_bytes(file)).hexdigest() for file in files}


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"'{file}' can't be read: {error.strerror}") from error


def write_look_alikes(folder: Path, side: int, train: int, test: int, seed: int, form: Form = "npy") -> None:
    """Writes files of the same form with mazes of :mod:`compbench.workloads.mazes`, of any side from 5.

    They are spanning trees, other than Maze-Hard's; where ``side`` is even, a wall more stands right and below.

    Raises:
        SettingsError: there are not as many mazes of this side.
    """
    grid = side - 1 + side % 2
    made = mazes.generate(grid, train + test, seed)
    border = ((0, 0), (0, side - grid), (0, side - grid))
    inputs, labels = (
        _FROM_TOKEN[np.pad(grids, border, constant_values=Token.WALL)].reshape(train + test, -1)
        for grids in (made.inputs, made.targets)
    )
    for split, chosen in (("train", slice(train)), ("test", slice(train, None))):
        if form == "csv":
            _write_table(folder / f"{split}.csv", inputs[chosen], labels[chosen])
            continue
        (folder / split).mkdir(parents=True, exist_ok=True)
        np.save(folder / split / "all__inputs.npy", inputs[chosen].astype(np.uint8))
        np.save(folder / split / "all__labels.npy", labels[chosen].astype(np.uint8))


def _read_array(file: Path, side: int) -> Ids:
    try:
        with file.open("rb") as stream:
            array = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise SettingsError(f"'{file}' is no array that can be read: {one_line(error)}") from error
    if not isinstance(array, np.ndarray):
        raise SettingsError(f"'{file}' is an archive of arrays (expected: one array, as np.save writes it)")
    if array.ndim != 2 or array.shape[1] != side * side or not len(array):
        raise SettingsError(f"'{file}' has shape {array.shape} (expected: (N, {side * side}), for side {side})")
    if not np.issubdtype(array.dtype, np.integer):
        raise SettingsError(f"'{file}' holds {array.dtype} (expected: integers from 0 to {VOCABULARY - 1})")
    strange = np.argwhere((array < 0) | (array >= VOCABULARY))
    if len(strange):
        row, position = strange[0].tolist()
        raise SettingsError(
            f"'{file}', row {row}, position {position}: token {array[row, position]} (expected: 0 to {VOCABULARY - 1})"
        )
    ids: Ids = array.astype(np.int64)
    return ids


def _read_table(file: Path, side: int) -> tuple[Ids, Ids, list[int]]:
    """Questions and answers, and the line of each."""
    ids = {character: number for number, character in enumerate(CHARACTERS, start=1)}
    rows: dict[str, list[list[int]]] = {"q": [], "a": []}
    lines: list[int] = []
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    try:
        for column in rows:
            if column not in (reader.fieldnames or ()):
                found = ", ".join(reader.fieldnames or ()) or "none"
                raise SettingsError(f"'{file}', line 1: no column '{column}' (found: {found}; expected: q and a)")
        columns = len(reader.fieldnames or ())
        for record in reader:
            extra = len(record.get(None, ()))  # where csv puts what has no column
            if extra:
                raise SettingsError(
                    f"'{file}', line {reader.line_num}: {columns + extra} columns (expected: {columns}, as in line 1)"
                )
            for column, read in rows.items():
                text, where = record[column] or "", f"'{file}', line {reader.line_num}: {column}"
                if len(text) != side * side:
                    raise SettingsError(f"{where} has {len(text)} characters (expected: {side * side})")
                strange = next((place for place, character in enumerate(text) if character not in ids), None)
                if strange is not None:
                    raise SettingsError(
                        f"{where} has {text[strange]!r} as character {strange + 1} (expected: one of {CHARACTERS!r})"
                    )
                read.append([ids[character] for character in text])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise SettingsError(f"'{file}', line {reader.line_num + 1} is no CSV: {error}") from error
    if not lines:
        raise SettingsError(f"'{file}' has no row (expected: a maze a row)")
    return np.array(rows["q"], dtype=np.int64), np.array(rows["a"], dtype=np.int64), lines


def _text(file: Path) -> str:
    """A file's text, without the mark that some programs put in front of UTF-8."""
    data = _bytes(file).removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"'{file}', line {line}: no UTF-8 text, {error.reason}") from error


def _write_table(file: Path, inputs: Ids, labels: Ids) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("source", "q", "a", "rating"))
        for question, answer in zip(inputs, labels, strict=True):
            strings = ("".join(CHARACTERS[number - 1] for number in row) for row in (question, answer))
            writer.writerow(("look-alike", *strings, 0))
