"""Every trap of docs/footguns.md shows itself: each snippet runs on its own and prints what stands beneath it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "footguns.md"


class Snippet(NamedTuple):
    """A block of Python, the line of the page on which it begins, and what it prints."""

    heading: str
    line: int
    python: str
    output: str


def snippets() -> list[Snippet]:
    text = PAGE.read_text()
    found, heading = [], ""
    parts = r"^### (?P<heading>[^\n]+)$|^```python\n(?P<python>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?"
    for match in re.finditer(parts, text, flags=re.MULTILINE | re.DOTALL):
        if match["heading"]:
            heading = match["heading"]
        else:
            line = text.count("\n", 0, match.start("python")) + 1
            found.append(Snippet(heading, line, match["python"], match["output"] or ""))
    return found


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: snippet.heading)
def test_a_snippet_runs_on_its_own_and_prints_what_the_page_says(
    snippet: Snippet, capsys: pytest.CaptureFixture[str]
) -> None:
    code = compile("\n" * (snippet.line - 1) + snippet.python, str(PAGE), "exec")  # errors name the page's line
    exec(code, vars(ModuleType("snippet")))
    assert capsys.readouterr().out == snippet.output


def test_every_block_of_the_page_is_among_the_snippets() -> None:
    """A text block that follows no snippet would be compared with nothing."""
    text, found = PAGE.read_text(), snippets()
    assert text.count("```python\n") == len(found)
    assert text.count("```text\n") == sum(bool(snippet.output) for snippet in found)
    assert text.count("```") == 2 * (text.count("```python\n") + text.count("```text\n"))


def test_every_trap_has_a_snippet_or_says_that_it_has_none() -> None:
    text = PAGE.read_text()
    traps = re.findall(r"^### (.+)$", text, flags=re.MULTILINE)
    without = set(traps) - {snippet.heading for snippet in snippets()}
    assert len(traps) == len(set(traps))
    assert without == {"The allocator decides which arm is fast"}
