"""Theorem 1 at operators: the constants against finite differences, the errors against plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench.analysis.gradient import describe
from compbench.analysis.theorem import _SECOND_DERIVATIVES, Found, measure, rms_norm_constant
from compbench.capture import CaptureSettings
from compbench.measure.step import Step
from compbench.records import Batch
from compbench.workloads.base import Data, Workload

D, N = 12, 200


class Net(nn.Module):
    """Norm, a gate, and a linear layer: each operator whose constant is proved, and one that mixes rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(D, 2 * D, bias=False)
        self.out = nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.rms_norm(self.out(x), (D,))
        gate, up = self.inner(x).chunk(2, dim=-1)
        hidden = F.silu(gate) * up
        return self.out(hidden).softmax(dim=0)


class Task(Workload):
    name = "net"

    def at_depth(self, depth: int) -> Task:
        return self

    def build(self, generator: torch.Generator) -> nn.Module:
        torch.manual_seed(0)
        return Net()

    def data(self, seed: int) -> Data:
        raise NotImplementedError

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        output: Tensor = model(batch["x"])
        return output

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return (output * batch["y"]).sum()

    def metrics(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {}


@pytest.fixture
def step() -> Step:
    task = Task()
    return Step(task, task.build(torch.Generator()), torch.device("cpu"))


@pytest.fixture
def batch() -> Batch:
    random = torch.Generator().manual_seed(1)
    return {"x": torch.randn(N, D, generator=random), "y": torch.randn(N, D, generator=random)}


def basis(width: int, rank: int) -> Tensor:
    return torch.linalg.qr(torch.randn(width, rank, generator=torch.Generator().manual_seed(2)))[0]


@pytest.fixture
def found(step: Step, batch: Batch) -> Found:
    bases = {"/net_24": basis(2 * D, 6), "/net_12": basis(D, 3), "/net_12#1": basis(D, 3), "out/out_12": basis(D, 3)}
    return measure(step, CaptureSettings(minimum_elements=1), batch, bases)[0]


def test_operators_are_told_apart_and_their_constants_are_known(found):
    kinds = {(site, op): (at.constant, at.unit) for site, ops in found.items() for op, at in ops.items()}
    assert kinds["/net_24", "silu"] == ("proved", "row")
    assert kinds["/net_24", "mul"] == ("proved", "row")
    assert kinds["/net_12", "rms_norm"] == ("proved", "row")
    assert kinds["out/out_12", "linear"] == ("zero", "row")


def test_no_error_is_above_a_bound_that_is_proved(found):
    for ops in found.values():
        for at in ops.values():
            told = describe(at, at.ratios)
            assert told["units"] == N
            assert told["within_bound"] == 1.0
            if at.constant == "proved":
                assert 0 < told["median_bound_ratio"] <= told["largest_bound_ratio"] <= 1


def test_a_constant_that_is_too_small_is_found_out(found):
    at = found["/net_24"]["mul"]
    at.constants = [constants * 1e-3 for constants in at.constants]
    assert describe(at, None)["within_bound"] < 0.5


def test_the_error_at_the_gate_is_that_of_plain_autograd(step, batch, found):
    net = step.model
    x = F.rms_norm(net.out(batch["x"]), (D,))
    whole = net.inner(x).detach()
    Q = basis(2 * D, 6)
    rebuilt = whole @ Q @ Q.T
    hidden = (F.silu(whole[:, :D]) * whole[:, D:]).requires_grad_()
    upstream = torch.autograd.grad((net.out(hidden).softmax(dim=0) * batch["y"]).sum(), hidden)[0]
    # The product saves silu(gate) and up. Of the site's rows it has up, which gives the gradient of silu(gate).
    error = (upstream * (rebuilt[:, D:] - whole[:, D:])).norm(dim=1)
    at = found["/net_24"]["mul"]
    torch.testing.assert_close(at.errors[0].float(), error.detach(), rtol=1e-4, atol=1e-7)
    length = upstream.norm(dim=1) * (rebuilt - whole).norm(dim=1)
    torch.testing.assert_close(at.lengths[0].float(), length.detach(), rtol=1e-4, atol=1e-7)


def test_a_weights_gradient_is_that_of_the_projected_rows(step, batch, found):
    net = step.model
    gate, up = net.inner(F.rms_norm(net.out(batch["x"]), (D,))).chunk(2, dim=-1)
    hidden = (F.silu(gate) * up).detach()
    output = net.out(hidden).detach().requires_grad_()
    upstream = torch.autograd.grad((output.softmax(dim=0) * batch["y"]).sum(), output)[0]
    Q = basis(D, 3)
    exact, rebuilt = upstream.T @ hidden, upstream.T @ (hidden @ Q @ Q.T)
    told = describe(found["out/out_12"]["linear"], None)
    assert told["weight_gradient_relative_error"] == pytest.approx(
        float((rebuilt - exact).norm() / exact.norm()), rel=1e-4
    )
    assert told["gradient_relative_error"] == 0.0


def test_the_model_and_its_gradients_are_left_as_they_were(step, batch):
    before = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    state = torch.get_rng_state()
    measure(step, CaptureSettings(minimum_elements=1), batch, {"/net_24": basis(2 * D, 6)})
    assert all(torch.equal(before[name], tensor) for name, tensor in step.model.state_dict().items())
    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_the_constant_of_rms_norm_bounds_every_jacobian_and_is_nearly_reached():
    random = torch.Generator().manual_seed(0)
    reached = 0.0
    for _ in range(200):
        a = torch.randn(5, generator=random).double()
        b = a + 1e-4 * torch.randn(5, generator=random).double()
        jacobians = [
            torch.autograd.functional.jacobian(lambda x: F.rms_norm(x, (5,), eps=0.0), point) for point in (a, b)
        ]
        ratio = torch.linalg.matrix_norm(jacobians[1] - jacobians[0], 2) / (b - a).norm()
        bound = rms_norm_constant(a[None], b[None])
        assert float(ratio) <= float(bound) * (1 + 1e-3)
        reached = max(reached, float(ratio / bound))
    assert reached > 0.95  # the constant is the least there is


def test_an_epsilon_makes_the_constant_of_rms_norm_no_larger():
    # sup over t = |a| / sqrt(|a|^2 + eps D) of t^3 times the norm of the derivative's matrix in the plane
    angle = torch.linspace(0, math.pi, 721, dtype=torch.float64)
    x, y = angle.cos(), angle.sin()
    largest = 0.0
    for t in torch.linspace(0.01, 1, 100).double():
        matrix = torch.stack([torch.stack([3 * x * (1 - t**2), y]), torch.stack([y, x])]).permute(2, 0, 1)
        largest = max(largest, float(t**3 * torch.linalg.matrix_norm(matrix, 2).max()))
    assert largest == pytest.approx(2 / math.sqrt(3), rel=1e-4)


@pytest.mark.parametrize(("name", "constant"), _SECOND_DERIVATIVES.items())
def test_the_constants_of_activations_are_their_largest_second_derivatives(name, constant):
    function = getattr(F, name)
    x = torch.linspace(-8, 8, 16001, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert float(second.abs().max()) == pytest.approx(constant, rel=1e-6)
