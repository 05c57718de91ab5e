"""int8: the error of every element against the scale of its block, computed with NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins.int8 import Int8, Int8Codec, quantise
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from compbench import Site


def make(width: int, seed: int = 0, **fields: object) -> Int8Codec:
    strategy = Int8.model_validate(fields)
    codec = strategy.codec(Site("block.mlp", "mlp", width), torch.Generator().manual_seed(seed))
    assert isinstance(codec, Int8Codec)
    return codec


def blocks(X: NDArray[np.float32], granularity: str, size: int) -> list[tuple[slice, slice]]:
    rows, width = X.shape
    if granularity == "tensor":
        return [(slice(None), slice(None))]
    size = size if granularity == "group" else width
    return [(slice(n, n + 1), slice(d, d + size)) for n in range(rows) for d in range(0, width, size)]


@settings(max_examples=60)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 23)),
        elements=st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6),
    ),
    st.sampled_from(["row", "group", "tensor"]),
    st.sampled_from(["max", "sigma"]),
    st.booleans(),
    st.integers(1, 30),
)
def test_error_is_half_a_step_of_the_block_beyond_clipping(
    X: NDArray[np.float32], granularity: str, scale: str, stochastic: bool, size: int
) -> None:
    codec = make(X.shape[1], granularity=granularity, scale=scale, stochastic=stochastic, group_size=size)
    decoded = codec.encode(torch.from_numpy(X)).decode().numpy()
    for where in blocks(X, granularity, size):
        block = X[where].astype(np.float64)
        bound = np.abs(block).max()
        if scale == "sigma":
            bound = min(bound, 4 * math.sqrt((block**2).mean()))
        step = bound / 127
        error = np.abs(np.clip(block, -bound, bound) - decoded[where])
        assert error.max() <= (1 if stochastic else 0.5) * step * (1 + 1e-4)


def test_four_sigma_clips_an_outlier_and_serves_the_rest_better() -> None:
    X = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    X[0, 0] = 200.0
    by_max, by_sigma = (make(4096, scale=scale).encode(X).decode() for scale in ("max", "sigma"))
    sigma = X.square().mean().sqrt()
    assert by_sigma[0, 0].item() == pytest.approx(4 * sigma.item(), rel=1e-5)
    rest = slice(1, None)
    assert (by_sigma - X)[0, rest].norm() < 0.2 * (by_max - X)[0, rest].norm()


def test_the_rest_of_a_line_is_a_group_of_its_own_size() -> None:
    X = torch.ones(2, 33)
    decoded = make(33, granularity="group", group_size=32, scale="sigma").encode(X).decode()
    assert torch.allclose(decoded, X, rtol=1e-6)


def test_error_on_gaussian_rows_is_that_of_the_paper() -> None:
    """Appendix A of the paper: a relative squared error of about 1.4e-4 by the maximum, at most 2.9e-4 by 4 sigma."""
    X = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    for scale, largest in (("max", 1.6e-4), ("sigma", 2.9e-4)):
        decoded = make(512, scale=scale, granularity="tensor").encode(X).decode()
        assert (decoded - X).square().sum() / X.square().sum() < largest


def test_stochastic_rounding_is_unbiased_and_plain_rounding_is_not() -> None:
    X = torch.full((4000, 8), 0.3)
    X[:, 0] = 127.0  # so that the codes are a step of 1 apart
    plain = make(8).encode(X).decode()[:, 1:]
    assert not plain.any()
    stochastic = make(8, stochastic=True).encode(X).decode()[:, 1:]
    assert set(stochastic.flatten().tolist()) == {0.0, 1.0}
    assert stochastic.mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / stochastic.numel()))


def test_stochastic_rounding_differs_from_call_to_call() -> None:
    codec = make(64, stochastic=True)
    X = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(codec.encode(X).decode(), codec.encode(X).decode())


def test_the_greatest_magnitudes_are_kept_to_rounding() -> None:
    X = torch.tensor([[-3.0, 0.0, 1.0, 3.0], [1e-20, -1e-20, 0.0, 0.0]])
    for stochastic in (False, True):
        decoded = make(4, stochastic=stochastic).encode(X).decode()
        assert torch.allclose(decoded[:, [0, 1, 3]], X[:, [0, 1, 3]], rtol=1e-6, atol=0)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("largest", [1.4e-45, 2.6e-43, 1e-40, 1e-38, 1e-36, 3e-34])
def test_codes_of_subnormal_scales_do_not_wrap(largest: float, stochastic: bool) -> None:
    X = largest * torch.tensor([[1.0, -1.0, 0.5, 0.0, -0.25]])
    decoded = make(5, stochastic=stochastic).encode(X).decode()
    least_scale = 256 * torch.finfo(torch.float32).tiny
    assert (decoded - X).abs().max() <= (1 if stochastic else 0.5) * least_scale * (1 + 1e-5)
    assert (decoded.sign() * X.sign() >= 0).all()


@pytest.mark.parametrize("sigma", [False, True])
def test_no_code_is_rounded_beyond_the_largest(sigma: bool) -> None:
    x = torch.ones(3000, 33) * torch.linspace(0.01, 99, 3000).unsqueeze(1)
    x[:, 1], x[:, 2] = -x[:, 0], 0
    x[::2, :2] *= 30  # which sigma clips
    for byte, offset in ((255, 1 - 2.0**-24), (0, 0.0)):
        noise, offsets = torch.full(x.shape, byte, dtype=torch.uint8), torch.full((3000,), offset)
        codes, _ = quantise(x, sigma, noise, offsets)
        assert codes.abs().max() == 127
        assert (codes * x.sign() >= 0).all()


def test_the_offset_of_a_block_decides_between_256ths() -> None:
    x = torch.tensor([[127.0, 5 + 255.5 / 256, -5 - 0.5 / 256]]).repeat(2, 1)
    codes, _ = quantise(x, False, torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([0.25, 0.75]))
    assert codes.tolist() == [[127, 5, -6], [127, 6, -5]]


@pytest.mark.parametrize("width", [64, 65, 96, 100, 128, 129, 200, 512, 3072])
@pytest.mark.parametrize("granularity", ["row", "group", "tensor"])
def test_saving_is_73_to_75_percent_of_fp32_rows(width: int, granularity: str) -> None:
    X = torch.ones(50, width)
    payload = make(width, granularity=granularity).encode(X)
    kept = sum(tensor.untyped_storage().nbytes() for tensor in payload.tensors())
    assert 0.73 <= 1 - kept / (X.numel() * 4) <= 0.75


@pytest.mark.parametrize("scale", ["max", "sigma"])
def test_a_spoilt_block_spoils_no_other(scale: str) -> None:
    X = torch.ones(3, 25)
    X[1, 22] = math.nan

    def finite(granularity: str) -> Tensor:
        return make(25, granularity=granularity, group_size=10, scale=scale).encode(X).decode().isfinite()

    by_row = torch.ones(3, 25, dtype=torch.bool)
    by_row[1] = False
    assert torch.equal(finite("row"), by_row)
    by_group = torch.ones(3, 25, dtype=torch.bool)
    by_group[1, 20:] = False
    assert torch.equal(finite("group"), by_group)
    assert not finite("tensor").any()
