"""The suites that come with compbench, and the text of a suite that is named by one of them or by a file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NoReturn

from compbench.errors import Problem, SuiteError, nearest


def shipped_suites() -> dict[str, Traversable]:
    """The suites that come with compbench, by name; those of a folder as ``small/table1``, after the others."""
    try:
        folder = resources.files("compbench_suites")
    except ModuleNotFoundError:
        return {}
    found = _suites_in(folder)
    for inner in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if inner.is_dir():
            found |= {f"{inner.name}/{name}": file for name, file in _suites_in(inner).items()}
    return found


def _suites_in(folder: Traversable) -> dict[str, Traversable]:
    files = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".yaml"): entry for entry in files if entry.name.endswith(".yaml")}


def find_suite(path_or_name: str | Path) -> Path | Traversable:
    """A suite's file: one that is there, or that of the shipped suite of the name.

    Raises:
        SuiteError: there is neither.
    """
    file = Path(path_or_name)
    if file.is_file():
        return file
    shipped = shipped_suites()
    return shipped.get(str(path_or_name)) or _missing(file, shipped)


def read_suite(file: Path | Traversable) -> str:
    """The text of a suite's file.

    Raises:
        SuiteError: it can't be read, or is no text.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SuiteError([Problem(str(file), f"can't be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise SuiteError([Problem(str(file), f"not UTF-8 text: byte {error.start} is {error.reason}")]) from error


def _missing(file: Path, shipped: Mapping[str, Traversable]) -> NoReturn:
    names = ", ".join(shipped) or "none"
    what = "is not a file" if file.exists() else "there is no such file"
    folders = {name.rpartition("/")[0] for name in shipped} - {""}
    wanted = f"{file.parent.name}/{file.stem}" if file.parent.name in folders else file.stem
    message = f"{what}, and no shipped suite of that name{nearest(wanted, shipped)} (shipped: {names})"
    raise SuiteError([Problem(str(file), message)])
