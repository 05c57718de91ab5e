"""Weight gradients from what was kept: of linear layers and convolutions, at a rank where that is less work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench import Compressor, compress
from compbench.registry import Registry
from tests.capture import zoo
from tests.capture.routes_after_training import STRATEGIES, cosines
from tests.capture.test_route import EXPANSIONS, Fixed, FixedCodec, Tied, gradients, session_of, trm

REGISTRY = Registry.load(None)
SHIPPED = [
    REGISTRY.compressor(name, **({"rank": 8} if "rank" in registered.record.model_fields else {}))
    for name, registered in REGISTRY.compressors.items()
]

CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "1d": lambda: nn.Conv1d(16, 10, 3, padding=1),
    "1d, strided": lambda: nn.Conv1d(16, 10, 4, stride=2, bias=False),
    "2d": lambda: nn.Conv2d(16, 10, 3, padding=(1, 0), stride=(1, 2)),
    "2d, dilated": lambda: nn.Conv2d(16, 10, (2, 3), dilation=2),
    "3d": lambda: nn.Conv3d(16, 6, 2),
}


def images(name: str) -> tuple[Tensor, Tensor]:
    shape = {"1": (3, 16, 12), "2": (3, 16, 7, 8), "3": (2, 16, 4, 5, 6)}[name[0]]
    return torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)


class Twice(nn.Module):
    """One convolution, called on two batches."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *batches: Tensor) -> Tensor:
        return torch.cat([self.layer(x * 1) for x in batches])


def weighted(output: Tensor) -> Tensor:
    return (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_convolutions_weight_gradient_is_that_of_its_images_in_the_basis(name: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    model, batches = Twice(CONVOLUTIONS[name]()), images(name)
    if channels_last:
        if name[0] != "2":
            pytest.skip("a layout of two dimensions")
        model.to(memory_format=torch.channels_last)
        batches = tuple(x.detach().to(memory_format=torch.channels_last).requires_grad_() for x in batches)
    EXPANSIONS.clear()
    with session_of(model, Fixed(rank=4)) as session, session.step():
        weighted(model(*batches)).backward()
    assert EXPANSIONS == []  # no rows were rebuilt
    assert session.operators() == {"own function": 2}
    assert "2 calls' weight gradients: at the rank of what was kept" in str(session.sites())
    of_images = [x.grad.clone() for x in batches]
    found = gradients(model)

    weighted(model(*batches)).backward()
    for x, own in zip(batches, of_images, strict=True):
        torch.testing.assert_close(own, x.grad - own, rtol=1e-4, atol=1e-4)
    model.zero_grad()
    basis = FixedCodec(16, 4).basis
    projected = [torch.einsum("bc...,cd->bd...", x.detach(), basis @ basis.T) for x in batches]
    weighted(model(*projected)).backward()
    for own, exact in zip(found, gradients(model), strict=True):
        torch.testing.assert_close(own, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_have_autograds_derivatives_of_both_orders(groups: int, bias: bool) -> None:
    torch.manual_seed(0)
    model = Twice(nn.Conv2d(8, 12, 3, padding=1, stride=2, groups=groups, bias=bias, dtype=torch.float64))
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64, requires_grad=True)

    def first() -> list[Tensor]:
        output = model(x)
        weighted(output).backward()
        found = [output.detach(), x.grad.clone(), *gradients(model)]
        x.grad = None
        return found

    def second() -> list[Tensor]:
        (slope,) = torch.autograd.grad(model(x).pow(3).sum(), x, create_graph=True)
        slope.square().sum().backward()
        found = [x.grad.clone(), *gradients(model)]
        x.grad = None
        return found

    for run in (first, second):
        expected = run()
        with session_of(model, zoo.Copy()) as session, session.step():
            found = run()
        assert session.operators() == {"own function": 1}
        for own, exact in zip(found, expected, strict=True):
            torch.testing.assert_close(own, exact)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(16, 8, 3, padding="same"), "padding by name"),
        (nn.Conv2d(16, 8, 3).requires_grad_(False), "the weight takes no gradient"),
    ],
    ids=["padding", "frozen"],
)
def test_convolutions_that_are_not_covered_are_torchs_own(layer: nn.Module, reason: str) -> None:
    model, (x, _) = Twice(layer), images("2d")
    weighted(model(x)).backward()
    expected = [x.grad.clone(), *gradients(model)]
    x.grad = None
    with session_of(model, zoo.Copy()) as session, session.step():
        weighted(model(x)).backward()
    assert session.operators() == {reason: 1}
    for own, exact in zip([x.grad, *gradients(model)], expected, strict=True):
        torch.testing.assert_close(own, exact)


class Sine(Tied):
    """A linear layer of rows that no recipe gives again."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.sin())


@pytest.mark.parametrize(("rank", "way"), [(15, "dearer"), (4, "at rank")])
def test_where_the_rank_is_more_work_rows_are_rebuilt_and_the_report_says_so(rank: int, way: str) -> None:
    # 15 * 24 * (20 + 16) = 12,960 multiplications at rank 15, against 20 * 16 * 24 + 20 * 15 * 16 = 12,480.
    torch.manual_seed(0)
    model, x, g = Sine(bias=False), torch.randn(20, 16, requires_grad=True), torch.randn(20, 24)
    EXPANSIONS.clear()
    with session_of(model, Fixed(rank=rank)) as session, session.step():
        (model(x) * g).sum().backward()
    basis = FixedCodec(16, rank).basis
    torch.testing.assert_close(model.layer.weight.grad, g.T @ x.detach().sin() @ basis @ basis.T)
    assert len(EXPANSIONS) == (way == "dearer")
    told = {
        "dearer": "1 calls' weight gradients: from rebuilt rows, since the rank is more work",
        "at rank": "1 calls' weight gradients: at the rank of what was kept",
    }
    assert told[way] in str(session.sites())


@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: strategy.name)
def test_weight_gradients_alone_are_those_of_hooks_and_keep_the_same(strategy: Compressor) -> None:
    if strategy.exact or strategy.changes_the_graph():
        pytest.skip("torch's own operators run, or others are kept")
    tokens, found, kept = torch.randint(6, (8, 16)), {}, {}
    for routes in ("hooks", "weight_gradients"):
        model = trm(hidden=32)
        with compress(model, strategy, routes=routes, minimum_elements=64) as session:
            for _ in range(3):
                model.zero_grad()
                with session.step():
                    model(tokens).square().mean().backward()
        found[routes] = gradients(model)
        kept[routes] = {site.name: (site.kept_bytes, site.calls, site.reason) for site in session.sites()}
    assert kept["weight_gradients"] == kept["hooks"]
    for own, hooks in zip(found["weight_gradients"], found["hooks"], strict=True):
        scale = hooks.abs().max().item()
        torch.testing.assert_close(own, hooks, rtol=1e-3, atol=1e-4 * scale)


def test_attentions_operands_are_kept_apart_where_that_is_no_more_than_their_product() -> None:
    """What is kept is then queries and keys as they were rotated, and a copy of the values."""
    model, tokens = trm(hidden=32), torch.randint(6, (4, 16))
    model(tokens).square().sum().backward()
    expected = gradients(model)
    with compress(model, [{"recompute": {"preset": "cheap"}}], minimum_elements=64) as session, session.step():
        model(tokens).square().sum().backward()
    assert all(torch.equal(own, exact) for own, exact in zip(gradients(model), expected, strict=True))
    unit = 4 * 16 * 32 * 4
    # A sum goes into q-k-v, another to the norm after attention and a third after the network, gate and up are six
    # widths; attention's operands and result are four. The result goes on transposed, so that it is kept once more.
    attention = [site for site in session.sites() if site.module.startswith("block.attn") and site.kept_bytes]
    assert sum(site.kept_bytes for site in attention if site.reason == "a copy of a part") == 3 * unit
    assert not [site for site in attention if site.kept_bytes >= 3 * 3 * unit]  # the product itself is gone


def test_a_copy_of_a_part_knows_when_the_part_was_changed() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(32, 96)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            product = self.qkv(x * 1)
            q, k, v = product.view(2, 20, 3, 4, 8).transpose(1, 3).unbind(2)
            return product, F.scaled_dot_product_attention(q * 2, k * 2, v)

    model, x = Attends(), torch.randn(2, 20, 32, requires_grad=True)
    with compress(model, [{"recompute": {"preset": "cheap"}}], minimum_elements=64) as session, session.step():
        product, attended = model(x)
        with torch.no_grad():
            product.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            attended.sum().backward()
        session.skip()


def trained() -> tuple[nn.Module, list[Tensor]]:
    """A small model after 200 steps of learning to give each token back three places further, and batches of tokens."""
    torch.manual_seed(0)
    model = trm(hidden=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        shifted(model, torch.randint(6, (16, 16))).backward()
        optimizer.step()
    tokens = torch.randint(6, (32, 16))
    return model, [tokens, tokens, tokens, torch.randint(6, (32, 16))]


def shifted(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(3, 1).flatten())


def test_after_a_training_both_routes_have_the_same_cosines_at_every_parameter() -> None:
    model, batches = trained()
    for name, strategy in STRATEGIES.items():
        strategy = {name: {"rank": 8}} if isinstance(strategy, dict) and name != "laser" else strategy
        found = {
            routes: cosines(model, batches, shifted, strategy, routes, minimum_elements=64)
            for routes in ("hooks", "weight_gradients")
        }
        for parameter, of_hooks in found["hooks"].items():
            assert abs(found["weight_gradients"][parameter] - of_hooks) < 5e-5, (name, parameter)
