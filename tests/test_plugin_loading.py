"""What plugins may do wrong: each is listed with its reason, and the others go on."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compbench import plugin_loading
from compbench.errors import PluginError
from compbench.plugin_loading import Plugin
from compbench.registry import Registry

HALF = '''
import torch
import compbench


class HalfPayload(compbench.Payload):
    def __init__(self, rows):
        self.rows = rows

    def decode(self):
        return self.rows.float()

    def tensors(self):
        return (self.rows,)


class HalfCodec(compbench.Codec):
    def encode(self, rows):
        return HalfPayload(rows.half())


class Half(compbench.Compressor):
    """Keeps 16 bits."""

    name = "half"
    scale: float = 1.0

    def codec(self, site, generator):
        return HalfCodec()


@compbench.hookimpl
def compbench_compressors():
    return [Half]
'''


@pytest.fixture(autouse=True)
def without_shipped_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = importlib.metadata.entry_points

    def others(group: str) -> list[importlib.metadata.EntryPoint]:
        return [point for point in everything(group=group) if point.dist is None or point.dist.name != "compbench"]

    monkeypatch.setattr(importlib.metadata, "entry_points", others)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "half.py").write_text(HALF)
    return folder


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs a distribution of modules whose entry points have the modules' names."""

    def install(name: str, version: str, **modules: str) -> Path:
        site = tmp_path / f"site_{name}"
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = "".join(f"{module} = {name}_{module}\n" for module in modules)
        (info / "entry_points.txt").write_text(f"[compbench]\n{points}")
        for module, text in modules.items():
            (site / f"{name}_{module}.py").write_text(text)
            monkeypatch.delitem(sys.modules, f"{name}_{module}", raising=False)
        monkeypatch.syspath_prepend(site)
        return site

    return install


def broken(registry: Registry) -> Plugin:
    (plugin,) = registry.broken
    return plugin


def test_a_file_of_the_folder_is_loaded_without_sys_path(folder: Path) -> None:
    path = list(sys.path)
    registry = Registry.load(folder)
    assert list(registry.compressors) == ["half"]
    assert sys.path == path
    (plugin,) = registry.plugins
    assert (plugin.status, plugin.source, plugin.hooks) == ("ok", str(folder / "half.py"), ("compbench_compressors",))


def test_a_local_strategy_can_be_pickled(folder: Path) -> None:
    half = Registry.load(folder).compressor("half", scale=2.0)
    assert pickle.loads(pickle.dumps(half)) == half


def test_an_edit_of_the_same_size_and_time_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    stamp = (folder / "half.py").stat()
    first = Registry.load(folder)
    (folder / "half.py").write_text(HALF.replace("= 1.0", "= 3.0"))
    os.utime(folder / "half.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    second = Registry.load(folder)
    assert second.compressor("half").model_dump() == {"scale": 3.0}
    assert first.plugins[0].sha256 != second.plugins[0].sha256


def test_files_with_an_underscore_are_helpers_and_no_plugins(folder: Path) -> None:
    (folder / "_scales.py").write_text("SCALE = 5.0\n")
    (folder / "half.py").write_text("from ._scales import SCALE\n" + HALF.replace("= 1.0", "= SCALE"))
    registry = Registry.load(folder)
    assert [plugin.name for plugin in registry.plugins] == ["half"]
    assert registry.compressor("half").model_dump() == {"scale": 5.0}


def test_two_folders_may_have_helpers_of_one_name(tmp_path: Path) -> None:
    scales = []
    for name, value in (("one", "5.0"), ("two", "7.0")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "_scales.py").write_text(f"SCALE = {value}\n")
        (folder / "half.py").write_text("from ._scales import SCALE\n" + HALF.replace("= 1.0", "= SCALE"))
        scales.append(Registry.load(folder).compressor("half").model_dump()["scale"])
    assert scales == [5.0, 7.0]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"no plugins folder .*nowhere"):
        Registry.load(tmp_path / "nowhere")


BROKEN = {
    "import_error": ("import a_module_that_is_not_there\n", "ModuleNotFoundError: No module named"),
    "syntax_error": ("class Broken(\n", "SyntaxError: "),
    "exits": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "raises_nothing_said": ("raise RuntimeError\n", "RuntimeError"),
    "misspelt_hook": (
        HALF.replace("def compbench_compressors", "def compbench_compresors"),
        "unknown hook 'compbench_compresors'; did you mean 'compbench_compressors'?",
    ),
    "undecorated": (HALF.replace("@compbench.hookimpl", ""), "'compbench_compressors' is not decorated"),
    "no_hooks": ("x = 1\n", "no hook found (allowed: compbench_cell_finished, "),
    "wrong_argument": (
        "import compbench\n@compbench.hookimpl\ndef compbench_cell_started(cel):\n    pass\n",
        "PluginValidationError",
    ),
    "hook_raises": (HALF.replace("return [Half]", "raise KeyError('half')"), "KeyError: 'half'"),
    "hook_raises_midway": (HALF.replace("return [Half]", "yield Half\n    raise KeyError('x')"), "KeyError: 'x'"),
    "hook_returns_none": (HALF.replace("return [Half]", "pass"), "compbench_compressors returned nothing"),
    "hook_returns_a_class": (HALF.replace("[Half]", "Half"), "(allowed: a list of Compressor)"),
    "wrong_record": (HALF.replace("[Half]", "[HalfCodec]"), "(allowed: subclasses of compbench.Compressor)"),
    "an_instance": (HALF.replace("[Half]", "[Half()]"), "(allowed: subclasses of compbench.Compressor)"),
    "no_name": (HALF.replace('name = "half"', ""), 'Half has no name; give it one such as name = "half"'),
    "bad_name": (HALF.replace('name = "half"', 'name = "Half life"'), "Half has the name 'Half life' (allowed: lower"),
    "name_is_no_string": (HALF.replace('name = "half"', "name = 3"), "Half has the name 3"),
    "no_docstring": (HALF.replace('"""Keeps 16 bits."""', ""), "Half has no docstring"),
    "abstract": (HALF.replace("def codec", "def kodec"), "Half does not define codec"),
    "unknown_field_type": (
        HALF.replace("scale: float = 1.0", "scale: torch.Generator = 1.0"),
        "PydanticSchemaGeneration",
    ),
    "metric_without_function": (
        "import compbench\n@compbench.hookimpl\n"
        "def compbench_metrics():\n    return [compbench.Metric('norm', compute=3)]\n",
        "Metric 'norm' has 3 where a function belongs",
    ),
    "metric_without_direction": (
        "import compbench\n@compbench.hookimpl\n"
        "def compbench_metrics():\n    return [compbench.Metric('norm', compute=len, better='less')]\n",
        "Metric 'norm' has better='less' (allowed: higher, lower or None)",
    ),
    "wrong_reporter": (
        "import compbench\n@compbench.hookimpl\ndef compbench_reporters():\n    return ['csv']\n",
        "(allowed: compbench.Reporter records)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_listed_and_the_others_go_on(folder: Path, kind: str) -> None:
    text, reason = BROKEN[kind]
    (folder / "broken.py").write_text(text)
    (folder / "third.py").write_text(HALF.replace('"half"', '"third"'))
    registry = Registry.load(folder)
    assert reason in broken(registry).reason
    assert "\n" not in broken(registry).reason
    assert reason.partition(": ")[0] in broken(registry).traceback
    assert list(registry.compressors) == ["half", "third"]


@pytest.mark.parametrize("kind", ["import_error", "hook_raises", "raises_nothing_said"])
def test_a_traceback_begins_in_the_plugin(folder: Path, kind: str) -> None:
    (folder / "broken.py").write_text(BROKEN[kind][0])
    lines = broken(Registry.load(folder)).traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert str(folder / "broken.py") in lines[1]


def test_a_plugin_that_breaks_registers_none_of_its_hooks(folder: Path) -> None:
    (folder / "broken.py").write_text(
        BROKEN["hook_raises"][0] + "\n@compbench.hookimpl\ndef compbench_cell_started(cell):\n    raise ValueError\n"
    )
    assert Registry.load(folder).observe("compbench_cell_started", cell={}) == []


def test_a_broken_plugin_claims_its_own_name_and_those_in_its_text(folder: Path) -> None:
    (folder / "broken.py").write_text(HALF.replace('"half"', '"whole"') + "\n(\n")
    assert broken(Registry.load(folder)).names == {"broken", "whole"}


def test_entry_points_have_distribution_and_version(distribution: Callable[..., Path]) -> None:
    site = distribution("thirds", "3.1", half=HALF)
    (plugin,) = Registry.load().plugins
    assert (plugin.name, plugin.source, plugin.file) == ("half", "thirds 3.1", site / "thirds_half.py")


def test_a_broken_entry_point_does_not_stop_later_ones(distribution: Callable[..., Path]) -> None:
    site = distribution("thirds", "3.1", a="import a_module_that_is_not_there", b=HALF)
    registry = Registry.load()
    assert list(registry.compressors) == ["half"]
    assert (broken(registry).name, broken(registry).source) == ("a", "thirds 3.1")
    assert broken(registry).file == site / "thirds_a.py"


def test_an_entry_point_to_nothing_is_broken(distribution: Callable[..., Path]) -> None:
    site = distribution("thirds", "3.1", half=HALF)
    (site / "thirds_half.py").unlink()
    assert "No module named 'thirds_half'" in broken(Registry.load()).reason


def test_a_file_that_an_entry_point_loaded_is_not_loaded_again(distribution: Callable[..., Path]) -> None:
    site = distribution("thirds", "3.1", half=HALF)
    registry = Registry.load(site)
    assert [plugin.source for plugin in registry.plugins] == ["thirds 3.1"]
    assert registry.conflicts == ()


def test_a_class_that_is_offered_twice_is_no_conflict(distribution: Callable[..., Path]) -> None:
    again = "import compbench\nimport thirds_half\n\n\n@compbench.hookimpl\ndef compbench_compressors():\n"
    distribution("thirds", "3.1", half=HALF, again=again + "    return [thirds_half.Half]\n")
    registry = Registry.load()
    assert [plugin.status for plugin in registry.plugins] == ["ok", "ok"]
    assert list(registry.compressors) == ["half"]
    assert registry.conflicts == ()


def test_two_entry_points_to_one_module_are_no_conflict(distribution: Callable[..., Path]) -> None:
    site = distribution("thirds", "3.1", half=HALF)
    info = next(site.glob("*.dist-info"))
    (info / "entry_points.txt").write_text("[compbench]\nhalf = thirds_half\nagain = thirds_half\n")
    registry = Registry.load()
    assert [(plugin.name, plugin.status) for plugin in registry.plugins] == [("again", "ok"), ("half", "ok")]
    assert list(registry.compressors) == ["half"]


def test_two_entry_points_to_one_broken_module_are_both_broken(distribution: Callable[..., Path]) -> None:
    site = distribution("thirds", "3.1", half=BROKEN["hook_raises"][0])
    (next(site.glob("*.dist-info")) / "entry_points.txt").write_text("[compbench]\na = thirds_half\nb = thirds_half\n")
    assert [plugin.name for plugin in Registry.load().broken] == ["a", "b"]


def test_the_environment_leaves_plugins_out(
    folder: Path, distribution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution("thirds", "3.1", third=HALF.replace('"half"', '"third"'), other=HALF.replace('"half"', '"other"'))
    monkeypatch.setenv(plugin_loading.DISABLE_VARIABLE, "third, half")
    registry = Registry.load(folder)
    assert list(registry.compressors) == ["other"]
    assert [plugin.name for plugin in registry.plugins] == ["other"]
