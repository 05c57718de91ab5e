"""What holds for every strategy that ships, alone and in a chain."""

from __future__ import annotations

import copy
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
from torch._subclasses.fake_tensor import FakeTensorMode

from compbench import Codec, Compressor, Payload, Site
from compbench.chain import Chain

WIDTH = 24
RANK = 6
CALLS = 25

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
    codec = ARMS[arm].codec(Site("block.mlp", "mlp_24", WIDTH), torch.Generator().manual_seed(seed))
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


def tensors_within(thing: object, seen: set[int] | None = None) -> list[Tensor]:
    """Every tensor that an object's attributes lead to."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, (list, tuple)):
        parts = list(thing)
    elif isinstance(thing, dict):
        parts = list(thing.values())
    else:
        parts = list(getattr(thing, "__dict__", {}).values())
    return [tensor for part in parts for tensor in tensors_within(part, seen)]


@every_arm
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_in_their_shape_and_dtype(arm: str, dtype: torch.dtype) -> None:
    codec = make(arm)
    for step in range(4):
        rows = activations(step, dtype=dtype)
        decoded = codec.encode(rows).decode()
        assert decoded.shape == rows.shape
        assert decoded.dtype == dtype
        assert decoded.device == rows.device
        codec.end_step()


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
def test_every_call_of_a_step_decodes_to_what_it_encoded(arm: str) -> None:
    codec = make(arm)
    kept: list[tuple[Payload, Tensor]] = []
    for step in range(4):
        for call in range(CALLS):
            payload = codec.encode(activations(100 * step + call, rows=40))
            kept.append((payload, payload.decode().clone()))
        if step == 2:
            codec.discard_step()
        else:
            codec.end_step()
    for payload, decoded in kept:
        assert torch.equal(payload.decode(), decoded)
        assert torch.equal(payload.decode(), decoded)


@every_arm
def test_a_payload_declares_every_storage_that_it_keeps(arm: str) -> None:
    codec = make(arm)
    for step in range(3):
        payload = codec.encode(activations(step))
        declared = {tensor.untyped_storage()._cdata for tensor in payload.tensors()}
        assert {tensor.untyped_storage()._cdata for tensor in tensors_within(payload)} == declared
        codec.end_step()


@every_arm
@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_bytes_is_what_the_calls_of_a_step_keep(arm: str, dtype: torch.dtype) -> None:
    codec = warmed_up(arm, dtype=dtype)
    estimate = codec.kept_bytes(rows=48, calls=CALLS, itemsize=dtype.itemsize)
    payloads = [codec.encode(activations(call, rows=48, dtype=dtype)) for call in range(CALLS)]
    kept = unique_bytes(tensor for payload in payloads for tensor in payload.tensors())
    kept += sum(payload.opaque_bytes() for payload in payloads)
    assert estimate == (None if arm == "identity" else kept)


@every_arm
def test_compression_keeps_less_than_the_rows_once_it_is_warm(arm: str) -> None:
    codec = warmed_up(arm)
    rows = [activations(call, rows=400) for call in range(3)]
    payloads = [codec.encode(X) for X in rows]
    kept = unique_bytes(tensor for payload in payloads for tensor in payload.tensors())
    if ARMS[arm].exact or arm == "laser full rank":
        assert kept >= unique_bytes(rows)
    else:
        assert kept < 0.6 * unique_bytes(rows)


@every_arm
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_gradient_is_the_one_by_decoding(arm: str, dtype: torch.dtype) -> None:
    codec = make(arm)
    for step in range(3):
        rows = activations(step, dtype=dtype)
        grad_output = torch.randn(len(rows), 5, generator=torch.Generator().manual_seed(step)).to(dtype)
        payload = codec.encode(rows)
        by_decoding = grad_output.double().T @ payload.decode().double()
        gradient = payload.weight_gradient(grad_output)
        assert gradient.dtype == dtype
        tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}[dtype]
        assert (gradient.double() - by_decoding).norm() <= tolerance * by_decoding.norm()
        codec.end_step()


@every_arm
def test_coefficients_can_be_taken_out_and_put_back(arm: str) -> None:
    codec = warmed_up(arm)
    payload = codec.encode(activations(5))
    coefficients = payload.coefficients()
    if coefficients is None:
        assert codec.coefficient_width() is None
        with pytest.raises(TypeError, match="no coefficients"):
            payload.with_coefficients(None)
        return
    assert coefficients.shape == (64, codec.coefficient_width())
    rest = payload.with_coefficients(None)
    left = {tensor.untyped_storage()._cdata for tensor in rest.tensors()}
    assert coefficients.untyped_storage()._cdata not in left
    with pytest.raises(TypeError, match="kept elsewhere"):
        rest.decode()
    assert torch.equal(rest.with_coefficients(coefficients).decode(), payload.decode())


@every_arm
def test_the_global_generator_is_left_alone(arm: str) -> None:
    before = torch.random.get_rng_state()
    codec = make(arm)
    for step in range(4):
        for payload in run_step(codec, step):
            payload.decode()
    assert torch.equal(torch.random.get_rng_state(), before)


@every_arm
def test_the_same_seed_gives_the_same_payloads(arm: str) -> None:
    first, second = make(arm), make(arm)
    for step in range(4):
        for one, other in zip(run_step(first, step), run_step(second, step), strict=True):
            assert torch.equal(one.decode(), other.decode())


@pytest.mark.parametrize("arm", RANDOM)
def test_another_seed_gives_other_payloads(arm: str) -> None:
    rows = activations(0)
    assert not torch.equal(make(arm, 0).encode(rows).decode(), make(arm, 1).encode(rows).decode())


@every_arm
def test_a_discarded_step_leaves_no_trace(arm: str) -> None:
    plain, probed = make(arm), make(arm)
    for step in range(4):
        for call in range(2):
            probed.encode(5 * activations(900 + 10 * step + call))
        probed.discard_step()
        for one, other in zip(run_step(plain, step), run_step(probed, step), strict=True):
            assert torch.equal(one.decode(), other.decode())
    assert plain.statistics() == probed.statistics()


AWKWARD = {
    "one row": activations(0, rows=1),
    "fewer rows than the rank": activations(0, rows=3),
    "constant": torch.full((30, WIDTH), 2.5),
    "zeros": torch.zeros(30, WIDTH),
    "tiny": 1e-30 * activations(0),
    "huge": 1e15 * activations(0),
    "columns apart in memory": activations(0, rows=2 * WIDTH)[:WIDTH].T.contiguous().T,
}


@every_arm
@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_rows_are_encoded_at_any_time(arm: str, kind: str) -> None:
    rows = AWKWARD[kind]
    for warm in (False, True):
        codec = warmed_up(arm) if warm else make(arm)
        for _ in range(3):
            for _ in range(2):
                decoded = codec.encode(rows).decode()
                assert decoded.shape == rows.shape
                assert decoded.isfinite().all()
                if kind == "zeros":
                    assert not decoded.any()
            codec.end_step()
        assert codec.encode(activations(1)).decode().isfinite().all()


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


@pytest.mark.parametrize("arm", [arm for arm in ARMS if not ARMS[arm].exact])
def test_memory_of_the_rows_may_be_reused_once_they_are_encoded(arm: str) -> None:
    codec = warmed_up(arm)
    rows = activations(3)
    payload = codec.encode(rows)
    decoded = payload.decode().clone()
    rows.fill_(7.0)
    assert torch.equal(payload.decode(), decoded)


@every_arm
@pytest.mark.parametrize("warm", [False, True])
def test_encoding_never_asks_the_device(arm: str, warm: bool) -> None:
    codec = warmed_up(arm) if warm else make(arm)
    # A fake tensor has no values: reading one raises.
    with FakeTensorMode(allow_non_fake_inputs=True):
        for _ in range(3):
            rows = torch.randn(40, WIDTH)
            assert codec.encode(rows).decode().shape == rows.shape


@every_arm
def test_state_between_steps_stays_bounded(arm: str) -> None:
    codec = warmed_up(arm)
    run_step(codec, 3)
    few = unique_bytes(codec.state())
    assert few >= unique_bytes(tensors_within(codec)), "state() leaves out a tensor that the codec holds"
    for step in range(4, 20):
        run_step(codec, step)
    assert unique_bytes(codec.state()) <= few
    assert unique_bytes(tensors_within(codec)) <= few


@every_arm
def test_state_declares_what_is_held_within_a_step(arm: str) -> None:
    codec = make(arm)
    for step in range(3):
        codec.encode(activations(step))
        declared = {tensor.untyped_storage()._cdata for tensor in codec.state()}
        assert {tensor.untyped_storage()._cdata for tensor in tensors_within(codec)} == declared
        codec.end_step()


@every_arm
def test_a_strategy_can_be_written_down_and_made_again(arm: str) -> None:
    strategy = ARMS[arm]
    assert copy.deepcopy(strategy) == strategy
    if not isinstance(strategy, Chain):
        assert type(strategy)(**strategy.model_dump()) == strategy


@pytest.mark.parametrize("name", ["none", "identity", "laser", "lance", "gale", "loract", "int8"])
def test_a_plugin_gives_its_strategy_with_every_field_described(name: str) -> None:
    (strategy,) = importlib.import_module(f"compbench_plugins.{name}").compbench_compressors()
    assert issubclass(strategy, Compressor)
    assert strategy.name == name
    assert strategy.__doc__
    assert all(field.description and not field.is_required() for field in strategy.model_fields.values())
    strategy()


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
