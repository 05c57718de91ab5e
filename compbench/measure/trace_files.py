"""The files of a trace: what the profiler has written, as one Chrome trace for each kind of step.

TensorBoard's plugin takes a folder with such a file for a run; Perfetto and chrome://tracing open the file.
"""

from __future__ import annotations

import gzip
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.profiler import profile, tensorboard_trace_handler

Event = Mapping[str, Any]
"""One of a Chrome trace."""

WHERE = frozenset({"traceName", "host_name"})
"""What the profiler says of this machine and its folders; traces are for showing to others."""

_WHOLE = "whole"
_STEP = "ProfilerStep#"


def handler(folder: Path) -> Callable[[profile], None]:
    """What writes the profiler's whole trace into an existing folder, in the place of an earlier one."""
    write = tensorboard_trace_handler(str(folder), worker_name=_WHOLE)

    def written(profiler: profile) -> None:
        for earlier in _whole_in(folder):
            earlier.unlink()
        write(profiler)

    return written


def read_whole(folder: Path) -> dict[str, Any]:
    """The trace that a :func:`handler` has written.

    Raises:
        OSError: it is not whole, as on a full disk: the profiler does not say so itself.
    """
    try:
        (path,) = _whole_in(folder)
        trace: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise OSError("the profiler could not write its trace: is the disk full?") from error
    return trace


def _whole_in(folder: Path) -> list[Path]:
    # The handler puts the time into the name.
    return list(folder.glob(f"{_WHOLE}.*.pt.trace.json"))


def events_at(events: Sequence[Event], label: str) -> list[Event]:
    """The events that happen while the profiler is at a step with a range of that label, and what names processes.

    These steps are numbered anew from 0: the profiler counts those of all kinds, and some that it did not note.
    """
    steps = sorted(
        (event["ts"], event["ts"] + event["dur"], event["name"])
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith(_STEP)
    )
    starts = [start for start, *_ in steps]

    def place(event: Event) -> int | None:
        index = bisect_right(starts, event["ts"]) - 1
        return index if index >= 0 and event["ts"] < steps[index][1] else None

    labelled = [event for event in events if event.get("cat") == "user_annotation" and event["name"] == label]
    wanted = {index for event in labelled if (index := place(event)) is not None}
    numbers = {steps[index][2]: number for number, index in enumerate(sorted(wanted))}
    return [
        {**event, "name": f"{_STEP}{numbers[event['name']]}"} if event["name"] in numbers else event
        for event in events
        if event["ph"] == "M" or place(event) in wanted
    ]


def write_trace(path: Path, trace: Mapping[str, Any], events: Sequence[Event]) -> None:
    """Writes a trace with some of its events, compressed; the file is there whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    content = {name: value for name, value in trace.items() if name not in WHERE} | {"traceEvents": events}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(gzip.compress(json.dumps(content).encode(), compresslevel=6, mtime=0))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
