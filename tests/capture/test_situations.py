"""What training loops do beside one forward and one backward: accumulate, nest, checkpoint, fail, change in place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

import pytest
import torch
import torch.nn.functional as F
from compbench_plugins.gale import Gale
from compbench_plugins.identity import Identity
from compbench_plugins.int8 import Int8
from compbench_plugins.lance import Lance
from compbench_plugins.laser import Laser
from compbench_plugins.loract import LoRAct
from compbench_plugins.none import NoCompression
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import checkpoint

from compbench.capture.session import Session
from compbench.compressor import Compressor
from compbench.measure.live import LiveLedger
from compbench.registry import Registry
from tests.capture import zoo
from tests.capture.zoo import session_of

# Some of what is made here has nothing to compress, which sessions say.
pytestmark = pytest.mark.filterwarnings("ignore::compbench.errors.CaptureWarning")

EXACT = [Identity(), zoo.Copy(), zoo.Nothing()]
RECOMPUTED = Registry.load().compressor("recompute")
SHIPPED = [NoCompression(), Identity(), Int8(), Laser(rank=4), Lance(rank=4), Gale(rank=4), LoRAct(rank=4)]
LEARNING = [Int8(stochastic=True), Laser(rank=4), Lance(rank=4), Gale(rank=4), LoRAct(rank=4)]

every_exact = pytest.mark.parametrize("strategy", EXACT, ids=lambda s: s.name)
every_shipped = pytest.mark.parametrize("strategy", SHIPPED, ids=lambda s: s.name)


def exact_session(model: nn.Module, strategy: Compressor) -> Session:
    """Recomputed attention rounds otherwise; literally an exact strategy must change no bit."""
    return session_of(model, strategy, attention="literal")


def gradients(model: nn.Module) -> list[Tensor]:
    """The gradients of the model's parameters, which are taken away."""
    found = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return found


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def cosine(first: list[Tensor], second: list[Tensor]) -> float:
    a, b = (torch.cat([x.flatten().double() for x in tensors]) for tensors in (first, second))
    return F.cosine_similarity(a, b, 0).item()


def recursive() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return zoo.Recursive(calls=3), torch.randn(4, 9, 32)


# ---------------------------------------------------------------- several passes in a step


@every_exact
@pytest.mark.parametrize("at_once", [False, True])
def test_gradients_accumulate_over_forwards(strategy: Compressor, at_once: bool) -> None:
    model, x = recursive()
    parts = x.chunk(4)

    def accumulate(session: Session | None) -> list[Tensor]:
        with session or nullcontext(), session.step() if session else nullcontext():
            if at_once:
                losses = [model(part).square().mean() for part in parts]
                reported = [session.saved_bytes] if session else []
                while losses:
                    losses.pop(0).backward()
                    reported += [session.saved_bytes] if session else []
                assert reported == [reported[0] // 4 * k for k in range(4, -1, -1)] if session else not reported
            else:
                for part in parts:
                    model(part).square().mean().backward()
                    assert session is None or session.saved_bytes == 0
        return gradients(model)

    assert equal(accumulate(None), accumulate(exact_session(model, strategy)))


@pytest.mark.parametrize("strategy", [*EXACT, Int8()], ids=lambda s: s.name)
def test_two_losses_of_one_forward(strategy: Compressor) -> None:
    model, x = recursive()

    def both(session: Session | None) -> list[Tensor]:
        with session or nullcontext(), session.step() if session else nullcontext():
            output = model(x)
            first, second = output.square().mean(), output[:, :3].sin().sum()
            first.backward(retain_graph=True)
            held = session.saved_bytes if session else 0
            second.backward(retain_graph=True)
            assert session is None or session.saved_bytes == held
            second.backward()
            del first
            assert session is None or session.saved_bytes == 0
        return gradients(model)

    plain, under = both(None), both(exact_session(model, strategy))
    if strategy.exact or strategy.name == "copy":
        assert equal(plain, under)
    else:
        assert cosine(plain, under) > 0.99
    once = both(session_of(model, strategy))
    assert equal(once, both(session_of(model, strategy)))  # and what was decoded twice is the same twice


@every_exact
def test_second_derivatives_of_a_gradient_penalty(strategy: Compressor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32), nn.SiLU(), nn.LayerNorm(32))
    batch = torch.randn(40, 32)

    def penalty(session: Session | None) -> list[Tensor]:
        x = batch.clone().requires_grad_()
        with session or nullcontext(), session.step() if session else nullcontext():
            loss = model(x).square().mean()
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            (loss + slope.square().sum()).backward()
        return [*gradients(model), x.grad]

    session = exact_session(model, strategy)
    assert equal(penalty(None), penalty(session))
    assert session.saved_bytes == 0


@every_exact
def test_a_model_that_differentiates_within_its_forward(strategy: Compressor) -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1))

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

    torch.manual_seed(0)
    model, x = Force(), torch.randn(40, 32)

    def train(session: Session | None) -> list[Tensor]:
        with session or nullcontext(), session.step() if session else nullcontext():
            model(x).square().mean().backward()
        return [g for g in gradients(model) if g is not None]

    session = exact_session(model, strategy)
    assert equal(train(None), train(session))
    assert session.saved_bytes == 0


# ---------------------------------------------------------------- several sessions


@every_exact
def test_two_models_in_turn(strategy: Compressor) -> None:
    torch.manual_seed(0)
    first, second = zoo.GatedMLP(), zoo.Residual()
    x, image = torch.randn(40, 32), torch.randn(4, 3, 8, 8)

    def alternate(sessions: list[Session]) -> list[Tensor]:
        with ExitStack() as stack:
            for session in sessions:
                stack.enter_context(session)
            for _ in range(2):
                for model, batch in ((first, x), (second, image)):
                    with ExitStack() as steps:
                        for session in sessions:
                            if session.model is model:
                                steps.enter_context(session.step())
                        model(batch).square().mean().backward()
                        assert all(session.saved_bytes == 0 for session in sessions)
        return gradients(first) + gradients(second)

    sessions = [exact_session(model, strategy) for model in (first, second)]
    state = copy.deepcopy(second.state_dict())
    plain = alternate([])
    second.load_state_dict(state)
    assert equal(plain, alternate(sessions))
    modules = [{site.module for site in session.sites() if site.rows > 1} for session in sessions]
    assert "first" not in modules[0]
    assert "down" not in modules[1]


def test_the_inner_of_two_sessions_on_one_model_gets_it() -> None:
    model, x = recursive()
    outer, inner = session_of(model, zoo.Half()), session_of(model, Int8())
    alone = session_of(model, Int8())

    def step(*sessions: Session) -> list[Tensor]:
        with ExitStack() as stack:
            for session in sessions:
                stack.enter_context(session.step())
            loss = model(x).square().mean()
            assert all((session.saved_bytes == 0) == (session is not sessions[-1]) for session in sessions)
            loss.backward()
        return gradients(model)

    with alone:
        expected = step(alone)
    with outer:
        before = step(outer)
        with inner:
            assert equal(step(outer, inner), expected)
            assert equal(step(inner), expected)
        assert equal(step(outer), before)
    assert {site.name for site in inner.sites()} == {site.name for site in alone.sites()}


def test_a_session_on_a_part_of_a_model_gets_that_part() -> None:
    model, x = recursive()

    def step(*sessions: Session) -> list[Tensor]:
        with ExitStack() as stack:
            for session in sessions:
                stack.enter_context(session)
            for session in sessions:
                stack.enter_context(session.step())
            model(x).square().mean().backward()
        return gradients(model)

    whole, part = exact_session(model, Identity()), exact_session(model.mlp, zoo.Copy())
    assert equal(step(), step(whole, part))
    assert all(site.module.startswith("attn") or not site.module for site in whole.sites())
    assert any(not site.reason for site in part.sites())
    assert whole.saved_bytes == part.saved_bytes == 0


# ---------------------------------------------------------------- checkpoints


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(32, 32)
        self.block = zoo.Recursive(calls=1, dropout=0.2)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = self.drop(checkpoint(self.block, x, use_reentrant=self.reentrant))
        return x.tanh()


@pytest.mark.parametrize("strategy", [*EXACT, Int8()], ids=lambda s: s.name)
@pytest.mark.parametrize("reentrant", [False, True])
def test_modules_that_checkpoint_with_dropout(reentrant: bool, strategy: Compressor) -> None:
    torch.manual_seed(0)
    model, x = Checkpointed(reentrant), torch.randn(4, 9, 32)

    def train(session: Session | None) -> list[Tensor]:
        torch.manual_seed(3)
        found = []
        with session or nullcontext():
            for _ in range(2):
                with session.step() if session else nullcontext(), LiveLedger() as ledger:
                    edge = get_gradient_edge(model(x.clone()).square().mean())
                    if session:
                        states = ledger.live_bytes - session.saved_bytes
                        assert 0 <= states <= 3 * 2 * torch.get_rng_state().nbytes  # the generator's, for the recompute
                    torch.autograd.backward(edge, torch.ones(()))
                    del edge
                    assert session is None or session.saved_bytes == 0
                found += gradients(model)
        return [*found, torch.get_rng_state()]

    plain, under = train(None), train(exact_session(model, strategy))
    assert torch.equal(plain[-1], under[-1])
    if strategy.exact or strategy.name == "copy":
        assert equal(plain, under)
    assert cosine(plain[:-1], under[:-1]) > 0.99


# ---------------------------------------------------------------- evaluation and failures


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("strategy", [*EXACT, Laser(rank=4)], ids=lambda s: s.name)
def test_evaluation_between_forward_and_backward_changes_nothing(strategy: Compressor, mode: Callable) -> None:
    model, x = recursive()

    def steps(evaluate: bool) -> list[Tensor]:
        session = session_of(model, strategy)
        found = []
        with session:
            for _ in range(3):
                with session.step():
                    loss = model(x).square().mean()
                    held = session.saved_bytes
                    if evaluate:
                        with mode():
                            found.append(model(x))
                    assert session.saved_bytes == held
                    loss.backward()
                if evaluate:
                    with mode():
                        model(x[:2])
                        model.eval()
                        assert torch.equal(model(x), found.pop())
                        model.train()
                found += gradients(model)
        return found

    assert equal(steps(False), steps(True))


class Fails(zoo.Recursive):
    """Fails where it is told to: in the forward pass, in the middle of a module, or in the backward pass."""

    where = ""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        if self.where == "forward":
            raise ZeroDivisionError(z)
        if self.where == "inside":
            handle = self.mlp.down.register_forward_hook(lambda *_: 1 / 0)
            try:
                z = super().forward(z)
            finally:
                handle.remove()
        if self.where == "backward":
            z.register_hook(lambda gradient: 1 / 0)
            z = super().forward(z)
        return z


@pytest.mark.parametrize("where", ["forward", "inside", "backward"])
@pytest.mark.parametrize("strategy", [*EXACT, *LEARNING], ids=lambda s: s.name)
@pytest.mark.parametrize("before", [0, 2])
def test_a_step_after_a_failed_one_is_as_if_it_had_not_been(strategy: Compressor, where: str, before: int) -> None:
    torch.manual_seed(0)
    model, x = Fails(calls=2), torch.randn(4, 9, 32)

    def step(session: Session) -> list[Tensor]:
        with session.step():
            model(x).square().mean().backward()
        return gradients(model)

    def steps(fail: bool) -> tuple[list[Tensor], list[str]]:
        session = session_of(model, strategy)
        with session:
            for _ in range(before):
                step(session)
            if fail:
                model.where = where
                with pytest.raises(ZeroDivisionError):
                    step(session)
                model.where = ""
                model.zero_grad(set_to_none=True)
                assert session.saved_bytes == 0
            found = step(session) + step(session)
            assert session.saved_bytes == 0
            return found, [repr(site) for site in session.sites()]

    clean, sites = steps(False)
    after, sites_after = steps(True)
    assert equal(clean, after)
    assert sorted(sites) == sorted(sites_after)


@pytest.mark.parametrize("strategy", [*EXACT, *LEARNING], ids=lambda s: s.name)
def test_a_probe_between_steps_is_as_if_it_had_not_been(strategy: Compressor) -> None:
    model, x = recursive()

    def steps(probe: bool) -> list[Tensor]:
        session = session_of(model, strategy)
        found = []
        with session:
            for _ in range(3):
                if probe:
                    with session.probe():
                        model(3 * x[:2]).square().mean().backward()
                    gradients(model)
                with session.step():
                    model(x).square().mean().backward()
                found += gradients(model)
        assert session.saved_bytes == 0
        return found

    assert equal(steps(False), steps(True))


# ---------------------------------------------------------------- changes in place


def attend(q: Tensor) -> Tensor:
    q = q.view(5, 2, 4, 32)
    return F.scaled_dot_product_attention(q, q * 2, q + 1)


CHANGED: dict[str, Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]] = {
    # What is saved, and what it was saved for.
    "an operand": lambda model, x: (x, x.square()),
    "a result": lambda model, x: ((y := x.exp()), y),
    "a linear layer's input": lambda model, x: (x, model.linear(x)),
    "a view": lambda model, x: (x, x.view(5, 8, 32).transpose(0, 1)[1:].square()),
    "a base, by its view": lambda model, x: (x[3:, 5], x.square()),
    "a view, by another": lambda model, x: (x.view(-1)[:7], x.t().square()),
    "a convolution's input": lambda model, x: ((y := x.view(2, 4, 10, 16) * 1), model.conv(y)),
    "what a checkpoint saves": lambda model, x: (x, checkpoint(model.linear, x, use_reentrant=False)),
    "attention's operands": lambda model, x: (x, attend(x)),
    "a norm's input": lambda model, x: (x, F.layer_norm(x, (32,))),
    "a parameter": lambda model, x: (model.linear.weight, model.linear(x)),
    "a parameter's view": lambda model, x: (model.linear.weight, x @ model.linear.weight.t()[:, :7]),
    "a small tensor": lambda model, x: ((y := x.sum(0)), y.square()),
}


class Changes(nn.Module):
    """Saves a tensor and gives it to the caller, who changes it."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.linear = nn.Linear(32, 16)
        self.conv = nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return CHANGED[self.what](self, x * 1)


@pytest.mark.parametrize("strategy", [None, *SHIPPED, zoo.Half(), zoo.Copy()], ids=lambda s: s.name if s else "plain")
@pytest.mark.parametrize("what", CHANGED)
def test_what_is_changed_between_save_and_use_is_an_error(what: str, strategy: Compressor | None) -> None:
    torch.manual_seed(0)
    model, x = Changes(what), torch.randn(40, 32, requires_grad=True)
    # The session's own norms keep what they give, and have no need of what they took.
    routes = {"routes": "hooks"} if what == "a norm's input" else {}
    session = session_of(model, strategy, **routes) if strategy else None

    def change() -> None:
        with session.step() if session else nullcontext():
            saved, result = model(x)
            with torch.no_grad():
                saved.mul_(2)
            result.sum().backward()

    with session or nullcontext():
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            change()
        assert session is None or session.saved_bytes == 0


@every_shipped
def test_a_change_of_what_no_backward_needs_is_no_error(strategy: Compressor) -> None:
    class Adds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            z = y + 1
            y.mul_(3)
            return (z * 1).exp() + y

    model, x = Adds(), torch.randn(40, 32, requires_grad=True)
    session = session_of(model, strategy)
    with session, session.step():
        model(x).sum().backward()
    assert x.grad.isfinite().all()


@every_exact
def test_parts_of_a_storage_whose_versions_are_counted_apart(strategy: Compressor) -> None:
    class Gates(nn.Module):
        """As torch's own GRU has it: parts of one storage that know nothing of each other are changed in turn."""

        def forward(self, x: Tensor) -> Tensor:
            first, second = (x * 1).unsafe_chunk(2, dim=-1)
            return first.sigmoid_() * second.sigmoid_()

    model, x = Gates(), torch.randn(40, 32, requires_grad=True)
    (exact,) = torch.autograd.grad(model(x).sum(), x)
    with session_of(model, strategy) as session, session.step():
        (found,) = torch.autograd.grad(model(x).sum(), x)
    assert torch.equal(found, exact)


# ---------------------------------------------------------------- kinds of tensors


def complex_product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.complex(x * weight, x.sin() * weight)


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    # Of rows and a parameter, both (40, 32): the tensor that will be saved.
    "view of a parameter": lambda x, weight: weight.t(),
    "slice of a parameter": lambda x, weight: weight[3:, ::2],
    "expanded parameter": lambda x, weight: weight[0].expand(7, 32),
    "view": lambda x, weight: (x * weight).view(5, 8, 32)[1:],
    "every other element": lambda x, weight: (x * weight)[::2, 1::2],
    "one column": lambda x, weight: (x * weight)[:, 3],
    "one element": lambda x, weight: (x * weight)[3, 3],
    "transposed": lambda x, weight: (x * weight).t(),
    "permuted": lambda x, weight: (x * weight).view(5, 4, 8, 8).permute(3, 0, 2, 1),
    "expanded rows": lambda x, weight: (x * weight).sum(0).expand(40, 32),
    "expanded columns": lambda x, weight: (x * weight).sum(1, keepdim=True).expand(40, 32),
    "expanded in between": lambda x, weight: (x * weight).view(8, 5, 32).unsqueeze(1).expand(8, 3, 5, 32),
    "windows": lambda x, weight: (x * weight).unfold(0, 5, 2),
    "diagonal": lambda x, weight: (x * weight).diagonal(),
    "overlapping": lambda x, weight: (x * weight).as_strided((30, 9), (3, 2), 5),
    "no elements": lambda x, weight: (x * weight)[:, :0],
    "no rows": lambda x, weight: (x[:0] * weight[:0]),
    "scalar": lambda x, weight: (x * weight).sum(),
    "part that is detached": lambda x, weight: (x * weight) * (x * weight).detach()[:, :1],
    "channels last": lambda x, weight: (x * weight).view(5, 4, 8, 8).to(memory_format=torch.channels_last),
    "channels last, made": lambda x, weight: F.max_pool2d(
        (x * weight).view(5, 4, 8, 8).to(memory_format=torch.channels_last), 2
    ),
    "convolution": lambda x, weight: F.conv2d((x * weight).view(5, 4, 8, 8), weight[:6].view(6, 4, 8, 1)),
    "convolution of one dimension": lambda x, weight: F.conv1d((x * weight).view(5, 8, 32), weight[:3].view(3, 8, 4)),
    "convolution of one channel": lambda x, weight: F.conv2d(
        (x * weight).view(5, 1, 16, 16), weight[:2].view(4, 1, 4, 4)
    ),
    "depthwise convolution": lambda x, weight: F.conv2d(
        (x * weight).view(5, 8, 4, 8), weight[:4].reshape(8, 1, 4, 4), groups=8
    ),
    "double": lambda x, weight: x.double() * weight.double(),
    "half": lambda x, weight: x.half() * weight.half(),
    "bfloat16": lambda x, weight: x.bfloat16() * weight.bfloat16(),
    "complex": lambda x, weight: torch.complex(x, x * weight),
    "real and imaginary parts": lambda x, weight: (y := complex_product(x, weight)).real * y.imag,
    "conjugate": lambda x, weight: (y := complex_product(x, weight)).conj() * y,
    "part of a conjugate": lambda x, weight: (y := complex_product(x, weight)).imag * y.conj().imag.sin(),
    "complex as real": lambda x, weight: torch.view_as_real(torch.complex(x, x * weight)),
    "real as complex": lambda x, weight: torch.view_as_complex((x * weight).view(-1, 2)),
    "bits": lambda x, weight: (x * weight) * (x * weight).detach().view(torch.int32).bitwise_and(1),
}  # fmt: skip


class Saves(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.randn(40, 32))

    def forward(self, x: Tensor) -> Tensor:
        y = KINDS[self.kind](x, self.weight)
        z = y * y.tanh() + y.cos()
        return z.abs() if z.is_complex() else z


@pytest.mark.parametrize("strategy", [*EXACT, RECOMPUTED, Int8(), zoo.Half()], ids=lambda s: s.name)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_bytes_of_every_kind_of_tensor(kind: str, strategy: Compressor) -> None:
    torch.manual_seed(0)
    model, x = Saves(kind), torch.randn(40, 32)
    model(x).sum().backward()
    exact = gradients(model)
    session = session_of(model, strategy)
    with session, session.step(), LiveLedger() as ledger:
        total = model(x.clone()).sum()
        edge, dtype = get_gradient_edge(total), total.dtype
        del total
        assert ledger.live_bytes == session.saved_bytes
        torch.autograd.backward(edge, torch.ones((), dtype=dtype))
        del edge
        assert session.saved_bytes == 0
    found = gradients(model)
    if strategy.exact or strategy.name == "copy":
        assert equal(found, exact)
    else:
        torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05 * exact[0].abs().max().item() + 1e-12)


@every_exact
def test_a_leaf_that_is_no_parameter_and_its_views(strategy: Compressor) -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(8, 5, 32).transpose(0, 2).square().sum() + x[3:].exp().sum() + x.square().sum()

    model, x = Views(), torch.randn(40, 32, requires_grad=True)
    (exact,) = torch.autograd.grad(model(x), x)
    session = exact_session(model, strategy)
    with session, session.step():
        (found,) = torch.autograd.grad(model(x), x)
    assert torch.equal(found, exact)
    assert session.saved_bytes == 0
