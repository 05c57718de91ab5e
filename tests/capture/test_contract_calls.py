"""What the engine tells strategies beside the rows: gradients of operators' outputs, and what all sites did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench import Codec, Compressor, Dense, Payload, Recomputation, Site, SiteUse
from compbench.chain import Chain
from tests.capture import zoo
from tests.capture.zoo import session_of

SEEN: dict[str, list[tuple[Tensor, Tensor]]] = {}
STEPS: list[list[SiteUse]] = []


class WatchingCodec(zoo.HalfCodec):
    watches_gradients = True

    def __init__(self, name: str) -> None:
        self.name = name

    def observe_gradient(self, payload: Payload, gradient: Tensor) -> None:
        assert not torch.is_grad_enabled()
        SEEN.setdefault(self.name, []).append((payload.decode(), gradient.clone()))


class Watching(Compressor):
    """Looks at the gradients of what operators give."""

    name = "watching"

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        return WatchingCodec(site.name)

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        STEPS.append(list(sites))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.layer(F.silu(x))
        return x


@pytest.fixture(autouse=True)
def forget() -> None:
    SEEN.clear()
    STEPS.clear()


@pytest.mark.parametrize("strategy", [Watching(), Chain(members=(Watching(),))], ids=["alone", "chain"])
def test_gradients_come_with_the_payload_of_the_call_that_they_belong_to(strategy: Compressor) -> None:
    model, x = Tied(), torch.randn(4, 10, 32, requires_grad=True)
    inputs, gradients = [], []

    def look(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(arguments[0].detach().half().float())
        output.register_hook(gradients.append)

    handle = model.layer.register_forward_hook(look)
    with session_of(model, strategy, routes="hooks") as session, session.step():
        model(x * 1).square().sum().backward()
    handle.remove()
    seen = SEEN["layer/tied_32" if "layer/tied_32" in SEEN else "layer/layer_32"]
    assert len(seen) == 3
    for (rows, gradient), expected_rows, expected in zip(seen, reversed(inputs), gradients, strict=True):
        assert torch.equal(rows, expected_rows.view(40, 32))
        torch.testing.assert_close(gradient, expected.reshape(40, 32))
    # SiLU saves its input, whose rows are those of its output.
    assert all(gradient.shape == (40, 32) for name in SEEN for _, gradient in SEEN[name])
    assert sum(map(len, SEEN.values())) == 6
    assert session.saved_bytes == 0


def test_nothing_is_observed_of_operators_with_other_rows() -> None:
    class Mixes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.transpose(1, 2) @ x).exp()

    model, x = Mixes(), torch.randn(4, 10, 32, requires_grad=True)
    with session_of(model, Watching()) as session, session.step():
        model(x * 1).sum().backward()
    assert all(gradient.shape == (4 * 32, 32) for seen in SEEN.values() for _, gradient in seen)


@pytest.mark.parametrize("strategy", [Watching(), Chain(members=(Watching(), zoo.Nothing()))], ids=["alone", "chain"])
def test_strategies_see_all_sites_of_a_step_when_it_has_ended(strategy: Compressor) -> None:
    model, x = Tied(), torch.randn(4, 10, 32, requires_grad=True)
    with session_of(model, strategy) as session:
        for _ in range(2):
            with session.step():
                model(x * 1).square().sum().backward()
        with session.probe():
            model(x * 1).sum().backward()
        with pytest.raises(ZeroDivisionError), session.step():
            raise ZeroDivisionError
    assert len(STEPS) == 2
    reports = {site.name: site for site in session.sites() if not site.reason}
    assert {use.site.name for use in STEPS[1]} == set(reports)
    for use in STEPS[1]:
        report = reports[use.site.name]
        assert isinstance(use.codec, WatchingCodec)
        assert (use.calls, use.rows, use.itemsize, use.propagating) == (report.calls, 40, 4, report.propagating)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("model", ["mlp", "block"])
def test_operators_tell_what_their_gradients_would_be_with_other_rows(model: str, bf16: bool) -> None:
    """With the rows as they are they are those that autograd computes, and others with others."""
    found: dict[str, list[tuple[Tensor, ...]]] = {}

    class OperatorCodec(zoo.KeepCodec):
        watches_operators = True

        def __init__(self, name: str) -> None:
            self.name = name

        def observe_operator(self, payload: Payload, gradients_with) -> None:
            rows = payload.decode()
            found.setdefault(self.name, []).append(gradients_with(rows))
            assert any(
                not torch.equal(a, b) for a, b in zip(gradients_with(rows), gradients_with(2 * rows), strict=True)
            )

    class Operators(Compressor):
        """Looks at operators."""

        name = "operators"
        exact = True

        def codec(self, site: Site, generator: torch.Generator) -> Codec:
            return OperatorCodec(site.name)

    torch.manual_seed(0)
    network = (
        nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) if model == "mlp" else zoo.Recursive(calls=1)
    )
    x = torch.randn(4, 10, 32, requires_grad=True)
    with session_of(network, Operators()) as session, session.step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = network(x * 1).float().sin().sum()
        loss.backward()
    assert session.saved_bytes == 0
    weights = [p.grad for p in network.parameters() if p.dim() == 2]
    tolerance = {"rtol": 2e-2, "atol": 1e-2} if bf16 else {"rtol": 1e-4, "atol": 1e-5}
    shown = [g.float() for calls in found.values() for gradients in calls for g in gradients]
    for weight in weights:
        assert any(g.shape == weight.shape and torch.allclose(g, weight, **tolerance) for g in shown)
    assert len(found) > len(weights)  # operators without a weight, too


@pytest.mark.parametrize("operators", ["cheap", "expanding", "any"])
def test_operators_tell_it_through_what_is_computed_again(operators: Literal["cheap", "expanding", "any"]) -> None:
    """What a linear layer takes is computed from rows that a codec has: other rows there, another gradient here."""
    factor, found = 1.5, []

    class ScaledPayload(Dense):
        def decode(self) -> Tensor:
            return factor * super().decode()

    class ScaledCodec(zoo.KeepCodec):
        def encode(self, rows: Tensor) -> Payload:
            return ScaledPayload(rows)

    class ObservingCodec(zoo.KeepCodec):
        watches_operators = True

        def observe_operator(self, payload: Payload, gradients_with: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
            rows = payload.decode()
            found.append((gradients_with(rows), gradients_with(factor * rows)))

    class Rebuilding(Compressor):
        """Keeps rows, and rebuilds others or looks at what would become of it."""

        name = "rebuilding"
        scaled: bool

        def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
            if site.width != 48:
                return None
            return ScaledCodec() if self.scaled else ObservingCodec()

        def recomputation(self) -> Recomputation:
            return Recomputation(operators, modules=("1",))

    torch.manual_seed(0)
    norm, last = nn.LayerNorm(48, elementwise_affine=False), nn.Linear(48, 48)
    model = nn.Sequential(nn.Linear(48, 48), nn.Sequential(nn.SiLU(), norm, last))
    x = torch.randn(4, 10, 48)
    gradients = {}
    for scaled in (False, True):
        model.zero_grad()
        with session_of(model, Rebuilding(scaled=scaled)) as session, session.step():
            model(x).sin().sum().backward()
        gradients[scaled] = last.weight.grad.clone()
        assert session.saved_bytes == 0
        assert any(site.reason.startswith("computed again") for site in session.sites())
    assert not torch.allclose(gradients[False], gradients[True])
    of_weight = [
        (own, other)
        for exact, changed in found
        for own, other in zip(exact, changed, strict=True)
        if own.shape == gradients[False].shape
    ]
    assert any(
        torch.allclose(own, gradients[False], atol=1e-5) and torch.allclose(other, gradients[True], atol=1e-5)
        for own, other in of_weight
    )
