"""Where the engine's own time goes: ``python -m compbench.measure.engine_overhead --hidden 64``.

Steps of a Tiny Recursive Model are timed in turn: plain, with each part of the engine alone and doing nothing, and with
the whole engine under ``identity``. Each is given as a ratio to the plain step, the median over rounds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from tabulate import tabulate
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from compbench.capture import compress
from compbench.capture.modules import ModuleTracker
from compbench.capture.steps import Steps
from compbench.measure.step import Step
from compbench.registry import Registry


class _PassOn(TorchFunctionMode):
    """A function mode that only passes on."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def parts_of_the_engine(step: Step, batch: dict[str, torch.Tensor], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step with each part of the engine, in turn, ``rounds`` of each."""

    @contextmanager
    def modules_followed() -> Iterator[None]:
        tracker = ModuleTracker(step.model, Steps(), lambda module, path: None)
        tracker.start()
        try:
            yield
        finally:
            tracker.stop()

    def run() -> None:
        step.loss(batch).backward()

    parts: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "plain step": nullcontext,
        "plain step again": nullcontext,
        "saved-tensor hooks alone": lambda: saved_tensors_hooks(lambda tensor: tensor.detach(), lambda tensor: tensor),
        "function mode alone": _PassOn,
        "module hooks alone": modules_followed,
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*parts, "whole engine, identity"]}
    with compress(step.model, "identity") as session:
        for number in range(-2, rounds):
            for name, part in [*parts.items(), ("whole engine, identity", session.step)]:
                step.clear_gradients()
                gc.collect()
                with nullcontext() if part == session.step else session.paused():
                    start = time.perf_counter()
                    with part():
                        run()
                    taken = time.perf_counter() - start
                if number >= 0:
                    seconds[name].append(taken)
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m compbench.measure.engine_overhead", description=__doc__)
    parser.add_argument("--hidden", type=int, default=64, help="width of the model")
    parser.add_argument("--batch", type=int, default=32, help="examples in a batch")
    parser.add_argument("--depth", type=int, default=4, help="recursion calls")
    parser.add_argument("--rounds", type=int, default=40, help="how many of each are timed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    workload = Registry.load().workload(
        "trm_maze", grid=7, hidden=options.hidden, heads=8, train_mazes=max(64, options.batch), validation_mazes=64
    )
    workload = workload.at_depth(options.depth)
    step = Step(workload, workload.build(torch.Generator().manual_seed(0)), torch.device("cpu"))
    batch = step.batch(workload.data(0).train, slice(options.batch))
    gc.collect()
    gc.freeze()
    seconds = parts_of_the_engine(step, batch, options.rounds)
    plain = seconds["plain step"]
    rows = [
        (name, statistics.median(a / b for a, b in zip(taken, plain, strict=True)), 1000 * statistics.median(taken))
        for name, taken in seconds.items()
    ]
    print(
        f"hidden {options.hidden}, batch {options.batch}, depth {options.depth}, {options.rounds} rounds, one thread\n"
    )
    print(tabulate(rows, headers=("step", "ratio", "ms"), floatfmt=("", ".3f", ".1f")))


if __name__ == "__main__":
    main()
