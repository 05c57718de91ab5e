"""A training that is killed goes on where it was last saved, and nobody can tell by its results."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from compbench.run import cell as cell_module
from compbench.run.cell import run_cell
from compbench.run.checkpoints import CheckpointError, Header, peek, read_checkpoint, write_checkpoint
from compbench.run.result import CellResult
from compbench.run.training import weights_hash
from compbench.run.training_state import Checkpointer, TrainingState, random_state, set_random_state
from compbench.suite.cell import Cell, Measuring, PluginReference, Training

WORKLOAD = {"grid": 7, "hidden": 32, "heads": 2, "inner": 96, "train_mazes": 64, "validation_mazes": 16}
STRATEGIES = {
    "none": [("none", {})],
    "laser": [("laser", {"rank": 4, "max_rank": 24})],
    "int8 at random": [("int8", {"stochastic": True})],
    "gale": [("gale", {"rank": 4})],
    "a chain": [("laser", {"rank": 8}), ("int8", {"stochastic": True})],
}


def make_cell(strategy="none", steps=12, plugins_dir=None, **fields) -> Cell:
    members = STRATEGIES.get(strategy, [(strategy, {})])
    return Cell(
        suite="test",
        arm="arm",
        depth=3,
        seed=1,
        workload=PluginReference(name="trm_maze", fields=WORKLOAD),
        strategy=tuple(PluginReference(name=name, fields=given) for name, given in members),
        training=Training(steps=steps, batch_size=8, learning_rate=3e-3, warmup_steps=2),
        measuring=Measuring(time_pairs=0, memory=False, flops=False, **fields),
        plugins_dir=plugins_dir,
    )


class Killed(BaseException):
    """Ends a training as a signal would: nothing is caught, nothing is put in order."""


class Interrupted(Checkpointer):
    """Saves after one step, and is killed after a later one."""

    def __init__(self, path, cell, save_at=(), kill_at=None):
        self.lines = []
        super().__init__(path, cell.key, cell.training.steps, float("inf"), self.lines.append)
        self.save_at, self.kill_at = save_at, kill_at

    def after(self, step: int, training: TrainingState) -> None:
        if step in self.save_at:
            self.save(training, step)
        if step == self.kill_at:
            raise Killed


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "checkpoints" / "cell.pt"


@pytest.fixture
def final_weights(monkeypatch):
    """The hash of the weights at the end of each training that ends."""
    hashes = []
    evaluate = cell_module.evaluate

    def noting(step, *arguments):
        hashes.append(weights_hash(step.model))
        return evaluate(step, *arguments)

    monkeypatch.setattr(cell_module, "evaluate", noting)
    return hashes


def outcome(result: CellResult) -> dict:
    """What must not depend on when a training was killed."""
    volatile = {"seconds", "started_at", "earlier_seconds", "resumed_from"}
    return json.loads(result.model_dump_json(exclude=volatile))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_training_that_was_killed_twice_is_bit_identical_to_one_that_was_not(strategy, path, final_weights):
    cell = make_cell(strategy)
    whole = run_cell(cell)
    assert (whole.status, whole.resumed_from, whole.earlier_seconds) == ("ok", [], 0.0)
    for save_at, kill_at in [([2, 5], 6), ([9], 11)]:
        with pytest.raises(Killed):
            run_cell(cell, Interrupted(path, cell, save_at, kill_at))
        torch.manual_seed(99)  # whatever the next process' streams are
    last = Interrupted(path, cell)
    result = run_cell(cell, last)
    assert last.lines == ["going on from step 9 of 12"]
    assert result.resumed_from == [5, 9]
    assert 0 < result.earlier_seconds < result.seconds
    assert outcome(result) == outcome(whole)
    assert len(final_weights) == 2
    assert final_weights[0] == final_weights[1]


def test_the_state_of_the_references_optimiser_is_saved_as_well(path, final_weights):
    cell = make_cell("laser").model_copy(
        update={"training": Training(optimizer="adam_atan2", steps=12, batch_size=8, warmup_steps=2, ema=0.9)}
    )
    whole = run_cell(cell)
    with pytest.raises(Killed):
        run_cell(cell, Interrupted(path, cell, [5], 6))
    torch.manual_seed(99)
    result = run_cell(cell, Interrupted(path, cell))
    assert (whole.status, result.resumed_from) == ("ok", [5])
    assert outcome(result) == outcome(whole)
    assert final_weights[0] == final_weights[1]


def damaged(data: bytes, how: str) -> bytes:
    middle = len(data) // 2
    return {
        "truncated": data[:middle],
        "empty": b"",
        "flipped bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "other step": data.replace(b'"step": 5', b'"step": 6', 1),
        "other file": b"PK\x03\x04" + data,
    }[how]


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped bit", "other step", "other file"])
def test_a_damaged_checkpoint_is_reported_and_never_gone_on_from(how, path):
    cell = make_cell(steps=7)
    with pytest.raises(Killed):
        run_cell(cell, Interrupted(path, cell, [5], 6))
    path.write_bytes(damaged(path.read_bytes(), how))
    again = Interrupted(path, cell)
    result = run_cell(cell, again)
    assert result.resumed_from == []
    assert len(again.lines) == 1
    assert "checkpoint cell.pt is not used, and the training begins anew: it is " in again.lines[0]
    assert outcome(result) == outcome(run_cell(cell))


def test_a_checkpoint_of_another_cell_torch_or_version_is_not_used(path):
    state = memoryview(b"state")
    path.parent.mkdir()
    for header, reason in [
        (Header("other", 5, 7, "2.13.0"), "it is of another cell, 'other'"),
        (Header("cell", 5, 7, "2.9.0"), r"it was made under torch 2\.9\.0, and this is 2\.13\.0"),
        (Header("cell", 5, 7, "2.13.0", schema=2), "its state is of version 2, and this one knows 1"),
    ]:
        write_checkpoint(path, header, state)
        with pytest.raises(CheckpointError, match=reason):
            read_checkpoint(path, "cell", "2.13.0")
    write_checkpoint(path, Header("cell", 5, 7, "2.13.0"), state)
    header, found = read_checkpoint(path, "cell", "2.13.0")
    assert (header, bytes(found)) == (Header("cell", 5, 7, "2.13.0"), b"state")
    assert peek(path) == header
    assert peek(path.with_name("missing.pt")) is None


def test_nothing_in_a_checkpoint_is_executed(path, tmp_path):
    import io
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    buffer = io.BytesIO()
    torch.save({"state": Evil()}, buffer, pickle_module=pickle)
    cell = make_cell(steps=3)
    path.parent.mkdir()
    write_checkpoint(path, Header(cell.key, 1, 3, str(torch.__version__)), buffer.getbuffer())
    again = Interrupted(path, cell)
    assert run_cell(cell, again).status == "ok"
    assert "UnpicklingError" in again.lines[0]
    assert not (tmp_path / "executed").exists()


UNSAVABLE = """
import compbench
class Kept(compbench.Payload):
    def __init__(self, rows):
        self.rows = rows
    def decode(self):
        return self.rows
    def tensors(self):
        return [self.rows]
class Codec(compbench.Codec):
    def encode(self, rows):
        return Kept(rows.clone())
    def state_dict(self):
        {state}
    def load_state_dict(self, state):
        {load}
class Special(compbench.Compressor):
    '''Keeps everything.'''
    name = 'special'
    def codec(self, site, generator):
        return Codec()
@compbench.hookimpl
def compbench_compressors():
    return [Special]
"""


def test_a_strategy_that_cant_be_saved_trains_without_checkpoints_and_says_so_once(path, tmp_path):
    raises = "raise compbench.state.StateError('no state of mine')"
    plugin = UNSAVABLE.format(state="import compbench.state; " + raises, load="pass")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "special.py").write_text(plugin)
    cell = make_cell("special", steps=6, plugins_dir=str(tmp_path / "plugins"))
    saving = Checkpointer(path, cell.key, 6, 0.0, (lines := []).append)
    assert run_cell(cell, saving).status == "ok", lines
    assert lines == ["no checkpoints of this training, since its strategy can't be saved: no state of mine"]
    assert not path.exists()


def test_a_state_that_cant_be_loaded_is_removed_and_the_training_begins_anew(path, tmp_path, capsys):
    (tmp_path / "plugins").mkdir()
    plugin = UNSAVABLE.format(state="return {'a': 1}", load="raise KeyError('b')")
    (tmp_path / "plugins" / "special.py").write_text(plugin)
    cell = make_cell("special", steps=6, plugins_dir=str(tmp_path / "plugins"))
    with pytest.raises(Killed):
        run_cell(cell, Interrupted(path, cell, [3], 4))
    result = run_cell(cell, Interrupted(path, cell))
    assert (result.status, len(result.loss_curve), result.resumed_from) == ("ok", 6, [])
    assert "removed, since it can't be loaded, and the training begins anew: KeyError: 'b'" in capsys.readouterr().out
    assert not path.exists()


def test_where_the_results_folder_is_not_there_nothing_is_made_and_the_cell_trains_on(tmp_path):
    cell = make_cell(steps=4)
    saving = Checkpointer(tmp_path / "nowhere" / "checkpoints" / "cell.pt", cell.key, 4, 0.0, (lines := []).append)
    assert run_cell(cell, saving).status == "ok"
    assert lines == [f"no checkpoints of this training: there is no folder {tmp_path / 'nowhere'} here"]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(path, monkeypatch):
    cell = make_cell(steps=4)
    full = [OSError(28, "No space left on device")]

    def write(*arguments):
        if full:
            raise full.pop()
        return write_checkpoint(*arguments)

    monkeypatch.setattr("compbench.run.training_state.write_checkpoint", write)
    saving = Checkpointer(path, cell.key, 4, 0.0, (lines := []).append)
    assert run_cell(cell, saving).status == "ok"
    assert lines == ["the checkpoint after step 1 can't be written: No space left on device"]
    assert peek(path).step == 3  # the last step but one: after the last there is nothing left to go on with


def test_all_global_random_streams_are_part_of_a_state():
    def draw():
        return torch.rand(1).item(), random.random(), float(np.random.normal()), float(np.random.normal())

    np.random.normal()  # which leaves the second of a pair for the next call
    state = torch.load(_saved(random_state(torch.device("cpu"))), weights_only=True)
    first = draw()
    assert draw() != first
    set_random_state(state, torch.device("cpu"))
    assert draw() == first


def _saved(state):
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def start(cell: Cell, folder: Path, minutes: str) -> tuple[subprocess.Popen, Path]:
    spec, out = folder / "spec.json", folder / "out.json"
    spec.write_text(cell.model_dump_json())
    command = [sys.executable, "-m", "compbench.run.cell", str(spec), str(out)]
    command += ["--checkpoint", str(folder / "checkpoints" / "cell.pt"), "--checkpoint-minutes", minutes]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment), out


def wait_for_step(process: subprocess.Popen, path: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while (header := peek(path)) is None or header.step < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_process_killed_by_sigkill_or_asked_to_stop_goes_on_to_the_same_end(tmp_path, path, monkeypatch):
    cell = make_cell("laser", steps=60)
    killed, out = start(cell, tmp_path, "0")
    wait_for_step(killed, path, 10)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not out.exists()
    at = peek(path).step
    stopped, _ = start(cell, tmp_path, "1000")  # so that only the signal has it saved
    assert stopped.stdout.readline() == f"going on from step {at} of 60\n"
    time.sleep(0.1)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()
    assert stopped.returncode == -signal.SIGTERM
    asked_at = peek(path).step
    assert asked_at > at
    last, _ = start(cell, tmp_path, "1000")
    last.communicate()
    result = CellResult.model_validate_json(out.read_text())
    assert (result.status, result.resumed_from) == ("ok", [at, asked_at])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = run_cell(cell)
    torch.set_num_threads(threads)
    for name in ("loss_curve", "metrics", "statistics", "statistics_curve", "fidelity", "weights_hash"):
        assert getattr(result, name) == getattr(whole, name)
