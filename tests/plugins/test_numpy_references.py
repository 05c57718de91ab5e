"""Strategies that other papers describe, beside those papers' formulas in NumPy: both lose equally much of a matrix.

The references share no code with the plugins and take the singular value decomposition that the papers take. Where a
method draws at random, many draws are averaged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from compbench_plugins.asi import Asi
from compbench_plugins.hosvd import Hosvd
from compbench_plugins.lance import Lance
from compbench_plugins.loract import LoRAct
from numpy.typing import NDArray

from compbench import Compressor, Site

Matrix = NDArray[np.float64]

WIDTH, RANK, DRAWS = 48, 8, 300
SPECTRA = ("exponential", "polynomial", "noisy")


def matrix(spectrum: str, seed: int = 0, rows: int = 160) -> Matrix:
    """Rows with known singular values; the right singular vectors are the same for all seeds."""
    values = {
        "exponential": np.exp(-np.arange(WIDTH) / 6),
        "polynomial": 1 / (1 + np.arange(WIDTH)),
        "noisy": np.where(np.arange(WIDTH) < RANK, 1.0, 0.2),
    }[spectrum]
    V = np.linalg.qr(np.random.default_rng(99).standard_normal((WIDTH, WIDTH)))[0]
    U = np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, WIDTH)))[0]
    return np.asarray((U * values) @ V.T)


def error(X: Matrix, rebuilt: Matrix) -> float:
    return float(np.linalg.norm(X - rebuilt) / np.linalg.norm(X))


def decoded(strategy: Compressor, steps: list[Matrix], dtype: torch.dtype, seed: int = 0) -> float:
    """The error of the last of some steps of one call each."""
    codec = strategy.codec(Site("block.mlp", "mlp_48", WIDTH), torch.Generator().manual_seed(seed))
    assert codec is not None
    for X in steps:
        rebuilt = codec.encode(torch.from_numpy(X).to(dtype)).decode()
        codec.end_step()
    return error(steps[-1], rebuilt.double().numpy())


def asi(steps: list[Matrix], random: np.random.Generator) -> float:
    """Warm-started subspace iteration on the features' unfolding; each call in its new basis (2505.05086)."""
    U = None
    for X in steps:
        A = X.T
        V = random.standard_normal((len(X), RANK)) if U is None else A.T @ U
        U = np.linalg.qr(A @ V)[0]
    assert U is not None
    return error(X, X @ U @ U.T)


def hosvd(steps: list[Matrix], random: np.random.Generator, variance: float = 0.9) -> float:
    """Truncated singular value decomposition by explained variance (2411.06346)."""
    U, S, V_T = np.linalg.svd(steps[-1], full_matrices=False)
    k = int(np.searchsorted(np.cumsum(S**2) / np.sum(S**2), variance)) + 1
    return error(steps[-1], (U[:, :k] * S[:k]) @ V_T[:k])


def lance(steps: list[Matrix], random: np.random.Generator) -> float:
    """The features' factor of the first step's covariance, for ever (2509.21617)."""
    U = np.linalg.svd(steps[0].T @ steps[0])[0][:, :RANK]
    return error(steps[-1], steps[-1] @ U @ U.T)


def loract(steps: list[Matrix], random: np.random.Generator) -> float:
    """Sampled columns, one product with the transpose, QR (2509.23472)."""
    X = steps[-1]
    Q = np.linalg.qr(X.T @ X[:, random.choice(WIDTH, RANK, replace=False)])[0]
    return error(X, X @ Q @ Q.T)


Reference = Callable[[list[Matrix], np.random.Generator], float]

METHODS: dict[str, tuple[Compressor, Reference, int]] = {
    "asi, first call": (Asi(rank=RANK), asi, 1),
    "asi, third call": (Asi(rank=RANK), asi, 3),
    "asi, cold": (Asi(rank=RANK, start="cold"), lambda steps, random: asi(steps[-1:], random), 3),
    "hosvd": (Hosvd(energy=0.9), hosvd, 2),
    "lance": (Lance(rank=RANK), lance, 2),
    "loract": (LoRAct(rank=RANK), loract, 1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_matrix_comes_back_with_the_error_of_the_papers_formulas(
    method: str, spectrum: str, dtype: torch.dtype
) -> None:
    strategy, reference, count = METHODS[method]
    steps = [matrix(spectrum, seed) for seed in range(count)]
    draws = 1 if method in ("hosvd", "lance") else DRAWS
    random = np.random.default_rng(0)
    expected = np.mean([reference(steps, random) for _ in range(draws)])
    found = np.mean([decoded(strategy, steps, dtype, seed) for seed in range(draws)])
    assert 0.05 < expected < 0.9
    assert found == pytest.approx(expected, rel=0.05)
