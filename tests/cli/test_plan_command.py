"""``compbench plan`` as its user sees it: the table, what it says of arms that can't be told, and the exit status."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compbench.cli import main

SUITE = """
name: tiny
workload: {name: trm_maze, grid: 5, train_mazes: 16, validation_mazes: 4, hidden: 32, heads: 2, inner: 48}
arms:
  none: none
  int8: int8
  laser: {laser: {rank: 4, max_rank: 32}}
matrix: {depth: [2, 3], seed: [0, 1, 2]}
training: {batch_size: 8, steps: 4, warmup_steps: 1}
measuring: {time_pairs: 0, validation_points: 0, gradient_cosine: false}
capture: {routes: hooks}
margins: {solved: 0.05}
device: %s
"""

ASKING = '''
import compbench


class Codec(compbench.Codec):
    def encode(self, rows):
        return compbench.Dense(rows * rows.abs().max().item())


class Asking(compbench.Compressor):
    """Looks at values."""

    name = "asking"

    def codec(self, site, generator):
        return Codec()


@compbench.hookimpl
def compbench_compressors():
    return [Asking]
'''

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line; gives its exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SUITE % "cpu")

    def invoke(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return invoke


def test_a_plan_tells_of_every_arm_and_trains_nothing(compbench: Command, tmp_path: Path) -> None:
    status, out, err = compbench("plan", "tiny.yaml", "--jobs", "1", "--fits", "1GiB")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[:5] for line in lines if line[:1] == ["int8"]] == [["int8", d, "3", "to", "run"] for d in ("2", "3")]
    assert "fits" in out
    assert "3 seeds and 4 comparisons show non-inferiority" in out
    assert not (tmp_path / "results").exists()


def test_json_has_the_sites(compbench: Command) -> None:
    status, out, _ = compbench("plan", "tiny.yaml", "--jobs", "1", "--format", "json", "--only", "arm=laser,none")
    assert status == 0
    told = json.loads(out)
    laser = [cell for cell in told["cells"] if cell["arm"] == "laser"]
    assert [cell["depth"] for cell in laser] == [2, 3]
    for cell in laser:
        assert cell["basis"] == "bounds"
        assert cell["saved_bytes"] < cell["most_saved_bytes"] <= cell["uncompressed_bytes"]
        # What attention keeps beside is of no site where it is computed again.
        assert sum(site["raw_bytes"] for site in cell["sites"]) > 0.98 * cell["uncompressed_bytes"]
        assert len(cell["cells"]) == 3


def test_cells_that_are_done_give_ranks_and_times(compbench: Command, tmp_path: Path) -> None:
    assert compbench("run", "tiny.yaml", "--only", "arm=laser,none", "--only", "depth=2", "--jobs", "1")[0] == 0
    arguments = ("plan", "tiny.yaml", "--jobs", "1", "--only", "arm=laser", "--format", "json")
    status, out, _ = compbench(*arguments, "--ranks-from", "results/tiny")
    assert status == 0
    done, to_run = json.loads(out)["cells"]
    assert done["states"] == {"ok": 3}
    assert to_run["states"] == {"to run": 3}
    assert to_run["note"] == "ranks of depth 2"
    assert done["basis"] == to_run["basis"] == "results"
    assert done["seconds"] > 0
    records = [json.loads(path.read_text().rpartition("\n#")[0] or path.read_text()) for path in _records(tmp_path)]
    saved = [record["memory"]["saved_bytes"] for record in records]
    assert min(saved) <= done["saved_bytes"] <= max(saved)


def _records(folder: Path) -> list[Path]:
    return sorted((folder / "results/tiny/cells").glob("laser-*.json"))


def test_a_strategy_that_asks_for_values_is_named_and_the_rest_is_there(compbench: Command, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/asking.py").write_text(ASKING)
    (tmp_path / "tiny.yaml").write_text((SUITE % "cpu").replace("int8: int8", "int8: int8\n  mine: asking"))
    status, out, _ = compbench("plan", "tiny.yaml", "--jobs", "1", "--only", "depth=2")
    assert status == 1
    assert "not estimable" in out
    assert "mine: arm 'mine' is not estimable: asking.py, line 7, in encode() asks for a tensor's value" in out
    assert any(line.split()[:2] == ["int8", "2"] and "kB" in line for line in out.splitlines())


ASKING_MODEL = """
import torch


class Workload:
    def build(self):
        return torch.nn.Linear(8, 8)

    def batches(self, split, seed):
        yield {"x": torch.randn(64, 8)}

    def loss(self, model, batch):
        output = model(batch["x"])
        return output.square().mean() if output.abs().max().item() > 0 else output.mean()

    def evaluate(self, model, batch):
        return {"error": model(batch["x"]).square().mean(dim=1)}
"""


def test_a_model_that_asks_for_values_is_named_with_its_line(compbench: Command, tmp_path: Path) -> None:
    (tmp_path / "asking_model.py").write_text(ASKING_MODEL)
    (tmp_path / "own.yaml").write_text(
        "name: own\nworkload: {module: 'asking_model:Workload'}\narms: {none: none, int8: int8}\n"
        "matrix: {depth: [1], seed: [0]}\ntraining: {steps: 2, batch_size: 8}\ndevice: cpu\n"
    )
    status, out, _ = compbench("plan", "own.yaml", "--jobs", "1")
    assert status == 1
    assert (
        "none, int8: the model is not estimable: asking_model.py, line 14, in loss() asks for a tensor's value" in out
    )


def test_csv_is_one_table(compbench: Command) -> None:
    arguments = ("plan", "tiny.yaml", "--jobs", "1", "--only", "arm=laser", "--only", "depth=2", "--format", "csv")
    whole, sites = (list(csv.DictReader(compbench(*arguments, *more)[1].splitlines())) for more in ((), ("--sites",)))
    assert [row["arm"] for row in whole] == ["laser"]
    assert {row["site"] for row in sites} > {"block.mlp/mlp_96", "block.attn/attn_96"}


def test_a_family_is_that_of_a_workload(compbench: Command, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text((SUITE % "cpu").replace("matrix: {", "matrix: {hidden: [32, 64], "))
    _, out, _ = compbench("plan", "tiny.yaml", "--jobs", "1", "--only", "arm=int8", "--only", "depth=2")
    assert "of `hidden=32` 3 seeds and 4 comparisons" in out
    assert "of `hidden=64` 3 seeds and 4 comparisons" in out


def test_a_suite_for_a_device_that_is_not_here_is_planned(compbench: Command, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SUITE % "cuda")
    status, out, _ = compbench("plan", "tiny.yaml", "--jobs", "1", "--only", "arm=int8")
    assert status == 0
    assert "memory as the CPU's operators save it, for the device cuda" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--fits", "much"), "--fits much: no size"),
        (("--fits", "0"), "--fits 0: no size"),
        (("--ranks-from", "nowhere"), "--ranks-from nowhere: "),
        (("--only", "arm=nobody"), "nobody"),
        (("--format", "nothing"), "nothing"),
    ],
)
def test_bad_input_is_one_message(arguments: tuple[str, ...], told: str, compbench: Command) -> None:
    status, _, err = compbench("plan", "tiny.yaml", *arguments)
    assert status == 2
    assert told in err
    assert len(err.splitlines()) == 1
