"""LoRAct: every call has the basis that its own sampled columns give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compbench_plugins.loract import LoRAct
from torch import Tensor

from compbench import Codec, Site

WIDTH = 20


def make(rank: int) -> Codec:
    codec = LoRAct(rank=rank).codec(Site("block.mlp", "mlp_20", WIDTH), torch.Generator().manual_seed(0))
    assert codec is not None
    return codec


def low_rank(rank: int, seed: int, rows: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    return left @ torch.randn(rank, WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rows", [50, 3])
def test_rows_of_at_most_its_rank_are_rebuilt_exactly_at_every_call(rows: int) -> None:
    codec = make(5)
    for call in range(6):
        X = low_rank(5, call, rows)
        assert torch.allclose(codec.encode(X).decode(), X, atol=1e-9)


def test_the_basis_spans_the_gram_columns_of_sampled_features() -> None:
    codec = make(3)
    X = low_rank(WIDTH, 0)
    seen = set()
    for _ in range(20):
        Q = codec.encode(X).tensors()[1]
        gram = (X.T @ X).numpy()
        inside = np.linalg.norm(gram - (Q @ Q.T).numpy() @ gram, axis=0) < 1e-9 * np.linalg.norm(gram, axis=0)
        columns = tuple(np.flatnonzero(inside))
        assert len(columns) == 3
        seen.add(columns)
        assert torch.allclose(Q.T @ Q, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert len(seen) > 10  # other columns at every call
    assert len({column for columns in seen for column in columns}) == WIDTH


def test_every_call_keeps_a_basis_of_its_own() -> None:
    codec = make(4)
    bases = [codec.encode(low_rank(WIDTH, call)).tensors()[1] for call in range(3)]
    assert len({basis.data_ptr() for basis in bases}) == 3
    assert codec.kept_bytes(50, 3, 8) == 3 * (50 * 4 * 8 + WIDTH * 4 * 8)
