"""fp8 against tables of both formats' numbers, made from their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compbench_plugins.fp8 import _FORMATS, Fp8, Fp8Codec, rebuild
from compbench_plugins.int8 import Int8
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from compbench import Site
from compbench.testing import parametrize_with_checks


def numbers(mantissa: int, bias: int, largest: float) -> NDArray[np.float64]:
    """All finite numbers of a format that are not negative, in order; index is the code, its parity the last bit's."""
    positive = []
    for code in range(128):
        exponent, fraction = code >> mantissa, (code & ((1 << mantissa) - 1)) / (1 << mantissa)
        positive.append(math.ldexp(fraction if exponent == 0 else 1 + fraction, max(exponent, 1) - bias))
    return np.array([x for x in positive if x <= largest])


TABLES = {"e4m3": numbers(3, 7, 448), "e5m2": numbers(2, 15, 57344)}
RELATIVE = {"e4m3": 1 / 16, "e5m2": 1 / 8}


def nearest(x: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest number of the table, and of two the one with an even code."""
    magnitude = np.minimum(np.abs(x), table[-1])
    below = np.clip(np.searchsorted(table, magnitude, side="right") - 1, 0, len(table) - 2)
    down, up = magnitude - table[below], table[below + 1] - magnitude
    code = below + ((up < down) | ((up == down) & (below % 2 == 1)))
    return np.copysign(table[code], x)


def make(width: int, **fields: object) -> Fp8Codec:
    codec = Fp8.model_validate(fields).codec(Site("block.mlp", "mlp", width), torch.Generator().manual_seed(0))
    assert isinstance(codec, Fp8Codec)
    return codec


def blocks(shape: tuple[int, int], granularity: str, size: int) -> list[tuple[slice, slice]]:
    rows, width = shape
    if granularity == "tensor":
        return [(slice(None), slice(None))]
    size = size if granularity == "group" else width
    return [(slice(n, n + 1), slice(d, d + size)) for n in range(rows) for d in range(0, width, size)]


@parametrize_with_checks(
    [Fp8(format="e5m2"), Fp8(granularity="group", group_size=50), Fp8(format="e5m2", granularity="tensor")]
)
def test_the_contract_is_kept(check) -> None:
    check()


@settings(max_examples=80)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 23)),
        elements=st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6),
    ),
    st.sampled_from(["e4m3", "e5m2"]),
    st.sampled_from(["row", "group", "tensor"]),
    st.integers(1, 30),
)
def test_every_element_is_the_nearest_number_of_the_format(
    X: NDArray[np.float32], number: str, granularity: str, size: int
) -> None:
    codec = make(X.shape[1], format=number, granularity=granularity, group_size=size)
    decoded = codec.encode(torch.from_numpy(X)).decode().numpy()
    table = TABLES[number]
    for where in blocks(X.shape, granularity, size):
        largest = np.abs(X[where]).max()
        scale = np.float32(largest) / np.float32(table[-1]) if largest else np.float32(1)
        expected = nearest((X[where] / scale).astype(np.float64), table)
        np.testing.assert_array_equal(decoded[where], expected.astype(np.float32) * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("number", "floor"), [("e4m3", 1 / 28672), ("e5m2", 1 / (57344 * 2**14))])
def test_the_error_is_relative_down_to_a_floor_and_absolute_below(
    number: str, floor: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 64, generator=generator, dtype=torch.float64)
    X = (X * 10.0 ** torch.linspace(-12, 0, 64)).to(dtype)
    decoded = make(64, format=number).encode(X).decode().double()
    largest = X.double().abs().amax(dim=1, keepdim=True)
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 1e-6  # of the decoded number
    small = RELATIVE[number] * floor * largest
    bound = torch.maximum(RELATIVE[number] * X.double().abs(), small) + rounding * decoded.abs() + 1e-6 * small
    assert ((decoded - X.double()).abs() <= bound).all()


def test_the_number_of_bytes_is_that_of_int8() -> None:
    for width, fields, scales in (
        (64, {}, 50),
        (300, {"granularity": "group"}, 150),
        (64, {"granularity": "tensor"}, 1),
    ):
        codec = make(width, **fields)
        payload = codec.encode(torch.ones(50, width, dtype=torch.bfloat16))
        kept = sum(tensor.untyped_storage().nbytes() for tensor in payload.tensors())
        assert kept == codec.kept_bytes(50, 1, 2) == 50 * width + 4 * scales


def test_outliers_cost_less_than_with_integers() -> None:
    X = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    X[:, 0] = 500.0
    integers = Int8().codec(Site("block.mlp", "mlp", 256), torch.Generator())
    assert integers is not None

    def error(decoded: Tensor) -> float:
        return float((decoded - X)[:, 1:].norm() / X[:, 1:].norm())

    assert error(integers.encode(X).decode()) > 0.8
    assert error(make(256).encode(X).decode()) < 0.04


@pytest.mark.parametrize("number", ["e4m3", "e5m2"])
def test_the_largest_magnitude_is_kept_to_rounding_at_both_ends_of_fp32(number: str) -> None:
    tiny, huge = 1e-32, torch.finfo(torch.float32).max
    X = torch.tensor([[-huge, 1.0, huge], [tiny, 0.0, -tiny], [3.0, -0.1, 0.0], [0.0, 0.0, 0.0]])
    decoded = make(3, format=number).encode(X).decode()
    largest = X.abs() == X.abs().amax(dim=1, keepdim=True)
    assert torch.allclose(decoded[largest], X[largest], rtol=1e-5, atol=0)
    assert decoded.isfinite().all()


@pytest.mark.parametrize(("number", "floor"), [("e4m3", 2.0**-10), ("e5m2", 2.0**-17)])
def test_rows_of_subnormal_numbers_are_kept_by_the_smallest_normal_scale(number: str, floor: float) -> None:
    tiny = torch.finfo(torch.float32).tiny
    X = torch.tensor([[1.12e-40, -1.12e-40, 0.0], [1.4e-45, 0.0, 0.0], [5e-39, 4e-36, -1e-36]])
    error = (make(3, format=number).encode(X).decode().double() - X.double()).abs()
    assert (error <= torch.maximum(RELATIVE[number] * X.double().abs(), torch.tensor(floor * tiny + 1e-45))).all()


@pytest.mark.parametrize("number", ["e4m3", "e5m2"])
def test_every_code_is_decoded_as_torch_casts_it(number: str) -> None:
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(_FORMATS[number]).view(16, 16)
    cast = codes.float()
    decoded = rebuild(codes, torch.full((16,), 3.0), torch.float32)
    finite = cast.isfinite()  # others are not made: a block that would have them has NaN as its scale
    assert torch.equal(decoded[finite], 3 * cast[finite])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("number", ["e4m3", "e5m2"])
def test_a_spoilt_block_is_not_finite_and_spoils_no_other(number: str, bad: float) -> None:
    X = torch.ones(3, 25)
    X[1, 22] = bad

    def finite(granularity: str) -> Tensor:
        decoded = make(25, format=number, granularity=granularity, group_size=10).encode(X).decode()
        assert not decoded.isinf().any()
        return decoded.isfinite()

    by_row = torch.ones(3, 25, dtype=torch.bool)
    by_row[1] = False
    assert torch.equal(finite("row"), by_row)
    by_group = torch.ones(3, 25, dtype=torch.bool)
    by_group[1, 20:] = False
    assert torch.equal(finite("group"), by_group)
    assert not finite("tensor").any()
