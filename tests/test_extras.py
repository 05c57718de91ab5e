"""Packages that not everybody has: what is said where one is missing, or broken."""

import sys

import pytest

from compbench.errors import SettingsError
from compbench.extras import optional_package


def test_a_package_that_is_there_is_imported():
    assert optional_package("json", "x", "this").loads("1") == 1


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed, whether or not it is
    with pytest.raises(SettingsError) as raised:
        optional_package("ray", "ray", "--executor ray")
    assert str(raised.value) == (
        "--executor ray needs the package 'ray', which is not installed: pip install 'compbench[ray]'"
    )


@pytest.mark.parametrize(("line", "why"), [("import not_there", "No module named 'not_there'"), ("1 / 0", "division")])
def test_a_package_that_can_not_be_imported_says_why(tmp_path, monkeypatch, line, why):
    (tmp_path / "half_installed.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=f"which can't be imported: .*{why}"):
        optional_package("half_installed", "x", "this")
