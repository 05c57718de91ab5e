"""YAML as plain values with their lines."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compbench.suite.source import Source


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E+2", -250.0),
        (".5", 0.5),
        ("12", 12),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 10),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("none", "none"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = Source.parse(f"key: {text}\n", "f").data["key"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1,\nb: 2\n", "f:3: not valid YAML: while parsing a flow sequence"),
        ("a: b: c\n", "f:1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "f:2: not valid YAML: "),
        ("a: *nowhere\n", "f:1: not valid YAML: found undefined alias 'nowhere'"),
        ("a: 1\n---\nb: 2\n", "f:2: not valid YAML: expected a single document"),
        ("a: \x00\n", "f:1: not valid YAML: unacceptable character"),
        ("a: " + "[" * 5000, "f:1: not valid YAML: nested too deeply"),
        ("a: 1\nb: 2\na: 3\n", "f:3: key 'a' is given twice; the first is in line 1"),
        ("a: 1\n2: b\n", "f:2: key '2' is no plain string"),
        ("a: 1\n[b]: c\n", "f:2: key of a list or mapping is no plain string"),
        ("a:\n  b: !!python/object/apply:os.getcwd []\n", "f:2: tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'"),
        ("a:\n  b: !mine 1\n", "f:2: tag '!mine'"),
        ('"a\\nb": 1\n', r"f:1: key 'a\nb' is no plain string"),
        ('a: "\\ud800"\n', "f:1: '\ud800' can't be read as str"),
        ("a: 1e999\n", "f:1: '1e999' can't be read as float"),
        ("a: !!int x\n", "f:1: 'x' can't be read as int"),
        ("a: &x\n  b: *x\n", "f:2: an alias to something that it is part of"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(text: str, problem: str) -> None:
    (found,) = Source.parse(text, "f").problems
    assert str(found).startswith(problem)


def test_every_value_has_its_line() -> None:
    source = Source.parse("a: 1\nb:\n  - 2\n  - {c: 3,\n     d: 4}\n", "f")
    assert source.data == {"a": 1, "b": [2, {"c": 3, "d": 4}]}
    lines = [source.line(at) for at in [("a",), ("b",), ("b", 0), ("b", 1), ("b", 1, "d"), ("b", 1, "d", "e"), ("z",)]]
    assert lines == [1, 2, 3, 4, 5, 5, 1]


def test_an_alias_repeats_a_value() -> None:
    assert Source.parse("a: &x {k: 1}\nb: *x\n", "f").data == {"a": {"k": 1}, "b": {"k": 1}}


text = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(text, plain, max_size=4))
def test_json_is_read_as_json(data: dict[str, object]) -> None:
    source = Source.parse(json.dumps(data, ensure_ascii=False), "f")
    assert (source.problems, source.data) == ([], data)


@given(st.text(alphabet="ab:-[]{}&*!'\"#|>%@,? \n\t1.", max_size=40))
def test_no_text_raises(text: str) -> None:
    source = Source.parse(text, "f")
    if source.problems:
        return
    try:
        expected = yaml.compose(text)
    except yaml.YAMLError:
        pytest.fail("PyYAML refuses what was read without a problem")
    assert (source.data is None) or expected is not None
