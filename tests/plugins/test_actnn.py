"""actnn: errors against the paper's formulas in NumPy, bytes in closed form, allocations against all that there are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compbench_plugins._bits import code_bytes, pack_codes, unpack_codes
from compbench_plugins.actnn import ActNN, ActNNCodec, Quantised, fewest_bits, quantise
from compbench_plugins.gale import Gale
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from compbench import Compressor, Site, SiteUse, compress
from compbench.chain import Chain
from compbench.errors import SettingsError
from compbench.testing import check_compressor

ARMS: dict[str, Compressor] = {
    "default": ActNN(),
    "1 bit": ActNN(bits=1, allocate=False),
    "3 bits": ActNN(bits=3, allocate=False),
    "8 bits": ActNN(bits=8, allocate=False),
    "5.5 bits for 8 samples": ActNN(bits=5.5, samples=8),
    "budget": ActNN(bits=3, samples=2, budget_bytes=10_000_000),
    "gale+actnn": Chain(members=(Gale(rank=64), ActNN(samples=3))),
}


def make(width: int, seed: int = 0, **fields: object) -> ActNNCodec:
    codec = ActNN.model_validate(fields).codec(Site("block.mlp", "mlp", width), torch.Generator().manual_seed(seed))
    assert isinstance(codec, ActNNCodec)
    return codec


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kept(payload: Quantised) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in payload.tensors())


def encode(codec: ActNNCodec, X: Tensor) -> Quantised:
    payload = codec.encode(X)
    assert isinstance(payload, Quantised)
    return payload


def groups_of(X: Tensor) -> NDArray[np.float64]:
    return X.double().numpy().reshape(-1, 256)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("width", [192, 40])
def test_the_contract_is_kept(arm: str, width: int) -> None:
    check_compressor(ARMS[arm], site=Site("block.mlp", f"mlp_{width}", width))


# -------------------------------------------------------------------- bytes


@given(st.integers(1, 8), st.integers(0, 70), st.integers(0, 2**16))
def test_codes_come_back_from_dense_bytes(bits: int, count: int, seed: int) -> None:
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8))
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == code_bytes(count, bits)
    assert 0 <= 8 * len(packed) - bits * count < 8 * 3
    # Whatever stands above the lowest bits is not of the code, and spoils no neighbour.
    assert torch.equal(unpack_codes(packed, bits, count), codes & 2**bits - 1)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_element_takes_its_bits_and_an_eighth(bits: int, dtype: torch.dtype) -> None:
    X = normal(64, 512).to(dtype)
    codec = make(512, bits=bits, allocate=False)
    bits_an_element = 8 * kept(encode(codec, X)) / X.numel()
    assert bits_an_element == bits + 2 * 16 / 256
    assert codec.kept_bytes(64, 1, X.itemsize) == kept(encode(codec, X))
    if bits == 2:
        assert bits_an_element == 2.125


# -------------------------------------------------------------------- rounding


def reference(X: Tensor, bits: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Groups as the paper rounds them: ``u = B (x - Z) / R``, up with probability ``u - floor(u)``; exact constants."""
    x = groups_of(X)
    Z, R = x.min(axis=1, keepdims=True), np.ptp(x, axis=1, keepdims=True)
    B = 2**bits - 1
    u = B * (x - Z) / R
    rounded = np.floor(u) + (random.random(u.shape) < u - np.floor(u))
    return rounded * R / B + Z


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_error_is_that_of_the_paper(bits: int, offset: float) -> None:
    X = normal(300, 512) + offset
    x = groups_of(X)
    error = ((groups_of(make(512, bits=bits, allocate=False).encode(X).decode()) - x) ** 2).sum()
    assert error == pytest.approx(((reference(X, bits, np.random.default_rng(0)) - x) ** 2).sum(), rel=0.05)
    # What stochastic rounding costs in the mean: f (1 - f) squared steps, f what is behind the point.
    step = np.ptp(x, axis=1, keepdims=True) / (2**bits - 1)
    f = ((x - x.min(axis=1, keepdims=True)) / step) % 1
    assert error == pytest.approx((step**2 * f * (1 - f)).sum(), rel=0.05)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_mean_over_draws_is_what_was_encoded(bits: int) -> None:
    X, draws = normal(4, 256) + 3, 2000
    codec = make(256, bits=bits, allocate=False)
    decoded = torch.stack([codec.encode(X).decode().double() for _ in range(draws)])
    payload = encode(codec, X)
    B = 2**bits - 1
    Z, step = payload.Z.double().view(4, 1), payload.R.double().view(4, 1) / B
    f = ((X.double() - Z) / step) % 1
    error = (f * (1 - f)).sqrt() * step
    # Each element has two possible values, as far apart as codes are.
    assert ((decoded - X).abs() <= step * (1 + 1e-5)).all()
    assert ((decoded.mean(dim=0) - X).abs() <= 5.5 * error / math.sqrt(draws) + 1e-5).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_no_code_is_rounded_beyond_the_largest(bits: int) -> None:
    x = normal(2000, 256) * torch.linspace(0.01, 99, 2000).unsqueeze(1)
    Z, R = (x.amin(dim=1), x.amax(dim=1) - x.amin(dim=1))
    B = torch.full((2000,), 2.0**bits - 1)
    for byte, offset in ((255, 1 - 2.0**-24), (0, 0.0)):
        noise, offsets = torch.full(x.shape, byte, dtype=torch.uint8), torch.full((2000,), offset)
        codes = quantise(x, Z, R, noise, offsets, B, bits == 8).double()
        u = (x.double() - Z.double().unsqueeze(1)) / R.double().unsqueeze(1) * (2**bits - 1)
        assert codes.max() <= 2**bits - 1
        assert ((codes - u).abs() < 1 + 1e-4).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_offset_of_a_group_decides_between_256ths(bits: int) -> None:
    B = 2.0**bits - 1
    x = torch.tensor([[0.0, 5 + 255.5 / 256, B]]).repeat(2, 1)
    noise, offsets = torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([0.25, 0.75])
    codes = quantise(x, torch.zeros(2), torch.full((2,), B), noise, offsets, torch.full((2,), B), bits == 8)
    assert codes.tolist() == [[0, 5, B], [0, 6, B]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 100.0, -100.0, 3e4])
def test_stored_constants_hold_the_whole_group(dtype: torch.dtype, offset: float) -> None:
    X = (normal(16, 256) + offset).to(dtype)
    payload = encode(make(256, allocate=False), X)
    Z, R = payload.Z.double().view(16), payload.R.double().view(16)
    assert (X.double().amin(dim=1) >= Z).all()
    assert (X.double().amax(dim=1) <= Z + R).all()
    assert (payload.decode().double() - X.double()).abs().max() <= (R / 3).max() + 0.01 * abs(offset)


def test_the_largest_fp16_number_stays_finite() -> None:
    X = normal(4, 256).half()
    X[:, 0], X[:, 1] = 65504, -65504
    assert all(make(256, seed, bits=8).encode(X).decode().isfinite().all() for seed in range(20))


def test_a_spoilt_group_spoils_no_other() -> None:
    X = normal(3, 512)
    X[1, 300] = math.inf
    expected = torch.ones(3, 512, dtype=torch.bool)
    expected[1, 256:] = False
    for bits in range(1, 9):
        assert torch.equal(make(512, bits=bits).encode(X).decode().isfinite(), expected)


def test_padding_widens_no_range() -> None:
    X = normal(3, 100) + 50  # 300 elements: a group, and 44 elements of another
    payload = encode(make(100, allocate=False), X)
    last = X.flatten()[256:].double()
    assert payload.Z[0, 1] <= last.min()
    assert payload.R[0, 1].double() < last.max() - last.min() + 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_of_25_calls_is_rebuilt_from_its_own_minimum_and_range(dtype: torch.dtype) -> None:
    codec = make(256, bits=8)
    rows = [(normal(10, 256, seed=call) * 2.0**call + call).to(dtype) for call in range(25)]
    payloads = [codec.encode(X) for X in rows]
    for X, payload in zip(rows, payloads, strict=True):
        assert (payload.decode() - X).double().norm() < 0.02 * X.double().norm()


# -------------------------------------------------------------------- allocation


def loss(C: list[float], bits: tuple[int, ...] | list[int]) -> float:
    return sum(c / (2**b - 1) ** 2 for c, b in zip(C, bits, strict=True))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=4), st.integers(1, 8), st.integers(0, 3))
def test_of_equal_parts_the_greedy_allocation_is_the_best(C: list[float], average: int, more: int) -> None:
    spend = min(8 * len(C), average * len(C) + more)
    bits = fewest_bits(C, [10] * len(C), 10 * spend)
    assert sum(bits) == spend
    best = min(loss(C, b) for b in itertools.product(range(1, 9), repeat=len(C)) if sum(b) <= spend)
    assert loss(C, bits) <= best * (1 + 1e-9)


@given(
    st.lists(st.tuples(st.floats(0, 1e30), st.integers(1, 10**9)), min_size=1, max_size=12),
    st.floats(1, 8),
)
def test_no_allocation_spends_more_than_there_is(parts: list[tuple[float, int]], average: float) -> None:
    C, elements = [c for c, _ in parts], [n for _, n in parts]
    spend = average * sum(elements)
    bits = fewest_bits(C, elements, spend)
    assert sum(b * n for b, n in zip(bits, elements, strict=True)) <= spend * (1 + 1e-12)
    assert all(1 <= b <= 8 for b in bits)


def test_a_bit_of_a_long_part_saves_more_than_one_of_a_short_part() -> None:
    assert fewest_bits([1.0, 1.0], [100, 1], 608) == [6, 8]


def use(codec: ActNNCodec, name: str, calls: int, rows: int) -> SiteUse:
    return SiteUse(Site(name, "mlp", codec.D), codec, calls, rows, 4, propagating=False)


def test_sensitivities_add_up_over_the_calls_of_a_step() -> None:
    codec = make(256, samples=2)
    rows = [normal(8, 256, seed=call) * (1 + call) for call in range(25)]
    payloads = [codec.encode(X) for X in rows]
    gradients = [normal(8, 7, seed=100 + call) for call in range(25)]
    for payload, gradient in zip(reversed(payloads), gradients, strict=True):
        codec.observe_gradient(payload, gradient)
    codec.end_step()
    squared = [(np.ptp(groups_of(X), axis=1) ** 2).reshape(2, -1).sum(axis=1) for X in rows]
    expected = np.sort(squared, axis=1)[:, ::-1].sum(axis=0)
    assert codec.sensitivities == pytest.approx(expected.tolist(), rel=0.02)
    squares = np.mean([(gradient.numpy() ** 2).sum(axis=1).mean() for gradient in gradients])
    assert codec.gradient == pytest.approx(squares, rel=1e-5)
    payload = codec.encode(rows[0])
    codec.observe_gradient(payload, 3 * gradients[0])
    codec.end_step()
    latest = (9 * gradients[0].numpy() ** 2).sum(axis=1).mean()
    assert codec.gradient == pytest.approx((squares + latest) / 2, rel=1e-5)


def test_bits_go_where_range_and_gradient_are_large() -> None:
    strategy = ActNN(bits=4)
    codecs = [make(256) for _ in range(4)]
    for codec, scale, slope in zip(codecs, (1, 8, 1, 8), (1.0, 1.0, 64.0, None), strict=True):
        payload = codec.encode(scale * normal(8, 256))
        if slope is not None:
            codec.observe_gradient(payload, torch.full((8, 3), slope))
        codec.end_step()
    strategy.coordinate([use(codec, str(i), 1, 8) for i, codec in enumerate(codecs)])
    low, wide, steep, unseen = (codec.bits[0] for codec in codecs)
    assert low < wide < steep < unseen  # which counts with the mean gradient of those that were seen
    assert low + wide + steep + unseen == 16
    C = [codec.sensitivities[0] * (1366 if codec.gradient is None else codec.gradient / 3) for codec in codecs]
    best = min(loss(C, b) for b in itertools.product(range(1, 9), repeat=4) if sum(b) <= 16)
    assert loss(C, [low, wide, steep, unseen]) == pytest.approx(best)


def test_the_widest_sample_of_each_call_gets_most_bits_and_shapes_never_change() -> None:
    codec = make(256, samples=4)
    codec.bits = [8, 2, 2, 1]
    for widest in range(4):
        X = normal(16, 256, seed=widest)
        X.view(4, 4, 256)[widest] *= 3
        payload = encode(codec, X)
        assert kept(payload) == codec.kept_bytes(16, 1, 4)
        assert [tensor.shape for tensor in payload.codes] == [(1024,), (512,), (128,)]
        error = (payload.decode() - X).view(4, -1).norm(dim=1) / X.view(4, -1).norm(dim=1)
        assert error[widest] < 0.02
        assert (error[torch.arange(4) != widest] > 0.2).all()


def test_a_call_of_other_rows_has_the_average_bits() -> None:
    codec = make(256, samples=4)
    codec.bits = [8, 4, 1, 1]
    X = normal(5, 256)
    assert encode(codec, X).bits == (3,)
    assert kept(encode(codec, X)) == codec.kept_bytes(5, 1, 4) == 5 * (256 * 3 // 8 + 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_leaves_the_allocation_alone(bad: float) -> None:
    codec, strategy = make(256), ActNN()
    codec.observe_gradient(codec.encode(normal(8, 256)), normal(8, 3))
    codec.end_step()
    before = codec.sensitivities, codec.gradient
    codec.observe_gradient(codec.encode(normal(8, 256)), torch.full((8, 3), bad))
    codec.end_step()
    X = normal(8, 256)
    X[0, 0] = bad
    codec.observe_gradient(codec.encode(X), normal(8, 3))
    codec.end_step()
    assert (codec.sensitivities, codec.gradient) == before
    strategy.coordinate([use(codec, "a", 1, 8)])
    assert codec.bits == [2]


class Tied(nn.Module):
    """One wide layer and one narrow one, 25 times."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(64, 256)
        self.narrow = nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(25):
            x = x + self.narrow(F.silu(self.wide(x)))
        return x


def train(strategy: ActNN, dtype: torch.dtype, steps: int = 3) -> tuple[list[int], dict[str, float]]:
    """Saved bytes of each step, and the bits of each site."""
    torch.manual_seed(0)
    model = Tied().to(dtype)
    saved = []
    with compress(model, strategy) as session:
        for step in range(steps):
            x = normal(8, 32, 64, seed=step).to(dtype).requires_grad_()
            with session.step():
                model(x).square().mean().backward()
            saved.append(sum(site.kept_bytes for site in session.sites() if not site.reason))
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    return saved, {site.name: site.statistics["bits"] for site in session.sites() if not site.reason}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("samples", [1, 8])
def test_in_training_the_average_is_kept_and_sites_differ(dtype: torch.dtype, samples: int) -> None:
    fixed, _ = train(ActNN(bits=3, allocate=False), dtype)
    saved, bits = train(ActNN(bits=3, samples=samples), dtype)
    assert saved[0] == fixed[0]
    order = 25 * len(bits) * 4 * samples if samples > 1 else 0
    assert 0.75 * fixed[0] < saved[2] <= fixed[0] + order
    assert len(set(bits.values())) > 1


def test_a_budget_of_bytes_is_kept() -> None:
    (least, *_), _ = train(ActNN(bits=1, allocate=False), torch.float32, steps=1)
    budget = 5 * least // 2
    saved, bits = train(ActNN(samples=8, budget_bytes=budget), torch.float32)
    assert 0.9 * budget < saved[2] <= budget
    assert max(bits.values()) > 2
    with pytest.raises(SettingsError, match=rf"budget_bytes is 1000, and a step keeps {least} bytes at 1 bit"):
        train(ActNN(budget_bytes=1000), torch.float32)


@pytest.mark.parametrize("fields", [{"bits": 0.9}, {"bits": 8.1}, {"bits": 9}, {"samples": 0}, {"budget_bytes": 0}])
def test_fields_have_bounds(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        ActNN.model_validate(fields)


def test_what_needs_allocation_is_refused_without() -> None:
    with pytest.raises(ValueError, match=r"bits is 2\.5 with allocate: false"):
        ActNN(bits=2.5, allocate=False)
    with pytest.raises(ValueError, match="budget_bytes"):
        ActNN(allocate=False, budget_bytes=1000)
