"""Whether the kernel's out-of-memory killer has been at work, as its own counters say."""

from __future__ import annotations

from pathlib import Path


def kill_count(root: Path = Path("/")) -> int:
    """How many processes of this one's control group were killed for want of memory so far; 0 where nothing tells.

    Counts what version 2 or version 1 of control groups says of this process' group, or of the root of what is mounted,
    which is the group's own in a container. Without control groups it is the whole machine's count.

    Args:
        root: The folder that stands for ``/``.
    """
    groups = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            files = [groups / group.strip("/") / "memory.events", groups / "memory.events"]
        elif "memory" in controllers.split(","):
            mounted = groups / "memory"
            files = [mounted / group.strip("/") / "memory.oom_control", mounted / "memory.oom_control"]
        else:
            continue
        for file in files:
            count = _counter(file)
            if count is not None:
                return count
    return _counter(root / "proc/vmstat") or 0


def _counter(file: Path) -> int | None:
    for line in _text(file).splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
