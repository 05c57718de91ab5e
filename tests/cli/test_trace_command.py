"""``compbench trace`` as its user sees it: tables, files, messages and the exit status."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from compbench.cli import main, trace_command
from compbench.cli.trace_command import how_to_open
from compbench.errors import StoreError
from compbench.registry import Registry
from compbench.report.traces import COLUMNS, as_csv, growth_table, kinds_table, write_operators
from compbench.run import preparing, tracing
from compbench.run.cell_process import Limits
from compbench.run.environment import Environment
from compbench.run.preparing import Prepared
from compbench.run.result import CellResult
from compbench.run.store import Store
from compbench.run.tracing import CellTrace, TraceSettings, trace_cell, write_description
from compbench.suite import load_suite
from compbench.suite.cell import Cell, PluginReference

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
    found = trace_cell(cell, tmp_path_factory.mktemp("trace"), TraceSettings(1), 2)
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
    assert "\ntraces: out, a folder a cell\n  TensorBoard: tensorboard --logdir out\n" in out
    opened = re.search(r"Perfetto: open (\S+) in https://ui.perfetto.dev or chrome://tracing\n", out)
    assert (folder / opened[1]).is_file()
    assert "memory_viz" not in out
    (place,) = (folder / "out").iterdir()
    assert place.name.startswith("int8-d4-s0-")
    for role in ("plain", "strategy"):
        with gzip.open(place / role / f"{role}.pt.trace.json.gz", "rt") as file:
            names = [event["name"] for event in json.load(file)["traceEvents"]]
        assert names.count("phase: backward") == 2
    described = json.loads((place / "trace.json").read_text())
    assert (described["key"], described["trained_steps"], described["trace"]["stacks"]) == (place.name, 3, False)
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


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are compiled, as far as a session can tell, which looks before anything runs."""
    prepare = tracing.prepare

    def prepared(cell: Cell) -> Prepared:
        found = prepare(cell)
        found.session.model = torch.compile(found.session.model)
        return found

    monkeypatch.setattr(tracing, "prepare", prepared)


@pytest.mark.usefixtures("compiled")
def test_an_arm_that_can_not_be_traced_is_told_with_its_reason(
    compbench: Command, monkeypatch: pytest.MonkeyPatch, cell: Cell
) -> None:
    refused = trace_cell(cell, Path(), TraceSettings(1), 1)
    assert (refused.status, refused.trace) == ("unsupported", None)
    assert "compile" in refused.reason
    monkeypatch.setattr(tracing.Tracer, "run", lambda self, cells: iter([refused]))
    status, out, err = compbench("trace", "tiny.yaml", "--only", "arm=lance")
    assert (status, out) == (1, "")
    assert err == f"error: arm 'lance' at depth 4: unsupported: {refused.reason}\n"


def test_a_cell_that_fails_leaves_no_file_and_is_told_with_its_log(
    compbench: Command, monkeypatch: pytest.MonkeyPatch, cell: Cell, tmp_path: Path
) -> None:
    def fails(*_: object) -> None:
        raise ArithmeticError("no luck today")

    monkeypatch.setattr(preparing, "train", fails)
    failed = trace_cell(cell, tmp_path / "trace", TraceSettings(1), 1)
    assert (failed.status, failed.reason, failed.trace) == ("failed", "ArithmeticError: no luck today", None)
    assert not (tmp_path / "trace").exists()
    monkeypatch.setattr(tracing.Tracer, "run", lambda self, cells: iter([failed]))
    status, out, err = compbench("trace", "tiny.yaml", "--only", "arm=lance", "--output", "out")
    assert (status, out) == (1, "")
    told = err.splitlines()[-1]  # what is before it is the log of the process, which here is this one
    assert told.startswith("error: arm 'lance' at depth 4: failed: ArithmeticError: no luck today (out/lance-d4-s0-")
    assert told.endswith("/trace.log)")


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


# ---------------------------------------------------------------- cells that have a record


def record_of(cell: Cell, threads: int = 1) -> CellResult:
    environment = Environment(allocator="reuse", c_library="glibc", threads=threads, placement="shared")
    return CellResult(key=cell.key, cell=cell, status="ok", environment=environment)


@pytest.fixture
def recorded(folder: Path, cell: Cell) -> Cell:
    """A cell of which there is a record in the results of its suite."""
    Store.create(folder / "results", "tiny").save(record_of(cell))
    return cell


@pytest.fixture
def tracers(monkeypatch: pytest.MonkeyPatch, traced: CellTrace) -> list[tuple[tracing.Tracer, list[Cell]]]:
    """The tracers that commands make, with the cells that they are given."""
    made: list[tuple[tracing.Tracer, list[Cell]]] = []

    def run(self: tracing.Tracer, cells: list[Cell]) -> Iterator[CellTrace]:
        made.append((self, cells))
        for cell in cells:
            self.folder(cell).mkdir(parents=True)
            yield traced.model_copy(update={"cell": cell})

    monkeypatch.setattr(tracing.Tracer, "run", run)
    return made


@pytest.mark.parametrize("by", ["key", "path", "key elsewhere"])
def test_a_cell_is_named_by_its_key_or_the_path_of_its_record(
    compbench: Command, folder: Path, recorded: Cell, tracers: list[tuple[tracing.Tracer, list[Cell]]], by: str
) -> None:
    targets = {
        "key": [recorded.key],
        "path": [f"results/tiny/cells/{recorded.key}.json"],
        "key elsewhere": [recorded.key, "--results", "there"],
    }
    if by == "key elsewhere":
        (folder / "results").rename(folder / "there")
    status, out, err = compbench("trace", *targets[by], "--steps", "2", "--warmup", "7", "--stacks")
    assert (status, err) == (0, "")
    ((tracer, cells),) = tracers
    assert cells == [recorded]
    assert (tracer.settings, tracer.warmup) == (TraceSettings(2, stacks=True), 7)
    assert (tracer.device, tracer.threads, tracer.limits) == ("cpu", 1, Limits())
    assert tracer.directory == Path("traces/tiny")
    assert (folder / "traces" / "tiny" / recorded.key / "operators.csv").is_file()
    assert "lance, depth 4" in out


def test_a_cell_is_traced_with_the_threads_of_its_record(
    compbench: Command, folder: Path, cell: Cell, tracers: list[tuple[tracing.Tracer, list[Cell]]]
) -> None:
    Store.create(folder / "results", "tiny").save(record_of(cell, threads=3))
    assert compbench("trace", cell.key)[0] == 0
    assert tracers[0][0].threads == 3


def test_a_suite_is_traced_with_its_own_threads_and_limits(
    compbench: Command, folder: Path, tracers: list[tuple[tracing.Tracer, list[Cell]]]
) -> None:
    (folder / "tiny.yaml").write_text(SUITE + "timeout_seconds: 17\n")
    assert compbench("trace", "tiny.yaml", "--only", "arm=none,int8", "--output", "o")[0] == 0
    ((tracer, cells),) = tracers
    assert [(cell.arm, cell.depth, cell.seed) for cell in cells] == [("none", 4, 0), ("int8", 4, 0)]
    assert (tracer.threads, tracer.limits, tracer.directory) == (1, Limits(17), Path("o"))


@pytest.mark.usefixtures("tracers")
def test_a_cell_whose_plugin_has_changed_is_traced_as_it_is_now_and_said_so(
    compbench: Command, folder: Path, cell: Cell
) -> None:
    old = cell.model_copy(update={"strategy": (cell.strategy[0].model_copy(update={"source": "0" * 64}),)})
    Store.create(folder / "results", "tiny").save(record_of(old))
    status, _, err = compbench("trace", old.key)
    assert status == 0
    assert err == f"warning: the plugins of {old.key} have changed since; what is traced is {cell.key}\n"
    assert (folder / "traces" / "tiny" / cell.key).is_dir()


@pytest.mark.parametrize("command", ["trace", "sites", "explain"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["qick"], "'qick' is no suite, and there is no record of that key in results; did you mean 'quick'?"),
        (["KEYx"], "is no suite, and there is no record of that key in results; did you mean 'KEY'?"),
        (["*"], "'*' is no suite, and there is no record of that key in results"),
        (["missing.yaml"], "missing.yaml"),
        (["results/tiny/cells/missing.json"], "there is no record results/tiny/cells/missing.json"),
        (["KEY", "--only", "seed=0"], "--only beside the cell KEY (allowed: beside a suite)"),
    ],
)
def test_what_names_no_cell_is_told_in_the_same_words_by_every_command(
    compbench: Command, recorded: Cell, command: str, target: list[str], message: str
) -> None:
    status, out, err = compbench(command, *(word.replace("KEY", recorded.key) for word in target))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message.replace("KEY", recorded.key) in err
    assert len(err.splitlines()) == 1


def test_a_device_beside_a_cell_is_refused(compbench: Command, recorded: Cell) -> None:
    status, _, err = compbench("trace", recorded.key, "--only", "seed=0", "--device", "cpu")
    assert status == 2
    assert err == f"error: --only and --device beside the cell {recorded.key} (allowed: beside a suite)\n"


def test_a_damaged_record_and_a_missing_plugin_are_told(compbench: Command, folder: Path, cell: Cell) -> None:
    unknown = cell.model_copy(update={"strategy": (PluginReference(name="mine"),)})
    store = Store.create(folder / "results", "tiny")
    store.save(record_of(unknown))
    status, _, err = compbench("trace", unknown.key)
    assert status == 2
    assert err.startswith("error: unknown strategy 'mine'")
    path = folder / "results" / "tiny" / "cells" / f"{unknown.key}.json"
    path.write_text(path.read_text().replace('"ok"', '"oom"'))
    status, _, err = compbench("trace", unknown.key)
    assert status == 2
    assert "is not trusted: its content is not what was written" in err


@pytest.mark.parametrize(("option", "value"), [("--steps", "0"), ("--warmup", "0"), ("--steps", "some")])
def test_numbers_that_are_none_are_refused(compbench: Command, option: str, value: str) -> None:
    status, out, err = compbench("trace", "tiny.yaml", option, value)
    assert (status, out) == (2, "")
    assert f"Invalid value for '{option}'" in err


def test_what_was_traced_otherwise_than_asked_for_is_said(traced: CellTrace) -> None:
    told = traced.model_copy(
        update={
            "asked_steps": 5,
            "alone": False,
        }
    )
    sentences = " ".join(kinds_table(told, told.trace).sentences)
    assert "1 of the 5 steps that were asked for, since a step has " in sentences
    assert "another cell on the same cores did not pause" in sentences
    plain = " ".join(kinds_table(traced, traced.trace).sentences)
    assert "asked for" not in plain
    assert "did not pause" not in plain


def test_the_operators_of_a_trace_that_a_run_made_are_those_that_the_command_writes(
    traced: CellTrace, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"can't read .*trace\.json"):
        write_operators(tmp_path)
    write_description(tmp_path, traced)
    write_operators(tmp_path)
    assert (tmp_path / "operators.csv").read_text() == as_csv([traced])


def test_a_snapshot_of_memory_is_opened_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_command.importlib.util, "find_spec", lambda package: None)
    (tmp_path / "a cell" / "strategy").mkdir(parents=True)
    lines = how_to_open(tmp_path / "a cell", tmp_path / "a cell").splitlines()
    assert lines[1].startswith(f"  TensorBoard: tensorboard --logdir '{tmp_path}/a cell' ")
    assert lines[1].endswith("(not installed here: the extra `tensorboard`)")
    assert len(lines) == 3
    (tmp_path / "a cell" / "strategy" / "memory.pickle").write_bytes(b"")
    last = how_to_open(tmp_path, tmp_path / "a cell").splitlines()[-1]
    assert (
        last == f"  memory of the GPU: open {tmp_path}/a cell/strategy/memory.pickle in https://pytorch.org/memory_viz"
    )
