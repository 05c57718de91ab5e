"""The results of a suite in a folder: one JSON a cell, written whole or not at all, and read with suspicion.

Layout::

    DIR/<suite>/suite.json           what the table is made of: the keys of the suite's cells, in order
    DIR/<suite>/suite.yaml           the suite's file, as it was when cells were last run
    DIR/<suite>/merged.json          of which stores this one was made, if it was joined from several
    DIR/<suite>/cells/<key>.json     one record a cell, whatever became of it
    DIR/<suite>/logs/<key>.log       what the cell's process printed
    DIR/<suite>/machines/<hash>.json what the cells ran on
    DIR/<suite>/checkpoints/<key>.pt how far a training is that has no record yet
    DIR/<suite>/traces/<key>/        the trace of some steps of a cell, where a run was asked for it
    DIR/<suite>/snapshots/<key>/     weights over a training that was repeated for analyses
    DIR/<suite>/analyses/<key>/      what analyses of a cell have found, with figures
    DIR/<suite>/claims/<key>         who is at work on a cell, while somebody is
"""

from __future__ import annotations

import gc
import json
import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from compbench.errors import StoreError, nearest
from compbench.run.checkpoints import checkpoints_in
from compbench.run.claims import Claims
from compbench.run.files import folder_in_the_making, make_folder, remove_abandoned, replace_folder, write_atomically
from compbench.run.machine import Machine
from compbench.run.merged import MergeRecord
from compbench.run.reading import Reading, Record, cannot, read_record, this_program
from compbench.run.result import CellResult
from compbench.run.schema import CELL, MACHINE, MERGED, SUITE
from compbench.run.sealing import seal

Warn = Callable[[str], None]
Stamp = tuple[int, int, int]
"""Of a file: when it was written, its inode and its size."""

LOGGER = logging.getLogger(__name__)

GOES_ON = frozenset({"crashed", "timeout", "oom", "failed"})
"""Statuses after which another attempt may go on from the checkpoint; after others there is nothing left to train."""


class SuiteRecord(BaseModel):
    """What a results folder says of its suite, so that a table can be made without the suite's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SUITE.version
    name: str
    description: str = ""
    device: str = "cpu"
    margins: dict[str, float] = Field(default_factory=dict, description="largest tolerated loss, by metric")
    lower_is_better: list[str] = Field(default_factory=list, description="metrics of which less is better")
    keys: list[str] = Field(description="keys of all cells of the suite, in its order")
    command: str = Field("", description="the commands that made the results, a line each")


class Store:
    """The results folder of one suite.

    A record that is truncated, edited or of another cell is reported in one line and treated as missing; one from a
    newer compbench is an error, since treating it as missing would overwrite it. Records that were written before
    there were checksums are taken as they are.

    Args:
        directory: The suite's own folder, such as ``results/quick``.
        warn: Is handed one line for each record that can't be used.
        durably: Whether what is written is on the disk before anything else is done.
    """

    def __init__(self, directory: Path, warn: Warn = LOGGER.warning, durably: bool = True) -> None:
        self.directory = directory
        self._warn = warn
        self._durably = durably

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
                make_folder(folder)
                remove_abandoned(folder)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise cannot("write to results folder", folder, error) from error
        for folder in (checkpoints_folder(store.directory), store.traces):
            with suppress(OSError):
                remove_abandoned(folder)
        return store

    @classmethod
    def open(cls, directory: Path, warn: Warn = LOGGER.warning) -> tuple[Store, SuiteRecord]:
        """The store in a folder that is there, and what it says of its suite; nothing is written.

        Raises:
            StoreError: There is no such folder, it is not that of one suite, or it is a newer compbench's.
        """
        store = cls(directory, warn)
        suite = store.suite() if directory.is_dir() else None
        if suite is None:
            raise StoreError(_no_results(directory))
        return store, suite

    @contextmanager
    def claims(self) -> Iterator[Claims]:
        """Claims on this folder's cells, by their keys; they are given up when the context ends or the process does."""
        claims = Claims(self.directory / "claims", self._warn)
        try:
            yield claims
        finally:
            claims.close()

    def at_work(self, keys: Iterable[str]) -> list[str]:
        """Those of the cells that some run is at work on now; nothing is changed by asking."""
        folder = self.directory / "claims"
        claims, claimed = Claims(folder, self._warn), {path.name for path in folder.glob("*")}
        return [key for key in keys if key in claimed and claims.taken(key)]

    def log_path(self, key: str) -> Path:
        """Where the log of a cell belongs."""
        return self.directory / "logs" / f"{key}.log"

    def checkpoint_path(self, key: str) -> Path:
        """Where the checkpoint of a cell's training belongs; its folder is made by who writes it."""
        return checkpoints_folder(self.directory) / f"{key}.pt"

    @property
    def traces(self) -> Path:
        """Where traces are, a folder a cell; TensorBoard's ``--logdir``. It need not be there."""
        return self.directory / "traces"

    def snapshots_path(self, key: str) -> Path:
        """Where the snapshots of a cell's training belong; no record knows of them, and they are not published."""
        return self.directory / "snapshots" / key

    def analyses_path(self, key: str) -> Path:
        """Where analyses of a cell belong; no record knows of them."""
        return self.directory / "analyses" / key

    def save_trace(self, key: str, files: Mapping[str, bytes]) -> None:
        """Keeps the trace of a cell in place of an earlier one. No record knows of it.

        Raises:
            StoreError: It can't be written.
        """
        folder = self.traces / key
        try:
            make_folder(self.traces)
            replace_folder(folder, files)
        except OSError as error:
            raise cannot("write trace", folder, error) from error

    def save(self, result: CellResult) -> CellResult:
        """Keeps a record in place of an earlier one of the same cell, and returns it as kept.

        The folder of the user's own plugins is left out: it names a place on this machine, and results are published.
        The checkpoint of a training that has come to an end is removed.

        Raises:
            StoreError: It can't be written; an earlier record is as it was.
        """
        kept = result.model_copy(update={"cell": result.cell.model_copy(update={"plugins_dir": None})})
        self._write(self._cell_path(result.key), kept)
        if kept.status not in GOES_ON:
            checkpoint = self.checkpoint_path(kept.key)
            with suppress(OSError):
                checkpoint.unlink(missing_ok=True)
                checkpoint.parent.rmdir()
        return kept

    def result(self, key: str) -> CellResult | None:
        """The record of one cell; ``None`` when there is none that can be used.

        Raises:
            StoreError: It was written by a newer compbench, or can't be read.
        """
        return self._usable(self._cell_path(key), self.inspect(key))

    def inspect(self, key: str) -> Reading[CellResult]:
        """The record of one cell with what is to be said of it; nobody is warned.

        Raises:
            StoreError: It was written by a newer compbench, or can't be read.
        """
        reading = read_record(self._cell_path(key), CellResult, CELL)
        if reading.record is not None and not key == reading.record.key == reading.record.cell.key:
            return Reading(problem=f"it is the record of another cell, '{reading.record.cell.key}'")
        return reading

    def copy_record(self, key: str, source: Store) -> Reading[CellResult]:
        """Takes a cell's record over from another store, byte for byte, and reads the copy.

        Raises:
            StoreError: It can't be read or written.
        """
        self._copy(source, self._cell_path(key))
        return self.inspect(key)

    def copy_log(self, key: str, source: Store) -> None:
        """Takes a cell's log over from another store, if it has one; a link is none, for it may lead anywhere.

        Raises:
            StoreError: It can't be read or written.
        """
        log = source.log_path(key)
        if log.is_file() and not log.is_symlink():
            self._copy(source, self.log_path(key))

    def results(self, keys: Iterable[str]) -> dict[str, CellResult]:
        """The records of those of the cells that have one, in the order of ``keys``.

        Raises:
            StoreError: As :meth:`result`.
        """
        collecting = gc.isenabled()
        gc.disable()  # thousands of records are millions of objects, all of which stay: looking for garbage is a fifth
        try:
            found = ((key, self.result(key)) for key in keys)
            return {key: record for key, record in found if record is not None}
        finally:
            if collecting:
                gc.enable()

    def keys(self) -> list[str]:
        """The keys under which there are records, usable or not, sorted."""
        return sorted(path.stem for path in (self.directory / "cells").glob("*.json") if path.name[0] != ".")

    def stamp(self, key: str) -> Stamp | None:
        """What tells a record from an earlier or later one of the same cell, unread; None where there is none."""
        try:
            found = self._cell_path(key).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def stamps(self) -> dict[str, Stamp]:
        """The stamp of every record."""
        found = ((key, self.stamp(key)) for key in self.keys())
        return {key: stamp for key, stamp in found if stamp is not None}

    def leftovers(self, keys: Collection[str]) -> list[str]:
        """Keys under which there are records, checkpoints or traces of cells that are none of these, sorted."""
        checkpoints = {path.stem for path in checkpoints_in(checkpoints_folder(self.directory))}
        traces = {path.name for path in self.traces.glob("[!.]*")}
        return sorted({*self.keys(), *checkpoints, *traces} - set(keys))

    def save_machine(self, machine: Machine) -> str:
        """Keeps a machine's description, once, and returns the hash that refers to it.

        Raises:
            StoreError: It can't be written.
        """
        path = self.directory / "machines" / f"{machine.hash}.json"
        if not path.exists():
            self._write(path, machine)
        return machine.hash

    def machine(self, digest: str) -> Machine | None:
        """The machine of that hash, if its description is there and unchanged.

        Raises:
            StoreError: It was written by a newer compbench, or can't be read.
        """
        path = self.directory / "machines" / f"{digest}.json"
        return self._usable(path, read_record(path, Machine, MACHINE, digest))

    def copy_machine(self, digest: str, source: Store) -> Machine | None:
        """Takes a machine's description over from another store, byte for byte; None where it has none that holds.

        Raises:
            StoreError: It can't be read or written, or is a newer compbench's.
        """
        machine = source.machine(digest)
        if machine is not None:
            self._copy(source, self.directory / "machines" / f"{digest}.json")
        return machine

    def save_suite(self, record: SuiteRecord) -> None:
        """Keeps what the folder says of its suite.

        Raises:
            StoreError: It can't be written.
        """
        self._write(self.directory / "suite.json", record)

    def suite(self) -> SuiteRecord | None:
        """What the folder says of its suite; ``None`` when it says nothing that can be used.

        Raises:
            StoreError: It was written by a newer compbench, or can't be read.
        """
        path = self.directory / "suite.json"
        return self._usable(path, read_record(path, SuiteRecord, SUITE))

    def save_suite_text(self, text: str) -> None:
        """Keeps the text of the suite's file.

        Raises:
            StoreError: It can't be written.
        """
        path = self.directory / "suite.yaml"
        try:
            write_atomically(path, text, self._durably)
        except OSError as error:
            raise cannot("write", path, error) from error

    def suite_text(self) -> str | None:
        """The text of the suite's file; ``None`` where it was not kept, or is no text."""
        path = self.directory / "suite.yaml"
        try:
            return path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            self._warn(f"{path}: treated as missing: not UTF-8 text: byte {error.start} is {error.reason}")
            return None
        except OSError as error:
            raise cannot("read", path, error) from error

    def save_merged(self, record: MergeRecord) -> None:
        """Keeps of which stores this one was made.

        Raises:
            StoreError: It can't be written.
        """
        self._write(self.directory / "merged.json", record)

    def merged(self) -> MergeRecord | None:
        """Of which stores this one was made; ``None`` where it was not made of others.

        Raises:
            StoreError: It is there and can't be used: without it a table would hide what was left out.
        """
        path = self.directory / "merged.json"
        reading = read_record(path, MergeRecord, MERGED)
        if reading.problem:
            raise StoreError(f"{path}, which says what was left out when these stores were joined: {reading.problem}")
        return reading.record

    def _copy(self, source: Store, path: Path) -> None:
        """Takes a file over from its place in another store."""
        original = source.directory / path.relative_to(self.directory)
        try:
            data = original.read_bytes()
        except OSError as error:
            raise cannot("read", original, error) from error
        try:
            write_atomically(path, data, self._durably)
        except OSError as error:
            raise cannot("write", path, error) from error

    def _cell_path(self, key: str) -> Path:
        return self.directory / "cells" / f"{key}.json"

    def _write(self, path: Path, record: BaseModel) -> None:
        content = json.loads(record.model_dump_json())
        try:
            write_atomically(path, seal(content, this_program()), self._durably)
        except OSError as error:
            raise cannot("write", path, error) from error

    def _usable(self, path: Path, reading: Reading[Record]) -> Record | None:
        if reading.problem:
            self._warn(f"{path}: treated as missing: {reading.problem}")
        return reading.record


@contextmanager
def store_in_the_making(place: Path) -> Iterator[Path]:
    """As :func:`~compbench.run.files.folder_in_the_making`, for a folder that the user has named.

    Raises:
        StoreError: It can't be made or filled; the message names its place, and not where it is made.
    """
    made = ""
    try:
        with folder_in_the_making(place.resolve()) as folder:
            made = str(folder)
            yield folder
    except OSError as error:
        raise cannot("write", place, error) from error
    except StoreError as error:
        if made and made in str(error):
            raise StoreError(str(error).replace(made, str(place))) from error
        raise


def checkpoints_folder(directory: Path) -> Path:
    """Where the checkpoints of a suite are, in its own folder."""
    return directory / "checkpoints"


def result_folders(directory: Path) -> list[Path]:
    """The folders of suites' results in a folder, by name."""
    return sorted(path.parent for path in directory.glob("*/suite.json") if not path.parent.name.startswith("."))


def _no_results(directory: Path) -> str:
    """Why a folder has no results to show, and which ones near it have."""
    inside = [folder.name for folder in result_folders(directory)]
    if inside:
        return f"{directory} has the results of several suites: name one of its folders ({', '.join(inside)})"
    what = "is no suite's results folder: it has no usable suite.json" if directory.exists() else "does not exist"
    beside = [folder.name for folder in result_folders(directory.parent)]
    allowed = f" (beside it: {', '.join(beside)})" if beside else ""
    return f"results folder {directory} {what}{nearest(directory.name, beside)}{allowed}"
