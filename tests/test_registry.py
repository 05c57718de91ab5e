"""Names become objects; the examples in the hooks' docstrings are the plugins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compbench
from compbench.chain import Chain
from compbench.errors import PluginError, SettingsError
from compbench.registry import Registry, default_plugins_dir
from tests.hook_examples import HOOKS, example, write_examples


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry.load(write_examples(tmp_path_factory.mktemp("plugins")))


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    return str(error.value)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_an_example_that_loads(hook: str, tmp_path: Path) -> None:
    (plugin,) = Registry.load(write_examples(tmp_path, hook)).plugins[-1:]
    assert plugin.name == hook.removeprefix("compbench_")
    assert (plugin.hooks, plugin.reason) == ((hook,), "")


def test_the_example_strategy_halves_what_it_is_given(registry: Registry) -> None:
    codec = registry.compressor("half", brain=False).codec(compbench.Site("m", "m_8", 8), torch.Generator())
    rows = torch.randn(4, 8)
    payload = codec.encode(rows)
    assert torch.equal(payload.decode(), rows.half().float())
    assert [tensor.dtype for tensor in payload.tensors()] == [torch.float16]


def test_the_example_workload_trains(registry: Registry) -> None:
    workload = registry.workload("echo", width=8).at_depth(2)
    model = workload.build(torch.Generator().manual_seed(0))
    batch = workload.data(0).train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(20):
        loss = workload.loss(workload.forward(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert workload.metrics(workload.forward(model, batch), batch)["error"].shape == (448,)


def test_the_example_metric_and_reporter_work(registry: Registry) -> None:
    norms = registry.metrics["output_norm"].record.compute(None, torch.ones(3, 2, 2), {})
    assert norms.tolist() == [2.0, 2.0, 2.0]
    row = {"arm": "half", "depth": 4, "status": "ok"}
    assert registry.reporters["lines"].record.render([row, row]) == "half 4 ok\nhalf 4 ok"


def test_the_example_observers_are_called(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    cell = {"arm": "half", "depth": 4, "seed": 0}
    assert registry.observe("compbench_cell_started", cell=cell) == []
    assert registry.observe("compbench_cell_finished", result={"cell": cell, "status": "ok"}) == []
    assert registry.observe("compbench_suite_finished", directory="results/x", statuses={"ok": 1}) == []
    assert capsys.readouterr().out == "started half 4 0\nfinished half ok\nresults/x {'ok': 1}\n"


def test_an_observer_that_raises_is_reported_and_the_others_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path, "compbench_cell_started")
    bad = "import compbench\n\n\n@compbench.hookimpl\ndef compbench_cell_started(cell):\n    raise {}\n"
    (tmp_path / "aaa.py").write_text(bad.format("ValueError('two\\nlines')"))
    (tmp_path / "zzz.py").write_text(bad.format("SystemExit(2)"))
    told = Registry.load(tmp_path)
    cell = {"arm": "a", "depth": 1, "seed": 0}
    wrong = told.observe("compbench_cell_started", cell=cell)
    assert wrong == [
        f"plugin 'aaa' ({tmp_path / 'aaa.py'}): compbench_cell_started raised ValueError: two lines; "
        "it is not told of anything more",
        f"plugin 'zzz' ({tmp_path / 'zzz.py'}): compbench_cell_started raised SystemExit: 2; "
        "it is not told of anything more",
    ]
    assert told.observe("compbench_cell_started", cell=cell) == []
    assert capsys.readouterr().out == "started a 1 0\n" * 2


def test_the_example_observer_follows_only_when_asked_for(registry: Registry, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plugins = Registry.load(write_examples(tmp_path / "plugins", "compbench_observers"))
    assert list(plugins.observers)[:1] == ["diary"]
    finished = {"key": "half-d4-s0", "status": "ok"}
    assert plugins.observe("compbench_cell_finished", result=finished) == []
    plugins.start_observer("diary")
    plugins.start_observer("diary")  # which is the same one
    assert plugins.observe("compbench_cell_finished", result=finished) == []
    assert plugins.observe("compbench_suite_finished", directory="results/x", statuses={"ok": 1}) == []
    assert Path("diary.txt").read_text() == "half-d4-s0 ok\n"
    (told,) = plugins.observe("compbench_cell_finished", result=finished)
    assert told.startswith("observer 'diary': compbench_cell_finished raised ValueError: I/O operation on closed file")
    assert plugins.observe("compbench_cell_finished", result=finished) == []


WATCHER = """
import compbench
from compbench.errors import SettingsError

class Watcher:
    def __init__(self):
        {raises}
    {hook}

@compbench.hookimpl
def compbench_observers():
    return [compbench.Observer(name="watcher", start=Watcher)]
"""


@pytest.mark.parametrize(
    ("raises", "hook", "error", "expected"),
    [
        ("raise SettingsError('install it')", "", SettingsError, "install it"),
        ("raise OSError('no disk')", "", SettingsError, "observer 'watcher' can't be started: OSError: no disk"),
        ("pass", "", PluginError, "no hook found (allowed: "),
        ("pass", "def compbench_cell_fnished(self): pass", PluginError, "no hook found (allowed: "),
        (
            "pass",
            "@compbench.hookimpl\n    def compbench_cell_finished(self, other): pass",
            PluginError,
            "hookimpl definition: compbench_cell_finished(other)",
        ),
        (
            "pass",
            "@compbench.hookimpl\n    def compbench_metrics(self): return []",
            PluginError,
            "compbench_metrics is no hook of an observer",
        ),
    ],
)
def test_an_observer_that_can_not_be_started_is_an_error_before_anything_runs(
    tmp_path: Path, raises: str, hook: str, error: type[Exception], expected: str
) -> None:
    (tmp_path / "watching.py").write_text(WATCHER.format(raises=raises, hook=hook))
    plugins = Registry.load(tmp_path)
    with pytest.raises(error) as raised:
        plugins.start_observer("watcher")
    assert expected in message(raised)
    assert "\n" not in message(raised)
    with pytest.raises(SettingsError, match="unknown observer 'wacher'; did you mean 'watcher'"):
        plugins.start_observer("wacher")


def test_a_strategy_can_be_asked_for_in_every_way(registry: Registry) -> None:
    half = registry.compressors["half"].record
    wanted = half(brain=False)
    assert registry.compressor("half", brain=False) == wanted
    assert registry.compressor({"half": {"brain": False}}) == wanted
    assert registry.compressor(half, brain=False) == wanted
    assert registry.compressor(wanted) is wanted
    assert registry.compressor([wanted]) is wanted
    assert registry.compressor({"half": None}) == registry.compressor("half") == half()


def test_a_list_is_a_chain(registry: Registry) -> None:
    half = registry.compressors["half"].record
    chain = registry.compressor(["none", half, {"none": None}])
    assert isinstance(chain, Chain)
    assert [member.name for member in chain.members] == ["none", "half", "none"]
    assert chain.members[1] == half()


@pytest.mark.parametrize(
    ("spec", "fields", "expected"),
    [
        ("hafl", {}, "unknown strategy 'hafl'; did you mean 'half'? (allowed: "),
        ("half", {"brian": 1}, "strategy 'half': unknown field 'brian'; did you mean 'brain'? (allowed: brain)"),
        ("half", {"brain": 1}, "strategy 'half': brain is 1 (allowed: true or false)"),
        ("half", {"brain": "yes"}, "strategy 'half': brain is 'yes' (allowed: true or false)"),
        ([], {}, "a chain of no strategies"),
        (["half"], {"brain": True}, "fields (brain) beside"),
        ({"half": {}, "none": {}}, {}, "(allowed: a name, or {name: {field: value}})"),
        ({"half": 3}, {}, "(allowed: a name, or {name: {field: value}})"),
        (3, {}, "a strategy is 3 (allowed: a name"),
        ([["half"]], {}, "(allowed: a name, or {name: {field: value}})"),
        (int, {}, "(allowed: a name, or {name: {field: value}})"),
    ],
)
def test_a_wrong_strategy_says_what_is_allowed(registry: Registry, spec, fields, expected: str) -> None:
    with pytest.raises(SettingsError) as error:
        registry.compressor(spec, **fields)
    assert expected in message(error)


def test_an_unknown_workload_names_the_nearest(registry: Registry) -> None:
    with pytest.raises(SettingsError, match="unknown workload 'ecko'; did you mean 'echo'"):
        registry.workload("ecko")
    with pytest.raises(SettingsError, match=r"workload 'echo': width is '8' \(allowed: an integer\)"):
        registry.workload("echo", width="8")


def test_two_plugins_with_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    write_examples(tmp_path, "compbench_compressors", "compbench_workloads")
    (tmp_path / "mine.py").write_text(example("compbench_compressors"))
    registry = Registry.load(tmp_path)
    with pytest.raises(PluginError) as error:
        registry.compressor("half")
    for file in ("mine.py", "compressors.py"):
        assert str(tmp_path / file) in message(error)
    assert [(conflict.kind, conflict.name) for conflict in registry.conflicts] == [("strategy", "half")]
    assert registry.workload("echo").name == "echo"


def test_a_local_plugin_does_not_take_the_name_of_an_installed_one(tmp_path: Path) -> None:
    write_examples(tmp_path, "compbench_compressors")
    (tmp_path / "compressors.py").write_text(example("compbench_compressors").replace('"half"', '"identity"'))
    with pytest.raises(PluginError, match=r"plugin 'identity' \(compbench .*\) and plugin 'compressors' \(.*\.py\)"):
        Registry.load(tmp_path).compressor("identity")


def test_a_workload_and_a_strategy_may_share_a_name(tmp_path: Path) -> None:
    write_examples(tmp_path, "compbench_compressors")
    (tmp_path / "workloads.py").write_text(example("compbench_workloads").replace('"echo"', '"half"'))
    registry = Registry.load(tmp_path)
    assert registry.compressor("half").name == registry.workload("half").name
    assert registry.conflicts == ()


def test_a_name_of_a_broken_plugin_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nothing_of_the_kind\n" + example("compbench_compressors"))
    registry = Registry.load(tmp_path)
    for name in ("half", "mine"):
        with pytest.raises(PluginError) as error:
            registry.compressor(name)
        assert f"plugin 'mine' ({tmp_path / 'mine.py'}) is broken: ModuleNotFoundError: " in message(error)
    with pytest.raises(SettingsError, match=r"unknown strategy 'other'.*; broken plugins: mine \(ModuleNotFoundError"):
        registry.compressor("other")
    assert registry.broken_reason("strategy", "none") == ""


def test_a_reference_has_the_fields_that_differ_and_the_source(registry: Registry) -> None:
    source = registry.compressors["half"].source
    (plain,) = registry.reference(registry.compressor("half", brain=True))
    assert (plain.name, plain.fields, plain.source) == ("half", {}, source)
    chain = registry.reference(registry.compressor(["none", {"half": {"brain": False}}]))
    assert [(part.name, part.fields) for part in chain] == [("none", {}), ("half", {"brain": False})]
    (echo,) = registry.reference(registry.workload("echo", width=8, calls=4))
    assert (echo.name, echo.fields, len(echo.source)) == ("echo", {"width": 8}, 64)


def test_a_reference_makes_an_equal_strategy_again(registry: Registry) -> None:
    made = registry.compressor(["none", {"half": {"brain": False}}])
    assert registry.compressor([{part.name: part.fields} for part in registry.reference(made)]) == made


def test_the_default_folder_is_that_of_the_project_and_not_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compbench_plugins

    monkeypatch.chdir(tmp_path)
    assert default_plugins_dir() is None
    (tmp_path / "plugins").symlink_to(Path(compbench_plugins.__file__).parent)
    assert default_plugins_dir() is None
    (tmp_path / "plugins").unlink()
    (tmp_path / "plugins").mkdir()
    assert default_plugins_dir() == (tmp_path / "plugins").resolve()
