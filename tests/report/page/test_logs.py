"""Logs as a page shows them: their ends, harmless, and none that is not the folder's own."""

import pytest

from compbench.report.page.logs import as_shown, read_log
from compbench.run.store import Store

KEY = "laser-d4-s0-0123456789ab"


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path, "suite")


def test_a_short_log_is_there_whole(store):
    store.log_path(KEY).write_text("first\nlast\n")
    log = read_log(store.directory, KEY, 1000)
    assert (log.path, log.text, log.whole_bytes, log.cut) == (f"logs/{KEY}.log", "first\nlast", 11, False)
    assert log.title == f"logs/{KEY}.log (11 B)"


def test_of_a_long_log_there_are_the_last_lines_and_how_much_there_is(store):
    lines = [f"line {number}" for number in range(10_000)]
    store.log_path(KEY).write_text("\n".join(lines))
    log = read_log(store.directory, KEY, 1000)
    shown = log.text.split("\n")
    assert shown == lines[-len(shown) :]
    assert 900 < len(log.text) <= 1000
    assert log.cut
    assert log.title == f"logs/{KEY}.log (its end, of 98.9 kB in all)"


def test_one_line_without_end_is_cut_in_its_middle(store):
    store.log_path(KEY).write_text("x" * 5000)
    assert read_log(store.directory, KEY, 1000).text == "x" * 1000


def test_bytes_that_are_no_text_are_shown_as_such(store):
    store.log_path(KEY).write_bytes(b"ok \xff\xfe\x00 end")
    assert read_log(store.directory, KEY, 1000).text == "ok \ufffd\ufffd\\x00 end"


def test_a_log_that_is_not_there_or_not_of_this_folder_is_none(store, tmp_path):
    assert read_log(store.directory, KEY, 1000) is None
    secret = tmp_path / "secret"
    secret.write_text("password")
    store.log_path(KEY).symlink_to(secret)
    assert read_log(store.directory, KEY, 1000) is None
    assert read_log(store.directory, "../../secret", 1000) is None
    store.log_path("folder").mkdir()
    assert read_log(store.directory, "folder", 1000) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31merror\x1b[0m: no", "error: no"),
        ("\x1b]0;title\x07after", "after"),
        (" 10 %\r 20 %\r100 %\nend", "100 %\nend"),
        ("one\r\ntwo\r\n", "one\ntwo"),
        ("  indented\n\tby a tab", "  indented\n        by a tab"),
        ("evil \u202e txt", "evil \\u202e txt"),
        ('  File "/home/somebody/plugins/mine.py", line 3', '  File "mine.py", line 3'),
        ("</pre><script>alert(1)</script>", "</pre><script>alert(1)</script>"),
    ],
)
def test_a_log_looks_as_it_did_in_the_terminal_in_the_end(text, shown):
    assert as_shown(text) == shown
