"""How near the gradients under a strategy are to the exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compbench.capture import Session
from compbench.measure.step import Step
from compbench.records import Batch
from compbench.workloads.model_state import left_as_it_was


@dataclass(frozen=True)
class GradientCosine:
    """Cosines between gradients under a strategy and exact gradients.

    Attributes:
        total: all parameters as one vector.
        smallest: the parameter that fares worst; parameters whose exact gradient is zero are left out.
    """

    total: float
    smallest: float


def gradient_cosine(step: Step, session: Session, batch: Batch) -> GradientCosine:
    """Compares the gradients of one batch with and without the strategy, at the same weights.

    The session's bases are used as they are and stay so; ``.grad``, torch's global generator, the model's buffers and
    the random streams that its modules hold are left untouched.

    Args:
        step: the model.
        session: its session, open.
        batch: examples, best such that were never trained on.
    """
    devices = [step.device] if step.device.type == "cuda" else []
    with torch.random.fork_rng(devices), left_as_it_was(step.model), session.paused():
        exact = step.gradients(batch)
    with torch.random.fork_rng(devices), left_as_it_was(step.model), session.probe():
        compressed = step.gradients(batch)
    pairs = list(zip(exact, compressed, strict=True))
    return GradientCosine(
        total=cosine(torch.cat([a.flatten() for a, _ in pairs]), torch.cat([b.flatten() for _, b in pairs])),
        smallest=_smallest([cosine(a, b) for a, b in pairs if a.any()]),
    )


def cosine(exact: Tensor, other: Tensor) -> float:
    """The cosine of two tensors as vectors; 0 where the other one is zero throughout."""
    # In float64: in float32 a cosine of equal vectors comes out as much as 2e-4 from one.
    a, b = exact.double().flatten(), other.double().flatten()
    if not b.any():
        return 0.0  # a gradient that is gone points nowhere
    return float(a @ b / (a.norm() * b.norm()))


def _smallest(cosines: list[float]) -> float:
    """The smallest of some cosines; NaN where one is, since a gradient that is not finite is the worst of all."""
    return float(torch.tensor(cosines, dtype=torch.float64).min()) if cosines else float("nan")
