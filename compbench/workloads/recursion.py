"""The recursion of Tiny Recursive Models on any task, with what the reference implementation adds to it.

After arXiv 2510.04871 and its code (SamsungSAILMontreal/TinyRecursiveModels): a prefix that stands for the puzzle,
states that are carried from one supervision step to the next, and a head that says whether the answer is right. Without
these, and with one block for all calls, it is ``trm``'s model number by number. It knows purely token ids, ``(B, L)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from compbench.workloads.blocks import Answer, Shape, call_module, embedding, of_call, tie
from compbench.workloads.trm import Gradient, linear, truncated_normal_

HALT_BIAS = -5.0
"""The halting head begins by saying no."""


class RecursiveReasoner(nn.Module):
    """Token ids in, an answer of every position out, by recursion on an answer ``z_H`` and a reasoning state ``z_L``.

    Args:
        vocabulary: number of token ids; also the number of logits.
        shape: the block's.
        h_cycles: updates of ``z_H``.
        l_cycles: updates of ``z_L`` before each update of ``z_H``.
        gradient: whether gradient flows through all cycles or the last one alone.
        groups: how many blocks the calls that carry gradient share; 1: one for all.
        prefix: positions ``P`` in front of the tokens. The first holds a learnt vector, zero at the beginning.
        halting: whether there is a head that says whether the answer is right.
        generator: where every random number of the initialisation comes from.
    """

    z_H: Tensor  # noqa: N815 (the paper's names)
    z_L: Tensor  # noqa: N815

    def __init__(
        self,
        *,
        vocabulary: int,
        shape: Shape,
        h_cycles: int,
        l_cycles: int,
        gradient: Gradient,
        groups: int,
        prefix: int,
        halting: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.h_cycles, self.l_cycles, self.gradient, self.prefix = h_cycles, l_cycles, gradient, prefix
        self.scale = math.sqrt(shape.hidden)
        self.embedding = embedding(vocabulary, shape.hidden, generator)
        self.register_buffer("z_H", truncated_normal_(torch.empty(shape.hidden), 1.0, generator))
        self.register_buffer("z_L", truncated_normal_(torch.empty(shape.hidden), 1.0, generator))
        self.block = tie(lambda: call_module(shape, generator), groups)
        self.head = linear(shape.hidden, vocabulary, generator)
        self.puzzle = nn.Parameter(torch.zeros(1, shape.hidden)) if prefix else None
        self.halting = nn.Linear(shape.hidden, 2, device="meta").to_empty(device="cpu") if halting else None
        if self.halting is not None:
            nn.init.zeros_(self.halting.weight)
            nn.init.constant_(self.halting.bias, HALT_BIAS)

    @property
    def calls(self) -> int:
        """Calls that carry gradient; cycles without it run the same blocks."""
        return (self.h_cycles if self.gradient == "all" else 1) * (self.l_cycles + 1)

    def forward(self, tokens: Tensor, z_H: Tensor | None = None, z_L: Tensor | None = None) -> Answer:
        """The answer to ``(B, L)`` tokens.

        Args:
            tokens: token ids.
            z_H: the answer state to begin with, ``(B, P + L, D)`` or ``(D,)``; None: the model's own.
            z_L: the reasoning state, likewise.
        """
        x = self.inputs(tokens)  # (B, P + L, D)
        z_H, z_L = self.z_H if z_H is None else z_H, self.z_L if z_L is None else z_L
        without_gradient = self.h_cycles - 1 if self.gradient == "last_cycle" else 0
        if without_gradient:
            with torch.no_grad():
                for _ in range(without_gradient):
                    z_H, z_L = self.cycle(z_H, z_L, x, 0)  # (B, P + L, D) each
            # PyTorch 2.9 and 2.10 would use autocast's copies of the weights again, made here without gradient
            # (pytorch#112583).
            torch.clear_autocast_cache()
        for cycle in range(self.h_cycles - without_gradient):
            z_H, z_L = self.cycle(z_H, z_L, x, cycle * (self.l_cycles + 1))
        logits = self.head(z_H)  # (B, P + L, V)
        halt = None if self.halting is None else self.halting(z_H[:, 0])[:, 0].float()  # (B,)
        return Answer(logits[:, self.prefix :] if self.prefix else logits, halt=halt, z_H=z_H, z_L=z_L)

    def inputs(self, tokens: Tensor) -> Tensor:
        """The embedded tokens behind the prefix, ``(B, P + L, D)``."""
        embedded: Tensor = self.embedding(tokens)  # (B, L, D)
        if self.puzzle is not None:
            padding = self.puzzle.new_zeros(self.prefix - 1, self.puzzle.shape[1])
            puzzle = torch.cat((self.puzzle, padding)).expand(len(tokens), -1, -1)  # (B, P, D)
            embedded = torch.cat((puzzle, embedded), dim=1)
        return embedded * self.scale

    def cycle(self, z_H: Tensor, z_L: Tensor, x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """One update of ``z_H`` after ``l_cycles`` updates of ``z_L``; ``first`` is the number of its first call."""
        for number in range(first, first + self.l_cycles):
            z_L = of_call(self.block, number, self.calls)(z_L + z_H + x)  # (B, P + L, D)
        z_H = of_call(self.block, first + self.l_cycles, self.calls)(z_H + z_L)  # (B, P + L, D)
        return z_H, z_L
