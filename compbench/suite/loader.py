"""A YAML file as a validated suite: every mistake is found before anything runs, and told with its line.

What a strategy or workload allows is asked of the strategy or workload. An arm whose plugin is broken is no mistake of
the file: it is kept, with the reason, and the other arms run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from compbench.capture.settings import CaptureSettings
from compbench.errors import CompbenchError, SettingsError, SuiteError, unknown
from compbench.fields import FieldProblem, FieldsError, Location, in_words
from compbench.measure.metric_names import metric_names
from compbench.registry import Registry
from compbench.suite.arms import Arm, arm_axis, read_arms
from compbench.suite.cell import Measuring, PluginReference, Training
from compbench.suite.checking import Axis, Checker, Choice, choices, construct_at, what_it_says
from compbench.suite.executors import Executors
from compbench.suite.head import DEVICES_ELSEWHERE, Head, HeadElsewhere, available_devices, default_device
from compbench.suite.shipped import find_suite, read_suite
from compbench.suite.source import Source
from compbench.suite.suite import Suite, Variant
from compbench.workloads.base import Workload
from compbench.workloads.own import own_workload

Section = TypeVar("Section", bound=BaseModel)

_REQUIRED = ("name", "workload", "arms", "matrix")
_SMALLEST = {"depth": 1, "seed": 0}


_KEYS = (
    *_REQUIRED,
    "training",
    "measuring",
    "capture",
    "executor",
    *(key for key in Head.model_fields if key != "name"),
)


def load_suite(
    path_or_name: str | Path,
    registry: Registry,
    device: str | None = None,
    elsewhere: bool = False,
    check_metrics: bool = False,
) -> Suite:
    """Reads and checks a suite.

    Args:
        path_or_name: a YAML file, or the name of a shipped suite, such as ``quick`` or ``small/table1``.
        registry: where strategies and workloads are looked up.
        device: where to run instead of on the device that the file names.
        elsewhere: its cells run on other machines, so that its device need not be there.
        check_metrics: whether the metrics that it names are looked for, which makes a model and data of its workload.

    Raises:
        SettingsError: ``device`` is not there.
        SuiteError: with every mistake of the file, or the one that it can't be read.
    """
    there = DEVICES_ELSEWHERE if elsewhere else available_devices()
    if device is not None and device not in there:
        where = "on a cluster" if elsewhere else "here"
        raise SettingsError(f"no device '{device}' {where} (available: {', '.join(there)})")
    found = find_suite(path_or_name)
    text = read_suite(found)
    source = Source.parse(text, str(found))
    suite = _Loader(source, registry, device, HeadElsewhere if elsewhere else Head, check_metrics).suite()
    return replace(suite, text=text)


@dataclass
class _Axes:
    """The further axes by what they set."""

    sections: dict[str, list[Axis]] = field(default_factory=lambda: defaultdict(list))
    arms: dict[str, list[Axis]] = field(default_factory=lambda: defaultdict(list))


class _Loader:
    def __init__(
        self, source: Source, registry: Registry, device: str | None, head: type[Head], check_metrics: bool
    ) -> None:
        self._head_model = head
        self._check_metrics = check_metrics
        self._device = device
        self._source = source
        self._registry = registry
        self._checker = Checker(source)
        self._data: dict[str, Any] = {}

    def suite(self) -> Suite:
        """The suite.

        Raises:
            SuiteError: with every mistake.
        """
        self._read_keys()
        head = self._head()
        arms = read_arms(self._data["arms"], self._registry, self._checker) if "arms" in self._data else []
        matrix = self._matrix() if "matrix" in self._data else {}
        record = self._workload_record() if "workload" in self._data else None
        axes = self._axes(matrix, arms, record)
        workloads = self._workloads(record, axes.sections["workload"], matrix) if record else []
        trainings = self._sections("training", Training, axes.sections["training"])
        strategies = {
            arm.name: self._checker.attempt(
                choices(axes.arms[arm.name]), ("arms", arm.name), partial(arm.make, self._registry)
            )
            for arm in arms
        }
        measurings = self._sections("measuring", Measuring, axes.sections["measuring"])
        captures = self._sections("capture", CaptureSettings, axes.sections["capture"])
        executors = self._sections("executor", Executors, [])
        if self._data.get("margins") and "none" not in self._arm_names():
            self._checker.add(("margins",), "margins are judged against an arm named 'none', and there is none")
        lower_is_better = self._lower_is_better(head.lower_is_better)
        if self._check_metrics:
            self._find_metrics([workload for _, (workload, _) in workloads], matrix)
        problems = self._checker.problems()
        if problems:
            raise SuiteError(problems)
        variants = tuple(
            Variant(
                arm=arm.name,
                values=dict(sorted(values.items())),
                workload=workload,
                strategy=strategy,
                training=training,
                capture=capture,
                measuring=measuring,
            )
            for first, (_, workload) in workloads
            for second, training in trainings
            for third, capture in captures
            for fourth, measuring in measurings
            for arm in arms
            for fifth, (_, strategy) in strategies[arm.name]
            for values in [first.values | second.values | third.values | fourth.values | fifth.values]
        )
        return Suite(
            name=head.name,
            description=head.description,
            workload=workloads[0][1][0],
            arms={name: made[0][1][0] for name, made in strategies.items()},
            broken_arms={arm.name: arm.broken for arm in arms if arm.broken},
            matrix=matrix,
            variants=variants,
            training=trainings[0][1],
            measuring=measurings[0][1],
            capture=captures[0][1],
            margins=head.margins,
            device=head.device or default_device(),
            threads=head.threads,
            timeout_seconds=head.timeout_seconds,
            checkpoint_minutes=head.checkpoint_minutes,
            memory_limit=None if head.memory_limit is None else int(head.memory_limit),
            path=self._source.file,
            executors=executors[0][1],
            lower_is_better=lower_is_better,
        )

    def _read_keys(self) -> None:
        data = self._source.data
        if isinstance(data, dict):
            self._data = data
            for key in data:
                if key not in _KEYS:
                    self._checker.add((key,), unknown("key", key, _KEYS))
            for key in _REQUIRED:
                if key not in data:
                    self._checker.add((), f"key '{key}' is missing (required: {', '.join(_REQUIRED)})")
            return
        if not self._source.problems:
            what = "the file is empty" if data is None else f"the file holds {in_words(data)}"
            self._checker.add((), f"{what} (allowed: a mapping with the keys {', '.join(_KEYS)})")
        raise SuiteError(self._checker.problems())

    def _head(self) -> Head:
        """The plain values; a stand-in where they are wrong, since other mistakes are still to be found."""
        given = {
            key: value
            for key, value in self._data.items()
            if key in Head.model_fields and (value is not None or key == "name")
        }
        if self._device is not None:
            given["device"] = self._device
        given.setdefault("name", "missing")  # which has been told already
        made = self._checker.attempt(
            choices([]), (), lambda choice: construct_at((), self._head_model, given, "", choice)
        )
        return made[0][1] if made else Head(name="wrong")

    def _lower_is_better(self, given: Sequence[str]) -> tuple[str, ...]:
        """The metrics of which less is better; that a plugin says otherwise of its own is noted."""
        declared = {name: found.record.better for name, found in self._registry.metrics.items()}
        for index, name in enumerate(given):
            if declared.get(name) == "higher":
                message = f"of metric '{name}' more is better, as its plugin has it (allowed: metrics that don't say)"
                self._checker.add(("lower_is_better", index), message)
        return tuple(sorted({*given, *(name for name in declared if declared[name] == "lower")}))

    def _find_metrics(self, workloads: Sequence[Workload], matrix: Mapping[str, list[Any]]) -> None:
        """Notes metrics that are named and that no workload has; nothing where one can't tell what it has."""
        margins, lower = self._data.get("margins"), self._data.get("lower_is_better")
        named: list[tuple[Any, Location]] = [
            (name, ("margins", name)) for name in (margins if isinstance(margins, dict) else ())
        ]
        if isinstance(lower, list):
            named += [(name, ("lower_is_better", index)) for index, name in enumerate(lower)]
        depths = [depth for depth in matrix.get("depth", []) if _whole(depth, _SMALLEST["depth"])]
        known = set(self._registry.metrics)
        unknown_names = [(name, at) for name, at in named if isinstance(name, str) and name not in known]
        for workload in workloads if unknown_names and depths else ():
            try:
                own = metric_names(workload.at_depth(min(depths)))
            except Exception:  # it has no such depth, which has been told
                return
            if own is None:
                return
            known |= set(own)
            unknown_names = [(name, at) for name, at in unknown_names if name not in known]
            if not unknown_names:
                return
        for name, location in unknown_names if workloads and depths else ():
            self._checker.add(location, unknown("metric", name, known))

    def _sections(self, key: str, model: type[Section], axes: list[Axis]) -> list[tuple[Choice, Section]]:
        given = self._data.get(key)
        if given is not None and not isinstance(given, dict):
            self._checker.add((key,), f"{key} is {in_words(given)} (allowed: a mapping of {_listed(model)})")
            return []
        return self._checker.attempt(
            choices(axes), (key,), lambda choice: construct_at((key,), model, given or {}, key, choice)
        )

    def _arm_names(self) -> list[str]:
        arms = self._data.get("arms")
        return list(arms) if isinstance(arms, dict) else ["none"]

    def _matrix(self) -> dict[str, list[Any]]:
        """The axes with a list of values; what is wrong with one is noted."""
        data = self._data["matrix"]
        if not isinstance(data, dict):
            what = "empty" if data is None else in_words(data)
            self._checker.add(("matrix",), f"matrix is {what} (allowed: a mapping of axes to lists of values)")
            return {}
        for axis in _SMALLEST:
            if axis not in data:
                self._checker.add(("matrix",), f"matrix has no axis '{axis}' (required: {', '.join(_SMALLEST)})")
        matrix = {}
        for axis, values in data.items():
            if not isinstance(values, list) or not values:
                what = "an empty list" if values == [] else in_words(values)
                self._checker.add(("matrix", axis), f"axis '{axis}' is {what} (allowed: a list such as [1, 2])")
                continue
            matrix[axis] = values
            for index, value in enumerate(values):
                if any(_same(value, earlier) for earlier in values[:index]):
                    self._checker.add(("matrix", axis, index), f"{axis} {in_words(value)} is given twice")
                if axis in _SMALLEST and not _whole(value, _SMALLEST[axis]):
                    allowed = f"an integer >= {_SMALLEST[axis]}"
                    self._checker.add(("matrix", axis, index), f"{axis} is {in_words(value)} (allowed: {allowed})")
        return matrix

    def _workload_record(self) -> type[Workload] | None:
        data = self._data["workload"]
        names = ", ".join(self._registry.workloads)
        if not isinstance(data, dict) or ("name" not in data and "module" not in data):
            found = "has no name" if isinstance(data, dict) else f"is {in_words(data)}"
            self._checker.add(
                ("workload",), f"workload {found} (allowed: a mapping with a name, one of: {names}; or with a module)"
            )
            return None
        if "name" in data and "module" in data:
            self._checker.add(("workload", "module"), "workload has a name and a module (allowed: one of them)")
            return None
        key = "name" if "name" in data else "module"
        name = data[key]
        if not isinstance(name, str):
            allowed = names if key == "name" else "package.module:Class"
            self._checker.add(("workload", key), f"workload's {key} is {in_words(name)} (allowed: {allowed})")
            return None
        try:
            return self._registry.workload_record(name) if key == "name" else own_workload(name)
        except CompbenchError as error:
            self._checker.add(("workload", key), str(error))
            return None

    def _workloads(
        self, record: type[Workload], axes: list[Axis], matrix: Mapping[str, list[Any]]
    ) -> list[tuple[Choice, tuple[Workload, PluginReference]]]:
        given = {key: value for key, value in self._data["workload"].items() if key not in ("name", "module")}

        def make(choice: Choice) -> tuple[Workload, PluginReference]:
            workload = construct_at(("workload",), record, given, f"workload '{record.name}'", choice)
            problems = []
            for index, depth in enumerate(matrix.get("depth", [])):
                if not _whole(depth, _SMALLEST["depth"]):
                    continue
                try:
                    deep = workload.at_depth(depth)
                    for name in given.keys() | {axis.field for axis in axes}:
                        if getattr(deep, name, None) != getattr(workload, name, None):
                            raise SettingsError(f"{name} is set by the depth; leave it out")
                except Exception as error:  # a plugin's own validation may raise anything
                    message = f"workload '{record.name}' at depth {depth}: {what_it_says(error)}"
                    problems.append(FieldProblem(("matrix", "depth", index), message))
            if problems:
                raise FieldsError(f"workload '{record.name}'", problems)
            (reference,) = self._registry.reference(workload)
            return workload, PluginReference(**vars(reference))

        return self._checker.attempt(choices(axes), ("workload",), make)

    def _axes(self, matrix: Mapping[str, list[Any]], arms: list[Arm], record: type[Workload] | None) -> _Axes:
        axes = _Axes()
        readable = {arm.name for arm in arms}
        fields = {
            "workload": set(record.model_fields) if record else set(),
            "training": set(Training.model_fields),
            "capture": set(CaptureSettings.model_fields),
            # The other fields of measuring say which passes are made: as axes they would leave holes in the table.
            "measuring": {"allocator"},
        }
        for name, values in matrix.items():
            if name in _SMALLEST:
                continue
            axis = Axis(name, name, tuple(values))
            arm = name.partition(".")[0]
            owners = [section for section in fields if name in fields[section]]
            if "." in name:
                found = None if arm in set(self._arm_names()) - readable else arm_axis(name, arms, self._checker)
                if found is not None:
                    axes.arms[found.arm].append(Axis(name, found.field, tuple(values), found.member))
            elif len(owners) > 1:
                message = f"axis '{name}' is a field of {' and of '.join(owners)} (allowed: a field of one of them)"
                self._checker.add(("matrix", name), message)
            elif owners:
                axes.sections[owners[0]].append(axis)
            elif record is not None:
                message = unknown("axis", name, {*_SMALLEST, *set().union(*fields.values())})
                self._checker.add(("matrix", name), f"{message}, or ARM.FIELD for a field of one arm")
        return axes


def _listed(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _whole(value: object, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest


def _same(one: object, other: object) -> bool:
    """Equality in which true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
