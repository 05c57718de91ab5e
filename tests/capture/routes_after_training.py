"""Gradient cosine of every parameter through each route, after a training without compression.

``python -m tests.capture.routes_after_training [STRATEGY ...]`` trains the small model of ``trm_depth`` for 200 steps
on mazes, lets every strategy settle for three steps on a training batch, and prints the cosine of each parameter's
gradient with the exact one on mazes that were held out, through every route. The model does not change meanwhile.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from tabulate import tabulate
from torch import Tensor, nn

from compbench import compress
from compbench.capture import Routes
from compbench.measure.step import Step
from compbench.registry import Registry
from compbench.seeds import generator, stream

ROUTES: tuple[Routes, ...] = get_args(Routes)
STRATEGIES: Mapping[str, Any] = {
    "laser": {"laser": {"rank": 16, "max_rank": 16}},
    "lance": {"lance": {"rank": 16}},
    "gale": {"gale": {"rank": 16}},
    "asi": {"asi": {"rank": 16}},
    "past": {"past": {"rank": 16}},
    "random_projection": {"random_projection": {"rank": 16}},
    "velora": "velora",
    "row_sample": "row_sample",
    "int8": "int8",
    "fp8": "fp8",
    "actnn": "actnn",
    "laser_int8": [{"laser": {"rank": 16, "max_rank": 16}}, "int8"],
}


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Those of a loss, by parameter."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.double().flatten() for name, p in model.named_parameters() if p.grad is not None}


def cosines(
    model: nn.Module, batches: Sequence[Tensor], loss_of: Any, strategy: Any, routes: Routes, **settings: Any
) -> dict[str, float]:
    """Cosine of each parameter's gradient with the exact one on the last batch, after a step on each of the others."""
    exact = gradients(model, loss_of(model, batches[-1]))
    with compress(model, strategy, routes=routes, **settings) as session:
        for batch in batches[:-1]:
            with session.step():
                gradients(model, loss_of(model, batch))
        with session.probe():
            found = gradients(model, loss_of(model, batches[-1]))
    return {name: torch.cosine_similarity(found[name], exact[name], dim=0).item() for name in exact}


def main() -> None:
    """Prints a table for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="*", default=list(STRATEGIES), metavar="STRATEGY")
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    workload = Registry.load(None).workload(
        "trm_maze", grid=7, train_mazes=12800, validation_mazes=1000, hidden=64, heads=2, rope_theta=100.0
    )
    workload = workload.at_depth(4)
    data = workload.data(stream(0, "data"))
    model = workload.build(generator(0, "initialisation"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    order = torch.randperm(12800, generator=generator(0, "order"))

    def batch(part: Mapping[str, Tensor], rows: Any) -> Any:
        return {name: tensor[rows] for name, tensor in part.items()}

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return Step(workload, model, torch.device("cpu"), "fp32").loss(batch)

    for step in range(asked.steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 50)
        gradients(model, loss_of(model, batch(data.train, order[64 * (step % 200) :][:64])))
        optimizer.step()
    seen = batch(data.train, order[-64:])
    batches = [seen, seen, seen, batch(data.validation, slice(64))]
    print(f"after {asked.steps} steps; loss on held-out mazes {loss_of(model, batches[-1]).item():.3f}")
    for name in asked.strategies:
        found = {routes: cosines(copy.deepcopy(model), batches, loss_of, STRATEGIES[name], routes) for routes in ROUTES}
        rows = [(parameter, *(found[routes][parameter] for routes in ROUTES)) for parameter in found["hooks"]]
        print(f"\n{tabulate(rows, headers=[name, *ROUTES], floatfmt='.4f')}")
        apart = max(abs(of_weights - of_hooks) for _, _, of_weights, of_hooks in rows)
        print(f"hooks and weight_gradients are {apart:.1e} apart at most")


if __name__ == "__main__":
    main()
