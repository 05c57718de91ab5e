"""The noise of rounding at random: even over a code, and nothing left out below its bytes."""

from __future__ import annotations

import math

import pytest
import torch
from compbench_plugins._noise import add_noise, rounding_noise

BLOCKS, SIZE = 2000, 251


def test_bytes_and_offsets_are_even() -> None:
    noise, offsets = rounding_noise((BLOCKS, SIZE), torch.Generator().manual_seed(0))
    assert (noise.shape, noise.dtype, offsets.shape) == ((BLOCKS, SIZE), torch.uint8, (BLOCKS,))
    counts = noise.flatten().bincount(minlength=256).double()
    expected = noise.numel() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * math.sqrt(2 * 255)  # chi squared
    assert 0 <= offsets.min() < 0.01
    assert 0.99 < offsets.max() < 1


def test_neighbours_and_places_in_a_draw_are_independent() -> None:
    noise, _ = rounding_noise((4000, 256), torch.Generator().manual_seed(0))
    centred = noise.double() - 127.5
    for distance in (1, 2, 4, 8, 256):
        flat = centred.flatten()
        correlation = (flat[distance:] * flat[:-distance]).mean() / flat.square().mean()
        assert abs(correlation) < 5 / math.sqrt(noise.numel())
    assert (centred.mean(dim=0).abs() < 6 * 74 / math.sqrt(4000)).all()


@pytest.mark.parametrize("part", [0.0, 1 / 1024, 0.3, 0.5 + 1 / 700, 1 - 1 / 2048])
def test_rounding_is_unbiased_also_between_the_256ths_of_a_code(part: float) -> None:
    noise, offsets = rounding_noise((BLOCKS, SIZE), torch.Generator().manual_seed(1))
    parts = torch.full((BLOCKS, SIZE), 256 * (5 + part)).add_(offsets.unsqueeze(1))
    codes = add_noise(parts, noise).double()
    assert set(codes.unique().tolist()) <= {5.0, 6.0}
    spread = math.sqrt(part * (1 - part) / codes.numel()) + 1 / 256 / math.sqrt(BLOCKS)
    assert codes.mean().item() - 5 == pytest.approx(part, abs=4 * spread)
