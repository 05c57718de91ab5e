"""What a session tells of its codecs is of the sites that the last step met, and of no others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import compbench


class Two(nn.Module):
    """A wide layer, and a narrow one that some steps leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(64, 64), nn.Linear(32, 32)
        self.both = True

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.wide(x).square().mean()
        if self.both:
            y = y + self.narrow(x[:, :32] * 2).square().mean()
        return y


def step(session: compbench.Session, model: Two) -> None:
    with session.step():
        model(torch.randn(512, 64)).backward()


def test_a_site_that_is_not_met_any_more_is_left_out() -> None:
    model = Two()
    with compbench.compress(model, "laser", rank=16, max_rank=16, routes="hooks") as session:
        step(session, model)
        step(session, model)
        assert session.statistics()["steps"] == 2 + 2
        model.both = False
        step(session, model)
        assert session.statistics()["steps"] == 3
        model.both = True
        step(session, model)
        assert session.statistics()["steps"] == 4 + 3


class Waiting(compbench.Codec):
    """Asks for a step without an update as long as it is asked."""

    def __init__(self, site: compbench.Site) -> None:
        self.waits = site.width == 32

    def encode(self, rows: Tensor) -> compbench.Payload:
        return compbench.Dense(rows)

    def skips_update(self) -> bool:
        return self.waits


class Waits(compbench.Compressor):
    """Would learn of the narrow layer first."""

    name = "waits"

    def codec(self, site: compbench.Site, generator: torch.Generator) -> compbench.Codec:
        return Waiting(site)


def test_who_waits_for_a_site_that_is_not_met_any_more_holds_nothing_up() -> None:
    model = Two()
    with compbench.compress(model, Waits(), routes="hooks") as session:
        step(session, model)
        assert session.skips_update
        model.both = False
        step(session, model)
        assert not session.skips_update
