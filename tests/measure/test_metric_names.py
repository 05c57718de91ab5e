"""The metrics of a workload, found without training it."""

import torch

from compbench.measure.metric_names import metric_names
from compbench.registry import Registry
from compbench.workloads.trm_maze import TRMMaze
from tests.hook_examples import write_examples

SMALL = {"grid": 7, "hidden": 8, "heads": 2, "train_mazes": 8, "validation_mazes": 8}


def test_the_names_are_those_that_its_metrics_have():
    before = torch.get_rng_state()
    assert metric_names(TRMMaze(**SMALL).at_depth(2)) == ("token_accuracy", "solved")
    assert torch.equal(torch.get_rng_state(), before)


def test_any_workload_tells(tmp_path):
    registry = Registry.load(write_examples(tmp_path / "plugins", "compbench_workloads"))
    assert metric_names(registry.workload("echo").at_depth(2)) == ("error",)


def test_one_that_can_not_be_run_tells_nothing(monkeypatch):
    monkeypatch.setattr(TRMMaze, "data", lambda self, seed: 1 / 0)
    assert metric_names(TRMMaze(**SMALL).at_depth(2)) is None
