"""Stands over one cell's process until nothing of it is left: ``python -I -S guard.py SETTINGS COMMAND...``.

A small process between the one that runs a suite and a cell. It is there since no other process can promise what it
does, however its parent or the cell dies:

- Every descendant of the cell comes to it when that one's own parent ends, also one in a session of its own
  (``PR_SET_CHILD_SUBREAPER``). It ends when the kernel says that it has no child left: no orphan can be overlooked.
- Its standard input is a pipe that its parent alone can write to. When the parent dies, be it by SIGKILL, the pipe
  ends, and the cell is killed. Should this process be killed, the kernel kills the cell (``PR_SET_PDEATHSIG``).
- It takes no lock of the interpreter that the cell runs in, so that time is enforced on native code as well.

SETTINGS is a mapping as :func:`encoded` writes it: ``timeout_seconds`` (None: no limit), ``grace_seconds``,
``memory_bytes`` (None: no limit), and ``turns``, the lock files of :mod:`compbench.run.turns`. SIGTERM asks it to stop
the cell: SIGTERM to the cell's process group, and after the grace SIGKILL. At the end it writes a report to standard
output, in the same way. The cell prints to standard error.

Imports nothing but a little of the standard library, and no JSON, which takes longer than half of that. Without the
Linux calls only what stays in the cell's process group is ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import marshal
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # The module of types would take longer to import than all else here.
    from collections.abc import Iterator
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CAN_NOT_START = 127


def prctl(option: int, value: int) -> None:
    """Sets an attribute of this process; does nothing where there is no such call."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class Guard:
    """One cell's process, from its start until nothing of it is left."""

    def __init__(self, settings: dict[str, Any], command: list[str]) -> None:
        self.settings = settings
        self.command = command
        self.stop_asked = False
        self.child = 0
        self.turns: list[int] = []
        self.report: dict[str, Any] = {
            "exit_status": None,
            "timed_out": False,
            "stopped": False,
            "peak_bytes": 0,
            "error": "",
        }
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        os.set_blocking(self.wake_read, False)

    def run(self) -> dict[str, Any]:
        """Runs the cell and returns what there is to report."""
        self.take_turns()  # While a signal still ends this process, which has nothing to end yet.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self.on_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # which wakes the loop
        began = time.monotonic()
        self.child = self.start()
        self.watch(began)
        self.signal_group(signal.SIGKILL)
        _, status, usage = os.wait4(self.child, 0)
        self.end_descendants()
        self.report["peak_bytes"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if not self.report["error"]:
            self.report["exit_status"] = os.waitstatus_to_exitcode(status)
        self.report["seconds"] = time.monotonic() - began
        return self.report

    def take_turns(self) -> None:
        """Takes a share in the cell's cores, which is the cell's from then on; waits while another takes its times."""
        files = [os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for file in self.settings["turns"]]
        for used in files[1::2]:  # Not behind one that waits: another that hangs would keep every cell from starting.
            fcntl.flock(used, fcntl.LOCK_SH)
        self.turns = files

    def on_stop(self, number: int, frame: object) -> None:
        """Notes that the cell is to be stopped; the signal wakes the loop."""
        self.stop_asked = True

    def start(self) -> int:
        """The cell's process, in a session of its own; why it could not be started is noted."""
        problem_read, problem_write = os.pipe()
        child = os.fork()
        if child:
            os.close(problem_write)
            with os.fdopen(problem_read, encoding="utf-8") as problem:
                self.report["error"] = problem.read()
            return child
        try:
            self.become_cell()
            os.execvp(self.command[0], self.command)  # noqa: S606
        except BaseException as error:  # whatever it is, this must not go on as a second guard
            os.write(problem_write, f"can't start its process: {error}".encode())
        finally:
            os._exit(CAN_NOT_START)

    def become_cell(self) -> None:
        """Makes of this process, which is a copy of the guard, what the cell's is to be when it begins."""
        signal.set_wakeup_fd(-1)
        # Python itself ignores SIGPIPE and SIGXFSZ, and what is ignored stays so in another program.
        for number in (*STOP_SIGNALS, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        guard = os.getppid()
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # which has died before the kernel was asked to tell
            os._exit(CAN_NOT_START)
        memory = self.settings["memory_bytes"]
        if memory is not None:
            # Not RLIMIT_AS: torch and CUDA reserve far more addresses than they use. This counts what may be written.
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        for file in self.turns:
            os.set_inheritable(file, True)
        os.environ["COMPBENCH_TURNS"] = ",".join(map(str, self.turns))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)

    def watch(self, began: float) -> None:
        """Returns when the cell's process has ended, which is seen to in time; it stays unreaped."""
        timeout = self.settings["timeout_seconds"]
        deadline = None if timeout is None else began + timeout
        while not self.has_ended():
            now = time.monotonic()
            stopping = self.report["timed_out"] or self.report["stopped"]
            if deadline is not None and now >= deadline:
                if stopping:
                    self.signal_group(signal.SIGKILL)
                    deadline = None
                else:
                    self.report["timed_out"] = True
            if self.stop_asked and not stopping and not self.report["timed_out"]:
                self.report["stopped"] = True
            if not stopping and (self.report["timed_out"] or self.report["stopped"]):
                self.signal_group(signal.SIGTERM)
                deadline = now + self.settings["grace_seconds"]
            if not self.sleep(None if deadline is None else max(0.0, deadline - now)):
                self.report["stopped"] = not self.report["timed_out"]
                self.signal_group(signal.SIGKILL)
                os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOWAIT)
                return

    def sleep(self, seconds: float | None) -> bool:
        """Sleeps until something happens; False when nobody is there any more who wants the cell."""
        # A pipe can't be waited for longer than the system's clock can count.
        ready, _, _ = select.select([0, self.wake_read], [], [], None if seconds is None else min(seconds, 1e6))
        if self.wake_read in ready:
            os.read(self.wake_read, 4096)
        return 0 not in ready or os.read(0, 1) != b""

    def has_ended(self) -> bool:
        """Whether the cell's process has ended."""
        return os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def signal_group(self, number: int) -> None:
        """Sends a signal to the cell's process group."""
        # The child is not reaped yet, so that its number, which is its group's too, can't have gone to another.
        try:
            os.killpg(self.child, number)
        except (ProcessLookupError, PermissionError):
            return

    def end_descendants(self) -> None:
        """Kills what has come to this process until the kernel says that nothing is left."""
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                return
            for child in children():
                os.kill(child, signal.SIGKILL)  # Not reaped yet, so that the number is still its own.
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


def children() -> Iterator[int]:
    """The processes whose parent this one is, as the system's list has them."""
    own = os.getpid()
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if parent == own:
                yield int(entry)


def encoded(values: dict[str, Any]) -> str:
    """Plain values as text between this process and its parent, which run the same Python."""
    return marshal.dumps(values).hex()


def decoded(text: str) -> dict[str, Any]:
    """What :func:`encoded` was given.

    Raises:
        ValueError: the text is none of its own, as when the process that wrote it was killed.
    """
    try:
        values = marshal.loads(bytes.fromhex(text))  # noqa: S302 - from this process's own child or parent
    except (EOFError, TypeError) as error:
        raise ValueError("not the text of a report") from error
    if not isinstance(values, dict):
        raise ValueError("not a report")
    return values


def main(arguments: list[str]) -> None:
    """Runs the cell and reports; there is nobody to report to if the parent has died."""
    report = Guard(decoded(arguments[0]), arguments[1:]).run()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        os.write(1, encoded(report).encode())
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
