"""VeLoRA against its definition in NumPy: the direction of the first call, one number a sub-token, the scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins.int8 import Int8
from compbench_plugins.velora import VeLoRA, VeLoRACodec
from numpy.typing import NDArray
from torch import Tensor

from compbench import Site
from compbench.chain import Chain
from compbench.testing import parametrize_with_checks

Matrix = NDArray[np.float64]


def make(width: int, **fields: object) -> VeLoRACodec:
    codec = VeLoRA.model_validate(fields).codec(Site("block.mlp", "mlp", width), torch.Generator().manual_seed(0))
    assert isinstance(codec, VeLoRACodec)
    return codec


def rows(seed: int, width: int = 12, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(30, width, generator=generator, dtype=torch.float64) + 0.5).to(dtype)


def sub_tokens(X: Matrix, size: int) -> Matrix:
    """``(N, G, m)``, the last padded with zeros."""
    missing = -X.shape[1] % size
    return np.pad(X, ((0, 0), (0, missing))).reshape(len(X), -1, size)


def direction(X: Matrix, size: int) -> Matrix:
    mean: Matrix = sub_tokens(X, size).reshape(-1, size).mean(axis=0)
    return mean / np.linalg.norm(mean)


def rebuilt(X: Matrix, v: Matrix) -> Matrix:
    S = sub_tokens(X, len(v))
    projected = np.einsum("ngm,m,l->ngl", S, v, v)
    return projected.reshape(len(X), -1)[:, : X.shape[1]]


@parametrize_with_checks(
    [
        VeLoRA(groups=7),  # 192 is not divisible by it
        VeLoRA(groups=64, scale=0.1),
        VeLoRA(groups=1),
        Chain(members=(VeLoRA(groups=96), Int8())),
    ]
)
def test_the_contract_is_kept(check) -> None:
    check()


@pytest.mark.parametrize(("width", "groups", "size"), [(12, 4, 3), (12, 1, 12), (13, 4, 4), (12, 5, 3), (7, 6, 2)])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_rows_are_projected_on_the_mean_of_the_first_call_for_ever(
    width: int, groups: int, size: int, scale: float
) -> None:
    codec = make(width, groups=groups, scale=scale)
    v = direction(rows(0, width).numpy(), size)
    for step in range(3):
        for call in range(25):
            X = rows(25 * step + call, width)
            payload = codec.encode(X)
            expected = scale * rebuilt(X.numpy(), v)
            np.testing.assert_allclose(payload.decode().numpy(), expected, atol=1e-12)
            dY = rows(99, 5)
            np.testing.assert_allclose(payload.weight_gradient(dY).numpy(), dY.numpy().T @ expected, atol=1e-10)
        codec.end_step()


def test_rows_whose_sub_tokens_all_point_one_way_come_back() -> None:
    v = torch.tensor([3.0, 0.0, -4.0]) / 5
    X = torch.einsum("ng,m->ngm", rows(1, 4, torch.float32), v).reshape(30, 12)
    assert torch.allclose(make(12, groups=4).encode(X).decode(), X, atol=1e-6)


def test_of_a_last_sub_token_that_is_shorter_the_padding_is_dropped() -> None:
    codec = make(5, groups=2)
    X = torch.ones(1, 5, dtype=torch.float64)
    # Sub-tokens (1, 1, 1) and (1, 1, 0): the mean is (1, 1, 1/2), of length 3/2.
    expected = [10 / 9, 10 / 9, 5 / 9, 8 / 9, 8 / 9]
    assert codec.encode(X).decode().flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("width", "groups", "numbers"), [(96, 32, 32), (100, 32, 25), (16, 32, 16)])
def test_bytes_are_one_element_a_sub_token_and_one_direction(
    width: int, groups: int, numbers: int, dtype: torch.dtype
) -> None:
    codec = make(width, groups=groups)
    payloads = [codec.encode(rows(call, width, dtype)) for call in range(3)]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for p in payloads for t in p.tensors()}
    size = math.ceil(width / groups)
    expected = 3 * 30 * numbers * dtype.itemsize + size * max(4, dtype.itemsize)
    assert sum(storages.values()) == codec.kept_bytes(30, 3, dtype.itemsize) == expected


@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
def test_a_step_without_a_direction_is_not_the_first(spoilt: float) -> None:
    codec = make(12, groups=4)
    codec.encode(rows(0) * spoilt)
    (v,) = (t for t in codec.state() if t.shape == (3,))
    assert torch.allclose(v, torch.full((3,), 3**-0.5, dtype=torch.float64))
    codec.end_step()
    assert list(codec.state()) == []
    codec.encode(rows(1))
    codec.end_step()
    (v,) = codec.state()
    np.testing.assert_allclose(v.numpy(), direction(rows(1).numpy(), 3))


def test_a_discarded_step_is_not_the_first() -> None:
    codec = make(12, groups=4)
    codec.encode(rows(0))
    codec.discard_step()
    codec.encode(rows(1))
    codec.end_step()
    codec.encode(rows(2))
    codec.discard_step()
    (v,) = codec.state()
    np.testing.assert_allclose(v.numpy(), direction(rows(1).numpy(), 3))


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_direction_does_not_depend_on_the_length_of_rows(factor: float) -> None:
    one, other = make(12, groups=4), make(12, groups=4)
    X = rows(0, dtype=torch.float32)
    expected, found = one.encode(X).decode(), other.encode(X * factor).decode() / factor
    assert torch.allclose(expected, found, rtol=1e-4)


def test_a_spoilt_sub_token_spoils_no_other() -> None:
    codec = make(12, groups=4)
    codec.encode(rows(0))
    codec.end_step()
    X = rows(1)
    X[5, 4] = math.nan
    finite = torch.ones(30, 12, dtype=torch.bool)
    finite[5, 3:6] = False
    assert torch.equal(codec.encode(X).decode().isfinite(), finite)
