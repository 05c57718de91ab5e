"""Plugins that break the contract are named, with the site."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compbench.compressor import Codec, Compressor, Payload
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
