"""Runs that are asked to trace: the record is the same, the traces are in the store, and no cell is stale by it."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compbench.errors import StoreError
from compbench.measure.tracing import ROLES
from compbench.run import cell as cell_module
from compbench.run import files, tracing
from compbench.run.cell import main, run_cell
from compbench.run.cell_process import CellJob
from compbench.run.node import run_on_node
from compbench.run.progress import Progress
from compbench.run.result import CellResult
from compbench.run.runner import RunOptions, RunOutcome, SuiteRunner
from compbench.run.slots import Slot
from compbench.run.store import Store
from compbench.run.trace_folder import take_trace, untraced
from compbench.suite.cell import Cell, PluginReference
from tests.run import fake_cells, test_cell
from tests.run.comparing import work_of
from tests.run.fake_suites import FakeRegistry, make_cell, make_suite

LASER = ("laser", {"rank": 4, "max_rank": 8})
SMALL = PluginReference(
    name="trm_maze",
    fields={"grid": 5, "hidden": 32, "heads": 2, "inner": 96, "train_mazes": 16, "validation_mazes": 8},
)


def cell(*strategy: tuple[str, dict[str, object]], **training: object) -> Cell:
    made = test_cell.cell(*strategy, **({"steps": 4} | training))
    return made.model_copy(update={"workload": SMALL, "depth": 2})


# ---------------------------------------------------------------- one cell


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The records of one cell without and with a trace, and the folder of the trace."""
    folder = tmp_path_factory.mktemp("cell")
    records = []
    (folder / "spec").write_text(cell(LASER).model_dump_json())
    for options in ([], ["--trace", str(folder / "trace"), "--trace-steps", "2"]):
        assert main([str(folder / "spec"), str(folder / "out"), *options]) == 0
        records.append(json.loads((folder / "out").read_text()))
    return *records, folder / "trace"


def test_the_record_of_a_traced_cell_is_that_of_one_that_is_not(traced: tuple[Any, Any, Path]) -> None:
    without, with_trace, _ = traced
    assert without["status"] == "ok"
    assert {"memory", "fidelity", "arithmetic", "loss_curve", "weights_hash"} <= set(work_of(without))
    assert work_of(with_trace) == work_of(without)
    assert set(with_trace["time"]) == set(without["time"])


def test_a_trace_is_of_the_trained_strategy_and_names_no_folder(traced: tuple[Any, Any, Path]) -> None:
    record, _, folder = traced
    description = json.loads((folder / "trace.json").read_text())
    assert (description["status"], description["key"]) == ("ok", record["key"])
    assert description["trained_steps"] == len(record["loss_curve"]) == 4
    assert description["trace"]["strategy"]["steps"] == description["asked_steps"] == 2
    assert str(folder.parent) not in (folder / "trace.json").read_text()
    for role in ROLES:
        with gzip.open(folder / description["trace"][role]["file"], "rt") as file:
            names = [event["name"] for event in json.load(file)["traceEvents"]]
        assert names.count(f"step: {role}") == 2
    encoded = {name.rpartition(" ")[2] for name in names if name.startswith("compbench::laser encode ")}
    assert encoded == {site["name"] for site in record["memory"]["sites"] if not site["reason"]}


def test_the_record_is_there_before_anything_is_traced_and_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        assert CellResult.model_validate_json((tmp_path / "out").read_text()).status == "ok"
        raise KeyboardInterrupt

    monkeypatch.setattr(tracing, "trace_prepared", killed)
    (tmp_path / "spec").write_text(cell(("none", {}), steps=2).model_dump_json())
    with pytest.raises(KeyboardInterrupt):
        main([str(tmp_path / "spec"), str(tmp_path / "out"), "--trace", str(tmp_path / "trace")])
    assert CellResult.model_validate_json((tmp_path / "out").read_text()).status == "ok"


def test_a_trace_that_fails_leaves_the_record_as_it_is_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracing, "trace_steps", full)
    (tmp_path / "spec").write_text(cell(("none", {}), steps=2).model_dump_json())
    assert main([str(tmp_path / "spec"), str(tmp_path / "out"), "--trace", str(tmp_path / "trace")]) == 0
    assert CellResult.model_validate_json((tmp_path / "out").read_text()).status == "ok"
    found = take_trace(tmp_path / "trace")
    assert untraced(found) == "failed: OSError: [Errno 28] No space left on device"


def test_only_a_cell_that_ended_well_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[CellResult] = []
    diverging = cell(("none", {}), learning_rate=1e30, gradient_clip=None, steps=20)
    assert run_cell(diverging, then=lambda result, prepared: called.append(result)).status == "diverged"
    assert called == []
    result = run_cell(cell(("none", {}), steps=2), then=lambda result, prepared: called.append(result))
    assert called == [result]


def test_the_session_is_open_while_what_follows_is_done() -> None:
    def steps_on(result: CellResult, prepared: Any) -> None:
        with prepared.session.step():
            prepared.step.loss(prepared.step.batch(prepared.data.train, prepared.order[0])).backward()
        stepped.append(prepared.session.steps)

    stepped: list[int] = []
    assert run_cell(cell(("int8", {}), steps=2), then=steps_on).status == "ok"
    assert len(stepped) == 1


def test_other_cells_pause_while_steps_are_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Turns:
        @classmethod
        def inherited(cls) -> Turns:
            return cls()

        def alone(self) -> Any:
            return self

        def __enter__(self) -> bool:
            order.append("alone")
            return False

        def __exit__(self, *_: object) -> None:
            order.append("together")

    monkeypatch.setattr(tracing, "Turns", Turns)
    plain = tracing.trace_steps
    monkeypatch.setattr(tracing, "trace_steps", lambda *given: order.append("traced") or plain(*given))
    found = tracing.trace_cell(cell(("int8", {})), tmp_path, tracing.TraceSettings(1), 1)
    assert order == ["alone", "traced", "together"]
    assert found.alone is False


# ---------------------------------------------------------------- whole runs


class Runs:
    """Runs suites of fake cells into one folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.warnings: list[str] = []
        self.command: Callable[[Path, Path], list[str]] = fake_cells.command

    def run(self, suite: Any, **options: Any) -> RunOutcome:
        runner = SuiteRunner(
            suite,
            FakeRegistry(),
            RunOptions(results=self.results, **({"jobs": 2} | options)),
            lambda plan: Progress(plan, io.StringIO()),
            self.warnings.append,
            command=self.command,
            grace_seconds=0.3,
        )
        return runner.run()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "results")


def test_the_traces_of_a_run_are_in_its_folder_by_key(runs: Runs) -> None:
    outcome = runs.run(make_suite("is_traced", seeds=(0, 1)), trace_steps=3)
    assert outcome.exit_status == 0
    assert runs.warnings == []
    folder = runs.results / "fake" / "traces"
    assert outcome.traces == {cell.key: folder / cell.key for cell in outcome.selected}
    for made in outcome.traces.values():
        found = {path.relative_to(made).as_posix(): path.read_text() for path in made.rglob("*") if path.is_file()}
        assert found == {
            "strategy/strategy.pt.trace.json.gz": "3 steps",
            "trace.json": '{"status": "ok", "reason": ""}',
        }


def test_nothing_is_traced_unasked(runs: Runs) -> None:
    outcome = runs.run(make_suite("is_traced"))
    assert outcome.traces == {}
    assert not (runs.results / "fake" / "traces").exists()


def test_a_traced_run_leaves_no_cell_to_do_and_no_record_to_tell_it_by(runs: Runs) -> None:
    suite = make_suite("is_traced", seeds=(0, 1))
    keys = [cell.key for cell in runs.run(suite, trace_steps=3).selected]
    store = Store(runs.results / "fake")
    records = {path.name: path.read_text() for path in (store.directory / "cells").iterdir()}
    assert not any("trace" in text.replace("is_traced", "") for text in records.values())
    for options in ({}, {"trace_steps": 3}):
        again = runs.run(suite, **options)
        assert again.ran == 0
        assert again.traces == {}
        assert again.leftovers == []
        assert [cell.key for cell in again.selected] == keys
    assert {path.name: path.read_text() for path in (store.directory / "cells").iterdir()} == records
    assert store.suite().command == ""  # the command that makes the same results does not trace


def test_a_trace_takes_the_place_of_an_earlier_one(runs: Runs) -> None:
    suite = make_suite("is_traced")
    (folder,) = runs.run(suite, trace_steps=3).traces.values()
    (folder / "strategy" / "memory.pickle").write_bytes(b"of an earlier one")
    runs.run(suite, trace_steps=2, rerun="all")
    assert (folder / "strategy" / "strategy.pt.trace.json.gz").read_text() == "2 steps"
    assert not (folder / "strategy" / "memory.pickle").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("cannot_be_traced", "failed: No space left on device ("),
        ("dies_while_it_is_traced", "its process has ended before ("),
        ("ok", "its process has ended before ("),
    ],
)
def test_a_cell_without_a_trace_is_ok_and_told_of(runs: Runs, does: str, told: str) -> None:
    outcome = runs.run(make_suite(does), trace_steps=3)
    assert outcome.statuses == {"ok": 1}
    assert outcome.traces == {}
    (warning,) = runs.warnings
    assert warning.startswith(f"there is no trace of laser does={does} depth 4 seed 0: {told}")
    assert Path(warning.rpartition("(")[2].removesuffix(")")).is_file()
    assert not (runs.results / "fake" / "traces").exists()


def test_no_trace_is_kept_of_a_cell_that_is_not_ok(runs: Runs) -> None:
    outcome = runs.run(make_suite("fails_and_has_a_trace", "raises"), trace_steps=3)
    assert outcome.statuses == {"diverged": 1, "crashed": 1}
    assert (outcome.traces, runs.warnings) == ({}, [])


def test_the_trace_of_a_cell_that_the_suite_has_no_more_is_left_and_named(runs: Runs) -> None:
    key = runs.run(make_suite("is_traced", seeds=(7,)), trace_steps=3).selected[0].key
    (runs.results / "fake" / "cells" / f"{key}.json").unlink()
    assert runs.run(make_suite("is_traced")).leftovers == [key]


def test_a_trace_comes_back_from_another_machine_with_the_record() -> None:
    job = CellJob(make_cell("is_traced"), Slot("there", 1), command=fake_cells.command, trace_steps=4)
    came = pickle.loads(pickle.dumps(run_on_node(pickle.loads(pickle.dumps(job)), None)))
    assert came.end.record is not None
    assert came.end.trace["strategy/strategy.pt.trace.json.gz"] == b"4 steps"
    assert run_on_node(replace(job, trace_steps=0), None).end.trace is None


# ---------------------------------------------------------------- folders of traces


def test_a_trace_that_was_not_finished_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    assert take_trace(folder) is None
    folder.mkdir()
    (folder / "strategy.pt.trace.json.gz").write_bytes(b"half")
    assert take_trace(folder) is None
    assert not folder.exists()


def test_a_file_that_is_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compbench.run.trace_folder.LARGEST_BYTES", 5)
    (tmp_path / "trace").mkdir()
    for name, size in (("trace.json", 2), ("small", 5), ("large", 6)):
        (tmp_path / "trace" / name).write_bytes(b"x" * size)
    assert sorted(take_trace(tmp_path / "trace")) == ["small", "trace.json"]


@pytest.mark.parametrize("description", [b"{", b"[]", b"{}", b"\xff"])
def test_a_description_that_can_not_be_read_is_no_trace(description: bytes) -> None:
    assert untraced({"trace.json": description}) == "its description can't be read"


def test_a_folder_is_replaced_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.save_trace("key", {"a/b": b"1", "c": b"2"})
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "c":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"can't write trace .*/traces/key: No space left on device"):
        store.save_trace("key", {"a/b": b"3", "c": b"4"})
    monkeypatch.undo()
    found = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"traces/key/a/b": b"1", "traces/key/c": b"2"}


def test_what_a_killed_run_left_of_a_folder_is_removed_later(tmp_path: Path) -> None:
    left = tmp_path / ".key.0123.tmp"
    (left / "strategy").mkdir(parents=True)
    (left / "strategy" / "half").write_bytes(b"x")
    files.remove_abandoned(tmp_path)
    assert left.exists()  # it may be somebody's still
    files.remove_abandoned(tmp_path, age_seconds=time.time() - left.stat().st_mtime - 1)
    assert not left.exists()


def test_the_cell_module_needs_no_profiler_of_its_own() -> None:
    assert not hasattr(cell_module, "tracing")
    assert "compbench.run.tracing" in sys.modules
