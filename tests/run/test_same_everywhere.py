"""One small suite, trained for real: by the local scheduler, on three Ray nodes of which one is killed, by submitit."""

from pathlib import Path

import pytest

from compbench.registry import Registry
from compbench.run.runner import RunOptions, SuiteRunner
from compbench.suite import load_suite
from tests.hook_examples import write_examples
from tests.run.comparing import work_in
from tests.run.ray_cluster import ThreeNodes
from tests.run.watched import Watched

pytest.importorskip("ray")
pytest.importorskip("submitit")
pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]

SUITE = """
name: everywhere
workload: {name: echo, width: 32}
arms: {none: none, half: half, int8: int8}
matrix: {depth: [3], seed: [0, 1]}
training: {steps: 20, batch_size: 64}
measuring: {time_pairs: 2}
device: cpu
threads: 1
timeout_seconds: 300
executor:
  slurm: {cluster: local, folder: FOLDER}
"""


def test_a_suite_gives_the_same_results_wherever_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    plugins = write_examples(tmp_path / "plugins", "compbench_compressors", "compbench_workloads")  # half and echo
    file = tmp_path / "everywhere.yaml"
    file.write_text(SUITE.replace("FOLDER", str(tmp_path / "jobs")))
    registry = Registry.load(plugins)
    suite = load_suite(file, registry)
    cluster = ThreeNodes()
    shown = []

    def show(plan):
        def kill_a_node(progress):
            cluster.kill(list(progress.places.values())[-1])

        shown.append(Watched(plan, 2, kill_a_node if plan.where.startswith("by Ray") else lambda progress: None))
        return shown[-1]

    done = {}
    try:
        for executor in ("local", "ray", "slurm"):
            address = cluster.address if executor == "ray" else None
            options = RunOptions(results=tmp_path / executor, executor=executor, address=address)
            outcome = SuiteRunner(suite, registry, options, show, lambda line: None).run()
            assert outcome.statuses == {"ok": 6}, (executor, outcome.failures())
            done[executor] = work_in(outcome.directory)
    finally:
        cluster.cluster.shutdown()
    assert len(shown[1].lost) == 1
    assert len(done["local"]) == 6
    assert all(len(record["loss_curve"]) == 20 and record["memory"] for record in done["local"].values())
    assert done["local"] == done["ray"] == done["slurm"]
