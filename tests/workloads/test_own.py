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
from tests.run.test_checkpoints import Interrupted, Killed

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
        ("width: int = 8", "name: int = 8", "can't have a parameter named name"),
        ("width: int = 8", "_width: int = 8", "can't have a parameter named _width"),
        ("width: int = 8", "width: torch.Tensor = torch.ones(2)", "a tensor as default of width"),
        ("import torch\n", "import torch\nraise SystemExit(3)\n", "can't be imported: SystemExit: 3"),
        (
            "class Training:",
            "import abc\nclass Base(abc.ABC):\n    @abc.abstractmethod\n    def more(self): ...\nclass Training(Base):",
            "is abstract: it leaves out more",
        ),
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
        ("self.width)}\n", 'self.width), "names": ["a"]}\n', "batch 0 is a dictionary with list for 'names'"),
        ("for size in (20, 12)", "for size in ()", "gave no batch"),
        ("return nn.Sequential(*[", "return list([", "build gave list"),
        ("def build(self):", "def build(self, seed):", "build raised TypeError: .*missing 1 required"),
        (
            "self.depth, self.width =",
            "raise ValueError('odd')\n        self.depth =",
            "its constructor raised ValueError",
        ),
        (
            'batch["x"]).square().mean()\n',
            'batch["y"]).square().mean()\n',
            r"loss of 4 train examples \(x \(4, 8\) torch.float32\) raised KeyError: 'y'",
        ),
        ('{"error": (', "{0: (", "a metric named 0"),
        (".mean(dim=1)}", ".mean(dim=1) * 1j}", "torch.complex64.*of real numbers"),
        (
            "torch.randn(size, self.width)}",
            "torch.randn(size, self.width, dtype=torch.float64 if size == 12 else torch.float32)}",
            "batch 1 has torch.float64 for 'x', and batch 0 torch.float32",
        ),
        ("self.width)}\n", 'self.width, device="meta")}\n', "a tensor without values for 'x'"),
        ("torch.randn(size, self.width)}", "torch.eye(8).to_sparse()}", "a tensor of layout torch.sparse_coo for 'x'"),
        ("torch.randn(size, self", "torch.randn(0, self", "gave no example"),
        (
            "for size in (20, 12):\n            yield",
            'for size in (20, 12):\n            yield {"x" if split == "train" else "y": torch.ones(9, self.width)} or',
            r"loss of 4 validation examples \(y",
        ),
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


def test_metrics_of_a_later_batch_are_asked_too(tmp_path, module):
    (cell,) = cells(tmp_path, module(".mean(dim=1)}", ".mean(dim=1)[:4]}"))
    result = run_cell(cell)
    assert result.status == "failed"
    assert re.search(r"evaluate gave a tensor of shape \(4,\).* for 'error' and 32 examples", result.reason)
    (cell,) = cells(
        tmp_path, module("(20, 12)", "(40,)", GOOD.replace('{"error"', '{f"error of {len(batch[chr(120)])}"'))
    )
    assert re.search("of examples 32 and on are error of 8 .*expected: error of 32", run_cell(cell).reason)


def test_batches_that_do_not_end_are_told(tmp_path, module, monkeypatch):
    monkeypatch.setattr(own, "_LARGEST_SHARE", 1e-5)
    (cell,) = cells(tmp_path, module("for size in (20, 12):", "size = 20\n        while True:"))
    assert re.search("gave .* batches, more than .* GB .*expected: an end before", run_cell(cell).reason)


def test_a_batch_is_taken_without_the_graph_that_it_hangs_on(tmp_path, module):
    name = module("self.width)}\n", "self.width, requires_grad=True)}\n")
    (cell,) = cells(tmp_path, name)
    assert not own.own_workload(f"{name}:Training")().data(0).train["x"].requires_grad
    assert run_cell(cell).status == "ok"


def test_what_a_method_takes_out_of_its_batch_is_taken_from_nobody_else(tmp_path, module):
    text = GOOD.replace(' - batch["x"]', "")
    (cell,) = cells(tmp_path, module(text=text.replace('batch["x"])', 'batch.pop("x"))')))
    (other,) = cells(tmp_path, module(text=text))
    assert run_cell(cell).loss_curve == run_cell(other).loss_curve


def test_an_annotation_for_type_checkers_alone_is_any_and_leaves_the_others_checked(tmp_path, module):
    name = module("width: int = 8", 'width: int = 8, kind: "Nowhere" = 1')
    assert cells(tmp_path, name, ", kind: anything")
    with pytest.raises(SuiteError, match=r"width is 'wide' \(allowed: an integer"):
        cells(tmp_path, name, ", width: wide")


STATEFUL = GOOD.replace(
    "return nn.Sequential(*[nn.Linear(self.width, self.width) for _ in range(self.depth)])",
    """model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8))
        model.noise = torch.Generator().manual_seed(0)
        return model""",
).replace(
    "return (model(batch",
    """batch["x"] = batch["x"] + torch.randn(batch["x"].shape, generator=model.noise)
        return (model(batch""",
)


def test_nobody_who_looks_at_a_model_changes_its_training(tmp_path, module, monkeypatch):
    """Buffers and the streams that a model holds: trying it out, comparing gradients and validating leave them."""
    name = module(text=STATEFUL)
    results = []
    for points, cosine, tried in ((0, False, False), (3, True, True)):
        suite = SUITE.replace("flops: false", f"flops: false, gradient_cosine: {cosine}, validation_points: {points}")
        (tmp_path / "suite.yaml").write_text(suite.format(name=name, fields="", depth=1))
        registry = Registry.load()
        (cell,) = load_suite(tmp_path / "suite.yaml", registry).cells(registry)
        with monkeypatch.context() as patch:
            if not tried:
                patch.setattr(own.OwnWorkload, "verify", lambda *_: None)
            results.append(run_cell(cell))
    plain, watched = results
    assert (plain.status, watched.status) == ("ok", "ok"), plain.reason + watched.reason
    assert watched.loss_curve == plain.loss_curve
    assert watched.metrics == plain.metrics
    # Both passes drew the same noise.
    assert watched.fidelity.gradient_cosine == pytest.approx(1, abs=1e-6)


def test_metrics_are_taken_in_evaluation_mode_and_steps_in_training_mode(tmp_path, module):
    text = STATEFUL.replace(
        '{"error": ', '{"training": torch.full((len(batch["x"]),), float(model.training)), "error": '
    )
    (cell,) = cells(tmp_path, module(text=text), depth=1)
    result = run_cell(cell)
    assert result.metrics["training"] == 0
    # A class that sets the mode by itself, in whichever way, trains as one that does not.
    for mode in ("eval", "train"):
        (other,) = cells(tmp_path, module("return {", f"model.{mode}()\n        return {{", text), depth=1)
        assert run_cell(other).loss_curve == result.loss_curve


def test_streams_that_a_model_holds_are_saved_with_its_training(tmp_path, module):
    (cell,) = cells(tmp_path, module(text=STATEFUL), depth=1)
    whole = run_cell(cell)
    with pytest.raises(Killed):
        run_cell(cell, Interrupted(tmp_path / "cell.pt", cell, [2], 3))
    resumed = run_cell(cell, Interrupted(tmp_path / "cell.pt", cell))
    assert resumed.resumed_from == [2]
    assert (resumed.loss_curve, resumed.metrics) == (whole.loss_curve, whole.metrics)
