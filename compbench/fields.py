"""The fields of a settings model in words: what each allows, and what is wrong with the values that were given.

Strategies, workloads and the sections of a suite are pydantic models. Here their declarations become the text of
listings, and their validation errors become messages that say which value was found and what is allowed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, PydanticJsonSchemaWarning
from pydantic_core import ErrorDetails, PydanticUndefined, core_schema

from compbench.errors import SettingsError, unknown

Location = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

_TYPES = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "a string",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}
_BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "divisible by {}",
    "pattern": "matching {}",
}


@dataclass(frozen=True)
class FieldProblem:
    """One value that is not allowed; ``location`` is its path within the fields, empty for the model as a whole."""

    location: Location
    message: str


class FieldsError(SettingsError):
    """Settings with values that are not allowed; ``problems`` has all of them."""

    def __init__(self, what: str, problems: Iterable[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{what}: " + "; ".join(problem.message for problem in self.problems))


@dataclass(frozen=True)
class FieldDescription:
    """One field as listings show it; ``allowed`` has type, choices and bounds, ``schema`` the same as JSON schema."""

    name: str
    allowed: str
    default: str
    description: str
    schema: dict[str, Any]


def construct(model: type[Model], fields: Mapping[str, Any], what: str) -> Model:
    """Makes a settings model from plain values, as strictly as JSON: true is not 1, and ``"16"`` is not 16.

    Args:
        model: the pydantic model.
        fields: values by field name; what JSON can't hold is taken as Python's own objects are.
        what: who is being set, for the message, such as ``strategy 'laser'``.

    Raises:
        FieldsError: fields are unknown, missing or hold values that are not allowed.
    """
    try:
        text = json.dumps(dict(fields))
    except (TypeError, ValueError):
        text = ""
    try:
        return model.model_validate_json(text, strict=True) if text else model.model_validate(dict(fields))
    except ValidationError as error:
        raise FieldsError(what, field_problems(model, fields, error)) from None


def field_problems(model: type[BaseModel], fields: Mapping[str, Any], error: ValidationError) -> list[FieldProblem]:
    """What a validation error means to whoever wrote ``fields``, each mistake once."""
    found = [_problem(model, fields, details) for details in error.errors(include_url=False)]
    return list(dict.fromkeys(found))


def describe_fields(model: type[BaseModel]) -> list[FieldDescription]:
    """The fields of a settings model, in the order of their declaration."""
    schemas = _field_schemas(model)
    described = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        described.append(
            FieldDescription(
                name=name,
                allowed=_allowed(schemas[name]),
                default="(required)" if default is PydanticUndefined else in_words(default),
                description=field.description or "",
                schema=schemas[name],
            )
        )
    return described


def in_words(value: object) -> str:
    """A value as it would be written in a suite, cut short if it is long."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = str(value)
    text = f"'{value}'" if isinstance(value, str) else text
    return text if len(text) <= 60 else f"{text[:57]}..."


def _problem(model: type[BaseModel], fields: Mapping[str, Any], details: ErrorDetails) -> FieldProblem:
    kind, location = details["type"], details["loc"]
    if kind in ("extra_forbidden", "missing") and isinstance(location[-1], str):
        schema = _schema_at(model, location[:-1])
        schema = next((option for option in schema.get("anyOf", []) if "properties" in option), schema)
        name = location[-1]
        names: dict[str, Any] = schema.get("properties", {})
        prefix = f"in {'.'.join(map(str, location[:-1]))}: " if location[:-1] else ""
        if kind == "extra_forbidden":
            return FieldProblem(location, prefix + unknown("field", name, names))
        required = f", which must be {_allowed(names[name])}" if name in names else ""
        return FieldProblem(location[:-1], f"{prefix}{name} is missing{required}")
    location, value = _present(fields, location)
    if kind in ("value_error", "assertion_error"):
        reason = f": {details['msg'].partition(', ')[2]}"
    else:
        allowed = _allowed(_schema_at(model, location)) if location else "any value"
        reason = f": {details['msg']}" if allowed == "any value" else f" (allowed: {allowed})"
    if not location:
        return FieldProblem(location, reason.removeprefix(": "))
    return FieldProblem(location, f"{'.'.join(map(str, location))} is {in_words(value)}{reason}")


def _present(fields: Mapping[str, Any], location: Location) -> tuple[Location, object]:
    """The part of a location that was really written, without pydantic's names of union members, and what is there."""
    value: Any = fields
    for depth, part in enumerate(location):
        try:
            value = value[part]
        except (TypeError, KeyError, IndexError):
            return location[:depth], value
    return location, value


class _LenientSchema(GenerateJsonSchema):
    """Leaves out what JSON schema can't say instead of failing: a plugin may have fields of any type."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        return model.model_json_schema(schema_generator=_LenientSchema)


def _field_schemas(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    schema = _schema(model)
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    return {name: _resolved(part, schema) for name, part in properties.items()}


def _resolved(part: Any, root: dict[str, Any]) -> Any:
    """A piece of a JSON schema with its references replaced, except within themselves."""
    if isinstance(part, list):
        return [_resolved(item, root) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        definitions = {key: value for key, value in root.get("$defs", {}).items() if key != name}
        target = root.get("$defs", {}).get(name, {})
        return _resolved({**target, **{k: v for k, v in part.items() if k != "$ref"}}, {"$defs": definitions})
    return {key: _resolved(value, root) for key, value in part.items()}


def _schema_at(model: type[BaseModel], location: Location) -> dict[str, Any]:
    """The JSON schema of one value in a model; empty where the schema doesn't say."""
    schema: dict[str, Any] = {"properties": _field_schemas(model)}
    for part in location:
        # A field that may be null is one of several schemas; what is within it is told by the one that has something.
        options = [
            option for option in schema.get("anyOf", []) if option.keys() & {"properties", "items", "prefixItems"}
        ]
        schema = options[0] if len(options) == 1 else schema
        if isinstance(part, int):
            prefix = schema.get("prefixItems", [])
            inner = prefix[part] if part < len(prefix) else schema.get("items", {})
        else:
            inner = schema.get("properties", {}).get(part, schema.get("additionalProperties", {}))
        schema = inner if isinstance(inner, dict) else {}
    return schema


def _allowed(schema: dict[str, Any]) -> str:
    """A JSON schema in words, such as ``an integer >= 1`` or ``'step', 'call' or null``."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_allowed(option) for option in schema["anyOf"]))
    choices = [schema["const"]] if "const" in schema else schema.get("enum", [])
    if choices:
        *others, last = [in_words(choice) for choice in choices]
        return f"{', '.join(others)} or {last}" if others else last
    words = _TYPES.get(schema.get("type", ""), "any value")
    bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    words += f" {' and '.join(bounds)}" if bounds else ""
    if "prefixItems" in schema:
        return f"a list of {_listed([_allowed(item) for item in schema['prefixItems']])}"
    if isinstance(schema.get("items"), dict) and schema["items"]:
        words += f" of {schema['minItems']} or more" if schema.get("minItems") else ""
        words += f", each {_allowed(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        words += f", each value {_allowed(schema['additionalProperties'])}"
    return words


def _listed(items: list[str]) -> str:
    if len(set(items)) == 1:
        return f"{len(items)} values, each {items[0]}"
    return f"{len(items)} values: {', '.join(items)}"
