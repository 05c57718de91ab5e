"""A looped language model: a stack of layers that is run several times with the same weights, with an exit after each.

After "Scaling Latent Reasoning via Looped Language Models" (arXiv 2510.25741), whose models are called Ouro: norms
before and after each part of a layer, a norm after every loop, one output head for all loops, and a gate that says
after each loop whether to stop. It knows purely token ids, ``(B, L)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench.workloads.blocks import Answer, Shape, call_module, of_call, tie
from compbench.workloads.trm import NORM_EPSILON, linear, truncated_normal_

EMBEDDING_STD = 0.02


class LoopedLM(nn.Module):
    """Token ids ``(B, L)`` in, logits of every position after every loop out.

    Args:
        vocabulary: number of token ids; also the number of logits.
        shape: of one layer; ``layers`` of them are the stack.
        loops: how often the stack runs.
        groups: how many stacks the loops share; 1: one for all.
        exits: whether there are logits after every loop and a gate, or the last loop's logits alone.
        generator: where every random number of the initialisation comes from.
    """

    def __init__(
        self, *, vocabulary: int, shape: Shape, loops: int, groups: int, exits: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.loops = loops
        self.embedding = nn.Embedding(vocabulary, shape.hidden, device="meta").to_empty(device="cpu")
        truncated_normal_(self.embedding.weight, EMBEDDING_STD, generator)
        self.block = tie(lambda: call_module(shape, generator), groups)
        self.norm = nn.RMSNorm(shape.hidden, eps=NORM_EPSILON)
        self.head = linear(shape.hidden, vocabulary, generator)
        self.gate = nn.Linear(shape.hidden, 1, device="meta").to_empty(device="cpu") if exits else None
        if self.gate is not None:
            truncated_normal_(self.gate.weight, EMBEDDING_STD, generator)
            nn.init.zeros_(self.gate.bias)

    def forward(self, tokens: Tensor) -> Answer:
        """The answer to ``(B, L)`` tokens; its logits are those after the last loop."""
        x = self.embedding(tokens)  # (B, L, D)
        exits: list[Tensor] = []
        gates: list[Tensor] = []
        for loop in range(self.loops):
            x = self.norm(of_call(self.block, loop, self.loops)(x))  # (B, L, D)
            if self.gate is not None:
                exits.append(self.head(x))  # (B, L, V)
                if loop + 1 < self.loops:
                    gates.append(self.gate(x))  # (B, L, 1)
        if self.gate is None:
            return Answer(self.head(x))
        return Answer(exits[-1], tuple(exits), torch.cat(gates, dim=-1) if gates else x.new_zeros(*x.shape[:2], 0))


def exit_log_probabilities(exit_logits: Tensor) -> Tensor:
    """The logarithm of the chance of stopping after each loop.

    After loop ``t`` it stops with probability ``sigmoid(g_t)``, if it has not before; after the last in any case.

    Args:
        exit_logits: ``g``, ``(..., loops - 1)``.

    Returns:
        ``(..., loops)``, whose exponentials add up to 1.
    """
    going_on = F.logsigmoid(-exit_logits.float()).cumsum(dim=-1)  # log of having gone on after loop t
    zero = going_on.new_zeros(*going_on.shape[:-1], 1)
    reached = torch.cat((zero, going_on), dim=-1)  # log of reaching loop t
    stopping = torch.cat((F.logsigmoid(exit_logits.float()), zero), dim=-1)
    return reached + stopping


def exit_loss(losses: Tensor, exit_logits: Tensor, entropy_weight: float, counted: Tensor | None = None) -> Tensor:
    """The mean over positions of the expected loss over exits, less the entropy of the exit times its weight.

    The objective of the paper's first stage of training, with a uniform prior over exits.

    Args:
        losses: of every position after every loop, ``(..., loops)``.
        exit_logits: ``(..., loops - 1)``.
        entropy_weight: what keeps the gate from settling on one loop before the others are any good.
        counted: which positions count, ``(...)``; None for all. As weights and not as an index, whose result would have
            a shape that depends on values.
    """
    log_probabilities = exit_log_probabilities(exit_logits)  # (N, loops)
    probabilities = log_probabilities.exp()
    expected = (probabilities * losses).sum(dim=-1)
    entropy = -(probabilities * log_probabilities).sum(dim=-1)
    objective = expected - entropy_weight * entropy  # (...)
    if counted is None:
        return objective.mean()
    return (objective * counted).sum() / counted.sum().clamp(min=1)
