"""Codecs' attributes as plain data: what is taken from one and given to another makes them the same."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from compbench.state import StateError, attributes_state, load_attributes


class Inner:
    def __init__(self) -> None:
        self.draws = 0


class Given:
    pass


class Thing:
    def __init__(self) -> None:
        self.basis: Tensor | None = None
        self.before: Tensor | None = None
        self.inner = Inner()
        self.counts = {"steps": 0}
        self.history: list[Any] = []
        self.generator = torch.Generator().manual_seed(1)
        self.given = Given()


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_new_object_takes_over_everything_that_another_holds() -> None:
    one = Thing()
    one.basis = one.before = torch.randn(8, 3).T
    one.inner.draws, one.counts["steps"], one.history = 5, 2, [1.5, "x", (torch.ones(2), None)]
    one.history.append({"device": torch.device("cpu"), "dtype": torch.bfloat16})
    torch.rand(3, generator=one.generator)
    two = Thing()
    generator, given = two.generator, two.given
    load_attributes(two, through_a_file(attributes_state(one, given=(Given,))), given=(Given,))
    assert torch.equal(two.basis, one.basis)
    assert two.basis.stride() == one.basis.stride()
    assert two.basis is two.before
    assert (two.inner.draws, two.counts, two.history[:2]) == (5, {"steps": 2}, [1.5, "x"])
    assert torch.equal(two.history[2][0], torch.ones(2))
    assert two.history[3] == one.history[3]
    assert two.generator is generator
    assert two.given is given
    assert torch.equal(torch.rand(3, generator=two.generator), torch.rand(3, generator=one.generator))


def test_a_state_is_a_copy() -> None:
    one = Thing()
    one.basis = torch.zeros(3)
    state = attributes_state(one, given=(Given,))
    one.basis.add_(1)
    assert not state["basis"].any()
    two = Thing()
    load_attributes(two, state, given=(Given,))
    two.basis.add_(1)
    assert not state["basis"].any()


@dataclass(slots=True)
class Slotted:
    x: int = 1


@pytest.mark.parametrize(
    "value", [Slotted(), {1, 2}, lambda: None, open, Thing], ids=["slots", "set", "lambda", "function", "class"]
)
def test_what_is_not_known_is_named(value: object) -> None:
    one = Thing()
    one.history = [value]
    with pytest.raises(StateError, match=r"Thing\.history\[0\] is a .*override state_dict\(\)"):
        attributes_state(one, given=(Given,))


def test_states_of_other_things_are_refused() -> None:
    with pytest.raises(StateError, match=r"Thing: the state has no before, counts"):
        load_attributes(Thing(), {"basis": None}, given=(Given,))
    one, two = Thing(), Thing()
    two.inner = None  # type: ignore[assignment]
    with pytest.raises(StateError, match=r"Thing\.inner is not there yet"):
        load_attributes(two, attributes_state(one, given=(Given,)), given=(Given,))
