"""What a real terminal of some size gets, and what a pipe gets whatever the environment says."""

import fcntl
import io
import os
import re
import struct
import sys
import termios
import threading

import pytest

from compbench.cli.printing import screen, show
from compbench.report.formats import Screen, Table, as_text

TABLE = Table(
    ["arm", *"abcdefgh"], [["laser", *["123456789"] * 8]], words=["arm"], best={(0, 1)}, tones={(0, 0): "bad"}
)


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard output a terminal of so many columns; gives what was written to it when it is closed."""

    def opened(columns):
        leader, follower = os.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        chunks = []

        def read():
            while True:
                try:
                    chunks.append(os.read(leader, 4096))
                except OSError:
                    return

        reader = threading.Thread(target=read)
        reader.start()
        out = os.fdopen(follower, "w", encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", out)

        def close():
            out.close()
            reader.join()
            os.close(leader)
            return b"".join(chunks).decode().replace("\r\n", "\n")

        return close

    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return opened


@pytest.mark.parametrize("columns", [44, 60, 100, 200])
def test_a_table_is_as_wide_as_its_terminal_allows(terminal, columns):
    close = terminal(columns)
    show(as_text(TABLE, "terminal", screen()))
    shown = close()
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= columns
    assert "".join(lines).count("123456789") == 8
    assert shown.count("\x1b[1m123456789\x1b[0m") == 1
    assert "\x1b[31mlaser\x1b[0m" in shown


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Screen(100, styles=True, colours=True)),
        ({"NO_COLOR": "1"}, Screen(100, styles=True, colours=False)),
        ({"NO_COLOR": ""}, Screen(100, styles=True, colours=True)),
        ({"TERM": "dumb"}, Screen(100)),
        ({"COLUMNS": "20"}, Screen(100, styles=True, colours=True)),
    ],
)
def test_a_terminal_says_what_it_can_show(terminal, monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    close = terminal(100)
    found = screen()
    close()
    assert found == expected


def test_a_terminal_that_tells_no_width_is_taken_for_one_of_any_width(terminal):
    close = terminal(0)
    found = screen()
    close()
    assert found.width is None


def test_a_pipe_gets_the_same_whatever_the_environment_says(monkeypatch):
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "20"), ("TERM", "xterm-256color"), ("CLICOLOR_FORCE", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert screen() == Screen()


def test_what_an_encoding_lacks_is_written_by_its_code(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    show("1 ± 2")
    assert raw.getvalue() == b"1 \\xb1 2\n"
