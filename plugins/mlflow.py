"""``mlflow``: each cell is an MLflow run, with its settings, its numbers and its loss curve.

The experiment has the suite's name, or that of ``MLFLOW_EXPERIMENT_NAME``. Where runs go is MLflow's own business:
``MLFLOW_TRACKING_URI`` names a server or a store, and without it MLflow makes one in the current folder.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from compbench import Observer, hookimpl
from compbench.extras import optional_package

from ._flat import curves, figures, settings, title

Item = TypeVar("Item")


class MLflow:
    """Starts a run when a cell starts, and fills and ends it when the cell has ended.

    Raises:
        SettingsError: MLflow is not installed.
        mlflow.exceptions.MlflowException: its store can't be used.
    """

    def __init__(self) -> None:
        optional_package("mlflow", "mlflow", "observer 'mlflow'")
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._client.search_experiments(max_results=1)  # what is wrong with the store is told before anything runs
        self._runs: dict[str, str] = {}

    @hookimpl
    def compbench_cell_started(self, cell: Mapping[str, Any]) -> None:
        """A run, as yet with settings alone; an earlier one of the same cell was given up."""
        self._end(self._runs.pop(title(cell), None), "KILLED")
        self._runs[title(cell)] = self._open(cell)

    @hookimpl
    def compbench_cell_finished(self, result: Mapping[str, Any]) -> None:
        """All that its record holds; a cell that never had a process gets a run all the same."""
        from mlflow.entities import Metric, RunTag

        cell, now = result["cell"], round(time.time() * 1000)
        run = self._runs.pop(title(cell), None) or self._open(cell)
        numbers = [Metric(_name(name), value, now, 0) for name, value in figures(result).items()]
        for step, values in curves(result):
            numbers += [Metric(_name(name), value, now, step) for name, value in values.items()]
        for part in _parts(numbers, 1000):
            self._client.log_batch(run, metrics=part)
        told = [RunTag(f"compbench.{name}", result[name][:5000]) for name in ("status", "reason", "machine", "key")]
        self._client.log_batch(run, tags=told)
        self._end(run, "FINISHED" if result["status"] == "ok" else "FAILED")

    @hookimpl
    def compbench_suite_finished(self, directory: str, statuses: Mapping[str, int]) -> None:
        """What was interrupted has no record, and its run is over."""
        for run in self._runs.values():
            self._end(run, "KILLED")
        self._runs.clear()

    def _open(self, cell: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or cell["suite"]
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(name)
        tags = {"compbench.suite": cell["suite"], "compbench.arm": cell["arm"]}
        run: str = self._client.create_run(experiment, run_name=title(cell), tags=tags).info.run_id
        given = [Param(_name(key), str(value)[:6000]) for key, value in settings(cell).items()]
        for part in _parts(given, 100):
            self._client.log_batch(run, params=part)
        return run

    def _end(self, run: str | None, status: str) -> None:
        if run is not None:
            self._client.set_terminated(run, status)


def _name(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _parts(items: Sequence[Item], most: int) -> Iterator[Sequence[Item]]:
    """MLflow takes so many at a time."""
    return (items[start : start + most] for start in range(0, len(items), most))


@hookimpl
def compbench_observers() -> Iterable[Observer]:
    """The observer ``mlflow``."""
    return [Observer(name="mlflow", start=MLflow)]
