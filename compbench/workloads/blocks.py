"""What all architectures are made of: attention and SwiGLU in one block, and blocks that calls share or do not share.

A block has the paths ``attn.qkv``, ``attn.out``, ``mlp.gate_up`` and ``mlp.down`` whatever the architecture, so that
sites of different ones can be compared. ``B`` examples, ``L`` positions, ``D`` hidden, ``H`` heads of width ``d``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench.workloads.trm import NORM_EPSILON, Rotary, SwiGLU, linear, rms_norm, truncated_normal_

Norms = Literal["post_rms", "post_layer", "sandwich_rms"]
"""After each sum, without weights; the same by LayerNorm, with weights; or before and after each part, with weights."""


class Answer(NamedTuple):
    """What a model says of a batch.

    Attributes:
        logits: ``(B, L, V)``.
        exits: logits after every loop, the last among them, ``(B, L, V)`` each; empty where only the last count.
        exit_logits: whether to stop after each loop but the last, ``(B, L, loops - 1)``.
        halt: logit of each answer being right as a whole, ``(B,)``.
        z_H: the answer state to go on with, ``(B, P + L, D)`` with a prefix of ``P``.
        z_L: the reasoning state, likewise.
    """

    logits: Tensor
    exits: tuple[Tensor, ...] = ()
    exit_logits: Tensor | None = None
    halt: Tensor | None = None
    z_H: Tensor | None = None  # noqa: N815 (the paper's names)
    z_L: Tensor | None = None  # noqa: N815


@dataclass(frozen=True)
class Shape:
    """The sizes of a block.

    Attributes:
        hidden: width ``D``.
        heads: number of heads; divides ``hidden``, with an even quotient where positions are rotary.
        inner: width of SwiGLU.
        layers: blocks that run one after another in a call.
        positions: the longest sequence.
        theta: base of the rotary wavelengths; None for no rotary positions.
        causal: whether a position sees only itself and those before it.
        norms: where norms stand, and of which kind.
    """

    hidden: int
    heads: int
    inner: int
    layers: int
    positions: int
    theta: float | None
    causal: bool
    norms: Norms


class Attention(nn.Module):
    """Multi-head attention; its parameters are drawn in the same order as those of ``trm``'s."""

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, self.causal = shape.heads, shape.causal
        self.qkv = linear(shape.hidden, 3 * shape.hidden, generator)
        width = shape.hidden // shape.heads
        self.rotary = None if shape.theta is None else Rotary(shape.positions, width, shape.theta)
        self.out = linear(shape.hidden, shape.hidden, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, L, D)`` to ``(B, L, D)``; ``L`` may be less than the longest."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, L, H, d) each
        if self.rotary is not None:
            q, k = rotate(self.rotary, q), rotate(self.rotary, k)  # (B, L, H, d)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, L, d)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # (B, H, L, d)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, L, D)
        return result


def rotate(rotary: Rotary, x: Tensor) -> Tensor:
    """Rotates ``(B, L, H, d)`` by position, where ``L`` may be less than the longest sequence."""
    length = x.shape[1]
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x * rotary.cos[:length] + rotated * rotary.sin[:length]).to(x.dtype)


class Block(nn.Module):
    """Attention and SwiGLU, each added to its input, with norms as the shape has them."""

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        self.attn = Attention(shape, generator)
        self.mlp = SwiGLU(shape.hidden, shape.inner, generator)
        self.norms = shape.norms
        if shape.norms == "post_layer":
            self.after_attn = nn.LayerNorm(shape.hidden)
            self.after_mlp = nn.LayerNorm(shape.hidden)
        elif shape.norms == "sandwich_rms":
            self.before_attn, self.after_attn_rms, self.before_mlp, self.after_mlp_rms = (
                nn.RMSNorm(shape.hidden, eps=NORM_EPSILON) for _ in range(4)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, L, D)`` to ``(B, L, D)``."""
        if self.norms == "post_rms":
            x = rms_norm(x + self.attn(x))
            return rms_norm(x + self.mlp(x))
        if self.norms == "post_layer":
            x = self.after_attn(x + self.attn(x))
            normed: Tensor = self.after_mlp(x + self.mlp(x))
            return normed
        x = x + self.after_attn_rms(self.attn(self.before_attn(x)))
        summed: Tensor = x + self.after_mlp_rms(self.mlp(self.before_mlp(x)))
        return summed


def call_module(shape: Shape, generator: torch.Generator) -> nn.Module:
    """What one call runs: a :class:`Block`, or where there is more than one layer a sequence of them."""
    blocks = [Block(shape, generator) for _ in range(shape.layers)]
    return blocks[0] if shape.layers == 1 else nn.Sequential(*blocks)


def tie(make: Callable[[], nn.Module], groups: int) -> nn.Module:
    """The modules of all calls: one that all share, or a list of ``groups`` with weights of their own."""
    return make() if groups == 1 else nn.ModuleList(make() for _ in range(groups))


def of_call(block: nn.Module, call: int, calls: int) -> nn.Module:
    """The module that a call runs: groups are runs of neighbouring calls, as equal as can be.

    Args:
        block: what :func:`tie` gave.
        call: the call's number, from 0.
        calls: how many there are.
    """
    return block[call * len(block) // calls] if isinstance(block, nn.ModuleList) else block


def called_modules(block: nn.Module, path: str = "block") -> list[str]:
    """Paths of the modules that a call runs."""
    return [f"{path}.{i}" for i in range(len(block))] if isinstance(block, nn.ModuleList) else [path]


def embedding(vocabulary: int, hidden: int, generator: torch.Generator) -> nn.Embedding:
    """Token embeddings of standard deviation ``hidden**-0.5``, to be scaled by its inverse."""
    made = nn.Embedding(vocabulary, hidden, device="meta").to_empty(device="cpu")
    truncated_normal_(made.weight, hidden**-0.5, generator)
    return made
