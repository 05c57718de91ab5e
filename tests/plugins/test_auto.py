"""auto: plans against all that there are, bytes against the budget, and the gradient against every strategy alone."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
from compbench_plugins._auto_calibration import Sums, is_among
from compbench_plugins._auto_candidates import label_of, strategy_of
from compbench_plugins._group_codes import Bits
from compbench_plugins._knapsack import best_choices
from compbench_plugins.auto import Auto, AutoCodec
from compbench_plugins.checkpoint import Checkpoint
from compbench_plugins.gale import Gale
from compbench_plugins.laser import Laser
from compbench_plugins.recompute import Recompute
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compbench import Chain, Compressor, Recomputation, Session, Site
from compbench.capture.settings import CaptureSettings
from compbench.errors import SettingsError
from compbench.registry import Registry
from compbench.testing import check_compressor
from tests.capture import zoo
from tests.plugins.equal_bytes import EXACT, Contest, lossy

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


@given(st.lists(choices, min_size=1, max_size=5), st.floats(0, 1))
def test_the_plan_is_the_best_that_there_is(places: list[list[tuple[int, float]]], share: float) -> None:
    most = sum(max(size for size, _ in own) for own in places)
    budget = int(share * most)
    chosen, least = best_choices(places, budget), cheapest(places, budget)
    if chosen is None:
        assert least is None
        assert sum(min(size for size, _ in own) for own in places) > budget
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
    tried = [call for call in range(calls) if is_among(call, calls, 8)]
    assert len(tried) == min(calls, 8)
    assert abs(sum(tried) / len(tried) - (calls - 1) / 2) <= 1


@given(st.integers(1, 6), st.integers(0, 6), st.floats(0, 1), st.integers(0, 9))
def test_the_sum_over_all_calls_is_estimated_by_some(tried: int, others: int, alike: float, seed: int) -> None:
    """What is alike in calls adds up, what is not cancels; with all of them there is nothing to estimate."""
    calls = tried + others
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(calls, 20_000, generator=generator)
    changes = alike * torch.randn(20_000, generator=generator) + noise
    sums = Sums()
    for change in changes[:tried]:
        sums.add(change)
    energy = float(changes.sum(dim=0).square().sum())
    if not others:
        assert sums.energy(calls, tried) == pytest.approx(energy, rel=1e-4)
    elif tried > 1:
        assert sums.energy(calls, tried) == pytest.approx(energy, rel=0.15)


# -------------------------------------------------------------------- codes of 2 to 16 bits


@pytest.mark.parametrize("bits", range(2, 17))
def test_codes_are_off_by_half_a_step(bits: int) -> None:
    X = torch.randn(50, 33, generator=torch.Generator().manual_seed(bits)) + 3
    codec = Bits(bits=bits).codec(Site("m", "m_33", 33), torch.Generator())
    assert codec is not None
    payload = codec.encode(X)
    steps = (X.max() - X.min()) * 1.02 / (2**bits - 1)
    assert (payload.decode() - X).abs().max() <= steps / 2 + 1e-6
    assert sum(tensor.nbytes for tensor in payload.tensors()) == codec.kept_bytes(50, 1, 4)


@pytest.mark.parametrize("bits", [2, 8, 11, 16])
def test_codes_keep_the_contract(bits: int) -> None:
    check_compressor(Bits(bits=bits))


# -------------------------------------------------------------------- the contract


ARMS: dict[str, Compressor] = {
    "default": Auto(quiet=True),
    "few": Auto(saved=0.5, **FEW),
    "low rank": Auto(saved=0.9, candidates=({"laser": {"rank": 0.0625, "max_rank": 0.0625}},), quiet=True),
    "warmup": Auto(saved=0.7, warmup=1, **FEW),
    "none": Auto(saved=0.7, recompute="none", quiet=True),
    "calls": Auto(saved=0.97, recompute="calls", quiet=True),
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


def recomputed(session: Session) -> int:
    """Bytes of what is computed again."""
    return sum(report.raw_bytes for report in session.sites() if report.reason.startswith("computed again"))


@pytest.mark.parametrize("recompute", ["none", "cheap", "calls"])
@pytest.mark.parametrize("saved", [0.5, 0.7, 0.85])
def test_after_the_calibration_step_the_budget_holds(saved: float, recompute: Any) -> None:
    model, x = model_and_rows()
    with session_of(model, Auto(saved=saved, recompute=recompute, quiet=True)) as session:
        step(session, model, x)
        sites = {report.name for report in session.sites() if not report.reason}
        raw, kept = encoded(session, sites)
        assert raw == kept
        for _ in range(3):
            step(session, model, x)
            again, kept = encoded(session, sites)
            assert again == raw
            assert 0 < kept <= (1 - saved) * (raw + recomputed(session))
    budget = kept
    with session_of(model, Auto(budget=budget, recompute=recompute, quiet=True)) as session:
        for _ in range(2):
            step(session, model, x)
        assert encoded(session, sites)[1] <= budget


def test_more_bytes_never_cost_more() -> None:
    model, x = model_and_rows()
    exact = torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))
    errors = []
    for saved in (0.985, 0.97, 0.94):
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


@pytest.mark.parametrize("graph", [Recompute(), Recompute(preset="cheap"), Checkpoint()])
def test_what_recomputes_before_it_takes_its_presets_place(graph: Compressor) -> None:
    chain = Chain(members=(graph, Auto(saved=0.95, quiet=True)))
    assert chain.recomputation() == graph.recomputation()
    model, x = model_and_rows()
    kept = []
    for compressor in (graph, chain):
        with session_of(model, compressor) as session:
            for _ in range(2):
                step(session, model, x)
            kept.append(session.peak_saved_bytes)
            assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert kept[1] < kept[0]


@pytest.mark.parametrize("recompute", ["cheap", "inputs", "calls"])
def test_within_what_recomputation_alone_saves_it_is_exact(recompute: Any) -> None:
    model, x = model_and_rows()
    policy = Auto(recompute=recompute).recomputation()
    assert policy is not None

    class Alone(Auto):
        def codec(self, site: Site, generator: torch.Generator) -> None:
            return None

    with session_of(model, Alone(recompute=recompute)) as session:
        step(session, model, x)
        alone_bytes, again = session.peak_saved_bytes, recomputed(session)
    exact = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    with session_of(model, Auto(recompute=recompute, quiet=True, budget=2**40)) as session:
        step(session, model, x)
        rows = sum(report.raw_bytes for report in session.sites() if not report.reason)
    saved = 0.99 * again / (again + rows)
    with session_of(model, Auto(saved=saved, recompute=recompute, quiet=True)) as session:
        for _ in range(2):
            step(session, model, x)
        assert set(chosen(session).values()) <= {"none"}
        assert session.peak_saved_bytes == alone_bytes
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(exact, found, strict=True))


def test_no_recomputation_if_none_is_asked_for() -> None:
    assert Auto(recompute="none").recomputation() is None
    assert Auto().recomputation() == Recomputation("expanding", gives_way=True)
    assert Auto(recompute="cheap").recomputation() == Recomputation("cheap", gives_way=True)


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
    with session_of(model, Auto(saved=0.9, warmup=2, **FEW)) as session:
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


@pytest.mark.parametrize("steps", [0, 64])
def test_it_beats_every_strategy_alone_at_equal_bytes(steps: int) -> None:
    """A Tiny Recursive Model as it begins and after a short training: its gradient, on mazes never trained on."""
    contest, registry, beaten = Contest(steps), Registry.load(), 0
    for name, spec in lossy():
        alone = contest.measured(registry.compressor(spec))
        # Rounded down to one of a few sizes, since each takes a calibration.
        own = contest.auto(int(1.8 ** math.floor(math.log(alone.saved_bytes, 1.8))))
        assert own.saved_bytes <= alone.saved_bytes, name
        assert own.error <= max(alone.error, EXACT), name
        beaten += 1
    assert beaten >= 15
