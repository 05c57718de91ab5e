"""Models of many kinds: exact strategies change no bit, lossy ones train, and every byte is accounted for."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from compbench_plugins.checkpoint import Checkpoint
from compbench_plugins.identity import Identity
from compbench_plugins.int8 import Int8
from compbench_plugins.recompute import Recompute
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from compbench.capture.session import Session
from compbench.compressor import Compressor
from compbench.measure.live import LiveLedger
from tests.capture import zoo
from tests.capture.models import CASES, Case, Inputs, ResNet, images
from tests.capture.zoo import session_of

# Nothing is lost where the rest is computed again either.
RECOMPUTING = [Recompute(preset="cheap"), Recompute(), Checkpoint(), Checkpoint(segment=3)]

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_precision = pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])


def made(case: Case) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(1)
    return case.make(), case.batch()


def forward(case: Case, model: nn.Module, inputs: Inputs, bf16: bool) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        return case.loss(model, inputs)


def train(
    case: Case, session: Session | None, model: nn.Module, inputs: Inputs, bf16: bool, steps: int
) -> tuple[list[float], list[list[Tensor]]]:
    """The losses and the gradients of every step, on one batch."""
    torch.manual_seed(5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.learning_rate)
    losses, gradients = [], []
    with session or nullcontext():
        for _ in range(steps):
            optimizer.zero_grad()
            with session.step() if session else nullcontext():
                loss = forward(case, model, inputs, bf16)
                loss.backward()
            losses.append(loss.item())
            gradients.append([p.grad.clone() for p in model.parameters()])
            optimizer.step()
            if session is not None:
                assert session.saved_bytes == 0
    return losses, gradients


# A copy is decoded where identity hands the original out: whoever mixes storages or versions up gives the wrong one.
@every_precision
@pytest.mark.parametrize("strategy", [Identity(), zoo.Copy(), *RECOMPUTING], ids=str)
@every_case
def test_strategies_that_lose_nothing_train_bit_identically(case: Case, strategy: Compressor, bf16: bool) -> None:
    model, inputs = made(case)
    plain, under = model, copy.deepcopy(model)
    losses, gradients = train(case, None, plain, inputs, bf16, steps=3)
    state = torch.get_rng_state()
    session = session_of(under, strategy, attention="literal")
    found_losses, found_gradients = train(case, session, under, inputs, bf16, steps=3)
    assert strategy in RECOMPUTING or any(not site.reason for site in session.sites())
    assert torch.equal(torch.get_rng_state(), state)
    assert found_losses == losses
    for expected, found in zip(gradients, found_gradients, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    for a, b in zip(plain.state_dict().values(), under.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@every_precision
@every_case
def test_int8_trains(case: Case, bf16: bool) -> None:
    model, inputs = made(case)
    under = copy.deepcopy(model)
    losses, gradients = train(case, None, model, inputs, bf16, steps=1)
    session = session_of(under, Int8())
    found_losses, found_gradients = train(case, session, under, inputs, bf16, steps=8)
    assert any(not site.reason for site in session.sites())
    assert found_losses[0] == losses[0]  # what is saved plays no part in the forward pass
    assert found_losses[-1] < losses[0]
    assert all(gradient.isfinite().all() for step in found_gradients for gradient in step)
    exact, near = (torch.cat([g.flatten().double() for g in step[0]]) for step in (gradients, found_gradients))
    assert F.cosine_similarity(exact, near, 0) > case.cosine


# ---------------------------------------------------------------- bytes


def graph_alone(case: Case, model: nn.Module, inputs: Inputs, bf16: bool) -> GradientEdge:
    """Where the backward pass begins. What else a forward pass made, its outputs and its loss, is dropped.

    The inputs are copies that only autograd can keep alive. So what was made within and is alive afterwards is what
    the graph holds, and all that it holds was made within, but for parameters and buffers.
    """
    return get_gradient_edge(forward(case, model, tuple(x.clone() for x in inputs), bf16))


@every_precision
@pytest.mark.parametrize("strategy", [Identity(), Int8(), zoo.Copy(), zoo.Nothing(), *RECOMPUTING], ids=str)
@every_case
def test_reported_bytes_are_alive_to_the_byte(case: Case, strategy: Compressor, bf16: bool) -> None:
    model, inputs = made(case)
    session = session_of(model, strategy)
    with session:
        for _ in range(2):  # the first also makes what models keep between their calls
            with session.step(), LiveLedger() as ledger:
                edge = graph_alone(case, model, inputs, bf16)
                alive, reported = ledger.live_bytes, session.saved_bytes
                torch.autograd.backward(edge, torch.ones(()))
                assert session.saved_bytes == 0
                del edge
            model.zero_grad(set_to_none=True)
    assert reported > 0
    assert alive == reported


@every_precision
@every_case
def test_without_compression_reported_bytes_are_the_unique_storages_that_autograd_saves(case: Case, bf16: bool) -> None:
    model, inputs = made(case)
    state = torch.get_rng_state()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        edge = graph_alone(case, model, inputs, bf16)
    unique = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    del edge

    for strategy in (Identity(), zoo.Nothing()):
        torch.set_rng_state(state)
        session = session_of(model, strategy)
        with session, session.step():
            edge = graph_alone(case, model, inputs, bf16)
            assert session.saved_bytes == unique
            session.skip()
            del edge
            assert session.saved_bytes == 0


# ---------------------------------------------------------------- convolutions


@every_precision
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_inputs_of_convolutions_are_rows_of_channels(layout: torch.memory_format, bf16: bool) -> None:
    torch.manual_seed(1)
    model = ResNet().to(memory_format=layout)
    (x,) = images()
    x = x.to(memory_format=layout).requires_grad_() * 1
    shapes: dict[str, torch.Size] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda _, inputs, output, path=path: shapes.update({path: inputs[0].shape}))
    session = session_of(model, zoo.Half())  # which never leaves a site for being too narrow
    with session, session.step(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        model(x).float().square().mean().backward()
    images_of = {(shape[1], shape.numel() // shape[1]) for shape in shapes.values()}
    found = {(site.width, site.rows) for site in session.sites() if not site.reason and site.module not in {"", "head"}}
    # The maps that nothing but a pooling or a sum saves are of these shapes too.
    assert found == images_of
