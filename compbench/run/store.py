"""The results of a suite in a folder: one JSON a cell, written whole or not at all, and read with suspicion.

Layout::

    DIR/<suite>/suite.json           what the table is made of: the keys of the suite's cells, in order
    DIR/<suite>/cells/<key>.json     one record a cell, whatever became of it
    DIR/<suite>/logs/<key>.log       what the cell's process printed
    DIR/<suite>/machines/<hash>.json what the cells ran on
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compbench.errors import StoreError
from compbench.run.machine import Machine
from compbench.run.result import SCHEMA_VERSION, CellResult

Record = TypeVar("Record", bound=BaseModel)
Warn = Callable[[str], None]

LOGGER = logging.getLogger(__name__)


class SuiteRecord(BaseModel):
    """What a results folder says of its suite, so that a table can be made without the suite's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    name: str
    description: str = ""
    device: str = "cpu"
    margins: dict[str, float] = Field(default_factory=dict, description="largest tolerated loss, by metric")
    keys: list[str] = Field(description="keys of all cells of the suite, in its order")
    command: str = Field("", description="the commands that made the results, a line each")


class Store:
    """The results folder of one suite.

    A record that is truncated, edited beyond recognition or of another cell is reported in one line and treated as
    missing; one from a newer compbench is an error, since treating it as missing would overwrite it.

    Args:
        directory: The suite's own folder, such as ``results/quick``.
        warn: Is handed one line for each record that can't be used.
    """

    def __init__(self, directory: Path, warn: Warn = LOGGER.warning) -> None:
        self.directory = directory
        self._warn = warn

    @classmethod
    def create(cls, results: Path, suite: str, warn: Warn = LOGGER.warning) -> Store:
        """The store ``results/suite``, its folders made and proved writable.

        Raises:
            StoreError: A folder can't be made or written, or ``suite`` can't be the name of one.
        """
        if suite in {"", ".", ".."} or "/" in suite or "\0" in suite:
            raise StoreError(f"suite name {suite!r} can't be the name of a results folder (allowed: no '/', not '..')")
        store = cls(results / suite, warn)
        for folder in (store.directory, *(store.directory / name for name in ("cells", "logs", "machines"))):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise _cannot("write to results folder", folder, error) from error
        return store

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other runs out of this folder for as long as the context lasts.

        Raises:
            StoreError: Another run is at work in it.
        """
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(
                    f"results folder {self.directory} is in use by another run; wait for it, or use another --results"
                ) from error
            except OSError:
                pass  # Some network file systems have no locks: writes are atomic without them too.
            yield
        finally:
            os.close(descriptor)

    def log_path(self, key: str) -> Path:
        """Where the log of a cell belongs."""
        return self.directory / "logs" / f"{key}.log"

    def save(self, result: CellResult) -> CellResult:
        """Keeps a record in place of an earlier one of the same cell, and returns it as kept.

        The folder of the user's own plugins is left out: it names a place on this machine, and results are published.
        """
        kept = result.model_copy(update={"cell": result.cell.model_copy(update={"plugins_dir": None})})
        self._write(self._cell_path(result.key), kept)
        return kept

    def result(self, key: str) -> CellResult | None:
        """The record of one cell; ``None`` when there is none that can be used.

        Raises:
            StoreError: It was written by a newer compbench.
        """
        path = self._cell_path(key)
        record = self._read(path, CellResult)
        if record is not None and not key == record.key == record.cell.key:
            self._warn(f"{path}: treated as missing: it is the record of another cell, '{record.cell.key}'")
            return None
        return record

    def results(self, keys: Iterable[str]) -> dict[str, CellResult]:
        """The records of those of the cells that have one, in the order of ``keys``."""
        found = ((key, self.result(key)) for key in keys)
        return {key: record for key, record in found if record is not None}

    def save_machine(self, machine: Machine) -> str:
        """Keeps a machine's description, once, and returns the hash that refers to it."""
        path = self.directory / "machines" / f"{machine.hash}.json"
        if not path.exists():
            self._write(path, machine)
        return machine.hash

    def machine(self, digest: str) -> Machine | None:
        """The machine of that hash, if its description is there and unchanged."""
        path = self.directory / "machines" / f"{digest}.json"
        machine = self._read(path, Machine)
        if machine is not None and machine.hash != digest:
            self._warn(f"{path}: treated as missing: its content does not have the hash of its name")
            return None
        return machine

    def save_suite(self, record: SuiteRecord) -> None:
        """Keeps what the folder says of its suite."""
        self._write(self.directory / "suite.json", record)

    def suite(self) -> SuiteRecord | None:
        """What the folder says of its suite; ``None`` when it says nothing that can be used."""
        return self._read(self.directory / "suite.json", SuiteRecord)

    def _cell_path(self, key: str) -> Path:
        return self.directory / "cells" / f"{key}.json"

    def _write(self, path: Path, record: BaseModel) -> None:
        try:
            write_atomically(path, _one_line_a_field(record))
        except OSError as error:
            raise _cannot("write", path, error) from error

    def _read(self, path: Path, kind: type[Record]) -> Record | None:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            self._warn(f"{path}: treated as missing: it is not text")
            return None
        except OSError as error:
            raise _cannot("read", path, error) from error
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            self._warn(f"{path}: treated as missing: it is not whole JSON ({error})")
            return None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise StoreError(
                f"{path}: written by a newer compbench (schema {version}; this one reads up to {SCHEMA_VERSION}): "
                "upgrade compbench, or use another results folder"
            )
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            self._warn(f"{path}: treated as missing: {_first_mistake(error)}")
            return None


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that it is seen whole or, after a crash at any moment, not at all or as it was before.

    Raises:
        OSError: It can't be written; no part of it is left behind.
    """
    # Not tempfile: its files are the owner's alone, and results are for sharing, as far as the user's umask allows.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _one_line_a_field(record: BaseModel) -> str:
    """JSON with each field on its own line: a loss curve of a thousand steps is one line in a diff, not a thousand."""
    content: dict[str, Any] = json.loads(record.model_dump_json())
    lines = (f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _cannot(what: str, path: Path, error: OSError) -> StoreError:
    return StoreError(f"can't {what} {path}: {error.strerror or error}")
