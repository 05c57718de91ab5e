"""LANCE with all three modes, against the decomposition and the calibration of its source in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins.lance import Lance
from compbench_plugins.lance_tucker import LanceTucker, LanceTuckerCodec
from numpy.typing import NDArray
from torch import Tensor

from compbench import Dense, Site
from compbench.testing import check_compressor

Matrix = NDArray[np.float64]

B, L, D = 6, 10, 12
SITE = Site("block.mlp", "mlp_12", D)


def make(**fields: object) -> LanceTuckerCodec:
    settings = LanceTucker.model_validate({"sequence_length": L, "energy": 0.8} | fields)
    codec = settings.codec(SITE, torch.Generator().manual_seed(0))
    assert isinstance(codec, LanceTuckerCodec)
    return codec


def activations(seed: int, examples: int = B) -> Tensor:
    """Rows ``(B L, D)`` of a tensor whose modes all have few strong directions."""
    random = np.random.default_rng(seed)
    tensor = random.standard_normal((examples, L, D))
    for mode, n in enumerate(tensor.shape):
        scales = np.geomspace(1, 0.05, n).reshape([-1 if m == mode else 1 for m in range(3)])
        tensor = tensor * scales
    return torch.from_numpy(tensor.reshape(-1, D))


def tensor_of(X: Tensor) -> Matrix:
    return X.numpy().reshape(-1, L, D)


def unfolded(A: Matrix, mode: int) -> Matrix:
    return np.moveaxis(A, mode, 0).reshape(A.shape[mode], -1)


def factor(C: Matrix, energy: float) -> Matrix:
    """The source's rank: as many as stay at or below the threshold, and one more."""
    U, S, _ = np.linalg.svd(C)
    return np.asarray(U[:, : int((np.cumsum(S) / S.sum() <= energy).sum()) + 1])


def uniform(calls: list[Matrix], mode: int) -> Matrix:
    return np.asarray(np.mean([unfolded(A, mode) @ unfolded(A, mode).T for A in calls], axis=0))


def published(calls: list[Matrix], mode: int) -> Matrix:
    """The running mean of the source's code, batch by batch."""
    C, count = None, 0
    for A in calls:
        flat = unfolded(A, mode)
        C = flat @ flat.T if C is None else (count * C + flat @ flat.T) / (count + len(flat))
        count += len(flat)
    assert C is not None
    return np.asarray(C)


def rebuilt(A: Matrix, U: list[Matrix]) -> Matrix:
    core = np.einsum("bld,bi,lj,dk->ijk", A, *U)
    return np.asarray(np.einsum("ijk,bi,lj,dk->bld", core, *U).reshape(-1, D))


@pytest.mark.parametrize("sequence_length", [None, 4])
@pytest.mark.parametrize("energy", [0.5, 0.9])
def test_the_contract_is_kept(sequence_length: int | None, energy: float) -> None:
    settings = LanceTucker(sequence_length=sequence_length, energy=energy)
    check_compressor(settings, site=Site("block.mlp", "mlp_24", 24))
    check_compressor(settings, warm_steps=4)


@pytest.mark.parametrize("mean", ["uniform", "published"])
@pytest.mark.parametrize("energy", [0.5, 0.7, 0.95])
@pytest.mark.parametrize("calibration_steps", [1, 3])
def test_factors_and_rebuilt_rows_are_those_of_the_source(mean: str, energy: float, calibration_steps: int) -> None:
    codec = make(mean=mean, energy=energy, calibration_steps=calibration_steps)
    calls = []
    for step in range(calibration_steps):
        for call in range(4):
            X = activations(10 * step + call).roll(call, dims=1)
            calls.append(tensor_of(X))
            assert isinstance(codec.encode(X), Dense)
        assert not codec.U
        codec.end_step()
    average = uniform if mean == "uniform" else published
    U = [factor(average(calls, mode), energy) for mode in range(3)]
    assert codec.statistics() == {
        "calibrated": 1,
        "rank_of_examples": U[0].shape[1],
        "rank_of_positions": U[1].shape[1],
        "rank": U[2].shape[1],
    }
    for step in range(3):
        for call in range(25):
            X = activations(1000 * step + call).flip(1)
            np.testing.assert_allclose(codec.encode(X).decode().numpy(), rebuilt(tensor_of(X), U), atol=1e-9)
        codec.end_step()


def test_the_published_mean_is_mostly_of_the_first_call() -> None:
    calls = [tensor_of(activations(seed)) for seed in range(5)]
    first = unfolded(calls[0], 2) @ unfolded(calls[0], 2).T
    others = sum(unfolded(A, 2) @ unfolded(A, 2).T for A in calls[1:])
    weighed = published(calls, 2)
    np.testing.assert_allclose(weighed, (first + others / D) / 5)  # the first as much as D of the others


def test_energy_of_one_keeps_everything() -> None:
    codec = make(energy=1.0)
    X = activations(0)
    codec.encode(X)
    codec.end_step()
    assert torch.allclose(codec.encode(activations(1)).decode(), activations(1), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_bytes_are_those_of_cores_and_one_set_of_factors(dtype: torch.dtype) -> None:
    codec = make()
    assert codec.kept_bytes(B * L, 25, dtype.itemsize) is None
    codec.encode(activations(0).to(dtype))
    codec.end_step()
    payloads = [codec.encode(activations(call).to(dtype)) for call in range(25)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for p in payloads for t in p.tensors()}
    r1, r2, r3 = (codec.U[mode].shape[1] for mode in range(3))
    basis = max(4, dtype.itemsize)
    expected = 25 * r1 * r2 * r3 * dtype.itemsize + (B * r1 + L * r2 + D * r3) * basis
    assert sum(storages.values()) == codec.kept_bytes(B * L, 25, dtype.itemsize) == expected
    assert payloads[0].decode().dtype == dtype


def test_a_weight_gradient_is_formed_from_the_core_as_the_source_forms_it() -> None:
    codec = make()
    codec.encode(activations(0))
    codec.end_step()
    payload = codec.encode(activations(1))
    core, *U = (tensor.numpy() for tensor in payload.tensors())
    grad_output = torch.randn(B * L, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dY = grad_output.numpy().reshape(B, L, 5)
    small = np.einsum("blo,bi->ilo", dY, U[0])
    expected = np.einsum("ilo,ijk,lj,dk->od", small, core, U[1], U[2])
    np.testing.assert_allclose(payload.weight_gradient(grad_output).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(expected, grad_output.numpy().T @ payload.decode().numpy(), atol=1e-12)


def test_rows_that_do_not_make_up_the_batch_are_kept_as_they_are() -> None:
    codec = make()
    odd = activations(0)[:-3]
    assert isinstance(codec.encode(odd), Dense)
    assert codec.kept_bytes(len(odd), 2, 8) == 2 * odd.nbytes  # so that the engine leaves them raw
    codec.encode(activations(0))
    assert isinstance(codec.encode(activations(1, examples=B - 1)), Dense)
    codec.end_step()
    smaller = activations(2, examples=B - 1)
    assert isinstance(codec.encode(smaller), Dense)
    assert codec.kept_bytes(len(smaller), 1, 8) == smaller.nbytes
    assert not isinstance(codec.encode(activations(2)), Dense)


def test_without_a_sequence_length_it_is_lance_of_the_features() -> None:
    tucker = make(sequence_length=None)
    lance = Lance(rank=D, energy=0.8).codec(SITE, torch.Generator())
    assert lance is not None
    for codec in (tucker, lance):
        for call in range(3):
            codec.encode(activations(call, examples=call + 1))
        codec.end_step()
    X = activations(5)[:7]
    assert torch.allclose(tucker.encode(X).decode(), lance.encode(X).decode(), atol=1e-9)
    assert tucker.kept_bytes(7, 3, 8) == lance.kept_bytes(7, 3, 8)
    assert tucker.statistics() == lance.statistics()


@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("when", [0, 1])
def test_a_step_without_directions_does_not_count(spoilt: float, when: int) -> None:
    codec, untouched = make(calibration_steps=2), make(calibration_steps=2)
    for step in range(2):
        if step == when:
            codec.encode(activations(7, examples=B if step else B + 1) * spoilt)
            codec.end_step()
        for each in (codec, untouched):
            each.encode(activations(step))
            each.end_step()
    X = activations(9)
    assert codec.U
    assert torch.equal(codec.encode(X).decode(), untouched.encode(X).decode())


def test_a_discarded_step_does_not_calibrate() -> None:
    codec, untouched = make(mean="published"), make(mean="published")
    codec.encode(5 * activations(7, examples=B + 1))
    codec.discard_step()
    codec.end_step()
    for each in (codec, untouched):
        for call in range(3):
            each.encode(activations(call))
        each.end_step()
    X = activations(9)
    assert torch.equal(codec.encode(X).decode(), untouched.encode(X).decode())


def test_its_state_is_small_beside_the_rows() -> None:
    codec = make()
    codec.encode(activations(0))
    assert sum(tensor.nbytes for tensor in codec.state()) == 8 * (B**2 + L**2 + D**2)
    codec.end_step()
    assert sum(tensor.nbytes for tensor in codec.state()) == 8 * sum(U.numel() for U in codec.U.values())
