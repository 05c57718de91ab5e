"""What holds for every strategy that ships, alone and in a chain."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable

import pytest
import torch
from compbench_plugins.gale import Gale
from compbench_plugins.identity import Identity
from compbench_plugins.int8 import Int8
from compbench_plugins.lance import Lance
from compbench_plugins.laser import Laser
from compbench_plugins.loract import LoRAct
from torch import Tensor

from compbench import Codec, Compressor, Payload, Site
from compbench.chain import Chain
from compbench.testing import check_compressor

WIDTH = 24
RANK = 6
SITE = Site("block.mlp", "mlp_24", WIDTH)

ARMS: dict[str, Compressor] = {
    "identity": Identity(),
    "laser": Laser(rank=RANK),
    "laser per call": Laser(rank=RANK, basis="per_call"),
    "laser full rank": Laser(rank=WIDTH),
    "lance": Lance(rank=RANK),
    "lance energy": Lance(rank=10, energy=0.9),
    "lance later": Lance(rank=RANK, warmup=1),
    "gale call": Gale(rank=RANK, redraw="call"),
    "gale step": Gale(rank=RANK, redraw="step"),
    "gale never": Gale(rank=RANK, redraw="never"),
    "gale gaussian": Gale(rank=RANK, redraw="call", distribution="gaussian"),
    "loract": LoRAct(rank=RANK),
    "int8 row": Int8(),
    "int8 ragged group": Int8(granularity="group", group_size=10),
    "int8 tensor": Int8(granularity="tensor"),
    "int8 sigma": Int8(scale="sigma"),
    "int8 stochastic": Int8(stochastic=True),
    "laser+int8": Chain(members=(Laser(rank=RANK), Int8())),
    "lance+int8": Chain(members=(Lance(rank=RANK), Int8(granularity="tensor"))),
    "gale+int8": Chain(members=(Gale(rank=RANK, redraw="call"), Int8(stochastic=True))),
    "lance+laser+int8": Chain(members=(Lance(rank=2 * RANK), Laser(rank=RANK), Int8())),
}
RANDOM = ["gale call", "gale step", "gale never", "gale gaussian", "loract", "int8 stochastic", "gale+int8"]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]

every_arm = pytest.mark.parametrize("arm", ARMS)


def make(arm: str, seed: int = 0) -> Codec:
    codec = ARMS[arm].codec(SITE, torch.Generator().manual_seed(seed))
    assert codec is not None
    return codec


def activations(seed: int, rows: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows near a subspace of four dimensions, the same for all seeds."""
    subspace = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(77))
    generator = torch.Generator().manual_seed(1000 + seed)
    near = torch.randn(rows, 4, generator=generator) @ subspace
    return (near + 0.05 * torch.randn(rows, WIDTH, generator=generator)).to(dtype)


def run_step(codec: Codec, seed: int, calls: int = 3, dtype: torch.dtype = torch.float32) -> list[Payload]:
    payloads = [codec.encode(activations(100 * seed + call, dtype=dtype)) for call in range(calls)]
    codec.end_step()
    return payloads


def warmed_up(arm: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Codec:
    """A codec after the steps in which bases are made."""
    codec = make(arm, seed)
    for step in range(2):
        run_step(codec, step, dtype=dtype)
    return codec


def unique_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@every_arm
def test_the_contract_is_kept(arm: str) -> None:
    check_compressor(ARMS[arm], site=SITE)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if "gale" not in arm])
@pytest.mark.parametrize("dtype", DTYPES)
def test_low_rank_rows_are_rebuilt_closely(arm: str, dtype: torch.dtype) -> None:
    codec = make(arm)
    for step in range(4):
        rows = activations(step, dtype=dtype)
        error = (codec.encode(rows).decode() - rows).double().norm() / rows.double().norm()
        assert error < 0.05, f"step {step}"
        codec.end_step()


@every_arm
def test_compression_keeps_less_than_the_rows_once_it_is_warm(arm: str) -> None:
    codec = warmed_up(arm)
    rows = [activations(call, rows=400) for call in range(3)]
    assert (codec.kept_bytes(400, 3, 4) is None) == (arm == "identity")
    payloads = [codec.encode(X) for X in rows]
    kept = unique_bytes(tensor for payload in payloads for tensor in payload.tensors())
    if ARMS[arm].exact or arm == "laser full rank":
        assert kept >= unique_bytes(rows)
    else:
        assert kept < 0.6 * unique_bytes(rows)


@every_arm
def test_low_rank_payloads_leave_coefficients_to_others_and_say_where_they_are(arm: str) -> None:
    payload = warmed_up(arm).encode(activations(5))
    last = ARMS[arm].members[-1] if isinstance(ARMS[arm], Chain) else ARMS[arm]
    if isinstance(last, (Identity, Int8)):
        assert payload.coefficients() is None
        return
    with pytest.raises(TypeError, match="kept elsewhere"):
        payload.with_coefficients(None).decode()


@pytest.mark.parametrize("arm", RANDOM)
def test_another_seed_gives_other_payloads(arm: str) -> None:
    rows = activations(0)
    assert not torch.equal(make(arm, 0).encode(rows).decode(), make(arm, 1).encode(rows).decode())


@every_arm
def test_a_discarded_step_leaves_no_trace_even_in_random_streams(arm: str) -> None:
    # The contract lets a probe put the generators back; the shipped strategies do not need it.
    plain, probed = make(arm), make(arm)
    for step in range(4):
        for call in range(2):
            probed.encode(5 * activations(900 + 10 * step + call))
        probed.discard_step()
        for one, other in zip(run_step(plain, step), run_step(probed, step), strict=True):
            assert torch.equal(one.decode(), other.decode())
    assert plain.statistics() == probed.statistics()


@every_arm
def test_zeros_come_back_as_zeros(arm: str) -> None:
    for codec in (make(arm), warmed_up(arm)):
        assert not codec.encode(torch.zeros(30, WIDTH)).decode().any()


@every_arm
def test_a_step_of_zeros_does_not_spoil_a_basis(arm: str) -> None:
    codec, untouched = warmed_up(arm), warmed_up(arm)
    codec.encode(torch.zeros(10, WIDTH))
    codec.end_step()
    untouched.encode(activations(1, rows=10))
    untouched.end_step()
    rows = activations(8)

    def error(codec: Codec) -> float:
        return float((codec.encode(rows).decode() - rows).norm() / rows.norm())

    assert error(codec) < 1.5 * error(untouched) + 1e-6


@every_arm
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_is_not_finite_never_becomes_finite(arm: str, bad: float, dtype: torch.dtype) -> None:
    for warm in (False, True):
        codec = warmed_up(arm, dtype=dtype) if warm else make(arm)
        rows = activations(3, dtype=dtype)
        rows[7, 2] = bad
        decoded = codec.encode(rows).decode()
        if ARMS[arm].exact or codec.encode(rows).tensors()[0] is rows:  # kept as it is
            assert torch.equal(decoded.isfinite(), rows.isfinite())
        else:
            spoilt = decoded[7, :10] if "group" in arm else decoded[7]
            assert not spoilt.isfinite().any()
        codec.end_step()


@every_arm
@pytest.mark.parametrize("warm", [False, True])
def test_later_steps_recover_from_rows_that_are_not_finite(arm: str, warm: bool) -> None:
    codec = warmed_up(arm) if warm else make(arm)
    rows = activations(3)
    rows[7, 2] = math.nan
    codec.encode(rows)
    codec.encode(activations(4))
    codec.end_step()
    for step in range(4, 7):
        run_step(codec, step)
    rows = activations(9)
    decoded = codec.encode(rows).decode()
    assert decoded.isfinite().all()
    if "gale" not in arm:
        assert (decoded - rows).norm() < 0.05 * rows.norm()


@pytest.mark.parametrize("name", ["none", "identity", "laser", "lance", "gale", "loract", "int8"])
def test_a_plugin_gives_its_strategy(name: str) -> None:
    (strategy,) = importlib.import_module(f"compbench_plugins.{name}").compbench_compressors()
    assert issubclass(strategy, Compressor)
    assert strategy.name == name


@pytest.mark.parametrize("name", ["laser", "lance", "gale", "loract"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "many"])
def test_a_rank_must_be_a_positive_integer(name: str, value: object) -> None:
    (strategy,) = importlib.import_module(f"compbench_plugins.{name}").compbench_compressors()
    with pytest.raises(ValueError, match="rank"):
        strategy(rank=value)


def test_none_leaves_every_site_to_autograd() -> None:
    (strategy,) = importlib.import_module("compbench_plugins.none").compbench_compressors()
    assert strategy.exact
    assert strategy().codec(Site("block", "mlp_24", WIDTH), torch.Generator()) is None


def test_identity_keeps_the_rows_themselves() -> None:
    rows = activations(0)
    assert make("identity").encode(rows).tensors()[0] is rows
