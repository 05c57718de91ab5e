"""The shipped observers: what a tracker is told of a run, by a stand-in for its package and by the package itself."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from compbench_plugins._flat import curves, figures, settings

from compbench.errors import SettingsError
from compbench.measure.results import Fidelity
from compbench.registry import Registry
from compbench.run.result import CellResult
from tests.run.fake_suites import make_cell


def started(**fields):
    return make_cell(**fields).model_dump(mode="json")


def finished(status="ok", seed=0, **fields):
    """A record as observers are handed it."""
    cell = make_cell(seed=seed)
    known = {
        "metrics": {"solved": 0.5},
        "statistics": {"rank#1": 16.0},
        "fidelity": Fidelity(gradient_cosine_start=0.9, gradient_cosine=0.8, smallest_parameter_cosine=0.1),
        "loss_curve": [3.0, 2.0, float("nan")],
        "statistics_curve": [{"step": 2, "fidelity": 0.7}],
        "machine": "0123456789ab",
        "seconds": 1.5,
    }
    return CellResult(key=cell.key, cell=cell, status=status, **(known | fields)).model_dump(mode="json")


def observed(name, *events):
    """An observer that has been told of a run."""
    registry = Registry.load()
    registry.start_observer(name)
    for hook, arguments in events:
        assert registry.observe(f"compbench_{hook}", **arguments) == []


def run_of_three_cells():
    """One cell ends well, one crashes without ever having started, one is interrupted."""
    yield "cell_started", {"cell": started(seed=0)}
    yield "cell_finished", {"result": finished(seed=0)}
    yield "cell_finished", {"result": finished("crashed", seed=1, reason="killed by SIGSEGV")}
    yield "cell_started", {"cell": started(seed=2)}
    yield "suite_finished", {"directory": "results/fake", "statuses": {"ok": 1, "crashed": 1}}


def test_settings_are_flat_and_read_as_the_suite_does():
    flat = settings(started(arm="mine"))
    assert (flat["arm"], flat["depth"], flat["workload.name"], flat["does"]) == ("mine", 4, "echo", "ok")
    assert (flat["training.betas"], flat["training.optimizer"]) == ("[0.9, 0.95]", "adamw")
    assert json.loads(flat["strategy"]) == "mine"
    chain = started() | {"strategy": [{"name": "laser", "fields": {"rank": 8}}, {"name": "int8", "fields": {}}]}
    assert json.loads(settings(chain)["strategy"]) == [{"laser": {"rank": 8}}, "int8"]


def test_every_number_of_a_record_has_its_path():
    flat = figures(finished())
    assert flat["metrics.solved"] == 0.5
    assert flat["fidelity.gradient_cosine"] == 0.8
    assert flat["seconds"] == 1.5
    assert not [name for name in flat if name.startswith(("memory", "time"))]  # which were not measured
    assert figures(finished(metrics={"solved": float("nan")}))["metrics.solved"] != 0.5


def test_curves_have_a_loss_for_each_step_and_figures_where_there_are_some():
    (first, second, third) = curves(finished())
    assert first == (1, {"loss": 3.0})
    assert second == (2, {"loss": 2.0, "curve.fidelity": 0.7})
    assert third[0] == 3
    assert third[1]["loss"] != third[1]["loss"]


class FakeClient:
    """Keeps what MLflow would, and refuses what it would refuse."""

    runs: ClassVar[dict[str, SimpleNamespace]] = {}

    def search_experiments(self, max_results):
        return []

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1") if FakeClient.runs else None

    def create_experiment(self, name):
        assert name == "fake"
        return "1"

    def create_run(self, experiment, run_name, tags):
        assert experiment == "1"
        FakeClient.runs[run_name] = SimpleNamespace(tags=dict(tags), metrics=[], params={}, status="RUNNING")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

    def log_batch(self, run, metrics=(), params=(), tags=()):
        assert len(metrics) <= 1000
        assert len(params) <= 100
        FakeClient.runs[run].metrics += metrics
        FakeClient.runs[run].params.update(params)
        FakeClient.runs[run].tags.update(tags)

    def set_terminated(self, run, status):
        FakeClient.runs[run].status = status


@pytest.fixture
def fake_mlflow(monkeypatch):
    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    mlflow.MlflowClient, mlflow.entities = FakeClient, entities
    entities.Metric = lambda name, value, time, step: (name, value, step)
    entities.Param = entities.RunTag = lambda name, value: (name, value)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setattr(FakeClient, "runs", {})


def test_mlflow_is_told_of_every_cell_and_of_those_that_were_cut_off(fake_mlflow):
    observed("mlflow", *run_of_three_cells())
    ok, crashed, cut_off = (FakeClient.runs[f"laser does=ok depth 4 seed {seed}"] for seed in range(3))
    assert (ok.status, crashed.status, cut_off.status) == ("FINISHED", "FAILED", "KILLED")
    assert ok.params["training.learning_rate"] == "0.001"
    assert ("metrics.solved", 0.5, 0) in ok.metrics
    assert ("statistics.rank_1", 16.0, 0) in ok.metrics
    assert [(step, value) for name, value, step in ok.metrics if name == "loss"][:2] == [(1, 3.0), (2, 2.0)]
    assert ok.tags["compbench.status"] == "ok"
    assert crashed.tags["compbench.reason"] == "killed by SIGSEGV"
    assert crashed.params["seed"] == "1"


def test_a_long_curve_goes_to_mlflow_in_parts(fake_mlflow):
    observed("mlflow", ("cell_finished", {"result": finished(loss_curve=[1.0] * 2500, statistics_curve=[])}))
    (run,) = FakeClient.runs.values()
    assert [step for name, _, step in run.metrics if name == "loss"] == list(range(1, 2501))


def test_a_cell_that_starts_again_leaves_no_run_open(fake_mlflow, monkeypatch):
    ended = []
    monkeypatch.setattr(FakeClient, "set_terminated", lambda self, run, status: ended.append(status))
    again = ("cell_started", {"cell": started()})
    observed("mlflow", again, again, ("cell_finished", {"result": finished()}))
    assert ended == ["KILLED", "FINISHED"]


class FakeWandb(ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.runs = []
        self.Settings = lambda **fields: fields

    def init(self, **fields):
        history = {}
        run = SimpleNamespace(fields=fields, history=history, summary={}, exit_code=None)
        run.log = lambda values, step: history.update({step: values})
        run.finish = lambda exit_code: setattr(run, "exit_code", exit_code)
        self.runs.append(run)
        return run


@pytest.fixture
def fake_wandb(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    return sys.modules["wandb"]


def test_wandb_writes_a_run_for_each_cell_that_has_ended_and_stays_offline(fake_wandb):
    observed("wandb", *run_of_three_cells())
    ok, crashed = fake_wandb.runs
    assert (ok.exit_code, crashed.exit_code) == (0, 1)
    assert {run.fields["mode"] for run in fake_wandb.runs} == {"offline"}
    assert (ok.fields["project"], ok.fields["name"]) == ("fake", "laser does=ok depth 4 seed 0")
    assert ok.fields["config"]["training.steps"] == 1000
    assert ok.history[2] == {"loss": 2.0, "curve.fidelity": 0.7}
    assert ok.summary["metrics.solved"] == 0.5
    assert crashed.fields["notes"] == "killed by SIGSEGV"


def test_wandb_goes_online_when_the_user_says_so(fake_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "other")
    observed("wandb", ("cell_finished", {"result": finished()}))
    assert [fake_wandb.runs[0].fields[name] for name in ("mode", "project")] == ["online", "other"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_without_its_package_an_observer_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=rf"observer '{name}' needs .* pip install 'compbench\[{name}\]'"):
        Registry.load().start_observer(name)


def test_the_real_mlflow_keeps_it_in_a_local_store(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    observed("mlflow", *run_of_three_cells())
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("fake").experiment_id
    runs = {run.info.run_name[-1]: run for run in client.search_runs([experiment])}
    assert [runs[seed].info.status for seed in "012"] == ["FINISHED", "FAILED", "KILLED"]
    assert runs["0"].data.params["workload.name"] == "echo"
    assert runs["0"].data.metrics["metrics.solved"] == 0.5
    history = client.get_metric_history(runs["0"].info.run_id, "loss")
    assert [(point.step, point.value) for point in history][:2] == [(1, 3.0), (2, 2.0)]


def test_the_real_wandb_writes_offline_runs(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    # In a process of its own: it starts a service, and keeps it.
    script = "from tests.plugins.test_observers import *; observed('wandb', *run_of_three_cells())"
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, cwd=Path(__file__).parents[2])
    first, second = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert b"metrics.solved" in first.read_bytes()
    assert b"killed by SIGSEGV" in second.read_bytes() + first.read_bytes()
