"""The operators' route: gradients from what was kept, at its rank, and what follows from it not kept at all."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench import Codec, Compressor, Payload, Site, compress
from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.measure.live import LiveLedger
from compbench.workloads.trm import TinyRecursiveModel
from tests.capture import zoo

EXPANSIONS: list[int] = []


class Factored(Payload):
    """Rows as ``Z Q^T``."""

    def __init__(self, rows: Tensor, basis: Tensor) -> None:
        self.coefficients_, self.basis = rows @ basis, basis

    def decode(self) -> Tensor:
        EXPANSIONS.append(len(self.coefficients_))
        return self.coefficients_ @ self.basis.T

    def rank(self) -> int:
        return self.basis.shape[1]

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.coefficients_, self.basis

    def tensors(self) -> tuple[Tensor, ...]:
        return self.coefficients_, self.basis


class FixedCodec(Codec):
    """One basis for all calls."""

    def __init__(self, width: int, rank: int) -> None:
        generator = torch.Generator().manual_seed(width)
        self.basis = torch.linalg.qr(torch.randn(width, rank, generator=generator)).Q
        self.rank = rank

    def encode(self, rows: Tensor) -> Payload:
        return Factored(rows, self.basis.to(rows.dtype))

    def weight_gradient_operations(self, rows: int, outputs: int) -> int:
        return rows * self.rank * (len(self.basis) + outputs)

    def state(self) -> tuple[Tensor, ...]:
        return (self.basis,)


class Fixed(Compressor):
    """A random basis that never moves."""

    name = "fixed"
    rank: int = 4

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        return FixedCodec(site.width, min(self.rank, site.width))


class Tied(nn.Module):
    """One linear layer, called several times over on rows of its own."""

    def __init__(self, outputs: int = 24, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(16, outputs, bias=bias)

    def forward(self, *rows: Tensor) -> Tensor:
        return torch.cat([self.layer(x * 1) for x in rows])  # what a layer gets is an activation, and no leaf


def session_of(model: nn.Module, compressor: Compressor, routes: str = "operators", **settings: object) -> Session:
    return Session(model, compressor, CaptureSettings(minimum_elements=64, routes=routes, **settings))


def trm(hidden: int = 32, calls: int = 3) -> TinyRecursiveModel:
    return TinyRecursiveModel(
        vocabulary=6,
        positions=16,
        hidden=hidden,
        heads=4,
        inner=3 * hidden,
        layers=1,
        h_cycles=1,
        l_cycles=calls - 1,
        gradient="all",
        theta=100.0,
        generator=torch.Generator().manual_seed(0),
    )


def gradients(model: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return found


def test_weight_gradients_are_formed_at_the_rank_of_the_rows_and_expanded_once() -> None:
    model, strategy = Tied(), Fixed()
    rows = [torch.randn(5, 3, 16, requires_grad=True) for _ in range(4)]
    weights = [torch.randn(5, 3, 24) for _ in rows]
    EXPANSIONS.clear()
    with session_of(model, strategy) as session, session.step():
        (model(*rows) * torch.cat(weights)).sum().backward()
    assert EXPANSIONS == []  # no rows were rebuilt
    basis = FixedCodec(16, 4).basis
    narrow = sum(g.reshape(-1, 24).T @ (x.detach().reshape(-1, 16) @ basis) for x, g in zip(rows, weights, strict=True))
    torch.testing.assert_close(model.layer.weight.grad, narrow @ basis.T)
    torch.testing.assert_close(model.layer.bias.grad, torch.cat(weights).sum((0, 1)))
    for x, g in zip(rows, weights, strict=True):
        torch.testing.assert_close(x.grad, g @ model.layer.weight.detach())


def test_both_routes_give_the_same_gradients_where_nothing_but_linear_layers_saves() -> None:
    found = {}
    for routes in ("operators", "hooks"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8, bias=False))
        x = torch.randn(40, 16)
        with session_of(model, Fixed(rank=6), routes) as session:
            for _ in range(2):  # the second is the sum of both
                with session.step():
                    model(x).square().sum().backward()
        found[routes] = gradients(model)
    for own, hooks in zip(found["operators"], found["hooks"], strict=True):
        torch.testing.assert_close(own, hooks, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("product", ["matmul", "@", "mm", "addmm"])
def test_products_with_a_parameter_are_linear_layers(product: str) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(16, 24)), nn.Parameter(torch.randn(24))

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            if product == "addmm":
                return torch.addmm(self.bias, x, self.weight)
            if product == "@":
                return x @ self.weight + self.bias
            return getattr(torch, product)(x, self.weight) + self.bias

    model, x, g = Product(), torch.randn(40, 16, requires_grad=True), torch.randn(40, 24)
    with session_of(model, Fixed()) as session, session.step():
        output = model(x)
        assert torch.equal(output, x @ model.weight + model.bias) or torch.allclose(
            output, x @ model.weight + model.bias
        )
        (output * g).sum().backward()
    basis = FixedCodec(16, 4).basis
    torch.testing.assert_close(model.weight.grad, basis @ (x.detach() @ basis).T @ g, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.bias.grad, g.sum(0))
    torch.testing.assert_close(x.grad, g @ model.weight.detach().T)
    assert session.operators()["own function"]


def test_a_graph_can_be_used_twice_and_two_forwards_once() -> None:
    model, strategy = Tied(), Fixed()
    first, second = torch.randn(30, 16), torch.randn(20, 16)

    def once(x: Tensor) -> list[Tensor]:
        with session_of(model, strategy) as session, session.step():
            model(x).square().sum().backward()
        return gradients(model)

    alone = [once(first), once(second)]
    with session_of(model, strategy) as session:
        with session.step():
            loss = model(first).square().sum()
            loss.backward(retain_graph=True)
            loss.backward()
        for found, one in zip(gradients(model), alone[0], strict=True):
            torch.testing.assert_close(found, 2 * one)
        with session.step():
            losses = [model(x).square().sum() for x in (first, second)]
            losses[1].backward()
            for found, one in zip(gradients(model), alone[1], strict=True):
                torch.testing.assert_close(found, one)
            losses[0].backward()
        for found, one in zip(gradients(model), alone[0], strict=True):
            torch.testing.assert_close(found, one)
        with session.step():
            sum(model(x).square().sum() for x in (first, second)).backward()
        for found, one, other in zip(gradients(model), *alone, strict=True):
            torch.testing.assert_close(found, one + other)
        with session.step():
            loss = model(first).square().sum()
            loss.backward()
            with pytest.raises(RuntimeError, match="backward through the graph a second time"):
                loss.backward()


def test_gradients_of_some_inputs_alone_leave_nothing_behind() -> None:
    model, strategy = Tied(), Fixed()
    x = torch.randn(30, 16, requires_grad=True)
    with session_of(model, strategy) as session:
        with session.step():
            model(x).square().sum().backward()
        expected = gradients(model)
        with session.step():
            loss = model(x).square().sum()
            (of_x,) = torch.autograd.grad(loss, x, retain_graph=True)
            (of_weight,) = torch.autograd.grad(loss, model.layer.weight, retain_graph=True)
            loss.backward()
        with torch.no_grad():
            torch.testing.assert_close(of_x, 2 * model(x) @ model.layer.weight)
        torch.testing.assert_close(of_weight, expected[0])
        for found, one in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(found, one)


def test_hooks_on_a_weight_see_its_whole_gradient_once() -> None:
    model, seen = Tied(), []
    model.layer.weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    with session_of(model, Fixed()) as session, session.step():
        model(torch.randn(9, 16), torch.randn(9, 16)).sum().backward()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], model.layer.weight.grad)


def test_second_derivatives_are_those_of_autograd() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return F.rms_norm(self.layer(F.rms_norm(x, (16,), eps=1e-3)), (16,))

    torch.manual_seed(0)
    model, x = Normed(), torch.randn(12, 16, dtype=torch.float64, requires_grad=True)

    def penalty() -> list[Tensor]:
        (slope,) = torch.autograd.grad(model(x).pow(3).sum(), x, create_graph=True)
        slope.square().sum().backward()
        found = [x.grad.clone(), *gradients(model)]
        x.grad = None
        return found

    expected = penalty()
    with session_of(model, zoo.Copy()) as session, session.step():
        found = penalty()
        assert session.operators()["own function"] == 3
    for own, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(own, exact)


class Gated(nn.Module):
    """Gate and up from one layer or from two, in either order; what the activation gives may be used again."""

    def __init__(self, activation: str, parts: str, again: bool = False) -> None:
        super().__init__()
        self.activate = {"silu": F.silu, "gelu": F.gelu, "tanh": lambda x: F.gelu(x, approximate="tanh")}[activation]
        self.parts, self.again = parts, again
        self.both = nn.Linear(16, 48, bias=False, dtype=torch.float64)
        self.other = nn.Linear(16, 24, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, dim=-1)
        if self.parts == "second":
            gate, up = up, gate
        if self.parts == "apart":
            up = self.other(x)
        activated = self.activate(gate)
        product = up * activated if self.parts == "second" else activated * up
        return product + activated.square() if self.again else product


@pytest.mark.parametrize("activation", ["silu", "gelu", "tanh"])
@pytest.mark.parametrize("parts", ["first", "second", "apart"])
@pytest.mark.parametrize("again", [False, True])
def test_gated_units_have_autograds_derivatives_of_both_orders(activation: str, parts: str, again: bool) -> None:
    torch.manual_seed(0)
    model, x = Gated(activation, parts, again), torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 5, 24, dtype=torch.float64)

    def first() -> list[Tensor]:
        output = model(x * 1)
        (output * g).sum().backward()
        found = [output.detach().clone(), x.grad.clone(), *gradients(model)]
        x.grad = None
        return found

    def second() -> list[Tensor]:
        (slope,) = torch.autograd.grad((model(x * 1) * g).sum(), x, create_graph=True)
        slope.square().sum().backward()
        found = [x.grad.clone(), *gradients(model)]
        x.grad = None
        return found

    expected = first(), second()
    with session_of(model, zoo.Copy()) as session:
        for exact, run in zip(expected, (first, second), strict=True):
            with session.step():
                found = run()
            names = {name for name, reason in session._operators.route.counts if reason == "own function"}
            assert "mul" in names
            for own, plain in zip(found, exact, strict=True):
                torch.testing.assert_close(own, plain)


def test_a_product_with_something_else_in_between_is_torchs_own() -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 48)

        def forward(self, x: Tensor) -> Tensor:
            gate, up = self.layer(x).chunk(2, dim=-1)
            activated = F.silu(gate)
            gate = gate * 2  # neither the activation nor its gate any more
            return activated * up + gate

    model, x = Between(), torch.randn(10, 16)
    model(x).square().sum().backward()
    expected = gradients(model)
    with session_of(model, zoo.Copy()) as session, session.step():
        model(x).square().sum().backward()
    for found, exact in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, exact)


def autocast(model: nn.Module, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        model(x).sum().backward()


def forward_mode(model: nn.Module, x: Tensor) -> None:
    with torch.autograd.forward_ad.dual_level():
        model(torch.autograd.forward_ad.make_dual(x, x)).sum().backward()


def frozen(model: nn.Module, x: Tensor) -> None:
    model.layer.weight.requires_grad_(False)
    model(x).sum().backward()


def complex_numbers(model: nn.Module, x: Tensor) -> None:
    model.to(torch.complex64)
    model(x.to(torch.complex64)).abs().sum().backward()


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (autocast, "autocast"),
        (forward_mode, "forward-mode derivatives"),
        (frozen, "the weight takes no gradient"),
        (complex_numbers, "not plain real tensors"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_the_own_functions_do_not_cover_takes_the_hooks_and_is_counted(run: object, reason: str) -> None:
    model, x = Tied(), torch.randn(40, 16, requires_grad=True)
    with session_of(model, zoo.Copy()) as session, session.step():
        run(model, x)
    assert session.operators() == {reason: 1}
    assert f"1 linear: torch's own, since {reason}" in str(session.sites())


def test_a_function_transform_takes_the_hooks() -> None:
    class Each(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 24)

        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(self.layer)(x)

    model, x = Each(), torch.randn(40, 16)
    model(x).square().sum().backward()
    expected = gradients(model)
    with session_of(model, zoo.Copy()) as session, session.step():
        model(x).square().sum().backward()
    for found, exact in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, exact)
    assert "own function" not in session.operators()


def test_exact_strategies_take_the_hooks_and_stay_bit_identical() -> None:
    model, tokens = trm(), torch.randint(6, (4, 16))
    model(tokens).square().sum().backward()
    expected = gradients(model)
    with compress(model, "identity", routes="operators") as session, session.step():
        model(tokens).square().sum().backward()
    assert all(torch.equal(found, exact) for found, exact in zip(gradients(model), expected, strict=True))
    assert session.operators() == {}


def test_a_recursive_block_keeps_nothing_that_follows_from_the_inputs_of_its_linear_layers() -> None:
    calls, batch, hidden, rank = 3, 4, 32, 4
    model, tokens = trm(hidden, calls), torch.randint(6, (batch, 16))
    rows = batch * 16
    with session_of(model, Fixed(rank=rank)) as session:
        for _ in range(2):
            with LiveLedger() as ledger, session.step():
                loss = model(tokens).square().sum()
                gc.collect()
                alive, reported = ledger.live_bytes, session.saved_bytes
                loss.backward()
                del loss
    kept = {site.name: site for site in session.sites() if site.kept_bytes and not site.reason}
    # What goes into qkv, out and down, and the outputs of both norms, which are the inputs of gate_up and of the head.
    assert {name: (site.width, site.calls) for name, site in kept.items()} == {
        "block.attn.qkv/attn_32": (hidden, calls),
        "block.attn.out/attn_32": (hidden, calls),
        "block/block_32": (hidden, calls),
        "block.mlp.down/mlp_96": (3 * hidden, calls),
        "block/block_32#1": (hidden, calls),
    }
    for site in kept.values():
        assert site.kept_bytes == 4 * (calls * rows * rank + site.width * rank)
    # Alive beyond what is saved: the loss, and what the square saves; saved but made before: the bases, the tokens.
    bases = 4 * rank * sum(site.width for site in kept.values())
    assert alive - 4 == reported - bases - tokens.nbytes
    assert session.saved_bytes == 0


def test_gradients_of_a_recursive_block_are_better_than_through_hooks_and_the_loss_is_the_same() -> None:
    model, tokens = trm(), torch.randint(6, (8, 16))
    exact_loss = model(tokens).square().mean()
    exact_loss.backward()
    exact = torch.cat([g.flatten() for g in gradients(model)])
    cosines = {}
    for routes in ("hooks", "operators"):
        with compress(model, "laser", rank=8, max_rank=8, routes=routes, minimum_elements=64) as session:
            for _ in range(3):
                model.zero_grad()
                with session.step():
                    loss = model(tokens).square().mean()
                    loss.backward()
                assert loss.item() == exact_loss.item()
        found = torch.cat([g.flatten() for g in gradients(model)])
        cosines[routes] = F.cosine_similarity(found.double(), exact.double(), dim=0).item()
    assert cosines["operators"] > cosines["hooks"]
    assert cosines["operators"] > 0.98


def test_where_a_low_rank_costs_more_than_computing_again_nothing_is_kept_for_the_weight() -> None:
    model, tokens = trm(), torch.randint(6, (4, 16))
    with session_of(model, Fixed(rank=31)) as session, session.step():
        model(tokens).square().sum().backward()
    reasons = {site.name: site.reason for site in session.sites()}
    # 31 (96 + 32) > 96 * 32: the input of down, which is gate and up at hand, is not worth a basis.
    assert "block.mlp.down/mlp_96" in reasons
    assert reasons["block.mlp.down/mlp_96"].startswith("computed again")


def test_sites_that_are_not_chosen_stay_as_they_are() -> None:
    model, tokens = trm(), torch.randint(6, (4, 16))
    with session_of(model, Fixed(rank=4), sites=("!block.attn*",)) as session, session.step():
        model(tokens).square().sum().backward()
    attention = [site for site in session.sites() if site.name.startswith("block.attn")]
    assert attention
    assert all(site.kept_bytes == site.raw_bytes for site in attention)


def test_a_model_and_its_session_are_freed_at_once() -> None:
    import weakref

    model = trm()
    session = session_of(model, Fixed())
    with session, session.step():
        model(torch.randint(6, (4, 16))).square().sum().backward()
    gone = [weakref.ref(model), weakref.ref(session)]
    gc.disable()
    try:
        del model, session
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()
