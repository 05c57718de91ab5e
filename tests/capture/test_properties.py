"""Whatever a model does with views, changes in place and types, and whatever a loop does with sessions: as autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from compbench_plugins.checkpoint import Checkpoint
from compbench_plugins.identity import Identity
from compbench_plugins.recompute import Recompute
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks

from compbench.capture.session import Session
from compbench.compressor import Compressor
from compbench.measure.live import LiveLedger
from tests.capture import zoo
from tests.capture.zoo import session_of

EXACT = [Identity(), zoo.Copy(), zoo.Nothing(), Recompute(preset="cheap"), Checkpoint()]

every_exact = pytest.mark.parametrize("strategy", EXACT, ids=str)

# Some of what is made here has nothing to compress, which sessions say.
pytestmark = pytest.mark.filterwarnings("ignore::compbench.errors.CaptureWarning")

# ---------------------------------------------------------------- programs

LARGEST = 2000
"""Elements; what would be larger is cut."""


def fitted(b: Tensor, a: Tensor) -> Tensor:
    """``b``, or one figure of it where its shape does not fit ``a``'s."""
    try:
        fits = torch.broadcast_shapes(a.shape, b.shape) == a.shape
    except RuntimeError:
        fits = False
    return b if fits else b.reshape(-1)[:1].sum()


def another(b: Tensor, a: Tensor) -> Tensor:
    """``b`` fitted, and not ``a``: torch never frees a graph in which a tensor was multiplied by itself in place."""
    return fitted(b.clone() if b is a else b, a)


def dimension(a: Tensor, n: int) -> int:
    return n % a.dim() if a.dim() else 0


def strided(a: Tensor, n: int) -> Tensor:
    """Overlapping rows, from where ``a`` begins."""
    left = a.untyped_storage().nbytes() // a.itemsize - a.storage_offset()
    return a.as_strided((max((left - 4) // (n + 1), 0), 3), (n + 1, 2)) if left > 4 else a


def bumped(a: Tensor) -> None:
    """A change that autograd is not told of, but for the version."""
    with torch.no_grad():
        a.add_(1)


VIEWS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "flatten": lambda a, b, n: a.reshape(-1),
    "unflatten": lambda a, b, n: a.unflatten(-1, (2, -1)) if a.dim() and a.shape[-1] % 2 == 0 and a.numel() else a,
    "transpose": lambda a, b, n: a.transpose(dimension(a, n), -1) if a.dim() else a,
    "slice": lambda a, b, n: a[n:] if a.dim() else a,
    "step": lambda a, b, n: a[..., ::2] if a.dim() else a,
    "expand": lambda a, b, n: a.unsqueeze(-1).expand(*a.shape, 2) if n % 2 else a.expand(2, *a.shape),
    "chunk": lambda a, b, n: a.chunk(2, dimension(a, n))[-1] if a.dim() else a,
    "unsafe chunk": lambda a, b, n: a.unsafe_chunk(2, dimension(a, n))[n % 2 - 1] if a.dim() and a.numel() else a,
    "select": lambda a, b, n: a.select(dimension(a, n), -1) if a.numel() and a.dim() else a,
    "diagonal": lambda a, b, n: a.diagonal() if a.dim() > 1 else a,
    "strided": lambda a, b, n: strided(a, n),
    "detach": lambda a, b, n: a.detach(),
    "alias": lambda a, b, n: a.view_as(a),
}  # fmt: skip
VALUES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "square": lambda a, b, n: a.square(),
    "sin": lambda a, b, n: a.sin(),
    "tanh": lambda a, b, n: a.tanh(),
    "relu": lambda a, b, n: a.relu(),
    "multiply": lambda a, b, n: a * fitted(b, a),
    "add": lambda a, b, n: a + fitted(b, a),
    "scale": lambda a, b, n: a * (n + 0.5),
    "matmul": lambda a, b, n: a @ a.transpose(-1, -2) / 9 if a.dim() > 1 else a,
    "softmax": lambda a, b, n: a.softmax(dimension(a, n)),
    "norm": lambda a, b, n: F.layer_norm(a, a.shape[-1:]) if a.dim() and a.numel() else a,
    "sum": lambda a, b, n: a.sum(dimension(a, n), keepdim=True),
    "join": lambda a, b, n: torch.cat([a, a], dimension(a, n)) if a.dim() else a,
    "copy": lambda a, b, n: a.clone(),
    "double": lambda a, b, n: a.double(),
    "bfloat16": lambda a, b, n: a.bfloat16(),
    "image": lambda a, b, n: F.conv1d(a, a.detach()[:2, :, :2]) if a.dim() == 3 and min(a.shape) > 1 else a,
}
IN_PLACE: dict[str, Callable[[Tensor, Tensor, int], object]] = {
    "multiply_": lambda a, b, n: a.mul_(another(b, a)),
    "add_": lambda a, b, n: a.add_(fitted(b, a)),
    "scale_": lambda a, b, n: a.mul_(n + 0.5),
    "tanh_": lambda a, b, n: a.tanh_(),
    "relu_": lambda a, b, n: a.relu_(),
    "sigmoid_": lambda a, b, n: a.sigmoid_(),
    "copy_": lambda a, b, n: a.copy_(fitted(b, a)),
    "bump": lambda a, b, n: bumped(a),
}
INSTRUCTIONS = VIEWS | VALUES | IN_PLACE

Program = list[tuple[str, int, int, int]]


def programs(names: list[str]) -> st.SearchStrategy[Program]:
    """Lists of an instruction, the places of its operands, the last being 0, and a number."""
    return st.lists(
        st.tuples(st.sampled_from(names), st.integers(0, 3), st.integers(0, 9), st.integers(0, 3)),
        min_size=2,
        max_size=12,
    )


class Runs(nn.Module):
    """Runs a program on a growing list of tensors, of which an instruction takes two and adds its result."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.scale = nn.Parameter(torch.linspace(-1, 1, 12 * 16).view(12, 16))
        self.weight = nn.Parameter(torch.linspace(-0.5, 0.7, 16 * 16).view(16, 16))

    def forward(self, x: Tensor) -> list[Tensor]:
        tensors = [self.weight, x * self.scale]
        for name, place, other, number in self.program:
            a, b = tensors[-1 - place % len(tensors)], tensors[-1 - other % len(tensors)]
            if name in IN_PLACE:
                INSTRUCTIONS[name](a, b, number)
            else:
                result = INSTRUCTIONS[name](a, b, number)
                if result.numel() <= LARGEST:
                    tensors.append(result)
        return tensors


def loss_of(tensors: list[Tensor]) -> Tensor:
    return torch.stack([x.double().cos().sum() for x in tensors if x.requires_grad]).sum()


def after_a_failure() -> None:
    """Lets go of what torch's queue kept of a backward pass that failed: it is emptied by the next one."""
    torch.ones((), requires_grad=True).mul(1).backward()


def outcome(program: Program, session: Callable[[nn.Module], Session] | None) -> tuple[list[Tensor], str]:
    """The gradients, or the error instead of them. Under a session every byte is accounted for on the way."""
    model = Runs(program)
    x = torch.linspace(-2, 2, 12 * 16).view(12, 16)
    session = session(model) if session else None
    error = ""
    with session or nullcontext():
        try:
            with session.step() if session else nullcontext(), LiveLedger() as ledger:
                edge = get_gradient_edge(loss_of(model(x.clone())))
                assert session is None or ledger.live_bytes == session.saved_bytes
                torch.autograd.backward(edge, torch.ones((), dtype=torch.double))
        except RuntimeError as found:
            error = "changed in place" if "modified by an inplace operation" in str(found) else str(found)
        edge = None
        after_a_failure()
        assert session is None or session.saved_bytes == 0
    return [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()], error


def goes_on_with_changed_values(program: Program) -> bool:
    """Whether something that plain autograd has saved is changed unnoticed before it is used.

    Parts of an unsafe chunk count their changes apart. Torch then goes on with the changed values; whoever has let go
    of the storage can't know of the change either, and goes on with those of the forward pass.
    """
    changed = []

    def unpack(saved: tuple[Tensor, Tensor]) -> Tensor:
        tensor, before = saved
        changed.append(not torch.equal(tensor.nan_to_num(), before.nan_to_num()))
        return tensor

    with saved_tensors_hooks(lambda tensor: (tensor.detach(), tensor.detach().clone()), unpack):
        loss_of(Runs(program)(torch.linspace(-2, 2, 12 * 16).view(12, 16))).backward()
    return any(changed)


def same(program: Program, strategy: Compressor) -> None:
    """Gradients or the error are those of plain autograd, and every byte is accounted for."""
    gradients, error = outcome(program, None)
    found, found_error = outcome(program, lambda model: session_of(model, strategy, attention="literal"))
    if isinstance(strategy, Checkpoint) and found_error and not error:
        return  # what only a recipe begins with may not be changed either, as with the inputs of torch's checkpoints
    assert found_error == error
    keeps_storages = isinstance(strategy, (Identity, zoo.Nothing))
    if not error and (keeps_storages or not goes_on_with_changed_values(program)):
        for a, b in zip(gradients, found, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)


@every_exact
@settings(max_examples=250, derandomize=True)
@given(program=programs([*VIEWS, *VALUES]))
def test_views_and_types(strategy: Compressor, program: Program) -> None:
    same(program, strategy)


@every_exact
@settings(max_examples=350, derandomize=True)
@given(program=programs([*INSTRUCTIONS, *IN_PLACE]))
def test_changes_in_place(strategy: Compressor, program: Program) -> None:
    same(program, strategy)


def unique_bytes(program: Program) -> int:
    """Bytes of the storages that autograd saves, without a session and without parameters."""
    model = Runs(program)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())
        return saved[-1]

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model(torch.linspace(-2, 2, 12 * 16).view(12, 16)))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.parametrize("strategy", [Identity(), zoo.Nothing()], ids=lambda s: s.name)
@settings(max_examples=250, derandomize=True)
@given(program=programs([*VIEWS, *VALUES, *IN_PLACE]))
def test_reported_bytes_are_those_of_the_unique_storages(strategy: Compressor, program: Program) -> None:
    try:
        expected = unique_bytes(program)
    except RuntimeError:
        return  # refused by torch, such as changes of a leaf
    model = Runs(program)
    with session_of(model, strategy) as session, session.step():
        loss = loss_of(model(torch.linspace(-2, 2, 12 * 16).view(12, 16)))
        assert session.saved_bytes == expected
        session.skip()
        del loss
    assert session.saved_bytes == 0


# ---------------------------------------------------------------- interleavings


def run(what: str, model: nn.Module, x: Tensor) -> list[Tensor]:
    """One kind of pass, and its gradients."""
    loss = model(x).square().mean()
    if what == "dropped":
        return []
    if what == "twice":
        loss = loss + model(x * 2).sin().mean()
    if what == "evaluated":
        with torch.no_grad():
            model(x)
    if what == "retained":
        loss.backward(retain_graph=True)
    if what == "fails after":
        raise ZeroDivisionError
    if what == "fails in backward":
        again = model(x)
        again.register_hook(lambda gradient: 1 / 0)
        loss = again.square().mean() + loss
    loss.backward()
    return [p.grad for p in model.parameters()]


PASSES = ["once", "dropped", "twice", "evaluated", "retained", "fails after", "fails in backward"]
PLACES = ["step", "probe", "paused"]

commands = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 2)),
    st.tuples(st.just("close")),
    st.tuples(st.just("evaluate"), st.integers(0, 1)),
    st.tuples(st.sampled_from(PLACES), st.integers(0, 1), st.sampled_from(PASSES)),
    st.tuples(st.sampled_from(PLACES), st.integers(0, 1), st.sampled_from(PASSES)),
    st.tuples(st.just("both")),
)


class Loop:
    """Two models, and the sessions on them that are open, innermost last."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.models = zoo.Recursive(calls=2), zoo.Residual()
        self.inputs = torch.randn(3, 5, 32), torch.randn(2, 3, 6, 6)
        self.opened: list[Session] = []
        self.closed: list[Session] = []

    def open(self, k: int, strategy: Compressor) -> None:
        self.opened.append(session_of(self.models[k], strategy, attention="literal").__enter__())

    def close(self) -> None:
        self.closed.append(self.opened.pop())
        self.closed[-1].__exit__(None, None, None)

    @contextmanager
    def place(self, k: int, place: str) -> Iterator[Session | None]:
        """A step, a probe or a pause of the innermost open session on model ``k``, if there is one."""
        session = next((session for session in reversed(self.opened) if session.model is self.models[k]), None)
        if session is None:
            yield None
            return
        if place == "paused" and self.opened != [session]:
            place = "step"  # only the innermost can pause, and one around it would want a step
        with getattr(session, place)():
            yield session if place == "step" else None

    def train(self, k: int, place: str, what: str) -> list[Tensor] | None:
        """The gradients of model ``k``; None if the pass failed."""
        self.models[k].zero_grad(set_to_none=True)
        try:
            with self.place(k, place) as session:
                if session is not None and what == "dropped":
                    session.skip()
                return run(what, self.models[k], self.inputs[k])
        except ZeroDivisionError:
            return None

    def both(self) -> list[Tensor]:
        """The gradients of both models, from one loss."""
        for model in self.models:
            model.zero_grad(set_to_none=True)
        with self.place(0, "step"), self.place(1, "step"):
            first, second = (model(x).square().mean() for model, x in zip(self.models, self.inputs, strict=True))
            (first * second).backward()
        return [p.grad for model in self.models for p in model.parameters()]


def equal(first: list[Tensor] | None, second: list[Tensor] | None) -> bool:
    if first is None or second is None:
        return first is second
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


STRATEGIES = [(0, Identity()), (1, zoo.Copy()), (0, zoo.Copy()), (0, Recompute()), (1, Checkpoint())]
"""On which model, and what."""


@settings(max_examples=100, derandomize=True)
@given(plan=st.lists(commands, min_size=3, max_size=12))
def test_interleaved_sessions_passes_and_failures(plan: list[tuple]) -> None:
    loop, plain = Loop(), Loop()
    try:
        for command, *rest in plan:
            if command == "open":
                loop.open(*STRATEGIES[rest[0]])
            elif command == "close" and loop.opened:
                loop.close()
            elif command == "evaluate":
                with torch.no_grad():
                    assert torch.equal(*(side.models[rest[0]](side.inputs[rest[0]]) for side in (loop, plain)))
            elif command in PLACES:
                assert equal(loop.train(rest[0], command, rest[1]), plain.train(rest[0], command, rest[1]))
            elif command == "both":
                assert equal(loop.both(), plain.both())
            after_a_failure()
            assert all(session.saved_bytes == 0 for session in loop.opened + loop.closed)
    finally:
        while loop.opened:
            loop.close()
