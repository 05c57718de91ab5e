"""What a run shows while it goes."""

import io

import pytest

from compbench.run.progress import LiveProgress, Plan, Progress, duration, make_progress
from compbench.run.result import CellResult
from tests.run.fake_suites import make_cell

CELLS = [make_cell(arm="[laser, int8]", seed=seed) for seed in range(3)]
SLOTS = 2, "on 2 slots (cpu 0, cpu 1; 2 threads each)"


def ended(cell, status="ok", **fields):
    return CellResult(key=cell.key, cell=cell, status=status, seconds=100.0, **fields)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_display_suits_the_stream(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    plan = Plan("fake", 3, CELLS, *SLOTS)
    assert isinstance(make_progress(plan, Terminal()), LiveProgress)
    assert type(make_progress(plan, io.StringIO())) is Progress


def test_the_live_display_shows_the_bar_what_runs_and_what_is_left():
    stream = Terminal()
    with LiveProgress(Plan("fake", 4, CELLS, *SLOTS), stream) as progress:
        progress.started(CELLS[0], "cpu 0")
        progress.started(CELLS[1], "cpu 1")
        progress.finished(ended(CELLS[0], "failed", reason="ValueError: no [bold]markup[/bold]"))
        with progress._console.capture() as capture:
            progress._console.print(progress.display())
    shown = capture.get()
    assert "2/4, 1 not ok" in shown
    assert "about 3 min 20 s left" not in shown
    assert "about 1 min 40 s left" in shown
    assert "cpu 1" in shown
    assert "cpu 0" not in shown
    assert "[laser, int8] does=ok depth 4 seed 1" in shown
    assert "failed 1 min 40 s (ValueError: no [bold]markup[/bold])" in stream.getvalue()


def test_a_cell_that_was_interrupted_is_not_counted():
    progress = Progress(Plan("fake", 3, CELLS, *SLOTS), io.StringIO())
    progress.started(CELLS[0], "cpu 0")
    progress.dropped(CELLS[0])
    progress.finished(ended(CELLS[1]))
    assert progress.remaining() == 100.0


def test_what_is_left_counts_what_runs_again_and_neither_what_was_skipped_nor_what_was_withdrawn():
    stream = io.StringIO()
    progress = Progress(Plan("fake", 3, CELLS, 1, "on 1 slot"), stream)
    progress.started(CELLS[0], "cpu 0")
    progress.finished(ended(CELLS[0]))
    assert progress.remaining() == 200.0
    progress.started(CELLS[1], "cpu 0")
    progress.again(CELLS[1], "it crashed")
    assert progress.remaining() == 200.0
    progress.finished(CellResult(key=CELLS[2].key, cell=CELLS[2], status="skipped", reason="skipped: OOM at depth 4"))
    assert progress.remaining() == 100.0
    progress.withdrawn(CELLS)
    assert progress.remaining() == 0.0
    assert "[laser, int8] does=ok depth 4 seed 1: to be run again: it crashed" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (8.26, "8.3 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words
