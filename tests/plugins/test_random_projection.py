"""The unbiased sketch: what it is on average, its error in closed form, how long a draw lasts, and what is kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from compbench_plugins.int8 import Int8
from compbench_plugins.random_projection import RandomProjection, RandomProjectionCodec
from torch import Tensor

from compbench import Payload, Site
from compbench.chain import Chain
from compbench.testing import parametrize_with_checks

WIDTH, RANK, DRAWS = 16, 4, 2000
DISTRIBUTIONS = ["gaussian", "rademacher", "coordinates"]

# Of one draw, relative to |X|^2.
SQUARED_ERROR = {"gaussian": (WIDTH + 1) / RANK, "rademacher": (WIDTH - 1) / RANK, "coordinates": WIDTH / RANK - 1}

every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


def make(width: int = WIDTH, seed: int = 0, **fields: object) -> RandomProjectionCodec:
    settings = RandomProjection.model_validate({"rank": RANK} | fields)
    codec = settings.codec(Site("block.mlp", "mlp", width), torch.Generator().manual_seed(seed))
    assert isinstance(codec, RandomProjectionCodec)
    return codec


def random(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sketch(codec: RandomProjectionCodec, width: int = WIDTH) -> Tensor:
    """``P``, by sketching the unit vectors."""
    coefficients = codec.encode(torch.eye(width, dtype=torch.float64)).coefficients()
    assert coefficients is not None
    return coefficients


@parametrize_with_checks(
    [
        RandomProjection(distribution="rademacher", scope="step", period=2),
        RandomProjection(distribution="coordinates", rank=48),
        RandomProjection(scope="step"),
        Chain(members=(RandomProjection(rank=64, distribution="coordinates"), Int8())),
    ]
)
def test_the_contract_is_kept(check) -> None:
    check()


@every_distribution
def test_rows_and_weight_gradients_are_right_on_average_within_their_standard_error(distribution: str) -> None:
    X, dY = random(6, WIDTH), random(6, 3, seed=2)
    codec = make(distribution=distribution)
    payloads = [codec.encode(X) for _ in range(DRAWS)]
    for estimates, truth in (
        (torch.stack([payload.decode() for payload in payloads]), X),
        (torch.stack([payload.weight_gradient(dY) for payload in payloads]), dY.T @ X),
    ):
        deviation = (estimates.mean(0) - truth) / (estimates.std(0) / DRAWS**0.5)
        assert deviation.abs().max() < 4  # standard errors, the largest of a hundred elements
        assert deviation.square().mean() < 2  # as many elements are off by one as should be


@every_distribution
def test_the_error_of_one_draw_is_the_closed_form(distribution: str) -> None:
    X = random(6, WIDTH)
    codec = make(distribution=distribution)
    errors = torch.stack([(codec.encode(X).decode() - X).square().sum() for _ in range(DRAWS)])
    assert errors.mean() / X.square().sum() == pytest.approx(SQUARED_ERROR[distribution], rel=0.1)


@pytest.mark.parametrize("rank", [4, 5])
@every_distribution
def test_bf16_rows_are_right_on_average_too(distribution: str, rank: int) -> None:
    X = random(1, WIDTH, dtype=torch.bfloat16).repeat(3, 1)
    codec = make(distribution=distribution, rank=rank)
    mean = torch.stack([codec.encode(X).decode().double() for _ in range(DRAWS)]).mean(0)
    noise = ((WIDTH + 1) / rank / DRAWS) ** 0.5
    assert (mean - X.double()).norm() < (2 * noise + 0.006) * X.double().norm()


def test_rademacher_entries_are_plus_and_minus_one_over_the_root_of_the_rank() -> None:
    P = sketch(make(width=400, distribution="rademacher"), 400)
    assert torch.equal(P.abs(), torch.full((400, RANK), 0.5, dtype=torch.float64))
    assert abs(P.sign().mean().item()) < 4 / P.numel() ** 0.5


def test_gaussian_entries_have_the_variance_of_the_paper() -> None:
    P = sketch(make(width=400), 400)
    assert P.square().mean().item() == pytest.approx(1 / RANK, rel=4 * (2 / P.numel()) ** 0.5)
    assert (P / P.std()).pow(4).mean().item() == pytest.approx(3, abs=4 * (96 / P.numel()) ** 0.5)


def test_sampled_coordinates_are_exact_and_the_others_zero() -> None:
    X = random(6, WIDTH, dtype=torch.float32)
    decoded = make(distribution="coordinates").encode(X).decode()
    kept = decoded.any(dim=0)
    assert kept.sum() == RANK  # without replacement
    assert torch.equal(decoded[:, kept], X[:, kept] * (WIDTH / RANK))
    assert torch.equal(make(distribution="coordinates", rank=99).encode(X).decode(), X)


def test_coordinates_do_not_hide_an_element_that_they_leave_out() -> None:
    X = random(6, WIDTH)
    X[2, :] = torch.inf
    X[2, ::2] = -torch.inf
    for column in range(WIDTH):
        Y = random(6, WIDTH)
        Y[3, column] = torch.nan
        payload = make(distribution="coordinates", seed=column).encode(Y)
        assert payload.decode().isnan().all(dim=1).tolist() == [row == 3 for row in range(6)]
        assert payload.weight_gradient(random(6, 2)).isnan().all()
    assert not make(distribution="coordinates").encode(X).decode()[2].isfinite().any()


@pytest.mark.parametrize("fields", [{"scope": "call"}, {"scope": "call", "period": 3}, {"scope": "step"}])
@every_distribution
def test_a_draw_lasts_for_a_call_or_a_step(distribution: str, fields: dict[str, object]) -> None:
    codec = make(distribution=distribution, **fields)
    first, second = sketch(codec), sketch(codec)
    codec.end_step()
    assert torch.equal(first, second) == (fields["scope"] == "step")
    assert not torch.equal(second, sketch(codec))


def test_a_draw_lasts_for_as_many_steps_as_its_period_says() -> None:
    codec = make(scope="step", period=3)
    steps = []
    for _ in range(9):
        steps.append(sketch(codec))
        codec.end_step()
    same = [torch.equal(one, other) for one, other in itertools.pairwise(steps)]
    assert same == [True, True, False, True, True, False, True, True]


def test_a_discarded_step_neither_draws_nor_ages() -> None:
    plain, probed = make(scope="step", period=2), make(scope="step", period=2)
    for _ in range(5):
        sketch(probed)
        probed.discard_step()
        assert torch.equal(sketch(plain), sketch(probed))
        plain.end_step()
        probed.end_step()


@pytest.mark.parametrize("scope", ["call", "step"])
@every_distribution
def test_a_call_keeps_its_coefficients_and_eight_bytes(distribution: str, scope: str) -> None:
    codec = make(width=64, rank=8, distribution=distribution, scope=scope)
    for dtype, itemsize in ((torch.float32, 4), (torch.bfloat16, 2)):
        payloads = [codec.encode(random(50, 64, dtype=dtype)) for _ in range(25)]
        kept = sum(t.untyped_storage().nbytes() for p in payloads for t in p.tensors())
        kept += sum(p.opaque_bytes() for p in payloads)
        assert kept == codec.kept_bytes(50, 25, itemsize) == 25 * (50 * 8 * itemsize + 8)
    assert list(codec.state()) == []


@every_distribution
def test_the_weight_gradient_is_that_of_numpy(distribution: str) -> None:
    X, dY = random(20, WIDTH), random(20, 3, seed=5)
    codec = make(distribution=distribution, scope="step", rank=5)
    P = sketch(codec).numpy() * ((WIDTH / 5) ** 0.5 if distribution == "coordinates" else 1)
    payload: Payload = codec.encode(X)
    expected = (dY.numpy().T @ (X.numpy() @ P)) @ P.T
    np.testing.assert_allclose(payload.weight_gradient(dY).numpy(), expected, atol=1e-12)
