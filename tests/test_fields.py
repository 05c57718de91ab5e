"""Fields in words, and mistakes that say what was found and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compbench.fields import FieldsError, construct, describe_fields


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scale: float = Field(1.0, lt=2)


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    width: int = Field(ge=1, le=512, description="columns")
    clip: float | None = Field(1.0, gt=0)
    mode: Literal["row", "tensor"] = "row"
    bits: Literal[8] = 8
    betas: tuple[float, float] = (0.9, 0.95)
    sizes: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list, min_length=1)
    margins: dict[str, float] = {}
    even: int = Field(2, multiple_of=2)
    either: int | str = 0
    odd: int = 1
    inner: Inner = Inner()
    dtype: torch.dtype = torch.float32

    @field_validator("odd")
    @classmethod
    def _odd(cls, odd: int) -> int:
        if odd % 2 == 0:
            raise ValueError("it must be odd")
        return odd

    @model_validator(mode="after")
    def _wide_enough(self) -> Settings:
        if self.width < self.odd:
            raise ValueError("width must be at least odd")
        return self


@pytest.mark.parametrize(
    ("field", "allowed", "default"),
    [
        ("width", "an integer >= 1 and <= 512", "(required)"),
        ("clip", "a number > 0 or null", "1.0"),
        ("mode", "'row' or 'tensor'", "'row'"),
        ("bits", "8", "8"),
        ("betas", "a list of 2 values, each a number", "[0.9, 0.95]"),
        ("sizes", "a list of 1 or more, each an integer >= 1", "[]"),
        ("margins", "a mapping, each value a number", "{}"),
        ("even", "an integer divisible by 2", "2"),
        ("either", "an integer or a string", "0"),
        ("dtype", "any value", "torch.float32"),
    ],
)
def test_a_field_is_described_by_its_declaration(field: str, allowed: str, default: str) -> None:
    described = {description.name: description for description in describe_fields(Settings)}
    assert list(described) == list(Settings.model_fields)
    assert (described[field].allowed, described[field].default) == (allowed, default)


@pytest.mark.parametrize(
    ("fields", "location", "message"),
    [
        ({"width": 0}, ("width",), "width is 0 (allowed: an integer >= 1 and <= 512)"),
        ({"width": True}, ("width",), "width is true (allowed: an integer >= 1 and <= 512)"),
        ({"width": "16"}, ("width",), "width is '16' (allowed: an integer >= 1 and <= 512)"),
        ({"width": 16.5}, ("width",), "width is 16.5 (allowed: an integer >= 1 and <= 512)"),
        ({"width": None}, ("width",), "width is null (allowed: an integer >= 1 and <= 512)"),
        ({}, (), "width is missing, which must be an integer >= 1 and <= 512"),
        ({"clip": -1.0}, ("clip",), "clip is -1.0 (allowed: a number > 0 or null)"),
        ({"clip": float("nan")}, ("clip",), "clip is NaN (allowed: a number > 0 or null)"),
        ({"mode": "rows"}, ("mode",), "mode is 'rows' (allowed: 'row' or 'tensor')"),
        ({"betas": [1.0]}, ("betas",), "betas is [1.0] (allowed: a list of 2 values, each a number)"),
        ({"betas": [1.0, "x"]}, ("betas", 1), "betas.1 is 'x' (allowed: a number)"),
        ({"sizes": [1, 0]}, ("sizes", 1), "sizes.1 is 0 (allowed: an integer >= 1)"),
        ({"margins": {"a": "b"}}, ("margins", "a"), "margins.a is 'b' (allowed: a number)"),
        ({"either": None}, ("either",), "either is null (allowed: an integer or a string)"),
        ({"odd": 2}, ("odd",), "odd is 2: it must be odd"),
        ({"width": 1, "odd": 3}, (), "width must be at least odd"),
        ({"inner": {"scale": 3.0}}, ("inner", "scale"), "inner.scale is 3.0 (allowed: a number < 2)"),
        (
            {"inner": {"scael": 1.0}},
            ("inner", "scael"),
            "in inner: unknown field 'scael'; did you mean 'scale'? (allowed: scale)",
        ),
        ({"mood": "row"}, ("mood",), "unknown field 'mood'; did you mean 'mode'? (allowed: betas, bits, clip, "),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(
    fields: dict[str, Any], location: tuple[str | int, ...], message: str
) -> None:
    given = {"width": 16, "odd": 1, **fields} if fields else {}
    with pytest.raises(FieldsError) as error:
        construct(Settings, given, "strategy 'x'")
    (problem,) = error.value.problems
    assert problem.location == location
    assert problem.message.startswith(message)
    assert str(error.value).startswith(f"strategy 'x': {message}")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(FieldsError) as error:
        construct(Settings, {"width": 0, "mode": "x", "foo": 1}, "x")
    assert {problem.location for problem in error.value.problems} == {("width",), ("mode",), ("foo",)}


def test_plain_values_become_the_declared_types() -> None:
    made = construct(Settings, {"width": 4, "clip": 2, "betas": [1, 0.5]}, "x")
    assert (made.clip, made.betas) == (2.0, (1.0, 0.5))
    assert isinstance(made.clip, float)


def test_values_that_json_cannot_hold_are_taken_as_they_are() -> None:
    assert construct(Settings, {"width": 4, "dtype": torch.float16}, "x").dtype is torch.float16
    with pytest.raises(FieldsError, match="mode is "):
        construct(Settings, {"width": 4, "mode": Path("x")}, "x")


def test_a_long_value_is_cut() -> None:
    with pytest.raises(FieldsError) as error:
        construct(Settings, {"width": 4, "mode": "x" * 1000}, "x")
    assert len(str(error.value)) < 150
