"""HOSVD: a fresh basis at every call, of the rank that the same call needed the step before."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins.hosvd import Hosvd, HosvdCodec
from compbench_plugins.int8 import Int8
from torch import Tensor

from compbench import Dense, Site
from compbench.chain import Chain
from compbench.errors import SettingsError
from compbench.testing import check_compressor

WIDTH = 20
SITE = Site("block.mlp", "mlp_20", WIDTH)


def make(**fields: object) -> HosvdCodec:
    codec = Hosvd.model_validate(fields).codec(SITE, torch.Generator().manual_seed(0))
    assert isinstance(codec, HosvdCodec)
    return codec


def activations(seed: int, decay: float, rows: int = 60) -> Tensor:
    """Rows whose singular values fall by ``decay`` decades: the more, the fewer directions hold the energy."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) * torch.logspace(0, -decay, WIDTH).double()
    return X @ torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)).Q


def explained(X: Tensor, energy: float) -> int:
    """The source's rank: the first at which the explained variance is not below what is asked for."""
    squares = np.linalg.svd(X.numpy())[1] ** 2
    return int(np.searchsorted(np.cumsum(squares) / squares.sum(), energy)) + 1


def truncated(X: Tensor, rank: int) -> np.ndarray:
    U, S, V_T = np.linalg.svd(X.numpy(), full_matrices=False)
    return np.asarray((U[:, :rank] * S[:rank]) @ V_T[:rank])


DECAYS = (0.5, 1.0, 2.0, 4.0)


@pytest.mark.parametrize("ranks", ["per_call", "shared"])
def test_the_contract_is_kept(ranks: str) -> None:
    strategy = Hosvd.model_validate({"ranks": ranks, "energy": 0.8, "max_rank": 8})
    check_compressor(strategy, site=Site("block.mlp", "mlp_24", 24))
    check_compressor(strategy)


@pytest.mark.parametrize("energy", [0.5, 0.8, 0.9, 0.99])
def test_a_call_has_the_rank_of_the_step_before_and_a_basis_of_its_own(energy: float) -> None:
    codec = make(energy=energy, max_rank=WIDTH)
    ranks: list[int] = []
    for step in range(4):
        calls = [activations(10 * step + call, decay) for call, decay in enumerate(DECAYS)]
        for call, X in enumerate(calls):
            payload = codec.encode(X)
            if ranks:
                saves = (60 + WIDTH) * ranks[call] < 60 * WIDTH
                expected = truncated(X, ranks[call] if saves else WIDTH)
                np.testing.assert_allclose(payload.decode().numpy(), expected, atol=1e-7)
        codec.end_step()
        ranks = [explained(X, energy) for X in calls]
        assert codec.ranks == ranks
        assert codec.statistics()["rank"] == pytest.approx(np.mean(ranks))
    assert len(set(ranks)) > 1


def test_steps_that_are_alike_reach_the_energy_with_the_least_rank() -> None:
    codec = make(energy=0.9)
    X = activations(0, 1.0)
    for _ in range(2):
        payload = codec.encode(X)
        codec.end_step()
    kept = float(payload.decode().square().sum() / X.square().sum())
    assert kept >= 0.9 > np.square(truncated(X, codec.ranks[0] - 1)).sum() / float(X.square().sum())
    assert codec.statistics()["fidelity"] == pytest.approx(math.sqrt(kept))


def test_the_first_step_has_the_largest_rank_or_its_rows() -> None:
    X = activations(0, 1.0)
    np.testing.assert_allclose(make(max_rank=6).encode(X).decode().numpy(), truncated(X, 6), atol=1e-9)
    assert isinstance(make().encode(X), Dense)  # a rank of the width saves nothing
    assert make().kept_bytes(60, 4, 8) is None  # so that the engine goes on asking
    assert make(max_rank=6).kept_bytes(60, 4, 8) == 4 * (60 * 6 * 8 + WIDTH * 6 * 8)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_bytes_are_those_of_each_calls_factors_or_rows(itemsize: int) -> None:
    dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[itemsize]
    codec = make(energy=0.99)
    calls = [activations(call, decay).to(dtype) for call, decay in enumerate((0.01, *DECAYS))]
    for X in calls:
        codec.encode(X)
    codec.end_step()
    ranks = codec.ranks
    payloads = [codec.encode(X) for X in calls]
    assert isinstance(payloads[0], Dense)
    factors = [60 * k * itemsize + WIDTH * k * max(4, itemsize) for k in ranks]
    expected = [min(size, 60 * WIDTH * itemsize) for size in factors]
    assert [sum(t.nbytes for t in payload.tensors()) for payload in payloads] == expected
    assert codec.kept_bytes(60, 5, itemsize) == sum(expected)
    # A call that the step before did not have takes the largest rank.
    assert codec.kept_bytes(60, 7, itemsize) == sum(expected) + 2 * max(expected)


def test_ranks_that_are_shared_are_the_largest_and_leave_coefficients() -> None:
    codec = make(energy=0.9, ranks="shared")
    calls = [activations(call, decay) for call, decay in enumerate(DECAYS)]
    for X in calls:
        codec.encode(X)
    codec.end_step()
    largest = max(explained(X, 0.9) for X in calls)
    assert codec.coefficient_width() == largest
    for X in calls:
        payload = codec.encode(X)
        np.testing.assert_allclose(payload.decode().numpy(), truncated(X, largest), atol=1e-9)
        coefficients = payload.coefficients()
        assert coefficients is not None
        assert coefficients.shape == (60, largest)
    assert make().coefficient_width() is None
    check_compressor(Chain(members=(Hosvd(ranks="shared", max_rank=8), Int8())), site=Site("block.mlp", "mlp_24", 24))


def test_ranks_that_are_not_shared_leave_none_and_say_why() -> None:
    codec = make(max_rank=4)
    with pytest.raises(TypeError, match="ranks='shared'"):
        codec.encode(activations(0, 1.0)).with_coefficients(None)
    with pytest.raises(SettingsError, match="hosvd leaves no coefficients"):
        Chain(members=(Hosvd(), Int8()))


def test_a_rank_can_rise_again() -> None:
    codec = make(energy=0.9)
    seen = []
    for decay in (4.0, 0.01, 4.0):
        codec.encode(activations(0, decay))
        codec.end_step()
        seen.append(codec.ranks[0])
    assert seen[0] == seen[2] < 5
    assert seen[1] > 12


def test_ranks_stop_at_the_largest_and_calls_that_need_more_are_counted() -> None:
    codec = make(energy=0.99, max_rank=5)
    calls = [activations(call, decay) for call, decay in enumerate(DECAYS)]
    for X in calls:
        codec.encode(X)
    codec.end_step()
    needed = [explained(X, 0.99) for X in calls]
    assert codec.ranks == [min(5, k) for k in needed]
    assert codec.statistics()["capped_calls"] == sum(k > 5 for k in needed) > 0
    assert codec.statistics()["largest_rank"] == 5


@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
def test_a_call_without_directions_tells_nothing_of_a_rank(spoilt: float) -> None:
    codec = make(energy=0.9)
    for decay in (1.0, 2.0):
        codec.encode(activations(0, decay))
    codec.end_step()
    before = list(codec.ranks)
    codec.encode(activations(0, 1.0) * spoilt)
    codec.encode(activations(0, 4.0))
    codec.end_step()
    assert codec.ranks == [before[0], explained(activations(0, 4.0), 0.9)]


def test_a_discarded_step_changes_no_rank() -> None:
    codec = make(energy=0.9)
    codec.encode(activations(0, 1.0))
    codec.end_step()
    before = codec.statistics()
    codec.encode(activations(0, 4.0))
    codec.discard_step()
    codec.end_step()
    assert codec.statistics() == before


@pytest.mark.parametrize("rows", [1, 3, 12])
def test_fewer_rows_than_columns_are_decomposed_too(rows: int) -> None:
    codec = make(energy=1.0, max_rank=WIDTH)
    for _ in range(3):
        X = activations(0, 1.0, rows)
        assert torch.allclose(codec.encode(X).decode(), X, atol=1e-6)
        codec.end_step()
    assert codec.ranks[0] <= rows
