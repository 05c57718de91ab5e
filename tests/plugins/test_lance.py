"""LANCE: the basis is that of the calibration step, and never another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compbench_plugins.lance import Lance, LanceCodec
from torch import Tensor

from compbench import Dense, Site

WIDTH = 12


def make(**fields: object) -> LanceCodec:
    codec = Lance.model_validate(fields).codec(Site("block.mlp", "mlp_12", WIDTH), torch.Generator().manual_seed(0))
    assert isinstance(codec, LanceCodec)
    return codec


def activations(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -1, WIDTH, dtype=torch.float64)
    return torch.randn(40, WIDTH, generator=generator, dtype=torch.float64) * scales


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_basis_is_the_leading_subspace_of_the_calibration_step_for_ever(warmup: int) -> None:
    codec = make(rank=4, warmup=warmup)
    for step in range(warmup):
        assert isinstance(codec.encode(activations(step)), Dense)
        codec.end_step()
    calls = [activations(100 + call).roll(call, dims=1) for call in range(3)]
    assert all(isinstance(codec.encode(X), Dense) for X in calls)
    assert codec.statistics()["calibrated"] == 0
    codec.end_step()
    assert codec.statistics() == {"rank": 4, "rank_clamped": 0, "calibrated": 1}
    basis = np.linalg.svd(torch.cat(calls).numpy())[2][:4].T
    for step in range(5):
        X = activations(200 + step).flip(1)  # whose own leading directions are others
        payload = codec.encode(X)
        np.testing.assert_allclose(payload.decode().numpy(), X.numpy() @ basis @ basis.T, atol=1e-9)
        codec.end_step()


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_energy_takes_the_smallest_rank_that_reaches_it(energy: float) -> None:
    X = activations(0)
    codec = make(rank=WIDTH, energy=energy)
    assert codec.kept_bytes(40, 1, 8) is None
    codec.encode(X)
    codec.end_step()
    shares = np.cumsum(np.linalg.svd(X.numpy())[1] ** 2) / np.linalg.norm(X.numpy()) ** 2
    expected = 1 + int(np.argmax(shares >= energy - 1e-12))
    assert codec.k == codec.coefficient_width() == expected
    assert codec.kept_bytes(40, 3, 8) == 3 * 40 * expected * 8 + WIDTH * expected * 8


def test_rank_is_the_largest_that_energy_may_take() -> None:
    codec = make(rank=2, energy=0.9999)
    codec.encode(activations(0))
    codec.end_step()
    assert codec.k == 2


@pytest.mark.parametrize("spoilt", [0.0, float("nan"), float("inf")])
def test_calibration_waits_for_a_step_with_directions(spoilt: float) -> None:
    codec = make(rank=4)
    codec.encode(activations(0) * spoilt)
    codec.end_step()
    assert not codec.statistics()["calibrated"]
    codec.encode(activations(1))
    codec.end_step()
    assert codec.statistics()["calibrated"]


def test_steps_that_did_not_reach_the_site_are_not_counted() -> None:
    codec = make(rank=4, warmup=1)
    codec.end_step()
    codec.encode(activations(0))
    codec.end_step()
    assert not codec.statistics()["calibrated"]


def test_a_discarded_step_does_not_calibrate_and_is_not_counted() -> None:
    codec = make(rank=4, warmup=1)
    for _ in range(3):
        codec.encode(activations(0))
        codec.discard_step()
    codec.encode(activations(0))
    codec.end_step()
    assert not codec.statistics()["calibrated"]
    codec.encode(activations(1))
    codec.discard_step()
    codec.end_step()
    assert not codec.statistics()["calibrated"]
