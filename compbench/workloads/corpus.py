"""Texts to model, and how they become token ids: characters, or pairs of what is frequent together.

``python_topics`` is the help on Python's language that ships with it (module ``pydoc_data.topics``, 465,048 characters
in Python 3.11.7), under the PSF License Version 2; its text differs between versions, so that records have its hash.
Any other corpus is a UTF-8 file.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from compbench.errors import SettingsError

PYTHON_TOPICS = "python_topics"

Pair = tuple[str, str]


@lru_cache(maxsize=4)
def read_corpus(name: str, sha256: str | None) -> str:
    """The text of a corpus.

    Args:
        name: ``python_topics``, or the path of a file.
        sha256: of the text in UTF-8, which must be its own; None: any.

    Raises:
        SettingsError: there is no such file, it is not UTF-8 text, it is empty, or it is another text.
    """
    text = _python_topics() if name == PYTHON_TOPICS else _read(Path(name))
    found = text_hash(text)
    if sha256 is not None and found != sha256:
        raise SettingsError(f"corpus '{name}' is another text: its SHA-256 is {found}, and {sha256} was expected")
    if not text:
        raise SettingsError(f"corpus '{name}' is empty (expected: UTF-8 text)")
    return text


def text_hash(text: str) -> str:
    """The SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _python_topics() -> str:
    # Not at the top: it is half a megabyte, of use to this corpus alone.
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"corpus '{path}' can't be read: {error.strerror} (expected: a UTF-8 text file, or {PYTHON_TOPICS})"
        ) from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"corpus '{path}', line {line}: {error.reason} (expected: UTF-8 text)") from error


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and the pairs that were merged into some of them, in their order.

    Attributes:
        tokens: the text of each id.
        merges: pairs of tokens that are one.
    """

    tokens: tuple[str, ...]
    merges: tuple[Pair, ...] = ()

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            SettingsError: it has a character that no token has, with its line.
        """
        ids = {token: number for number, token in enumerate(self.tokens)}
        known: dict[str, list[int]] = {}
        encoded: list[int] = []
        line = 1
        for word in _words(text):
            if word not in known:
                strange = next((character for character in word if character not in ids), None)
                if strange is not None:
                    at = line + word.count("\n", 0, word.index(strange))
                    raise SettingsError(
                        f"line {at}: character {strange!r} is outside the vocabulary of {len(self.tokens)} tokens"
                    )
                parts = list(word)
                for pair in self.merges:
                    if len(parts) == 1:
                        break
                    parts = _merged(parts, pair)
                known[word] = [ids[part] for part in parts]
            encoded += known[word]
            line += word.count("\n")
        return encoded

    def decode(self, ids: list[int]) -> str:
        """The text of some ids."""
        return "".join(self.tokens[number] for number in ids)


@lru_cache(maxsize=8)
def make_vocabulary(text: str, merges: int) -> Vocabulary:
    """The characters of a text and, on top of them, what byte-pair encoding finds in it.

    Byte-pair encoding (arXiv 1508.07909), with characters for bytes: the two neighbours within a word that are most
    frequent become one token, again and again. Of equally frequent ones it is the first in the order of their text.

    Args:
        text: the text.
        merges: how many tokens are made of two; fewer where no pair is left that comes twice.
    """
    characters = sorted(set(text))
    counts = Counter(_words(text)) if merges else Counter[str]()
    words = [(list(word), count) for word, count in counts.items()]
    pairs: Counter[Pair] = Counter()
    found_in: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, (parts, count) in enumerate(words):
        for pair in pairwise(parts):
            pairs[pair] += count
            found_in[pair].add(number)
    made: list[Pair] = []
    for _ in range(merges):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        made.append(best)
        for number in found_in.pop(best):
            parts, count = words[number]
            for pair in pairwise(parts):
                pairs[pair] -= count
            parts = _merged(parts, best)
            for pair in pairwise(parts):
                pairs[pair] += count
                found_in[pair].add(number)
            words[number] = parts, count
    # The same text may come of two merges: it is one token then.
    tokens = dict.fromkeys([*characters, *(left + right for left, right in made)])
    return Vocabulary(tuple(tokens), tuple(made))


def _words(text: str) -> list[str]:
    """Runs of letters, digits and the like with the blank before them, and runs of whatever else; all of the text."""
    return re.findall(r" ?\w+|[^\w\s]+|\s+?(?= \w)|\s+", text)


def _merged(parts: list[str], pair: Pair) -> list[str]:
    left, right = pair
    if left not in parts:
        return parts
    merged: list[str] = []
    at = 0
    while at < len(parts):
        if at + 1 < len(parts) and parts[at] == left and parts[at + 1] == right:
            merged.append(left + right)
            at += 2
        else:
            merged.append(parts[at])
            at += 1
    return merged
