"""The analyses by name, with their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from compbench.analysis import distribution, drift, gradient, linearity, spectrum, trajectory
from compbench.analysis.result import Analysis, Settings
from compbench.analysis.trained import Trained
from compbench.errors import SettingsError, nearest, unknown

ALL = "all"


@dataclass(frozen=True)
class Entry:
    """An analysis.

    Attributes:
        settings: The model of its options.
        analyse: What does it.
    """

    settings: type[Settings]
    analyse: Callable[[Trained, Any], Analysis]


ANALYSES: Mapping[str, Entry] = {
    "spectrum": Entry(spectrum.Spectrum, spectrum.analyse),
    "linearity": Entry(linearity.Linearity, linearity.analyse),
    "distribution": Entry(distribution.Distribution, distribution.analyse),
    "gradient": Entry(gradient.Gradient, gradient.analyse),
    "drift": Entry(drift.Drift, drift.analyse),
    "trajectory": Entry(trajectory.Trajectory, trajectory.analyse),
}
"""In the order in which they are made."""


def settings_of(name: str, options: list[str]) -> dict[str, Settings]:
    """The options of each analysis that is asked for.

    Args:
        name: An analysis, or ``all``.
        options: Such as ``ranks=[8, 16]``. With ``all`` an option is for all that have it; ``linearity.codes=[8]`` is
            for one.

    Raises:
        SettingsError: There is no such analysis or option, or its value is not allowed.
    """
    if name != ALL and name not in ANALYSES:
        raise SettingsError(unknown("analysis", name, [*ANALYSES, ALL]))
    chosen = list(ANALYSES) if name == ALL else [name]
    given: dict[str, dict[str, Any]] = {each: {} for each in chosen}
    for option in options:
        key, separator, text = option.partition("=")
        if not separator:
            raise SettingsError(f"--set {option}: not of the form FIELD=VALUE")
        only, _, field = key.strip().rpartition(".")
        owners = [each for each in chosen if field in ANALYSES[each].settings.model_fields and only in ("", each)]
        if not owners:
            allowed = sorted({field for each in chosen for field in ANALYSES[each].settings.model_fields})
            near = nearest(field, allowed)
            raise SettingsError(f"--set {option}: {name} has no option '{key}'{near} (allowed: {', '.join(allowed)})")
        for owner in owners:
            given[owner][field] = _value(option, text)
    return {each: _validated(each, fields) for each, fields in given.items()}


def _value(option: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {option}: the value is no YAML") from error


def _validated(name: str, fields: Mapping[str, Any]) -> Settings:
    model = ANALYSES[name].settings
    lists = {field for field, info in model.model_fields.items() if str(info.annotation).startswith("tuple")}
    listed = {
        field: [value] if field in lists and isinstance(value, int | str) else value for field, value in fields.items()
    }
    try:
        return model(**listed)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        told = model.model_fields[field].description
        raise SettingsError(f"--set {field}={fields[field]}: {first['msg']} ({name}: {told})") from error
