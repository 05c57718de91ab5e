"""Traces of steps: times add up, operators are where they belong, and the files are what viewers read."""

from __future__ import annotations

import gzip
import json
import pickle
import time as clock
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent

from compbench.capture.saving import Saver
from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.measure import trace_files, tracing
from compbench.measure.memory_history import MOST_ENTRIES, memory_history
from compbench.measure.operator_kinds import KINDS
from compbench.measure.regions import REGION_METHODS
from compbench.measure.step import Step
from compbench.measure.timing import PHASES
from compbench.measure.tracing import PHASE_LABEL, ROLES, Trace, trace_steps
from compbench.registry import Registry
from tests.capture import zoo
from tests.measure.test_passes import parts, session_of

STEPS = 2


class ExtraCodec(zoo.CopyCodec):
    def encode(self, rows: Tensor) -> zoo.Dense:
        for _ in range(3):
            torch.mm(torch.ones(300, 200), torch.ones(200, 100))
        return super().encode(rows)

    def end_step(self) -> None:
        torch.linalg.qr(torch.ones(40, 20))


class Extra(zoo.Copy):
    """Three matrix products for each storage that is encoded; a decomposition for each site at the end of a step."""

    name = "extra"

    def codec(self, site, generator):
        return ExtraCodec()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def encoded() -> list[str]:
    """The sites of all that was encoded in one step."""
    return []


@pytest.fixture(scope="module")
def ranges() -> dict[str, list[float]]:
    """Milliseconds of the labelled ranges among which operators are timed, by name."""
    return {}


@pytest.fixture(scope="module")
def trace(folder: Path, encoded: list[str], ranges: dict[str, list[float]]) -> Trace:
    operators = tracing._Profiled.operators

    def noted(profiled: tracing._Profiled, pairs: int) -> list[FunctionEvent]:
        events = operators(profiled, pairs)
        for event in events:
            if event.name.startswith(tracing.ROLE_LABEL):
                ranges.setdefault(event.name, []).append(event.time_range.elapsed_us() / 1000)
            if event.name.startswith(PHASE_LABEL):
                key = f"{event.cpu_parent.name} {event.name}"
                ranges.setdefault(key, []).append(event.time_range.elapsed_us() / 1000)
        return events

    step, batch = parts(calls=2)
    with session_of(step, Extra()) as session, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing._Profiled, "operators", noted)
        with session.step():
            step.loss(batch).backward()
        encoded += [site.name for site in session.sites() if not site.reason for _ in range(site.calls)]
        found = trace_steps(step, session, batch, STEPS, folder)
    assert all(parameter.grad is None for parameter in step.model.parameters())
    return found


def chrome(folder: Path, file: str) -> list[dict]:
    with gzip.open(folder / file, "rt") as opened:
        return json.load(opened)["traceEvents"]


@pytest.mark.parametrize("role", ROLES)
def test_kinds_add_up_to_the_phases_and_phases_to_the_step(
    trace: Trace, ranges: dict[str, list[float]], role: str
) -> None:
    found = getattr(trace, role)
    for phase in PHASES:
        by_kind = sum(found.milliseconds(kind, phase) for kind in KINDS)
        lasted = ranges[f"step: {role} {PHASE_LABEL}{phase}"]
        assert len(lasted) == STEPS
        assert by_kind == pytest.approx(sum(lasted) / STEPS, abs=1e-2)
    assert sum(found.milliseconds(kind) for kind in KINDS) == pytest.approx(found.traced_ms)
    assert 0 < found.traced_ms <= sum(ranges[f"step: {role}"]) / STEPS + 1e-2
    assert all(time.cpu_ms >= 0 for time in found.times)


@pytest.mark.parametrize("role", ROLES)
def test_a_trace_has_the_steps_of_its_role_alone_and_names_its_processes(trace: Trace, folder: Path, role: str) -> None:
    events = chrome(folder, getattr(trace, role).file)
    names = [event["name"] for event in events]
    (other,) = set(ROLES) - {role}
    assert names.count(f"step: {role}") == STEPS
    assert names.count(f"step: {other}") == 0
    assert [name for name in names if name.startswith("ProfilerStep#")] == ["ProfilerStep#0", "ProfilerStep#1"]
    for phase in PHASES:
        assert names.count(f"{PHASE_LABEL}{phase}") == STEPS
    assert "process_name" in names


def test_matrix_products_of_a_strategy_are_in_its_forward_pass(trace: Trace, encoded: list[str]) -> None:
    def calls(role: str, phase: str) -> float:
        times = getattr(trace, role).times
        return sum(t.calls for t in times if (t.operator, t.kind, t.phase) == ("aten::mm", "matrix_products", phase))

    assert calls("strategy", "forward") - calls("plain", "forward") == 3 * len(encoded) > 0
    assert calls("strategy", "update") == calls("plain", "update") == 0


def test_a_decomposition_is_one_with_all_that_it_calls(trace: Trace, encoded: list[str]) -> None:
    (qr,) = (time for time in trace.strategy.times if time.operator == "aten::linalg_qr")
    assert (qr.phase, qr.kind, qr.calls) == ("update", "decompositions", len(set(encoded)))
    parts_of_it = [t for t in trace.strategy.times if t.phase == "update" and t.operator == "aten::triu"]
    assert {time.kind for time in parts_of_it} == {"decompositions"}
    assert trace.plain.milliseconds("decompositions") == 0


def test_what_a_session_does_is_labelled_by_site(trace: Trace, folder: Path, encoded: list[str]) -> None:
    encodings = {work.what: work.calls for work in trace.strategy.works if work.work == "encode"}
    assert encodings == {name: encoded.count(name) for name in encoded}
    assert {work.what for work in trace.strategy.works if work.work == "end of step"} == set(encoded)
    assert trace.plain.works == ()
    (saving,) = (work for work in trace.strategy.works if work.work == "save")
    assert saving.cpu_ms > sum(work.cpu_ms for work in trace.strategy.works if work.work == "encode")
    assert {work.strategy for work in trace.strategy.works} == {"extra"}
    assert not any(event["name"].startswith("compbench::") for event in chrome(folder, trace.plain.file))


UNTRACED = [getattr(owner, method) for owner, method in REGION_METHODS]


def test_a_step_that_is_not_traced_runs_the_very_functions_that_it_would_without_this_module(trace: Trace) -> None:
    assert trace.strategy.works
    assert [getattr(owner, method) for owner, method in REGION_METHODS] == UNTRACED
    assert not any(hasattr(method, "__wrapped__") for method in UNTRACED)


def test_regions_end_with_an_error_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no")

    step, batch = parts(calls=1)
    monkeypatch.setattr(tracing._Profiled, "in_detail", fails)
    with session_of(step, zoo.Half()) as session, pytest.raises(RuntimeError, match="no"):
        trace_steps(step, session, batch, 1, tmp_path)
    assert [getattr(owner, method) for owner, method in REGION_METHODS] == UNTRACED
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- regions


@dataclass(frozen=True)
class Range:
    """A range of a trace."""

    name: str
    start: float
    end: float
    thread: int

    def within(self, other: Range) -> bool:
        return other.start <= self.start and self.end <= other.end and self != other


def ranges_of(events: list[dict]) -> list[Range]:
    found = [e for e in events if e["ph"] == "X" and e["cat"] in ("cpu_op", "user_annotation")]
    return [Range(e["name"], e["ts"], e["ts"] + e["dur"], e["tid"]) for e in found]


def nested(ranges: list[Range]) -> dict[Range, list[Range]]:
    """The ranges around each, the innermost last; those of one thread lie within each other or apart."""
    around: dict[Range, list[Range]] = {}
    for thread in {each.thread for each in ranges}:
        open_ones: list[Range] = []
        own = sorted((r for r in ranges if r.thread == thread), key=lambda r: (r.start, -r.end))
        for each in own:
            while open_ones and open_ones[-1].end <= each.start:
                open_ones.pop()
            assert not open_ones or each.end <= open_ones[-1].end + 1e-3, (each, open_ones[-1])
            around[each] = list(open_ones)
            open_ones.append(each)
    return around


COUNTS: Counter[tuple[str, str]] = Counter()


class CountedPayload(zoo.HalfPayload):
    def __init__(self, rows: Tensor, site: str) -> None:
        super().__init__(rows)
        self.site = site

    def decode(self) -> Tensor:
        COUNTS["decode", self.site] += 1
        return super().decode()


class CountedCodec(zoo.HalfCodec):
    def __init__(self, site: str) -> None:
        self.site = site

    def encode(self, rows: Tensor) -> CountedPayload:
        COUNTS["encode", self.site] += 1
        return CountedPayload(rows, self.site)


class Counted(zoo.Half):
    """Keeps float16, and counts what it is asked for."""

    name = "counted"

    def codec(self, site, generator):
        return CountedCodec(site.name)


@pytest.mark.parametrize("routes", ["hooks", "operators"])
def test_every_encoding_and_decoding_has_its_region_in_the_phase_where_it_happens(tmp_path: Path, routes: str) -> None:
    step, batch = parts(calls=3)
    with Session(step.model, Counted(), CaptureSettings(minimum_elements=16, routes=routes)) as session:
        COUNTS.clear()
        with session.step():
            step.loss(batch).backward()
        counts = dict(COUNTS)  # by the codecs and payloads themselves, in one step
        packs = {site.name: site.calls for site in session.sites() if not site.reason}
        trace = trace_steps(step, session, batch, STEPS, tmp_path)
    assert {site: calls for (work, site), calls in counts.items() if work == "encode"} == packs
    assert len(packs) >= 2
    around = nested(ranges_of(chrome(tmp_path, trace.strategy.file)))
    for (work, site), calls in counts.items():
        found = [each for each in around if each.name == f"compbench::counted {work} {site}"]
        assert len(found) == STEPS * calls, (work, site)
        phase = {"encode": "phase: forward", "decode": "phase: backward"}[work]
        for each in found:
            outside = [outer.name for outer in around[each]]
            assert outside.count(phase) == 1
            assert "step: strategy" in outside
            assert ("compbench::counted save" in outside) == (work == "encode")
    if routes == "hooks":  # nothing follows from anything else: what is encoded is decoded once
        assert {site: calls for (work, site), calls in counts.items() if work == "decode"} == packs


def traced_under(strategy: object, folder: Path, calls: int = 2) -> tuple[Trace, list[str], dict[Range, list[Range]]]:
    """The trace of steps under a strategy that has settled, the sites where it encodes, and all ranges."""
    step, batch = parts(calls=calls)
    settings = CaptureSettings(minimum_elements=16, routes="operators")
    with Session(step.model, Registry.load().compressor(strategy), settings) as session:
        for _ in range(2):
            with session.step():
                step.loss(batch).backward()
        sites = [site.name for site in session.sites() if not site.reason for _ in range(site.calls)]
        trace = trace_steps(step, session, batch, 1, folder)
    return trace, sites, nested(ranges_of(chrome(folder, trace.strategy.file)))


def test_members_of_a_chain_have_regions_of_their_own_within_that_of_the_chain(tmp_path: Path) -> None:
    trace, sites, around = traced_under([{"laser": {"rank": 8, "max_rank": 8}}, "int8"], tmp_path)
    for name in set(sites):
        encoded = [each for each in around if each.name == f"compbench::laser+int8 encode {name}"]
        assert len(encoded) == sites.count(name)
        for member in ("laser", "int8"):
            own = [each for each in around if each.name == f"compbench::{member} encode {name}"]
            assert len(own) == len(encoded)
            assert all(any(outer in around[each] for outer in encoded) for each in own)
        # Coefficients are decoded in the backward pass, whether rows are rebuilt of them or not.
        decoded = [each for each in around if each.name == f"compbench::int8 decode {name}"]
        assert len(decoded) >= len(encoded)
        assert all("phase: backward" in [outer.name for outer in around[each]] for each in decoded)
    # What is within another work of its kind is not counted again.
    works = {(work.strategy, work.work) for work in trace.strategy.works}
    assert {strategy for strategy, work in works if work == "encode"} == {"laser+int8"}
    assert {("laser+int8", "weight gradient"), ("int8", "decode")} <= works


def test_a_site_has_the_name_of_the_strategy_that_has_it(tmp_path: Path) -> None:
    strategy = {"sites": {"*": "int8", "width:96": {"laser": {"rank": 8, "max_rank": 8}}}}
    trace, sites, around = traced_under(strategy, tmp_path)
    assert any("_96" in name for name in sites)
    assert any("_96" not in name for name in sites)
    for name in set(sites):
        owner, other = ("laser", "int8") if name.endswith("_96") else ("int8", "laser")
        regions = [
            each.name for each in around if each.name.startswith("compbench::") and each.name.endswith(f" {name}")
        ]
        assert regions.count(f"compbench::{owner} encode {name}") == sites.count(name)
        assert not any(each.startswith(f"compbench::{other} ") for each in regions)
        uses = {f"compbench::{owner} {work} {name}" for work in ("decode", "weight gradient")}
        assert uses & set(regions)
    works = {(work.strategy, work.work) for work in trace.strategy.works}
    assert {("laser", "encode"), ("int8", "encode"), ("int8", "decode"), ("laser", "end of step")} <= works


# ---------------------------------------------------------------- what is in a file


@pytest.mark.parametrize("role", ROLES)
def test_a_trace_has_shapes_and_memory_and_says_nothing_of_where_it_was_made(
    trace: Trace, folder: Path, role: str
) -> None:
    found = getattr(trace, role)
    path = folder / found.file
    assert path.stat().st_size == found.file_bytes
    whole = json.loads(gzip.decompress(path.read_bytes()))
    events = whole["traceEvents"]
    assert len(events) == found.events
    assert (whole["record_shapes"], whole["profile_memory"]) == (1, 1)
    assert not {"host_name", "traceName"} & set(whole)
    assert str(folder) not in json.dumps(whole)
    shapes = [e["args"]["Input Dims"] for e in events if e["name"] == "aten::mm"]
    assert shapes
    assert all(len(left) == len(right) == 2 and left[1] == right[0] for left, right, *_ in shapes)
    memory = [e["args"] for e in events if e["name"] == "[memory]"]
    assert {e["Device Type"] for e in memory} == {0}
    # Whatever a step allocates it frees, but for the gradients, which are freed before the next one.
    given = sum(e["Bytes"] for e in memory if e["Bytes"] > 0)
    taken = -sum(e["Bytes"] for e in memory if e["Bytes"] < 0)
    assert given == pytest.approx(taken, rel=0.2)
    assert max(e["Total Allocated"] for e in memory) > 48 * 64 * 4  # at least one activation


def test_fewer_steps_are_traced_where_a_file_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, batch = parts(calls=1)
    with session_of(step, zoo.Half()) as session:
        one = trace_steps(step, session, batch, 1, tmp_path / "one")
        monkeypatch.setattr(tracing, "MOST_EVENTS", int(2.5 * one.strategy.events))
        two = trace_steps(step, session, batch, 5, tmp_path / "two")
        monkeypatch.setattr(tracing, "MOST_EVENTS", 10)
        least = trace_steps(step, session, batch, 5, tmp_path / "least")
    assert (one.strategy.steps, two.strategy.steps, least.strategy.steps) == (1, 2, 1)
    assert two.plain.steps == 2
    assert one.strategy.events < two.strategy.events <= 2.5 * one.strategy.events
    assert [e["name"] for e in chrome(tmp_path / "two", two.plain.file)].count("step: plain") == 2


def test_stacks_are_noted_when_they_are_asked_for(tmp_path: Path) -> None:
    step, batch = parts(calls=1)
    with session_of(step, zoo.Half()) as session:
        trace = trace_steps(step, session, batch, 1, tmp_path, stacks=True)
    assert trace.stacks
    # The times are of steps without them, and without shapes and memory.
    assert all(time.operator == "" or "::" in time.operator or "detach" in time.operator for time in trace.plain.times)
    functions = {e["name"] for e in chrome(tmp_path, trace.strategy.file) if e.get("cat") == "python_function"}
    assert any("compbench/capture/saving.py" in name and name.endswith(": pack") for name in functions)
    assert any(name.startswith("nn.Module: GatedMLP") for name in functions)


def test_a_trace_that_torch_could_not_write_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(folder: str, worker_name: str) -> object:
        return lambda profiler: (Path(folder) / f"{worker_name}.1.pt.trace.json").write_text('{"traceEvents": [{"na')

    monkeypatch.setattr(trace_files, "tensorboard_trace_handler", cut_off)
    step, batch = parts(calls=1)
    with pytest.raises(OSError, match="is the disk full"):
        trace_steps(step, None, batch, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- a GPU's memory


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What torch is asked to do with the history of a GPU's memory, one after the other."""
    calls: list[object] = []

    def record(enabled: str | None = "all", **options: object) -> None:
        calls.append(("off",) if enabled is None else ("on", options))

    def dump(filename: str) -> None:
        calls.append(("dump", Path(filename).name))
        Path(filename).write_bytes(b"snapshot")

    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", record)
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    return calls


def test_a_memory_history_is_bounded_written_whole_and_switched_off(tmp_path: Path, recorded: list[object]) -> None:
    with memory_history(tmp_path / "memory.pickle"):
        recorded.append("step")
    on = ("on", {"max_entries": MOST_ENTRIES, "stacks": "python"})
    assert recorded == [on, "step", ("dump", ".memory.pickle.tmp"), ("off",)]
    assert [path.name for path in tmp_path.iterdir()] == ["memory.pickle"]
    assert 1_000 <= MOST_ENTRIES <= 1_000_000


def test_a_memory_history_is_switched_off_by_an_error_and_leaves_nothing(
    tmp_path: Path, recorded: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="in the step"), memory_history(tmp_path / "memory.pickle"):
        raise RuntimeError("in the step")
    assert [each[0] for each in recorded] == ["on", "off"]

    def full(filename: str) -> None:
        Path(filename).write_bytes(b"snap")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", full)
    with pytest.raises(OSError, match="No space left"), memory_history(tmp_path / "memory.pickle"):
        pass
    assert [each[0] for each in recorded] == ["on", "off", "on", "off"]
    assert list(tmp_path.iterdir()) == []


def test_a_trace_on_a_gpu_has_the_history_of_one_step_more(
    tmp_path: Path, recorded: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, batch = parts(calls=1)
    on_cpu = trace_steps(step, None, batch, 1, tmp_path)
    assert (on_cpu.memory_snapshot, recorded) == ("", [])
    steps: list[str] = []
    plain_step = tracing._labelled_step

    def step_noted(role: str, *arguments: object) -> None:
        steps.append(role if not recorded or recorded[-1] == ("off",) else f"{role} recorded")
        plain_step(role, *arguments)

    monkeypatch.setattr(tracing, "_labelled_step", step_noted)
    monkeypatch.setattr(tracing, "_has_allocator", lambda step: True)
    trace = trace_steps(step, None, batch, 1, tmp_path)
    assert trace.memory_snapshot == "strategy/memory.pickle"
    assert (tmp_path / trace.memory_snapshot).read_bytes() == b"snapshot"
    assert steps[-1] == "strategy recorded"
    assert not any(each.endswith("recorded") for each in steps[:-1])


@pytest.mark.gpu
def test_a_trace_on_cuda_has_kernels_and_a_snapshot_with_python_stacks(tmp_path: Path) -> None:
    on_cpu, _ = parts(calls=2)
    step = Step(on_cpu.workload, on_cpu.model.cuda(), torch.device("cuda"))
    batch = step.batch(on_cpu.workload.data(0).train, slice(48))
    with session_of(step, zoo.Half()) as session:
        trace = trace_steps(step, session, batch, 2, tmp_path)
    events = chrome(tmp_path, trace.strategy.file)
    assert any(event.get("cat") == "kernel" for event in events)
    assert trace.strategy.milliseconds(device=True) > 0
    snapshot = pickle.loads((tmp_path / trace.memory_snapshot).read_bytes())
    entries = [entry for device in snapshot["device_traces"] for entry in device]
    assert 0 < len(entries) <= MOST_ENTRIES
    assert any(frame["filename"].endswith("saving.py") for entry in entries for frame in entry["frames"])


def test_time_that_a_session_takes_within_an_operator_is_not_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = Saver._reason

    def slow(self: Saver, tensor: Tensor, carries_gradient: bool) -> str:
        clock.sleep(0.01)
        slept.append(0.01)
        return reason(self, tensor, carries_gradient)

    slept: list[float] = []
    monkeypatch.setattr(Saver, "_reason", slow)
    step, batch = parts(calls=1)
    with session_of(step, zoo.Copy()) as session:
        trace = trace_steps(step, session, batch, 1, tmp_path)
    # Of one pair that warms up and one that counts: timed, traced and forgotten, for the files, and for the times.
    per_step = 1000 * sum(slept) / 8
    assert per_step >= 10
    assert trace.strategy.milliseconds("python_and_engine", "forward") >= per_step
    assert trace.strategy.works[0].cpu_ms >= per_step


def test_without_a_session_both_steps_are_plain(tmp_path: Path) -> None:
    step, batch = parts(calls=1)
    trace = trace_steps(step, None, batch, 1, tmp_path)
    counts = [{(t.phase, t.kind, t.operator): t.calls for t in found.times} for found in (trace.plain, trace.strategy)]
    assert counts[0] == counts[1]
