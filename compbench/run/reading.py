"""One file of a results folder: read with suspicion, as a record, as nothing, or as why it can't be used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from compbench.errors import StoreError
from compbench.run.machine import distribution_version
from compbench.run.schema import NewerSchemaError, Schema, SchemaError
from compbench.run.sealing import DamagedError, unseal

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Reading(Generic[Record]):
    """What was found in a record's place.

    Attributes:
        record: The record, if it can be used.
        problem: Why it can't, in one line; empty where there is none, and where nothing is wrong.
        schema_version: The version that it was written in; None where it doesn't say.
        sealed: Whether its checksum was there, and right.
        written_by: The program that wrote it, and its version; empty where it doesn't say.
    """

    record: Record | None = None
    problem: str = ""
    schema_version: int | None = None
    sealed: bool = False
    written_by: str = ""


def read_record(path: Path, kind: type[Record], schema: Schema, digest: str = "") -> Reading[Record]:
    """The record in a file.

    Args:
        path: The file; there need be none.
        kind: What it holds.
        schema: Its versions.
        digest: The hash that its content must have, where its name says so.

    Raises:
        StoreError: It was written by a newer compbench, or can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Reading()
    except OSError as error:
        raise cannot("read", path, error) from error
    version = None
    try:
        opened = unseal(data)
        version = schema.version_of(opened.content)
        sealed = schema.sealed_since is not None and version >= schema.sealed_since
        if opened.checksum == "wrong" or (sealed and opened.checksum == "missing"):
            raise DamagedError("its content is not what was written: the checksum is " + opened.checksum)
        if digest and _hash(opened.content) != digest:
            raise DamagedError("its content does not have the hash of its name")
        record = kind.model_validate(schema.upgrade(opened.content))
    except NewerSchemaError as error:
        raise StoreError(_newer(path, error, opened.written_by)) from error
    except (DamagedError, SchemaError) as error:
        return Reading(problem=str(error), schema_version=version)
    except ValidationError as error:
        return Reading(problem=_first_mistake(error), schema_version=version)
    return Reading(record, "", version, opened.checksum == "right", opened.written_by)


@cache
def this_program() -> str:
    """What records say of who wrote them."""
    return f"compbench {distribution_version('compbench')}"


def _hash(content: dict[str, object]) -> str:
    """What :attr:`Machine.hash` was when the content was written, whatever fields have come since."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _newer(path: Path, error: NewerSchemaError, written_by: str) -> str:
    needed = f"needs {written_by} or newer" if written_by else "needs a newer compbench"
    return (
        f"{path}: {needed}: it has schema {error.found}, and {this_program()} reads up to "
        f"{error.known}; upgrade compbench, or use another results folder"
    )


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def cannot(what: str, path: Path, error: OSError) -> StoreError:
    """What is said of a file that can't be read or written."""
    return StoreError(f"can't {what} {path}: {error.strerror or error}")
