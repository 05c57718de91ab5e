"""PAST against its block recursion in NumPy, and against LASER, whose iteration it is without a memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins.laser import Laser, LaserCodec
from compbench_plugins.past import Past, PastCodec
from numpy.typing import NDArray

from compbench import Dense, Site
from compbench.testing import check_compressor

Matrix = NDArray[np.float64]

WIDTH = 16
SITE = Site("block.mlp", "mlp_16", WIDTH)


def make(beta: float = 0.9, rank: int = 4) -> PastCodec:
    codec = Past(rank=rank, beta=beta).codec(SITE, torch.Generator().manual_seed(3))
    assert isinstance(codec, PastCodec)
    return codec


def stream(steps: int, calls: int = 3, noise: float = 0.1, rows: int = 20) -> list[list[Matrix]]:
    """Calls of steps near a subspace of four directions that drifts."""
    random = np.random.default_rng(5)
    basis = np.linalg.qr(random.standard_normal((WIDTH, 4)))[0]
    found = []
    for _ in range(steps):
        basis = np.linalg.qr(basis + 0.02 * random.standard_normal(basis.shape))[0]
        found.append(
            [
                (random.standard_normal((rows, 4)) * [3, 2.5, 2, 1.5]) @ basis.T
                + noise * random.standard_normal((rows, WIDTH))
                for _ in range(calls)
            ]
        )
    return found


def run_step(codec: PastCodec | LaserCodec, calls: list[Matrix]) -> list[Matrix]:
    decoded = [codec.encode(torch.from_numpy(call)).decode().numpy() for call in calls]
    codec.end_step()
    return decoded


def basis_of(codec: PastCodec | LaserCodec) -> Matrix:
    assert codec.Q is not None
    return codec.Q.numpy()


def sines(one: Matrix, other: Matrix) -> Matrix:
    """Sines of the principal angles between the spans of two orthonormal bases."""
    return np.asarray(np.linalg.norm(one - other @ (other.T @ one), ord=2))


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_contract_is_kept(beta: float) -> None:
    check_compressor(Past(rank=6, beta=beta), site=Site("block.mlp", "mlp_24", 24))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_every_step_is_the_block_recursion(beta: float) -> None:
    codec = make(beta)
    steps = stream(30)
    run_step(codec, steps[0])
    X = np.concatenate(steps[0])
    Q = np.linalg.svd(X)[2][:4].T
    np.testing.assert_allclose(basis_of(codec) @ basis_of(codec).T, Q @ Q.T, atol=1e-9)
    Q = basis_of(codec)  # the same, in its signs
    C_yy, C_xy = (X @ Q).T @ (X @ Q), X.T @ (X @ Q)
    for calls in steps[1:]:
        X = np.concatenate(calls)
        for decoded, call in zip(run_step(codec, calls), calls, strict=True):
            np.testing.assert_allclose(decoded, call @ Q @ Q.T, atol=1e-6)
        Y = X @ Q
        C_yy = beta * C_yy + Y.T @ Y
        C_xy = beta * C_xy + X.T @ Y
        W = C_xy @ np.linalg.inv(C_yy)
        values, vectors = np.linalg.eigh(W.T @ W)
        Q = W @ (vectors / np.sqrt(values)) @ vectors.T  # W (W^T W)^-1/2
        np.testing.assert_allclose(basis_of(codec), Q, atol=1e-5)
        np.testing.assert_allclose(Q.T @ Q, np.eye(4), atol=1e-9)


def test_without_memory_its_span_is_that_of_lasers_power_iteration() -> None:
    past = make(beta=0.0)
    laser = Laser(rank=4, max_rank=4, fidelity=1e-6).codec(SITE, torch.Generator().manual_seed(0))
    assert isinstance(laser, LaserCodec)
    moved = []
    for calls in stream(40):
        before = None if past.Q is None else basis_of(past)
        run_step(past, calls)
        run_step(laser, calls)
        assert sines(basis_of(past), basis_of(laser)) < 1e-9
        if before is not None:
            moved.append(float(sines(basis_of(past), before)))
    assert min(moved) > 0.01


def test_memory_steadies_a_basis_that_noise_would_throw_about() -> None:
    errors = {}
    for beta in (0.0, 0.9):
        codec = make(beta)
        found = []
        for calls in stream(200, calls=1, noise=1.5, rows=8):
            run_step(codec, calls)
            # What the next calls are near: the directions of many noiseless rows of this step's subspace.
            found.append(basis_of(codec))
        truth = stream(200, calls=1, noise=0.0, rows=8)
        tops = [np.linalg.svd(calls[0])[2][:4].T for calls in truth]
        kept = [np.square(Q.T @ top).sum() / 4 for Q, top in zip(found, tops, strict=True)]
        errors[beta] = 1 - np.mean(kept[20:])
    assert errors[0.9] < 0.8 * errors[0.0]


def test_columns_of_the_basis_stay_those_that_the_memory_is_of() -> None:
    codec = make(0.9)
    for number, calls in enumerate(stream(30)):
        before = None if codec.Q is None else basis_of(codec)
        run_step(codec, calls)
        if before is not None and number > 2:
            assert np.diagonal(before.T @ basis_of(codec)).min() > 0.9


def test_the_basis_is_frozen_and_kept_once_in_a_step() -> None:
    codec = make()
    steps = stream(2, calls=25)
    run_step(codec, steps[0])
    payloads = [codec.encode(torch.from_numpy(call)) for call in steps[1]]
    storages = {t.data_ptr(): t.nbytes for payload in payloads for t in payload.tensors()}
    assert len(storages) == 26
    assert sum(storages.values()) == codec.kept_bytes(20, 25, 8) == 25 * 20 * 4 * 8 + WIDTH * 4 * 8
    assert codec.kept_bytes(20, 25, 2) == 25 * 20 * 4 * 2 + WIDTH * 4 * 4


def test_calls_of_the_first_step_have_bases_of_their_own_where_that_saves() -> None:
    codec = make()
    random = torch.Generator().manual_seed(0)
    tall = torch.randn(200, 4, generator=random) @ torch.randn(4, WIDTH, generator=random)
    one, other = codec.encode(tall), codec.encode(tall)
    assert torch.allclose(one.decode(), tall, atol=1e-4)
    assert one.tensors()[1].data_ptr() != other.tensors()[1].data_ptr()
    assert isinstance(codec.encode(tall[:5]), Dense)


@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
def test_a_step_without_directions_leaves_basis_and_memory(spoilt: float) -> None:
    codec, untouched = make(), make()
    steps = stream(4)
    for calls in steps[:2]:
        run_step(codec, calls)
        run_step(untouched, calls)
    run_step(codec, [call * spoilt for call in steps[2]])
    run_step(codec, steps[3])
    run_step(untouched, steps[3])
    np.testing.assert_array_equal(basis_of(codec), basis_of(untouched))


@pytest.mark.parametrize("spoilt", [0.0, math.nan])
def test_the_first_basis_waits_for_a_step_with_directions(spoilt: float) -> None:
    codec = make()
    steps = stream(2)
    run_step(codec, [call * spoilt for call in steps[0]])
    assert codec.Q is None
    run_step(codec, steps[1])
    assert codec.Q is not None


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_fewer_directions_than_columns_stay_orthonormal_and_exact(beta: float) -> None:
    codec = make(beta, rank=8)
    random = np.random.default_rng(0)
    for _ in range(12):
        X = random.standard_normal((30, 3)) @ np.eye(WIDTH)[:3]
        (decoded,) = run_step(codec, [X])
        np.testing.assert_allclose(decoded, X, atol=1e-9)
        np.testing.assert_allclose(basis_of(codec).T @ basis_of(codec), np.eye(8), atol=1e-9)


def test_a_discarded_step_is_undone() -> None:
    codec, plain = make(), make()
    for calls, other in zip(stream(4), stream(8)[4:], strict=True):
        for call in other:
            codec.encode(5 * torch.from_numpy(call))
        codec.discard_step()
        run_step(codec, calls)
        run_step(plain, calls)
        np.testing.assert_array_equal(basis_of(codec), basis_of(plain))
    assert codec.statistics() == plain.statistics()


@pytest.mark.parametrize("beta", [-0.1, 0.995, 1.0])
def test_a_memory_that_never_forgets_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        Past(beta=beta)


def test_a_rank_above_the_width_is_clamped_and_told() -> None:
    codec = make(rank=500)
    for calls in stream(3):
        decoded = run_step(codec, calls)
        np.testing.assert_allclose(np.concatenate(decoded), np.concatenate(calls), atol=1e-6)
    figures = codec.statistics()
    assert figures["rank"] == WIDTH
    assert figures["rank_clamped"] == 1
    assert make().statistics() == {"rank": 4, "rank_clamped": 0}
