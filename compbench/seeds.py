"""One seed, many separate streams of random numbers: each is named, and derived by hashing seed and name."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: str) -> int:
    """The 63-bit seed of the stream with these names; different names give unrelated streams."""
    text = "\x1f".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device`` for the stream with these names."""
    return torch.Generator(device=device).manual_seed(stream(seed, *names))
