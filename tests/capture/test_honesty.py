"""Plugins that break the contract are named, with the site."""

from __future__ import annotations

import array
import functools
import logging
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from compbench.capture.honesty import Held, undeclared_by_payload
from compbench.compressor import Codec, Compressor, Payload, Site
from compbench.errors import PluginError
from tests.capture import zoo
from tests.capture.zoo import session_of


def test_a_payload_that_decodes_wrongly_or_hides_memory_is_named() -> None:
    class Wrong(zoo.HalfPayload):
        def decode(self) -> Tensor:
            return super().decode()[:-1]

    class Hidden(zoo.HalfPayload):
        def __init__(self, rows: Tensor) -> None:
            super().__init__(rows)
            self.extra = rows.numpy().copy()

    def strategy(payload: type[zoo.HalfPayload]) -> Compressor:
        class Bad(Compressor):
            """Breaks the contract."""

            name = "bad"

            def codec(self, site, generator):
                class BadCodec(Codec):
                    def encode(self, rows: Tensor) -> Payload:
                        return payload(rows)

                return BadCodec()

        return Bad()

    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, strategy(Wrong)) as session:
        with pytest.raises(PluginError, match=r"strategy 'bad' at site .*decode\(\) gave"), session.step():
            model(x).sum().backward()
    with session_of(model, strategy(Hidden)) as session:
        with pytest.raises(PluginError, match=r"bytes outside tensors and declares 0"), session.step():
            model(x).sum().backward()


def test_a_codec_that_hides_what_it_holds_is_named() -> None:
    class Hoards(Compressor):
        """Holds a tensor that it does not declare."""

        name = "hoards"

        def codec(self, site, generator):
            codec = zoo.HalfCodec()
            codec.cache = {"rows": torch.zeros(100)}
            return codec

    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, Hoards()) as session, pytest.raises(PluginError, match=r"'hoards' at site .* state\(\)"):
        with session.step():
            model(x).sum().backward()


def test_a_payload_that_leads_to_its_codecs_tensors_is_named() -> None:
    class Refers(Compressor):
        """Its payloads refer to the codec, which holds a basis."""

        name = "refers"

        def codec(self, site, generator):
            class RefersCodec(Codec):
                basis = None

                def encode(self, rows: Tensor) -> Payload:
                    self.basis = rows[:2].clone()
                    payload = zoo.HalfPayload(rows)
                    payload.codec = self
                    return payload

                def state(self):
                    return (self.basis,)

            return RefersCodec()

    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, Refers()) as session, pytest.raises(PluginError, match=r"tensors\(\) does not declare"):
        with session.step():
            model(x).sum().backward()


class Slotted:
    __slots__ = ("inside",)

    def __init__(self, inside: object) -> None:
        self.inside = inside

    def method(self) -> None: ...


def enclosing(thing: object) -> Callable[[], object]:
    return lambda: thing


def suspended(thing: object) -> object:
    def steps():
        inside = thing
        yield
        yield inside

    generator = steps()
    next(generator)
    return generator


def with_attribute(thing: object) -> Tensor:
    tensor = torch.zeros(0)
    tensor.inside = thing
    return tensor


PLACES: dict[str, Callable[[object], object]] = {
    "attribute": lambda thing: SimpleNamespace(inside=thing),
    "slot": Slotted,
    "nested containers": lambda thing: {"a": [(deque([{"b": thing}]),)]},
    "key of a dictionary": lambda thing: {thing: 1},
    "closure": enclosing,
    "default value": lambda thing: lambda inside=thing: inside,
    "partial": lambda thing: functools.partial(print, thing),
    "bound method": lambda thing: Slotted(thing).method,
    "generator": suspended,
    "iterator": lambda thing: iter([thing]),
    "property of a tensor": with_attribute,
    "deep": lambda thing: functools.reduce(lambda inner, _: [inner], range(5000), thing),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_found_wherever_it_is_kept(place: str) -> None:
    payload = zoo.HalfPayload(torch.ones(4, 8))
    payload.hidden = PLACES[place](torch.ones(3, 5))
    assert undeclared_by_payload(payload) == (
        "the payload keeps a float32 tensor of shape (3, 5) that tensors() does not declare"
    )


def test_what_shows_the_memory_of_a_tensor_is_that_tensor() -> None:
    rows = torch.ones(4, 8)
    for alias in (rows.numpy()[1:], memoryview(rows.numpy()), rows.untyped_storage(), rows.T, rows.clone):
        payload = zoo.HalfPayload(rows)
        payload.alias = alias
        assert "that tensors() does not declare" in undeclared_by_payload(payload)


@pytest.mark.parametrize(
    "kept",
    [
        np.ones(24),
        np.ones((3, 64))[:, ::8].copy(),
        np.ones(24)[::2],
        bytes(192),
        bytearray(192),
        array.array("d", [1.0] * 24),
        memoryview(bytes(192)),
        memoryview(np.ones(24))[:3],
    ],
    ids=lambda kept: type(kept).__name__,
)
def test_bytes_outside_tensors_are_counted_whole(kept: object) -> None:
    payload = zoo.HalfPayload(torch.ones(4, 8))
    payload.hidden = [enclosing(kept)]
    assert Held(payload).opaque_bytes == 192
    assert "keeps 192 bytes outside tensors and declares 0" in undeclared_by_payload(payload)


def test_a_sparse_tensor_is_declared_by_its_parts() -> None:
    sparse = torch.eye(4).to_sparse()

    class Sparse(zoo.HalfPayload):
        def tensors(self) -> tuple[Tensor, ...]:
            return (self.rows, sparse._indices(), sparse._values())

    payload = Sparse(torch.ones(4, 8))
    payload.sparse = sparse
    assert undeclared_by_payload(payload) == ""
    plain = zoo.HalfPayload(torch.ones(4, 8))
    plain.sparse = sparse
    assert "tensor of shape (4, 4)" in undeclared_by_payload(plain)


def test_what_belongs_to_others_is_not_looked_into() -> None:
    class Settings(zoo.Copy):
        """Has settings."""

        table: tuple[float, ...] = ()

    settings = Settings()
    object.__setattr__(settings, "__cached", torch.ones(9))
    held = torch.ones(9)
    logger = logging.getLogger("compbench.tests")
    logger.held = held
    payload = zoo.HalfPayload(torch.ones(4, 8))
    payload.others = [
        settings,
        Site("a", "b", 1),
        torch.Generator(),
        logger,
        torch,
        Settings,
        print,
        undeclared_by_payload,
    ]
    assert undeclared_by_payload(payload) == ""
    del logger.held
