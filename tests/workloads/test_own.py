"""A user's own class as a workload: it is trained like any other, and what is wrong with it is named beforehand."""

import re
import sys
import textwrap

import pytest
import torch

from compbench.errors import SettingsError, SuiteError
from compbench.registry import Registry
from compbench.run.cell import run_cell
from compbench.suite import load_suite
from compbench.workloads import own

GOOD = """
import torch
from torch import nn


class Training:
    def __init__(self, depth: int = 2, width: int = 8):
        self.depth, self.width = depth, width

    def build(self):
        return nn.Sequential(*[nn.Linear(self.width, self.width) for _ in range(self.depth)])

    def batches(self, split, seed):
        for size in (20, 12):
            yield {"x": torch.randn(size, self.width)}

    def loss(self, model, batch):
        return (model(batch["x"]) - batch["x"]).square().mean()

    def evaluate(self, model, batch):
        return {"error": (model(batch["x"]) - batch["x"]).square().mean(dim=1)}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written = []

    def write(old="", new="", text=GOOD):
        assert old in text
        name = f"own_module_{tmp_path.name.replace('-', '_')}_{len(written)}"
        (tmp_path / f"{name}.py").write_text(text.replace(old, new))
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


SUITE = """
name: own
workload: {{module: "{name}:Training"{fields}}}
arms: {{none: none}}
matrix: {{depth: [{depth}], seed: [0]}}
training: {{steps: 4, batch_size: 8}}
measuring: {{time_pairs: 0, flops: false}}
device: cpu
"""


def cells(tmp_path, name, fields="", depth=3):
    (tmp_path / "suite.yaml").write_text(SUITE.format(name=name, fields=fields, depth=depth))
    registry = Registry.load()
    return load_suite(tmp_path / "suite.yaml", registry).cells(registry)


def test_a_class_is_trained_and_measured_by_the_same_cell(tmp_path, module):
    (cell,) = cells(tmp_path, module(), ", width: 16")
    result = run_cell(cell)
    assert (result.status, result.reason) == ("ok", "")
    assert result.parameters == 3 * (16 * 16 + 16)
    assert len(result.loss_curve) == 4
    assert set(result.metrics) == {"error"}
    assert result.memory.saved_bytes > 0
    again = run_cell(cell)
    assert (again.loss_curve, again.weights_hash) == (result.loss_curve, result.weights_hash)


def test_a_key_names_the_source_of_the_class(tmp_path, module):
    (before,) = cells(tmp_path, name := module())
    (tmp_path / f"{name}.py").write_text(GOOD + "\n# another line\n")
    (after,) = cells(tmp_path, name)
    assert len(before.workload.source) == 64
    assert before.key != after.key


def test_batches_of_a_split_are_joined_and_seeded(module):
    record = own.own_workload(f"{module()}:Training")
    first, again, other = (record().data(seed).train["x"] for seed in (0, 0, 1))
    assert first.shape == (32, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_workload_of_compbench_may_be_named_too(tmp_path, module):
    text = """
        from compbench.workloads.maze_task import Mazes

        class Training(Mazes):
            name = "renamed"
    """
    fields = ", grid: 5, train_mazes: 30, validation_mazes: 10, hidden: 16, heads: 2, inner: 24"
    name = module(text=textwrap.dedent(text))
    (cell,) = cells(tmp_path, name, fields)
    assert cell.workload.name == f"{name}:Training"
    assert run_cell(cell).status == "ok"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def loss", "def lost", r"lacks loss\(self, model, batch\) -> scalar tensor"),
        ("class Training", "class Trainings", "no class 'Training'; did you mean 'Trainings'"),
        ("import torch\n", "import torhc\n", "can't be imported: ModuleNotFoundError"),
        ("width: int = 8", "loss: int = 8", "can't have a parameter named loss"),
        ("width: int = 8", "*width", r"constructor parameter \*width"),
    ],
)
def test_a_class_that_will_not_do_is_told_with_the_suites_line(tmp_path, module, old, new, message):
    with pytest.raises(SuiteError, match=f"suite.yaml:3: .*{message}"):
        cells(tmp_path, module(old, new))


def test_fields_are_checked_and_the_name_of_a_module_has_a_form(tmp_path, module):
    name = module()
    with pytest.raises(SuiteError, match=r"suite.yaml:3: .*width is 'wide' \(allowed: an integer"):
        cells(tmp_path, name, ", width: wide")
    with pytest.raises(SuiteError, match="unknown field 'widht'; did you mean 'width'"):
        cells(tmp_path, name, ", widht: 3")
    with pytest.raises(SuiteError, match="a name and a module"):
        cells(tmp_path, name, ", name: trm_maze")
    with pytest.raises(SettingsError, match=r"allowed: package.module:Class"):
        own.own_workload("my file.py:Training")
    without = module(
        "depth: int = 2, width", "width", GOOD.replace("self.depth, self.width = depth,", "self.depth, self.width = 2,")
    )
    with pytest.raises(SuiteError, match=r"takes no depth in its constructor .*allowed: depth 1"):
        cells(tmp_path, without)
    assert cells(tmp_path, without, depth=1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            ".square().mean()\n",
            ".square().mean(dim=1)\n",
            r"loss gave a tensor of shape \(4,\).*expected: a scalar tensor",
        ),
        ('(model(batch["x"]) - batch["x"]).square().mean()\n', 'batch["x"].mean()\n', "without a gradient"),
        (".mean(dim=1)}", ".mean()}", r"evaluate gave a tensor of shape \(\).* for 'error' and 4 examples"),
        ('{"error": ', "(", None),
        ('yield {"x": torch.randn(size, self.width)}', "yield torch.randn(size, self.width)", "batch 0 is a tensor"),
        ("torch.randn(size, self.width)}", "torch.randn(size, size)}", "batch 1 has shapes .*12, 12.* batch 0"),
        ("self.width)}\n", 'self.width), "y": torch.zeros(3)}\n', "batch 0 has shapes .*the same first dimension"),
        ("for size in (20, 12)", "for size in ()", "gave no batch"),
        ("return nn.Sequential(*[", "return list([", "build gave list"),
    ],
)
def test_what_has_another_shape_is_named_before_the_first_step(tmp_path, module, old, new, message):
    if message is None:
        new, old, message = "return (model(batch", 'return {"error": (model(batch', "evaluate gave a tensor"
        text = GOOD.replace(".mean(dim=1)}", ".mean(dim=1)")
        name = module(old, new, text)
    else:
        name = module(old, new)
    (cell,) = cells(tmp_path, name)
    result = run_cell(cell)
    assert result.status == "failed"
    assert result.loss_curve == []
    assert re.search(message, result.reason)


def test_the_current_folder_shadows_no_module_and_is_left_off_the_path_again(tmp_path, module):
    (tmp_path / "queue.py").write_text("raise RuntimeError('shadowed')\n")
    before = list(sys.path)
    own.own_workload(f"{module('import torch', 'import queue, torch')}:Training")
    assert sys.path == before
