"""What a store has in it when it is published: read once, and written without names that must not be published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compbench.errors import SettingsError, StoreError
from compbench.report.cleaning import Cleaner, texts_in
from compbench.run.files import make_folder, write_atomically
from compbench.run.merged import MergeRecord
from compbench.run.result import CellResult
from compbench.run.store import Store, SuiteRecord

CLEANED = "cleaned.txt"
"""The keys of records that were written anew, without names; not there where there is none."""


@dataclass(frozen=True)
class Snapshot:
    """What a store had in it when it was read.

    Attributes:
        damaged: Why a record is not trusted, by key.
        logs: What the logs say that are to be published, by key.
        at_work: Cells that some run was at work on.
        cleaned_before: Keys of records that were cleaned when this store was published, if it is a publication.
    """

    store: Store
    suite: SuiteRecord
    records: Mapping[str, CellResult]
    damaged: Mapping[str, str]
    merged: MergeRecord | None
    text: str | None
    logs: Mapping[str, str]
    at_work: Sequence[str]
    cleaner: Cleaner
    cleaned_before: Sequence[str]

    @classmethod
    def of(cls, store: Store, suite: SuiteRecord, with_logs: bool, allow_paths: bool) -> Snapshot:
        """Reads a store.

        Args:
            store: The store.
            suite: What it says of its suite.
            with_logs: Whether logs are to be published.
            allow_paths: Whether settings may be published that are places on this machine.

        Raises:
            SettingsError: A setting is a place on this machine, and that is not to be published.
            StoreError: It has no record, can't be read, or is a newer compbench's.
        """
        at_work = store.at_work(suite.keys)
        records, damaged = {}, {}
        for key in suite.keys:
            reading = store.inspect(key)
            if reading.record is not None:
                records[key] = reading.record
            elif reading.problem:
                damaged[key] = reading.problem
        if not records:
            trusted = f" that can be trusted ({len(damaged)} can't)" if damaged else ""
            number = len(suite.keys)
            raise StoreError(f"{store.directory} has no record{trusted} of any of the {number} cells of '{suite.name}'")
        merged, text = store.merged(), store.suite_text()
        logs = {key: log for key in records if (log := _log(store, key)) is not None} if with_logs else {}
        contents = [
            model.model_dump(mode="json") for model in (*records.values(), suite, *([merged] if merged else []))
        ]
        texts = [found for content in contents for found in texts_in(content)]
        cleaner = Cleaner([*texts, text or "", *logs.values()], _words(suite, records.values()))
        if not allow_paths:
            _refuse_places(records.values(), cleaner)
        before = [key for key in _cleaned_before(store) if key in records]
        return cls(store, suite, records, damaged, merged, text, logs, at_work, cleaner, before)

    def write(self, folder: Path) -> list[str]:
        """Puts it into a folder, clean; returns the keys of records that were written anew for that, now or before.

        Raises:
            StoreError: It can't be written, or a record has changed since it was read.
        """
        target, clean = Store(folder, durably=False), self.cleaner.text
        for name in ("cells", "machines", *(["logs"] if self.logs else [])):
            make_folder(folder / name)
        cleaned = set(self.cleaned_before)
        for key, record in self.records.items():
            without = _cleaned(record, self.cleaner)
            if without is not None:
                target.save(without)
                cleaned.add(key)
            elif _text(target.copy_record(key, self.store).record) != _text(record):
                raise StoreError(f"the record of {key} has changed while it was published; publish again")
        for digest in sorted({record.machine for record in self.records.values() if record.machine}):
            target.copy_machine(digest, self.store)
        for key, log in self.logs.items():
            write_atomically(target.log_path(key), clean(log), durably=False)
        if self.merged is not None:
            left_out = [own.model_copy(update={"reason": clean(own.reason)}) for own in self.merged.left_out]
            target.save_merged(self.merged.model_copy(update={"left_out": left_out}))
        if self.text is not None:
            target.save_suite_text(clean(self.text))
        said = {"description": clean(self.suite.description), "command": clean(self.suite.command)}
        target.save_suite(self.suite.model_copy(update=said))
        if cleaned:
            write_atomically(folder / CLEANED, "".join(f"{key}\n" for key in sorted(cleaned)), durably=False)
        return sorted(cleaned)

    def remarks(self) -> Iterator[str]:
        """What is not published, a line each."""
        cells = self.store.directory / "cells"
        for key, problem in self.damaged.items():
            yield f"{cells / f'{key}.json'}: not trusted, and not published: {problem}"
        if self.at_work:
            yield f"a run is at work on {len(self.at_work)} of the cells; what was finished before is published"


def _cleaned_before(store: Store) -> list[str]:
    path = store.directory / CLEANED
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError):
        return []


def _words(suite: SuiteRecord, records: Iterable[CellResult]) -> set[str]:
    """Words that stand in tables, and so are nobody's name."""
    words = {"compbench", "torch", suite.name}
    for record in records:
        words |= {record.cell.arm, record.cell.workload.name, *record.metrics, *record.cell.variant}
        words |= {member.name for member in record.cell.strategy}
    return words


def _cleaned(record: CellResult, cleaner: Cleaner) -> CellResult | None:
    """A record without names that must not be published; None where it has none. What identifies it is left alone."""
    identity = {"cell", "key", "machine", "log"}
    content = record.model_dump(mode="json", exclude=identity)
    clean = cleaner.value(content)
    if clean == content:
        return None
    return CellResult.model_validate(record.model_dump(mode="json", include=identity) | clean)


def _refuse_places(records: Iterable[CellResult], cleaner: Cleaner) -> None:
    """Refuses settings that are places on this machine.

    Raises:
        SettingsError: There are some.
    """
    found: dict[str, str] = {}
    for record in records:
        for text in texts_in(record.cell.model_dump(mode="json", exclude={"plugins_dir"})):
            if cleaner.text(text) != text:
                found.setdefault(text, record.key)
    if found:
        shown = ", ".join(f"'{text}' in {key}" for text, key in list(found.items())[:5])
        raise SettingsError(
            "settings name places on this machine, and can't be cut, since they are part of what a cell is: "
            f"{shown} (allowed: --allow-paths, which publishes them as they are)"
        )


def _log(store: Store, key: str) -> str | None:
    """A cell's log; None where there is none. A link is none, for it may lead anywhere."""
    path = store.log_path(key)
    try:
        if path.is_symlink() or not path.is_file():
            return None
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror or error}") from error


def _text(record: CellResult | None) -> str:
    """What a record says; in it, what is not a number is the same as itself."""
    return "" if record is None else record.model_dump_json()
