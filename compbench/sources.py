"""Hashes of the code that defines a strategy or workload, so that results know which code made them."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path


def file_hash(file: Path | None) -> str:
    """The SHA-256 of a file's bytes; empty if there is none that can be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
    except OSError:
        return ""


def source_hash(record: type) -> str:
    """The SHA-256 of the file that defines a class and of the modules of its own package that this file imports.

    Those it imports from elsewhere are dependencies, and told by their versions. Empty for a class that was typed into
    an interpreter.
    """
    first, *others = [*source_files(record).values()] or [""]
    return hashlib.sha256("".join([first, *sorted(others)]).encode()).hexdigest() if others else first


def source_files(record: type) -> dict[str, str]:
    """The SHA-256 of each file of which :func:`source_hash` is made, that of the class itself first.

    By the package and the file's name, such as ``compbench_plugins/laser.py``.
    """
    try:
        file = inspect.getsourcefile(record)
    except TypeError:
        return {}
    if not file or not Path(file).is_file():
        return {}
    module = sys.modules.get(record.__module__)
    package = getattr(module, "__package__", None) or ""
    found: dict[Path, str] = {}
    waiting = [Path(file).resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = file_hash(path)
            waiting += _imported_siblings(path, package)
    return {f"{package.replace('.', '/')}/{path.name}".lstrip("/"): digest for path, digest in found.items()}


def _imported_siblings(path: Path, package: str) -> Iterator[Path]:
    """The files of the same package that a file imports, relatively or by the package's name."""
    if not package:
        return
    for name in _imported_names(path.read_bytes(), package):
        sibling = path.parent / f"{name.removeprefix(f'{package}.')}.py"
        if sibling.is_file():
            yield sibling


@lru_cache(maxsize=1024)
def _imported_names(source: bytes, package: str) -> tuple[str, ...]:
    """The names in a package that a source imports. Parsed once: many plugins share the same few helpers."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # it imports nothing until it is mended
        return ()
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level <= 1:
            base = ".".join(part for part in (package if node.level else "", node.module) if part)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(name for name in dict.fromkeys(found) if name.startswith(f"{package}."))
