"""The oracle: no rank-k rebuild of a call is nearer, by the theorem of Eckart and Young."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compbench_plugins.asi import Asi
from compbench_plugins.gale import Gale
from compbench_plugins.laser import Laser
from compbench_plugins.loract import LoRAct
from compbench_plugins.oracle_svd import OracleSvd
from torch import Tensor

from compbench import Codec, Compressor, Site
from compbench.testing import check_compressor

WIDTH = 20
SITE = Site("block.mlp", "mlp_20", WIDTH)


def make(strategy: Compressor) -> Codec:
    codec = strategy.codec(SITE, torch.Generator().manual_seed(0))
    assert codec is not None
    return codec


def activations(seed: int, rows: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) * torch.logspace(1, -1.5, WIDTH).double()
    return X @ torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)).Q


def test_the_contract_is_kept() -> None:
    check_compressor(OracleSvd(rank=6), site=Site("block.mlp", "mlp_24", 24))


@pytest.mark.parametrize("rows", [60, 20, 13, 3])
@pytest.mark.parametrize("rank", [1, 5, 19, 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_errors_are_those_of_eckart_and_young_to_rounding(rows: int, rank: int, dtype: torch.dtype) -> None:
    codec = make(OracleSvd(rank=rank))
    for call in range(4):
        X = activations(call, rows).to(dtype)
        error = float((codec.encode(X).decode().double() - X.double()).norm())
        least = np.linalg.norm(np.linalg.svd(X.double().numpy())[1][rank:])
        # A Gram matrix tells energies apart up to its rounding: it is the squares that are met.
        norm = float(X.double().norm())
        lost = 8 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * norm**2
        rounding = 8 * torch.finfo(dtype).eps * norm
        assert least - rounding <= error <= np.sqrt(least**2 + lost) + rounding


def test_no_other_strategy_of_its_rank_is_nearer() -> None:
    X = activations(0)
    oracle = float((make(OracleSvd(rank=5)).encode(X).decode() - X).norm())
    others = [Laser(rank=5), Laser(rank=5, basis="per_call"), Asi(rank=5), LoRAct(rank=5), Gale(rank=5)]
    for codec in map(make, others):
        for _ in range(5):
            assert float((codec.encode(X).decode() - X).norm()) >= oracle * (1 - 1e-9)
            codec.end_step()


def test_every_call_keeps_a_basis_of_its_own() -> None:
    codec = make(OracleSvd(rank=4))
    payloads = [codec.encode(activations(call)) for call in range(25)]
    assert len({payload.tensors()[1].data_ptr() for payload in payloads}) == 25
    kept = sum(tensor.nbytes for payload in payloads for tensor in payload.tensors())
    assert kept == codec.kept_bytes(60, 25, 8) == 25 * (60 * 4 * 8 + WIDTH * 4 * 8)
    assert codec.kept_bytes(60, 25, 2) == 25 * (60 * 4 * 2 + WIDTH * 4 * 4)


def test_fidelity_is_the_share_of_the_leading_directions() -> None:
    codec = make(OracleSvd(rank=4))
    calls = [activations(call) for call in range(3)]
    for X in calls:
        codec.encode(X)
    codec.end_step()
    energies = np.stack([np.linalg.svd(X.numpy())[1] ** 2 for X in calls])
    assert codec.statistics()["fidelity"] == pytest.approx(np.sqrt(energies[:, :4].sum() / energies.sum()))


def test_a_rank_above_the_width_is_clamped_and_told() -> None:
    codec = make(OracleSvd(rank=21))
    X = activations(0)
    assert torch.allclose(codec.encode(X).decode(), X, atol=1e-9)
    assert codec.statistics() == {"rank": 20, "rank_clamped": 1}
    assert make(OracleSvd(rank=20)).statistics() == {"rank": 20, "rank_clamped": 0}
