"""What must not be compressed: weights and their copies, integers, small tensors, sites that would not save."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench.compressor import Compressor
from compbench.errors import CaptureError, CaptureWarning
from tests.capture import zoo
from tests.capture.zoo import session_of


def test_parameters_buffers_and_cast_weights_are_never_compressed() -> None:
    model = zoo.Recursive(calls=3)
    weights = {tuple(p.shape) for p in model.parameters()} | {tuple(p.T.shape) for p in model.parameters()}
    x = torch.randn(5, 11, 32)
    session = session_of(model, zoo.Recording())
    with session, session.step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(x).float().square().mean()
        encoded = {tuple(rows.shape) for codec in zoo.CODECS.values() for rows in codec.encoded}
        loss.backward()
    assert encoded
    assert not encoded & weights
    copies = [site for site in session.sites() if site.reason == "copy of a weight"]
    assert sum(site.raw_bytes for site in copies) == sum(p.numel() * 2 for p in model.parameters())


def test_integers_and_tiny_tensors_stay_raw() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 32)

        def forward(self, index: Tensor) -> Tensor:
            return self.embedding(index).square().mean().exp()

    model = Picks()
    with session_of(model, zoo.Half()) as session, session.step():
        model(torch.arange(10).repeat(20)).backward()
    reasons = {site.dtype: site.reason for site in session.sites() if site.reason}
    assert "int64 is not real floating point" in reasons.values()
    assert "fewer than 64 elements" in reasons.values()


@pytest.mark.filterwarnings("ignore::compbench.errors.CaptureWarning")
def test_a_site_that_would_not_save_stays_raw_and_says_so() -> None:
    class Greedy(Compressor):
        """Keeps more than there was."""

        name = "greedy"

        def codec(self, site, generator):
            class GreedyCodec(zoo.CopyCodec):
                def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
                    return calls * rows * site.width * itemsize

            return GreedyCodec()

    model = zoo.GatedMLP()
    with session_of(model, Greedy()) as session, session.step():
        model(torch.randn(40, 32) * torch.ones(1, requires_grad=True)).sum().backward()
    assert all(site.reason for site in session.sites())
    assert any("would keep 15360 of 15360 bytes" in site.reason for site in session.sites())


def test_errors_at_linear_inputs_touch_the_weights_gradient_alone() -> None:
    model = zoo.Recursive(calls=2)
    with session_of(model, zoo.Half(), routes="hooks") as session, session.step():
        model(torch.randn(4, 9, 32)).square().mean().backward()
    propagating = {site.name: site.propagating for site in session.sites() if not site.reason}
    assert propagating["mlp.down/mlp_48"] is False
    assert propagating["attn.qkv/attn_32"] is False
    assert propagating["mlp/mlp_96"] is True
    assert propagating["attn/attn_96"] is True


@pytest.mark.parametrize("bf16", [False, True])
def test_weights_that_are_computed_are_never_compressed(bf16: bool) -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ParameterList([nn.Parameter(torch.randn(16, 32)) for _ in range(3)])
            self.stack = nn.Parameter(torch.randn(2, 48, 48))

        def forward(self, x: Tensor) -> Tensor:
            y = F.linear(x, torch.cat(list(self.parts)))
            y = F.linear(y, self.stack.unbind(0)[1])
            weight = self.stack[0]
            return F.linear(y.tanh(), weight / weight.norm())

    model, x = Computed(), torch.randn(200, 32, requires_grad=True)
    with session_of(model, zoo.Recording()) as session, session.step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(x * 1).float().sum()
        assert {len(rows) for codec in zoo.CODECS.values() for rows in codec.encoded} <= {200}
        loss.backward()
    assert any(not site.reason for site in session.sites())


class Subclass(torch.Tensor):
    """A tensor of somebody's own class."""


def jagged() -> Tensor:
    return torch.nested.nested_tensor([torch.randn(20, 32), torch.randn(20, 32)], layout=torch.jagged)


SPECIAL = {
    # What is saved, the reason, and the bytes of its parts; the columns of CSR lie in the storage of COO's indices.
    "coo": (torch.randn(40, 32), "sparse_coo layout", lambda y: torch.sparse.mm(eye(), y), 40 * (2 * 8 + 4)),
    "csr": (torch.randn(40, 32), "sparse_csr layout", lambda y: eye().to_sparse_csr() @ y, 41 * 8 + 40 * (2 * 8 + 4)),
    "jagged": (jagged(), "nested tensor", lambda y: (y.sin() * y).values(), 3 * 8 + 2 * 40 * 16 * 4),
    "class": (torch.randn(40, 32), "tensor of class Subclass", lambda y: y.as_subclass(Subclass).sin(), 40 * 16 * 4),
    "mkldnn": (torch.randn(40, 32), "_mkldnn layout", lambda y: y.to_mkldnn().relu().to_dense(), 0),
}


def eye() -> Tensor:
    return torch.eye(40).to_sparse()


@pytest.mark.filterwarnings("ignore::compbench.errors.CaptureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", SPECIAL)
def test_tensors_without_a_storage_of_rows_pass_through_and_are_counted_by_their_parts(kind: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.layer(x))

    x, reason, function, parts = SPECIAL[kind]
    torch.manual_seed(0)
    model = Model()
    model(x).as_subclass(Tensor).square().sum().backward()
    exact = model.layer.weight.grad.clone()
    model.zero_grad()
    with session_of(model, zoo.Copy()) as session, session.step():
        model(x).as_subclass(Tensor).square().sum().backward()
    assert torch.equal(model.layer.weight.grad, exact)
    # At one of the sites: the layer saves its nested input as well.
    kept = {site.name: site for site in session.sites() if site.reason == reason}
    assert parts in {site.kept_bytes for site in kept.values()}
    assert session.saved_bytes == 0


def test_memory_that_can_not_be_told_is_told_of_once() -> None:
    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y.to_mkldnn().relu().to_dense() + y.tanh()

    model, x = Model(nn.Linear(32, 16)), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            with session.step():
                model(x).square().sum().backward()
    (told_once,) = (warning for warning in told if warning.category is CaptureWarning)
    assert "a _mkldnn layout saved in the model itself is kept as it is" in str(told_once.message)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev])
def test_functional_transforms_are_refused_by_torch_by_name(transform: object) -> None:
    class Model(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return transform(lambda y: super(Model, self).forward(y).sum())(x)

    model, x = Model(32, 16), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session, pytest.raises(RuntimeError, match="support saved tensor hooks"):
        with session.step():
            model(x)


def test_lazy_modules_must_have_run_once() -> None:
    with pytest.raises(CaptureError, match="run one forward first"):
        session_of(nn.Sequential(nn.LazyLinear(4)), zoo.Half())
