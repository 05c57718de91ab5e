"""What the strategies that decompose the rows of a call share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins._decomposition import Fidelity, encode_alone, has_directions, pays, principal_directions
from compbench_plugins._subspace import LowRank, largest_entry
from torch import Tensor

from compbench import Dense


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("rows", "width", "rank"), [(40, 9, 4), (9, 40, 4), (9, 9, 9), (3, 20, 7), (1, 5, 5)])
def test_principal_directions_are_the_leading_right_singular_vectors(rows: int, width: int, rank: int) -> None:
    X = random(rows, width)
    Q, energies = principal_directions(X, rank)
    values, V_T = np.linalg.svd(X.numpy())[1:]
    np.testing.assert_allclose(energies.numpy(), values**2, atol=1e-9)
    assert torch.allclose(Q.T @ Q, torch.eye(rank, dtype=torch.float64), atol=1e-9)
    leading = V_T[: min(rank, len(values))]
    np.testing.assert_allclose((Q @ Q.T).numpy() @ leading.T, leading.T, atol=1e-7)
    assert Q.untyped_storage().nbytes() == Q.nbytes  # no eigenvector beyond the rank is kept alive


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_give_a_basis_and_no_energies(shape: tuple[int, int], bad: float) -> None:
    X = random(*shape)
    X[2, 3] = bad
    Q, energies = principal_directions(X, 4)
    assert torch.allclose(Q.T @ Q, torch.eye(4, dtype=torch.float64), atol=1e-9)
    assert energies.isnan().all()


@pytest.mark.parametrize("rows", [10, 11, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_call_alone_keeps_factors_where_they_are_smaller_than_its_rows(rows: int, dtype: torch.dtype) -> None:
    width, rank = 12, 4
    X = (random(rows, rank) @ random(rank, width)).to(dtype)
    payload = encode_alone(X, rank, torch.Generator().manual_seed(0))
    factors = rows * rank * dtype.itemsize + width * rank * max(4, dtype.itemsize)
    assert pays(rows, width, rank, dtype.itemsize) == (factors < X.nbytes)
    assert type(payload) is (LowRank if factors < X.nbytes else Dense)
    assert sum(tensor.nbytes for tensor in payload.tensors()) == min(factors, X.nbytes)
    error = (payload.decode() - X).double().norm() / X.double().norm()
    assert error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
def test_a_gram_matrix_without_directions_is_told_by_its_largest_entry(spoilt: float) -> None:
    assert has_directions(float(largest_entry(torch.eye(5))))
    assert not has_directions(float(largest_entry(spoilt * torch.eye(5))))


def ended(fidelity: Fidelity) -> bool:
    """Ends a step, with the numbers that a codec would read."""
    return fidelity.end_step(iter([number for tensor in fidelity.tensors() for number in tensor.tolist()]))


def test_fidelity_can_be_measured_in_one_step_of_several() -> None:
    fidelity = Fidelity(every=3)
    X, Z = random(20, 6), random(20, 2, seed=1)
    kept = Z.norm() / X.norm()
    fidelity.add(X, X)
    fidelity.discard_step()  # no step, so that the next one is measured
    measured = []
    for step in range(7):
        spoilt = math.nan if step == 3 else 1.0  # a step that tells nothing: the next one is measured in its place
        fidelity.add((step + 1) * X * spoilt, Z)
        assert bool(fidelity.tensors()) == (step in (0, 3, 4))
        measured.append(ended(fidelity))
    assert measured == [True, False, False, False, True, False, False]
    assert fidelity.figures()["fidelity"] == pytest.approx(float(kept) / 5)


def test_fidelity_is_of_all_calls_and_of_the_last_step_that_had_any() -> None:
    fidelity = Fidelity()
    X, Q = random(50, 6), torch.linalg.qr(random(6, 2, seed=1)).Q
    assert not ended(fidelity)
    assert fidelity.figures() == {}
    for call in X.split(17):
        fidelity.add(call, call @ Q)
    assert ended(fidelity)
    rebuilt = X @ Q @ Q.T
    figures = fidelity.figures()
    assert figures["fidelity"] == pytest.approx(float((X * rebuilt).sum() / X.norm() / rebuilt.norm()))
    assert figures["relative_error"] == pytest.approx(float((X - rebuilt).norm() / X.norm()))
    for spoilt in (0.0, math.nan, math.inf):
        fidelity.add(spoilt * X, X @ Q)
        assert not ended(fidelity)
    fidelity.add(X, X)
    fidelity.discard_step()
    assert not fidelity.tensors()
    assert fidelity.figures() == figures
