"""How a record looks in its file: JSON, a line a field, and last of all a checksum over every line before it.

The checksum finds what an editor, a merge or a failing disk has changed and what still looks like a record. It is no
signature: who wants to forge a record can seal it too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from compbench.run.schema import Content

_SEAL = b',\n "checksum": "'
_END = b'"\n}\n'


class DamagedError(ValueError):
    """Bytes that are no whole record, or not the one that was written; the message says what is wrong in one line."""


@dataclass(frozen=True)
class Opened:
    """What was in a file.

    Attributes:
        content: Its fields, without those of the seal.
        written_by: The program that wrote it and its version; empty where it doesn't say.
        checksum: ``right``, ``wrong``, or ``missing``.
    """

    content: Content
    written_by: str
    checksum: str


def seal(content: Content, written_by: str) -> bytes:
    """The bytes of a record. A curve of a thousand steps is one line, not a thousand, so that a diff can be read."""
    fields = {**content, "written_by": written_by}
    lines = (f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    body = ("{\n" + ",\n".join(lines)).encode("utf-8")
    return body + _SEAL + _digest(body) + _END


def unseal(data: bytes) -> Opened:
    """The record in these bytes.

    Raises:
        DamagedError: They are no JSON object.
    """
    try:
        content: Any = from_json(data)
    except ValueError as error:
        raise DamagedError(f"it is not whole JSON ({error})") from error
    if not isinstance(content, dict):
        raise DamagedError("it is not a JSON object")
    written_by = content.pop("written_by", "")
    found = content.pop("checksum", None)
    return Opened(content, written_by if isinstance(written_by, str) else "", _checked(data, found))


def _checked(data: bytes, found: object) -> str:
    if found is None:
        return "missing"
    if b"\r" in data:  # git on Windows ends lines in its own way; within strings JSON has no such byte
        data = data.replace(b"\r\n", b"\n")
    body, separator, end = data.rpartition(_SEAL)
    return "right" if separator and end == _digest(body) + _END and isinstance(found, str) else "wrong"


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode("ascii")
