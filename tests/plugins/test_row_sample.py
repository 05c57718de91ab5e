"""row_sample: the winners, the mean and the variance of the estimate against the paper's formulas in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compbench_plugins.gale import Gale
from compbench_plugins.row_sample import RowSample, RowSampleCodec, Sampled, Whole, winners_and_drawn
from numpy.typing import NDArray
from torch import Tensor, nn

from compbench import Codec, Compressor, Payload, Site, SiteUse, compress
from compbench.chain import Chain
from compbench.testing import check_compressor

N, D, M, K = 60, 24, 5, 15


class SampledFromTheStart(RowSample):
    """As if a step had told it of a site that touches a weight's gradient alone."""

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        codec = super().codec(site, generator)
        assert isinstance(codec, RowSampleCodec)
        codec.learn(propagating=False)
        codec._steps = 1
        return codec


def make(seed: int = 0, strategy: RowSample | None = None) -> RowSampleCodec:
    strategy = strategy or SampledFromTheStart(share=K / N)
    codec = strategy.codec(Site("block.mlp", "mlp_24", D), torch.Generator().manual_seed(seed))
    assert isinstance(codec, RowSampleCodec)
    return codec


def skewed(rows: int = N, seed: int = 0) -> Tensor:
    """Rows of which a few are much longer than the others."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.exp(2 * torch.randn(rows, 1, generator=generator))
    return torch.randn(rows, D, generator=generator) * lengths


def gradients(rows: int = N, seed: int = 1) -> Tensor:
    return torch.randn(rows, M, generator=torch.Generator().manual_seed(seed))


def encode(codec: RowSampleCodec, X: Tensor) -> Sampled:
    payload = codec.encode(X)
    assert isinstance(payload, Sampled)
    return payload


def next_step(codec: RowSampleCodec, payload: Payload, dY: Tensor) -> None:
    codec.observe_gradient(payload, dY)
    codec.end_step()


def shares(X: Tensor, dY: Tensor) -> NDArray[np.float64]:
    x, y = (np.linalg.norm(A.double().numpy(), axis=1) for A in (X, dY))
    y = np.maximum(y, 0.1 * y.mean())
    return x * y / (x * y).sum()


def winners(p: NDArray[np.float64], k: int) -> tuple[list[int], float]:
    """The rows that are certain to be kept, of all sizes of the set the best; and their share."""
    order = np.argsort(-p, kind="stable")
    P = [float(p[order[:c]].sum()) for c in range(k)]
    best = min(range(k), key=lambda c: (1 - P[c]) / (k - c))
    return order[:best].tolist(), P[best]


@pytest.mark.parametrize("width", [192, 24])
def test_the_contract_is_kept(width: int) -> None:
    site = Site("block.mlp", f"mlp_{width}", width)
    check_compressor(RowSample(), site=site)
    check_compressor(SampledFromTheStart(), site=site)
    check_compressor(SampledFromTheStart(share=0.05, minimum=1), site=site)
    check_compressor(Chain(members=(Gale(rank=12), SampledFromTheStart())), site=site)


# -------------------------------------------------------------------- the estimate


def test_winners_are_kept_as_they_are_and_others_scaled() -> None:
    X, dY = skewed(), gradients()
    codec = make()
    next_step(codec, codec.encode(X), dY)
    payload = encode(codec, X)
    p = shares(X, dY)
    C, P_C = winners(p, K)
    assert 2 <= len(C) < K
    rows = payload.index.tolist()
    assert rows[: len(C)] == C
    assert not set(rows[len(C) :]) & set(C)
    assert torch.equal(payload.Z[: len(C)], X[C])
    for place in range(len(C), K):
        factor = (1 - P_C) / ((K - len(C)) * p[rows[place]])
        assert torch.allclose(payload.Z[place], X[rows[place]] * factor, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 7, 59])
def test_the_mean_over_draws_is_what_was_encoded(k: int) -> None:
    draws, generator = 4000, torch.Generator().manual_seed(0)
    p = torch.from_numpy(shares(skewed(), gradients()))
    weights = torch.zeros(draws, N, dtype=torch.float64)
    for draw in range(draws):
        weights[draw].index_add_(0, *winners_and_drawn(p, k, generator))
    C, P_C = winners(p.numpy(), k)
    others = [row for row in range(N) if row not in C]
    assert (weights[:, C] == 1).all()
    # Each of k - |C| draws is row i with probability p_i / (1 - P_C), and then counts (1 - P_C) / ((k - |C|) p_i).
    q = p[others] / (1 - P_C)
    error = ((1 - q) / q / (k - len(C)) / draws).sqrt()
    z = (weights[:, others].mean(dim=0) - 1) / error
    often = q * draws * (k - len(C)) > 50  # for fewer hits the deviation is not normal
    assert often.any()
    assert z[often].abs().max() < 4.5


def test_the_weight_gradient_is_unbiased_and_has_the_variance_of_theory() -> None:
    X, dY, draws = skewed(), gradients(), 3000
    codec = make()
    next_step(codec, codec.encode(X), dY)
    exact = dY.double().T @ X.double()
    found = []
    for _ in range(draws):
        payload = encode(codec, X)
        found.append(payload.weight_gradient(dY).double())
        codec._gathered = []
    errors = torch.stack(found) - exact
    standard_error = errors.std(dim=0) / math.sqrt(draws)
    assert (errors.mean(dim=0) / standard_error).abs().max() < 4.5
    # Over the others: ((1 - P_C) sum |x|^2 |dy|^2 / p - |sum dy x^T|^2) / (k - |C|), as for any mean of k - |C| draws.
    p = shares(X, dY)
    C, P_C = winners(p, K)
    others = [row for row in range(N) if row not in C]
    x, y = X[others].double().numpy(), dY[others].double().numpy()
    squares = ((x**2).sum(axis=1) * (y**2).sum(axis=1) / p[others]).sum()
    variance = ((1 - P_C) * squares - ((y.T @ x) ** 2).sum()) / (K - len(C))
    assert errors.square().sum(dim=(1, 2)).mean().item() == pytest.approx(variance, rel=0.1)
    # Plain sampling draws all k by the same shares.
    x, y = X.double().numpy(), dY.double().numpy()
    plain = (((x**2).sum(axis=1) * (y**2).sum(axis=1) / p).sum() - ((y.T @ x) ** 2).sum()) / K
    assert variance < 0.5 * plain


def test_a_weight_gradient_is_that_of_the_rebuilt_rows() -> None:
    payload = encode(make(), skewed())
    dY = gradients()
    torch.testing.assert_close(payload.weight_gradient(dY), dY.T @ payload.decode())
    assert payload.decode().any(dim=1).sum() <= K


def test_gradients_halve_the_variance_where_they_are_known() -> None:
    X, dY, draws = torch.nn.functional.normalize(skewed()), gradients() * skewed(seed=5).norm(dim=1, keepdim=True), 500

    def variance(codec: RowSampleCodec) -> float:
        errors = 0.0
        for _ in range(draws):
            errors += float((encode(codec, X).weight_gradient(dY) - dY.T @ X).square().sum())
            codec._gathered = []
        return errors / draws

    knowing = make()
    next_step(knowing, knowing.encode(X), dY)
    assert variance(knowing) < 0.5 * variance(make())


def test_a_row_without_gradient_a_step_ago_is_drawn_all_the_same() -> None:
    X, dY = torch.ones(N, D), gradients()
    dY[N // 2 :] = 0
    codec = make()
    next_step(codec, codec.encode(X), dY)
    drawn: set[int] = set()
    for _ in range(300):
        drawn |= set(encode(codec, X).index.tolist())
        codec._gathered = []
    assert len(drawn) == N


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_count_least(bad: float) -> None:
    X, dY = skewed(), gradients()
    dY[3] = bad
    codec = make()
    next_step(codec, codec.encode(X), dY)
    payload = encode(codec, X)
    assert payload.decode().isfinite().all()


def test_rows_of_zeros_need_no_place() -> None:
    X = torch.zeros(N, D)
    X[[4, 40]] = 1.0
    assert torch.equal(encode(make(), X).decode(), X)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_row_that_is_not_finite_spoils_all(bad: float) -> None:
    X = skewed()
    X[7, 3] = bad
    payload = encode(make(), X)
    assert not payload.decode().isfinite().any()
    assert not payload.weight_gradient(gradients()).isfinite().any()


def test_half_precision_stays_finite() -> None:
    X, dY = torch.full((N, D), 1e4).half(), gradients()
    dY[:10] = 0  # drawn seldom, and then scaled beyond what fp16 can hold
    codec = make()
    next_step(codec, codec.encode(X), dY)
    largest = 0.0
    for _ in range(50):
        payload = encode(codec, X)
        assert payload.Z.isfinite().all()
        largest = max(largest, payload.Z.max().item())
        codec._gathered = []
    assert largest == torch.finfo(torch.float16).max


@pytest.mark.parametrize(("rows", "kept"), [(5, 5), (10, 10), (20, 10), (100, 30)])
def test_at_least_a_minimum_is_kept(rows: int, kept: int) -> None:
    codec = make(strategy=SampledFromTheStart(share=0.3, minimum=10))
    payload = codec.encode(skewed(rows))
    if kept == rows:
        assert isinstance(payload, Whole)
        assert codec.kept_bytes(rows, 3, 4) == 3 * rows * D * 4
    else:
        assert isinstance(payload, Sampled)
        assert payload.Z.shape == (kept, D)
        assert codec.kept_bytes(rows, 3, 4) == 3 * (kept * (D * 4 + 4) + 4)


# -------------------------------------------------------------------- where, and with which gradients


def test_norms_are_those_of_the_same_call_a_step_ago() -> None:
    codec = make()
    rows = [skewed(seed=call) for call in range(25)]
    dYs = [gradients(seed=100 + call) * (1 + call) for call in range(25)]
    payloads = [codec.encode(X) for X in rows]
    for payload, dY in reversed(list(zip(payloads, dYs, strict=True))):
        codec.observe_gradient(payload, dY)
    codec.end_step()
    for X, dY in zip(rows, dYs, strict=True):
        C, _ = winners(shares(X, dY), K)
        assert C
        assert encode(codec, X).index[: len(C)].tolist() == C
    # One call more than a step ago, and one of other rows: by their own length alone.
    C, _ = winners(shares(rows[0], torch.ones(N, 1)), K)
    assert encode(codec, rows[0]).index[: len(C)].tolist() == C
    codec.end_step()
    assert isinstance(codec.encode(skewed(48)), Sampled)


def test_layers_on_the_same_input_count_as_one() -> None:
    X, parts = skewed(), [gradients(seed=seed) for seed in range(3)]
    codec, whole = make(), make()
    payload = codec.encode(X)
    for dY in parts:
        codec.observe_gradient(payload, dY)
    codec.end_step()
    next_step(whole, whole.encode(X), torch.cat(parts, dim=1))
    assert torch.equal(encode(codec, X).index, encode(whole, X).index)


def use(codec: RowSampleCodec, propagating: bool) -> SiteUse:
    return SiteUse(Site("a", "mlp", D), codec, 1, N, 4, propagating)


def test_rows_are_kept_until_it_is_known_what_an_error_touches() -> None:
    strategy = RowSample(share=K / N)
    codec, X = make(strategy=strategy), skewed()
    assert codec.kept_bytes(N, 3, 4) is None
    payload = codec.encode(X)
    assert payload.decode() is X
    next_step(codec, payload, gradients())
    strategy.coordinate([use(codec, propagating=False)])
    assert codec.statistics() == {"sampled": 1}
    assert (codec.kept_bytes(N, 3, 4) or 0) < 0.3 * 3 * N * D * 4
    payload = codec.encode(X)
    assert isinstance(payload, Sampled)
    next_step(codec, payload, gradients())
    assert list(codec.state())
    strategy.coordinate([use(codec, propagating=True)])
    assert codec.statistics() == {"sampled": 0}
    assert codec.kept_bytes(N, 3, 4) == 3 * N * D * 4
    assert not list(codec.state())
    strategy.coordinate([use(codec, propagating=False)])  # once is enough
    assert codec.encode(X).decode() is X


class Block(nn.Module):
    """The inputs of its two layers are weight-only; what SiLU, the product and the norm save is not."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Linear(32, 64)
        self.down = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return F.rms_norm(x + self.down(F.silu(gate) * up), (32,))


class Tied(nn.Module):
    """A block that is called 25 times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(25):
            x = self.block(x)
        return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_training_weight_gradients_alone_are_touched(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Tied().to(dtype)
    with compress(model, RowSample(share=0.5), routes="hooks") as session:
        for step in range(3):
            x = torch.randn(8, 20, 32, generator=torch.Generator().manual_seed(step)).to(dtype).requires_grad_()

            def gradient(x: Tensor = x) -> list[Tensor]:
                model.zero_grad()
                x.grad = None
                model(x * 1).square().mean().backward()
                found = [tensor.grad for tensor in (x, *model.parameters())]
                return [g.clone() for g in found if g is not None]

            with session.paused():
                exact = gradient()
            with session.step():
                found = gradient()
            names = ["x"] + [name for name, _ in model.named_parameters()]
            for name, one, other in zip(names, exact, found, strict=True):
                if step and name.endswith("weight"):
                    assert not torch.equal(one, other)
                    assert F.cosine_similarity(one.flatten().float(), other.flatten().float(), dim=0) > 0.7
                else:
                    assert torch.equal(one, other), name
        sites = [site for site in session.sites() if site.calls == 25 and site.width > 1]
    assert sorted(site.module for site in sites if not site.reason) == ["block.down", "block.gate_up"]
    assert len(sites) > 3
    for site in sites:
        if site.reason:
            assert site.propagating
            assert site.reason == f"would keep {site.raw_bytes} of {site.raw_bytes} bytes"
            assert site.kept_bytes == site.raw_bytes
        else:
            assert not site.propagating
            assert site.statistics == {"sampled": 1}
            assert site.kept_bytes == 25 * (80 * (32 * dtype.itemsize + 4) + dtype.itemsize)


def test_in_a_chain_the_coefficients_of_weight_only_sites_are_sampled() -> None:
    model = Tied()
    strategy: Compressor = Chain(members=(Gale(rank=16), RowSample(share=0.5)))
    kept = []
    with compress(model, strategy, routes="hooks") as session:
        for _ in range(3):
            with session.step():
                model(torch.randn(8, 20, 32).requires_grad_() * 1).square().mean().backward()
            kept.append({site.name: (site.propagating, site.kept_bytes) for site in session.sites()})
    sketch = {name: 4 * 16 * int(name.rpartition("_")[2].partition("#")[0]) for name in kept[0]}
    coefficients = 25 * 160 * 16 * 4
    encoded = {name for name, (_, before) in kept[0].items() if before == coefficients + sketch[name]}
    weight_only = {name for name in encoded if not kept[0][name][0]}
    assert 2 == len(weight_only) < len(encoded)
    for name in encoded:
        left = 25 * (80 * (16 * 4 + 4) + 4) if name in weight_only else coefficients
        assert kept[2][name][1] == left + sketch[name]


@pytest.mark.parametrize("fields", [{"share": 0}, {"share": 1.1}, {"minimum": 0}])
def test_fields_have_bounds(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        RowSample.model_validate(fields)
