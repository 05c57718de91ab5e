"""A Tiny Recursive Model in forward order: one weight-tied block, called many times on two latent states.

After "Less is More: Recursive Reasoning with Tiny Networks" (arXiv 2510.04871): attention, SwiGLU, the post-norm block,
then the recursion. Left out: puzzle embeddings, halting and deep supervision. It knows purely token ids, ``(B, L)``:
``B`` examples of ``L`` positions; ``D`` is the hidden width, ``H`` the number of heads, ``d = D / H`` the width of one.

With hidden 512, 8 heads and an inner width of 1536 a block has 4 * 512 * 512 + 3 * 512 * 1536 = 3,407,872 parameters.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-5
# Standard deviation of the standard normal distribution truncated at -2 and 2.
TRUNCATED_STD = 0.8796256610342398

Gradient = Literal["all", "last_cycle"]


def truncated_normal_(tensor: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Fills with a normal distribution truncated at two sigma; ``std`` is its standard deviation after truncation."""
    sigma = std / TRUNCATED_STD
    return nn.init.trunc_normal_(tensor, std=sigma, a=-2 * sigma, b=2 * sigma, generator=generator)


def linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """A bias-free linear layer with LeCun's initialisation: truncated normal of standard deviation ``fan_in**-0.5``."""
    # On the meta device first, since PyTorch's own initialisation would draw from the global generator.
    layer = nn.Linear(fan_in, fan_out, bias=False, device="meta").to_empty(device="cpu")
    truncated_normal_(layer.weight, fan_in**-0.5, generator)
    return layer


def inner_width(hidden: int, expansion: float) -> int:
    """Width of SwiGLU: ``expansion * hidden * 2/3``, to the nearest integer and then up to a multiple of 256."""
    return math.ceil(round(expansion * hidden * 2 / 3) / 256) * 256


def rms_norm(x: Tensor) -> Tensor:
    """Root-mean-square normalisation over the last dimension, without weights."""
    return F.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON)


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864), the variant that rotates the two halves of a head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, positions: int, width: int, theta: float) -> None:
        super().__init__()
        frequencies = theta ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)  # (d/2,)
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)  # (L, d/2)
        angles = torch.cat((angles, angles), dim=-1)[:, None]  # (L, 1, d)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotates ``(B, L, H, d)`` by position; computed in fp32, returned in the dtype that came."""
        first, second = x.chunk(2, dim=-1)  # (B, L, H, d/2) each
        rotated = torch.cat((-second, first), dim=-1)  # (B, L, H, d)
        return (x * self.cos + rotated * self.sin).to(x.dtype)  # (B, L, H, d)


class Attention(nn.Module):
    """Multi-head attention of all positions to all positions."""

    def __init__(self, hidden: int, heads: int, positions: int, theta: float, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(hidden, 3 * hidden, generator)
        self.rotary = Rotary(positions, hidden // heads, theta)
        self.out = linear(hidden, hidden, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, L, D)`` to ``(B, L, D)``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, L, H, d) each
        q, k = self.rotary(q), self.rotary(k)  # (B, L, H, d)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, L, d)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, H, L, d)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, L, D)
        return result


class SwiGLU(nn.Module):
    """Gated feed-forward network (arXiv 2002.05202); gate and up are one matrix product."""

    def __init__(self, hidden: int, inner: int, generator: torch.Generator) -> None:
        super().__init__()
        self.gate_up = linear(hidden, 2 * inner, generator)
        self.down = linear(inner, hidden, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, L, D)`` to ``(B, L, D)``."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # (B, L, inner) each
        result: Tensor = self.down(F.silu(gate) * up)  # (B, L, D)
        return result


class Block(nn.Module):
    """Attention and SwiGLU, each added to its input and normalised after that."""

    def __init__(
        self, hidden: int, heads: int, inner: int, positions: int, theta: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.attn = Attention(hidden, heads, positions, theta, generator)
        self.mlp = SwiGLU(hidden, inner, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, L, D)`` to ``(B, L, D)``, rows of root mean square 1."""
        x = rms_norm(x + self.attn(x))  # (B, L, D)
        return rms_norm(x + self.mlp(x))  # (B, L, D)


class TinyRecursiveModel(nn.Module):
    """Token ids in, logits of every position out, by recursion on an answer ``z_H`` and a reasoning state ``z_L``.

    ``block`` is what runs once a recursion call: a :class:`Block`, with paths such as ``block.attn.qkv``; where there
    is more than one layer a sequence of them, with paths such as ``block.0.attn.qkv``.

    Args:
        vocabulary: number of token ids; also the number of logits.
        positions: length ``L`` of every example.
        hidden: width ``D``.
        heads: number of heads; divides ``hidden``, with an even quotient.
        inner: width of SwiGLU.
        layers: blocks that run one after another in a call.
        h_cycles: updates of ``z_H``.
        l_cycles: updates of ``z_L`` before each update of ``z_H``.
        gradient: whether gradient flows through all cycles or the last one alone.
        theta: base of the rotary wavelengths.
        generator: where every random number of the initialisation comes from.
    """

    z_H: Tensor  # noqa: N815 (the paper's names)
    z_L: Tensor  # noqa: N815

    def __init__(
        self,
        *,
        vocabulary: int,
        positions: int,
        hidden: int,
        heads: int,
        inner: int,
        layers: int,
        h_cycles: int,
        l_cycles: int,
        gradient: Gradient,
        theta: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.h_cycles, self.l_cycles, self.gradient = h_cycles, l_cycles, gradient
        self.scale = math.sqrt(hidden)
        self.embedding = nn.Embedding(vocabulary, hidden, device="meta").to_empty(device="cpu")
        truncated_normal_(self.embedding.weight, 1 / self.scale, generator)
        self.register_buffer("z_H", truncated_normal_(torch.empty(hidden), 1.0, generator))
        self.register_buffer("z_L", truncated_normal_(torch.empty(hidden), 1.0, generator))
        blocks = [Block(hidden, heads, inner, positions, theta, generator) for _ in range(layers)]
        self.block: nn.Module = blocks[0] if layers == 1 else nn.Sequential(*blocks)
        self.head = linear(hidden, vocabulary, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps token ids ``(B, L)`` to logits ``(B, L, vocabulary)``."""
        x = self.embedding(tokens) * self.scale  # (B, L, D)
        z_H, z_L = self.z_H, self.z_L  # (D,) each, the same at every position until the first call
        without_gradient = self.h_cycles - 1 if self.gradient == "last_cycle" else 0
        if without_gradient:
            with torch.no_grad():
                for _ in range(without_gradient):
                    z_H, z_L = self.cycle(z_H, z_L, x)  # (B, L, D) each
            # PyTorch 2.9 and 2.10 would use autocast's copies of the weights again, made here without gradient
            # (pytorch#112583).
            torch.clear_autocast_cache()
        for _ in range(self.h_cycles - without_gradient):
            z_H, z_L = self.cycle(z_H, z_L, x)  # (B, L, D) each
        logits: Tensor = self.head(z_H)  # (B, L, vocabulary)
        return logits

    def cycle(self, z_H: Tensor, z_L: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """One update of ``z_H`` after ``l_cycles`` updates of ``z_L``: ``l_cycles + 1`` calls of the block."""
        for _ in range(self.l_cycles):
            z_L = self.block(z_L + z_H + x)  # (B, L, D)
        z_H = self.block(z_H + z_L)  # (B, L, D)
        return z_H, z_L
