"""The linear algebra that the low-rank strategies share."""

from __future__ import annotations

import math

import pytest
import torch
from compbench_plugins._subspace import add_gram, cross_product, leading_eigenvectors, orthonormal, squared_norm
from torch import Tensor

HALF = [torch.bfloat16, torch.float16]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
def test_products_and_norms_are_those_of_the_exact_rows(dtype: torch.dtype) -> None:
    X, Z = random(3000, 8).to(dtype), random(3000, 3, seed=1).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    # Half-precision coefficients are rounded once more; the errors of 3,000 terms average out.
    tolerance = {torch.bfloat16: 0.4, torch.float16: 0.1, torch.float32: 1e-3, torch.float64: 1e-10}[dtype]
    product = cross_product(X, Z)
    assert product.dtype == wide
    assert (product - X.double().T @ Z.double()).abs().max() < tolerance
    C = torch.zeros(8, 8, dtype=wide)
    add_gram(C, X)
    add_gram(C, X)
    assert torch.allclose(C.double(), 2 * X.double().T @ X.double(), rtol=1e-5, atol=2e-3)
    assert squared_norm(X).item() == pytest.approx(X.double().square().sum().item(), rel=1e-5)


def test_products_of_fp16_rows_do_not_overflow() -> None:
    X = torch.full((5000, 2), 30.0, dtype=torch.float16)  # 4.5 million, where fp16 ends at 65,504
    assert cross_product(X, X).flatten().tolist() == pytest.approx([4.5e6] * 4, rel=1e-2)
    assert squared_norm(X).item() == pytest.approx(9e6, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_columns_are_orthonormal_whatever_comes_in(bad: float) -> None:
    spoilt = random(9, 4)
    spoilt[2, 1] = bad
    for M in (random(9, 4), torch.zeros(9, 4).double(), random(9, 1) @ random(1, 4), spoilt):
        Q = orthonormal(M)
        assert torch.allclose(Q.T @ Q, torch.eye(4).double(), atol=1e-12)


def test_leading_eigenvectors_are_sorted_by_energy() -> None:
    axes = torch.diag(torch.tensor([1.0, 9.0, 4.0]))
    assert torch.equal(leading_eigenvectors(axes, 2).abs(), torch.eye(3)[:, [1, 2]])
