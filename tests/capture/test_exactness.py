"""Training under strategies that lose nothing equals training without, and lossy ones stay near."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench.capture.session import Session
from compbench.compressor import Compressor
from tests.capture import zoo
from tests.capture.zoo import session_of


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
