"""``kernels: compiled`` against eager: the same codes, the same random numbers, and eager where it can't be."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from compbench_plugins import _kernels
from compbench_plugins.actnn import ActNN, ActNNCodec
from compbench_plugins.fp8 import Fp8
from compbench_plugins.int8 import Int8
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from compbench import Codec, Compressor, Payload, Site, compress
from compbench.errors import CaptureWarning
from compbench.measure.live import LiveLedger

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler, and so nothing that compiles kernels"
)

ARMS: dict[str, Compressor] = {
    "int8": Int8(),
    "int8 by group": Int8(granularity="group", group_size=16),
    "int8 at random": Int8(stochastic=True),
    "fp8": Fp8(),
    "actnn": ActNN(bits=3),
    "actnn for 4 samples": ActNN(samples=4),
}
FURTHER = {"int8 by sigma": Int8(scale="sigma"), "fp8 e5m2": Fp8(format="e5m2"), "actnn of 8 bits": ActNN(bits=8)}


def make(strategy: Compressor, width: int, kernels: str) -> Codec:
    strategy = strategy.model_copy(update={"kernels": kernels})
    codec = strategy.codec(Site("block.mlp", "mlp", width), torch.Generator().manual_seed(0))
    assert codec is not None
    if isinstance(codec, ActNNCodec) and codec.settings.samples == 4:
        codec.bits = [7, 3, 3, 1]
    return codec


def normal(rows: int, width: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def same(one: Payload, other: Payload) -> bool:
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


def agree(strategy: Compressor, rows: int, width: int, seed: int, dtype: torch.dtype = torch.float32) -> None:
    """Two calls, so that streams of random numbers are seen to advance alike."""
    eager, compiled = make(strategy, width, "eager"), make(strategy, width, "compiled")
    for call in range(2):
        X = normal(rows, width, seed + call, dtype) * 10.0 ** (call - seed % 7)
        expected, payload = eager.encode(X), compiled.encode(X)
        assert same(payload, expected)
        assert torch.equal(payload.decode(), expected.decode())
        assert payload.decode().dtype == dtype


@needs_compiler
@pytest.mark.parametrize("arm", ARMS)
@settings(max_examples=20)
@given(rows=st.integers(1, 40), width=st.integers(1, 20).map(lambda n: 16 * n), seed=st.integers(0, 1000))
def test_codes_are_those_of_eager_kernels_bit_for_bit(arm: str, rows: int, width: int, seed: int) -> None:
    agree(ARMS[arm], rows, width, seed)


@needs_compiler
@pytest.mark.parametrize("arm", ["fp8 e5m2", "actnn of 8 bits"])
def test_codes_are_those_of_eager_kernels_in_further_settings(arm: str) -> None:
    for rows in (8, 33):
        agree(FURTHER[arm], rows, 256, 0)


@needs_compiler
@pytest.mark.parametrize("arm", ["int8", "fp8"])
def test_codes_of_half_precision_rows_are_those_of_eager_kernels(arm: str) -> None:
    agree(ARMS[arm], 20, 64, 0, torch.bfloat16)


@needs_compiler
def test_codes_from_sums_differ_by_one_at_most() -> None:
    X = normal(200, 192, 0)
    X[:, 0] = 50
    eager, compiled = (make(FURTHER["int8 by sigma"], 192, kernels).encode(X) for kernels in ("eager", "compiled"))
    assert (eager.tensors()[0].int() - compiled.tensors()[0].int()).abs().max() <= 1
    assert torch.allclose(eager.tensors()[1], compiled.tensors()[1], rtol=1e-6)


@needs_compiler
def test_no_site_has_kernels_of_its_own() -> None:
    for strategy in (ARMS["int8"], ARMS["fp8"], ARMS["actnn"]):
        agree(strategy, 32, 64, 0)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    for rows, width in ((64, 64), (7, 512), (100, 192), (192, 100), (256, 256)):
        for strategy in (ARMS["int8"], ARMS["fp8"], ARMS["actnn"]):
            agree(strategy, rows, width, 0)
    assert counters["stats"]["unique_graphs"] == graphs


def spoilt(strategy: Compressor, bad: float) -> tuple[Tensor, Tensor]:
    X = normal(4, 256, 0)
    X[1, 3] = bad
    decoded = make(strategy, 256, "compiled").encode(X).decode()
    return decoded[1], decoded[[0, 2, 3]]


@needs_compiler
@pytest.mark.parametrize("arm", ["int8", "fp8", "actnn"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_spoilt_row_is_not_finite_and_spoils_no_other(arm: str, bad: float) -> None:
    row, others = spoilt(ARMS[arm], bad)
    assert not row.isfinite().any()
    assert others.isfinite().all()


# -------------------------------------------------------------------- where kernels are eager


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """In the place of torch's: notes what it is asked for, and can't do it."""
    asked: list[str] = []

    def compile_nothing(function: Callable[..., Any], **_: object) -> None:
        asked.append(function.__name__)
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    _kernels._compiled.cache_clear()
    _kernels._tell.cache_clear()
    yield asked
    _kernels._compiled.cache_clear()
    _kernels._tell.cache_clear()


@pytest.mark.parametrize("arm", ARMS)
def test_a_compiler_that_fails_is_told_once_and_asked_once(arm: str, compiler: list[str]) -> None:
    with pytest.warns(CaptureWarning, match="kernels are eager: RuntimeError: no compiler here") as told:
        agree(ARMS[arm], 8, 256, 0)
    assert len(told) == 1
    assert len(compiler) == len(set(compiler))


def encode_and_decode() -> None:
    for strategy in ARMS.values():
        make(strategy, 256, "compiled").encode(torch.ones(8, 256)).decode()


def test_nothing_is_compiled_where_it_would_not_be_seen_or_not_be_meant(compiler: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with LiveLedger():
            encode_and_decode()
        with FakeTensorMode():
            rows = torch.ones(8, 256)
        assert type(make(Int8(), 256, "compiled").encode(rows).decode()) is not Tensor
        with torch.device("cpu"):  # a function mode
            encode_and_decode()
        torch.use_deterministic_algorithms(True)
        try:
            encode_and_decode()
        finally:
            torch.use_deterministic_algorithms(False)
        make(Int8(), 256, "compiled").encode(torch.ones(1, 256)).decode()
        make(Int8(granularity="tensor"), 256, "compiled").encode(torch.ones(8, 256)).decode()
        make(Int8(), 8, "compiled").encode(torch.ones(8, 256).T[:, :8]).decode()
        make(Int8(), 256, "eager").encode(torch.ones(8, 256)).decode()
    assert not compiler


@needs_compiler
@pytest.mark.parametrize("name", ["int8", "fp8", "actnn"])
def test_training_in_a_session_is_the_same_and_compiles(name: str) -> None:
    _kernels._compiled.cache_clear()

    def gradient(kernels: str) -> Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 192), torch.nn.SiLU(), torch.nn.Linear(192, 64))
        with compress(model, name, kernels=kernels) as session, session.step():
            model(normal(64, 64, 0)).square().mean().backward()
        gradient = model[0].weight.grad
        assert gradient is not None
        return gradient

    assert torch.equal(gradient("eager"), gradient("compiled"))
    assert _kernels._compiled.cache_info().currsize >= 2  # one for encoding, one for decoding
