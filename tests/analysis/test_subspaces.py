"""Subspaces against closed forms, NumPy and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from compbench.analysis.subspaces import (
    add_gram,
    fidelity_at,
    fidelity_in,
    numerical_rank,
    overlap,
    participation_ratio,
    principal_angles,
    principal_components,
    rank_at_fidelity,
)


def orthonormal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double())[0]


def with_singular_values(values: list[float], rows: int = 40, width: int = 9) -> Tensor:
    U, V = orthonormal(rows, len(values), 1), orthonormal(width, len(values), 2)
    return U @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ V.T


def gram(X: Tensor) -> Tensor:
    C = torch.zeros(X.shape[1], X.shape[1], dtype=torch.float64)
    add_gram(C, X, block=7)
    return C


def test_the_eigenvalues_are_the_squares_of_the_singular_values():
    X = with_singular_values([5.0, 3.0, 1.0, 0.5])
    values, V = principal_components(gram(X))
    assert values[:4].sqrt().tolist() == pytest.approx([5, 3, 1, 0.5])
    assert values[4:].sqrt().max() < 1e-6
    torch.testing.assert_close((X @ V[:, :1]).norm(), torch.tensor(5.0, dtype=torch.float64))


@pytest.mark.parametrize("rank", range(1, 10))
def test_fidelity_is_the_cosine_of_rows_and_numpys_best_approximation_of_that_rank(rank):
    X = np.random.default_rng(0).standard_normal((50, 9)) * np.geomspace(1, 0.01, 9)
    U, s, V = np.linalg.svd(X, full_matrices=False)
    best = (U[:, :rank] * s[:rank]) @ V[:rank]
    cosine = (X * best).sum() / np.linalg.norm(X) / np.linalg.norm(best)
    values, vectors = principal_components(gram(torch.from_numpy(X)))
    assert fidelity_at(values, rank) == pytest.approx(cosine, abs=1e-12)
    assert fidelity_in(gram(torch.from_numpy(X)), vectors[:, :rank]) == pytest.approx(cosine, abs=1e-12)


def test_the_rank_at_a_fidelity_is_the_least_that_reaches_it():
    values = torch.tensor([9.0, 4.0, 2.0, 1.0], dtype=torch.float64)  # shares 9/16, 13/16, 15/16, 1
    assert rank_at_fidelity(values, math.sqrt(9 / 16)) == 1
    assert rank_at_fidelity(values, math.sqrt(9 / 16) + 1e-3) == 2
    assert rank_at_fidelity(values, 0.95) == 3  # 0.9025 is below 15/16
    assert rank_at_fidelity(values, 1.0) == 4
    assert rank_at_fidelity(torch.zeros(4), 0.95) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rounding_adds_no_numerical_rank_and_large_directions_count(dtype):
    X = (with_singular_values([4.0, 3.0, 2.0], rows=600, width=64)).to(dtype)
    assert numerical_rank(principal_components(gram(X))[0], dtype) == 3
    assert numerical_rank(torch.zeros(4, dtype=torch.float64), dtype) == 0


def test_the_numerical_rank_counts_what_stands_out_of_fp32_rounding():
    X = with_singular_values([1.0, 1e-3, 1e-5, 1e-9])
    assert numerical_rank(principal_components(gram(X))[0], torch.float32) == 3


def test_the_participation_ratio_of_equal_directions_is_their_number():
    assert participation_ratio(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert participation_ratio(torch.tensor([1.0, 0.0])) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("angles", [[0.0], [math.pi / 2], [1e-6, 0.5], [0.7, 0.7, 0.7], [0.1, 1.0, 1.5, 0.0]])
def test_angles_that_were_put_between_two_subspaces_are_found(angles, seed):
    k = len(angles)
    frame = orthonormal(2 * k + 1, 2 * k, seed)
    first, other = frame[:, :k], frame[:, k:]
    theta = torch.tensor(angles, dtype=torch.float64)
    second = first * theta.cos() + other * theta.sin()
    mixed = second @ orthonormal(k, k, seed + 1)  # another basis of the same space
    assert principal_angles(first, mixed).tolist() == pytest.approx(sorted(angles), abs=1e-7)
    assert overlap(first, mixed) == pytest.approx(float(theta.cos().square().mean()))


def test_angles_are_scipys_also_where_the_spaces_have_different_dimensions():
    random = np.random.default_rng(3)
    first, second = random.standard_normal((12, 5)), random.standard_normal((12, 3))
    expected = np.sort(scipy.linalg.subspace_angles(first, second))
    assert principal_angles(torch.from_numpy(first), torch.from_numpy(second)).tolist() == pytest.approx(expected)
    assert principal_angles(torch.from_numpy(second), torch.from_numpy(first)).tolist() == pytest.approx(expected)


def test_angles_far_below_the_precision_of_a_cosine_are_found():
    first = torch.eye(4, dtype=torch.float64)[:, :1]
    second = first + 1e-9 * torch.eye(4, dtype=torch.float64)[:, 1:2]
    assert principal_angles(first, second).item() == pytest.approx(1e-9, rel=1e-6)
