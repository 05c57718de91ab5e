"""The workload ``trm_maze``: a Tiny Recursive Model learns to mark the path through a maze."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from compbench.errors import SettingsError
from compbench.hookspecs import hookimpl
from compbench.records import Batch
from compbench.workloads import mazes
from compbench.workloads.base import Data, Workload
from compbench.workloads.trm import Gradient, TinyRecursiveModel, inner_width


class TRMMaze(Workload):
    """A Tiny Recursive Model marks the unique path through mazes; defaults are the profile of the LASER paper.

    A batch has ``inputs`` and ``targets``, token ids ``(B, grid * grid)``, int64; the output is logits
    ``(B, grid * grid, 5)``. ``depth`` counts the calls of the weight-tied block that carry gradient.
    """

    name: ClassVar[str] = "trm_maze"

    grid: int = Field(11, ge=5, le=99, description="side of the square maze in tokens, odd")
    train_mazes: int = Field(9000, ge=1, le=1_000_000, description="distinct mazes to train on")
    validation_mazes: int = Field(1000, ge=1, le=1_000_000, description="held-out mazes, distinct and never trained on")
    hidden: int = Field(512, ge=2, description="width of the model")
    heads: int = Field(8, ge=1, description="attention heads; hidden / heads must be an even integer")
    layers: int = Field(1, ge=1, description="blocks that run one after another in one call")
    expansion: float = Field(4.0, gt=0, description="inner width: expansion * hidden * 2/3, up to a multiple of 256")
    inner: int | None = Field(None, ge=1, description="inner width of SwiGLU itself, whatever the expansion")
    h_cycles: int = Field(1, ge=1, description="updates of the answer state z_H")
    l_cycles: int = Field(24, ge=1, description="updates of the reasoning state z_L before each update of z_H")
    gradient: Gradient = Field("all", description="gradient through all h_cycles, or the last_cycle alone")
    loss_function: Literal["cross_entropy", "stablemax"] = Field(
        "cross_entropy", description="loss of a position; stablemax is a softmax without exponentials, in float64"
    )
    rope_theta: float = Field(1e4, gt=1, description="base of the rotary position embedding")

    @field_validator("grid")
    @classmethod
    def _grid_is_odd(cls, grid: int) -> int:
        try:
            mazes.side_of(grid)
        except SettingsError as error:  # pydantic gathers ValueErrors, with the field they belong to
            raise ValueError(str(error)) from error
        return grid

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % (2 * self.heads):
            allowed = [heads for heads in range(1, self.hidden // 2 + 1) if self.hidden % (2 * heads) == 0]
            listed = f"heads {', '.join(map(str, allowed))}" if allowed else "an even hidden"
            raise ValueError(
                f"heads {self.heads} does not divide hidden {self.hidden} into heads of even width (allowed: {listed})"
            )
        return self

    @model_validator(mode="after")
    def _mazes_exist(self) -> Self:
        try:
            mazes.require(self.grid, self.train_mazes + self.validation_mazes)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def depth(self) -> int:
        """Calls of the block that carry gradient."""
        return (self.h_cycles if self.gradient == "all" else 1) * (self.l_cycles + 1)

    def at_depth(self, depth: int) -> Self:
        """This workload with ``l_cycles`` such that ``depth`` calls of the block carry gradient.

        Raises:
            SettingsError: ``l_cycles`` would not be a positive integer.
        """
        cycles = self.h_cycles if self.gradient == "all" else 1
        if depth < 2 * cycles or depth % cycles:
            allowed = "integers from 2" if cycles == 1 else f"multiples of {cycles} from {2 * cycles}"
            raise SettingsError(
                f"{self.name} has no depth {depth} with h_cycles {self.h_cycles} and gradient {self.gradient}, "
                f"where depth = {'h_cycles * ' if cycles > 1 else ''}(l_cycles + 1) (allowed: {allowed})"
            )
        return self.model_copy(update={"l_cycles": depth // cycles - 1})

    def build(self, generator: torch.Generator) -> TinyRecursiveModel:
        """Makes the model on CPU; every random number of its initialisation comes from ``generator``."""
        return TinyRecursiveModel(
            vocabulary=len(mazes.Token),
            positions=self.grid**2,
            hidden=self.hidden,
            heads=self.heads,
            inner=inner_width(self.hidden, self.expansion) if self.inner is None else self.inner,
            layers=self.layers,
            h_cycles=self.h_cycles,
            l_cycles=self.l_cycles,
            gradient=self.gradient,
            theta=self.rope_theta,
            generator=generator,
        )

    def data(self, seed: int) -> Data:
        """Makes training and held-out mazes; the same seed gives the same bytes."""
        everything = mazes.generate(self.grid, self.train_mazes + self.validation_mazes, seed)
        train, validation = everything[: self.train_mazes], everything[self.train_mazes :]
        common = set(train.keys()) & set(validation.keys())
        if common:
            raise RuntimeError(
                f"{len(common)} held-out mazes are among those trained on; no result of this data would count"
            )
        return Data(train=_batch(train), validation=_batch(validation))

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits, ``(B, grid * grid, 5)``."""
        logits: Tensor = model(batch["inputs"])
        return logits

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean over all positions of all examples."""
        logits, targets = output.flatten(0, 1), batch["targets"].flatten()  # (B * L, 5), (B * L,)
        if self.loss_function == "stablemax":
            return F.nll_loss(log_stablemax(logits), targets)
        return F.cross_entropy(logits.float(), targets)

    def metrics(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``token_accuracy``, the share of positions that are right, and ``solved``, 1 where all are; ``(B,)`` each."""
        right = output.argmax(dim=-1) == batch["targets"]  # (B, L)
        return {"token_accuracy": right.float().mean(dim=1), "solved": right.all(dim=1).float()}

    def recurrent_modules(self, model: nn.Module) -> list[str]:
        """The block: it runs once a recursion call."""
        return ["block"]


def log_stablemax(logits: Tensor) -> Tensor:
    """Logarithm of ``s(x) / sum s(x)`` over the last dimension; ``s(x) = x + 1`` if ``x >= 0``, else ``1 / (1 - x)``.

    Computed and returned in float64, as in the reference TRM; after arXiv 2501.04697.
    """
    x = logits.double()
    # The clamp keeps the branch that is not taken finite: an infinity there would make the gradient NaN.
    s = torch.where(x >= 0, x + 1, 1 / (1 - x.clamp(max=0)))
    return s.log() - s.sum(dim=-1, keepdim=True).log()


def _batch(made: mazes.Mazes) -> Batch:
    return {
        "inputs": torch.from_numpy(made.inputs).flatten(1).long(),  # (N, L)
        "targets": torch.from_numpy(made.targets).flatten(1).long(),  # (N, L)
    }


@hookimpl
def compbench_workloads() -> Iterable[type[Workload]]:
    """Registers the workload."""
    return [TRMMaze]
