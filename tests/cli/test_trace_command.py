"""``compbench trace`` as its user sees it: tables, files, messages and the exit status."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compbench.cli import main
from compbench.errors import UnsupportedError
from compbench.registry import Registry
from compbench.report.traces import COLUMNS, growth_table, kinds_table
from compbench.run import tracing
from compbench.run.tracing import CellTrace, trace_cell
from compbench.suite import load_suite
from compbench.suite.cell import Cell

SUITE = """
name: tiny
workload: {name: trm_maze, grid: 5, train_mazes: 8, validation_mazes: 4, hidden: 32, heads: 2, inner: 48}
arms:
  none: none
  int8: int8
  lance: {lance: {rank: 4, warmup: 9}}
  gale: {gale: {rank: 8}}
matrix:
  depth: [2, 4]
  seed: [0, 1]
  gale.rank: [4, 8]
training: {batch_size: 8, steps: 20}
device: cpu
threads: 1
"""
Command = Callable[..., tuple[int, str, str]]


def invoke(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def compbench(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line; gives its exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = invoke(*arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(SUITE)
    registry = Registry.load()
    return next(c for c in load_suite(str(path), registry).cells(registry) if (c.arm, c.depth) == ("lance", 4))


@pytest.fixture(scope="module")
def traced(cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> CellTrace:
    """A cell that was traced in this process, before its strategy was calibrated."""
    found = trace_cell(cell, tmp_path_factory.mktemp("trace"), 1, 2)
    assert (found.status, found.reason) == ("ok", "")
    return found


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, traced: CellTrace) -> None:
    """Cells that have that trace, without a process."""

    def run(self: tracing.Tracer, cells: list[Cell]) -> Iterator[CellTrace]:
        for cell in cells:
            self.folder(cell).mkdir(parents=True)
            yield traced.model_copy(update={"cell": cell})

    monkeypatch.setattr(tracing.Tracer, "run", run)


def test_a_cell_is_traced_in_a_process_of_its_own(compbench: Command, folder: Path) -> None:
    arguments = ("trace", "tiny.yaml", "--only", "arm=int8", "--steps", "2", "--warmup", "3", "--output", "out")
    status, out, err = compbench(*arguments)
    assert (status, err) == (0, "tracing int8 depth 4 seed 0\n")
    lines = out.splitlines()
    assert lines[0] == "int8, depth 4, batch 8, fp32; 2 steps traced after 3"
    assert any(line.startswith("kind  ") for line in lines[2:6])
    assert any(line.startswith("Python and engine  ") for line in lines)
    assert any(line.startswith("operator  ") for line in lines)
    assert "  tensorboard --logdir out" in out
    (place,) = (folder / "out").iterdir()
    assert place.name.startswith("int8-d4-s0-")
    for role in ("plain", "strategy"):
        with gzip.open(place / role / f"{role}.pt.trace.json.gz", "rt") as file:
            names = [event["name"] for event in json.load(file)["traceEvents"]]
        assert names.count("phase: backward") == 2
    rows = list(csv.DictReader((place / "operators.csv").read_text().splitlines()))
    assert {(row["arm"], row["depth"], row["seed"]) for row in rows} == {("int8", "4", "0")}
    (products,) = (row for row in rows if (row["phase"], row["operator"]) == ("forward", "aten::mm"))
    assert float(products["calls"]) == float(products["plain_calls"]) > 0
    rounding = [row for row in rows if row["operator"] == "aten::round" and row["phase"] == "forward"]
    assert all(row["plain_calls"] == "0" and row["kind"] == "elementwise" for row in rounding)


def test_the_table_of_kinds_ends_in_what_its_rows_add_up_to(traced: CellTrace) -> None:
    table = kinds_table(traced, traced.trace)
    for column in range(1, len(table.headers)):
        numbers = [float(row[column]) for row in table.cells]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.01 * len(numbers))
    plain, strategy, difference = map(float, table.cells[-1][1:4])
    assert strategy - plain == pytest.approx(difference, abs=0.011)
    assert table.cells[-1][0] == "all"


def test_operators_are_shown_by_how_much_they_grew(traced: CellTrace) -> None:
    table = growth_table(traced.trace, 5)
    both = traced.trace.plain, traced.trace.strategy
    plain, strategy = ({(t.operator, t.phase, t.kind): t.cpu_ms for t in s.times if t.operator} for s in both)
    growth = {key: taken - plain.get(key, 0) for key, taken in strategy.items()}
    most = sorted(growth, key=lambda key: -growth[key])[:5]
    assert [(row[0], row[1], row[2].replace(" ", "_")) for row in table.cells] == most
    for row, key in zip(table.cells, most, strict=True):
        assert float(row[-1]) - float(row[-2]) == pytest.approx(growth[key], abs=0.0011)


def test_a_strategy_that_is_not_calibrated_yet_is_told_of(traced: CellTrace) -> None:
    assert traced.calibrated == 0
    assert "0 % of the sites were calibrated after 2 steps" in kinds_table(traced, traced.trace).sentences[-1]


@pytest.mark.usefixtures("stand_in")
def test_csv_has_every_operator_of_every_cell_and_nothing_else(compbench: Command, traced: CellTrace) -> None:
    status, out, err = compbench("trace", "tiny.yaml", "--only", "arm=gale", "--format", "csv")
    assert status == 0
    assert "tensorboard --logdir traces/tiny" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert tuple(rows[0]) == COLUMNS
    assert {row["arm"] for row in rows} == {"gale gale.rank=4", "gale gale.rank=8"}
    for side, step in (("plain_cpu_ms", traced.trace.plain), ("cpu_ms", traced.trace.strategy)):
        assert sum(float(row[side]) for row in rows) == pytest.approx(2 * step.traced_ms, abs=1e-3)


@pytest.mark.usefixtures("stand_in")
def test_json_has_what_became_of_every_cell(compbench: Command) -> None:
    status, out, _ = compbench("trace", "tiny.yaml", "--only", "arm=none,int8", "--format", "json")
    assert status == 0
    cells = json.loads(out)["cells"]
    assert [(cell["arm"], cell["depth"], cell["status"]) for cell in cells] == [("none", 4, "ok"), ("int8", 4, "ok")]
    assert cells[0]["trace"]["plain"]["times"]


@pytest.mark.usefixtures("stand_in")
def test_github_has_tables_of_markdown(compbench: Command) -> None:
    _, out, _ = compbench("trace", "tiny.yaml", "--only", "arm=int8", "--format", "github")
    assert "\n| kind " in out
    assert "\n| operator " in out


def test_an_arm_that_can_not_be_traced_is_told_with_its_reason(
    compbench: Command, monkeypatch: pytest.MonkeyPatch, cell: Cell
) -> None:
    def refuse(cell: Cell) -> None:
        raise UnsupportedError("the model is compiled")

    monkeypatch.setattr(tracing, "prepare", refuse)
    refused = trace_cell(cell, Path(), 1, 1)
    assert (refused.status, refused.reason, refused.trace) == ("unsupported", "the model is compiled", None)
    monkeypatch.setattr(tracing.Tracer, "run", lambda self, cells: iter([refused]))
    status, out, err = compbench("trace", "tiny.yaml", "--only", "arm=lance")
    assert (status, out) == (1, "")
    assert err == "error: arm 'lance' at depth 4: unsupported: the model is compiled\n"


def test_a_process_that_dies_is_told_with_its_log(compbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    dies = [sys.executable, "-S", "-c", "import sys; print('no more'); sys.exit(3)"]
    monkeypatch.setattr(tracing, "module_command", lambda *_: dies)
    status, out, err = compbench("trace", "tiny.yaml", "--only", "arm=int8")
    assert (status, out) == (1, "")
    told = "error: arm 'int8' at depth 4: crashed: exit status 3: no more (traces/tiny/int8-d4-s0-"
    assert err.splitlines()[1].startswith(told)
    log = Path(err.splitlines()[1].rpartition("(")[2].removesuffix(")"))
    assert log.read_text() == "no more\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "missing.yaml"),
        (["tiny.yaml", "--only", "arm=in8"], "unknown arm 'in8'; did you mean 'int8'? (allowed: gale, int8, "),
        (["tiny.yaml", "--only", "arm=lance", "--only", "gale.rank=4"], "(with arm=lance there is no gale.rank)"),
        (["tiny.yaml", "--format", "cvs"], "unknown format 'cvs'; did you mean 'csv'?"),
        (["tiny.yaml", "--device", "cuda:99"], "cuda"),
        (["tiny.yaml", "--output", "tiny.yaml"], "can't write to tiny.yaml/"),
    ],
)
def test_bad_input_is_one_message_with_status_2(compbench: Command, arguments: list[str], message: str) -> None:
    status, out, err = compbench("trace", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_broken_arm_is_left_out_and_told_of(compbench: Command, folder: Path) -> None:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "mine.py").write_text("raise ValueError('boom')\n")
    (folder / "tiny.yaml").write_text(SUITE.replace("  int8: int8", "  int8: int8\n  mine: mine"))
    status, out, err = compbench("trace", "tiny.yaml", "--only", "arm=mine")
    assert (status, out) == (2, "")
    assert err.startswith("warning: arm 'mine' is left out: ")
    assert err.splitlines()[-1] == "error: suite 'tiny': the plugin of every selected arm is broken"
