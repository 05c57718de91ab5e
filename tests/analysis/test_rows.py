"""Rows by site: they are what autograd saves, under the names of sites, with the rank that a layer allows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compbench.analysis.rows import _LinearOutputs, choose_sites, visit_rows
from compbench.capture import CaptureSettings
from compbench.errors import SettingsError
from compbench.measure.site_listing import list_sites
from compbench.measure.step import Step
from compbench.seeds import generator
from compbench.workloads.trm_maze import TRMMaze
from tests.analysis.test_theorem import Task

SETTINGS = CaptureSettings(routes="hooks", minimum_elements=1)


class Linears(nn.Module):
    """Linear layers with and without bias, as modules and as products with a weight, and a square one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(4, 10, bias=False)
        self.biased = nn.Linear(4, 12)
        self.square = nn.Linear(4, 4, bias=False)
        self.weight = nn.Parameter(torch.randn(4, 14))

    def forward(self, x: Tensor) -> Tensor:
        x = self.square(x)
        return (
            F.silu(self.wide(x)).sum() + F.silu(self.biased(x)).sum() + F.silu(x @ self.weight).sum() + F.silu(x).sum()
        )


class LinearTask(Task):
    def loss(self, output, batch):
        return output


def test_a_linear_layer_bounds_the_rank_by_its_inputs_and_one_more_with_a_bias():
    torch.manual_seed(0)
    step = Step(LinearTask(), Linears(), torch.device("cpu"))
    grams: dict[str, Tensor] = {}

    def visit(site, call, rows):
        grams[site.name] = rows.double().T @ rows.double()

    found = visit_rows(step, SETTINGS, {"x": torch.randn(50, 4)}, visit)
    bounds = {rows.site.width: rows.rank_bound for rows in found.values()}
    assert bounds == {10: 4, 12: 5, 14: 4, 4: None}
    for name, rows in found.items():
        rank = torch.linalg.matrix_rank(grams[name], rtol=1e-12)
        assert int(rank) <= (rows.rank_bound or rows.site.width)


def test_memory_that_a_linear_layer_has_left_says_nothing_of_who_has_it_next():
    outputs, layer, x = _LinearOutputs(), nn.Linear(4, 300, bias=False), torch.randn(50, 4)
    with outputs, torch.no_grad():
        for _ in range(100):
            given = layer(x)
            assert outputs.bound(given) == 4
            del given
            others = [torch.zeros(50, 300).add(1) for _ in range(8)]
            assert all(outputs.bound(other) is None for other in others)


@pytest.fixture
def trm() -> Step:
    workload = TRMMaze(grid=5, train_mazes=8, validation_mazes=4, hidden=16, heads=2, inner=24, l_cycles=2)
    return Step(workload, workload.build(generator(0, "initialisation")), torch.device("cpu"))


def test_sites_are_those_that_a_lossy_strategy_meets(trm):
    data = trm.workload.data(0)
    batch = trm.batch(data.train, slice(8))
    from compbench.registry import Registry

    strategy = Registry.load(None).compressor([{"int8": {}}])
    expected = {
        site.name: (site.calls, site.rows * site.calls)
        for site in list_sites(trm, strategy, SETTINGS, batch)
        if not site.reason
    }
    found = visit_rows(trm, SETTINGS, batch, lambda site, call, rows: None)
    assert {name: (rows.calls, rows.rows) for name, rows in found.items()} == expected
    bounded = {name: rows.rank_bound for name, rows in found.items() if rows.rank_bound}
    assert bounded == {"block.attn/attn_48": 16, "block.mlp/mlp_48": 16}


def test_rows_are_the_activations_and_nothing_is_left_behind(trm):
    batch = trm.batch(trm.workload.data(0).train, slice(8))
    seen: list[Tensor] = []
    handle = trm.model.get_submodule("block.mlp.down").register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().clone())
    )
    shown: list[Tensor] = []
    state = torch.get_rng_state()
    visit_rows(trm, SETTINGS, batch, lambda s, c, rows: shown.append(rows.clone()) if s.module.endswith("down") else 0)
    handle.remove()
    assert len(shown) == 3
    assert all(torch.equal(a, b.flatten(0, 1)) for a, b in zip(shown, seen, strict=True))
    assert all(parameter.grad is None for parameter in trm.model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_a_pattern_that_matches_no_site_is_told(trm):
    found = visit_rows(trm, SETTINGS, trm.batch(trm.workload.data(0).train, slice(8)), lambda *_: None)
    assert list(choose_sites(found, ("mlp_48",))) == ["block.mlp/mlp_48"]
    with pytest.raises(SettingsError, match="mlp_47"):
        choose_sites(found, ("mlp_47",))
