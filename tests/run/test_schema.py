"""Old records, step by step: each upgrade by itself, and all of them in a row."""

import pytest

from compbench.run.schema import CELL, MACHINE, SUITE, NewerSchemaError, Schema, SchemaError


def test_a_cell_of_version_1_gets_what_version_2_knows_as_unknown():
    upgraded = CELL.upgrades[0]({"key": "a", "time": {"ratio": 1.5}, "memory": None})
    assert upgraded == {
        "key": "a",
        "time": {"ratio": 1.5, "phases": {}, "page_faults": None, "uncompressed_page_faults": None},
        "memory": None,
        "environment": None,
        "arithmetic": None,
    }
    assert CELL.upgrades[0]({"time": None}) == {"time": None, "environment": None, "arithmetic": None}


def test_a_cell_of_version_2_was_never_resumed_and_took_hooks_unless_it_says_otherwise():
    upgraded = CELL.upgrades[1]({"cell": {"capture": {"attention": "raw"}}, "environment": {"threads": 1}})
    assert upgraded == {
        "cell": {"capture": {"attention": "raw", "routes": "hooks"}},
        "environment": {"threads": 1},
        "attempts": 1,
        "resumed_from": [],
        "earlier_seconds": 0.0,
        "sources": {},
    }
    assert CELL.upgrades[1]({"cell": {"capture": {"routes": "operators"}}})["cell"]["capture"]["routes"] == "operators"
    assert CELL.upgrades[1]({"cell": {}})["cell"] == {"capture": {"routes": "hooks"}}


def test_a_cell_of_version_3_has_no_curves_but_those_of_all_sites_and_does_not_say_whether_it_is_exact():
    assert CELL.upgrades[2]({"key": "a"}) == {"key": "a", "validation_curve": [], "site_curves": {}, "exactness": None}
    known = {"validation_curve": [{"step": 1}], "site_curves": {"a": {}}, "exactness": "lossy"}
    assert CELL.upgrades[2](known) == known


def test_a_suite_of_version_1_is_one_of_version_2_without_a_checksum():
    assert SUITE.upgrades[0]({"name": "a", "keys": []}) == {"name": "a", "keys": []}


def test_a_chain_begins_where_the_content_stands():
    steps = [lambda content, number=number: content | {"steps": [*content["steps"], number]} for number in (1, 2, 3)]
    schema = Schema(steps)
    assert schema.version == 4
    for version in (1, 2, 3, 4):
        upgraded = schema.upgrade({"schema_version": version, "steps": []})
        assert upgraded == {"schema_version": 4, "steps": [1, 2, 3][version - 1 :]}


def test_a_cell_goes_from_the_first_version_to_the_last():
    upgraded = CELL.upgrade({"schema_version": 1, "cell": {}, "time": None})
    assert upgraded["schema_version"] == CELL.version == 4
    assert upgraded["environment"] is None
    assert upgraded["resumed_from"] == []
    assert upgraded["site_curves"] == {}


@pytest.mark.parametrize("version", [None, 0, -1, True, "2", 1.0])
def test_what_is_no_version_is_refused(version):
    with pytest.raises(SchemaError, match=r"schema_version is .* \(allowed: 1 to 4\)"):
        CELL.upgrade({"schema_version": version})


@pytest.mark.parametrize("schema", [CELL, SUITE, MACHINE])
def test_a_newer_version_is_told_apart(schema):
    with pytest.raises(NewerSchemaError) as told:
        schema.upgrade({"schema_version": schema.version + 1})
    assert (told.value.found, told.value.known) == (schema.version + 1, schema.version)
    assert schema.upgrade({"schema_version": schema.version}) == {"schema_version": schema.version}
