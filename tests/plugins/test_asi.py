"""ASI: every call takes one iteration from the basis of the call before, and is projected on the new basis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins.asi import Asi, AsiCodec
from compbench_plugins.oracle_svd import OracleSvd
from torch import Tensor

from compbench import Site
from compbench.testing import check_compressor

WIDTH = 16
SITE = Site("block.mlp", "mlp_16", WIDTH)


def make(rank: int = 4, start: str = "warm", seed: int = 3) -> AsiCodec:
    codec = Asi.model_validate({"rank": rank, "start": start}).codec(SITE, torch.Generator().manual_seed(seed))
    assert isinstance(codec, AsiCodec)
    return codec


def activations(seed: int, rows: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -1, WIDTH, dtype=torch.float64)
    return torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) * scales


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_the_contract_is_kept(start: str) -> None:
    check_compressor(Asi.model_validate({"rank": 6, "start": start}), site=Site("block.mlp", "mlp_24", 24))


def test_every_call_iterates_from_the_one_before_and_is_projected_on_the_new_basis() -> None:
    codec = make()
    Q = codec.encode(activations(0)).tensors()[1].numpy()  # from random numbers
    for call in range(1, 76):  # three steps of 25 calls
        X = activations(call)
        payload = codec.encode(X)
        old, Q = Q, np.linalg.qr(X.numpy().T @ (X.numpy() @ Q))[0]
        np.testing.assert_allclose(payload.decode().numpy(), X.numpy() @ Q @ Q.T, atol=1e-9)
        assert not np.allclose(payload.decode().numpy(), X.numpy() @ old @ old.T, atol=1e-3)
        if call % 25 == 24:
            codec.end_step()


def test_every_call_keeps_its_own_factors() -> None:
    codec = make()
    payloads = [codec.encode(activations(call)) for call in range(25)]
    bases = {payload.tensors()[1].data_ptr() for payload in payloads}
    assert len(bases) == 25
    kept = sum(tensor.nbytes for payload in payloads for tensor in payload.tensors())
    assert kept == codec.kept_bytes(50, 25, 8) == 25 * (50 * 4 * 8 + WIDTH * 4 * 8)
    assert codec.kept_bytes(50, 25, 2) == 25 * (50 * 4 * 2 + WIDTH * 4 * 4)  # bases in fp32


def test_warm_starts_converge_to_the_best_basis_and_cold_ones_do_not() -> None:
    X = activations(0)
    best = OracleSvd(rank=4).codec(SITE, torch.Generator())
    assert best is not None
    least = float((best.encode(X).decode() - X).norm())
    errors = {}
    for start in ("warm", "cold"):
        codec = make(start=start)
        errors[start] = [float((codec.encode(X).decode() - X).norm()) for _ in range(40)]
    assert errors["warm"][-1] == pytest.approx(least, rel=1e-6)
    assert errors["warm"][0] > 1.01 * least
    assert np.mean(errors["cold"]) > 1.01 * least


def test_cold_starts_draw_anew_at_every_call() -> None:
    codec = make(start="cold")
    X = activations(0)
    one, other = codec.encode(X), codec.encode(X)
    assert not torch.allclose(one.decode(), other.decode(), atol=1e-3)
    assert codec.Q is None


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_fewer_rows_than_columns_are_rebuilt_exactly(rows: int) -> None:
    codec = make()
    for call in range(3):
        X = activations(call, rows)
        assert torch.allclose(codec.encode(X).decode(), X, atol=1e-8)


@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
def test_a_call_without_directions_leaves_the_basis(spoilt: float) -> None:
    codec = make()
    codec.encode(activations(0))
    before = codec.Q
    assert before is not None
    codec.encode(activations(1) * spoilt)
    assert codec.Q is not None
    assert torch.equal(codec.Q, before)


def test_a_discarded_step_is_undone() -> None:
    codec = make()
    codec.encode(activations(0))
    codec.end_step()
    before, figures = codec.Q, codec.statistics()
    codec.encode(activations(1))
    assert codec.Q is not before
    codec.discard_step()
    assert codec.Q is before
    assert codec.statistics() == figures


def test_a_rank_above_the_width_is_clamped_and_told() -> None:
    codec = make(rank=500)
    X = activations(0)
    assert torch.allclose(codec.encode(X).decode(), X, atol=1e-9)
    codec.end_step()
    assert codec.statistics() == pytest.approx(
        {"rank": WIDTH, "rank_clamped": 1, "fidelity": 1.0, "relative_error": 0.0}, abs=1e-6
    )
    assert make(rank=WIDTH).statistics() == {"rank": WIDTH, "rank_clamped": 0}
