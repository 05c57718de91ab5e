"""A listing made without values says what real steps of the same model save, and what strategies keep of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compbench.capture import CaptureSettings, Session, SiteReport
from compbench.compressor import Codec, Compressor, Payload, Site
from compbench.errors import CaptureError, UnsupportedError
from compbench.measure.site_listing import ListedSite, list_sites
from compbench.measure.step import Step
from compbench.records import Batch
from compbench.registry import Registry
from tests.capture.models import CASES, Case

STEPS = 3
DEFAULTS = CaptureSettings()
HOOKS = CaptureSettings(routes="hooks")
FIXED = [
    "none",
    "int8",
    {"gale": {"rank": 4}},
    {"lance": {"rank": 4}},
    {"loract": {"rank": 4}},
    {"laser": {"rank": 4, "max_rank": 4}},
    {"laser": {"rank": 4, "max_rank": 4, "basis": "per_call"}},
    [{"laser": {"rank": 4, "max_rank": 4}}, "int8"],
    {"gale": {"rank": 1000}},  # as wide as each site: nothing would be saved
]


OTHERWISE_WITHOUT_VALUES = {
    "lstm": "the CPU's library keeps a workspace whose size shapes do not tell",
    **{
        f"{model}, {attention}": "transformers makes a mask of its own when tensors have no values"
        for model in ("gpt2", "llama")
        for attention in ("sdpa", "eager")
    },
}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


@dataclass(frozen=True)
class Forward:
    """The part of a workload that a step asks for."""

    case: Case

    def forward(self, model: nn.Module, batch: Batch) -> Batch:
        return batch

    def loss(self, output: Any, batch: Batch) -> Tensor:
        raise NotImplementedError


class CaseStep(Step):
    """The step of a model of any kind."""

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            output: Tensor = self.workload.case.loss(self.model, tuple(batch.values()))  # type: ignore[attr-defined]
        return output


def step_of(case: Case, precision: str = "fp32") -> tuple[Step, Batch]:
    torch.manual_seed(0)
    batch = {str(number): values for number, values in enumerate(case.batch())}
    return CaseStep(Forward(case), case.make(), torch.device("cpu"), precision), batch  # type: ignore[arg-type]


def maze_step(registry: Registry, precision: str = "fp32") -> tuple[Step, Batch]:
    workload = registry.workload(
        "trm_maze", grid=5, train_mazes=16, validation_mazes=4, hidden=32, heads=2, inner=48
    ).at_depth(3)
    model = workload.build(torch.Generator().manual_seed(0))
    step = Step(workload, model, torch.device("cpu"), precision)  # type: ignore[arg-type]
    return step, step.batch(workload.data(0).train, slice(8))


def really(step: Step, compressor: Compressor, settings: CaptureSettings, batch: Batch) -> list[SiteReport]:
    """What the last of some real steps saved."""
    session = Session(step.model, compressor, settings)
    with session:
        for _ in range(STEPS):
            with session.step():
                step.loss(batch).backward()
    return list(session.sites())


def saved(site: ListedSite | SiteReport) -> dict[str, object]:
    names = ("name", "module", "role", "width", "rows", "calls", "dtype", "raw_bytes", "propagating", "reason")
    return {name: getattr(site, name) for name in names}


def check(
    step: Step, batch: Batch, compressor: Compressor, settings: CaptureSettings = DEFAULTS, values: bool = False
) -> None:
    listed = list_sites(step, compressor, settings, batch, values=values)
    measured = really(step, compressor, settings, batch)
    assert [saved(site) for site in listed] == [saved(site) for site in measured]
    assert {site.name: site.kept_bytes for site in listed} == {site.name: site.kept_bytes for site in measured}
    assert [site.rank for site in listed] == [site.rank for site in measured]


@pytest.mark.filterwarnings("ignore:strategy 'gale' compressed nothing")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", FIXED, ids=str)
def test_a_listing_is_what_real_steps_save_and_keep(registry: Registry, strategy: object, precision: str) -> None:
    check(*maze_step(registry, precision), registry.compressor(strategy))


@pytest.mark.parametrize("attention", ["recompute", "raw", "literal"])
@pytest.mark.parametrize("sites", [(), ("*.attn*", "!*#1"), ("!block.mlp",), (32,)], ids=str)
def test_a_listing_follows_the_settings_of_capture(registry: Registry, attention: str, sites: tuple[str, ...]) -> None:
    settings = CaptureSettings(attention=attention, sites=sites, minimum_elements=500)  # type: ignore[arg-type]
    check(*maze_step(registry), registry.compressor("int8"), settings)


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_listing_is_right_for_models_of_every_kind(registry: Registry, name: str, values: bool) -> None:
    if name in OTHERWISE_WITHOUT_VALUES and not values:
        pytest.skip(OTHERWISE_WITHOUT_VALUES[name])
    settings = CaptureSettings(minimum_elements=256)
    # Gates of a GRU lie in one storage: whether all are raw depends on whether the first pays, and with int8 it does.
    strategy = "int8" if name == "gru" else {"gale": {"rank": 4}}
    check(*step_of(CASES[name]), registry.compressor(strategy), settings, values)


class Checkpointed(nn.Module):
    """Layers whose activations are recomputed in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = checkpoint(self.inner, x, use_reentrant=True)
        return hidden.tanh()


def a_case(model: type[nn.Module]) -> Case:
    return Case(
        model, lambda: (torch.randn(64, 32, requires_grad=True),), lambda model, inputs: model(*inputs).square().mean()
    )


def test_what_is_recomputed_in_the_backward_pass_is_listed_as_that(registry: Registry) -> None:
    step, batch = step_of(a_case(Checkpointed))
    check(step, batch, registry.compressor("int8"))
    reasons = {site.reason for site in list_sites(step, registry.compressor("int8"), DEFAULTS, batch)}
    assert any(reason.startswith("recomputed in the backward pass") for reason in reasons)


def test_the_model_is_left_as_it_was(registry: Registry) -> None:
    step, batch = maze_step(registry)
    tensors = dict([*step.model.named_parameters(), *step.model.named_buffers()])
    values = {name: tensor.clone() for name, tensor in tensors.items()}
    list_sites(step, registry.compressor("int8"), DEFAULTS, batch)
    for name, tensor in [*step.model.named_parameters(), *step.model.named_buffers()]:
        assert tensor is tensors[name]
        assert torch.equal(tensor, values[name])
        assert tensor.grad is None
    assert torch.isfinite(step.loss(batch))


def test_what_a_model_caches_while_it_is_listed_is_forgotten(registry: Registry) -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 32)
            self.scale: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.scale is None:
                self.scale = torch.linspace(0, 1, 32)
                self.register_buffer("shift", torch.ones(32))
            return (self.layer(x) * self.scale + self.shift).tanh()

    step, batch = step_of(a_case(Caching))
    listed = list_sites(step, registry.compressor("int8"), DEFAULTS, batch)
    assert not dict(step.model.named_buffers())
    assert list_sites(step, registry.compressor("int8"), DEFAULTS, batch) == listed
    check(step, batch, registry.compressor("int8"))


def test_tied_weights_stay_tied_and_are_no_site(registry: Registry) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu()).tanh()

    step, batch = step_of(a_case(Tied))
    check(step, batch, registry.compressor("int8"))
    assert step.model.second.weight is step.model.first.weight


def test_a_strategy_that_encodes_nothing_while_it_is_listed_is_asked_what_it_would_keep() -> None:
    class Untold(Compressor):
        name = "untold"

        def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
            class Strict(Codec):
                def encode(self, rows: Tensor) -> Payload:
                    raise AssertionError("a listing encodes nothing")

            return Strict() if site.width == 64 else None

    step, batch = step_of(CASES["mlp"])
    listed = list_sites(step, Untold(), HOOKS, batch)
    assert {site.kept_bytes for site in listed if not site.reason} == {None}
    assert {site.width for site in listed if not site.reason} == {64}
    assert {site.reason for site in listed if site.width == 48} == {"the strategy leaves it"}


def test_calls_with_different_rows_take_their_shares(registry: Registry) -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(())
            for rows in (64, 128, 256):
                total = total + self.layer(x[:1].expand(rows, 32).sin()).mean()
            return total

    check(*step_of(a_case(Growing)), registry.compressor({"gale": {"rank": 4}}))


def test_what_a_strategy_does_to_the_model_is_done(registry: Registry) -> None:
    class Twice(Compressor):
        name = "twice"

        def codec(self, site: Site, generator: torch.Generator) -> None:
            return None

        @contextmanager
        def wrap(self, model: nn.Module) -> Iterator[None]:
            hook = model.register_forward_pre_hook(lambda module, arguments: (torch.cat([*arguments, *arguments]),))
            yield
            hook.remove()

    step, batch = step_of(CASES["mlp"])
    check(step, batch, Twice())
    (first, *_) = list_sites(step, Twice(), HOOKS, batch)
    assert first.rows == 2 * len(batch["0"])


def test_a_model_that_asks_for_values_is_told_of() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return y if y.sum().item() > 0 else -y

    step, batch = step_of(a_case(Peeking))
    parameters = list(step.model.parameters())
    with pytest.raises(UnsupportedError, match=r"the model or its loss asks for values of its tensors"):
        list_sites(step, Registry.load().compressor("int8"), DEFAULTS, batch)
    assert all(new is old for new, old in zip(step.model.parameters(), parameters, strict=True))
    assert list_sites(step, Registry.load().compressor("int8"), DEFAULTS, batch, values=True)


def test_a_pattern_that_matches_no_site_is_an_error_with_the_nearest(registry: Registry) -> None:
    step, batch = maze_step(registry)
    with pytest.raises(CaptureError, match=r"sites pattern '\*.mpl' matches none of the \d+ sites; nearest: block.mlp"):
        list_sites(step, registry.compressor("int8"), CaptureSettings(sites=("*.mpl",)), batch)
