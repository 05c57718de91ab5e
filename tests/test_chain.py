"""Chains: each member compresses what the one before it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import pytest
import torch
from compbench_plugins.gale import Gale
from compbench_plugins.identity import Identity
from compbench_plugins.int8 import Int8
from compbench_plugins.lance import Lance
from compbench_plugins.laser import Laser
from compbench_plugins.loract import LoRAct
from compbench_plugins.none import NoCompression
from torch import Tensor, nn

from compbench import Codec, Compressor, Dense, Payload, Site
from compbench.chain import Chain, ChainCodec
from compbench.errors import SettingsError

WIDTH = 24
SITE = Site("block.mlp", "mlp_24", WIDTH)


class Marker(Compressor):
    """Stands for a strategy on the graph: it writes down when the model is wrapped."""

    name: ClassVar[str] = "marker"
    exact: ClassVar[bool] = True
    label: str
    seen: ClassVar[list[str]] = []

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None

    def wrap(self, model: nn.Module) -> AbstractContextManager[object]:
        return self._wrapped()

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        self.seen.append(f"enter {self.label}")
        try:
            yield
        finally:
            self.seen.append(f"leave {self.label}")


class Picky(Compressor):
    """Compresses nothing but rows of one width, and keeps no coefficients."""

    name: ClassVar[str] = "picky"
    width: int

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return PickyCodec() if site.width == self.width else None


class PickyCodec(Codec):
    def encode(self, rows: Tensor) -> Payload:
        return Dense(rows.clone())


class Broken(Compressor):
    """A plugin that fails."""

    name: ClassVar[str] = "broken"

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        raise RuntimeError("no codec today")


def chain(*members: Compressor) -> Chain:
    return Chain(members=members)


def make(*members: Compressor) -> Codec:
    codec = chain(*members).codec(SITE, torch.Generator().manual_seed(0))
    assert codec is not None
    return codec


def activations(seed: int, rows: int = 100) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def warm(codec: Codec, steps: int = 1) -> Codec:
    for step in range(steps):
        codec.encode(activations(step))
        codec.end_step()
    return codec


def test_the_second_member_compresses_the_coefficients_of_the_first() -> None:
    codec = warm(make(Laser(rank=6), Int8()))
    laser = Laser(rank=6).codec(SITE, torch.Generator())
    assert laser is not None
    warm(laser)
    X = activations(9)
    alone = laser.encode(X)
    Z = alone.coefficients()
    assert Z is not None
    int8 = Int8().codec(Site("block.mlp", "mlp_24", 6), torch.Generator())
    assert int8 is not None
    by_hand = alone.with_coefficients(int8.encode(Z).decode())
    payload = codec.encode(X)
    assert torch.equal(payload.decode(), by_hand.decode())
    grad_output = torch.ones(100, 3)
    assert torch.equal(payload.weight_gradient(grad_output), by_hand.weight_gradient(grad_output))
    kept = sorted((tuple(tensor.shape), tensor.dtype) for tensor in payload.tensors())
    assert kept == [((24, 6), torch.float32), ((100, 1), torch.float32), ((100, 6), torch.int8)]


def test_the_second_codec_follows_a_rank_that_grows() -> None:
    codec = make(Laser(rank=4, growth=3, max_rank=10, fidelity=1.0, patience=50), Int8())
    widths = []
    for step in range(4):
        X = activations(step)
        payload = codec.encode(X)
        codes = next(tensor for tensor in payload.tensors() if tensor.dtype == torch.int8)
        widths.append(codes.shape[1])
        bases = 24 * codes.shape[1] * 4
        assert codec.kept_bytes(100, 1, 4) == bases + 100 * codes.shape[1] + 100 * 4
        assert payload.decode().shape == X.shape
        codec.end_step()
    assert widths == [4, 4, 7, 10]


def test_a_call_that_the_first_member_keeps_as_it_is_stays_so() -> None:
    codec = make(Lance(rank=6), Int8())
    X = activations(0)
    assert codec.encode(X).tensors()[0] is X
    codec.end_step()
    assert any(tensor.dtype == torch.int8 for tensor in codec.encode(X).tensors())


def test_coefficients_in_a_middle_place_are_needed_and_named_when_missing() -> None:
    with pytest.raises(SettingsError, match=r"int8 leaves no coefficients .* int8 can only be last"):
        chain(Int8(), Laser())
    with pytest.raises(SettingsError, match="int8 leaves no coefficients that gale could compress"):
        chain(Laser(rank=8), Int8(), Gale())
    with pytest.raises(SettingsError, match="identity leaves no coefficients that int8"):
        chain(Identity(), Int8())


def test_a_member_that_only_some_sites_show_to_be_misplaced_is_named_there() -> None:
    strategy = chain(Picky(width=WIDTH), Int8())
    assert strategy.codec(Site("a", "b", 99), torch.Generator()) is not None
    with pytest.raises(SettingsError, match="picky leaves no coefficients that int8 could compress"):
        strategy.codec(SITE, torch.Generator())


def test_a_chain_needs_a_member() -> None:
    with pytest.raises(SettingsError, match="at least one"):
        chain()


def test_a_member_that_fails_does_so_where_its_codec_is_asked_for() -> None:
    strategy = chain(Laser(), Broken())
    with pytest.raises(RuntimeError, match="no codec today"):
        strategy.codec(SITE, torch.Generator())


def test_strategies_on_the_graph_are_passed_over() -> None:
    marker = Marker(label="a")
    assert chain(marker, NoCompression()).codec(SITE, torch.Generator()) is None
    alone, chained = make(Int8()), make(marker, Int8(), marker)
    X = activations(0)
    assert torch.equal(alone.encode(X).decode(), chained.encode(X).decode())
    codec = make(Laser(rank=6), marker, Int8())
    assert any(tensor.dtype == torch.int8 for tensor in codec.encode(X).tensors())


def test_wrapping_enters_all_members_in_order_and_leaves_them_on_an_error() -> None:
    Marker.seen.clear()
    strategy = chain(Marker(label="a"), Int8(), Marker(label="b"))
    inside: list[str] = []

    def train() -> None:
        with strategy.wrap(nn.Identity()):
            inside.extend(Marker.seen)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert inside == ["enter a", "enter b"]
    assert Marker.seen == ["enter a", "enter b", "leave b", "leave a"]


def test_a_chain_is_exact_when_every_member_is() -> None:
    assert chain(Marker(label="a"), Identity()).exact is True
    assert chain(Marker(label="a"), Int8()).exact is False
    assert chain(Laser(), Int8()).exact is False


def test_a_chain_is_named_after_its_members() -> None:
    assert chain(Laser(), Int8()).name == "laser+int8"


def test_chains_with_the_same_members_are_equal_and_written_with_their_fields() -> None:
    assert chain(Laser(rank=9), Int8()) == chain(Laser(rank=9), Int8())
    assert chain(Laser(rank=9), Int8()) != chain(Laser(rank=8), Int8())
    assert chain(Laser(rank=9), Int8()).model_dump()["members"][0]["rank"] == 9


def test_statistics_are_prefixed_only_where_an_earlier_member_has_them() -> None:
    codec = warm(make(LoRAct(rank=8), Laser(rank=4, max_rank=4), Int8()), steps=2)
    figures = codec.statistics()
    assert figures["rank"] == 8
    assert figures["laser_rank"] == 4
    assert figures["steps"] == 2
    assert "laser_steps" not in figures


def test_members_of_one_kind_draw_different_numbers() -> None:
    codec = make(Gale(rank=WIDTH, redraw="never"), Gale(rank=WIDTH, redraw="never"))
    first, second = codec.encode(torch.eye(WIDTH)).tensors()[-1], codec.encode(torch.eye(WIDTH)).tensors()[0]
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_a_chain_within_a_chain_is_the_chain_of_all_members() -> None:
    nested = warm(make(chain(LoRAct(rank=12), Lance(rank=6)), Int8()), steps=2)
    assert isinstance(nested, ChainCodec)
    X = activations(5)
    payload = nested.encode(X)
    assert sum(tensor.dtype == torch.int8 for tensor in payload.tensors()) == 1
    assert nested.coefficient_width() is None
    assert nested.kept_bytes(100, 1, 4) == 24 * 12 * 4 + 12 * 6 * 4 + 100 * 6 + 100 * 4
    kept = sum(tensor.untyped_storage().nbytes() for tensor in payload.tensors())
    assert kept == nested.kept_bytes(100, 1, 4)
