"""Norms, with and without weights, on the operators' route: what they keep, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench import Codec, Compressor, Payload, Site
from compbench.capture.functions import LayerNorm, RmsNorm
from tests.capture import zoo
from tests.capture.test_products import weighted
from tests.capture.test_route import EXPANSIONS, Fixed, FixedCodec, gradients, session_of

NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer norm": nn.LayerNorm,
    "layer norm without bias": lambda width, **k: nn.LayerNorm(width, bias=False, **k),
    "rms norm": nn.RMSNorm,
}


@pytest.mark.parametrize("eps", [None, 1e-5, 0.1])
def test_the_norm_has_autograds_derivatives_of_both_orders(eps: float | None) -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.equal(RmsNorm.apply(x, 7, eps)[0], F.rms_norm(x, (7,), eps=eps))
    assert torch.autograd.gradcheck(lambda x: RmsNorm.apply(x, 7, eps), x)
    assert torch.autograd.gradgradcheck(lambda x: RmsNorm.apply(x, 7, eps), x)


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm_has_autograds_derivatives_of_both_orders(eps: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.equal(LayerNorm.apply(x, 7, eps)[0], F.layer_norm(x, (7,), eps=eps))
    assert torch.autograd.gradcheck(lambda x: LayerNorm.apply(x, 7, eps), x)
    assert torch.autograd.gradgradcheck(lambda x: LayerNorm.apply(x, 7, eps), x)


@pytest.mark.parametrize("norm", ["rms_norm", "layer_norm"])
def test_a_norm_keeps_what_it_gives_and_lets_go_of_what_it_took(norm: str) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 32, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            z = getattr(F, norm)(y, (32,))
            with torch.no_grad():
                y.zero_()  # no backward needs it
            return self.layer(z)

    torch.manual_seed(0)
    model, x = Normed(), torch.randn(40, 32, requires_grad=True)
    z = getattr(F, norm)(x * 2, (32,))
    weighted(model.layer(z)).backward()
    expected = [x.grad.clone(), *gradients(model)]
    x.grad = None
    with session_of(model, zoo.Copy(), routes="operators") as session, session.step():
        weighted(model(x)).backward()
    for own, exact in zip([x.grad, *gradients(model)], expected, strict=True):
        torch.testing.assert_close(own, exact)
    assert sum(site.calls for site in session.sites() if site.kept_bytes == 40 * 32 * 4) == 1


class Normed(nn.Module):
    """A norm and a layer, called twice over; the layer widens or not."""

    def __init__(self, norm: str, outputs: int = 16, bias: bool = True, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList([NORMS[norm](16, dtype=dtype)])
        self.layer = nn.Linear(16, outputs, bias=bias, dtype=dtype)
        for parameter in self.norms.parameters():
            nn.init.normal_(parameter, 1.0, 0.5)

    def forward(self, *batches: Tensor) -> Tensor:
        return torch.cat([self.layer(self.norms[i % len(self.norms)](x.sin())) for i, x in enumerate(batches)])


def of_autograd(model: nn.Module, run: Callable[[], None], *inputs: Tensor) -> list[Tensor]:
    """The gradients of inputs and parameters."""
    run()
    found = [x.grad.clone() for x in inputs] + gradients(model)
    for x in inputs:
        x.grad = None
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("frozen", [False, True])
def test_norms_with_weights_keep_their_rows_alone(norm: str, frozen: bool) -> None:
    model, x = Normed(norm, bias=False), torch.randn(40, 16, dtype=torch.float64, requires_grad=True)
    model.norms.requires_grad_(not frozen)

    def run() -> None:
        weighted(model(x)).backward()

    expected, output = of_autograd(model, run, x), model(x).detach()
    with session_of(model, zoo.Copy()) as session, session.step():
        torch.testing.assert_close(model(x), output)
        session.skip()
    with session_of(model, zoo.Copy()) as session, session.step():
        found = of_autograd(model, run, x)
    assert session.operators() == {"own function": 2}
    for own, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(own, exact)
    rows = 40 * 16 * 8  # of the norm; x itself, which the sine keeps, is a leaf
    assert [site.kept_bytes for site in session.sites() if site.kept_bytes >= rows and not site.reason] == [rows]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("outputs", [16, 40], ids=["kept", "wider"])
def test_a_layer_after_a_norm_has_its_weight_gradient_at_the_rank_of_the_norms_rows(norm: str, outputs: int) -> None:
    """Against plain arithmetic: dW = sum dY^T (Z Q^T S + t), with no rows rebuilt for it."""
    model = Normed(norm, outputs)
    batches = [torch.randn(4, 5, 16, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weights = [torch.randn(4, 5, outputs, dtype=torch.float64) for _ in batches]
    with session_of(model, Fixed(rank=3)) as session, session.step():
        loss = (model(*batches) * torch.cat(weights)).sum()
        EXPANSIONS.clear()
        (of_layer,) = torch.autograd.grad(loss, model.layer.weight)
    assert EXPANSIONS == []
    basis = FixedCodec(16, 3).basis.double()
    with torch.no_grad():
        (inner,) = model.norms
        shape, eps = (16,), inner.eps
        bare = F.rms_norm if norm == "rms norm" else F.layer_norm
        kept = [bare(x.sin(), shape, eps=eps).reshape(-1, 16) @ basis @ basis.T * inner.weight for x in batches]
        if getattr(inner, "bias", None) is not None:
            kept = [rows + inner.bias for rows in kept]
        expected = sum(g.reshape(-1, outputs).T @ rows for rows, g in zip(kept, weights, strict=True))
    torch.testing.assert_close(of_layer, expected)


class Alternating(nn.Module):
    """A norm that has one weight and bias in its even calls and another in its odd ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.biases = nn.Parameter(torch.randn(2, 16)), nn.Parameter(torch.randn(2, 16))

    def forward(self, x: Tensor, call: int) -> Tensor:
        return F.layer_norm(x.sin(), (16,), self.weights[call % 2], self.biases[call % 2])


class TwoScales(nn.Module):
    """A layer behind such a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Alternating()
        self.layer = nn.Linear(16, 16, bias=False)

    def forward(self, *batches: Tensor) -> Tensor:
        return torch.cat([self.layer(self.norm(x, call)) for call, x in enumerate(batches)])


def test_calls_behind_different_norms_are_not_mixed_up() -> None:
    """One site and one basis: the shares of each call are scaled by its own weight."""
    torch.manual_seed(0)
    model = TwoScales()
    batches = [torch.randn(20, 16, requires_grad=True) for _ in range(4)]
    gradient = [torch.randn(20, 16) for _ in batches]
    with session_of(model, Fixed(rank=3)) as session, session.step():
        (model(*batches) * torch.cat(gradient)).sum().backward()
    assert "4 calls' weight gradients: at the rank of what was kept" in str(session.sites())
    basis, expected = FixedCodec(16, 3).basis, torch.zeros(16, 16)
    with torch.no_grad():
        for i, (x, g) in enumerate(zip(batches, gradient, strict=True)):
            rows = F.layer_norm(x.sin(), (16,)) @ basis @ basis.T
            expected += g.T @ (rows * model.norm.weights[i % 2] + model.norm.biases[i % 2])
    torch.testing.assert_close(model.layer.weight.grad, expected, rtol=1e-4, atol=1e-4)


class Rebuilding(Fixed):
    """Whose rows no weight gradient is worth keeping for."""

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        codec = super().codec(site, generator)
        codec.weight_gradient_operations = lambda rows, outputs: None  # type: ignore[method-assign]
        return codec


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bias", [True, False])
def test_what_a_wider_layer_gave_is_had_again_at_the_rank_of_the_norms_rows(norm: str, bias: bool) -> None:
    model = Normed(norm, 40, bias)
    last = nn.Linear(40, 8, bias=False, dtype=torch.float64)
    both = nn.Sequential(model, nn.SiLU(), last)
    x, g = torch.randn(20, 16, dtype=torch.float64, requires_grad=True), torch.randn(20, 8, dtype=torch.float64)
    EXPANSIONS.clear()
    with session_of(both, Rebuilding(rank=3)) as session, session.step():
        loss = (both(x) * g).sum()
        (of_last,) = torch.autograd.grad(loss, last.weight)
    assert EXPANSIONS == []
    basis = FixedCodec(16, 3).basis.double()
    with torch.no_grad():
        (inner,) = model.norms
        bare = F.rms_norm if norm == "rms norm" else F.layer_norm
        rows = bare(x.sin(), (16,), eps=inner.eps) @ basis @ basis.T * inner.weight
        if getattr(inner, "bias", None) is not None:
            rows = rows + inner.bias
        expected = g.T @ F.silu(model.layer(rows))
    torch.testing.assert_close(of_last, expected)


class Sampled(Payload):
    """Rows that are kept as they are, with a weight gradient of their own."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.clone()

    def decode(self) -> Tensor:
        return self.rows

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.rows,)

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        return 2 * grad_output.T @ self.rows  # twice the true one, so that it is known by it


class Sampling(Compressor):
    """Payloads without factors."""

    name = "sampling"

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        class Encoding(Codec):
            def encode(self, rows: Tensor) -> Payload:
                return Sampled(rows)

        return Encoding()


def test_payloads_give_their_own_weight_gradient_through_a_norms_weights() -> None:
    model, x = Normed("layer norm", 16, bias=False), torch.randn(20, 16, dtype=torch.float64, requires_grad=True)
    g = torch.randn(20, 16, dtype=torch.float64)
    with session_of(model, Sampling()) as session, session.step():
        (model(x) * g).sum().backward()
    with torch.no_grad():
        (norm,) = model.norms
        rows = F.layer_norm(x.sin(), (16,))
        expected = 2 * g.T @ rows * norm.weight + torch.outer(g.sum(0), norm.bias)
    torch.testing.assert_close(model.layer.weight.grad, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_norms_with_weights_have_autograds_second_derivatives(norm: str) -> None:
    model, x = Normed(norm), torch.randn(12, 16, dtype=torch.float64, requires_grad=True)

    def penalty() -> None:
        (slope,) = torch.autograd.grad(model(x).pow(3).sum(), x, create_graph=True)
        slope.square().sum().backward()

    expected = of_autograd(model, penalty, x)
    with session_of(model, zoo.Copy()) as session, session.step():
        found = of_autograd(model, penalty, x)
    for own, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(own, exact)


def test_what_a_norm_gave_may_not_change_before_its_layer_needs_it() -> None:
    class Changed(Normed):
        def forward(self, *batches: Tensor) -> Tensor:
            rows = self.norms[0](batches[0].sin())
            output = self.layer(rows)
            with torch.no_grad():
                rows.mul_(2)
            return output

    model, x = Changed("layer norm", 16), torch.randn(20, 16, dtype=torch.float64, requires_grad=True)
    with session_of(model, Fixed(rank=3)) as session, session.step():
        output = model(x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()
        session.skip()


def test_norms_whose_weight_is_of_another_type_are_torchs_own() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16, dtype=torch.float32))

        def forward(self, x: Tensor) -> Tensor:
            return F.rms_norm(x * 1, (16,), self.weight)

    model, x = Mixed(), torch.randn(20, 16, dtype=torch.float64, requires_grad=True)
    with session_of(model, zoo.Copy()) as session, session.step():
        model(x).sum().backward()
    assert session.operators() == {"its weight is no plain tensor of the same type": 1}
