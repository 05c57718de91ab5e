"""What must hold between what autograd saves and what its backward pass uses."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.compressor import Codec, Compressor, Dense, Payload
from compbench.errors import CaptureError, PluginError, UnsupportedError
from compbench.measure.live import LiveLedger
from tests.capture import zoo


def session_of(model: nn.Module, compressor: Compressor, **settings: object) -> Session:
    return Session(model, compressor, CaptureSettings(minimum_elements=64, **settings))


def lstm() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(32, 32, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]

    return Last()


def encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "recursive": (lambda: zoo.Recursive(calls=25), (4, 9, 32)),
    "recursive with dropout": (lambda: zoo.Recursive(calls=3, dropout=0.2), (4, 9, 32)),
    "mlp": (lambda: nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 8)), (40, 32)),
    "pre-norm encoder": (lambda: encoder(True), (4, 9, 32)),
    "post-norm encoder": (lambda: encoder(False), (4, 9, 32)),
    "lstm": (lstm, (4, 9, 32)),
    "residual": (zoo.Residual, (4, 3, 8, 8)),
}


def train(
    model: nn.Module, session: Session | None, x: Tensor, steps: int = 3, bf16: bool = False
) -> tuple[list[float], list[Tensor], Tensor]:
    """Losses, the last gradients and the state of torch's global generator after a few steps of SGD."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    with session or nullcontext():
        for _ in range(steps):
            optimizer.zero_grad()
            with session.step() if session else nullcontext():
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    output = model(x).float()
                    loss = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sin().mean()
                loss.backward()
            losses.append(loss.item())
            optimizer.step()
    return losses, [p.grad.clone() for p in model.parameters()], torch.get_rng_state()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("strategy", [zoo.Keep(), zoo.Copy(), zoo.Nothing()], ids=["keep", "copy", "nothing"])
@pytest.mark.parametrize("name", MODELS)
def test_exact_strategies_train_bit_identically_to_none(name: str, strategy: Compressor, bf16: bool) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(1)
    model = make()
    x = torch.randn(shape)
    plain = train(copy.deepcopy(model), None, x, bf16=bf16)
    kept = copy.deepcopy(model)
    # A strategy that copies has attention recomputed, with other kernels' rounding; literally it must be exact.
    under = train(kept, session_of(kept, strategy, attention="literal"), x, bf16=bf16)
    assert under[0] == plain[0]
    assert all(torch.equal(a, b) for a, b in zip(under[1], plain[1], strict=True))
    assert torch.equal(under[2], plain[2])


@pytest.mark.parametrize("name", MODELS)
def test_lossy_strategy_compresses_and_gradients_stay_near(name: str) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(1)
    model = make()
    x = torch.randn(shape)
    exact = train(copy.deepcopy(model), None, x, steps=1)[1]
    lossy = copy.deepcopy(model)
    session = session_of(lossy, zoo.Half())
    near = train(lossy, session, x, steps=1)[1]
    assert any(not site.reason for site in session.sites())
    for a, b in zip(exact, near, strict=True):
        assert F.cosine_similarity(a.double().flatten(), b.double().flatten(), 0) > 0.999


def alive_after_forward(session: Session, model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Bytes of storages that a forward made and that only autograd holds; and what the session reports."""
    with session, LiveLedger() as ledger, session.step():
        loss = model(x).square().mean()
        alive, reported = ledger.live_bytes, session.saved_bytes
        loss.backward()
        del loss
    return alive, reported


@pytest.mark.parametrize("strategy", [zoo.Keep(), zoo.Copy(), zoo.Half(), zoo.Nothing()], ids=lambda s: s.name)
@pytest.mark.parametrize("name", ["recursive", "mlp", "residual"])
def test_session_reports_the_bytes_that_are_really_alive(name: str, strategy: Compressor) -> None:
    make, shape = MODELS[name]
    model = make()
    x = torch.randn(shape)
    session = session_of(model, strategy)
    alive_after_forward(session, model, x)
    alive, reported = alive_after_forward(session, model, x)
    # Alive beyond what is saved: the loss itself. Saved but made before: the input, where an operator saves it.
    saves_input = x.nbytes if name in {"mlp", "residual"} else 0
    square_saves_output = 4
    gc.collect()
    assert alive - square_saves_output == reported - saves_input
    assert session.saved_bytes == 0


@pytest.mark.parametrize("calls", [4, 8])
def test_saved_bytes_are_the_unique_storages_and_grow_by_the_same_amount_a_call(calls: int) -> None:
    def saved(number: int) -> tuple[int, int]:
        torch.manual_seed(0)
        model = zoo.Recursive(calls=number)
        x = torch.randn(4, 9, 32)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        storages: dict[int, int] = {}
        kept: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            address = tensor.untyped_storage().data_ptr()
            if address not in weights:
                kept.append(tensor.detach())
                storages[address] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(x).square().mean().backward()
        session = session_of(model, zoo.Nothing())
        with session, session.step():
            loss = model(x).square().mean()
            reported = session.saved_bytes
            loss.backward()
        assert session.saved_bytes == 0
        return reported, sum(storages.values())

    reported, unique = saved(calls)
    assert reported == unique
    assert saved(calls + 1)[0] - reported == reported - saved(calls - 1)[0]


def test_25_calls_of_one_module_decode_to_what_each_encoded() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh())
    x = torch.randn(40, 32)
    session = session_of(model, zoo.Recording())
    with session, session.step():
        y, inputs = x.clone().requires_grad_() * 1.0, []
        for _ in range(25):
            inputs.append(y.detach().half().float())
            y = model(y)
        linear = zoo.CODECS["0/linear_32"]
        assert len(linear.encoded) == 1  # every further input is the output that tanh saved already
        y.sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    # The oracle: the chain rule, at the rounded values.
    weight_gradient = torch.zeros(32, 32)
    upstream = torch.ones(40, 32)
    with torch.no_grad():
        outputs = [*inputs[1:], y.detach().half().float()]
        for before, after in zip(reversed(inputs), reversed(outputs), strict=True):
            inner = upstream * (1 - after**2)
            weight_gradient += inner.T @ before
            upstream = inner @ model[0].weight
    torch.testing.assert_close(grads[0], weight_gradient, rtol=1e-4, atol=1e-5)


def test_one_storage_is_compressed_once_and_its_views_share_it() -> None:
    model = zoo.GatedMLP()
    session = session_of(model, zoo.Half())
    x = torch.randn(40, 32, requires_grad=True)
    with session, session.step():
        loss = model(x).sum()
        loss.backward()
    sites = {site.name: site for site in session.sites() if not site.reason}
    fused = sites["/gatedmlp_96"]  # gate and up are two views of it
    assert (fused.calls, fused.raw_bytes, fused.kept_bytes) == (1, 40 * 96 * 4, 40 * 96 * 2)


def test_what_was_compressed_is_freed() -> None:
    model = zoo.GatedMLP()
    x = torch.randn(40, 32, requires_grad=True)
    with session_of(model, zoo.Half()) as session, LiveLedger() as ledger, session.step():
        loss = model(x).sum()
        # gate_up 96 wide, silu(gate) 48 and their product 48, in 16 bits; the input is a leaf and stays.
        assert ledger.live_bytes - 4 == 40 * (96 + 48 + 48) * 2
        loss.backward()


def test_an_address_that_is_used_again_is_another_storage() -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(())
            for scale in (1.0, 2.0, 3.0):
                # The first product is freed before the second is made, and takes its place.
                total = total + (x * scale).square().mean()
            return total

    model = Squares()
    x = torch.randn(64, 32, requires_grad=True)
    with session_of(model, zoo.Copy()) as session, session.step():
        model(x).backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() * (1 + 4 + 9) / x.numel())


def test_parameters_buffers_and_cast_weights_are_never_compressed() -> None:
    model = zoo.Recursive(calls=3)
    weights = {tuple(p.shape) for p in model.parameters()} | {tuple(p.T.shape) for p in model.parameters()}
    x = torch.randn(5, 11, 32)
    session = session_of(model, zoo.Recording())
    with session, session.step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(x).float().square().mean()
        encoded = {tuple(rows.shape) for codec in zoo.CODECS.values() for rows in codec.encoded}
        loss.backward()
    assert encoded
    assert not encoded & weights
    copies = [site for site in session.sites() if site.reason == "copy of a weight"]
    assert sum(site.raw_bytes for site in copies) == sum(p.numel() * 2 for p in model.parameters())


def test_integers_and_tiny_tensors_stay_raw() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 32)

        def forward(self, index: Tensor) -> Tensor:
            return self.embedding(index).square().mean().exp()

    model = Picks()
    with session_of(model, zoo.Half()) as session, session.step():
        model(torch.arange(10).repeat(20)).backward()
    reasons = {site.dtype: site.reason for site in session.sites() if site.reason}
    assert "int64 is not real floating point" in reasons.values()
    assert "fewer than 64 elements" in reasons.values()


def test_a_site_that_would_not_save_stays_raw_and_says_so() -> None:
    class Greedy(Compressor):
        """Keeps more than there was."""

        name = "greedy"

        def codec(self, site, generator):
            class GreedyCodec(zoo.CopyCodec):
                def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
                    return calls * rows * site.width * itemsize

            return GreedyCodec()

    model = zoo.GatedMLP()
    with session_of(model, Greedy()) as session, session.step():
        model(torch.randn(40, 32) * torch.ones(1, requires_grad=True)).sum().backward()
    assert all(site.reason for site in session.sites())
    assert any("would keep 15360 of 15360 bytes" in site.reason for site in session.sites())


def attention_gradients(settings: str | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = zoo.Attention()
    with torch.no_grad():
        model.qkv.weight.mul_(6)  # sharp attention, as after training
    x = torch.randn(4, 9, 32)

    session = session_of(model, Coarse(), attention=settings) if settings else None
    with session or nullcontext(), session.step() if session else nullcontext():
        model(x).square().mean().backward()
    if settings == "raw":
        assert any(site.reason == "attention is left raw" for site in session.sites())
    return [p.grad.flatten().double() for p in model.parameters()]


def test_attention_is_recomputed_from_what_was_rebuilt() -> None:
    exact = attention_gradients(None)[0]
    error = {
        mode: (attention_gradients(mode)[0] - exact).norm() / exact.norm() for mode in ("recompute", "raw", "literal")
    }
    assert error["raw"] < error["recompute"] < error["literal"] / 2


def test_recomputed_attention_equals_autograd_where_nothing_is_lost() -> None:
    for options in ({}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.randn(9, 9)}):
        q, k, v = (torch.randn(2, 4, 9, 8, requires_grad=True) for _ in range(3))

        class Mixes(nn.Module):
            def forward(self, q: Tensor, k: Tensor, v: Tensor, options=options) -> Tensor:
                return F.scaled_dot_product_attention(q * 1, k * 1, v * 1, **options)

        exact = torch.autograd.grad(Mixes()(q, k, v).square().sum(), (q, k, v))
        model = Mixes()
        with session_of(model, zoo.Copy()) as session, session.step():
            recomputed = torch.autograd.grad(model(q, k, v).square().sum(), (q, k, v))
        for a, b in zip(exact, recomputed, strict=True):
            torch.testing.assert_close(a, b)


def test_attention_with_dropout_is_left_raw() -> None:
    model = zoo.Attention(dropout=0.5)
    with session_of(model, zoo.Half()) as session, session.step():
        model(torch.randn(4, 9, 32)).sum().backward()
    assert any(site.reason == "attention is left raw" for site in session.sites())


def test_gradient_accumulation_and_retained_graphs() -> None:
    model, x = zoo.Recursive(calls=3), torch.randn(4, 9, 32)

    def accumulate(session: Session | None) -> list[Tensor]:
        model.zero_grad()
        with session or nullcontext(), session.step() if session else nullcontext():
            first, second = model(x).square().mean(), model(2 * x).square().mean()
            (first + second).backward(retain_graph=True)
            first.backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = accumulate(None)
    for a, b in zip(plain, accumulate(session_of(model, zoo.Keep())), strict=True):
        assert torch.equal(a, b)


def test_an_exception_in_a_step_is_forgotten_and_the_next_step_is_clean() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    session = session_of(model, zoo.Recording())
    with session:
        with pytest.raises(ZeroDivisionError), session.step():
            raise ZeroDivisionError(model(x))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), session.step():
            model(torch.randn(40, 31))
        codec = zoo.CODECS["/gatedmlp_96"]
        assert (codec.discarded, codec.steps) == (1, 0)
        with session.step():
            model(x).sum().backward()
        assert codec.steps == 1
    assert session.saved_bytes == 0


def test_evaluation_without_gradients_needs_no_step_and_saves_nothing() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session:
        with session.step():
            model(x).sum().backward()
            with torch.no_grad():
                model(x)
        with torch.inference_mode():
            model(x)
    assert {site.calls for site in session.sites() if not site.reason} == {1}


def test_a_forward_with_gradients_outside_a_step_is_an_error() -> None:
    model = zoo.GatedMLP()
    with session_of(model, zoo.Half()), pytest.raises(CaptureError, match=r"session\.step\(\)"):
        model(torch.randn(40, 32))


def test_sessions_are_opened_once_and_steps_do_not_nest() -> None:
    session = session_of(zoo.GatedMLP(), zoo.Half())
    with pytest.raises(CaptureError, match="open session"), session.step():
        pass
    with session:
        with pytest.raises(CaptureError, match="open already"):
            session.__enter__()
        with session.step(), pytest.raises(CaptureError, match="has not ended"), session.step():
            pass


def test_nested_sessions_each_take_their_own_models_tensors() -> None:
    outer, inner = zoo.GatedMLP(), zoo.GatedMLP(inner=20)
    x = torch.randn(40, 32)
    first, second = session_of(outer, zoo.Half()), session_of(inner, zoo.Half())
    with first, second, first.step(), second.step():
        inner(outer(x)).sum().backward()
    assert "/gatedmlp_96" in {site.name for site in first.sites() if not site.reason}
    assert "/gatedmlp_40" not in {site.name for site in first.sites()}
    assert "/gatedmlp_40" in {site.name for site in second.sites() if not site.reason}
    assert "/gatedmlp_96" not in {site.name for site in second.sites()}


def test_a_probe_leaves_codecs_and_streams_as_they_were() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    session = session_of(model, zoo.Recording())
    with session:
        with session.probe():
            model(x).sum().backward()
        assert session.sites() == []
        with session.step():
            model(x).sum().backward()
        codec = zoo.CODECS["/gatedmlp_96"]
        with session.probe():
            model(x).sum().backward()
    assert (codec.steps, codec.discarded) == (1, 1)


@pytest.mark.parametrize("strategy", [zoo.Keep(), zoo.Nothing()], ids=["keep", "nothing"])
def test_changes_in_place_between_save_and_use_are_found(strategy: Compressor) -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = x * 2
            return y, y.square()

    model = Squares()
    with session_of(model, strategy) as session, session.step():
        y, z = model(torch.randn(40, 32, requires_grad=True))
        with torch.no_grad():
            y.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_regions_compress_their_inputs_alone(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = zoo.Recursive(calls=1)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = checkpoint(self.block, x, use_reentrant=reentrant)
            return x

    model = Checkpointed()
    x = torch.randn(4, 9, 32, requires_grad=True)
    model(x * 1).square().mean().backward()
    exact = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with session_of(model, zoo.Half()) as session, session.step():
        model(x * 1).square().mean().backward()
    for a, b in zip(exact, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=1e-4)
    assert not any("attn" in site.name or "mlp" in site.name for site in session.sites() if not site.reason)


def test_compiled_models_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"torch\.compile"):
        session_of(torch.compile(zoo.GatedMLP()), zoo.Half()).__enter__()
    model = zoo.GatedMLP()
    model.down.compile()
    with pytest.raises(UnsupportedError, match="'down' is compiled"):
        session_of(model, zoo.Half()).__enter__()


def test_a_payload_that_decodes_wrongly_or_hides_memory_is_named() -> None:
    class Wrong(zoo.HalfPayload):
        def decode(self) -> Tensor:
            return super().decode()[:-1]

    class Hidden(zoo.HalfPayload):
        def __init__(self, rows: Tensor) -> None:
            super().__init__(rows)
            self.extra = rows.numpy().copy()

    def strategy(payload: type[zoo.HalfPayload]) -> Compressor:
        class Bad(Compressor):
            """Breaks the contract."""

            name = "bad"

            def codec(self, site, generator):
                class BadCodec(Codec):
                    def encode(self, rows: Tensor) -> Payload:
                        return payload(rows)

                return BadCodec()

        return Bad()

    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, strategy(Wrong)) as session:
        with pytest.raises(PluginError, match=r"strategy 'bad' at site .*decode\(\) gave"), session.step():
            model(x).sum().backward()
    with session_of(model, strategy(Hidden)) as session:
        with pytest.raises(PluginError, match=r"bytes outside tensors and declares 0"), session.step():
            model(x).sum().backward()


def test_a_codec_that_hides_what_it_holds_is_named() -> None:
    class Hoards(Compressor):
        """Holds a tensor that it does not declare."""

        name = "hoards"

        def codec(self, site, generator):
            codec = zoo.HalfCodec()
            codec.cache = {"rows": torch.zeros(100)}
            return codec

    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, Hoards()) as session, pytest.raises(PluginError, match=r"'hoards' at site .* state\(\)"):
        with session.step():
            model(x).sum().backward()


def test_a_payload_that_leads_to_its_codecs_tensors_is_named() -> None:
    class Refers(Compressor):
        """Its payloads refer to the codec, which holds a basis."""

        name = "refers"

        def codec(self, site, generator):
            class RefersCodec(Codec):
                basis = None

                def encode(self, rows: Tensor) -> Payload:
                    self.basis = rows[:2].clone()
                    payload = zoo.HalfPayload(rows)
                    payload.codec = self
                    return payload

                def state(self):
                    return (self.basis,)

            return RefersCodec()

    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, Refers()) as session, pytest.raises(PluginError, match=r"tensors\(\) does not declare"):
        with session.step():
            model(x).sum().backward()


def test_deep_copies_of_the_model_made_inside_a_session_carry_nothing_of_it() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session, session.step():
        model(x).sum().backward()
        average = copy.deepcopy(model)
    assert not average._forward_hooks
    assert not average._forward_pre_hooks


def test_errors_at_linear_inputs_touch_the_weights_gradient_alone() -> None:
    model = zoo.Recursive(calls=2)
    with session_of(model, zoo.Half()) as session, session.step():
        model(torch.randn(4, 9, 32)).square().mean().backward()
    propagating = {site.name: site.propagating for site in session.sites() if not site.reason}
    assert propagating["mlp.down/mlp_48"] is False
    assert propagating["attn.qkv/attn_32"] is False
    assert propagating["mlp/mlp_96"] is True
    assert propagating["attn/attn_96"] is True


def test_second_derivatives_match_where_nothing_is_lost() -> None:
    model = zoo.Recursive(calls=2)
    x = torch.randn(2, 5, 32, requires_grad=True)

    def penalty(session: Session | None) -> list[Tensor]:
        with session or nullcontext(), session.step() if session else nullcontext():
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                (slope,) = torch.autograd.grad(model(x).square().mean(), x, create_graph=True)
                return list(torch.autograd.grad(slope.square().sum(), list(model.parameters())))

    for a, b in zip(penalty(None), penalty(session_of(model, zoo.Copy())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


class Coarse(Compressor):
    """Rounds to halves."""

    name = "coarse"

    def codec(self, site, generator):
        class CoarseCodec(Codec):
            def encode(self, rows: Tensor) -> Payload:
                return Dense((rows * 2).round() / 2)

        return CoarseCodec()


def test_multi_head_attention_modules_are_treated_like_attention_itself() -> None:
    def gradient(mode: str | None) -> Tensor:
        torch.manual_seed(0)
        model = nn.MultiheadAttention(32, 4, batch_first=True, bias=False)
        with torch.no_grad():
            model.in_proj_weight.mul_(6)
        x = torch.randn(4, 9, 32)
        session = session_of(model, Coarse(), attention=mode) if mode else None
        with session or nullcontext(), session.step() if session else nullcontext():
            model(x, x, x, need_weights=False)[0].square().mean().backward()
        if session is not None and mode == "raw":
            assert any(site.reason == "attention is left raw" for site in session.sites())
        return model.in_proj_weight.grad.flatten().double()

    exact = gradient(None)
    error = {mode: ((gradient(mode) - exact).norm() / exact.norm()).item() for mode in ("recompute", "raw", "literal")}
    assert error["raw"] < error["recompute"] < error["literal"] / 2
    assert F.scaled_dot_product_attention.__name__ == "scaled_dot_product_attention"


@pytest.mark.parametrize("shared", ["same", "dependent"])
def test_second_derivatives_of_attention_whose_operands_share_a_history(shared: str) -> None:
    class SelfAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            k = x * 1.0
            q, v = (k, k) if shared == "same" else (k * 2, k + 1)
            return F.scaled_dot_product_attention(q, k, v)

    model = SelfAttention()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)

    def curvature(session: Session | None) -> tuple[Tensor, Tensor]:
        with session or nullcontext(), session.step() if session else nullcontext():
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                (slope,) = torch.autograd.grad(model(x).pow(3).sum(), x, create_graph=True)
                return slope, torch.autograd.grad(slope.square().sum(), x)[0]

    for a, b in zip(curvature(None), curvature(session_of(model, zoo.Copy())), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bf16", [False, True])
def test_weights_that_are_computed_are_never_compressed(bf16: bool) -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ParameterList([nn.Parameter(torch.randn(16, 32)) for _ in range(3)])
            self.stack = nn.Parameter(torch.randn(2, 48, 48))

        def forward(self, x: Tensor) -> Tensor:
            y = F.linear(x, torch.cat(list(self.parts)))
            y = F.linear(y, self.stack.unbind(0)[1])
            weight = self.stack[0]
            return F.linear(y.tanh(), weight / weight.norm())

    model, x = Computed(), torch.randn(200, 32, requires_grad=True)
    with session_of(model, zoo.Recording()) as session, session.step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(x * 1).float().sum()
        assert {len(rows) for codec in zoo.CODECS.values() for rows in codec.encoded} <= {200}
        loss.backward()
    assert any(not site.reason for site in session.sites())


def test_failed_steps_and_probes_leave_what_later_steps_decide_by() -> None:
    class Shares(Compressor):
        """Pays only where a site has several calls."""

        name = "shares"

        def codec(self, site, generator):
            class SharesCodec(zoo.HalfCodec):
                def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
                    return rows * site.width * itemsize + 1

            return SharesCodec()

    model, x = zoo.Recursive(calls=4), torch.randn(4, 9, 32)
    session = session_of(model, Shares())

    def step() -> list[tuple[str, int, str]]:
        with session.step():
            model(x).square().mean().backward()
        return [(site.name, site.kept_bytes, site.reason) for site in session.sites()]

    with session:
        step()
        steady = step()
        with pytest.raises(ZeroDivisionError), session.step():
            raise ZeroDivisionError(model(x).mean())
        assert step() == steady
        model.calls = 1
        with session.probe():
            model(x).square().mean().backward()
        model.calls = 4
        assert [(site.name, site.kept_bytes, site.reason) for site in session.sites()] == steady
        assert step() == steady


def test_an_interrupted_forward_is_forgotten_by_the_next_step() -> None:
    class Interrupted(zoo.GatedMLP):
        stop = True

        def forward(self, x: Tensor) -> Tensor:
            if self.stop:
                raise KeyboardInterrupt
            return super().forward(x)

    model, x = Interrupted(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session:
        with pytest.raises(KeyboardInterrupt), session.step():
            model(x)
        model.stop = False
        with session.step():
            model(x).exp().sum().backward()
    assert "/loss_32" in {site.name for site in session.sites()}


def test_sparse_operands_pass_through() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 16)
            self.register_buffer("edges", torch.eye(40).to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(self.edges, self.layer(x))

    model, x = Graph(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session, session.step():
        model(x).square().sum().backward()
    assert model.layer.weight.grad is not None


def test_lazy_modules_must_have_run_once() -> None:
    with pytest.raises(CaptureError, match="run one forward first"):
        session_of(nn.Sequential(nn.LazyLinear(4)), zoo.Half())
