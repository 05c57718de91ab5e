"""Strategies by site: the last pattern that matches a site decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import pytest
import torch
from compbench_plugins.identity import Identity
from compbench_plugins.int8 import Int8
from compbench_plugins.laser import Laser
from compbench_plugins.none import NoCompression
from torch import nn

import compbench
from compbench import Codec, Compressor, Site, SiteUse
from compbench.by_site import BySite
from compbench.chain import Chain
from compbench.errors import CaptureError, SettingsError
from compbench.registry import Registry
from compbench.testing import check_compressor

QKV = Site("block.attn.qkv", "attn_96", 96)
OUT = Site("block.attn.out", "attn_32", 32)
UP = Site("block.mlp.up", "mlp_96", 96)
HEAD = Site("head", "head_32", 32)
MODEL = (QKV, OUT, UP, HEAD)


def chosen(strategies: BySite) -> list[str]:
    found = [strategies.strategy_at(site) for site in MODEL]
    return ["" if number is None else strategies.choices[number][1].name for number in found]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


class Marker(Compressor):
    """Writes down what is asked of it."""

    name: ClassVar[str] = "marker"
    label: str = ""
    seen: ClassVar[list[str]] = []

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        self.seen.append(f"{self.label} coordinates {', '.join(use.site.name for use in sites)}")

    def wrap(self, model: nn.Module) -> AbstractContextManager[object]:
        return self._wrapped()

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        self.seen.append(f"enter {self.label}")
        try:
            yield
        finally:
            self.seen.append(f"leave {self.label}")


def test_the_last_pattern_that_matches_decides() -> None:
    strategies = BySite.of({"*": NoCompression(), "width:>=96": Laser(), "*.attn*/*": Int8()})
    assert chosen(strategies) == ["int8", "int8", "laser", "none"]
    strategies = BySite.of({"*.attn*/*": Int8(), "width:>=96": Laser(), "*": NoCompression()})
    assert chosen(strategies) == ["none"] * 4


def test_a_site_that_no_pattern_matches_is_left_as_it_is() -> None:
    strategies = BySite.of({96: Int8()})
    assert chosen(strategies) == ["int8", "", "int8", ""]
    assert strategies.codec(HEAD, torch.Generator()) is None


def test_a_site_has_the_codec_that_its_strategy_alone_would_make() -> None:
    laser = Laser(rank=4)
    strategies = BySite.of({"*": Int8(), "*.up": laser})
    rows = torch.randn(300, 96, generator=torch.Generator().manual_seed(1))
    found, expected = (each.codec(UP, torch.Generator().manual_seed(5)) for each in (strategies, laser))
    assert found is not None
    assert expected is not None
    for _ in range(3):
        assert torch.equal(found.encode(rows).decode(), expected.encode(rows).decode())
        found.end_step()
        expected.end_step()


def test_a_pattern_may_have_a_chain() -> None:
    strategies = BySite.of({"*": Chain(members=(Laser(rank=4), Int8()))})
    assert strategies.name == "by_site(laser+int8)"
    codec = strategies.codec(UP, torch.Generator())
    assert codec is not None
    rows = torch.randn(300, 96)
    codec.encode(rows)
    codec.end_step()
    kept = sorted((tuple(tensor.shape), tensor.dtype) for tensor in codec.encode(rows).tensors())
    assert kept == [((96, 4), torch.float32), ((300, 1), torch.float32), ((300, 4), torch.int8)]


def test_it_is_exact_where_all_its_strategies_are() -> None:
    assert BySite.of({"*": NoCompression(), "head": Identity()}).exact
    assert not BySite.of({"*": NoCompression(), "head": Int8()}).exact


def test_each_strategy_coordinates_its_own_sites() -> None:
    codec = Int8().codec(UP, torch.Generator())
    assert codec is not None
    uses = [SiteUse(site, codec, 1, 8, 4, False) for site in MODEL]
    Marker.seen.clear()
    BySite.of({"*.attn*": Marker(label="a"), "*.mlp*": Marker(label="b")}).coordinate(uses)
    assert Marker.seen == [
        "a coordinates block.attn.qkv/attn_96, block.attn.out/attn_32",
        "b coordinates block.mlp.up/mlp_96",
    ]


def test_what_strategies_do_to_the_model_is_done_once_and_undone_in_the_opposite_order() -> None:
    Marker.seen.clear()
    one, other = Marker(label="one"), Marker(label="other")
    with BySite.of({"a": one, "b": other, "c": Marker(label="one")}).wrap(nn.Identity()):
        assert Marker.seen == ["enter one", "enter other"]
    assert Marker.seen == ["enter one", "enter other", "leave other", "leave one"]


def test_settings_are_equal_only_with_the_same_order() -> None:
    one = BySite.of({"a": Int8(), "b": Laser()})
    assert one == BySite.of({"a": Int8(), "b": Laser()})
    assert one != BySite.of({"b": Laser(), "a": Int8()})


@pytest.mark.parametrize(
    ("strategies", "expected"),
    [
        ({}, "at least one pattern"),
        ({"!head": Int8()}, "'!head' excludes (allowed: 'head' with the strategy none)"),
        ({"a/b/c": Int8()}, "'a/b/c' is not of the form MODULE/ROLE (allowed: MODULE/ROLE, "),
        ({"width:>": Int8()}, "compares with no width"),
        ({8: Int8(), "width:8": Laser()}, "'width:8' is given twice"),
    ],
)
def test_patterns_that_mean_nothing_are_refused(strategies: dict[str | int, Compressor], expected: str) -> None:
    with pytest.raises(SettingsError) as error:
        BySite.of(strategies)
    assert expected in str(error.value)


def test_patterns_that_match_no_site_are_told_with_the_nearest() -> None:
    strategies = BySite.of({"*": NoCompression(), "*.mpl*": Int8(), "width:>96": Laser()})
    assert strategies.unmatched_message([*MODEL, QKV]).splitlines() == [
        "sites pattern '*.mpl*' matches none of the 4 sites; nearest: mlp_96, block.mlp.up, block.attn.qkv",
        "sites pattern 'width:>96' matches none of the 4 sites; nearest: width:96, width:32",
    ]
    assert BySite.of({"head": Int8()}).unmatched_message(MODEL) == ""


def test_the_registry_makes_it_of_plain_values(registry: Registry) -> None:
    made = registry.compressor({"sites": {"*": "none", "*.mlp*": [{"laser": {"rank": 8}}, "int8"], 96: Int8}})
    chain = Chain(members=(Laser(rank=8), Int8()))
    assert made == BySite.of({"*": NoCompression(), "*.mlp*": chain, "width:96": Int8()})
    assert registry.compressor([made]) is made


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"sites": {}}, "sites is {} (allowed: a mapping of patterns to strategies"),
        ({"sites": ["int8"]}, 'sites is ["int8"] (allowed: a mapping'),
        ({"sites": {"*": "itn8"}}, "sites '*': unknown strategy 'itn8'; did you mean 'int8'?"),
        ({"sites": {"*": {"laser": {"rank": 0}}}}, "sites '*': strategy 'laser': rank is 0"),
        ({"sites": {"*": ["int8", "laser"]}}, "sites '*': int8 leaves no coefficients that laser could compress"),
        ({"sites": {"*": {"sites": {"*": "int8"}}}}, "strategies by site within another strategy"),
        ([{"sites": {"*": "laser"}}, "int8"], "strategies by site within another strategy"),
        ([BySite.of({"*": Laser()}), "int8"], "strategies by site within another strategy"),
        ({"sites": {"*": "int8"}, "rank": 3}, "a strategy is "),
        ({"sites": {"!a": "int8"}}, "excludes"),
    ],
)
def test_what_it_can_not_be_made_of_is_told(registry: Registry, spec: object, expected: str) -> None:
    with pytest.raises(SettingsError) as error:
        registry.compressor(spec)  # type: ignore[arg-type]
    assert expected in str(error.value)


def test_its_reference_makes_it_again_and_knows_order_and_sources(registry: Registry) -> None:
    spec = {"*": "none", "*.mlp*": [{"laser": {"rank": 8}}, "int8"], "head": {"int8": {}}}
    made = registry.compressor({"sites": spec})
    (reference,) = registry.reference(made)
    assert reference.name == "sites"
    assert reference.fields == {"*": "none", "*.mlp*": [{"laser": {"rank": 8}}, "int8"], "head": "int8"}
    assert registry.compressor([{reference.name: reference.fields}]) == made
    (turned,) = registry.reference(registry.compressor({"sites": dict(reversed(spec.items()))}))
    assert turned.fields == reference.fields
    assert turned.source != reference.source
    assert len(turned.source) == len(reference.source) == 64


def test_every_site_of_a_model_goes_to_its_strategy() -> None:
    model = nn.Sequential(nn.Linear(48, 192), nn.GELU(), nn.Linear(192, 48))
    strategies = {"sites": {"*": "none", "width:>=100": "int8"}}
    with compbench.compress(model, strategies, routes="hooks") as session:
        with session.step():
            model(torch.randn(256, 48)).square().mean().backward()
        kept = {site.name: site.kept_bytes / site.raw_bytes for site in session.sites() if site.name[0] != "/"}
    assert {name: round(share, 2) for name, share in kept.items() if share < 1} == {
        "1/gelu_192": 0.26,
        "2/linear_192": 0.26,
    }
    assert len(kept) > 2


@pytest.mark.parametrize(
    "strategies",
    [
        {"sites": {"*": "none", "*.mpl": "int8"}},
        {"sites": {"*": [{"laser": {"overrides": [{"sites": "*.mpl", "rank": 2}]}}, "int8"]}},
        {"laser": {"overrides": [{"sites": "*.mpl", "rank": 2}]}},
    ],
)
def test_a_session_tells_of_patterns_that_match_no_site(strategies: dict[str, object]) -> None:
    model = nn.Sequential(nn.Linear(48, 192), nn.GELU(), nn.Linear(192, 48))
    with (
        compbench.compress(model, strategies) as session,
        pytest.raises(CaptureError, match=r"sites pattern '\*.mpl' matches none of the 2 sites; nearest: "),
        session.step(),
    ):
        model(torch.randn(256, 48)).square().mean().backward()


def test_it_holds_to_the_contract(registry: Registry) -> None:
    check_compressor(registry.compressor({"sites": {"*": [{"laser": {"rank": 8}}, "int8"], "*.down": "none"}}))
