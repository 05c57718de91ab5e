"""Nothing that a model does to what the session's own operators give or take makes their gradients others than torch's.

The oracle is plain autograd in fp64: the strategy loses nothing, and is not known to.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench import Codec, Compressor, Payload, Site, compress
from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings


class Rotated(Payload):
    """Rows as ``Z Q^T`` with a whole orthonormal basis, of which the last column counts for nothing in ``rank``."""

    def __init__(self, rows: Tensor, basis: Tensor) -> None:
        self.coefficients_, self.basis = rows @ basis, basis

    def decode(self) -> Tensor:
        return self.coefficients_ @ self.basis.T

    def rank(self) -> int:
        return max(len(self.basis) - 1, 0)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.coefficients_, self.basis

    def tensors(self) -> tuple[Tensor, ...]:
        return self.coefficients_, self.basis


class RotatedCodec(Codec):
    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(width)
        self.basis = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q

    def encode(self, rows: Tensor) -> Payload:
        return Rotated(rows, self.basis)

    def state(self) -> tuple[Tensor, ...]:
        return (self.basis,)


class Rotate(Compressor):
    """Loses nothing but rounding, which nobody is told."""

    name = "rotate"

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        return RotatedCodec(site.width)


class Reversal(torch.autograd.Function):
    """Its values are its input's, and lie in the same memory; its gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Model(nn.Module):
    """Some layers, and a function that uses them."""

    def __init__(self, use: Callable[[Model, Tensor], Tensor]) -> None:
        super().__init__()
        self.use = use
        self.wide, self.narrow = nn.Linear(8, 24), nn.Linear(24, 8)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.square, self.conv = nn.Linear(12, 12), nn.Conv1d(8, 8, 3, padding=1)
        self.shape = nn.Parameter(torch.randn(8, 16))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x * 1)


Use = Callable[[Model, Tensor], Tensor]


def _gated(model: Model, both: Tensor, watch: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    gate, up = both.chunk(2, dim=-1)
    return model.down(watch(F.silu(watch(gate))) * watch(up))


def _tripled(x: Tensor) -> Tensor:
    x.register_hook(lambda gradient: 3 * gradient)
    return x


def _as_two_shapes(model: Model, x: Tensor) -> Tensor:
    # The same memory in the same shape, read in two orders.
    x = model.down(model.up(x))
    one = F.silu(F.linear(x, model.shape.view(16, 8)))
    return one * F.silu(F.linear(x, model.shape.t())).sin()


def _depending(model: Model, x: Tensor) -> Tensor:
    gate = model.gate(x)
    return F.silu(gate) * model.square(gate)


def _swish(model: Model, x: Tensor) -> Tensor:
    gate = model.gate(x)
    return F.silu(gate) * gate


USES: dict[str, Use] = {
    "relu_ on a layer's output": lambda m, x: m.narrow(F.elu(m.wide(x), inplace=True)),
    "mul_ on a layer's output": lambda m, x: m.up(x).mul_(F.silu(m.gate(x))),
    "elements of a layer's output": lambda m, x: m.narrow(m.wide(x).index_fill_(-1, torch.tensor([0]), 0.0)),
    "reversal of the gradient": lambda m, x: _gated(m, Reversal.apply(F.linear(x, m.wide.weight))),
    "hooks on tensors": lambda m, x: _gated(m, m.wide(x), _tripled),
    "a bias for each row": lambda m, x: m.narrow(F.linear(x, m.wide.weight, x.cumsum(-1).repeat(1, 1, 3))),
    "a weight in two shapes": _as_two_shapes,
}
TWICE: dict[str, Use] = {
    "tied convolution": lambda m, x: m.conv(torch.tanh(m.conv(x.transpose(1, 2)))),
    "up of the gate": _depending,
    "gate and up the same": _swish,
    "halves": lambda m, x: _gated(m, m.wide(x)),
}


def _session(model: nn.Module) -> Session:
    return Session(model, Rotate(), CaptureSettings(minimum_elements=1, routes="operators"))


def _plain_and_own(use: Use, drive: Callable[[Model, Tensor], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    found = []
    for own in (False, True):
        torch.manual_seed(0)
        model, x = Model(use), torch.randn(5, 6, 8, dtype=torch.float64, requires_grad=True)
        if own:
            with _session(model) as session, session.step():
                values = drive(model, x)
            assert session.operators()["own function"]
        else:
            values = drive(model, x)
        found.append([*values, *(p.grad for p in (x, *model.parameters()) if p.grad is not None)])
    return found[0], found[1]


def _loss(output: Tensor) -> Tensor:
    return (output * torch.arange(output.numel(), dtype=output.dtype).sin().view(output.shape)).sum()


def _once(model: Model, x: Tensor) -> list[Tensor]:
    loss = _loss(model(x))
    loss.backward()
    return [loss]


def _penalised(model: Model, x: Tensor) -> list[Tensor]:
    loss = _loss(model(x))
    inputs = [x, *model.parameters()]
    gradients = [g for g in torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True) if g is not None]
    (loss + sum(gradient.square().sum() for gradient in gradients)).backward()
    return [loss, *gradients]


@pytest.fixture(autouse=True)
def at_any_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank is taken to be worth it, so that the functions are used at it."""
    monkeypatch.setattr("compbench.capture.products.dearer_at_rank", lambda *_: False)


@pytest.mark.parametrize("use", USES)
def test_gradients_are_those_of_plain_autograd(use: str) -> None:
    plain, own = _plain_and_own(USES[use], _once)
    torch.testing.assert_close(own, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("use", TWICE)
def test_gradients_of_gradients_are_those_of_plain_autograd(use: str) -> None:
    plain, own = _plain_and_own(TWICE[use], _penalised)
    torch.testing.assert_close(own, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", ["in place", "another tensor", "data in place"])
def test_a_weight_may_be_changed_between_two_backward_passes_of_a_step(way: str) -> None:
    def drive(model: Model, x: Tensor) -> list[Tensor]:
        losses = []
        for _ in range(3):
            losses += _once(model, x)
            for parameter in model.parameters():
                if way == "another tensor":
                    parameter.data = parameter.data * 0.9
                elif way == "data in place":
                    parameter.data.mul_(0.9)
                else:
                    with torch.no_grad():
                        parameter.mul_(0.9)
        return losses

    plain, own = _plain_and_own(lambda m, x: m.narrow(torch.tanh(m.wide(x))), drive)
    torch.testing.assert_close(own, plain, rtol=1e-9, atol=1e-9)


def test_what_torch_refuses_is_refused() -> None:
    for use, message in (
        (lambda m, x: torch.mm(x, m.shape), "must be a matrix"),
        (lambda m, x: torch.addmm(m.shape[0], x, m.shape), "must be a matrix"),
        (lambda m, x: torch.matmul(x, m.shape, out=torch.empty(5, 6, 16, dtype=x.dtype)), "automatic differentiation"),
    ):
        with pytest.raises(RuntimeError, match=message):
            _plain_and_own(use, _once)
        with _session(model := Model(use)) as session, pytest.raises(RuntimeError, match=message), session.step():
            model(torch.randn(5, 6, 8, dtype=torch.float64))


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_layers_without_width_and_convolutions_of_no_images(sizes: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Linear(*sizes), nn.Conv2d(4, 8, 3)).double()
    linear, conv = model
    rows = torch.randn(3, sizes[0], requires_grad=True, dtype=torch.float64)
    images = torch.randn(0, 4, 7, 9, requires_grad=True, dtype=torch.float64)
    with _session(model) as session, session.step():
        (linear(rows * 1).sum() + conv(images * 1).sum()).backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.shape == sizes[::-1]
    torch.testing.assert_close(linear.bias.grad, torch.full((sizes[1],), 3.0, dtype=torch.float64))
    assert isinstance(conv.weight.grad, Tensor)
    assert not conv.weight.grad.any()


def test_a_layer_that_runs_again_on_rows_that_were_expanded_rounds_as_before() -> None:
    found = []
    for exact in (False, True):
        torch.manual_seed(0)
        model = Model(lambda m, x: m.narrow(torch.tanh(m.wide(x[:1].expand(5, 6, 8)))))
        x = torch.randn(5, 6, 8, dtype=torch.float64, requires_grad=True)
        with compress(model, "recompute", minimum_elements=1) if exact else nullcontext() as session:
            with session.step() if session else nullcontext():
                _once(model, x)
        if session:
            assert sum("computed again" in site.reason for site in session.sites())
        found.append([p.grad for p in (x, *model.parameters()) if p.grad is not None])
    for plain, own in zip(*found, strict=True):
        assert torch.equal(plain, own)
