"""What analyses make of rows and states, against direct computation on all of them at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compbench.analysis.distribution import OfSite, _numbers
from compbench.analysis.drift import _turns
from compbench.analysis.quantising import at_bits
from compbench.analysis.snapshots import Repeated, compare, snapshot_steps
from compbench.analysis.spectrum import quantised_cosines
from compbench.analysis.subspaces import add_gram, principal_components
from compbench.analysis.trajectory import follow
from compbench.compressor import Site
from tests.report.made_up import result

SITE = Site("block.mlp", "mlp_12", 12)


def calls(seed: int = 0, count: int = 3) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    decay = torch.logspace(0, -2, 12)
    return [(torch.randn(300, 12, generator=random) + 0.1) * decay * (1 + call) for call in range(count)]


def gram(rows: list[Tensor]) -> Tensor:
    C = torch.zeros(12, 12, dtype=torch.float64)
    for part in rows:
        add_gram(C, part)
    return C


class Shows:
    """A trained cell that has one site."""

    def __init__(self, rows: list[Tensor]) -> None:
        self.rows = rows

    def visit(self, batch: object, visit: Any) -> None:
        for call, rows in enumerate(self.rows):
            visit(SITE, call, rows)


def test_cosines_that_are_summed_up_over_calls_are_those_of_all_rows():
    rows = calls()
    V = principal_components(gram(rows))[1]
    found = quantised_cosines(Shows(rows), {}, {SITE.name: V}, (2, 5, 12))[SITE.name]
    assert {rank for rank, _, _ in found} == {2, 5}  # at the whole width nothing is projected
    X = torch.cat(rows).double()
    for (rank, bits, when), cosine in found.items():
        Q = V[:, :rank].float()
        rebuilt = [at_bits(x @ Q, bits) @ Q.T if when == "after" else at_bits(x, bits) @ Q @ Q.T for x in rows]
        whole = torch.cat(rebuilt).double()
        assert cosine == pytest.approx(float((X * whole).sum() / X.norm() / whole.norm()), abs=1e-6)


def test_numbers_of_a_distribution_are_those_of_all_rows():
    rows, rank = calls(), 4
    of = OfSite(torch.zeros(12, 12, dtype=torch.float64))
    for part in rows:
        of.first(part)
    for part in rows:
        of.second(part, (rank, 12))
    found = _numbers(of)
    X = torch.cat(rows).double().numpy()
    singular = np.linalg.svd(X, compute_uv=False)
    assert found["values"] == X.size
    assert found["standard_deviation"] == pytest.approx(X.std())
    assert found["projection_relative_mse_rank_4"] == pytest.approx((singular[4:] ** 2).sum() / (singular**2).sum())
    assert found["outliers_3_sigma"] == pytest.approx((abs(X - X.mean()) > 3 * X.std()).mean())
    scales = [float(x.abs().max()) / 127 for x in rows]
    rounded = sum(((x / s).round() * s - x).double().square().sum() for x, s in zip(rows, scales, strict=True))
    assert found["int8_relative_mse_max"] == pytest.approx(float(rounded) / (X**2).sum(), rel=1e-3)
    total, lost = found["total_relative_mse_max_rank_4"], found["projection_relative_mse_rank_4"]
    kept = (1 - lost) * found["int8_relative_mse_max_rank_4"]
    assert total == pytest.approx(lost + kept, rel=1e-6)  # the two errors are orthogonal
    V = principal_components(gram(rows))[1][:, :rank].float()
    back = []
    for x in rows:
        Z = x @ V
        step = Z.abs().max() / 127
        back.append(((Z / step).round() * step) @ V.T)
    Y = torch.cat(back).double().numpy()
    assert found["std_change_rank_4"] == pytest.approx(Y.std() / X.std() - 1, abs=1e-5)
    assert found["mean_change_rank_4"] == pytest.approx((Y.mean() - X.mean()) / X.std(), abs=1e-5)
    assert not any(key.endswith("rank_12") for key in found)


def test_turning_bases_have_the_angles_they_were_turned_by():
    def basis(degrees: float) -> Tensor:
        angle = math.radians(degrees)
        return torch.tensor([[1, 0], [0, math.cos(angle)], [0, math.sin(angle)]], dtype=torch.float64)

    C = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64))
    found = _turns({0: basis(60), 5: basis(20), 9: basis(0)}, C)
    assert found["largest_angle_successive_max"] == pytest.approx(40)
    assert found["largest_angle_successive_median"] == pytest.approx(30)
    assert found["mean_angle_successive_median"] == pytest.approx(15)
    assert found["largest_angle_first_last"] == pytest.approx(60)
    assert found["overlap_first_last"] == pytest.approx((1 + 0.25) / 2)
    assert found["fidelity"] == pytest.approx(1)
    assert found["stale_fidelity"] == pytest.approx(math.sqrt((4 + 0.25) / 5))


def test_states_that_turn_in_a_plane_are_described_by_their_angle():
    theta, calls_ = 0.2, 6
    start = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    c, s = math.cos(theta), math.sin(theta)
    turn = torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=torch.float64)
    states = [start]
    for _ in range(calls_ - 1):
        states.append(states[-1] @ turn)
    found, rows = follow(states)
    assert (found["calls"], found["width"], found["positions"]) == (calls_, 3, 2)
    assert [found["norm_first"], found["norm_last"]] == pytest.approx([2, 2])
    steps = [found[f"relative_step_{which}"] for which in ("first", "last", "last_reasoning")]
    assert steps == pytest.approx([2 * math.sin(theta / 2)] * 3)
    assert found["cosine_successive_last"] == pytest.approx(math.cos(theta))
    assert found["cosine_first_to_last"] == pytest.approx(math.cos(5 * theta))
    assert found["participation_ratio_first"] == pytest.approx(2)
    assert found["rank_at_fidelity_0.95_all"] == 2
    assert found["plane_share"] == pytest.approx(1)
    paths = [row for row in rows if str(row["quantity"]).startswith("plane_")]
    assert len(paths) == 2 * 2 * calls_
    # The plane keeps distances: from the first to the second state of a row as in the states themselves.
    at = {(row["row"], row["call"], row["quantity"]): float(row["value"]) for row in paths}
    moved = math.dist(*[[at[0, call, f"plane_{axis}"] for axis in (1, 2)] for call in (1, 2)])
    assert moved == pytest.approx(2 * 2 * math.sin(theta / 2))


def test_a_single_call_has_no_steps():
    found, _ = follow([torch.ones(4, 3, dtype=torch.float64)])
    assert found["relative_step_last"] is None
    assert found["relative_step_last_reasoning"] is None


def test_snapshots_are_spread_evenly_with_both_ends():
    assert snapshot_steps(1200, 13) == list(range(0, 1201, 100))
    assert snapshot_steps(3, 12) == [0, 1, 2, 3]


def test_trainings_are_the_same_only_with_every_loss_and_all_of_them():
    record = result(loss_curve=[3.0, 2.0, 1.0])

    def repeated(*losses: float) -> Repeated:
        return Repeated(key="k", torch="2", threads=1, steps=[0], loss_curve=list(losses), statistics_curve=[])

    assert compare(repeated(3.0, 2.0, 1.0), record).same is True
    assert compare(repeated(3.0, 2.0, 1.0), None).same is None
    other = compare(repeated(3.0, 2.0, math.nextafter(1.0, 2)), record)
    assert other.same is False
    assert "from step 3 on" in other.reason
    assert compare(repeated(3.0, 2.0), record).same is False
