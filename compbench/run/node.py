"""What is done on the node where a cell runs, when that is another machine than the one that runs the suite.

All that comes from there and goes there are values that can be pickled: nodes need no file system in common. They
need this version of compbench, and whatever else the suite's own plugins import.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from compbench.errors import SettingsError
from compbench.run.cell_process import CellJob, ProcessEnd, run_cell_process
from compbench.run.machine import Machine, describe_machine

LARGEST_FOLDER_BYTES = 50_000_000
"""What a folder of plugins may have in it, since it is sent to every node."""


@dataclass(frozen=True)
class Files:
    """The files of a folder, by their path in it."""

    content: dict[str, bytes]

    @classmethod
    def of(cls, folder: Path) -> Files:
        """All files of a folder and of those in it, but what is hidden or compiled.

        Raises:
            SettingsError: They can't be read, or are more than one would send.
        """
        content: dict[str, bytes] = {}
        try:
            for path in sorted(folder.rglob("*")):
                inner = path.relative_to(folder)
                skipped = any(part.startswith(".") or part == "__pycache__" for part in inner.parts)
                if path.is_file() and not skipped:
                    content[inner.as_posix()] = path.read_bytes()
                    if sum(map(len, content.values())) > LARGEST_FOLDER_BYTES:
                        most = LARGEST_FOLDER_BYTES // 1_000_000
                        raise SettingsError(
                            f"plugins folder '{folder}' has more than {most} MB: too much for each node"
                        )
        except OSError as error:
            raise SettingsError(f"plugins folder '{folder}' can't be read: {error}") from error
        return cls(content)

    def write(self, folder: Path) -> None:
        """Writes them into a folder."""
        for inner, data in self.content.items():
            path = folder / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@dataclass(frozen=True)
class NodeEnd:
    """What comes back from the node of a cell: how its process ended, all that it printed, and what it ran on."""

    end: ProcessEnd
    log: bytes
    machine: Machine


def run_on_node(job: CellJob, plugins: Files | None) -> NodeEnd:
    """Runs a cell's process here, with a copy of the user's plugins if there are any."""
    with tempfile.TemporaryDirectory(prefix="compbench-plugins-") as folder:
        if plugins is not None:
            plugins.write(Path(folder))
            job = replace(job, cell=job.cell.model_copy(update={"plugins_dir": folder}))
        end, log = run_cell_process(job)
    return NodeEnd(end, log, _machine())


def tell_and_run(job: CellJob, plugins: Files | None, node: str) -> Iterator[str | NodeEnd]:
    """The same in two parts: the node's name when it begins, and what comes back."""
    yield f"{socket.gethostname()} {node}".strip()
    yield run_on_node(job, plugins)


@cache
def _machine() -> Machine:
    return describe_machine()
