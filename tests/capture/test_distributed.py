"""Data-parallel training: each process has its own session, and gradients are averaged as they are without."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from compbench_plugins.identity import Identity
from compbench_plugins.laser import Laser
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compbench.capture.session import Session
from compbench.compressor import Compressor
from tests.capture import zoo
from tests.capture.zoo import session_of

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="gloo is not built in")

PROCESSES, STEPS = 2, 3


class Inside(nn.Module):
    """A model inside another one, as in ``DistributedDataParallel``: its sites, and so its streams, are named alike."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def data(rank: int, step: int) -> Tensor:
    """A batch of a rank's own."""
    return torch.randn(4, 9, 32, generator=torch.Generator().manual_seed(100 * rank + step)) * (1 + rank)


def train(
    model: nn.Module, session: Session | None, rank: int, average: Callable[[nn.Module], None] = lambda model: None
) -> list[Tensor]:
    """The gradients of every step of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    with session or nullcontext():
        for step in range(STEPS):
            optimizer.zero_grad()
            with session.step() if session else nullcontext():
                model(data(rank, step)).square().mean().backward()
            assert session is None or session.saved_bytes == 0
            average(model)
            found += [p.grad.clone() for p in model.parameters()]
            optimizer.step()
    return found


def averaged(model: nn.Module) -> None:
    """The mean of the processes' gradients, computed without ``DistributedDataParallel``."""
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= PROCESSES


def distributed(model: nn.Module, strategy: Compressor | None, where: str, rank: int) -> tuple[list[Tensor], list[str]]:
    """Gradients and sites of training under ``DistributedDataParallel``, with a session around it or what is inside."""
    parallel = DistributedDataParallel(copy.deepcopy(model))
    session = session_of(parallel if where == "around" else parallel.module, strategy) if strategy else None
    gradients = train(parallel, session, rank)
    return gradients, [site.name for site in session.sites() if not site.reason] if session else []


def check(rank: int, where: str) -> None:
    torch.manual_seed(0)
    model = zoo.Recursive(calls=3)
    plain, _ = distributed(model, None, where, rank)
    exact, sites = distributed(model, Identity(), where, rank)
    assert sites
    assert all(torch.equal(a, b) for a, b in zip(plain, exact, strict=True))

    strategy = Laser(rank=6, max_rank=12)
    lossy, sites = distributed(model, strategy, where, rank)
    assert sites
    by_hand = copy.deepcopy(model) if where == "within" else Inside(copy.deepcopy(model))
    expected = train(by_hand, session_of(by_hand, strategy), rank, averaged)
    for a, b in zip(lossy, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert not all(torch.equal(a, b) for a, b in zip(lossy, plain, strict=True))
    # The same on all processes, though each has data, and with them bases, of its own.
    for gradient in lossy:
        others = [torch.empty_like(gradient) for _ in range(PROCESSES)]
        dist.all_gather(others, gradient)
        assert all(torch.equal(gradient, other) for other in others)


def process(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=60))
    try:
        for where in ("around", "within"):
            check(rank, where)
        gc.collect()  # models that were distributed hold on to the group, whose threads must end before the process
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_gradients_are_averaged_as_they_are_without_a_session(tmp_path: Path) -> None:
    """Once with the session around the distributed model, once with the session around what is inside."""
    mp.spawn(process, ((tmp_path / "meeting").as_uri(),), nprocs=PROCESSES)
