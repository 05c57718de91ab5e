"""gist: formats against NumPy, the sparse form on what a ReLU leaves, and gradients and bytes of a residual network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compbench_plugins.gist import Gist, GistCodec
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compbench import Codec, Compressor, Payload, Site
from compbench.capture.session import Session
from compbench.testing import parametrize_with_checks
from tests.capture.zoo import Residual, session_of

WIDTH = 24
HEADROOM = 0.1
BITS = {"fp16": (10, 65504.0), "fp10": (4, 63488.0), "fp8": (3, 448.0)}
SMALLEST_NORMAL = {"fp16": 2.0**-14, "fp10": 2.0**-14, "fp8": 2.0**-6}


def make(width: int = WIDTH, **fields: object) -> Codec:
    codec = Gist.model_validate(fields).codec(Site("block", "block_24", width), torch.Generator().manual_seed(0))
    assert codec is not None
    return codec


def rows(seed: int, number: int = 40, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(number, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def positive(seed: int, number: int = 40, dtype: torch.dtype = torch.float32, share: float = 0.5) -> Tensor:
    """What a ReLU leaves, with exactly this share of its elements not zero."""
    order = torch.randperm(number * WIDTH, generator=torch.Generator().manual_seed(seed))
    x = torch.zeros(number * WIDTH, dtype=dtype)
    x[order[: round(share * number * WIDTH)]] = 1.0
    return x.view(number, WIDTH) * (rows(seed, number, dtype).abs() + 0.5)


def sparse_codec(share: float = 0.5, **fields: object) -> GistCodec:
    """A codec whose last step had this share of elements that are not zero."""
    codec = make(**fields)
    assert isinstance(codec, GistCodec)
    codec.encode(positive(1, share=share))
    codec.end_step()
    return codec


def kept(payload: Payload) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in payload.tensors())


class BehindReLU(Compressor):
    """gist, and rows whose negative elements are zero before it sees them; what is not finite stays."""

    name = "gist_behind_relu"
    gist: Gist = Field(Gist(), description="the strategy that is tried")

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        codec = self.gist.codec(site, generator)
        assert isinstance(codec, GistCodec)
        inner = type(codec).encode

        class Behind(GistCodec):
            def encode(self, X: Tensor) -> Payload:
                return inner(self, torch.where((X > 0) | ~X.isfinite(), X, 0.0))

        codec.__class__ = Behind
        return codec


CHECKED = [
    Gist(precision="fp16"),
    Gist(precision="fp8"),
    Gist(precision="full"),
    Gist(binarize=("block*",)),
    BehindReLU(),
    BehindReLU(gist=Gist(precision="full")),
    BehindReLU(gist=Gist(precision="fp16", headroom=0.0)),
]


@parametrize_with_checks(CHECKED)
def test_the_contract_is_kept(check) -> None:
    check()


def nearest(x: NDArray[np.float64], precision: str) -> NDArray[np.float64]:
    """The nearest number of a format, saturating: by the grid of the binade in which the element lies."""
    mantissa, largest = BITS[precision]
    magnitude = np.maximum(np.abs(x), SMALLEST_NORMAL[precision])
    step = 2.0 ** (np.floor(np.log2(magnitude)) - mantissa)
    return np.clip(np.round(x / step) * step, -largest, largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("precision", ["fp16", "fp10", "fp8"])
def test_numbers_are_the_nearest_of_the_format(precision: str, dtype: torch.dtype) -> None:
    X = rows(0, 200).double() * 10 ** torch.linspace(-6, 4, WIDTH, dtype=torch.float64)
    codec = make(precision=precision)
    for step in range(2):
        Y = (X + step).to(dtype)
        if precision == "fp10":  # which is rounded by way of float16
            Y = Y.to(torch.float16).to(dtype)
        decoded = codec.encode(Y).decode()
        np.testing.assert_array_equal(decoded.double().numpy(), nearest(Y.double().numpy(), precision))
        codec.end_step()


@pytest.mark.parametrize("precision", ["fp16", "fp10", "fp8"])
def test_what_is_above_the_largest_number_becomes_it_and_what_is_not_finite_becomes_nan(precision: str) -> None:
    largest = BITS[precision][1]
    X = torch.zeros(4, WIDTH)
    X[0, :5] = torch.tensor([1e9, -1e9, math.nan, math.inf, -math.inf])
    X[1, :3] = torch.tensor([largest, -largest, 1e-30])
    decoded = make(precision=precision).encode(X).decode()
    assert decoded[0, :2].tolist() == decoded[1, :2].tolist() == [largest, -largest]
    assert decoded[0, 2:5].isnan().all()
    assert decoded[1, 2] == 0


@pytest.mark.parametrize(
    ("dtype", "precision", "each"),
    [
        (torch.float32, "fp16", 2),
        (torch.float32, "fp10", 4 / 3),
        (torch.float32, "fp8", 1),
        (torch.bfloat16, "fp10", 4 / 3),
        (torch.bfloat16, "fp8", 1),
        (torch.float64, "fp16", 2),
    ],
)
def test_bytes_are_those_of_the_format(dtype: torch.dtype, precision: str, each: float) -> None:
    codec = make(precision=precision)
    for step in range(3):
        payload = codec.encode(rows(step, 41, dtype))
        assert kept(payload) == codec.kept_bytes(41, 1, dtype.itemsize) == math.ceil(41 * WIDTH * each)
        codec.end_step()


@pytest.mark.parametrize(("precision", "dtype"), [("full", torch.float32), ("fp16", torch.bfloat16)])
def test_where_nothing_is_gained_rows_are_left_alone_once_that_is_known(precision: str, dtype: torch.dtype) -> None:
    codec = make(precision=precision)
    assert codec.kept_bytes(40, 1, dtype.itemsize) is None
    X = rows(0, dtype=dtype)
    assert torch.equal(codec.encode(X).decode(), X)
    codec.end_step()
    assert codec.kept_bytes(40, 3, dtype.itemsize) == 3 * X.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_sparse_form_is_exact_with_full_precision(dtype: torch.dtype) -> None:
    codec = sparse_codec(precision="full")
    payloads = []
    for call in range(25):
        X = positive(call + 2, 40 + call, dtype, share=0.4 + 0.008 * call)
        X[3, :4] = -X[3, :4]
        payloads.append((codec.encode(X), X))
    for payload, X in payloads:
        assert torch.equal(payload.decode(), X)
    codec.end_step()
    assert codec.statistics() == {"overflows": 0, "nonzero": pytest.approx(0.592, abs=1e-3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("precision", "each"), [("full", None), ("fp16", 2), ("fp10", 4 / 3)])
@pytest.mark.parametrize("share", [0.03, 0.25, 0.5, 0.8, 1.0])
def test_bytes_are_a_bit_an_element_and_the_room_or_the_format_if_that_is_less(
    share: float, precision: str, each: float | None, dtype: torch.dtype
) -> None:
    codec = sparse_codec(share=share, precision=precision)
    n, itemsize = 40 * WIDTH, dtype.itemsize
    size = itemsize if each is None else min(each, itemsize)
    room = math.ceil(min(1.0, round(share * n) / n + HEADROOM) * n)
    values = 4 * math.ceil(room / 3) if size == 4 / 3 else room * size
    dense = 4 * math.ceil(n / 3) if size == 4 / 3 else n * size
    expected = min(max(values + n // 8, n) + 1, dense)
    payload = codec.encode(positive(3, dtype=dtype, share=share))
    found = codec.kept_bytes(40, 1, itemsize)
    assert found == pytest.approx(expected, abs=2 * size + 4)  # a rounding of the share may give one element more
    assert kept(payload) == found


@pytest.mark.parametrize("precision", ["full", "fp16", "fp10"])
def test_a_call_that_does_not_fit_is_kept_as_fp8_in_the_same_bytes_and_counted(precision: str) -> None:
    codec = sparse_codec(share=0.3, precision=precision)
    fits, full, half = positive(5, share=0.38), rows(6) * 100, positive(7, share=0.45)
    payloads = [codec.encode(X) for X in (fits, full, half)]
    assert len({kept(payload) for payload in payloads}) == 1
    tolerance = {"full": 0.0, "fp16": 2.0**-11, "fp10": 2.0**-5 + 2.0**-11}[precision]
    assert torch.allclose(payloads[0].decode(), fits, rtol=tolerance, atol=0)
    for payload, X in zip(payloads[1:], (full, half), strict=True):
        np.testing.assert_array_equal(payload.decode().numpy(), nearest(X.double().numpy(), "fp8"))
    codec.end_step()
    assert codec.statistics() == {"overflows": 2, "nonzero": 1.0}
    assert torch.allclose(codec.encode(half).decode(), half, rtol=tolerance, atol=0)  # and there is room the next time


def test_overflows_are_counted_over_all_steps() -> None:
    codec = sparse_codec(share=0.3)
    for step, share in enumerate((0.45, 0.6, 0.6)):
        codec.encode(positive(step, share=share))
        codec.end_step()
    assert codec.statistics()["overflows"] == 2


def test_a_discarded_step_neither_counts_nor_decides() -> None:
    codec = sparse_codec(share=0.3)
    before = codec.statistics()
    codec.encode(rows(0))
    codec.discard_step()
    codec.end_step()
    assert codec.statistics() == before
    assert list(codec.state()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_spoilt_call_does_not_decide(bad: float) -> None:
    codec = sparse_codec(share=0.3)
    codec.encode(torch.full((40, WIDTH), bad))
    codec.end_step()
    assert codec.statistics()["nonzero"] == pytest.approx(0.3)
    assert not codec.encode(torch.full((40, WIDTH), bad)).decode().isfinite().any()


def test_the_sparse_form_reads_no_value_on_the_host() -> None:
    codec = sparse_codec()
    with FakeTensorMode(allow_non_fake_inputs=True):
        payload = codec.encode(torch.empty(40, WIDTH))
        assert payload.decode().shape == (40, WIDTH)
        assert kept(payload) < 40 * WIDTH * 4 / 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bit_an_element_says_which_are_positive(dtype: torch.dtype) -> None:
    codec = make(binarize="block_*")
    X = rows(0, 41, dtype)
    X[0] = 0.0
    payload = codec.encode(X)
    assert torch.equal(payload.decode(), (X > 0).to(dtype))
    assert kept(payload) == codec.kept_bytes(41, 1, dtype.itemsize) == 41 * WIDTH // 8 + dtype.itemsize


def test_binarize_chooses_sites_by_patterns_that_can_be_read() -> None:
    assert isinstance(make(binarize=["*.mlp"]), GistCodec)
    assert isinstance(make(binarize=[]), GistCodec)
    assert not isinstance(make(binarize=["*.mlp", 24]), GistCodec)
    with pytest.raises(ValueError, match="binarize"):
        Gist(binarize=(" x",))


def gradients(
    model: nn.Module, x: Tensor, strategy: Gist | None, steps: int = 3
) -> tuple[list[Tensor], Session | None]:
    """The gradients of the last of some steps on the same batch."""
    session = None if strategy is None else session_of(model, strategy, routes="hooks")  # to the bit
    if session is None:
        model(x).square().sum().backward()
    else:
        with session:
            for _ in range(steps):
                model.zero_grad()
                with session.step():
                    model(x).square().sum().backward()
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return found, session


def residual() -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = Residual()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        model.norm.weight.fill_(1.0)
    return model, torch.randn(8, 3, 12, 12, generator=generator)


@pytest.mark.parametrize("binarize", [(), ("residual_16#1",)])
def test_a_residual_network_trains_exactly_with_its_zeros_for_one_bit(binarize: tuple[str, ...]) -> None:
    model, x = residual()
    exact, _ = gradients(model, x, None)
    # The last ReLU's output goes to a mean, so that only its own gradient needs it; the first one's also to a
    # convolution.
    found, session = gradients(model, x, Gist(precision="full", binarize=binarize))
    assert all(torch.equal(one, other) for one, other in zip(exact, found, strict=True))
    assert session is not None
    sites = {site.name: site for site in session.sites()}
    first, last = sites["/residual_16"], sites["/residual_16#1"]
    n = 8 * 16 * 12 * 12
    assert first.raw_bytes == last.raw_bytes == 4 * n
    assert 0.5 * first.raw_bytes < first.kept_bytes < 0.75 * first.raw_bytes
    if binarize:
        assert last.kept_bytes == n // 8 + 4
    else:
        assert last.kept_bytes < last.raw_bytes


def test_binarizing_what_a_convolution_saves_changes_its_gradient() -> None:
    model, x = residual()
    exact, _ = gradients(model, x, None)
    found, _ = gradients(model, x, Gist(precision="full", binarize=("residual_16#0",)))
    assert not all(torch.allclose(one, other, rtol=0.1) for one, other in zip(exact, found, strict=True))


@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.9999), ("fp10", 0.995), ("fp8", 0.99)])
def test_shorter_numbers_change_the_gradient_of_a_residual_network_little(precision: str, least: float) -> None:
    model, x = residual()
    exact, _ = gradients(model, x, None)
    found, session = gradients(model, x, Gist(precision=precision))
    one, other = (torch.cat([gradient.flatten() for gradient in each]) for each in (exact, found))
    assert F.cosine_similarity(one, other, dim=0) > least
    assert session is not None
    saved = {site.name: site.kept_bytes / site.raw_bytes for site in session.sites()}
    assert saved["/residual_16"] < {"fp16": 0.45, "fp10": 0.26, "fp8": 0.26}[precision]


def test_relu_before_max_pooling_is_exact_with_one_bit() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(F.relu(self.conv(x)), 2).square()

    torch.manual_seed(0)
    model, x = Pooled(), torch.randn(8, 3, 12, 12)
    exact, _ = gradients(model, x, None)
    found, session = gradients(model, x, Gist(precision="full", binarize=("pooled_16#0",)))
    assert session is not None
    assert session.sites()
    binary = [site for site in session.sites() if site.name == "/pooled_16" and site.kept_bytes < site.raw_bytes / 30]
    assert binary, [site.name for site in session.sites()]
    assert all(torch.equal(one, other) for one, other in zip(exact, found, strict=True))
