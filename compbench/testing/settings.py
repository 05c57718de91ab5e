"""What the settings of a strategy must hold to: they describe themselves, and can be written down and made again."""

from __future__ import annotations

import copy
import pickle
import sys

from compbench.compressor import Compressor
from compbench.errors import one_line
from compbench.testing.trial import Trial, Violation, conformance


@conformance()
def describes_itself(trial: Trial) -> None:
    """The strategy has a name and a docstring, and every field a default and a description."""
    for member in trial.members:
        kind = type(member)
        name = getattr(kind, "name", None)
        if not isinstance(name, str) or not name:
            raise Violation(f"{kind.__name__}.name is {name!r} (allowed: the name that suites use)")
        if not (vars(kind).get("__doc__") or "").strip():
            raise Violation(f"{kind.__name__} has no docstring; its first line is what listings show")
        for field, declared in kind.model_fields.items():
            if declared.is_required():
                raise Violation(f"field '{field}' has no default: '{name}' alone must be a strategy")
            if not declared.description:
                raise Violation(f"field '{field}' has no description; users see it in `compbench plugins {name}`")


@conformance()
def can_be_made_again(trial: Trial) -> None:
    """Settings are equal to themselves after pickle, deep copy, model_dump() and JSON."""
    _equal(trial.compressor, copy.deepcopy(trial.compressor), "a deep copy")
    if all(_has_an_address(type(member)) for member in trial.members):
        try:
            pickled = pickle.dumps(trial.compressor)
        except Exception as error:
            raise Violation(f"the strategy can't be pickled: {one_line(error)}") from error
        _equal(trial.compressor, pickle.loads(pickled), "pickle")  # noqa: S301 - what was pickled just now
    for member in trial.members:
        kind = type(member)
        _equal(member, kind(**member.model_dump()), "model_dump()")
        # As cells are made, in a process of their own: from the fields that differ from their defaults.
        text = member.model_dump_json(exclude_defaults=True)
        _equal(member, kind.model_validate_json(text, strict=True), f"JSON ({text})")


def _has_an_address(kind: type) -> bool:
    """Whether a class is found under its name in its module, as pickle looks for it; one made in a function is not."""
    found: object = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def _equal(strategy: Compressor, again: object, way: str) -> None:
    if again != strategy:
        raise Violation(f"made again by way of {way}, the settings are {again!r}, no longer {strategy!r}")


SETTINGS = (describes_itself, can_be_made_again)
"""All properties of settings, in the order in which they are told."""
