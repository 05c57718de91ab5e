"""Recomputation: what is kept, what is computed again, how often, and that chains of it with codecs hold together."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from compbench_plugins.checkpoint import Checkpoint
from compbench_plugins.int8 import Int8
from compbench_plugins.laser import Laser
from compbench_plugins.recompute import Recompute
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from compbench.capture.recompute import chosen_modules
from compbench.capture.session import Session
from compbench.chain import Chain
from compbench.compressor import Compressor
from compbench.errors import CaptureError, SettingsError
from compbench.measure.live import LiveLedger
from tests.capture import zoo
from tests.capture.zoo import session_of

ROWS, WIDTH, INNER = 4 * 9, 32, 48
UNIT = ROWS * WIDTH * 4
"""Bytes of one tensor of the block's own width."""


def gradients(model: nn.Module, x: Tensor, session: Session | None = None, steps: int = 1) -> list[Tensor]:
    torch.manual_seed(3)
    with session or nullcontext():
        for _ in range(steps):
            model.zero_grad()
            with session.step() if session else nullcontext():
                output = model(x)
                (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sin().mean().backward()
    return [p.grad.clone() for p in model.parameters()]


def kept_after_forward(model: nn.Module, x: Tensor, strategy: Compressor) -> tuple[int, int]:
    """Bytes that the session reports after the forward pass, and those of all tensors alive."""
    with session_of(model, strategy) as session, LiveLedger() as ledger, session.step():
        loss = model(x).square().mean()
        reported, alive = session.saved_bytes, ledger.live_bytes
        loss.backward()
    return reported, alive


class Block(nn.Module):
    """Attention and a gated network, each added to its input and normalised after that."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = zoo.Attention(), zoo.GatedMLP()

    def forward(self, z: Tensor) -> Tensor:
        z = F.rms_norm(z + self.attn(z), z.shape[-1:])
        return F.rms_norm(z + self.mlp(z), z.shape[-1:])


class Loop(nn.Module):
    """The block alone, called in a loop with an addition between the calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(self.calls):
            z = self.block(z + x)
        return z


@pytest.mark.parametrize("segment", [1, 2, 5, 25])
def test_a_checkpoint_keeps_one_input_a_segment(segment: int) -> None:
    x = torch.randn(4, 9, WIDTH)

    def of_a_call(calls: int) -> int:
        return kept_after_forward(Loop(calls), x, Checkpoint(segment=segment, modules=("block",)))[0]

    # What each call saves beside activations: log-sum-exp of attention and 1/rms of two norms.
    beside = (4 * 4 * 9 + 2 * ROWS) * 4
    assert of_a_call(50) - of_a_call(25) == 25 // segment * UNIT + 25 * beside


def test_presets_keep_what_they_say() -> None:
    x = torch.randn(4, 9, WIDTH)

    def of_a_call(strategy: Compressor) -> int:
        return (kept_after_forward(Loop(4), x, strategy)[0] - kept_after_forward(Loop(2), x, strategy)[0]) // 2

    beside = (4 * 4 * 9 + 2 * ROWS) * 4
    # The sums before both norms, and attention's output. What enters the block is computed from the last norm's sum.
    narrow = 3 * UNIT
    assert of_a_call(Recompute(preset="inputs")) == narrow + beside
    qkv, gate_up = 3 * UNIT, ROWS * 2 * INNER * 4
    assert of_a_call(Recompute(preset="cheap")) == narrow + qkv + gate_up + beside
    wide = Recompute(preset="inputs", keep=("width:96",))  # both of them are 96 wide
    assert of_a_call(wide) == of_a_call(Recompute(preset="cheap"))


@pytest.mark.parametrize(
    "strategy", [Checkpoint(), Checkpoint(segment=3), Recompute(), Recompute(preset="cheap")], ids=str
)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_dropout_is_not_drawn_again(strategy: Compressor, bf16: bool) -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([zoo.GatedMLP() for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                for block in self.blocks:
                    x = x + F.dropout(block(F.rms_norm(x, x.shape[-1:])), 0.3)
            return x.float()

    torch.manual_seed(0)
    model, x = Drops(), torch.randn(40, WIDTH)
    plain = gradients(copy.deepcopy(model), x)
    state = torch.get_rng_state()
    for a, b in zip(plain, gradients(model, x, session_of(model, strategy), steps=1), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


class Counted(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += func.overloadpacket._qualified_op_name in ("aten::mm", "aten::addmm")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("strategy", "again"),
    [
        (Recompute(preset="cheap"), 0),
        (Recompute(preset="inputs"), 2),  # qkv, gate and up
        (Checkpoint(modules=("block",)), 4),  # and both products whose sums the norms begin with
    ],
    ids=str,
)
def test_each_product_is_computed_again_at_most_once(strategy: Compressor, again: int) -> None:
    x = torch.randn(4, 9, WIDTH)

    def products(calls: int, session: bool) -> int:
        model = Loop(calls)
        with session_of(model, strategy) if session else nullcontext() as open_session:
            with open_session.step() if session else nullcontext(), Counted() as counted:
                model(x).square().mean().backward()
        return counted.products

    assert products(5, True) - products(5, False) - (products(4, True) - products(4, False)) == again


@pytest.mark.parametrize(
    "members",
    [
        (Checkpoint(), Int8()),
        (Recompute(), Int8()),
        (Recompute(), Laser(rank=16)),
        (Checkpoint(), Laser(rank=16, growth=1)),
    ],
    ids=str,
)
def test_codecs_compress_what_recomputation_keeps(members: tuple[Compressor, ...]) -> None:
    torch.manual_seed(0)
    model, x = Loop(4), torch.randn(32, 9, WIDTH)
    exact = gradients(copy.deepcopy(model), x)
    alone = kept_after_forward(copy.deepcopy(model), x, members[0])[0]
    session = session_of(model, Chain(members=members))
    near = gradients(model, x, session, steps=3)
    a, b = (torch.cat([g.flatten().double() for g in found]) for found in (exact, near))
    assert F.cosine_similarity(a, b, 0) > 0.75
    assert session.peak_saved_bytes < 0.9 * alone
    reasons = {site.reason for site in session.sites()}
    assert "computed again in the backward pass" in reasons
    assert "" in reasons


def test_what_is_kept_is_kept_by_the_byte_and_freed() -> None:
    model, x = Loop(6), torch.randn(4, 9, WIDTH)
    for strategy in (Checkpoint(), Checkpoint(segment=2), Recompute(), Recompute(preset="cheap")):
        reported, alive = kept_after_forward(model, x, strategy)
        assert abs(alive - reported) <= UNIT + 8  # the output, and its mean
        session = session_of(model, strategy)
        with session, LiveLedger() as ledger:
            with session.step():
                with pytest.raises(ZeroDivisionError):
                    raise ZeroDivisionError(model(x).mean())
                session.skip()
            assert session.saved_bytes == 0
            assert ledger.live_bytes == 0


def test_a_graph_may_be_used_twice() -> None:
    model, x = Loop(3), torch.randn(4, 9, WIDTH)
    model(x).sin().mean().backward()
    exact = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with session_of(model, Checkpoint()) as session, session.step():
        loss = model(x).sin().mean()
        loss.backward(retain_graph=True)
        loss.backward()
    for once, twice in zip(exact, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(2 * once, twice)


def test_functions_that_others_put_in_the_way_are_not_in_recipes() -> None:
    class Loud(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    model, x = Loop(2), torch.randn(4, 9, WIDTH)
    exact = gradients(model, x)
    with Loud():
        for a, b in zip(exact, gradients(model, x, session_of(model, Checkpoint())), strict=True):
            assert torch.equal(a, b)


def test_blocks_of_a_model() -> None:
    class Model(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.embedding, self.inner, self.head = nn.Embedding(4, 4), inner, nn.Linear(4, 4)

    layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])
    assert chosen_modules(Model(layers), ()) == ["inner.0", "inner.1"]
    assert chosen_modules(Model(nn.TransformerEncoderLayer(4, 2, 8)), ()) == ["inner"]
    assert chosen_modules(nn.Linear(4, 4), ()) == [""]
    assert chosen_modules(Model(layers), ("inner.*.0", "head")) == ["inner.0.0", "inner.1.0", "head"]
    with pytest.raises(CaptureError, match=r"modules pattern 'block\*' matches no module .* \(it has embedding, inner"):
        chosen_modules(Model(layers), ("block*",))
    with pytest.raises(CaptureError, match="matches no module"):
        session_of(Loop(2), Checkpoint(modules=("nothing",)))


def test_one_chain_recomputes_in_one_way() -> None:
    with pytest.raises(SettingsError, match="both checkpoint and recompute are in it"):
        Chain(members=(Checkpoint(), Recompute()))
