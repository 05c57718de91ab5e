"""What all low-rank strategies tell of themselves: a rank above the width, and the share of the rows that is kept."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from compbench_plugins._decomposition import SELDOM
from compbench_plugins.asi import Asi
from compbench_plugins.gale import Gale
from compbench_plugins.hosvd import Hosvd
from compbench_plugins.lance import Lance
from compbench_plugins.lance_tucker import LanceTucker
from compbench_plugins.laser import Laser
from compbench_plugins.loract import LoRAct
from compbench_plugins.oracle_svd import OracleSvd
from compbench_plugins.past import Past
from compbench_plugins.random_projection import RandomProjection
from compbench_plugins.velora import VeLoRA
from torch import Tensor, nn

import compbench
from compbench import Codec, Compressor, Site
from compbench.errors import CaptureWarning

WIDTH, ROWS = 12, 40

OF_A_RANK: dict[str, type[Compressor]] = {
    strategy.name: strategy for strategy in (Lance, LoRAct, Gale, Asi, Past, OracleSvd, RandomProjection, Laser)
}

PROJECTIONS: dict[str, Compressor] = {
    "lance": Lance(rank=4),
    "lance_tucker": LanceTucker(energy=0.7),
    "lance_tucker of positions": LanceTucker(energy=0.7, sequence_length=5),
    "loract": LoRAct(rank=4),
    "gale": Gale(rank=4),
    "gale call": Gale(rank=4, redraw="call"),
    "asi": Asi(rank=4),
    "past": Past(rank=4),
    "oracle_svd": OracleSvd(rank=4),
    "hosvd": Hosvd(max_rank=4),
    "velora": VeLoRA(groups=4),
    "velora scaled": VeLoRA(groups=4, scale=0.1),
    "laser": Laser(rank=4, max_rank=4),
}
NO_PROJECTIONS: dict[str, Compressor] = {
    "gale gaussian": Gale(rank=4, distribution="gaussian"),
    "random_projection": RandomProjection(rank=4),
    "random_projection of coordinates": RandomProjection(rank=4, distribution="coordinates"),
}
MEASURED_SELDOM = ["lance", "lance_tucker", "lance_tucker of positions", "loract", "gale", "gale call", "velora"]

every_projection = pytest.mark.parametrize("name", PROJECTIONS)


def codec_of(strategy: Compressor, width: int = WIDTH) -> Codec:
    codec = strategy.codec(Site("block.mlp", "mlp", width), torch.Generator().manual_seed(0))
    assert codec is not None
    return codec


def activations(seed: int, rows: int = ROWS) -> Tensor:
    """Rows whose leading directions are others for every seed."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -1, WIDTH, dtype=torch.float64)[torch.randperm(WIDTH, generator=generator)]
    return torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) * scales + 0.3


def warm(name: str) -> Codec:
    """A codec that has ended the steps in which bases are made, and is due to measure the next one."""
    codec, step = codec_of(PROJECTIONS[name]), 0
    while "fidelity" not in codec.statistics():
        run_step(codec, step)
        step += 1
    for later in range(1, SELDOM):
        run_step(codec, step + later)
    return codec


def run_step(codec: Codec, seed: int) -> None:
    codec.encode(activations(seed))
    codec.end_step()


@pytest.mark.parametrize("name", OF_A_RANK)
@pytest.mark.parametrize(("rank", "told"), [(WIDTH - 1, 0), (WIDTH, 0), (WIDTH + 1, 1), (400, 1)])
def test_a_rank_above_the_width_is_the_width_and_told(name: str, rank: int, told: int) -> None:
    codec = codec_of(OF_A_RANK[name](rank=rank))
    for step in range(3):
        assert codec.coefficient_width() == min(rank, WIDTH)
        figures = codec.statistics()
        assert (figures["rank"], figures["rank_clamped"]) == (min(rank, WIDTH), told)
        assert isinstance(figures["rank_clamped"], int)  # a count of sites
        run_step(codec, step)


def test_more_sub_tokens_than_there_are_columns_are_told() -> None:
    for groups, told in [(WIDTH, 0), (WIDTH + 1, 1)]:
        assert codec_of(VeLoRA(groups=groups)).statistics() == {"rank": WIDTH, "rank_clamped": told}


def test_a_rank_that_energy_is_to_find_is_a_limit_that_nobody_asked_for() -> None:
    codec = codec_of(Lance(rank=128, energy=0.9))
    run_step(codec, 0)
    assert "rank_clamped" not in codec.statistics()


@every_projection
def test_fidelity_is_the_cosine_of_the_rows_of_a_step_and_what_they_are_rebuilt_to(name: str) -> None:
    codec = warm(name)
    calls = [activations(100 + call) for call in range(3)]
    X = torch.cat(calls)
    rebuilt = torch.cat([codec.encode(call).decode() for call in calls])
    codec.end_step()
    figures = codec.statistics()
    cosine = float((X * rebuilt).sum() / X.norm() / rebuilt.norm())
    assert figures["fidelity"] == pytest.approx(cosine)
    assert figures["fidelity"] < 0.999
    if "relative_error" in figures:
        assert figures["relative_error"] == pytest.approx(float((X - rebuilt).norm() / X.norm()))


@pytest.mark.parametrize("name", NO_PROJECTIONS)
def test_what_is_no_projection_has_no_fidelity(name: str) -> None:
    codec = codec_of(NO_PROJECTIONS[name])
    for step in range(3):
        codec.encode(activations(step))
        assert "fidelity" not in codec.statistics()
        codec.end_step()


@pytest.mark.parametrize("name", MEASURED_SELDOM)
def test_what_only_projects_is_measured_in_one_step_of_ten(name: str) -> None:
    codec, told = codec_of(PROJECTIONS[name]), []
    for step in range(3 * SELDOM):
        run_step(codec, step)
        told.append(codec.statistics().get("fidelity"))
    first = next(step for step, fidelity in enumerate(told) if fidelity is not None)
    assert first <= 1  # what calibrates has nothing to measure in the first
    changes = [step for step in range(1, len(told)) if told[step] != told[step - 1] and told[step - 1] is not None]
    assert changes == list(range(first + SELDOM, len(told), SELDOM))


@every_projection
def test_measuring_keeps_two_numbers_that_are_declared_and_nothing_in_payloads(name: str) -> None:
    codec = warm(name)
    between = sum(tensor.nbytes for tensor in codec.state())
    payload = codec.encode(activations(50))
    stored = {tensor.data_ptr(): tensor for tensor in codec.state()}
    kept = {tensor.data_ptr() for tensor in payload.tensors()}
    sums = [tensor for tensor in stored.values() if tensor.shape == (2,)]
    if name != "laser":  # which has sums of its own, one tensor each
        assert len(sums) == 1
        assert sums[0].data_ptr() not in kept
    codec.end_step()
    assert sum(tensor.nbytes for tensor in codec.state()) == between


@every_projection
@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
def test_a_step_that_tells_nothing_leaves_the_fidelity_of_the_one_before(name: str, spoilt: float) -> None:
    codec = warm(name)
    before = codec.statistics().get("fidelity")
    codec.encode(activations(50) * spoilt)
    codec.end_step()
    assert before is not None
    assert codec.statistics()["fidelity"] == before


@pytest.mark.parametrize("name", [*PROJECTIONS, *NO_PROJECTIONS])
@pytest.mark.parametrize("rows", [1, 2, 3, 64])
@pytest.mark.parametrize("width", [1, 2, 24])
def test_few_rows_and_narrow_sites_are_trained_on_or_left_raw_with_a_reason(name: str, rows: int, width: int) -> None:
    """Ranks above the rows, above the width and above both, in a session: no site keeps as much as it had.

    In calibration steps they keep just that, and ``hosvd`` does at a site whose ranks may yet fall.
    """
    strategy = (PROJECTIONS | NO_PROJECTIONS)[name]
    for field in ("rank", "max_rank", "groups"):
        if field in type(strategy).model_fields:
            update = {field: 16} | ({"max_rank": 16} if isinstance(strategy, Laser) else {})
            strategy = strategy.model_copy(update=update)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, width), nn.Tanh())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*compressed nothing in the first step", category=CaptureWarning)
        with compbench.compress(model, strategy, minimum_elements=1) as session:
            for step in range(4):
                with session.step():
                    model(torch.randn(rows, width)).square().mean().backward()
                for site in session.sites():
                    if site.reason:
                        continue
                    may_keep_all = step == 0 or isinstance(strategy, Hosvd)
                    assert site.kept_bytes < site.raw_bytes + may_keep_all
                    assert site.rank is None or site.rank <= site.width
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
