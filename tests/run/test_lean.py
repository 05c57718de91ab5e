"""What a cell leaves unloaded changes no number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compbench.run.lean import LeanAdamW, PlainMeta
from compbench.suite.cell import Cell, Measuring, PluginReference, Training


def trained(optimizer_class: type[torch.optim.AdamW], foreach: bool) -> tuple[list[torch.Tensor], dict]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
    optimizer = optimizer_class(groups, lr=0.01, weight_decay=0.1, foreach=foreach)
    for _ in range(5):
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    return list(model.parameters()), optimizer.state_dict()


def test_the_lean_optimiser_is_the_same_to_the_bit_and_goes_on_from_the_others_state() -> None:
    for foreach in (False, True):
        plain, state = trained(torch.optim.AdamW, foreach)
        lean, lean_state = trained(LeanAdamW, foreach)
        assert all(torch.equal(one, other) for one, other in zip(plain, lean, strict=True))
        assert state["param_groups"] == lean_state["param_groups"]
        other = LeanAdamW(lean, lr=1.0)
        other.param_groups.clear()
        for group in state["param_groups"]:
            other.add_param_group({"params": [lean[index] for index in group["params"]]})
        other.load_state_dict(state)
        for index, one in state["state"].items():
            assert torch.equal(other.state[lean[index]]["exp_avg_sq"], one["exp_avg_sq"])
        other.step()
        assert all(parameter.requires_grad for parameter in lean)


def test_modules_made_without_memory_are_given_it_as_they_are() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with PlainMeta():
        embedding = nn.Embedding(7, 3, device="meta").to_empty(device="cpu")
        linear = nn.Linear(5, 2, device="meta", dtype=torch.float64).to_empty(device="cpu")
        real = nn.Linear(5, 2)
    assert (embedding.weight.shape, embedding.weight.device.type) == ((7, 3), "cpu")
    assert (linear.weight.shape, linear.weight.dtype, linear.weight.is_contiguous()) == ((2, 5), torch.float64, True)
    assert isinstance(embedding.weight, nn.Parameter)
    torch.set_rng_state(before)
    assert torch.equal(real.weight, nn.Linear(5, 2).weight)


@pytest.mark.parametrize("optimizer", ["adamw", "adam_atan2"])
def test_a_cell_does_not_load_the_compiler(optimizer: str, tmp_path: Path) -> None:
    small = {"grid": 5, "train_mazes": 8, "validation_mazes": 4, "hidden": 16, "heads": 1, "inner": 16}
    cell = Cell(
        suite="lean",
        arm="int8",
        depth=2,
        seed=0,
        workload=PluginReference(name="trm_maze", fields=small),
        strategy=(PluginReference(name="int8"),),
        training=Training(steps=2, batch_size=2, warmup_steps=0, optimizer=optimizer),
        measuring=Measuring(memory=False, time_pairs=0, gradient_cosine=False, flops=False),
    )
    (tmp_path / "spec.json").write_text(cell.model_dump_json())
    code = (
        "import sys; from compbench.run.cell import main; main(sys.argv[1:]); "
        "print([name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules]); "
        "print('adam_atan2_pytorch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spec.json"), str(tmp_path / "out.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["ok ", "[]", str(optimizer == "adam_atan2")], done.stderr
