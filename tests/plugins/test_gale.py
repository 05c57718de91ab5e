"""The random sketch: how long one lasts, what it is on average, and that a redrawn one is not kept."""

from __future__ import annotations

import pytest
import torch
from compbench_plugins.gale import Gale, GaleCodec
from torch import Tensor

from compbench import Site

WIDTH, RANK = 16, 4


def make(seed: int = 0, **fields: object) -> GaleCodec:
    settings = Gale.model_validate({"rank": RANK} | fields)
    codec = settings.codec(Site("block.mlp", "mlp_16", WIDTH), torch.Generator().manual_seed(seed))
    assert isinstance(codec, GaleCodec)
    return codec


def sketch(codec: GaleCodec) -> Tensor:
    """``P``, by sketching the unit vectors."""
    coefficients = codec.encode(torch.eye(WIDTH, dtype=torch.float64)).coefficients()
    assert coefficients is not None
    return coefficients


@pytest.mark.parametrize(
    ("redraw", "same_call", "same_step"), [("call", False, False), ("step", True, False), ("never", True, True)]
)
def test_a_sketch_lasts_as_long_as_redraw_says(redraw: str, same_call: bool, same_step: bool) -> None:
    codec = make(redraw=redraw)
    first, second = sketch(codec), sketch(codec)
    codec.end_step()
    third = sketch(codec)
    assert torch.equal(first, second) == same_call
    assert torch.equal(second, third) == same_step


def test_a_redrawn_sketch_is_not_kept() -> None:
    payload = make(redraw="call").encode(torch.ones(10, WIDTH))
    assert [tensor.shape for tensor in payload.tensors()] == [(10, RANK)]
    assert payload.opaque_bytes() == 8


@pytest.mark.parametrize("redraw", ["call", "step", "never"])
def test_a_sketch_does_not_look_at_the_rows(redraw: str) -> None:
    one, other = make(redraw=redraw), make(redraw=redraw)
    for step in range(3):
        one.encode(torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(step)).double())
        other.encode(torch.zeros(50, WIDTH, dtype=torch.float64))
        assert torch.equal(sketch(one), sketch(other))
        one.end_step()
        other.end_step()


def test_orthonormal_rebuilds_are_projections_shrunk_by_rank_over_width() -> None:
    X = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    codec = make(redraw="call")
    mean = torch.zeros_like(X)
    for _ in range(2000):
        decoded = codec.encode(X).decode()
        assert (decoded.norm(dim=1) <= X.norm(dim=1) + 1e-12).all()
        mean += decoded / 2000
    # The error of the mean is that of one projection, sqrt(k/D (1 - k/D)), over sqrt(2000).
    assert (mean - X * RANK / WIDTH).norm() < 4 * X.norm() * (0.25 * 0.75 / 2000) ** 0.5


def test_gaussian_rebuilds_are_unbiased_with_the_stated_error() -> None:
    X = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    codec = make(redraw="call", distribution="gaussian")
    decoded = torch.stack([codec.encode(X).decode() for _ in range(4000)])
    error = (WIDTH + 1) / RANK  # squared, relative
    assert (decoded.mean(0) - X).norm() < 4 * X.norm() * (error / 4000) ** 0.5
    measured = (decoded - X).square().sum(dim=(1, 2)).mean() / X.square().sum()
    assert measured == pytest.approx(error, rel=0.1)


def test_an_orthonormal_sketch_of_full_rank_is_exact() -> None:
    X = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(make(rank=100).encode(X).decode(), X, atol=1e-12)
