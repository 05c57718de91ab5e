"""LASER against Algorithm 1 written with NumPy, with the decisions that the plugin's docstring lists."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from compbench_plugins.laser import Laser, LaserCodec, expanded
from numpy.typing import NDArray

from compbench import Dense, Payload, Site
from compbench.testing import Checkup

Matrix = NDArray[np.float64]

WIDTH = 16


def make(**fields: object) -> LaserCodec:
    settings = Laser.model_validate({"rank": 4, "max_rank": 8, "growth": 2} | fields)
    codec = settings.codec(Site("block.mlp", "mlp_16", WIDTH), torch.Generator().manual_seed(3))
    assert isinstance(codec, LaserCodec)
    return codec


@dataclass
class Reference:
    """Algorithm 1 for one site; the rows that an expansion samples are handed in."""

    rank: int
    max_rank: int
    fidelity: float
    patience: int
    reset_rank: str
    Q: Matrix | None = None
    c: int = 0
    reset_due: bool = False
    F: float = math.nan
    events: list[str] = field(default_factory=list)

    def step(self, calls: list[Matrix], R: Matrix | None) -> list[Matrix]:
        """Takes one step and returns what its calls are rebuilt to."""
        X = np.concatenate(calls)
        if self.Q is None:
            self.Q = self.top(X, self.rank)
            return []
        Q = self.Q
        rebuilt = [call @ Q @ Q.T for call in calls]
        Z = X @ Q
        self.F = float(np.linalg.norm(Z) / np.linalg.norm(X))
        if self.reset_due:
            self.Q = self.top(X, self.rank if self.reset_rank == "initial" else Q.shape[1])
            self.c, self.reset_due = 0, False
            self.events.append("reset")
        elif self.F >= self.fidelity:  # noqa: SIM300 - F is no constant
            self.Q, self.c = np.linalg.qr(X.T @ Z)[0], 0
            self.events.append("iterate")
        else:
            self.c += 1
            if self.c >= self.patience:
                self.reset_due = True
                self.events.append("wait")
            elif Q.shape[1] < self.max_rank:
                assert R is not None
                R_perp = R - R @ Q @ Q.T
                self.Q = np.linalg.qr(np.concatenate([Q, R_perp.T], axis=1))[0]
                self.events.append("expand")
            else:
                self.Q = np.linalg.qr(X.T @ Z)[0]
                self.events.append("iterate at the largest rank")
        return rebuilt

    @staticmethod
    def top(X: Matrix, k: int) -> Matrix:
        return np.linalg.svd(X, full_matrices=False)[2][:k].T


def stream(steps: int, calls: int = 3) -> list[list[Matrix]]:
    """Calls of steps whose subspace drifts, jumps, and widens for a while."""
    random = np.random.default_rng(5)
    basis = np.linalg.qr(random.standard_normal((WIDTH, WIDTH)))[0]
    found = []
    for step in range(steps):
        if step % 9 == 5:
            basis = np.linalg.qr(random.standard_normal((WIDTH, WIDTH)))[0]
        basis = np.linalg.qr(basis + 0.02 * random.standard_normal((WIDTH, WIDTH)))[0]
        wide = 14 if step % 20 > 11 else 3
        scale = np.where(np.arange(WIDTH) < wide, 1.0, 0.02) * np.linspace(2, 1, WIDTH)
        found.append([(random.standard_normal((20, WIDTH)) * scale) @ basis.T for _ in range(calls)])
    return found


def projector(Q: Matrix) -> Matrix:
    return Q @ Q.T


@pytest.mark.parametrize("reset_rank", ["kept", "initial"])
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_every_step_is_the_one_of_algorithm_1(reset_rank: str, patience: int) -> None:
    codec = make(fidelity=0.9, patience=patience, reset_rank=reset_rank)
    reference = Reference(4, 8, 0.9, patience, reset_rank)
    for step, calls in enumerate(stream(60)):
        payloads = [codec.encode(torch.from_numpy(call)) for call in calls]
        assert codec.gathered is not None
        R = None if codec.gathered.R is None else codec.gathered.R.numpy().copy()
        rebuilt = reference.step(calls, R)
        for payload, expected in zip(payloads, rebuilt, strict=step > 0):
            np.testing.assert_allclose(payload.decode().numpy(), expected, atol=1e-7)
        codec.end_step()
        assert codec.Q is not None
        assert reference.Q is not None
        assert codec.k == reference.Q.shape[1]
        np.testing.assert_allclose(projector(codec.Q.numpy()), projector(reference.Q), atol=1e-7)
        assert codec.c == reference.c
        if step:
            assert codec.statistics()["fidelity"] == pytest.approx(reference.F, abs=1e-9)
    happened = {event: reference.events.count(event) for event in reference.events}
    assert codec.statistics()["resets"] == happened["reset"] > 1
    assert codec.statistics()["expansions"] == happened.get("expand", 0)
    assert happened["iterate"] > 5
    if patience > 1:
        assert happened["expand"] > 1
    if patience == 3 and reset_rank == "kept":
        assert happened["iterate at the largest rank"] > 1


def test_rows_of_an_expansion_come_from_all_calls_alike() -> None:
    taken = np.zeros(5)
    codec = make(growth=4)
    codec.encode(torch.eye(WIDTH))
    codec.end_step()
    for _ in range(400):
        for call in range(5):
            codec.encode(torch.full((7, WIDTH), float(call)))
        assert codec.gathered is not None
        assert codec.gathered.R is not None
        taken += np.bincount(codec.gathered.R[:, 0].long().numpy(), minlength=5)
        codec._stream.end_step()
        codec.gathered = None
    # 1,600 draws with probability 1/5: a standard deviation of 16.
    assert (np.abs(taken - 320) < 5 * 16).all()


def test_no_row_is_sampled_twice_from_a_call() -> None:
    codec = make(growth=4)
    codec.encode(torch.eye(WIDTH))
    codec.end_step()
    seen = set()
    for _ in range(200):
        codec.encode(torch.arange(9.0)[:, None].expand(9, WIDTH).clone())
        assert codec.gathered is not None
        assert codec.gathered.R is not None
        drawn = codec.gathered.R[:, 0].tolist()
        assert len(set(drawn)) == 4
        seen |= set(drawn)
        codec._stream.end_step()
        codec.gathered = None
    assert seen == set(range(9))


def test_fidelity_is_the_cosine_of_the_rows_and_their_rebuild() -> None:
    codec = make()
    for calls in stream(4):
        payloads = [codec.encode(torch.from_numpy(call)) for call in calls]
        codec.end_step()
    X = np.concatenate(calls)
    rebuilt = np.concatenate([payload.decode().numpy() for payload in payloads])
    cosine = (X * rebuilt).sum() / (np.linalg.norm(X) * np.linalg.norm(rebuilt))
    figures = codec.statistics()
    assert figures["fidelity"] == pytest.approx(cosine, abs=1e-12)
    assert figures["relative_error"] == pytest.approx(np.linalg.norm(X - rebuilt) / np.linalg.norm(X), abs=1e-9)


def test_the_first_basis_holds_what_only_later_calls_show() -> None:
    codec = make(rank=2)
    axes = torch.eye(WIDTH, dtype=torch.float64)
    codec.encode(axes[0].expand(9, WIDTH).clone())
    codec.encode(2 * axes[5].expand(9, WIDTH).clone())
    codec.end_step()
    assert codec.Q is not None
    assert torch.allclose(codec.Q.abs(), torch.stack([axes[5], axes[0]], dim=1), atol=1e-12)


def test_calls_of_the_first_step_have_bases_of_their_own_where_that_saves() -> None:
    codec = make()
    random = torch.Generator().manual_seed(0)
    tall = torch.randn(200, 4, generator=random) @ torch.randn(4, WIDTH, generator=random)
    payload = codec.encode(tall)
    assert sum(tensor.numel() for tensor in payload.tensors()) == 200 * 4 + WIDTH * 4
    assert torch.allclose(payload.decode(), tall, atol=1e-4)
    assert isinstance(codec.encode(tall[:5]), Dense)


def test_expansion_keeps_the_old_columns_and_spans_the_sampled_rows() -> None:
    random = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(WIDTH, 4, generator=random, dtype=torch.float64)).Q
    R = torch.randn(3, WIDTH, generator=random, dtype=torch.float64)
    wider = expanded(Q, R)
    assert torch.equal(wider[:, :4], Q)
    assert torch.allclose(wider.T @ wider, torch.eye(7, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(R @ wider @ wider.T, R, atol=1e-12)


def test_expansion_by_rows_that_the_basis_spans_stays_orthonormal() -> None:
    random = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(WIDTH, 4, generator=random)).Q
    wider = expanded(Q, torch.cat([Q.T[:2], torch.zeros(1, WIDTH)]))
    assert torch.allclose(wider.T @ wider, torch.eye(7), atol=1e-5)


def test_expansion_keeps_earlier_payloads_decodable() -> None:
    codec = make(fidelity=1.0, patience=100, max_rank=WIDTH)
    random = torch.Generator().manual_seed(0)
    kept = []
    for _ in range(8):
        X = torch.randn(30, WIDTH, generator=random)
        payload = codec.encode(X)
        kept.append((payload, payload.decode().clone()))
        codec.end_step()
    assert codec.statistics()["expansions"] == 6
    assert codec.k == WIDTH
    assert all(torch.equal(payload.decode(), decoded) for payload, decoded in kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("basis", ["shared", "per_call"])
def test_rank_of_the_width_is_exact_to_rounding(dtype: torch.dtype, basis: str) -> None:
    codec = make(rank=500, max_rank=512, basis=basis)
    random = torch.Generator().manual_seed(0)
    for _ in range(6):
        for _ in range(4):
            X = torch.randn(50, WIDTH, generator=random).to(dtype)
            decoded = codec.encode(X).decode()
            assert (decoded - X).double().norm() <= 8 * torch.finfo(dtype).eps * X.double().norm()
        codec.end_step()


def test_a_shared_basis_is_frozen_and_kept_once_in_a_step() -> None:
    codec = make()
    for calls in stream(3):
        bases = {codec.encode(torch.from_numpy(call)).tensors()[-1].data_ptr() for call in calls}
        codec.end_step()
    assert len(bases) == 1


def test_a_basis_per_call_takes_a_power_iteration_at_each_call() -> None:
    codec = make(basis="per_call")
    steps = stream(3)
    for call in steps[0]:
        codec.encode(torch.from_numpy(call))
    codec.end_step()
    assert codec.Q is not None
    Q = codec.Q.numpy()
    for calls in steps[1:]:
        for call in calls:
            payload = codec.encode(torch.from_numpy(call))
            np.testing.assert_allclose(payload.decode().numpy(), call @ Q @ Q.T, atol=1e-9)
            Q = np.linalg.qr(call.T @ (call @ Q))[0]
        codec.end_step()


@pytest.mark.parametrize("spoilt", [0.0, math.nan, math.inf])
def test_a_basis_per_call_does_not_move_to_rows_without_directions(spoilt: float) -> None:
    codec = make(basis="per_call")
    first, second = stream(2)
    codec.encode(torch.from_numpy(first[0]))
    codec.end_step()
    assert codec.Q is not None
    before = codec.Q.clone()
    codec.encode(torch.from_numpy(second[0]) * spoilt)
    assert torch.equal(codec.Q, before)


def test_power_iterations_converge_to_the_leading_directions() -> None:
    codec = make(fidelity=0.1)
    random = np.random.default_rng(0)
    codec.encode(torch.from_numpy(random.standard_normal((50, WIDTH))))
    codec.end_step()
    X = random.standard_normal((400, WIDTH)) * np.geomspace(8, 0.1, WIDTH)
    for _ in range(60):
        codec.encode(torch.from_numpy(X))
        codec.end_step()
    assert codec.Q is not None
    np.testing.assert_allclose(projector(codec.Q.numpy()), projector(Reference.top(X, 4)), atol=1e-6)
    assert codec.statistics()["resets"] == 0


def test_bf16_rows_are_tracked_as_well_as_fp32_ones() -> None:
    codecs = {dtype: make() for dtype in (torch.float32, torch.bfloat16)}
    for calls in stream(5):
        for dtype, codec in codecs.items():
            for call in calls:
                codec.encode(torch.from_numpy(call).to(dtype))
            codec.end_step()
    fidelities = [codec.statistics()["fidelity"] for codec in codecs.values()]
    assert fidelities[0] == pytest.approx(fidelities[1], abs=0.01)


def test_a_step_that_is_not_finite_is_counted_and_leaves_the_basis() -> None:
    codec = make()
    steps = stream(3)
    for calls in steps[:2]:
        for call in calls:
            codec.encode(torch.from_numpy(call))
        codec.end_step()
    before, figures = codec.Q, codec.statistics()
    spoilt = steps[2][0].copy()
    spoilt[0, 0] = np.inf
    codec.encode(torch.from_numpy(spoilt))
    codec.end_step()
    assert codec.Q is before
    assert codec.statistics() == figures | {"steps": 3, "nonfinite_steps": 1}


def test_a_site_that_a_step_did_not_reach_stays_as_it_was() -> None:
    codec = make()
    codec.end_step()
    for call in stream(1)[0]:
        codec.encode(torch.from_numpy(call))
    codec.end_step()
    before, figures = codec.Q, codec.statistics()
    codec.end_step()
    assert codec.Q is before
    assert codec.statistics() == figures


def test_a_rank_above_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 600 is above max_rank 512"):
        Laser(rank=600)


def test_kept_bytes_of_the_papers_table() -> None:
    """Table 2 of the paper charges a basis per call; 25 calls of 7,744 rows in bf16 with fp32 bases."""
    for width, rank, saving in [(3072, 128, 92.53), (1536, 470, 57.26), (1536, 510, 53.63)]:
        settings = Laser(rank=rank, basis="per_call")
        codec = settings.codec(Site("block", "site", width), torch.Generator())
        assert codec is not None
        kept = codec.kept_bytes(rows=7744, calls=25, itemsize=2)
        assert kept is not None
        assert 100 * (1 - kept / (25 * 7744 * width * 2)) == pytest.approx(saving, abs=0.005)


@pytest.mark.parametrize("growth", [1, 4])
@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_kept_bytes_in_closed_form(growth: int, itemsize: int) -> None:
    """Coefficients for each call, and a basis in at least fp32: one, or one a call."""
    dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[itemsize]
    for basis, bases in [("shared", 1), ("per_call", 7)]:
        codec = make(basis=basis, growth=growth, fidelity=1.0, patience=99)
        for step in range(4):
            X = [torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(step)).to(dtype) for _ in range(7)]
            payloads = [codec.encode(rows) for rows in X]
            said = codec.kept_bytes(30, 7, itemsize)
            if step:
                storages = {t.data_ptr(): t.nbytes for payload in payloads for t in payload.tensors()}
                assert said == 7 * 30 * codec_rank(payloads) * itemsize + bases * WIDTH * codec_rank(payloads) * max(
                    itemsize, 4
                )
                assert said == sum(storages.values())
            codec.end_step()


def codec_rank(payloads: list[Payload]) -> int:
    Z = payloads[0].coefficients()
    assert Z is not None
    return Z.shape[1]


def started(**fields: object) -> tuple[LaserCodec, Matrix]:
    """A codec whose first step is over, and its basis."""
    codec = make(**fields)
    for call in stream(1)[0]:
        codec.encode(torch.from_numpy(call))
    codec.end_step()
    assert codec.Q is not None
    return codec, codec.Q.numpy().copy()


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize(("basis", "moves"), [("shared", "step"), ("shared", "call"), ("per_call", "step")])
def test_power_iterations_in_a_row(iterations: int, basis: str, moves: str) -> None:
    codec, Q = started(iterations=iterations, basis=basis, power_iteration=moves, fidelity=0.01)
    for calls in stream(4)[1:]:
        encoded = Q
        for call in [np.concatenate(calls)] if (basis, moves) == ("shared", "step") else calls:
            for _ in range(iterations):
                Q = np.linalg.qr(call.T @ call @ Q)[0]
        for number, call in enumerate(calls):
            decoded = codec.encode(torch.from_numpy(call)).decode().numpy()
            if basis == "shared" or not number:
                np.testing.assert_allclose(decoded, call @ encoded @ encoded.T, atol=1e-8)
        codec.end_step()
        assert codec.Q is not None
        np.testing.assert_allclose(projector(codec.Q.numpy()), projector(Q), atol=1e-8)


def test_only_several_iterations_at_once_gather_a_gram_matrix_in_every_step() -> None:
    gathered = {}
    for iterations in (1, 2):
        for moves in ("step", "call"):
            codec, _ = started(iterations=iterations, power_iteration=moves)
            codec.encode(torch.from_numpy(stream(1)[0][0]))
            assert codec.gathered is not None
            gathered[iterations, moves] = codec.gathered.C is not None
            assert sum(t.numel() for t in codec.state()) > 0
    assert gathered == {(1, "step"): False, (1, "call"): False, (2, "step"): True, (2, "call"): False}


@pytest.mark.parametrize("moves", ["step", "call"])
def test_three_iterations_in_one_step_are_those_of_three_steps(moves: str) -> None:
    X = np.random.default_rng(0).standard_normal((400, WIDTH)) * np.geomspace(8, 0.1, WIDTH)
    found = []
    for iterations, steps in [(1, 3), (3, 1)]:
        codec, _ = started(iterations=iterations, power_iteration=moves, fidelity=0.01)
        for _ in range(steps):
            codec.encode(torch.from_numpy(X))
            codec.end_step()
        assert codec.Q is not None
        found.append(projector(codec.Q.numpy()))
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)


@pytest.mark.parametrize(("threshold", "largest", "columns"), [(0.9, 64, 8), (0.9, 3, 3), (0.72, 64, 1), (1.0, 64, 12)])
def test_growth_in_proportion_to_the_deficit(threshold: float, largest: int, columns: int) -> None:
    """With F^2 = 0.5 and 12 directions left: 12 (0.81 - 0.5) / (1 - 0.5) = 7.44 columns, and so on."""
    codec = make(growth="deficit", max_growth=largest, fidelity=threshold, max_rank=WIDTH, patience=9)
    codec.encode(torch.eye(WIDTH, dtype=torch.float64)[:4])
    codec.end_step()
    codec.encode(torch.cat([3 * torch.eye(WIDTH)[:4], 3**0.5 * torch.eye(WIDTH)[4:]]).double())
    codec.end_step()
    assert codec.statistics()["fidelity"] == pytest.approx(math.sqrt(0.5))
    assert codec.k == 4 + columns


def test_a_deficit_is_closed_where_directions_are_alike() -> None:
    random = torch.Generator().manual_seed(2)
    codec = make(growth="deficit", rank=2, max_rank=WIDTH, fidelity=0.9, patience=9)
    for _ in range(3):
        codec.encode(torch.randn(4000, WIDTH, generator=random))
        codec.end_step()
    figures = codec.statistics()
    assert figures["expansions"] == 1
    assert figures["fidelity"] >= 0.9
    assert figures["rank"] == pytest.approx(0.81 * WIDTH, abs=1.5)


def test_rows_of_an_expansion_by_residual_are_a_weighted_sample_over_all_calls() -> None:
    """With one slot a row is drawn with the probability of its share of all squared residuals."""
    codec = make(growth=1, expansion_rows="residual", rank=4)
    codec.encode(torch.eye(WIDTH)[:4])
    codec.end_step()
    weights = torch.tensor([[1.0, 2.0, 0.0], [4.0, 1.0, 2.0]])
    counts = torch.zeros(2, 3)
    for _ in range(2000):
        for call, own in enumerate(weights):
            X = torch.zeros(3, WIDTH)
            X[:, 0] = 100.0  # what the basis spans does not count
            X[torch.arange(3), 4 + 3 * call + torch.arange(3)] = own.sqrt()
            codec.encode(X)
        assert codec.gathered is not None
        assert codec.gathered.R is not None
        drawn = int(codec.gathered.R[0, 4:].argmax())
        counts[drawn // 3, drawn % 3] += 1
        codec._stream.end_step()
        codec.gathered = None
    expected = weights / weights.sum()
    assert counts[0, 2] == 0
    assert ((counts / 2000 - expected).abs() <= 5 * (expected * (1 - expected) / 2000).sqrt()).all()


def test_rows_by_residual_are_drawn_without_replacement_and_those_that_miss_most_first() -> None:
    codec = make(growth=3, max_rank=WIDTH, expansion_rows="residual", fidelity=1.0, patience=9)
    axes = torch.eye(WIDTH)
    codec.encode(axes[:4])
    codec.end_step()
    codec.encode(torch.cat([axes[:4]] * 20 + [axes[6:7]]))
    codec.encode(torch.cat([axes[:4]] * 20 + [axes[9:11]]))
    codec.end_step()
    assert codec.Q is not None
    assert codec.k == 7
    spanned = projector(codec.Q.numpy()).diagonal()
    np.testing.assert_allclose(spanned[[6, 9, 10]], 1.0, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"basis": "per_call"}, {"power_iteration": "call"}, {"iterations": 2}])
def test_rebuilding_with_the_updated_basis_is_line_21_as_printed(fields: dict[str, object]) -> None:
    codec, Q = started(rebuild="updated", fidelity=0.5, **fields)
    changed = False
    for calls in stream(4)[1:]:
        payloads = []
        for call in calls:
            payloads.append(codec.encode(torch.from_numpy(call)))
            payloads[0].decode()  # asked for early: later calls go into the updated basis all the same
        coefficients = [payload.coefficients() for payload in payloads]
        at_backward = [payload.decode().clone() for payload in payloads]
        codec.end_step()
        assert codec.Q is not None
        for Z, decoded, payload in zip(coefficients, at_backward, payloads, strict=True):
            assert Z is not None
            assert torch.allclose(decoded, Z @ codec.Q.T, atol=1e-8)
            assert torch.allclose(payload.decode(), decoded, atol=1e-8)
            assert payload.tensors()[0] is Z
        changed |= not np.allclose(at_backward[0].numpy(), calls[0] @ Q @ Q.T, atol=1e-3)
        Q = codec.Q.numpy()
    assert changed


def test_rebuilding_with_the_updated_basis_after_an_expansion_uses_the_columns_that_encoded() -> None:
    codec, Q = started(rebuild="updated", fidelity=1.0, patience=9)
    X = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    payload = codec.encode(X)
    expected = X.numpy() @ Q @ Q.T
    np.testing.assert_allclose(payload.decode().numpy(), expected, atol=1e-12)
    codec.end_step()
    assert codec.k == 6
    np.testing.assert_allclose(payload.decode().numpy(), expected, atol=1e-12)


def test_rebuilding_with_the_updated_basis_after_a_reset_to_fewer_columns_uses_those_that_are_left() -> None:
    codec, _ = started(rebuild="updated", fidelity=1.0, patience=2, reset_rank="initial")
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        payload = codec.encode(torch.randn(40, WIDTH, generator=random, dtype=torch.float64))
        codec.end_step()
    assert codec.statistics()["resets"] == 1
    assert codec.Q is not None
    Z = payload.coefficients()
    assert Z is not None
    assert (Z.shape[1], codec.k) == (6, 4)
    assert torch.allclose(payload.decode(), Z[:, :4] @ codec.Q.T)
    weights = torch.randn(40, 3, generator=random, dtype=torch.float64)
    assert torch.allclose(payload.weight_gradient(weights), weights.T @ payload.decode())


def test_a_payload_outlives_the_codec_whose_updated_basis_it_asks_for() -> None:
    codec, Q = started(rebuild="updated")
    X = torch.from_numpy(stream(2)[1][0])
    payload = codec.encode(X)
    del codec
    np.testing.assert_allclose(payload.decode().numpy(), X.numpy() @ Q @ Q.T, atol=1e-12)


def test_the_updated_basis_breaks_the_independence_of_payloads_and_nothing_else() -> None:
    failed = [result.name for result in Checkup(Laser(rank=8, rebuild="updated")) if result.status == "failed"]
    assert failed == ["payloads_are_independent"]


@pytest.mark.parametrize(
    "fields",
    [
        {"growth": "deficit"},
        {"growth": "deficit", "expansion_rows": "residual", "patience": 9},
        {"power_iteration": "call"},
        {"iterations": 3},
        {"iterations": 2, "basis": "per_call"},
        {"overrides": ({"sites": "width:>100", "rank": 12, "fidelity": 0.5},)},
    ],
)
def test_every_option_holds_to_the_contract(fields: dict[str, object]) -> None:
    failed = [result for result in Checkup(Laser.model_validate({"rank": 8} | fields)) if result.status == "failed"]
    assert failed == []


def test_steps_that_no_growth_can_mend_are_counted() -> None:
    codec = make(rank=4, max_rank=6, growth=2, fidelity=1.0, patience=99)
    random = torch.Generator().manual_seed(0)
    fidelities = []
    for step in range(6):
        codec.encode(torch.randn(40, WIDTH, generator=random))
        codec.end_step()
        if step:
            fidelities.append(codec.statistics()["fidelity"])
    figures = codec.statistics()
    assert {name: figures[name] for name in ("low_fidelity_steps", "exhausted_steps", "expansions", "rank")} == {
        "low_fidelity_steps": 5,
        "exhausted_steps": 4,
        "expansions": 1,
        "rank": 6,
    }
    assert figures["lowest_fidelity"] == min(fidelities) < fidelities[-1]


def test_a_rank_above_the_width_is_clamped_and_told() -> None:
    for rank, told in [(WIDTH, 0), (WIDTH + 1, 1)]:
        codec = make(rank=rank, max_rank=512)
        assert codec.k == WIDTH
        assert codec.statistics()["rank_clamped"] == told


def test_the_last_override_that_chooses_a_site_sets_its_rank_and_fidelity() -> None:
    laser = Laser.model_validate(
        {
            "rank": 8,
            "fidelity": 0.9,
            "overrides": [
                {"sites": "*.mlp*", "rank": 4, "fidelity": 0.5},
                {"sites": ["*", "!width:>=32"], "rank": 2},
                {"sites": 64, "fidelity": 0.7},
            ],
        }
    )
    found = {}
    for site in [
        Site("a.mlp", "mlp_32", 32),
        Site("a.mlp", "mlp_16", 16),
        Site("a", "a_64", 64),
        Site("a", "a_48", 48),
    ]:
        codec = laser.codec(site, torch.Generator())
        assert isinstance(codec, LaserCodec)
        found[site.role] = (codec.k, codec.settings.fidelity)
        assert codec.kept_bytes(100, 5, 4) == 5 * 100 * codec.k * 4 + site.width * codec.k * 4
    assert found == {"mlp_32": (4, 0.5), "mlp_16": (2, 0.9), "a_64": (8, 0.7), "a_48": (8, 0.9)}
    assert Laser.model_validate_json(laser.model_dump_json(exclude_defaults=True), strict=True) == laser


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"sites": "a/b/c"}, "not of the form MODULE/ROLE"),
        ({"sites": []}, "at least 1 item"),
        ({"rank": 3}, "sites"),
        ({"sites": "*", "rank": 600}, "rank 600 of override 0 is above max_rank 512"),
        ({"sites": "*", "growth": 1}, "growth"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(override: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Laser.model_validate({"overrides": [override]})


def test_patterns_of_overrides_that_match_no_site_are_told() -> None:
    laser = Laser.model_validate({"overrides": [{"sites": ["*.mpl", "*.attn"]}, {"sites": "width:16"}]})
    told = laser.unmatched_message([Site("a.mlp", "mlp_16", 16), Site("a.attn", "attn_16", 16)])
    assert told.startswith("sites pattern '*.mpl' matches none of the 2 sites; nearest: a.mlp")
    assert len(told.splitlines()) == 1
    assert Laser().unmatched_message([]) == ""


@pytest.mark.parametrize("reset_batch", ["kept", "skipped"])
def test_the_batch_of_a_reset_is_left_out_where_that_is_asked_for(reset_batch: str) -> None:
    codec = make(fidelity=1.0, patience=2, reset_batch=reset_batch)
    random = torch.Generator().manual_seed(0)
    asked, resets = [], []
    for _ in range(9):
        asked.append(codec.skips_update())
        codec.encode(torch.randn(40, WIDTH, generator=random))
        before = codec.statistics()["resets"]
        codec.end_step()
        resets.append(codec.statistics()["resets"] > before)
    assert sum(resets) == 2
    assert asked == (resets if reset_batch == "skipped" else [False] * 9)
