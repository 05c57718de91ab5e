"""One cell's life: what its record says, whatever becomes of it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compbench.capture import compress
from compbench.run import cell as cell_module
from compbench.run.cell import run_cell
from compbench.run.result import CellResult
from compbench.run.slots import Slot
from compbench.seeds import generator
from compbench.suite.cell import Cell, Measuring, PluginReference, Training
from compbench.workloads.trm_maze import TRMMaze

WORKLOAD = {"grid": 7, "hidden": 64, "heads": 2, "inner": 192, "train_mazes": 64, "validation_mazes": 32}


def cell(*strategy: tuple[str, dict[str, object]], plugins_dir: str | None = None, **training: object) -> Cell:
    settings = {"steps": 6, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 2} | training
    return Cell(
        suite="test",
        arm="arm",
        depth=3,
        seed=1,
        workload=PluginReference(name="trm_maze", fields=WORKLOAD),
        strategy=tuple(PluginReference(name=name, fields=fields) for name, fields in strategy),
        training=Training(**settings),
        measuring=Measuring(time_pairs=2),
        plugins_dir=plugins_dir,
    )


def test_a_cell_records_all_its_passes() -> None:
    result = run_cell(cell(("laser", {"rank": 8, "max_rank": 64})))
    assert (result.status, result.reason) == ("ok", "")
    assert len(result.loss_curve) == 6
    assert set(result.metrics) == {"token_accuracy", "solved"}
    assert result.statistics["rank"] == pytest.approx(8, abs=4)
    assert result.memory.saved_bytes < 0.4 * result.memory.uncompressed_bytes
    assert result.memory.training_peak_saved_bytes >= result.memory.saved_bytes
    assert result.time.pairs == 2
    assert set(result.time.phases) == {"forward", "backward", "update"}
    assert 0.5 < result.arithmetic.ratio < 1  # weight gradients at the rank of what was kept
    assert result.environment.threads == result.time.threads == torch.get_num_threads()
    assert 0 < result.fidelity.smallest_parameter_cosine <= result.fidelity.gradient_cosine < 1
    assert result.exactness == "lossy"
    compressed = {site["name"] for site in result.memory.sites if not site["reason"]}
    assert set(result.site_curves) == compressed
    assert all(set(curves) == {"rank", "fidelity"} for curves in result.site_curves.values())
    assert CellResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("strategy", [("laser", {"rank": 8, "max_rank": 64}), ("int8", {})])
def test_memory_is_the_same_whether_or_not_operations_are_counted(strategy: tuple[str, dict[str, object]]) -> None:
    # The steps that are counted warm up what the memory pass would: the strategy has as many behind it either way.
    whole = cell(strategy)
    without = whole.model_copy(update={"measuring": whole.measuring.model_copy(update={"flops": False})})
    counted, uncounted = run_cell(whole), run_cell(without)
    assert uncounted.arithmetic is None
    counted, uncounted = (result.memory.model_dump(exclude={"process_peak_bytes"}) for result in (counted, uncounted))
    assert counted == uncounted


@pytest.mark.parametrize(
    ("strategy", "exactness"), [(["checkpoint"], "exact"), (["recompute"], "exact"), (["checkpoint", "int8"], "lossy")]
)
def test_a_cell_records_what_its_strategy_says_of_its_error(strategy: list[str], exactness: str) -> None:
    assert run_cell(cell(*((name, {}) for name in strategy), steps=1)).exactness == exactness


def test_all_arms_of_a_seed_share_weights_data_order_and_baseline() -> None:
    none, int8 = run_cell(cell(("none", {}))), run_cell(cell(("int8", {})))
    assert (none.weights_hash, none.order_hash) == (int8.weights_hash, int8.order_hash)
    assert none.memory.uncompressed_bytes == int8.memory.uncompressed_bytes
    assert none.memory.saved_bytes == none.memory.uncompressed_bytes
    assert none.fidelity.gradient_cosine == pytest.approx(1, abs=1e-12)
    assert none.arithmetic.uncompressed_flops == int8.arithmetic.uncompressed_flops == none.arithmetic.flops
    assert none.loss_curve[0] == int8.loss_curve[0]
    assert none.loss_curve[-1] != int8.loss_curve[-1]


def test_int8_saves_73_to_75_percent_of_the_fp32_bytes_that_it_compresses() -> None:
    sites = [site for site in run_cell(cell(("int8", {}))).memory.sites if not site["reason"]]
    assert {site["dtype"] for site in sites} == {"float32"}
    assert {site["width"] for site in sites} == {64, 192, 384}
    saving = 1 - sum(site["kept_bytes"] for site in sites) / sum(site["raw_bytes"] for site in sites)
    assert 0.73 <= saving <= 0.75


def test_laser_at_the_rank_of_the_input_space_is_exact_to_rounding() -> None:
    # A bias-free image of a 64-wide input has rank 64 at most, however wide it is: at rank 64 nothing is lost. The
    # 64-wide sites, where a basis of rank 64 would save nothing, stay raw, and so must those that are no such images.
    workload = TRMMaze(**WORKLOAD).at_depth(3)
    model = workload.build(generator(1, "initialisation")).double()
    batch = {name: values[:8] for name, values in workload.data(0).train.items()}
    exact = torch.autograd.grad(workload.loss(workload.forward(model, batch), batch), list(model.parameters()))
    session = compress(model, "laser", rank=192, max_rank=192)
    with session:
        for _ in range(2):
            with session.step():
                loss = workload.loss(workload.forward(model, batch), batch)
                found = torch.autograd.grad(loss, list(model.parameters()))
    assert {site.name for site in session.sites() if not site.reason} == {"block.mlp/mlp_384"}
    for a, b in zip(exact, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # logits are fp32 in the loss


def test_a_loss_that_is_not_finite_is_diverged_and_its_curve_is_kept() -> None:
    result = run_cell(cell(("none", {}), learning_rate=1e30, gradient_clip=None, steps=20))
    assert result.status == "diverged"
    assert "at step" in result.reason
    assert not math.isfinite(result.loss_curve[-1])
    again = CellResult.model_validate_json(result.model_dump_json())
    assert not math.isfinite(again.loss_curve[-1])


def test_a_plugin_that_raises_in_encode_fails_its_cell_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text(
        "import compbench\n"
        "class BreaksCodec(compbench.Codec):\n"
        "    def encode(self, rows):\n"
        "        raise ArithmeticError('no luck today')\n"
        "class Breaks(compbench.Compressor):\n"
        "    '''Raises.'''\n"
        "    name = 'breaks'\n"
        "    def codec(self, site, generator):\n"
        "        return BreaksCodec()\n"
        "@compbench.hookimpl\n"
        "def compbench_compressors():\n"
        "    return [Breaks]\n"
    )
    result = run_cell(cell(("breaks", {}), plugins_dir=str(tmp_path)))
    assert (result.status, result.reason) == ("failed", "ArithmeticError: no luck today")


def test_exhausted_memory_is_told_from_other_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(error: Exception):
        def run(cell: Cell, findings: object, checkpointer: object) -> None:
            raise error

        return run

    words = "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes"
    allocator, liar = RuntimeError(words.format(10**17)), RuntimeError(words.format(10**4))
    for error, status in [(MemoryError(), "oom"), (allocator, "oom"), (liar, "failed")]:
        monkeypatch.setattr(cell_module, "_run", raises(error))
        assert run_cell(cell(("none", {}))).status == status


def test_a_changed_plugin_is_found_by_its_hash() -> None:
    changed = cell(("int8", {}))
    changed = changed.model_copy(update={"strategy": (PluginReference(name="int8", source="0" * 64),)})
    result = run_cell(changed)
    assert result.status == "failed"
    assert "has changed since the run began" in result.reason


def test_the_process_writes_its_record_and_refuses_what_is_no_cell(tmp_path: Path) -> None:
    spec, out = tmp_path / "spec.json", tmp_path / "out.json"
    spec.write_text(cell(("none", {}), steps=2).model_dump_json())
    command = [sys.executable, "-m", "compbench.run.cell", str(spec), str(out)]
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    asked = Slot("cpu 0", 1, cores=(4095,)).environment(inherited)
    assert subprocess.run(command, check=False, env=asked).returncode == 0
    result = CellResult.model_validate_json(out.read_text())
    assert result.status == "ok"
    found = result.environment
    assert found.allocator == ("reuse" if found.c_library.startswith("glibc") else "default")
    assert found.tunables == asked.get("GLIBC_TUNABLES", "")
    assert (found.threads, result.time.threads) == (1, 1)
    assert found.placement in ("refused", "unknown")  # nobody has that core
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "spec.json"]
    spec.write_text("{}")
    out.unlink()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 2
    assert not out.exists()
