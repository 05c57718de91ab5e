"""What a user can do wrong. Every message says what was found, where, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class CompbenchError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class SettingsError(CompbenchError):
    """A strategy, workload or option was asked for with a name or a value that is not allowed."""


class PluginError(CompbenchError):
    """A plugin can't be loaded, breaks its contract, or clashes with another one."""


class CaptureError(CompbenchError):
    """A session was used in a way that would have given wrong gradients or wrong numbers."""


class CaptureWarning(UserWarning):
    """Something in a model that a session can't see into, or can't do anything with; said once for each session."""


class UnsupportedError(CompbenchError):
    """What was asked for is understood and can't be done; such a cell's status is ``unsupported``."""


class StoreError(CompbenchError):
    """A results folder can't be read or written."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a file: where it is, what was found and what is allowed."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class SuiteError(CompbenchError):
    """A suite file with mistakes; ``problems`` has all of them, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(word: str, allowed: Iterable[str]) -> str:
    """The clause ``; did you mean 'x'?`` for the nearest allowed name, or nothing when none is near."""
    found = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def unknown(kind: str, word: str, allowed: Iterable[str]) -> str:
    """The message for a name that is not one of the allowed ones."""
    names = sorted(allowed)
    listed = ", ".join(names) if names else "none"
    return f"unknown {kind} '{word}'{nearest(word, names)} (allowed: {listed})"


def one_line(error: BaseException) -> str:
    """What an exception says, in one line; its type goes first unless it is one of ours, written for users."""
    text = " ".join(str(error).split())
    if isinstance(error, CompbenchError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
