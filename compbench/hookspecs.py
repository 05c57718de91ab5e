"""The pluggy hooks through which plugins give compbench strategies, workloads, metrics, reporters and observers.

Registration hooks return iterables of records; each plugin's are called on their own, so that one which raises does not
take the others with it. Observer hooks return nothing; who raises in one is reported once and not called again. They
are called one after the other by the process that runs the suite, which starts no cell meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from compbench.compressor import Compressor
    from compbench.records import Foresight, Metric, Observer, Reporter
    from compbench.workloads.base import Workload

PROJECT = "compbench"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def compbench_compressors() -> Iterable[type[Compressor]]:  # type: ignore[empty-body]
    """Compression strategies, as :class:`compbench.Compressor` classes.

    Example::

        import torch
        from pydantic import Field

        import compbench


        class HalfPayload(compbench.Payload):
            def __init__(self, rows, dtype):
                self.rows, self.dtype = rows, dtype

            def decode(self):
                return self.rows.to(self.dtype)

            def tensors(self):
                return (self.rows,)


        class HalfCodec(compbench.Codec):
            def __init__(self, dtype):
                self.dtype = dtype

            def encode(self, rows):
                return HalfPayload(rows.to(self.dtype), rows.dtype)


        class Half(compbench.Compressor):
            \"\"\"Keeps every activation in 16 bits.\"\"\"

            name = "half"
            brain: bool = Field(True, description="bfloat16 instead of float16")

            def codec(self, site, generator):
                return HalfCodec(torch.bfloat16 if self.brain else torch.float16)


        @compbench.hookimpl
        def compbench_compressors():
            return [Half]
    """


@hookspec
def compbench_workloads() -> Iterable[type[Workload]]:  # type: ignore[empty-body]
    """Workloads, as :class:`compbench.Workload` classes: a model, its data, a loss and metrics.

    Example::

        import torch
        from torch import nn

        import compbench


        class Echo(compbench.Workload):
            \"\"\"A weight-tied tanh layer that learns to return its input.\"\"\"

            name = "echo"
            width: int = 16
            calls: int = 4

            def at_depth(self, depth):
                return self.model_copy(update={"calls": depth})

            def build(self, generator):
                layer = nn.Linear(self.width, self.width, bias=False)
                nn.init.orthogonal_(layer.weight, generator=generator)
                return EchoModel(layer, self.calls)

            def data(self, seed):
                generator = torch.Generator().manual_seed(seed)
                rows = torch.randn(512, self.width, generator=generator)
                return compbench.Data(train={"x": rows[:448]}, validation={"x": rows[448:]})

            def forward(self, model, batch):
                return model(batch["x"])

            def loss(self, output, batch):
                return (output - batch["x"]).square().mean()

            def metrics(self, output, batch):
                return {"error": (output - batch["x"]).square().mean(dim=1)}


        class EchoModel(nn.Module):
            def __init__(self, layer, calls):
                super().__init__()
                self.layer, self.calls = layer, calls

            def forward(self, x):
                for _ in range(self.calls):
                    x = torch.tanh(self.layer(x))
                return x


        @compbench.hookimpl
        def compbench_workloads():
            return [Echo]
    """


@hookspec
def compbench_metrics() -> Iterable[Metric]:  # type: ignore[empty-body]
    """Further metrics of any workload's output on held-out batches; means over examples land in the results.

    ``better`` says which way a metric is better, for verdicts and summaries.

    Example::

        import compbench


        def output_norm(workload, output, batch):
            return output.flatten(1).norm(dim=1)


        @compbench.hookimpl
        def compbench_metrics():
            return [compbench.Metric(name="output_norm", compute=output_norm, better="lower")]
    """


@hookspec
def compbench_reporters() -> Iterable[Reporter]:  # type: ignore[empty-body]
    r"""Further formats for ``--format NAME`` of ``compbench table`` and ``compbench compare``.

    Example::

        import compbench


        def as_lines(rows):
            return "\n".join(f"{row['arm']} {row['depth']} {row['status']}" for row in rows)


        @compbench.hookimpl
        def compbench_reporters():
            return [compbench.Reporter(name="lines", render=as_lines)]
    """


@hookspec
def compbench_observers() -> Iterable[Observer]:  # type: ignore[empty-body]
    """Observers that follow a run only where they are asked for, by ``compbench run SUITE --observer NAME``.

    Example::

        from pathlib import Path

        import compbench


        class Diary:
            \"\"\"Keeps a line for each cell that ends.\"\"\"

            def __init__(self):
                self.file = Path("diary.txt").open("a")

            @compbench.hookimpl
            def compbench_cell_finished(self, result):
                print(result["key"], result["status"], file=self.file)

            @compbench.hookimpl
            def compbench_suite_finished(self, directory, statuses):
                self.file.close()


        @compbench.hookimpl
        def compbench_observers():
            return [compbench.Observer(name="diary", start=Diary)]
    """


@hookspec
def compbench_foresights() -> Iterable[Foresight]:  # type: ignore[empty-body]
    """What is known of strategies' memory before a training, for ``compbench plan``; see :class:`compbench.Foresight`.

    Only of strategies whose memory depends on values: all others need none.

    Example::

        import compbench


        def settled(strategy, statistics, steps):
            \"\"\"At the rank that a site has reached.\"\"\"
            return strategy.model_copy(update={"rank": round(statistics.get("rank", strategy.rank))})


        def extremes(strategy, site):
            return {"rank": strategy.rank}, {"rank": site.width}


        @compbench.hookimpl
        def compbench_foresights():
            return [compbench.Foresight("growing", settled, extremes)]
    """


@hookspec
def compbench_cell_started(cell: Mapping[str, Any]) -> None:
    """Observer: a cell's process is about to start; ``cell`` is its specification as stored.

    Example::

        import compbench


        @compbench.hookimpl
        def compbench_cell_started(cell):
            print("started", cell["arm"], cell["depth"], cell["seed"])
    """


@hookspec
def compbench_cell_finished(result: Mapping[str, Any]) -> None:
    """Observer: a cell has ended, in whatever way; ``result`` is what the store holds of it.

    Example::

        import compbench


        @compbench.hookimpl
        def compbench_cell_finished(result):
            print("finished", result["cell"]["arm"], result["status"])
    """


@hookspec
def compbench_suite_finished(directory: str, statuses: Mapping[str, int]) -> None:
    """Observer: a run has ended; ``directory`` is the suite's results folder, ``statuses`` counts cells by status.

    Example::

        import compbench


        @compbench.hookimpl
        def compbench_suite_finished(directory, statuses):
            print(directory, dict(statuses))
    """
