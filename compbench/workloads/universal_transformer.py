"""The Universal Transformer: one block for all steps in depth, which are told apart by what is added to their input.

After arXiv 1807.03819: sinusoids of position and of step are added before each step, and norms stand after each sum.
Departures: SwiGLU in the place of the transition with ReLU, so that its sites can be compared with those of the other
architectures; a fixed number of steps in the place of adaptive computation time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from compbench.workloads.blocks import Answer, Shape, call_module, embedding, of_call, tie
from compbench.workloads.trm import linear


class UniversalTransformer(nn.Module):
    """Token ids ``(B, L)`` in, logits of every position out.

    Args:
        vocabulary: number of token ids; also the number of logits.
        shape: the block's.
        loops: steps in depth.
        groups: how many blocks the steps share; 1: one for all.
        generator: where every random number of the initialisation comes from.
    """

    position: Tensor
    time: Tensor

    def __init__(self, *, vocabulary: int, shape: Shape, loops: int, groups: int, generator: torch.Generator) -> None:
        super().__init__()
        self.loops, self.scale = loops, math.sqrt(shape.hidden)
        self.embedding = embedding(vocabulary, shape.hidden, generator)
        self.register_buffer("position", sinusoids(shape.positions, shape.hidden), persistent=False)
        self.register_buffer("time", sinusoids(loops, shape.hidden), persistent=False)
        self.block = tie(lambda: call_module(shape, generator), groups)
        self.head = linear(shape.hidden, vocabulary, generator)

    def forward(self, tokens: Tensor) -> Answer:
        """The answer to ``(B, L)`` tokens."""
        x = self.embedding(tokens) * self.scale  # (B, L, D)
        position = self.position[: tokens.shape[1]]  # (L, D)
        for loop in range(self.loops):
            x = of_call(self.block, loop, self.loops)(x + position + self.time[loop])  # (B, L, D)
        return Answer(self.head(x))


def sinusoids(count: int, width: int) -> Tensor:
    """``sin(p / 10000**(2 i / width))`` and the cosine beside it, for ``p`` from 1, ``(count, width)``."""
    places = torch.arange(1, count + 1, dtype=torch.float32)
    angles = torch.outer(places, 1e4 ** -(torch.arange(0, width, 2, dtype=torch.float32) / width))  # (count, width/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]
