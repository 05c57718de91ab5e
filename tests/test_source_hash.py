"""A class's source is its file and what that imports of its own package."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from compbench.sources import source_hash

FILES = {
    "__init__.py": "",
    "alone.py": "class Thing: pass\n",
    "relative.py": "from ._helper import x\nclass Thing: pass\n",
    "relative_module.py": "from . import _helper\nclass Thing: pass\n",
    "absolute.py": "from hashed_package._helper import x\nclass Thing: pass\n",
    "imported.py": "import hashed_package._helper\nclass Thing: pass\n",
    "indirect.py": "from .relative import x\nclass Thing: pass\n",
    "cyclic.py": "class Thing: pass\nfrom . import _cycle\nfrom ._helper import x\n",
    "lazy.py": "class Thing: pass\ndef f():\n    from . import _unfinished\n",
    "_unfinished.py": "def (\n",
    "_cycle.py": "from . import cyclic\n",
    "_helper.py": "x = 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hashed_package"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("hashed_package")]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def hash_of(module: str) -> str:
    return source_hash(importlib.import_module(f"hashed_package.{module}").Thing)


def test_a_file_that_stands_alone_is_hashed_as_it_is(package: Path) -> None:
    assert hash_of("alone") == hashlib.sha256((package / "alone.py").read_bytes()).hexdigest()


@pytest.mark.parametrize("module", ["relative", "relative_module", "absolute", "imported", "indirect", "cyclic"])
def test_an_edit_of_an_imported_sibling_changes_the_hash(package: Path, module: str) -> None:
    before, alone = hash_of(module), hash_of("alone")
    assert hash_of(module) == before
    (package / "_helper.py").write_text("x = 2\n")
    assert hash_of(module) != before
    assert hash_of("alone") == alone


def test_a_sibling_that_does_not_parse_is_hashed_all_the_same(package: Path) -> None:
    before = hash_of("lazy")
    (package / "_unfinished.py").write_text("def f(\n")
    assert hash_of("lazy") != before


def test_a_class_without_a_file_has_no_hash() -> None:
    assert source_hash(type("Typed", (), {"__module__": "nowhere"})) == ""
    assert source_hash(int) == ""
