"""Attention under compression: recomputed from what was rebuilt, or left alone."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench.capture.session import Session
from compbench.compressor import Codec, Compressor, Dense, Payload
from tests.capture import zoo
from tests.capture.zoo import session_of


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


@pytest.mark.filterwarnings("ignore::compbench.errors.CaptureWarning")
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


class Coarse(Compressor):
    """Rounds to halves."""

    name = "coarse"

    def codec(self, site, generator):
        class CoarseCodec(Codec):
            def encode(self, rows: Tensor) -> Payload:
                return Dense((rows * 2).round() / 2)

        return CoarseCodec()


@pytest.mark.filterwarnings("ignore::compbench.errors.CaptureWarning")
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
