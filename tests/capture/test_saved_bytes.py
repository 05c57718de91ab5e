"""What is kept, and that what was compressed is freed: bytes that are really alive."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from compbench.capture.session import Session
from compbench.compressor import Compressor
from compbench.measure.live import LiveLedger
from tests.capture import zoo
from tests.capture.test_exactness import MODELS
from tests.capture.zoo import session_of


def alive_after_forward(session: Session, model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Bytes of storages that the second forward made and only autograd holds; and what the session reports."""
    with session:
        for _ in range(2):
            with LiveLedger() as ledger, session.step():
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
    session = session_of(model, strategy, routes="hooks")
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
    with session_of(model, zoo.Half(), routes="hooks") as session, LiveLedger() as ledger, session.step():
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


def test_a_storage_that_was_changed_in_place_is_saved_anew() -> None:
    class Shifts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            first = y.exp().sum().detach()  # saved, and never used
            y.relu_()
            return first + y.square().sum()

    model, x = Shifts(), torch.randn(40, 32, requires_grad=True)
    with session_of(model, zoo.Copy()) as session, session.step():
        model(x).backward()
    torch.testing.assert_close(x.grad, 8 * x.detach().relu())
