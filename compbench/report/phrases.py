"""Parts of sentences: names that others chose, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def code(name: str) -> str:
    """A name between backticks, which it can't leave: nothing in it is markup, and it is one line."""
    text = "".join(character if character.isprintable() else " " for character in name.replace("`", "'"))
    return f"`{' '.join(text.split())}`"


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as ``1 seed`` and ``5 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Names in a row, the last after an ``and``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names)


def by_count(statuses: Iterable[str]) -> str:
    """Statuses with how often each is there, the most frequent first; alone it needs no count."""
    counts = Counter(statuses).most_common()
    if len(counts) == 1:
        return counts[0][0]
    return ", ".join(f"{status} {count}" for status, count in counts)
