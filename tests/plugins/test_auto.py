"""auto: plans against all that there are, bytes against the budget, and the gradient against every strategy alone."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
from compbench_plugins._knapsack import best_choices, smallest_bytes
from compbench_plugins.auto import Auto, AutoCodec, _is_among, label_of, strategy_of
from compbench_plugins.gale import Gale
from compbench_plugins.laser import Laser
from compbench_plugins.recompute import Recompute
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compbench import Chain, Compressor, Session, Site, compress
from compbench.capture.settings import CaptureSettings
from compbench.errors import SettingsError
from compbench.measure.fidelity import gradient_cosine
from compbench.measure.step import Step
from compbench.registry import Registry
from compbench.testing import check_compressor
from compbench.workloads.trm_maze import TRMMaze
from tests.capture import zoo

FEW: dict[str, Any] = {"candidates": ("int8", [{"laser": {"rank": 0.25, "max_rank": 0.25}}, "int8"]), "quiet": True}


# -------------------------------------------------------------------- the plan


def cheapest(places: list[list[tuple[int, float]]], budget: int) -> float | None:
    """The least cost, by trying everything."""
    costs = [
        math.fsum(cost for _, cost in plan)
        for plan in itertools.product(*places)
        if sum(size for size, _ in plan) <= budget
    ]
    return min(costs, default=None)


costs = st.one_of(st.just(0.0), st.floats(-12, 1).map(lambda power: 10.0**power))
choices = st.lists(st.tuples(st.integers(1, 10**9), costs), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(choices, min_size=1, max_size=5), st.floats(0, 1))
def test_the_plan_is_the_best_that_there_is(places: list[list[tuple[int, float]]], share: float) -> None:
    most = sum(max(size for size, _ in own) for own in places)
    budget = int(share * most)
    chosen, least = best_choices(places, budget), cheapest(places, budget)
    if chosen is None:
        assert least is None
        assert smallest_bytes(places) > budget
        return
    plan = [own[n] for own, n in zip(places, chosen, strict=True)]
    assert sum(size for size, _ in plan) <= budget
    assert least is not None
    assert math.fsum(cost for _, cost in plan) == pytest.approx(least, rel=1e-5)


def test_a_budget_is_kept_to_the_byte() -> None:
    places = [[(2**30 + n, 10.0**-n) for n in range(6)] for _ in range(8)]
    assert best_choices(places, 8 * 2**30 - 1) is None
    for spare in (0, 1, 7, 39, 40):
        chosen = best_choices(places, 8 * 2**30 + spare)
        assert chosen is not None
        assert sum(chosen) <= spare
    assert best_choices([], 0) == []


# -------------------------------------------------------------------- settings


def test_one_limit_and_no_more() -> None:
    assert Auto().allowance(1000) == 100
    assert Auto(saved=0.75).allowance(1000) == 250
    assert Auto(budget=123).allowance(1000) == 123
    assert Auto(budget="1.5 KiB").allowance(10**9) == 1536
    assert Auto(budget="2MB").allowance(10**9) == 2_000_000
    with pytest.raises(ValidationError, match="both saved and budget"):
        Auto(saved=0.5, budget=100)


@pytest.mark.parametrize("budget", [0, -5, "", "lots", "12", "5 mib", "0 MiB"])
def test_budgets_that_say_nothing_are_refused(budget: int | str) -> None:
    with pytest.raises(ValidationError, match="256 MiB"):
        Auto(budget=budget)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("in8", "did you mean 'int8'"),
        ({"laser": {"rank": 0}}, "greater than or equal to 1"),
        ({"laser": {"depth": 1}}, "depth"),
        ({}, "a mapping of 0 names"),
        (["int8", "laser"], "can only be last"),
    ],
)
def test_candidates_that_can_not_be_made_are_refused(candidate: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Auto(candidates=("int8", candidate))


def test_ranks_below_one_are_shares_of_the_width() -> None:
    spec: Any = [{"laser": {"rank": 0.25, "max_rank": 0.5}}, "int8"]
    chain = strategy_of(spec, 192)
    assert isinstance(chain, Chain)
    assert chain.members[0] == Laser(rank=48, max_rank=96)
    assert strategy_of({"laser": {"rank": 0.001, "max_rank": 1}}, 8) == Laser(rank=1, max_rank=1)
    assert label_of(spec) == "laser(rank 0.25, max_rank 0.5)+int8"


@pytest.mark.parametrize("calls", [1, 5, 8, 9, 25, 100])
def test_tried_calls_are_spread_over_all(calls: int) -> None:
    tried = [call for call in range(calls) if _is_among(call, calls, 8)]
    assert len(tried) == min(calls, 8)
    assert abs(sum(tried) / len(tried) - (calls - 1) / 2) <= 1


# -------------------------------------------------------------------- the contract


ARMS: dict[str, Compressor] = {
    "default": Auto(quiet=True),
    "few": Auto(saved=0.5, **FEW),
    "low rank": Auto(saved=0.9, candidates=({"laser": {"rank": 0.0625, "max_rank": 0.0625}},), quiet=True),
    "warmup": Auto(saved=0.7, warmup=1, **FEW),
}


@pytest.mark.parametrize("arm", ARMS)
def test_the_contract_is_kept(arm: str) -> None:
    check_compressor(ARMS[arm])


# -------------------------------------------------------------------- in a session


def model_and_rows() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return zoo.Recursive(calls=3), torch.randn(8, 10, 32)


def step(session: Session, model: nn.Module, x: Tensor) -> None:
    model.zero_grad()
    with session.step():
        model(x * 1).float().sin().sum().backward()


def session_of(model: nn.Module, compressor: Compressor) -> Session:
    return Session(model, compressor, CaptureSettings(minimum_elements=16))


def encoded(session: Session, names: set[str]) -> tuple[int, int]:
    """Raw and kept bytes of sites, those included whose rows the plan keeps."""
    mine = [report for report in session.sites() if not report.reason or report.reason.startswith("would keep")]
    reports = [report for report in mine if report.name in names]
    return sum(report.raw_bytes for report in reports), sum(report.kept_bytes for report in reports)


def chosen(session: Session) -> dict[str, str]:
    return {
        report.name: name.removeprefix("chosen ")
        for report in session.sites()
        for name in report.statistics
        if name.startswith("chosen ")
    }


@pytest.mark.parametrize("saved", [0.5, 0.7, 0.8])
def test_after_the_calibration_step_the_budget_holds(saved: float) -> None:
    model, x = model_and_rows()
    with session_of(model, Auto(saved=saved, quiet=True)) as session:
        step(session, model, x)
        sites = {report.name for report in session.sites() if not report.reason}
        raw, kept = encoded(session, sites)
        assert raw == kept
        for _ in range(3):
            step(session, model, x)
            again, kept = encoded(session, sites)
            assert again == raw
            assert 0 < kept <= (1 - saved) * raw
    budget = kept
    with session_of(model, Auto(budget=budget, quiet=True)) as session:
        for _ in range(2):
            step(session, model, x)
        assert encoded(session, sites)[1] <= budget


def test_more_bytes_never_cost_more() -> None:
    model, x = model_and_rows()
    exact = torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))
    errors = []
    for saved in (0.85, 0.7, 0.4):
        with session_of(model, Auto(saved=saved, quiet=True)) as session:
            step(session, model, x)
            step(session, model, x)
        errors.append(sum(float((p.grad - g).square().sum()) for p, g in zip(model.parameters(), exact, strict=True)))
    assert errors[0] > errors[1] > errors[2]


def test_an_impossible_budget_is_refused_with_what_is_possible() -> None:
    model, x = model_and_rows()
    with session_of(model, Auto(budget=1000, **FEW)) as session:
        with pytest.raises(SettingsError, match=r"1,000 of [\d,]+ bytes .* a budget of ([\d,]+) or more") as error:
            step(session, model, x)
    words = str(error.value).split()
    least = int(words[words.index("(allowed:") + 4].replace(",", ""))
    with session_of(model, Auto(budget=least, **FEW)) as session:
        step(session, model, x)
    with session_of(model, Auto(budget=least - 1, **FEW)) as session:
        with pytest.raises(SettingsError):
            step(session, model, x)


def test_the_plan_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    model, x = model_and_rows()
    with session_of(model, Auto(saved=0.7)) as session:
        for _ in range(3):
            step(session, model, x)
        sites = chosen(session)
    told = capsys.readouterr().out
    assert told.count("auto's plan") == 1
    for site, strategy in sites.items():
        assert any(line.split()[0] == site and strategy in line for line in told.splitlines() if line)
    with session_of(model, Auto(saved=0.7, quiet=True)) as session:
        step(session, model, x)
    assert not capsys.readouterr().out


def test_a_saved_session_goes_on_bit_identically() -> None:
    def run(steps: int, state: dict[str, Any] | None = None) -> tuple[list[Tensor], dict[str, Any]]:
        model, x = model_and_rows()
        with session_of(model, Auto(saved=0.8, quiet=True)) as session:
            if state is not None:
                session.load_state_dict(state)
            for _ in range(steps):
                step(session, model, x)
            file = io.BytesIO()
            torch.save(session.state_dict(), file)
        file.seek(0)
        return [p.grad for p in model.parameters() if p.grad is not None], torch.load(file, weights_only=True)

    whole, _ = run(5)
    for at in (1, 3):
        _, state = run(at)
        resumed, _ = run(5 - at, state)
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_probes_before_and_after_leave_no_trace() -> None:
    def run(probes: bool) -> list[Tensor]:
        model, x = model_and_rows()
        with session_of(model, Auto(saved=0.8, quiet=True)) as session:
            for _ in range(3):
                if probes:
                    with session.probe():
                        model(2 * x).sum().backward()
                step(session, model, x)
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))


def test_recomputation_goes_together_with_it() -> None:
    model, x = model_and_rows()
    with session_of(model, Chain(members=(Recompute(), Auto(saved=0.7, quiet=True)))) as session:
        step(session, model, x)
        sites = {report.name for report in session.sites() if not report.reason}
        step(session, model, x)
        raw, kept = encoded(session, sites)
        assert 0 < kept <= 0.3 * raw
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_behind_a_strategy_that_encodes_it_is_refused() -> None:
    model, x = model_and_rows()
    with session_of(model, Chain(members=(Gale(rank=16), Auto(quiet=True)))) as session:
        with pytest.raises(SettingsError, match="no operator could be tried"):
            step(session, model, x)


def test_a_step_that_is_not_finite_decides_nothing() -> None:
    model, x = model_and_rows()
    with session_of(model, Auto(saved=0.7, **FEW)) as session:
        step(session, model, x * math.nan)
        assert not chosen(session)
        step(session, model, x)
        assert chosen(session)


def test_warmup_keeps_rows_before_the_calibration_step() -> None:
    model, x = model_and_rows()
    with session_of(model, Auto(saved=0.7, warmup=2, **FEW)) as session:
        for number in range(5):
            step(session, model, x)
            assert bool(chosen(session)) == (number >= 2)


def test_a_lone_codec_takes_what_keeps_most_within_its_share() -> None:
    codec = Auto(saved=0.7, **FEW).codec(Site("m", "m_64", 64), torch.Generator().manual_seed(0))
    assert isinstance(codec, AutoCodec)
    assert codec.kept_bytes(100, 1, 4) is None
    codec.encode(torch.randn(100, 64))
    codec.end_step()
    assert codec.kept_bytes(100, 1, 4) == 100 * (64 + 4)
    assert "chosen int8" in codec.statistics()
    codec.encode(torch.randn(100, 64))
    assert not codec.trials


# -------------------------------------------------------------------- what it is for


def test_it_beats_every_strategy_alone_at_equal_bytes() -> None:
    """A Tiny Recursive Model after a short training: its gradient's cosine, on mazes never trained on.

    Where int8 fits everywhere there is little to choose, and the two come out level: either may win.
    """
    workload = TRMMaze(
        grid=7, train_mazes=512, validation_mazes=32, hidden=64, heads=2, inner=192, rope_theta=100
    ).at_depth(4)
    model = workload.build(torch.Generator().manual_seed(0))
    trained, data = Step(workload, model, torch.device("cpu")), workload.data(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-3)
    batches = [trained.batch(data.train, slice(16 * i, 16 * i + 16)) for i in range(32)]
    for batch in batches + batches:
        optimizer.zero_grad()
        trained.loss(batch).backward()
        optimizer.step()
    held_out = trained.batch(data.validation, slice(16))

    def measured(compressor: Compressor) -> tuple[int, float]:
        with compress(model, compressor) as session:
            for batch in batches[:2]:
                with session.step():
                    trained.loss(batch).backward()
            kept = sum(site.kept_bytes for site in session.sites() if site.width > 5 and site.dtype == "float32")
            return kept, gradient_cosine(trained, session, held_out).total

    registry = Registry.load()

    def low_rank(rank: int) -> dict[str, Any]:
        return {"laser": {"rank": rank, "max_rank": rank}}

    alone = (low_rank(16), [low_rank(16), "int8"], [low_rank(32), "int8"], {"actnn": {"bits": 4}}, "int8")
    for spec in alone:
        kept, cosine = measured(registry.compressor(spec))
        own_kept, own_cosine = measured(Auto(budget=kept, quiet=True))
        assert own_kept <= kept
        if spec == "int8":
            assert 1 - own_cosine < 2 * (1 - cosine)
        else:
            assert 1 - own_cosine < (1 - cosine) / 2, spec
