"""Free text, such as a failure's reason or a log, without what names places, people and machines.

What is cut: the folders of absolute paths, home folders and whom they belong to, accounts at hosts, hosts, addresses of
networks. A name that is found once, as that of a home folder, is cut wherever it stands as a word. It is found by its
form, so that the same text gives the same text on any machine; what has no such form is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from compbench.report.origin import without_folders

_HOME = re.compile(r"(?<![\w.])(?:file://)?/(?:export/)?(?:home|Users)/([^/\s'\"`<>:;,()\[\]{}|]+)")
_ROOT = re.compile(r"(?<![\w./])(?:file://)?/root(?=[/\s'\"`:;,()\]}]|$)")
_IN_HOME = re.compile(r"(?<![\w/])~[\w.-]*(?:/[\w.@+~-]+)*/(?=[\w.@+-])")
_IN_LIST = re.compile(r"(?<=[\w.]:)(?:/[\w.@+~-]+)+/(?=[\w.@+~-])")
_ACCOUNT = re.compile(r"(?<![\w@./+-])([\w.+-]+)@([A-Za-z0-9][\w-]*(?:\.[\w-]+)*)(?![\w@])")
_NODE = re.compile(r"(its node was lost \d+ times, at last |nothing came back from )([^:\n]+)(?=:)")
_A_NODE = "a node"
_LOCAL_HOST = re.compile(r"\b[\w-]+(?:\.[\w-]+)*\.(?:local|localdomain|internal|intranet|lan|corp)\b")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_PRIVATE = rf"(?:10\.{_OCTET}|192\.168|172\.(?:1[6-9]|2\d|3[01])|169\.254)(?:\.{_OCTET}){{2}}"
_ADDRESS = re.compile(
    rf"(?:(?<![\w.=-]){_PRIVATE}|(?:(?<=://)|(?<=\bip=)|(?<=@)){_OCTET}(?:\.{_OCTET}){{3}})(?::\d+)?(?![\w.]*\d)"
)
"""An address of a private network, or one where nothing else can stand. Elsewhere it may be a version."""

_CLOUDS = ("debian", "docker", "ec2-user", "jovyan", "runner", "ubuntu", "vagrant", "vscode")
_COMMON = (
    "a",
    "admin",
    "app",
    "build",
    "data",
    "home",
    "localhost",
    "main",
    "nobody",
    "none",
    "root",
    "shared",
    "test",
)
_NOBODY = frozenset({*_CLOUDS, *_COMMON, "tmp", "user", "users", "work"})
"""Names of home folders that name nobody, and that stand for other things in the same text."""


class Cleaner:
    """Cleans the texts of one store.

    Args:
        texts: All texts in which names may be found.
        keep: Words that are never cut, since they name arms, strategies and the like.
    """

    def __init__(self, texts: Iterable[str], keep: Iterable[str] = ()) -> None:
        users: set[str] = set()
        hosts: set[str] = set()
        accounts: set[tuple[str, str]] = set()
        for text in set(texts):
            for step in _steps(text):
                users.update(_HOME.findall(step))
                accounts.update(_ACCOUNT.findall(step))
                hosts.update(place.split()[0] for _, place in _NODE.findall(step) if place.split())
        hosts.update(host for account, host in accounts if account in users)  # other things are written like accounts
        kept = _NOBODY | set(keep)
        self._users, self._hosts = (_words(names - kept) for names in (users, hosts - users))
        self._known: dict[str, str] = {}

    def text(self, text: str) -> str:
        """The text without such names."""
        clean = self._known.get(text)
        if clean is None:
            *_, clean = _steps(text)
            for names, stand_in in ((self._users, "user"), (self._hosts, "host")):
                clean = names.sub(stand_in, clean) if names else clean
            self._known[text] = clean
        return clean

    def value(self, value: Any) -> Any:
        """Plain JSON in which every text is clean; names of fields are left alone."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {name: self.value(item) for name, item in value.items()}
        return value


def _steps(text: str) -> Iterator[str]:
    """A text, and what it is when what is known by its form is cut, again and again until there is none."""
    yield text
    while (cut := _cut(text)) != text:
        yield cut
        text = cut


def _cut(text: str) -> str:
    text = _NODE.sub(rf"\1{_A_NODE}", text)
    text = _IN_HOME.sub("", _ROOT.sub("~", _HOME.sub("~", text)))
    text = _IN_LIST.sub("", without_folders(text))
    return _ADDRESS.sub("address", _LOCAL_HOST.sub("host", _ACCOUNT.sub("user@host", text)))


def texts_in(value: Any) -> Iterable[str]:
    """Every text in plain JSON, names of fields left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)


def mentions(folder: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Which files of a folder have a name as a word, by name; names that nobody would be known by are left out.

    Raises:
        OSError: A file can't be read.
    """
    wanted = {name: re.compile(rb"(?<![A-Za-z0-9])%b(?![A-Za-z0-9])" % re.escape(name.encode())) for name in names}
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            for name, pattern in wanted.items():
                if len(name) > 2 and name not in _NOBODY and pattern.search(data):
                    found.setdefault(name, []).append(path.relative_to(folder).as_posix())
    return found


def _words(names: set[str]) -> re.Pattern[str] | None:
    """A pattern for any of some names as a word; None for no names."""
    long_enough = sorted((name for name in names if len(name) > 2), key=lambda name: (-len(name), name))
    if not long_enough:
        return None
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, long_enough))})(?![A-Za-z0-9])")
