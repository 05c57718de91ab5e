"""Free text without names of places, people and machines; other text as it is."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compbench.report.cleaning import Cleaner, mentions, texts_in

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('File "/home/alice/proj/x.py", line 3', 'File "x.py", line 3'),
        ("can't read /home/alice", "can't read ~"),
        ("cd /home/alice/; ls", "cd ~/; ls"),
        ("PATH=/usr/bin:/home/alice/bin:/opt/tools/bin", "PATH=bin:bin:bin"),
        ("file:///home/alice/a.txt", "a.txt"),
        ("/Users/bob.smith/y/z.py and /export/home/carol", "z.py and ~"),
        ("/root/x/y.py /root", "y.py ~"),
        ("~alice/x/y.py and ~/z/y.py", "y.py and y.py"),
        ("alice@gpu-17:~$ ssh alice@login.example.org", "user@host:~$ ssh user@host"),
        ("/home/alice, alice, alice_x, malice and ALICE", "~, user, user_x, malice and ALICE"),
        (
            "its node was lost 3 times, at last gpu-17 n1: gone; gpu-17",
            "its node was lost 3 times, at last a node: gone; host",
        ),
        ("nothing came back from gpu-17: it died", "nothing came back from a node: it died"),
        ("http://10.0.0.3:6379, (ip=203.0.113.7) 192.168.1.20.", "http://address, (ip=address) address."),
        ("gpu-17.cluster.internal", "host"),
    ],
)
def test_names_are_cut(text, expected):
    assert Cleaner([text]).text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.org/a/b",
        "and/or 1/2 suites/quick.yaml ./a/b ../c/d block.*.mlp/mlp_1536 /loss_5",
        "glibc.malloc.mmap_max=0:glibc.malloc.mmap_threshold=8000000000",
        "nvidia-cublas-cu12==12.4.5.8 nvidia-curand-cu12==10.3.5.147 cudnn 9.10.2.21, torch 2.13.0",
        "y = z @ w",
        "step 3: loss nan",
        "user@host a node address ~",
    ],
)
def test_other_text_is_as_it_was(text):
    assert Cleaner([text]).text(text) == text


def test_a_name_that_is_found_in_one_text_is_cut_in_all():
    cleaner = Cleaner(["/home/alice/x.py", "its node was lost 3 times, at last gpu-17: gone"])
    assert cleaner.text("alice ran this on gpu-17") == "user ran this on host"


def test_words_of_tables_and_names_that_anybody_has_are_kept():
    cleaner = Cleaner(["/home/laser/x", "/home/ubuntu/x", "/home/al/x"], keep={"laser"})
    assert cleaner.text("laser under ubuntu, al") == "laser under ubuntu, al"


def test_json_is_cleaned_in_its_values():
    cleaner = Cleaner(["/home/alice"])
    value = {"alice": ["/home/alice/x", {"a": "alice"}, 1, None, True, 2.5]}
    assert cleaner.value(value) == {"alice": ["x", {"a": "user"}, 1, None, True, 2.5]}
    assert list(texts_in(value)) == ["/home/alice/x", "alice"]


HOMES = ("/home/alice", "/home/bob", "/root", "file://", "~")
PIECES = st.sampled_from(
    (*HOMES, "alice", "bob", "@gpu-1", "/", "x.py", " ", ":", "10.0.0.3", ".local", "user", "a node")
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_clean_text_is_clean(text):
    """What was published once is published again as it is."""
    clean = Cleaner([text]).text(text)
    assert Cleaner([clean]).text(clean) == clean


@given(st.lists(PIECES, max_size=8).map(" ".join))
def test_whoever_has_a_home_folder_is_nowhere_a_word(text):
    clean = Cleaner([text]).text(text)
    for name in ("alice", "bob"):
        assert f"/home/{name}" not in text.split() or not re.search(rf"\b{name}\b", clean)


def test_nothing_that_the_published_results_say_is_cut():
    found = sorted((ROOT / "results").glob("*/cells/*.json"))
    assert found
    for path in [*found[::7], *(ROOT / "results").glob("*/suite.json")]:
        texts = list(texts_in(json.loads(path.read_text())))
        cleaner = Cleaner(texts)
        assert [text for text in texts if cleaner.text(text) != text] == []


def test_files_that_mention_a_name_are_found(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.json").write_text('{"log": "alice-was_here"}')
    (tmp_path / "b.bin").write_bytes(b"\x00alice\xff")
    (tmp_path / "c").write_text("malice, alice2 and root, me")
    assert mentions(tmp_path, ["alice", "root", "me", "bob"]) == {"alice": ["b.bin", "inner/a.json"]}
