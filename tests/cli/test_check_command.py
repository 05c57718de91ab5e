"""``compbench check`` as its user sees it."""

from __future__ import annotations

import re
import sys

import pytest

from compbench.cli import main
from compbench.testing import PROPERTIES

PLUGIN = """
import compbench


class Plain(compbench.Compressor):
    "Leaves everything."

    name = "{name}"
    {field}

    def codec(self, site, generator):
        return None


@compbench.hookimpl
def compbench_compressors():
    return [Plain]
"""


def plugin(name, field=""):
    return PLUGIN.format(name=name, field=field)


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with plugins; gives its exit status, output and errors."""
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def test_every_shipped_strategy_keeps_the_contract(compbench):
    status, out, err = compbench("--all")
    assert (status, err) == (0, "")
    *_, summary = out.splitlines()
    assert re.match(r"\d+ strategies: \d+ properties hold, 0 fail", summary)
    assert ", 0 fail, " in summary


def test_strategies_are_written_as_in_suites_and_each_property_is_a_line(compbench):
    status, out, _ = compbench("int8: {granularity: group}", "[lance, int8]")
    assert status == 0
    first, second, summary = out.strip().split("\n\n")
    for text, block in (("int8: {granularity: group}", first), ("[lance, int8]", second)):
        title, *lines = block.splitlines()
        assert title == text
        assert len(lines) == len(PROPERTIES)
        assert "  ok    Each of 25 payloads decodes to what it encoded, every time, also in later steps" in lines
        assert any(line.startswith("  -     With exact = True") and line.endswith("(exact is False)") for line in lines)
    assert summary.startswith("2 strategies: ")


def test_a_property_that_fails_is_named_with_what_was_found(compbench, tmp_path):
    (tmp_path / "own" / "plain.py").write_text(plugin("plain", "bits: int = 16"))
    status, out, err = compbench("plain", "--plugins-dir", "own")
    assert (status, err) == (1, "")
    assert (
        "  FAIL  The strategy has a name and a docstring, and every field a default and a description\n"
        "        describes_itself: field 'bits' has no description; users see it in `compbench plugins plain`\n"
    ) in out
    assert out.splitlines()[-1].startswith("1 strategy: ")
    assert ", 1 fail, " in out


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('so bad')", "is broken: ValueError: so bad"),
        (plugin("int8"), "strategy 'int8' is provided by "),
        (plugin("needy", "rank: int"), "without settings, strategy 'needy': rank is missing"),
    ],
    ids=["broken", "claimed twice", "a field without default"],
)
def test_all_is_not_all_well_where_something_cannot_be_checked(compbench, tmp_path, monkeypatch, source, reason):
    monkeypatch.setenv("COMPBENCH_DISABLE_PLUGINS", "none,identity,laser,lance,gale,loract")
    (tmp_path / "own" / "mine.py").write_text(source)
    status, out, _ = compbench("--all", "--plugins-dir", "own")
    assert status == 1
    assert reason in out
    assert out.splitlines()[-1].endswith("1 can't be checked")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which strategies to check (allowed: one or more of them, or --all)"),
        (("int8", "--all"), "which strategies to check (allowed: one or more of them, or --all)"),
        (("itn8",), "unknown strategy 'itn8'; did you mean 'int8'? (allowed: "),
        (("laser: {rank: 0}",), "strategy 'laser': rank is 0 (allowed: an integer >= 1)"),
        (("[int8, laser]",), "int8 leaves no coefficients that laser could compress"),
        (("[int8",), "strategy '[int8': not valid YAML: "),
        (("",), "a strategy is null (allowed: a name, or {name: {field: value}})"),
        (("none", "--device", "abacus"), "--device abacus: "),
        (("none", "--plugins-dir", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_message_and_checks_nothing(compbench, arguments, message):
    status, out, err = compbench(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
