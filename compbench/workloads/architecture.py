"""Any task on any architecture: the fields of the architectures, and the workload that a task becomes on one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from compbench.errors import SettingsError
from compbench.records import Batch
from compbench.sources import file_hash
from compbench.workloads.base import Workload
from compbench.workloads.blocks import Answer, Norms, Shape, called_modules
from compbench.workloads.from_transformers import FromTransformers, build_model, layers_of
from compbench.workloads.looped_lm import LoopedLM, exit_loss
from compbench.workloads.profiles import PROFILES, Profile
from compbench.workloads.recursion import RecursiveReasoner
from compbench.workloads.reference_weights import load_reference_checkpoint
from compbench.workloads.supervision import carried_targets, next_state, with_new_examples
from compbench.workloads.task import IGNORED, Task, accuracies
from compbench.workloads.trm import Gradient, inner_width
from compbench.workloads.trm_maze import log_stablemax
from compbench.workloads.universal_transformer import UniversalTransformer

Architecture = Literal["trm", "universal_transformer", "looped_lm"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

OWN_FIELDS: Mapping[str, tuple[Architecture, ...]] = {
    "h_cycles": ("trm",),
    "l_cycles": ("trm",),
    "gradient": ("trm",),
    "prefix": ("trm",),
    "halting": ("trm",),
    "supervision_steps": ("trm",),
    "halting_exploration": ("trm",),
    "weights": ("trm",),
    "loops": ("universal_transformer", "looped_lm"),
    "exits": ("looped_lm",),
    "exit_entropy": ("looped_lm",),
    "rope_theta": ("trm", "looped_lm"),
}
"""The fields that not every architecture has."""

HALTING_WEIGHT = 0.5
"""Of the halting head's loss beside that of the answer, as in the reference TRM."""

_NORMS: Mapping[Architecture, Norms] = {
    "trm": "post_rms",
    "universal_transformer": "post_layer",
    "looped_lm": "sandwich_rms",
}


class OnArchitecture(Task, Workload):
    """A task, which a subclass is as well, on an architecture that its fields choose.

    ``depth`` counts the calls of the block that carry gradient. The output is an
    :class:`~compbench.workloads.blocks.Answer`.
    """

    # A task's name is that of its workload.
    name: ClassVar[str]

    architecture: Architecture = Field("trm", description="how the block is called, and what is around it")
    profile: Profile | None = Field(None, description="named settings, the defaults of what is left out")
    hidden: int = Field(128, ge=2, description="width of the model")
    heads: int = Field(4, ge=1, description="attention heads; hidden / heads must be an even integer")
    layers: int = Field(1, ge=1, description="blocks that run one after another in one call")
    expansion: float = Field(4.0, gt=0, description="inner width: expansion * hidden * 2/3, up to a multiple of 256")
    inner: int | None = Field(None, ge=1, description="inner width of SwiGLU itself, whatever the expansion")
    tied: bool | Annotated[int, Field(ge=2)] = Field(
        True, description="true: all calls share one block; false: each has its own; N: N blocks, for N runs of calls"
    )
    rope_theta: float = Field(1e4, gt=1, description="trm, looped_lm: base of the rotary position embedding")
    loss_function: Literal["cross_entropy", "stablemax"] = Field(
        "cross_entropy", description="loss of a position; stablemax is a softmax without exponentials, in float64"
    )
    h_cycles: int = Field(1, ge=1, description="trm: updates of the answer state z_H")
    l_cycles: int = Field(3, ge=1, description="trm: updates of the reasoning state z_L before each update of z_H")
    gradient: Gradient = Field("all", description="trm: gradient through all h_cycles, or the last_cycle alone")
    prefix: int = Field(0, ge=0, description="trm: positions in front of the tokens, the first a learnt vector")
    halting: bool = Field(False, description="trm: a head learns whether the answer is right, and ends supervision")
    supervision_steps: int = Field(
        1, ge=1, description="trm: optimiser steps at most on one example, each from the states that the last one left"
    )
    halting_exploration: float = Field(
        0.1, ge=0, le=1, description="trm: share of examples that halting does not end before a random number of steps"
    )
    weights: str | None = Field(
        None, description="trm: a checkpoint of the reference implementation to begin with, in its own naming"
    )
    loops: int = Field(4, ge=1, description="universal_transformer, looped_lm: how often the stack runs")
    exits: bool = Field(False, description="looped_lm: logits after every loop, and a gate learns where to stop")
    exit_entropy: float = Field(0.05, ge=0, description="looped_lm: weight of the exit's entropy in the loss")

    from_transformers: FromTransformers | None = Field(
        None, description="a language model of transformers instead: {config: {model_type: gpt2, ...}}"
    )
    transformers_layers: int | None = Field(None, ge=1, description="set by the depth, with from_transformers")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, given: Any) -> Any:
        profile = given.get("profile") if isinstance(given, dict) else None
        filled: Mapping[str, Any] = next((PROFILES[known] for known in PROFILES if known == profile), {})
        return {**filled, **given} if filled else given

    @model_validator(mode="after")
    def _fields_are_of_the_architecture(self) -> Self:
        for name, architectures in OWN_FIELDS.items():
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and self.architecture not in architectures:
                raise ValueError(
                    f"{name} is no field of architecture '{self.architecture}' "
                    f"(allowed: with {', '.join(architectures)})"
                )
        return self

    @model_validator(mode="after")
    def _transformers_stand_alone(self) -> Self:
        fields = OnArchitecture.model_fields
        ours = set(fields) - {"from_transformers", "transformers_layers", "loss_function"}
        changed = [name for name in fields if name in ours and getattr(self, name) != fields[name].default]
        if self.from_transformers is not None and changed:
            raise ValueError(
                f"{changed[0]} is given beside from_transformers, whose config has all that (allowed: not)"
            )
        if self.from_transformers is None and self.transformers_layers is not None:
            raise ValueError("transformers_layers is a field of from_transformers, and is set by the depth")
        return self

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
    def _supervision_fits(self) -> Self:
        if self.halting and self.supervision_steps == 1:
            raise ValueError(
                "halting ends supervision, of which there is one step (allowed: supervision_steps above 1)"
            )
        if self.halting_exploration != type(self).model_fields["halting_exploration"].default and not self.halting:
            raise ValueError("halting_exploration is a field of halting (allowed: with halting: true)")
        if self.exit_entropy != type(self).model_fields["exit_entropy"].default and not self.exits:
            raise ValueError("exit_entropy is a field of exits (allowed: with exits: true)")
        return self

    @property
    def depth(self) -> int:
        """Calls of the block that carry gradient; layers, of a model of ``transformers``."""
        if self.from_transformers is not None:
            return self.transformers_layers or layers_of(self.from_transformers)
        if self.architecture == "trm":
            return (self.h_cycles if self.gradient == "all" else 1) * (self.l_cycles + 1)
        return self.loops

    @property
    def groups(self) -> int:
        """How many blocks the calls share.

        Raises:
            SettingsError: ``tied`` asks for more than there are calls.
        """
        if isinstance(self.tied, bool):
            return 1 if self.tied else self.depth
        if self.tied > self.depth:
            raise SettingsError(
                f"tied is {self.tied}, but there are {self.depth} calls (allowed: at most one block a call)"
            )
        return self.tied

    def at_depth(self, depth: int) -> Self:
        """This workload with ``l_cycles`` or ``loops`` such that ``depth`` calls of the block carry gradient.

        Raises:
            SettingsError: there is no such depth, or it has fewer calls than ``tied`` has blocks.
        """
        if (self.architecture != "trm" or self.from_transformers is not None) and depth < 1:
            raise SettingsError(f"{self.name} has no depth {depth} (allowed: integers from 1)")
        if self.from_transformers is not None:
            layers = layers_of(self.from_transformers)
            if self.from_transformers.pretrained is not None and depth != layers:
                raise SettingsError(f"the pretrained model has {layers} layers (allowed: depth {layers})")
            return self.model_copy(update={"transformers_layers": depth})
        if self.architecture != "trm":
            found = self.model_copy(update={"loops": depth})
        else:
            cycles = self.h_cycles if self.gradient == "all" else 1
            if depth < 2 * cycles or depth % cycles:
                allowed = "integers from 2" if cycles == 1 else f"multiples of {cycles} from {2 * cycles}"
                raise SettingsError(
                    f"{self.name} has no depth {depth} with h_cycles {self.h_cycles} and gradient {self.gradient}, "
                    f"where depth = {'h_cycles * ' if cycles > 1 else ''}(l_cycles + 1) (allowed: {allowed})"
                )
            found = self.model_copy(update={"l_cycles": depth // cycles - 1})
        _ = found.groups  # raises where there are fewer calls than blocks
        return found

    @property
    def shape(self) -> Shape:
        """The block's sizes."""
        causal = self.looking_ahead == "forbidden" or (
            self.architecture == "looped_lm" and self.looking_ahead == "needless"
        )
        return Shape(
            hidden=self.hidden,
            heads=self.heads,
            inner=inner_width(self.hidden, self.expansion) if self.inner is None else self.inner,
            layers=self.layers,
            positions=self.prefix + self.positions,
            theta=None if self.architecture == "universal_transformer" else self.rope_theta,
            causal=causal,
            norms=_NORMS[self.architecture],
        )

    def build(self, generator: torch.Generator) -> nn.Module:
        """Makes the model on CPU; every random number of its initialisation comes from ``generator``."""
        if self.from_transformers is not None:
            return build_model(
                self.from_transformers,
                layers=self.depth,
                vocabulary=self.vocabulary,
                positions=self.positions,
                looking_ahead=self.looking_ahead,
                generator=generator,
            )
        if self.architecture == "trm":
            reasoner = RecursiveReasoner(
                vocabulary=self.vocabulary,
                shape=self.shape,
                h_cycles=self.h_cycles,
                l_cycles=self.l_cycles,
                gradient=self.gradient,
                groups=self.groups,
                prefix=self.prefix,
                halting=self.halting,
                generator=generator,
            )
            if self.weights is not None:
                load_reference_checkpoint(reasoner, Path(self.weights))
            return reasoner
        if self.architecture == "looped_lm":
            return LoopedLM(
                vocabulary=self.vocabulary,
                shape=self.shape,
                loops=self.loops,
                groups=self.groups,
                exits=self.exits,
                generator=generator,
            )
        return UniversalTransformer(
            vocabulary=self.vocabulary, shape=self.shape, loops=self.loops, groups=self.groups, generator=generator
        )

    def data_files(self) -> Mapping[str, str]:
        """The hashes of the task's files, and of the weights to begin with."""
        files = dict(super().data_files())
        if self.weights is not None:
            files["weights"] = file_hash(Path(self.weights))
        return files

    def forward(self, model: nn.Module, batch: Batch) -> Answer:
        """The answer to a batch; a batch that has states is gone on with."""
        states = {name: batch[name] for name in ("z_H", "z_L") if name in batch}
        answer: Answer = model(batch["inputs"], **states)
        return answer

    def loss(self, output: Answer, batch: Batch) -> Tensor:
        """The mean over examples of the mean over their positions; with exits and halting, what these add."""
        targets = batch["targets"]
        if output.exit_logits is not None:
            losses = torch.stack([self._losses(logits, targets) for logits in output.exits], dim=-1)  # (B, L, loops)
            counted = targets != IGNORED
            return exit_loss(losses, output.exit_logits, self.exit_entropy, counted)
        loss = self._mean(self._losses(output.logits, targets), targets)
        if output.halt is None:
            return loss
        solved = accuracies(output.logits.detach(), targets)["solved"]  # (B,)
        return loss + HALTING_WEIGHT * F.binary_cross_entropy_with_logits(output.halt, solved)

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of each position, ``(B, L)``; 0 where the target is ignored."""
        flat, wanted = logits.flatten(0, 1), targets.flatten()  # (B * L, V), (B * L,)
        if self.loss_function == "stablemax":
            losses = F.nll_loss(log_stablemax(flat), wanted, ignore_index=IGNORED, reduction="none")
        else:
            losses = F.cross_entropy(flat.float(), wanted, ignore_index=IGNORED, reduction="none")
        return losses.view_as(targets)

    def _mean(self, losses: Tensor, targets: Tensor) -> Tensor:
        counted = (targets != IGNORED).sum(dim=1).clamp(min=1)  # (B,)
        return (losses.sum(dim=1) / counted).mean()

    def metrics(self, output: Answer, batch: Batch) -> dict[str, Tensor]:
        """``token_accuracy``, the share of positions that are right, and ``solved``, 1 where all are; ``(B,)`` each."""
        return accuracies(output.logits, batch["targets"])

    def recurrent_modules(self, model: nn.Module) -> list[str]:
        """The block that all calls run, or the blocks that some of them do."""
        return [] if self.from_transformers is not None else called_modules(model.get_submodule("block"))

    @property
    def carries(self) -> bool:
        """Whether a step goes on from the states that the one before it left."""
        return self.supervision_steps > 1

    def enter(self, model: nn.Module, carried: Batch, fresh: Batch) -> Batch:
        """The carried examples with their states; new ones where supervision of the old has ended."""
        return with_new_examples(model, carried, fresh)

    def leave(self, output: Answer, batch: Batch) -> Batch:
        """The examples of a batch with the states that they have reached, and whether supervision ends here."""
        return next_state(
            output, batch, steps=self.supervision_steps, exploration=self.halting_exploration if self.halting else 0.0
        )

    def predict(self, model: nn.Module, batch: Batch) -> Answer:
        """The answer after all supervision steps, as evaluations have it: nothing halts before."""
        answer = self.forward(model, batch)
        for _ in range(self.supervision_steps - 1):
            answer = self.forward(model, carried_targets(answer, batch))
        return answer
