"""Storages as rows: whatever view of a storage is saved, the fold of the whole storage gives it back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compbench.capture.folding import Fold, find_fold


@st.composite
def views(draw: st.DrawFn) -> Tensor:
    """A view of a fresh contiguous tensor: dimensions permuted, sliced, selected or expanded."""
    shape = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    base = torch.randn(shape)
    view = base.permute(draw(st.permutations(range(len(shape)))))
    for dim in range(view.dim()):
        start = draw(st.integers(0, view.shape[dim] - 1))
        stop = draw(st.integers(start + 1, view.shape[dim]))
        view = view.narrow(dim, start, stop - start)
    if draw(st.booleans()):
        view = view.unsqueeze(0).expand(3, *view.shape)
    return view


@given(views(), st.booleans())
def test_a_view_comes_back_from_the_folded_storage(view: Tensor, channels_first: bool) -> None:
    fold = find_fold(view, channels_first)
    if fold is None:
        return
    rows = fold.fold(view)
    assert rows.shape == (fold.rows, fold.width)
    assert fold.rows * fold.width * view.itemsize == view.untyped_storage().nbytes()
    rebuilt = fold.unfold(rows.clone()).clone()
    assert torch.equal(rebuilt.as_strided(view.shape, view.stride(), view.storage_offset()), view)


def width(tensor: Tensor, channels_first: bool = False) -> int:
    fold = find_fold(tensor, channels_first)
    return 0 if fold is None else fold.width


def test_width_is_the_row_of_the_whole_storage() -> None:
    projection = torch.randn(4, 9, 96)
    gate, up = projection.chunk(2, dim=-1)
    assert width(projection) == width(gate) == width(up) == 96
    assert width(projection.flatten(0, 1)) == 96
    assert width(projection[:, 0]) == 96
    assert width(projection[1:3, 2:5]) == 96


def test_heads_fold_into_the_width() -> None:
    fresh = torch.randn(4, 9, 3, 16)
    assert width(fresh.transpose(1, 2)) == 48
    fused = torch.randn(4, 9, 3 * 48)
    query, key, value = fused.view(4, 9, 9, 16).transpose(1, 2).chunk(3, dim=1)
    assert width(query) == width(key) == width(value) == 144
    detached = value.detach().as_strided(value.shape, value.stride(), value.storage_offset())
    assert width(detached) == 144  # from the strides alone


def test_heads_fold_alone_where_positions_come_before_the_batch() -> None:
    # As nn.MultiheadAttention has it: (T, B, H, d) in memory, (B, H, T, d) to look at.
    fresh = torch.randn(9, 4 * 3, 16).transpose(0, 1).view(4, 3, 9, 16)
    assert width(fresh) == 48


def test_channels_become_columns() -> None:
    image = torch.randn(2, 5, 4, 3)
    fold = find_fold(image, channels_first=True)
    assert fold == Fold(rows=24, width=5, positions=12)
    assert torch.equal(fold.fold(image), image.permute(0, 2, 3, 1).reshape(24, 5))
    last = image.contiguous(memory_format=torch.channels_last)
    assert torch.equal(find_fold(last, channels_first=True).fold(last), image.permute(0, 2, 3, 1).reshape(24, 5))


@pytest.mark.parametrize("tensor", [torch.randn(7), torch.randn(4, 9, 1), torch.tensor(1.0), torch.randn(6, 1)])
def test_statistics_and_vectors_have_no_rows(tensor: Tensor) -> None:
    assert find_fold(tensor, channels_first=False) is None


def test_a_fold_of_plain_rows_copies_nothing() -> None:
    rows = torch.randn(6, 8)
    fold = find_fold(rows[2:4, 1:3], channels_first=False)
    assert fold.fold(rows).data_ptr() == rows.data_ptr()
