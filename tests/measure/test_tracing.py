"""Traces of steps: times add up, operators are where they belong, and the files are what viewers read."""

from __future__ import annotations

import gzip
import json
import time as clock
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compbench.capture.entry import Entry
from compbench.capture.saving import Saver
from compbench.measure.timing import PHASES
from compbench.measure.tracing import KINDS, PHASE_LABEL, ROLES, Trace, kind_of, trace_steps
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
def trace(folder: Path, encoded: list[str]) -> Trace:
    step, batch = parts(calls=2)
    with session_of(step, Extra()) as session:
        with session.step():
            step.loss(batch).backward()
        encoded += [site.name for site in session.sites() if not site.reason for _ in range(site.calls)]
        found = trace_steps(step, session, batch, STEPS, folder)
    assert all(parameter.grad is None for parameter in step.model.parameters())
    return found


def chrome(folder: Path, file: str) -> list[dict]:
    with gzip.open(folder / file, "rt") as opened:
        return json.load(opened)["traceEvents"]


def lasted(events: list[dict], name: str) -> float:
    """Milliseconds of all ranges of a name, for one step."""
    return sum(event["dur"] for event in events if event["name"] == name and event["ph"] == "X") / 1000 / STEPS


@pytest.mark.parametrize("role", ROLES)
def test_kinds_add_up_to_the_phases_and_phases_to_the_step(trace: Trace, folder: Path, role: str) -> None:
    found = getattr(trace, role)
    events = chrome(folder, found.file)
    for phase in PHASES:
        by_kind = sum(found.milliseconds(kind, phase) for kind in KINDS)
        assert by_kind == pytest.approx(lasted(events, f"{PHASE_LABEL}{phase}"), abs=1e-2)
    assert sum(found.milliseconds(kind) for kind in KINDS) == pytest.approx(found.traced_ms)
    assert 0 < found.traced_ms <= lasted(events, f"step: {role}") + 1e-2
    assert all(time.cpu_ms >= 0 for time in found.times)


@pytest.mark.parametrize("role", ROLES)
def test_a_trace_has_the_steps_of_its_role_alone_and_names_its_processes(trace: Trace, folder: Path, role: str) -> None:
    events = chrome(folder, getattr(trace, role).file)
    names = [event["name"] for event in events]
    (other,) = set(ROLES) - {role}
    assert names.count(f"step: {role}") == STEPS
    assert names.count(f"step: {other}") == 0
    assert sum(name.startswith("ProfilerStep#") for name in names) == STEPS
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
    names = {event["name"] for event in chrome(folder, trace.strategy.file)}
    assert {f"encode {name}" for name in encoded} <= names
    assert not any(event["name"].startswith("encode ") for event in chrome(folder, trace.plain.file))


def test_nothing_is_labelled_once_tracing_is_over(trace: Trace) -> None:
    assert Saver._encode.__module__ == "compbench.capture.saving"
    assert not hasattr(Saver._encode, "__wrapped__")
    assert not hasattr(Entry._decoded, "__wrapped__")


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
    # Six steps in all: of one pair that warms up and one that counts, timed, traced for memory, and traced.
    per_step = 1000 * sum(slept) / 6
    assert per_step >= 10
    assert trace.strategy.milliseconds("python_and_engine", "forward") >= per_step
    assert trace.strategy.works[0].cpu_ms >= per_step


def test_without_a_session_both_steps_are_plain(tmp_path: Path) -> None:
    step, batch = parts(calls=1)
    trace = trace_steps(step, None, batch, 1, tmp_path)
    counts = [{(t.phase, t.kind, t.operator): t.calls for t in found.times} for found in (trace.plain, trace.strategy)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("aten::addmm", "matrix_products"),
        ("aten::convolution_backward", "matrix_products"),
        ("aten::mkldnn_convolution", "matrix_products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::silu_backward", "elementwise"),
        ("aten::mul_", "elementwise"),
        ("aten::native_layer_norm_backward", "norms"),
        ("aten::linalg_vector_norm", "norms"),
        ("aten::normal_", "random_numbers"),
        ("aten::_softmax", "reductions"),
        ("aten::mean", "reductions"),
        ("aten::_linalg_eigh", "decompositions"),
        ("aten::linalg_svd", "decompositions"),
        ("aten::linalg_vecdot", "matrix_products"),
        ("aten::topk", "indexing_and_sorting"),
        ("aten::copy_", "copies_and_casts"),
        ("aten::_to_copy", "copies_and_casts"),
        ("aten::empty_strided", "memory"),
        ("aten::fill_", "memory"),
        ("aten::transpose", "views"),
        ("aten::promote_types", "other_operators"),
        ("mine::unheard_of", "other_operators"),
        ("cudaLaunchKernel", "device_calls"),
        ("CompiledFunctionBackward", "compiled_code"),
        ("autograd::engine::evaluate_function: MulBackward0", None),
        ("torch::autograd::AccumulateGrad", None),
        ("MulBackward0", None),
        ("profiler::_record_function_exit", None),
    ],
)
def test_kinds_of_operators(event: str, kind: str | None) -> None:
    assert kind_of(event) == kind
