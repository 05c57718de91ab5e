"""``wandb``: each cell is a run of Weights & Biases, written to this machine unless you say otherwise.

The project has the suite's name, or that of ``WANDB_PROJECT``. Runs are offline: they stay in the folder ``wandb`` of
the current one, or of ``WANDB_DIR``, and ``wandb sync`` uploads them. ``WANDB_MODE=online`` sends them at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from compbench import Observer, hookimpl
from compbench.extras import optional_package

from ._flat import curves, figures, settings, title


class WeightsAndBiases:
    """Writes a run when a cell has ended.

    Raises:
        SettingsError: Weights & Biases is not installed.
    """

    def __init__(self) -> None:
        self._wandb = optional_package("wandb", "wandb", "observer 'wandb'")

    @hookimpl
    def compbench_cell_finished(self, result: Mapping[str, Any]) -> None:
        """The settings as its configuration, the curves as its history, the numbers as its summary."""
        cell = result["cell"]
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or cell["suite"],
            name=title(cell),
            group=cell["arm"],
            tags=[result["status"]],
            notes=result["reason"] or None,
            config={**settings(cell), "key": result["key"], "machine": result["machine"]},
            mode=os.environ.get("WANDB_MODE") or "offline",
            reinit="create_new",
            # The run is the cell's, not this process': neither its output, nor its load, nor its code is of interest.
            settings=self._wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )
        try:
            for step, values in curves(result):
                run.log(values, step=step)
            run.summary.update({**figures(result), "status": result["status"]})
        finally:
            run.finish(exit_code=0 if result["status"] == "ok" else 1)


@hookimpl
def compbench_observers() -> Iterable[Observer]:
    """The observer ``wandb``."""
    return [Observer(name="wandb", start=WeightsAndBiases)]
