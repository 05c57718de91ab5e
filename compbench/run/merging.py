"""Joins the results of one suite from several folders, such as seeds that ran on several machines.

A joined store is one table, so that whatever may not stand in one table is refused, all reasons at once:

- arms that are not the same in all folders: other settings, or another source of a plugin;
- several records of one cell, unless a rule is named by which one is taken; the others are then named in the store;
- arms of one seed that began with other weights, or ran on unlike machines: a pair would differ by more than its
  strategy;
- times of unlike machines, unless they are left out of all tables.

Records are taken byte for byte, and the folders that they come from are never changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from compbench.errors import SettingsError, StoreError
from compbench.run.comparable import Owned, broken_pairs, by_value, listed, named, unlike_arms, unlike_times
from compbench.run.files import make_folder
from compbench.run.machine import Machine
from compbench.run.merged import JoinedStore, LeftOut, MergeRecord, Prefer
from compbench.run.result import CellResult
from compbench.run.store import LOGGER, Store, SuiteRecord, Warn, store_in_the_making

_JOINED = frozenset({"schema_version", "description", "keys", "command"})
"""What suites' records may differ in: it is joined, or one of it is taken."""


class MergeRefusedError(StoreError):
    """Stores that may not be joined; ``reasons`` has all that was found."""

    def __init__(self, parts: Sequence[Part], reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        names = ", ".join(part.name for part in parts)
        super().__init__("\n".join([f"can't join {names}:", *(f"  - {reason}" for reason in reasons)]))


@dataclass(frozen=True)
class Part:
    """One of the stores that are to be joined, as it was found.

    Attributes:
        name: What the user called it.
        records: Those of its suite's cells that can be used, by key.
        machines: Descriptions of the machines that they ran on, by hash.
        merged: Of which stores it was made itself.
        remarks: What is not taken from it, and why, a line each.
    """

    name: str
    store: Store
    suite: SuiteRecord
    records: Mapping[str, CellResult]
    machines: Mapping[str, Machine]
    merged: MergeRecord | None
    remarks: Sequence[str]

    def owned(self, key: str) -> Owned:
        """A record with whose it is."""
        record = self.records[key]
        return Owned(record, self.name, self.machines.get(record.machine))


@dataclass(frozen=True)
class Joined:
    """Stores that may be joined, and what comes of it.

    Attributes:
        suite: What the joined store says of its suite.
        merged: What it says of those that it was made of.
        parts: The stores.
        taken: By key, the part whose record is taken.
        same: How many cells have the same record in several parts.
        text: The suite's file, where all parts that have one have the same.
        remarks: What is worth saying and stops nothing, a line each.
    """

    suite: SuiteRecord
    merged: MergeRecord
    parts: Sequence[Part]
    taken: Mapping[str, Part]
    same: int
    text: str | None
    remarks: Sequence[str]

    def count(self, part: Part) -> int:
        """How many records are taken from a part."""
        return sum(taken is part for taken in self.taken.values())


def join(
    directories: Sequence[Path], prefer: Prefer | None = None, without_times: bool = False, warn: Warn = LOGGER.warning
) -> Joined:
    """Finds out whether stores may be joined, and what would come of it; nothing is written.

    Args:
        directories: Two suites' own folders or more.
        prefer: Which record is taken where several stores have different ones of a cell.
        without_times: The joined store's tables are to show no times.
        warn: Is handed one line for each machine's description that can't be used.

    Raises:
        SettingsError: There are fewer than two folders, or one is named twice.
        MergeRefusedError: They may not be joined.
        StoreError: One is no suite's results folder, has no record, can't be read, or is a newer compbench's.
    """
    _check_different(directories)
    parts = [_read(directory, warn) for directory in directories]
    reasons = _of_other_suites(parts)
    if reasons:
        raise MergeRefusedError(parts, reasons)
    taken, left_out, same, undecided = _choose(parts, prefer)
    chosen = [part.owned(key) for key, part in taken.items()]
    times: Literal["shown", "left out"] = "left out" if without_times or _left_out_before(parts) else "shown"
    changed = unlike_arms([part.owned(key) for part in parts for key in part.records])
    reasons = [*(changed or _other_plans(parts)), *undecided, *broken_pairs(chosen)]
    if times == "shown":
        reasons += unlike_times(chosen)
    if reasons:
        raise MergeRefusedError(parts, reasons)
    texts = {text for part in parts if (text := part.store.suite_text()) is not None}
    merged = MergeRecord(
        stores=[_joined(part, taken) for part in parts],
        left_out=[*(record for part in parts if part.merged for record in part.merged.left_out), *left_out],
        times=times,
    )
    remarks = [*(remark for part in parts for remark in part.remarks), *_remarks(parts, chosen, texts)]
    return Joined(_suite(parts), merged, parts, taken, same, texts.pop() if len(texts) == 1 else None, remarks)


def write_joined(joined: Joined, into: Path, finish: Callable[[Path], None] = lambda folder: None) -> None:
    """Writes a joined store, whole or not at all.

    Args:
        joined: What is to be written.
        into: Its folder; see :func:`check_target`.
        finish: Is called with the folder before it takes its place, to put more into it.

    Raises:
        SettingsError: It can't be put there.
        StoreError: It can't be written, or a record has changed in the meantime; nothing of it is left.
    """
    check_target(into, [part.store.directory for part in joined.parts])
    with store_in_the_making(into) as folder:
        _fill(joined, folder)
        finish(folder)


def check_target(into: Path, sources: Iterable[Path]) -> None:
    """Whether a joined store can be put into a folder: one that is not there yet, or empty, and in none of its sources.

    Raises:
        SettingsError: It can't.
    """
    place = into.resolve()
    for source in sources:
        if source.resolve() in (place, *place.parents):
            raise SettingsError(f"--into {into} is in {source}, which is to be joined (allowed: a folder elsewhere)")
    try:
        free = not place.exists() or (place.is_dir() and not any(place.iterdir()))
    except OSError as error:
        raise SettingsError(f"--into {into} can't be read: {error.strerror or error}") from error
    if not free:
        what = "is not empty" if place.is_dir() else "is a file"
        raise SettingsError(f"--into {into} {what} (allowed: a folder that is not there yet, or is empty)")


def _fill(joined: Joined, folder: Path) -> None:
    store = Store(folder, durably=False)
    for name in ("cells", "logs", "machines"):
        make_folder(folder / name)
    for key, part in joined.taken.items():
        expected = part.records[key]
        if _text(store.copy_record(key, part.store).record) != _text(expected):
            raise StoreError(f"{part.name}: the record of {key} has changed while it was joined; join again")
        store.copy_log(key, part.store)
    described = {digest: part for part in joined.parts for digest in part.machines}
    for digest in sorted({part.records[key].machine for key, part in joined.taken.items()} & set(described)):
        store.copy_machine(digest, described[digest].store)
    store.save_merged(joined.merged)
    if joined.text is not None:
        store.save_suite_text(joined.text)
    store.save_suite(joined.suite)


def _check_different(directories: Sequence[Path]) -> None:
    if len(directories) < 2:
        raise SettingsError(f"only {', '.join(map(str, directories)) or 'no folder'} to join (allowed: two or more)")
    seen: dict[Path, Path] = {}
    for directory in directories:
        place = directory.resolve()
        if place in seen:
            raise SettingsError(f"{seen[place]} and {directory} are the same folder (allowed: each folder once)")
        seen[place] = directory


def _read(directory: Path, warn: Warn) -> Part:
    name = str(directory)
    store, suite = Store.open(directory, warn)
    records, remarks = {}, []
    for key in suite.keys:
        reading = store.inspect(key)
        if reading.record is not None:
            records[key] = reading.record
        elif reading.problem:
            remarks.append(f"{directory / 'cells' / f'{key}.json'}: not trusted, and not taken: {reading.problem}")
    if not records:
        damaged = f" that can be trusted ({len(remarks)} can't)" if remarks else ""
        raise StoreError(
            f"{directory} has no record{damaged} of any of the {len(suite.keys)} cells of suite '{suite.name}'"
        )
    leftovers = sorted(set(store.keys()) - set(suite.keys))
    if leftovers:
        remarks.append(f"{name}: not taken, since they are of no cell of its suite: {listed(leftovers)}")
    at_work = store.at_work(suite.keys)
    if at_work:
        remarks.append(f"{name}: a run is at work on {listed(at_work)}; what was finished before is taken")
    digests = {result.machine for result in records.values() if result.machine}
    machines = {digest: machine for digest in sorted(digests) if (machine := store.machine(digest))}
    return Part(name, store, suite, records, machines, store.merged(), remarks)


def _of_other_suites(parts: Sequence[Part]) -> list[str]:
    """In what the folders differ in what they say of their suite, beside what may differ."""
    reasons = []
    for name in SuiteRecord.model_fields:
        values = [(part.name, _in_words(getattr(part.suite, name))) for part in parts]
        if name not in _JOINED and len({value for _, value in values}) > 1:
            what = (
                "they are of several suites" if name == "name" else f"their suites differ in {name.replace('_', ' ')}"
            )
            reasons.append(f"{what}: {by_value(values)}")
    return reasons


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {own}" for name, own in sorted(value.items())) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, sorted(value))) or "none"
    return f"'{value}'"


def _other_plans(parts: Sequence[Part]) -> list[str]:
    """Cells of one arm, depth and seed that are other work in one store than in another, and have not all been run."""
    plans: list[dict[str, set[str]]] = [defaultdict(set) for _ in parts]
    for plan, part in zip(plans, parts, strict=True):
        for key in part.suite.keys:
            plan[key.rpartition("-")[0]].add(key)
    names = dict.fromkeys(name for plan in plans for name in plan)
    unlike = [name for name in names if len({frozenset(plan[name]) for plan in plans if name in plan}) > 1]
    if not unlike:
        return []
    return [
        "cells of the same name are other work in one than in another, since settings or plugins have changed before "
        f"they were run in both: {listed(unlike)}"
    ]


def _choose(parts: Sequence[Part], prefer: Prefer | None) -> tuple[dict[str, Part], list[LeftOut], int, list[str]]:
    """Of each cell, the part whose record is taken; what is left out; how many are the same; what can't be decided."""
    taken: dict[str, Part] = {}
    left_out: list[LeftOut] = []
    undecided, undated = [], []
    same = 0
    for key in dict.fromkeys(key for part in parts for key in part.suite.keys):
        having = [part for part in parts if key in part.records]
        different: dict[str, Part] = {}
        for part in having:
            different.setdefault(_text(part.records[key]), part)
        owners = list(different.values())
        same += len(having) > 1 and len(owners) == 1
        if len(owners) > 1:
            statuses = ", ".join(f"{part.records[key].status} in {part.name}" for part in owners)
            said = f"{named(owners[0].records[key].cell)} ({statuses})"
            if prefer is None:
                undecided.append(said)
            elif prefer != "first" and not all(_began(part.records[key]) for part in owners):
                undated.append(said)
            else:
                owners = _ranked(owners, key, prefer)
                left_out += [_left_out(part.records[key], owners[0].records[key], prefer) for part in owners[1:]]
        if owners:
            taken[key] = owners[0]
    reasons = []
    if undecided:
        reasons.append(
            "several of them have a record of the same cell, and not the same one (allowed: --prefer first, oldest or "
            f"newest, and tables name what that leaves out): {listed(undecided)}"
        )
    if undated:
        reasons.append(f"some of these don't say when they began (allowed: --prefer first): {listed(undated)}")
    return taken, left_out, same, reasons


def _ranked(owners: Sequence[Part], key: str, prefer: Prefer) -> list[Part]:
    """The parts that have different records of a cell, the one that is preferred first, else in their own order."""
    if prefer == "first":
        return list(owners)
    return sorted(owners, key=lambda part: _began(part.records[key]), reverse=prefer == "newest")


def _began(record: CellResult) -> float:
    """When a record began, in seconds; 0 if it does not say."""
    try:
        began = datetime.fromisoformat(record.started_at)
    except ValueError:
        return 0.0
    return (began if began.tzinfo else began.replace(tzinfo=UTC)).timestamp()


def _left_out(record: CellResult, kept: CellResult, prefer: Prefer) -> LeftOut:
    return LeftOut(
        key=record.key,
        label=record.cell.label,
        depth=record.cell.depth,
        seed=record.cell.seed,
        prefer=prefer,
        kept_status=kept.status,
        status=record.status,
        reason=record.reason,
        machine=record.machine,
        started_at=record.started_at,
        metrics=record.metrics,
    )


def _left_out_before(parts: Iterable[Part]) -> bool:
    """Whether tables of one of the stores show no times already."""
    return any(part.merged is not None and part.merged.times == "left out" for part in parts)


def _joined(part: Part, taken: Mapping[str, Part]) -> JoinedStore:
    records = [part.records[key] for key, own in taken.items() if own is part]
    return JoinedStore(cells=len(records), machines=sorted({record.machine for record in records if record.machine}))


def _suite(parts: Sequence[Part]) -> SuiteRecord:
    """What is said of the suite: the cells and the commands of all, in the order in which the folders were named."""
    commands = dict.fromkeys(line for part in parts for line in part.suite.command.splitlines())
    keys = dict.fromkeys(key for part in parts for key in part.suite.keys)
    return parts[0].suite.model_copy(update={"keys": list(keys), "command": "\n".join(commands)})


def _remarks(parts: Sequence[Part], chosen: Iterable[Owned], texts: set[str]) -> list[str]:
    remarks = []
    if len({part.suite.description for part in parts}) > 1:
        remarks.append(f"the descriptions of the suite differ: that of {parts[0].name} is taken")
    if len(texts) > 1:
        remarks.append("the files of the suite differ, so that none is kept (one file, run with --only, stays one)")
    commits = {owned.machine.commit for owned in chosen if owned.machine}
    if len(commits) > 1:
        remarks.append(f"the cells ran under {len(commits)} commits of compbench, which the results' page names")
    return remarks


def _text(record: CellResult | None) -> str:
    """What a record says; in it, what is not a number is the same as itself."""
    return "" if record is None else record.model_dump_json()
