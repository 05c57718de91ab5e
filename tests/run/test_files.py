"""Folders that are in their place whole, as they were, or not at all."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

from compbench.run import files
from compbench.run.files import ABANDONED_SECONDS, folder_in_the_making


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(place, error=None, **named):
    """Makes a folder with these files, or raises in the middle of it."""
    with folder_in_the_making(place) as folder:
        (folder / "inner").mkdir()
        for name, text in named.items():
            (folder / "inner" / name).write_text(text)
        if error:
            raise error


@pytest.fixture(params=["exchanged at once", "renamed one after the other"])
def way(request, monkeypatch):
    if request.param == "renamed one after the other":  # as where the system or the file system knows no exchange
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *arguments, **options: SimpleNamespace())
    return request.param


def test_a_folder_is_made_with_those_above_it(tmp_path):
    place = tmp_path / "a" / "b"
    fill(place, x="1")
    assert content(place) == {"inner/x": "1"}
    assert list(place.parent.iterdir()) == [place]


def test_what_was_there_is_replaced_whole(tmp_path, way):
    place = tmp_path / "a"
    fill(place, x="1", y="1")
    fill(place, x="2", z="2")
    assert content(place) == {"inner/x": "2", "inner/z": "2"}
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError()])
def test_after_an_exception_all_is_as_it_was(tmp_path, error):
    place = tmp_path / "a"
    fill(place, x="1")
    for where in (place, tmp_path / "b" / "c"):
        with pytest.raises(type(error)):
            fill(where, x="2", error=error)
    assert content(tmp_path) == {"a/inner/x": "1"}
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("failing", [1, 2])
def test_where_renaming_fails_the_earlier_folder_is_in_its_place(tmp_path, monkeypatch, failing):
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *arguments, **options: SimpleNamespace())
    place = tmp_path / "a"
    fill(place, x="1")
    real, calls = type(place).rename, iter(range(1, 100))

    def rename(path, target):
        if next(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, target)

    monkeypatch.setattr(type(place), "rename", rename)
    with pytest.raises(OSError, match="Input/output error"):
        fill(place, x="2")
    assert content(tmp_path) == {"a/inner/x": "1"}


def test_nobody_sees_it_missing_or_half_and_a_kill_leaves_either(tmp_path):
    place = tmp_path / "a"
    script = textwrap.dedent("""
        import importlib.util, sys
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("files", sys.argv[2])  # without torch, which all else imports
        files = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(files)
        number = 0
        while True:
            number += 1
            with files.folder_in_the_making(Path(sys.argv[1])) as folder:
                for name in "xyz":
                    (folder / name).write_text(str(number))
            print(number, flush=True)
    """)
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", script, place, files.__file__], stdout=subprocess.PIPE)
        try:
            writer.stdout.readline()
            until = time.monotonic() + 0.3
            while time.monotonic() < until:
                descriptor = os.open(place, os.O_RDONLY)  # one folder, whatever is put into its place meanwhile
                try:
                    names = os.listdir(descriptor)
                    seen = set()
                    for name in names:
                        try:
                            file = os.open(name, os.O_RDONLY, dir_fd=descriptor)
                        except FileNotFoundError:  # it is the earlier one, and being removed
                            break
                        seen.add(os.read(file, 99))
                        os.close(file)
                    assert len(seen) <= 1
                finally:
                    os.close(descriptor)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        assert sorted(content(place)) == ["x", "y", "z"]
        assert len(set(content(place).values())) == 1


def test_what_a_killed_writer_left_is_removed_when_it_is_old(tmp_path):
    old, young, others = (tmp_path / name for name in (".a.00000000.tmp", ".a.00000001.tmp", ".b.00000000.tmp"))
    for folder in (old, young, others):
        folder.mkdir()
        (folder / "x").write_text("")
    long_ago = time.time() - ABANDONED_SECONDS - 60
    for folder in (old, others):
        os.utime(folder, (long_ago, long_ago))
    fill(tmp_path / "a", x="1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, others.name, "a"]
