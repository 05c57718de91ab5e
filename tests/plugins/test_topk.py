"""topk: which elements are kept, bit for bit; the packed mask against NumPy's; bytes in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins._bitmask import pack_bits, packed_bytes, unpack_bits
from compbench_plugins.int8 import Int8
from compbench_plugins.topk import TopK, TopKCodec
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compbench import Codec, Site
from compbench.chain import Chain
from compbench.testing import parametrize_with_checks

SITE = Site("block.mlp", "mlp", 20)


def make(width: int = 20, **fields: object) -> TopKCodec:
    codec = TopK.model_validate(fields).codec(Site("block.mlp", "mlp", width), torch.Generator())
    assert isinstance(codec, TopKCodec)
    return codec


def rows(number: int = 30, width: int = 20, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(0)).to(dtype)


def kept_bytes(codec: Codec, X: Tensor) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in codec.encode(X).tensors())


@parametrize_with_checks(
    [
        TopK(share=0.3, per="call"),
        TopK(share=0.001),
        Chain(members=(TopK(share=0.25), Int8())),
        Chain(members=(TopK(share=0.25, per="call"), Int8())),
    ]
)
def test_the_contract_is_kept(check) -> None:
    check()


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_packed_masks_are_those_of_numpy(mask: list[bool]) -> None:
    packed = pack_bits(torch.tensor(mask))
    np.testing.assert_array_equal(packed.numpy(), np.packbits(mask, bitorder="little"))
    assert len(packed) == packed_bytes(len(mask))
    assert unpack_bits(packed, len(mask)).tolist() == mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.33, 0.5, 1.0])
@pytest.mark.parametrize("per", ["row", "call"])
def test_the_largest_magnitudes_are_kept_bit_for_bit_and_the_others_zero(
    dtype: torch.dtype, share: float, per: str
) -> None:
    X = rows(30, 20, dtype)
    X[:, 7] = 0.01 * X[:, 7]
    X[4] = 0.01 * X[4]
    k = max(1, round(share * 20))
    lines = X.view(1, -1) if per == "call" else X
    count = 30 * k // len(lines)
    magnitudes = lines.double().abs().numpy()
    threshold = np.sort(magnitudes, axis=1)[:, -count][:, None]
    decoded = make(share=share, per=per).encode(X).decode().reshape(lines.shape)
    kept = decoded.ne(0).numpy()
    assert (kept.sum(axis=1) == count).all()
    assert (magnitudes[kept] >= np.broadcast_to(threshold, kept.shape)[kept]).all()
    assert (magnitudes[~kept] <= np.broadcast_to(threshold, kept.shape)[~kept]).all()
    assert torch.equal(decoded[torch.from_numpy(kept)], lines[torch.from_numpy(kept)])


def test_ties_do_not_change_how_many_are_kept() -> None:
    for per in ("row", "call"):
        decoded = make(share=0.25, per=per).encode(torch.full((6, 20), -2.0)).decode()
        assert decoded.eq(-2).sum() == 6 * 5
        assert decoded.eq(0).sum() == 6 * 15


def test_a_quiet_row_keeps_its_elements_by_row_and_loses_them_by_call() -> None:
    X = rows()
    X[3] *= 1e-3
    assert make(per="row").encode(X).decode()[3].count_nonzero() == 2
    assert make(per="call").encode(X).decode()[3].count_nonzero() == 0


@pytest.mark.parametrize(("dtype", "itemsize"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("per", ["row", "call"])
@pytest.mark.parametrize(("number", "width", "share", "k"), [(64, 192, 0.1, 19), (33, 21, 0.5, 10), (1, 7, 0.01, 1)])
def test_bytes_are_the_elements_and_one_bit_for_each(
    dtype: torch.dtype, itemsize: int, per: str, number: int, width: int, share: float, k: int
) -> None:
    codec = make(width, share=share, per=per)
    expected = number * k * itemsize + math.ceil(number * width / 8)
    assert kept_bytes(codec, rows(number, width, dtype)) == codec.kept_bytes(number, 1, itemsize) == expected


def test_the_mask_is_the_floor_of_what_is_kept() -> None:
    for dtype, floor in ((torch.float32, 1 / 32), (torch.bfloat16, 1 / 16)):
        X = rows(8, 4096, dtype)
        share = kept_bytes(make(4096, share=1e-9), X) / X.nbytes
        assert floor < share < 1.02 * floor


def test_values_in_eight_bits_are_a_chain() -> None:
    X = rows(64, 192)
    strategy = Chain(members=(TopK(share=0.25), Int8()))
    codec = strategy.codec(Site("block.mlp", "mlp", 192), torch.Generator().manual_seed(0))
    assert codec is not None
    assert kept_bytes(codec, X) == codec.kept_bytes(64, 1, 4) == 64 * (48 + 4) + 64 * 192 // 8
    pruned, decoded = make(192, share=0.25).encode(X).decode(), codec.encode(X).decode()
    step = X.abs().amax(dim=1, keepdim=True) / 127
    assert ((decoded - pruned).abs() <= 0.5001 * step).all()
    assert not decoded[pruned == 0].any()


@pytest.mark.parametrize("per", ["row", "call"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_kept_before_all_others(per: str, bad: float) -> None:
    X = rows()
    X[3, 5], X[8] = bad, bad
    decoded = make(share=0.1, per=per).encode(X).decode()
    assert not decoded[~X.isfinite()].isfinite().any()
    finite = torch.ones(30, dtype=torch.bool)
    finite[8] = False
    finite[3] = False
    assert decoded[finite].isfinite().all()
