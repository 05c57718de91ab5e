"""memory_budget: gradients against autograd's, bytes against the budget, and everything as it was afterwards."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compbench_plugins.memory_budget import MemoryBudget
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.nn.modules import module as torch_modules
from torch.overrides import _get_current_function_mode_stack

from compbench import compress
from compbench.capture.settings import CaptureSettings
from compbench.errors import CaptureError, UnsupportedError
from compbench.measure.live import LiveLedger
from compbench.measure.site_listing import list_sites
from compbench.measure.step import Step
from compbench.testing import check_compressor
from compbench.workloads.trm_maze import TRMMaze

WIDTH = 32


class Block(nn.Module):
    """A gated MLP, added to its input."""

    def __init__(self, dropout: float = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.gate_up = nn.Linear(WIDTH, 6 * WIDTH)
        self.down = nn.Linear(3 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(self.norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(gate) * up))


class Stack(nn.Module):
    """Blocks one after another."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Branching(Block):
    """Decides by a value."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum().item() > 0 else -x)


def stack(make: Callable[[], nn.Module] = Block, blocks: int = 1) -> tuple[Stack, Tensor]:
    torch.manual_seed(0)
    return Stack(*(make() for _ in range(blocks))), torch.randn(4, 16, WIDTH, requires_grad=True)


def trm() -> tuple[Step, dict[str, Tensor]]:
    workload = TRMMaze(grid=5, train_mazes=8, validation_mazes=8, hidden=32, heads=2, inner=96).at_depth(3)
    step = Step(workload, workload.build(torch.Generator().manual_seed(0)), torch.device("cpu"))
    return step, step.batch(workload.data(0).train, slice(8))


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(5)  # of dropout
    return list(torch.autograd.grad(model(x).square().mean(), list(model.parameters())))


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def traces(model: nn.Module) -> set[str]:
    return {name for module in model.modules() for name in vars(module) if name in ("forward", "_compiled_call_impl")}


def test_the_contract_is_kept() -> None:
    check_compressor(MemoryBudget(budget=0.3))


def test_gradients_are_those_of_autograd_and_bytes_fall_with_the_budget() -> None:
    step, batch = trm()
    plain = step.gradients(batch)
    with compress(step.model, "none") as session, session.probe():
        step.gradients(batch)
    saved = [session.peak_saved_bytes]
    for budget in (1.0, 0.5, 0.0):
        with compress(step.model, "memory_budget", budget=budget) as session:
            for _ in range(2):
                with session.probe():
                    assert equal(step.gradients(batch), plain), budget
        saved.append(session.peak_saved_bytes)
    assert saved == sorted(saved, reverse=True)
    assert len(set(saved)) == len(saved)
    rest = saved[-1]  # what modules are called with, and what is saved outside them
    assert 0.4 < (saved[2] - rest) / (saved[1] - rest) < 0.6  # torch estimates


@pytest.mark.parametrize("solver", ["greedy", "ilp"])
def test_every_solver_keeps_to_the_budget(solver: str) -> None:
    model, x = stack()
    plain, kept = gradients(model, x), {}
    for budget in (1.0, 0.5):
        with compress(model, "memory_budget", budget=budget, solver=solver) as session, session.probe():
            assert equal(gradients(model, x), plain)
        kept[budget] = session.peak_saved_bytes
    assert kept[0.5] < 0.7 * kept[1.0]


def test_the_model_as_a_whole_keeps_what_it_is_called_with() -> None:
    step, batch = trm()
    plain = step.gradients(batch)
    with compress(step.model, "memory_budget", budget=0, modules=[""]) as session, session.probe():
        assert equal(step.gradients(batch), plain)
    assert session.peak_saved_bytes < 3 * (batch["inputs"].nbytes + batch["targets"].nbytes) + 8 * 25 * 5 * 4


def test_bytes_that_are_alive_are_those_reported_and_the_peak_falls() -> None:
    step, batch = trm()
    with LiveLedger() as plain:
        step.loss(batch).backward()
    step.clear_gradients()
    peaks = []
    for budget in (1.0, 0.0):
        with compress(step.model, "memory_budget", budget=budget) as session:
            with LiveLedger() as ledger, session.probe():  # compiled under the ledger, which sees the graph's operators
                loss = step.loss(batch)
                there_before = sum(examples.nbytes for examples in batch.values())
                assert ledger.live_bytes == session.saved_bytes - there_before + loss.nbytes
                loss.backward()
                del loss
            step.clear_gradients()
            assert ledger.live_bytes == 0
            peaks.append(ledger.peak_bytes)
    assert peaks[0] < 0.9 * plain.peak_bytes  # what was saved is freed as the backward pass goes on
    assert peaks[1] < 0.5 * peaks[0]


@pytest.mark.parametrize("budget", [0.05, 0.0])
def test_dropout_keeps_its_mask(budget: float) -> None:
    """Torch itself draws another one in the backward pass."""
    model, x = stack(lambda: Block(dropout=0.3))
    plain = gradients(model, x)
    with compress(model, "memory_budget", budget=budget) as session, session.probe():
        assert equal(gradients(model, x), plain)


def test_batch_norm_moves_its_statistics_once() -> None:
    def layer() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())

    model, _ = stack(layer)
    twin, images = copy.deepcopy(model), torch.randn(4, 3, 8, 8)
    plain = gradients(twin, images)
    with compress(model, "memory_budget", budget=0, modules=["blocks.0"]) as session, session.probe():
        assert equal(gradients(model, images), plain)
    assert all(torch.equal(one, other) for one, other in zip(model.buffers(), twin.buffers(), strict=True))


def test_under_autocast_gradients_are_those_without_the_cache_of_weights() -> None:
    step, batch = trm()

    def found(cache: bool) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
            loss = step.loss(batch)
        return list(torch.autograd.grad(loss, list(step.model.parameters())))

    without_cache, cached = found(False), found(True)
    with compress(step.model, "memory_budget", budget=0.2) as session, session.probe():
        ours = found(True)
    assert equal(ours, without_cache)
    assert all((a - b).norm() < 0.02 * b.norm() for a, b in zip(ours, cached, strict=True))


def test_two_budgets_in_one_process_have_graphs_of_their_own() -> None:
    model, x = stack()
    kept: dict[float, set[int]] = {0.9: set(), 0.1: set()}
    for _ in range(2):
        for budget, sizes in kept.items():
            with compress(model, "memory_budget", budget=budget) as session, session.probe():
                gradients(model, x)
            sizes.add(session.peak_saved_bytes)
    assert all(len(sizes) == 1 for sizes in kept.values())
    assert kept[0.1] < kept[0.9] or max(kept[0.1]) < min(kept[0.9])


def test_graphs_outlive_a_pause_and_follow_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    compile_graph = MemoryBudget._compile
    monkeypatch.setattr(MemoryBudget, "_compile", lambda *given: made.append(given) or compile_graph(*given))
    model, x = stack()
    plain, short = gradients(model, x), gradients(model, x[:, :7])
    with compress(model, "memory_budget") as session:
        for _ in range(2):
            with session.probe():
                assert equal(gradients(model, x), plain)
            with session.paused():
                assert not traces(model)
                assert equal(gradients(model, x), plain)
        assert len(made) == 1
        with session.probe():
            assert equal(gradients(model, x[:, :7]), short)


def test_everything_is_as_it_was_afterwards() -> None:
    model, x = stack()
    before = functorch_config.save_config()
    modes, hooks = len(_get_current_function_mode_stack()), len(torch_modules._global_forward_hooks)
    with pytest.raises(ZeroDivisionError), compress(model, "memory_budget") as session, session.step():
        raise ZeroDivisionError(model(x))
    assert not traces(model)
    assert functorch_config.save_config() == before
    assert len(_get_current_function_mode_stack()) == modes
    assert len(torch_modules._global_forward_hooks) == hooks


def test_copies_and_pickles_made_meanwhile_are_of_the_plain_model() -> None:
    model, x = stack()
    with compress(model, "memory_budget") as session, session.probe():
        plain = gradients(model, x)
        assert traces(model) == {"_compiled_call_impl"}
        twin, file = copy.deepcopy(model), io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        for other in (twin, torch.load(file, weights_only=False)):
            assert not traces(other)
    with torch.no_grad():
        model.blocks[0].down.weight.zero_()
    assert equal(gradients(twin, x), plain)


def test_graphs_go_with_the_model() -> None:
    model, x = stack()
    with compress(model, "memory_budget") as session, session.probe():
        gradients(model, x)
    gone = weakref.ref(model.blocks[0])
    del model, session
    gc.collect()
    assert gone() is None


def test_evaluation_runs_uncompiled() -> None:
    model, x = stack(Branching)  # which can't be compiled
    with compress(model, "memory_budget"), torch.no_grad():
        model(x)


def test_hooks_and_a_forward_of_a_modules_own_stay() -> None:
    model, x = stack()
    block, seen = model.blocks[0], []
    block.register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    own = block.forward
    block.forward = lambda x: own(2 * x)
    plain = gradients(model, x)
    with compress(model, "memory_budget") as session, session.probe():
        assert equal(gradients(model, x), plain)
    assert len(seen) == 2
    assert vars(block)["forward"](x).equal(own(2 * x))


def test_the_second_backward_pass_of_a_graph_is_like_the_first() -> None:
    model, x = stack()
    with compress(model, "memory_budget", budget=1) as session, session.probe():
        loss = model(x).square().mean()
        first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        assert equal(list(torch.autograd.grad(loss, list(model.parameters()))), list(first))


def test_sites_are_listed_without_compiling() -> None:
    step, batch = trm()
    sites = list_sites(step, MemoryBudget(), CaptureSettings(), batch)
    assert any(site.module.startswith("block.") for site in sites)


# -------------------------------------------------------------------- what can't be done


def test_a_module_that_is_not_one_graph_is_refused_with_the_line() -> None:
    model, x = stack(Branching)
    line = Branching.forward.__code__.co_firstlineno + 1
    with compress(model, "memory_budget") as session:
        with pytest.raises(
            UnsupportedError, match=rf"'blocks.0' can't be compiled .* at .*{__name__[-18:]}.py:{line}$"
        ):
            with session.step():
                model(x)
    assert not traces(model)


def test_a_mistake_in_the_model_is_told_as_such() -> None:
    model, x = stack()
    with compress(model, "memory_budget") as session:
        with pytest.raises(RuntimeError, match="normalized_shape") as error:
            with session.step():
                model(x[..., :7])
    assert not isinstance(error.value, UnsupportedError)


def test_where_torch_compiles_nothing_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*given: Any, **options: Any) -> None:
        raise RuntimeError("Python 9.9 is not supported")

    model, x = stack()
    with torch.compiler.set_stance("force_eager"), compress(model, "memory_budget") as session:
        with pytest.raises(UnsupportedError, match="made no graph"):
            with session.step():
                model(x)
    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(UnsupportedError, match=r"does not run here: Python 9\.9"):
        compress(stack()[0], "memory_budget").__enter__()


def test_behind_it_codecs_have_no_sites_in_compiled_modules() -> None:
    step, batch = trm()
    with compress(step.model, ["memory_budget", "int8"]) as session:
        with pytest.raises(UnsupportedError, match=r"'block' runs a function that torch\.compile made.*outside it"):
            with session.step():
                step.loss(batch)
    with compress(step.model, ["memory_budget", "int8"], sites="!block*", minimum_elements=16) as session:
        with session.step():
            step.loss(batch).backward()
    assert {site.module for site in session.sites() if not site.reason} == {"head"}


def test_containers_and_patterns_that_match_nothing_are_refused() -> None:
    model, _ = stack()
    with pytest.raises(UnsupportedError, match=r"'blocks' is never called itself.*'blocks\.\*'"):
        compress(model, "memory_budget", modules=["blocks"]).__enter__()
    with pytest.raises(CaptureError, match="matches no module"):
        compress(model, "memory_budget", modules=["layers.*"]).__enter__()
