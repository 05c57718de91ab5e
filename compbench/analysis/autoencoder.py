"""Nonlinear autoencoders as rivals of PCA at the same code size.

Encoder and decoder have one or two hidden layers with SiLU, and biases. There are two kinds. ``random``: both begin at
random weights. ``pca``: both are a PCA of the rows plus a network whose last layer is zero at first, so that the
autoencoder begins as that PCA and can only be chosen over it when training has made it better.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["random", "pca"]
KINDS: tuple[Kind, ...] = ("random", "pca")

_LOOKS = 20
"""How often in a training the selection rows are looked at."""


@dataclass(frozen=True)
class Schedule:
    """How autoencoders are trained: Adam with a cosine decay to zero.

    Attributes:
        hidden: Units of a hidden layer.
        layers: Hidden layers of encoder and decoder, each.
        steps: Optimiser steps.
        rows: Rows of a step.
        learning_rate: The first one.
    """

    hidden: int = 256
    layers: int = 1
    steps: int = 400
    rows: int = 256
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class PCA:
    """A projection: ``x -> mean + (x - mean) Q Q^T``.

    Attributes:
        mean: ``(D,)``; zeros where it is uncentred.
        basis: ``(D, k)``.
    """

    mean: Tensor
    basis: Tensor

    @classmethod
    def fitted(cls, rows: Tensor, rank: int, centred: bool) -> PCA:
        """That of rows ``(N, D)``, from their Gram matrix in float64."""
        wide = rows.double()
        mean = wide.mean(0) if centred else torch.zeros_like(wide[0])
        wide = wide - mean
        _, vectors = torch.linalg.eigh(wide.T @ wide)
        return cls(mean.to(rows.dtype), vectors[:, -rank:].to(rows.dtype))

    def rebuilt(self, rows: Tensor) -> Tensor:
        """The rows that come back."""
        return self.mean + ((rows - self.mean) @ self.basis) @ self.basis.T


class Autoencoder(nn.Module):
    """Rows ``(N, D)`` to codes ``(N, k)`` and back.

    Args:
        width: ``D``.
        code: ``k``.
        schedule: Its hidden layers.
        start: The PCA that it begins as; None for random weights.
    """

    def __init__(self, width: int, code: int, schedule: Schedule, start: PCA | None) -> None:
        super().__init__()
        self.encoder = _network(width, code, schedule, start is not None)
        self.decoder = _network(code, width, schedule, start is not None)
        self.start = start

    def forward(self, rows: Tensor) -> Tensor:
        """The rows that come back, ``(N, D)``."""
        codes = self.encoder(rows)  # (N, k)
        if self.start is None:
            decoded: Tensor = self.decoder(codes)
            return decoded
        mean, Q = self.start.mean, self.start.basis
        codes = codes + (rows - mean) @ Q
        rebuilt: Tensor = self.decoder(codes) + mean + codes @ Q.T
        return rebuilt


def _network(inputs: int, outputs: int, schedule: Schedule, ends_at_zero: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(schedule.layers):
        layers += [nn.Linear(inputs, schedule.hidden), nn.SiLU()]
        inputs = schedule.hidden
    last = nn.Linear(inputs, outputs)
    if ends_at_zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def relative_error(rows: Tensor, rebuilt: Tensor) -> float:
    """``|X - X'|_F / |X|_F``."""
    return float((rows.double() - rebuilt.double()).norm() / rows.double().norm())


@dataclass(frozen=True)
class Fitted:
    """A trained autoencoder, with its relative error on the rows by which it was selected."""

    model: Autoencoder
    selection_error: float

    def error(self, rows: Tensor) -> float:
        """Its relative error on rows."""
        with torch.no_grad():
            return relative_error(rows, self.model(rows))


def fit(rows: Tensor, selection: Tensor, code: int, kind: Kind, schedule: Schedule, seed: int) -> Fitted:
    """Trains an autoencoder, and keeps the weights that did best on other rows, those at the start among them.

    Args:
        rows: What it is fitted on, ``(N, D)``.
        selection: Rows of the same kind, by which weights are chosen, ``(M, D)``.
        code: Code size ``k``.
        kind: How it begins.
        schedule: How it is trained.
        seed: Of its weights and of the order of rows. Torch's global generator is put back.
    """
    start = PCA.fitted(rows, code, centred=True) if kind == "pca" else None
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = Autoencoder(rows.shape[1], code, schedule, start).to(rows.device)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps)
    best = Fitted(model, float("inf"))
    for step in range(schedule.steps + 1):
        if step % max(1, schedule.steps // _LOOKS) == 0 or step == schedule.steps:
            found = Fitted(model, 0.0).error(selection)
            if found < best.selection_error:
                best = Fitted(copy.deepcopy(model), found)
        if step == schedule.steps:
            break
        chosen = rows[torch.randint(len(rows), (min(schedule.rows, len(rows)),), generator=order).to(rows.device)]
        optimizer.zero_grad()
        loss = (model(chosen) - chosen).square().mean()
        loss.backward()
        optimizer.step()
        decay.step()
    return best
